"""A small state, and how the tests save it and look at what came back."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.checkpoints import CheckpointConfig, CheckpointStore

ONCE = {"w": jnp.arange(4096, dtype=jnp.float32).reshape(64, 64), "b": jnp.ones(3)}


def open_store(folder, said=None, paused=None, **config):
    """Opened for training; `said` and `paused` collect the lines and the pauses."""
    return CheckpointStore(
        folder,
        CheckpointConfig(**config),
        on_message=([] if said is None else said).append,
        sleep=([] if paused is None else paused).append,
    )


def save(store, step, params=None, *, opt=None, validation_loss=None):
    """Begin to save params, by default those that `assert_restored` looks for."""
    store.save(
        step,
        params=jax.tree.map(lambda leaf: leaf + step, ONCE) if params is None else params,
        opt={"count": jnp.int32(step)} if opt is None else opt,
        data={"next_row": 8 * step},
        meta={"step": step},
        validation_loss=validation_loss,
    )


def fill(folder, *steps, **config):
    """A folder with the checkpoints of these steps."""
    with open_store(folder, **({"keep_latest": 99} | config)) as store:
        for step in steps:
            save(store, step)


def assert_restored(folder, *steps):
    """Who opens the folder now finds exactly these steps, and restores each of them."""
    with CheckpointStore(folder) as store:
        assert store.steps() == list(steps)
        for step in steps:
            restored = store.restore(step, "params", asked(ONCE))
            for name, leaf in ONCE.items():
                np.testing.assert_array_equal(restored[name], leaf + step)
            assert store.restore_json("data", step) == {"next_row": 8 * step}


def asked(tree):
    """What a restore is asked for: shapes, dtypes and shardings."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def contents(folder, top="*"):
    """Every file under a folder, or under what is named like `top` in it, with what is in it."""
    files = [file for path in folder.glob(top) for file in [path, *path.rglob("*")]]
    return {str(file): file.read_bytes() for file in sorted(files) if file.is_file()}


def break_file(path, how):
    """Delete, truncate or flip one bit of a file; one of no bytes is deleted."""
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "deleted" or not content:
        return
    if how == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 3] ^= 16
    path.write_bytes(content)
