"""The training state on disk: what a step saves is what the next start of the command needs."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.checkpoints import CheckpointConfig, CheckpointCorrupt
from jaxllm.checkpoints.store import Item
from jaxllm.commands.assembly import Assembly
from jaxllm.nn.param import Nested
from jaxllm.training.fingerprint import fingerprint
from jaxllm.training.state import TrainState, abstract_guard, place_guard


class Position(Protocol):
    """A loader, as far as its place in the data goes."""

    def state(self, step: int) -> dict[str, Any]: ...

    def check_state(self, state: dict[str, Any]) -> None: ...


class SavedState:
    """Saves and restores (training state, data position, seconds spent). A context manager."""

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        loader: Position,
        *,
        vocab_size: int,
        run_config: Mapping[str, Any],
        before_save: Callable[[], None] = lambda: None,
        on_message: Callable[[str], None] = print,
    ):
        """Checkpoints in `folder` by `config`; ValueError if the newest is at other data.

        Corrupt ones are moved aside first; CheckpointCorrupt if none is sound.

        vocab_size: ids of the data, kept for those who open the run without its data.
        run_config: the whole config as plain values, kept with every checkpoint.
        before_save: called before each save begins.
        on_message: told, on the first process, what happens to checkpoints, a line at a time.
        """
        self._config = config
        self._loader = loader
        self._vocab_size = vocab_size
        self._run_config, self._before_save = run_config, before_save
        self._began = time.monotonic()
        self._store = config.build(folder, on_message=on_message)
        self.start = self._store.latest_step() or 0
        self._newest = self.start
        self._seconds_before = 0.0
        self.training_seconds_before = 0.0
        self._frozen: str | None = None
        if self.start:
            loader.check_state(self._store.restore_json("data", self.start))
            meta = self._store.restore_json("meta", self.start)
            self._frozen = meta.get("frozen")
            self._seconds_before = meta["wall_seconds"]
            self.training_seconds_before = meta["training_seconds"]

    def __enter__(self) -> "SavedState":
        return self

    def __exit__(self, *error: Any) -> None:
        self._store.__exit__(*error)

    @property
    def wall_seconds(self) -> float:
        """Time spent on the run so far, earlier starts included up to what they saved."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to start from, saved before the first step."""
        return self.start == 0 and self._store.latest_step() == 0

    def restore_weights(self, parts: Assembly) -> Nested:
        """Those weights, in the layout at hand. ValueError for another architecture."""
        item = weights_item(parts.state.params, None)
        return self._restore("params", item)["weights"]

    def check_frozen(self, frozen: Nested | None, *, origin: str) -> None:
        """Remember weights that are not saved, by their fingerprint.

        ValueError if they are not those that the run began with. origin: where they come from.
        """
        given = None if frozen is None else fingerprint(frozen)
        if self.start and given != self._frozen:
            raise ValueError(frozen_changed(origin))
        self._frozen = given

    def sound_steps(self) -> list[int]:
        """The steps whose checkpoints are as they were saved, oldest first; reads all of them.

        What is being saved is waited for. All processes call it together.
        """
        with jax.transfer_guard("allow"):  # the training loop forbids what is not explicit
            self._store.settle()
            return [step for step in self._store.steps() if self._is_sound(step)]

    def _is_sound(self, step: int) -> bool:
        try:
            self._store.verify(step)
        except CheckpointCorrupt:
            return False
        return True

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints after `step`; nothing can be restored or saved here any more.

        step: of a checkpoint, or 0 for the beginning. CheckpointCorrupt if that one is damaged;
        then nothing is deleted. All processes call it together.
        """
        with jax.transfer_guard("allow"):  # the training loop forbids what is not explicit
            self._store.roll_back(step)

    def is_due(self, step: int) -> bool:
        """Whether the config wants a checkpoint after step `step`."""
        return self._config.every is not None and step % self._config.every == 0

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        validation_loss: float | None,
        training_seconds: float,
    ) -> None:
        """Begin to save; nothing if this step is saved already.

        validation_loss: of this very step, for keep_best. training_seconds: spent in steps alone
        since this start.
        """
        if step == self._newest:
            return
        self._before_save()
        self._newest = step
        self._store.save(
            step,
            params=unfolded(weights_item(state.params, state.ema)),
            opt=unfolded(opt_item(state)),
            data=self._loader.state(step),
            meta={
                "step": step,
                "vocab_size": self._vocab_size,
                "config": self._run_config,
                "training_seconds": self.training_seconds_before + training_seconds,
                "wall_seconds": self.wall_seconds,
                "jax": jax.__version__,
                # Of weights that are not saved; absent where all are.
                **({} if self._frozen is None else {"frozen": self._frozen}),
            },
            validation_loss=validation_loss,
        )

    @contextmanager
    def saving_on_failure(
        self, step: int, state: TrainState, *, training_seconds: float
    ) -> Iterator[None]:
        """Where what is done inside fails, the state of `step` is on disk before it ends.

        For bad data, files that cannot be read, and a device that runs out of memory; all else is
        a fault of the program. With several processes nothing is saved: the others, where nothing
        failed, would not save too.
        """
        try:
            yield
        except (ValueError, OSError, jax.errors.JaxRuntimeError):
            if jax.process_count() == 1:
                self.save(step, state, validation_loss=None, training_seconds=training_seconds)
                self.wait()
            raise

    def wait(self) -> None:
        """Wait until what was saved last is on disk; raises what went wrong on the way."""
        self._store.wait()

    def restore(self, parts: Assembly, frozen: Nested | None = None) -> TrainState:
        """The state of step `start`, in the layout at hand. ValueError for another architecture.

        frozen: the weights that are not saved.
        """
        abstract = parts.state
        params = self._restore("params", weights_item(abstract.params, abstract.ema))
        # Saved and wanted need not agree: the guard may be turned on or off in between.
        is_saved = self._store.has_guard(self.start)
        guard = abstract_guard(abstract.step.sharding) if is_saved else None
        opt = self._restore("opt", opt_item(abstract._replace(guard=guard)))
        guard = None
        if abstract.guard is not None:
            guard = opt["guard"] if is_saved else place_guard(abstract.step.sharding)
        return TrainState(
            opt["step"], params["weights"], opt["state"], params.get("ema"), guard, frozen
        )

    def _restore(self, item: Item, abstract: Any) -> Any:
        return folded(self._store.restore(self.start, item, unfolded_shapes(abstract)), abstract)


def frozen_changed(origin: str) -> str:
    """What to say where the weights beside the saved ones are not those of the run."""
    return (
        f"init_from: the weights of {origin} are not those that the run was trained beside; put "
        "back what was there, name where they are now (init_from.path, and init_from.step of a "
        "run), or train anew in another run_dir"
    )


def weights_item(params: Nested, ema: Nested | None) -> dict[str, Nested]:
    """What the checkpoint item `params` holds."""
    return {"weights": params} if ema is None else {"weights": params, "ema": ema}


def opt_item(state: TrainState) -> dict[str, Any]:
    """What the checkpoint item `opt` holds."""
    item = {"state": state.opt_state, "step": state.step}
    return item if state.guard is None else item | {"guard": state.guard}


def unfolded(state: Any) -> Any:
    """Arrays as checkpoints hold them: stacked layers in their natural order, (L, ...).

    A pipeline of several rounds keeps (R, L / R, ...), cut over its stages along the second
    dimension. One array at a time and straight to the host, so that no device has all of both.
    """

    def unfold(leaf: jax.Array) -> jax.Array:
        if not _is_folded(leaf):
            return leaf
        natural = _natural(leaf)
        sharding = natural.sharding
        if sharding.mesh.devices.flat[0].platform != "cpu":
            sharding = sharding.with_memory_kind("pinned_host")
        return jax.block_until_ready(_reshaper(natural.shape, sharding)(leaf))

    return jax.tree.map(unfold, state)


def folded(natural: Any, abstract: Any) -> Any:
    """What `unfolded` was made of, in the shapes and shardings of `abstract`; takes `natural`."""

    def fold(leaf: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
        if not _is_folded(like):
            return leaf
        result = jax.block_until_ready(_reshaper(like.shape, like.sharding)(leaf))
        leaf.delete()  # so that no device holds both forms of more than one array
        return result

    return jax.tree.map(fold, natural, abstract)


def unfolded_shapes(abstract: Any) -> Any:
    """The shapes and shardings of `unfolded`, on the devices."""
    return jax.tree.map(lambda leaf: _natural(leaf) if _is_folded(leaf) else leaf, abstract)


def _is_folded(leaf: Any) -> bool:
    # Nothing but layers lies on `stage`, first among the dimensions unless rounds come before.
    spec = tuple(leaf.sharding.spec)
    second = spec[1] if len(spec) > 1 else None
    return "stage" in (second if isinstance(second, tuple) else (second,))


def _natural(leaf: Any) -> jax.ShapeDtypeStruct:
    rounds, layers, *rest = leaf.shape
    spec = PartitionSpec(*leaf.sharding.spec[1:])
    sharding = NamedSharding(leaf.sharding.mesh, spec, memory_kind=leaf.sharding.memory_kind)
    return jax.ShapeDtypeStruct((rounds * layers, *rest), leaf.dtype, sharding=sharding)


@cache
def _reshaper(shape: tuple[int, ...], sharding: NamedSharding) -> Callable:
    def reshape(leaf: jax.Array) -> jax.Array:
        # What is kept on the host passes through the devices, whose links are the faster ones.
        return jax.device_put(leaf, jax.memory.Space.Device).reshape(shape)

    return jax.jit(reshape, out_shardings=sharding)
