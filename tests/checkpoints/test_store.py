import errno
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.checkpoints import CheckpointConfig, CheckpointStore
from jaxllm.checkpoints import store as store_module
from jaxllm.checkpoints.store import flatten, unflatten
from jaxllm.optim import Adafactor, Adagrad, Adam, AdamW, Lion, Muon, Sgd
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.mesh import ParallelConfig

AXES = {"table": ("vocab", "embed"), "up": ("layers", "embed", "mlp"), "scale": ("embed",)}
SHAPES = {"table": (24, 16), "up": (3, 16, 8), "scale": (16,)}
ROLES = {"table": ("embedding", (0,), (1,)), "up": ("hidden", (1,), (2,)), "scale": ("scale",)}
SPECS = {name: WeightSpec(SHAPES[name], AXES[name], *ROLES[name]) for name in AXES}


def weights(layout=None, seed=0):
    """Random weights, each with the sharding that its axes have in the layout."""
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    if layout is None:
        return jax.tree.map(jnp.asarray, values)
    return {name: jax.device_put(values[name], layout.sharding(AXES[name])) for name in AXES}


def save(store, step, params=None, *, opt=None, validation_loss=None):
    store.save(
        step,
        params=weights() if params is None else params,
        opt={"count": jnp.int32(step)} if opt is None else opt,
        data={"next_row": 8 * step},
        meta={"step": step},
        validation_loss=validation_loss,
    )


def asked(tree):
    """What a restore is asked for: shapes, dtypes and shardings."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def assert_equal(tree, other):
    """Bit for bit."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for one, two in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert one.dtype == two.dtype
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


@pytest.mark.parametrize(
    ("config", "losses", "kept"),
    [
        ({"keep_latest": 2}, [None] * 6, [5, 6]),
        ({"keep_latest": 1, "keep_every": 2}, [None] * 6, [2, 4, 6]),
        ({"keep_latest": 1, "keep_best": 2}, [3.0, 1.0, 2.0, 5.0, 4.0, 6.0], [2, 3, 6]),
        # A checkpoint that was never scored is not among the best.
        ({"keep_latest": 1, "keep_best": 1}, [None, None, 2.0, 5.0, 4.0, 6.0], [3, 6]),
    ],
)
def test_what_is_kept(tmp_path, config, losses, kept):
    with CheckpointConfig(**config).build(tmp_path / "checkpoints") as store:
        for step, loss in enumerate(losses, start=1):
            save(store, step, {"w": jnp.zeros(2)}, validation_loss=loss)
        store.wait()
        assert store.steps() == kept
        assert store.latest_step() == kept[-1]
        assert store.restore_json("data", kept[0]) == {"next_row": 8 * kept[0]}
    with CheckpointStore(tmp_path / "checkpoints") as again:
        assert again.steps() == kept


def test_another_layout_restores_equal_values_where_it_wants_them(tmp_path):
    layouts = [
        ParallelConfig(layout="fsdp").build(),
        ParallelConfig(layout="fsdp", tensor=2).build(),
        ParallelConfig(layout="replicated").build(),
    ]
    params = weights(layouts[0])
    with CheckpointConfig(keep_latest=9).build(tmp_path) as store:
        for step, layout in enumerate(layouts, start=1):
            save(store, step, params)
            store.wait()
            target = asked(weights(layout, seed=1))
            restored = store.restore(step, "params", target)
            assert_equal(restored, weights())
            for name, leaf in restored.items():
                assert leaf.sharding.is_equivalent_to(target[name].sharding, leaf.ndim)
            params = restored


@pytest.mark.parametrize(
    "optimizer",
    [
        Sgd(learning_rate=0.1, momentum=0.9),
        Adagrad(learning_rate=0.1),
        Adam(learning_rate=0.1),
        AdamW(learning_rate=0.1, weight_decay=0.1),
        Adafactor(min_factored_size=2),
        Lion(learning_rate=0.1, mu_dtype="bfloat16"),
        Muon(),
    ],
    ids=lambda optimizer: optimizer.type,
)
def test_the_state_of_every_optimizer_comes_back(tmp_path, optimizer):
    transformation = optimizer.build(SPECS, total_steps=10)
    zeros = transformation.init(weights())
    # Random values: those of a first step are full of zeros, which would hide a mix-up.
    rng = np.random.default_rng(1)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(scale=99, size=leaf.shape)).astype(leaf.dtype), zeros
    )
    with CheckpointConfig().build(tmp_path) as store:
        save(store, 1, opt=state)
        store.wait()
        assert_equal(store.restore(1, "opt", asked(state)), state)


def test_a_save_in_flight_has_the_values_of_its_step(tmp_path):
    """The state is donated to the next step, and its memory overwritten, while it is written."""
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    params = {"w": jnp.zeros((512, 1024))}
    with CheckpointConfig(keep_latest=9).build(tmp_path) as store:
        for number in range(1, 4):
            params = step(params)
            save(store, number, params)
            for _ in range(3):
                params = step(params)
        store.wait()
        for number in range(1, 4):
            restored = store.restore(number, "params", asked(params))
            np.testing.assert_array_equal(restored["w"], 4 * (number - 1) + 1)


def test_other_shapes_are_listed_before_anything_is_read(tmp_path):
    with CheckpointConfig().build(tmp_path) as store:
        save(store, 1)
        store.wait()
        target = asked(weights())
        target["up"] = jax.ShapeDtypeStruct((3, 16, 9), jnp.float32)
        target["extra"] = target.pop("scale")
        with pytest.raises(ValueError, match="of another architecture") as refusal:
            store.restore(1, "params", target)
    assert str(refusal.value).splitlines()[1:4] == [
        "  extra: saved nothing, the config asks for (16,)",
        "  scale: saved (16,), the config asks for nothing",
        "  up: saved (3, 16, 8), the config asks for (3, 16, 9)",
    ]


def test_what_a_killed_save_left_behind_is_no_checkpoint_and_is_removed(tmp_path):
    with CheckpointConfig().build(tmp_path) as store:
        save(store, 1)
    leftover = tmp_path / "7.orbax-checkpoint-tmp"
    (leftover / "params.orbax-checkpoint-tmp").mkdir(parents=True)
    with CheckpointConfig().build(tmp_path) as store:
        assert store.steps() == [1]
        save(store, 2)
        store.wait()
        assert store.steps() == [1, 2]
    assert not leftover.exists()


def test_a_disk_without_room_is_one_clear_error_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(weights())) + 4
    with CheckpointConfig().build(tmp_path) as store:
        free = needed
        monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: usage(9, 9, free))
        save(store, 1)
        free = needed - 1
        with pytest.raises(OSError, match="MB free, but a checkpoint takes") as refusal:
            save(store, 2)
        assert refusal.value.errno == errno.ENOSPC
        store.wait()
        assert_equal(store.restore(1, "params", asked(weights())), weights())
    assert {path.name for path in tmp_path.iterdir()} == {"1"}


def test_a_refused_write_names_its_reason(tmp_path, monkeypatch):
    """TensorStore hides the errno in the text of a ValueError; other errors are left alone."""
    with CheckpointConfig().build(tmp_path) as store:
        for error, expected in (
            (ValueError("RESOURCE_EXHAUSTED [os_error_code='28']"), (OSError, "No space left")),
            (OSError(errno.EDQUOT, "quota"), (OSError, "quota exceeded")),
            (ValueError("a bug"), (ValueError, "a bug")),
        ):

            def fail(error=error):
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(store._manager, "wait_until_finished", fail)
                with pytest.raises(expected[0], match=expected[1]):
                    store.wait()


def test_flattened_trees_do_not_hang_on_classes():
    Pair = namedtuple("Pair", "first second")
    tree = (Pair(1, {"a": 2}), [3, None])
    flat = flatten(tree)
    assert flat == {"0.first": 1, "0.second.a": 2, "1.0": 3}
    assert unflatten(flat, tree) == tree
