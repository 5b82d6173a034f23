import errno
import os
import resource
import shutil
from collections import namedtuple
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.checkpoints import CheckpointConfig, CheckpointStore, commit
from jaxllm.checkpoints import writer as writer_module
from jaxllm.checkpoints.faults import PAUSES
from jaxllm.checkpoints.flat import flatten, unflatten
from jaxllm.optim import Adafactor, Adagrad, Adam, AdamW, Lion, Muon, Sgd
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.mesh import ParallelConfig

from .states import asked, assert_restored, contents, fill, open_store, save

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


def test_the_best_is_still_known_after_a_restart(tmp_path):
    config = {"keep_latest": 1, "keep_best": 1}
    for steps, losses in (((1, 2), (1.0, 2.0)), ((3, 4), (3.0, 4.0))):
        with open_store(tmp_path, **config) as store:
            for step, loss in zip(steps, losses, strict=True):
                save(store, step, validation_loss=loss)
    assert_restored(tmp_path, 1, 4)


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
        save(store, 1, weights(), opt=state)
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
        save(store, 1, weights())
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


@pytest.mark.parametrize(
    "name",
    [
        "7.orbax-checkpoint-tmp",
        "7.orbax-checkpoint-tmp-1700000000",
        "7.orbax-checkpoint-tmp-sealed",
        "1.orbax-checkpoint-tmp",
    ],
)
def test_what_a_killed_save_left_behind_is_no_checkpoint_and_is_removed(tmp_path, name):
    fill(tmp_path, 1)
    leftover = tmp_path / name
    (leftover / "params.orbax-checkpoint-tmp").mkdir(parents=True)
    (leftover / "MANIFEST").write_text("")
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [1]
    assert leftover.exists(), "who only reads removes nothing: a run may be writing it"
    with open_store(tmp_path) as store:
        assert not leftover.exists()
        assert store.steps() == [1]
    assert_restored(tmp_path, 1)


def test_a_step_has_its_name_only_when_the_manifest_is_there(tmp_path, monkeypatch):
    """Whatever kills a save before that leaves a temporary name."""
    seen = []

    def seal(folder):
        seen.append((sorted(path.name for path in tmp_path.iterdir()), folder.name))
        SEAL(folder)

    monkeypatch.setattr(commit, "_seal", seal)
    fill(tmp_path, 1)
    ((names, sealed),) = seen
    assert names == [sealed]
    assert sealed.startswith("1.orbax-checkpoint-tmp")
    assert_restored(tmp_path, 1)


@contextmanager
def disk_for(num_bytes):
    """A limit on the size of files stands in for the end of the disk, which needs no privilege."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LARGE = {"w": jnp.zeros((200, 200))}  # 160 kB


@pytest.mark.parametrize("num_bytes", [100, 30_000], ids=["the first files", "the arrays"])
@pytest.mark.parametrize("is_async", [True, False])
def test_a_disk_that_fills_ends_the_run_or_not_as_configured(tmp_path, num_bytes, is_async):
    fill(tmp_path, 1, 2)
    kept = steps_in(tmp_path)
    said = []
    store = open_store(tmp_path, said, is_async=is_async)
    with disk_for(num_bytes), pytest.raises(OSError, match="could not be written") as refusal:
        save_and_wait(store, 3, LARGE)
    assert refusal.value.errno == errno.EFBIG  # ENOSPC where it is the disk
    assert (said, steps_in(tmp_path)) == ([], kept)
    store.__exit__()

    with open_store(tmp_path, said, is_async=is_async, on_error="continue") as store:
        with disk_for(num_bytes):
            save(store, 3, LARGE)
            save(store, 4, LARGE)
            store._writer.settle_or_tell()
        assert steps_in(tmp_path) == kept
        assert [line.partition(":")[0] + ":" for line in said] == [
            f"step {step} was not saved, training goes on:" for step in (3, 4)
        ]
        assert os.strerror(errno.EFBIG) in said[0]
        with pytest.raises(OSError, match="could not be written"):
            store.wait()  # who waits wants the last step on disk
        save(store, 5)
        store.wait()
    assert_restored(tmp_path, 2, 5)
    assert {path.name for path in tmp_path.iterdir()} == {"2", "5"}


def steps_in(folder):
    """What is in complete checkpoints. Writes of a failed one may go on for a moment."""
    return contents(folder, "[0-9]")


def save_and_wait(store, step, params=None):
    save(store, step, params)
    store.wait()


def test_a_disk_without_room_is_one_clear_error_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(weights())) + 4
    free = needed
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, free))
    with open_store(tmp_path) as store:
        save(store, 1, weights())
        free = needed - 1
        with pytest.raises(OSError, match="MB free, but a checkpoint takes") as refusal:
            save(store, 2, weights())
        assert refusal.value.errno == errno.ENOSPC
        store.wait()
        assert_equal(store.restore(1, "params", asked(weights())), weights())
    assert {path.name for path in tmp_path.iterdir()} == {"1"}
    said = []
    with open_store(tmp_path, said, on_error="continue") as store:
        save(store, 2, weights())
        assert said[0].startswith("step 2 was not saved, training goes on: the disk has 0 MB free")
        free = needed
        save_and_wait(store, 3, weights())
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3"}


def failing(code, times):
    """What stands for `_seal`, the last thing before a checkpoint is one: refused so many times."""
    left = [times]

    def seal(folder):
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        SEAL(folder)

    return seal


SEAL = commit._seal


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET])
def test_a_fault_that_passes_costs_a_pause(tmp_path, monkeypatch, code):
    said, paused = [], []
    with open_store(tmp_path, said, paused) as store:
        save_and_wait(store, 1)
        monkeypatch.setattr(commit, "_seal", failing(code, times=2))
        save_and_wait(store, 2)
    assert (said, paused) == ([], list(PAUSES))
    assert_restored(tmp_path, 1, 2)


@pytest.mark.parametrize(
    ("code", "tries"), [(errno.ESTALE, 3), (errno.EROFS, 1), (errno.EACCES, 1), (errno.ENOSPC, 1)]
)
def test_a_fault_that_stays_is_one_clear_error(tmp_path, monkeypatch, code, tries):
    paused = []
    with open_store(tmp_path, paused=paused) as store:
        save_and_wait(store, 1)
        monkeypatch.setattr(commit, "_seal", failing(code, times=tries))
        with pytest.raises(OSError, match=os.strerror(code)) as refusal:
            save_and_wait(store, 2)
        assert refusal.value.errno == code
        assert len(paused) == tries - 1
        assert {path.name for path in tmp_path.iterdir()} == {"1"}
        save_and_wait(store, 2)
    assert_restored(tmp_path, 1, 2)


def test_a_run_ends_where_checkpoints_cannot_be_opened_again(tmp_path, monkeypatch):
    def refuse():
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    said = []
    store = open_store(tmp_path, said, on_error="continue")
    save_and_wait(store, 1)
    monkeypatch.setattr(commit, "_seal", failing(errno.ENOSPC, times=1))
    monkeypatch.setattr(store._writer, "_make_manager", refuse)
    save(store, 2)
    with pytest.raises(OSError, match=r"could not be opened again.*Permission denied"):
        save(store, 3)
    store.__exit__(OSError)
    assert said == []
    assert_restored(tmp_path, 1)


def test_what_is_gone_from_memory_is_not_tried_again_but_the_next_save_is(tmp_path, monkeypatch):
    """On accelerators the next step takes the memory while the save is under way."""
    monkeypatch.setattr(writer_module.Flight, "can_be_repeated", lambda _: False)
    monkeypatch.setattr(commit, "_seal", failing(errno.EIO, times=2))
    said, paused = [], []
    with open_store(tmp_path, said, paused) as store:
        for step in (1, 2, 3):
            save(store, step)
        store.wait()
        assert [line[:20] for line in said] == ["step 1 was not saved", "step 2 was not saved"]
        monkeypatch.setattr(commit, "_seal", failing(errno.EIO, times=3))
        for step in (4, 5, 6):
            save(store, step)
        with pytest.raises(OSError, match="could not be written"):
            save(store, 7)
    assert paused == []
    assert_restored(tmp_path, 3)


def test_reading_waits_for_a_file_system_that_comes_back(tmp_path, monkeypatch):
    fill(tmp_path, 1)
    paused = []
    with CheckpointStore(tmp_path, sleep=paused.append) as store:
        restore, left = store._manager.restore, [errno.EIO, errno.ESTALE]

        def restore_late(*args, **kwargs):
            if left:
                raise OSError(left.pop(), "the server is away")
            return restore(*args, **kwargs)

        monkeypatch.setattr(store._manager, "restore", restore_late)
        assert store.restore_json("meta", 1) == {"step": 1}
        assert paused == list(PAUSES)
        left += [errno.EIO] * 3
        with pytest.raises(OSError, match="a checkpoint could not be read"):
            store.restore_json("meta", 1)
        left.append(errno.EACCES)
        with pytest.raises(OSError, match="Permission denied"):
            store.restore_json("meta", 1)
        assert len(paused) == 4


def test_a_refused_write_names_its_reason(tmp_path, monkeypatch):
    """TensorStore hides the errno in the text of a ValueError; other errors are left alone."""
    for error, expected in (
        (ValueError("RESOURCE_EXHAUSTED [os_error_code='28']"), (OSError, "No space left")),
        (OSError(errno.EDQUOT, "quota"), (OSError, "quota exceeded")),
        (ValueError("a bug"), (ValueError, "a bug")),
    ):

        def fail(_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(commit, "_seal", fail)
            store = open_store(tmp_path)
            save(store, 1)
            with pytest.raises(expected[0], match=expected[1]):
                store.wait()


def test_flattened_trees_do_not_hang_on_classes():
    Pair = namedtuple("Pair", "first second")
    tree = (Pair(1, {"a": 2}), [3, None])
    flat = flatten(tree)
    assert flat == {"0.first": 1, "0.second.a": 2, "1.0": 3}
    assert unflatten(flat, tree) == tree
