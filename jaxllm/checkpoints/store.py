"""The checkpoints of a run: what is saved, restored, verified and gone back to.

A checkpoint has four items: `params` (and the averaged weights), `opt`, `data` (the loader's
position, a small JSON) and `meta` (step and config). Every file of it is in its manifest, which is
checked before anything is used.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
from pydantic import NonNegativeInt, PositiveInt

from jaxllm.checkpoints.corrupt import CheckpointCorrupt
from jaxllm.checkpoints.faults import numbered, read_with_patience
from jaxllm.checkpoints.flat import flatten, other_shapes, unflatten
from jaxllm.checkpoints.manager import reading_manager
from jaxllm.checkpoints.manifest import MANIFEST_FILE
from jaxllm.checkpoints.quarantine import discard, keep_sound, shared_damage
from jaxllm.checkpoints.writer import CheckpointWriter
from jaxllm.schema import Config


class CheckpointConfig(Config):
    """When checkpoints are written and which are kept."""

    every: PositiveInt | None = 500
    """Steps between checkpoints; null writes only the one at the end."""
    keep_latest: PositiveInt = 2
    """How many of the newest checkpoints are kept."""
    keep_every: PositiveInt | None = None
    """Checkpoints at multiples of this many steps are kept for ever; null keeps none so."""
    keep_best: NonNegativeInt = 0
    """How many checkpoints with the lowest validation loss are kept in addition."""
    is_async: bool = True
    """Whether training goes on while a checkpoint is written."""
    on_error: Literal["stop", "continue"] = "stop"
    """Whether a save that the system refuses ends the run or, but for the last, only is told."""

    def build(
        self, folder: Path, *, on_message: Callable[[str], None] = print
    ) -> "CheckpointStore":
        """The checkpoints under `folder`, which is made if it is missing.

        on_message: told on the first process what happens to checkpoints, a line at a time.
        """
        return CheckpointStore(folder, self, on_message=on_message)


Item = Literal["params", "opt"]


class CheckpointStore:
    """The checkpoints of one run. A context manager: leaving it waits for writes in flight."""

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig | None = None,
        *,
        on_message: Callable[[str], None] = print,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """`config` None opens the folder for reading only.

        For training, corrupt checkpoints are first moved aside up to the newest sound one;
        CheckpointCorrupt if none is sound. All processes open it together.
        """
        self.folder = folder
        self._say = on_message if jax.process_index() == 0 else _say_nothing
        self._sleep = sleep
        self._verified: set[int] = set()
        self._writer: CheckpointWriter | None = None
        self._reader: Any = None
        if config is None:
            self._reader = reading_manager(folder)
            return
        newest = keep_sound(folder, say=self._say, sleep=sleep)
        self._verified |= set() if newest is None else {newest}
        self._writer = CheckpointWriter(
            folder,
            keep_latest=config.keep_latest,
            keep_every=config.keep_every,
            keep_best=config.keep_best,
            goes_on=config.on_error == "continue",
            say=self._say,
            sleep=sleep,
        )
        self._is_async = config.is_async

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if kind is not None and jax.process_count() > 1:
            return  # closing waits for the other processes, and this one is failing alone
        if self._writer is None:
            self._reader.close()
        elif kind is None:
            self._writer.close()
        else:
            self._writer.close_after_error()

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return max(self.steps(), default=None)

    @numbered()
    def steps(self) -> list[int]:
        """All complete checkpoints, oldest first."""
        if self._writer is not None:
            return sorted(self._manager.all_steps())
        return sorted(
            step
            for step in self._manager.all_steps()
            if (self.folder / str(step) / MANIFEST_FILE).exists()
        )

    def save(
        self,
        step: int,
        *,
        params: Any,
        opt: Any,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
        validation_loss: float | None = None,
    ) -> None:
        """Begin to save; returns once the arrays are copied and may be donated.

        OSError for a save that went wrong (a full disk): at once, or by the next `save` or `wait`.
        With on_error "continue" that is told instead, and only `wait` raises it.
        """
        writer = self._writing()
        writer.save(
            step,
            arrays=(params, flatten(opt)),
            data=data,
            meta=meta,
            validation_loss=validation_loss,
        )
        if not self._is_async:
            writer.settle_or_tell()

    def wait(self) -> None:
        """Wait until what was saved last is on disk; OSError if it is not, for whatever reason."""
        if self._writer is not None:
            self._writer.settle()

    def settle(self) -> None:
        """Wait until what was saved last is on disk; OSError only where training ends by it."""
        self._writing().settle_or_tell()

    def verify(self, step: int) -> None:
        """CheckpointCorrupt if any file is not as it was saved. All processes call it together."""
        damage = shared_damage(self.folder, step, sleep=self._sleep)
        if damage is not None:
            raise CheckpointCorrupt(
                self.folder,
                {step: damage},
                "Nothing was changed: use another checkpoint, as by --step, or let training go "
                "on, which goes back to the newest sound one",
            )
        self._verified.add(step)

    def roll_back(self, step: int) -> None:
        """Delete the checkpoints after `step`, so that training can go on from there.

        step: of a checkpoint, or 0: the beginning, where there may be none.
        They are deleted, not kept: all of them can be computed again, and a run that rolls back
        often would fill its disk. ValueError if there is no such checkpoint, CheckpointCorrupt if
        it is damaged; then nothing is deleted. All processes call it together.
        """
        self._writing().settle_for_good()
        steps = self.steps()
        if step in steps:
            self.verify(step)
        elif step:
            raise ValueError(f"{self.folder} has no checkpoint of step {step}; it has {steps}")
        newer = [other for other in steps if other > step]
        discard(self.folder, newer)
        self._verified -= set(newer)
        with numbered():
            self._manager.reload()

    def restore_json(self, item: Literal["data", "meta"], step: int) -> dict[str, Any]:
        """The `data` or `meta` of a checkpoint. CheckpointCorrupt as for `verify`."""
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
        return self._read(step, lambda: self._manager.restore(step, args=args)[item])

    def has_average(self, step: int) -> bool:
        """Whether a checkpoint holds averaged weights beside those that are trained."""
        return "ema" in self._read(step, lambda: self._manager.item_metadata(step)["params"].tree)

    def has_guard(self, step: int) -> bool:
        """Whether a checkpoint remembers which steps were skipped."""
        saved = self._read(step, lambda: self._manager.item_metadata(step)["opt"].tree)
        return any(path.startswith("guard.") for path in flatten(saved))

    def restore(self, step: int, item: Item, abstract: Any) -> Any:
        """An item's arrays in the shapes, dtypes and shardings of `abstract`.

        ValueError if the checkpoint has other arrays than the model asked for; CheckpointCorrupt
        as for `verify`.
        """
        import orbax.checkpoint as ocp

        target = flatten(abstract) if item == "opt" else abstract
        self.check_shapes(step, item, target)
        restore_args = jax.tree.map(
            lambda leaf: ocp.ArrayRestoreArgs(
                sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
            ),
            target,
        )
        args = ocp.args.Composite(
            **{item: ocp.args.PyTreeRestore(item=target, restore_args=restore_args)}
        )
        restored = self._read(step, lambda: self._manager.restore(step, args=args)[item])
        return unflatten(restored, abstract) if item == "opt" else restored

    def check_shapes(self, step: int, item: str, target: Any) -> None:
        """ValueError if the checkpoint has other arrays than `target`."""
        saved = self._read(step, lambda: self._manager.item_metadata(step)[item].tree)
        lines = other_shapes(saved, target)
        if not lines:
            return
        more = [f"  ... and {len(lines) - 12} more"] if len(lines) > 12 else []
        raise ValueError(
            f"checkpoint {self.folder}/{step} is of another architecture:\n"
            + "\n".join(lines[:12] + more)
            + "\nuse the model and optim sections it was trained with, or another run_dir"
        )

    def _read[T](self, step: int, read: Callable[[], T]) -> T:
        """What `read` gives, of a checkpoint that is verified first."""
        if step not in self._verified:
            self.verify(step)
        return read_with_patience(read, self.folder, sleep=self._sleep)

    @property
    def _manager(self) -> Any:
        return self._reader if self._writer is None else self._writer.manager

    def _writing(self) -> CheckpointWriter:
        assert self._writer is not None, "opened for reading only"
        return self._writer


def _say_nothing(_: str) -> None:
    return None
