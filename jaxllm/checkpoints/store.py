"""Saves and restores the state of a run with Orbax, asynchronously.

A checkpoint has four items: `params` (and the averaged weights), `opt`, `data` (the loader's
position, a small JSON) and `meta` (step and config).
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
from pydantic import NonNegativeInt, PositiveInt

from jaxllm.checkpoints.snapshot import Snapshot
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

    def build(self, folder: Path) -> "CheckpointStore":
        """The checkpoints under `folder`, which is made if it is missing."""
        return CheckpointStore(folder, self)


Item = Literal["params", "opt"]


class CheckpointStore:
    """The checkpoints of one run. A context manager: leaving it waits for writes in flight."""

    def __init__(self, folder: Path, config: CheckpointConfig | None = None):
        """`config` None opens the folder for reading only."""
        import orbax.checkpoint as ocp

        self.folder = folder
        self._snapshot = Snapshot()
        options = (
            ocp.CheckpointManagerOptions(read_only=True)
            if config is None
            else _manager_options(config)
        )
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=options,
            item_handlers={
                # Weights are noise to a compressor: zstd takes 5% off for three times the work.
                "params": ocp.PyTreeCheckpointHandler(use_compression=False),
                "opt": ocp.PyTreeCheckpointHandler(use_compression=False),
                "data": ocp.JsonCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if kind is not None and jax.process_count() > 1:
            return  # closing waits for the other processes, and this one is failing alone
        with _writing(self.folder):
            self._manager.close()

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

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

        OSError for a save in flight that went wrong (a full disk), by the next `save` or `wait`.
        """
        import orbax.checkpoint as ocp

        self._check_space((params, opt))
        self.wait()  # one save at a time: the copy of the one before is about to be overwritten
        params, opt = self._snapshot.take((params, flatten(opt)))
        metrics = None if validation_loss is None else {"validation_loss": validation_loss}
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(params),
            opt=ocp.args.PyTreeSave(opt),
            data=ocp.args.JsonSave(dict(data)),
            meta=ocp.args.JsonSave(dict(meta)),
        )
        with _writing(self.folder):
            is_saved = self._manager.save(step, args=items, metrics=metrics, force=True)
        # Orbax says no by returning False alone.
        assert is_saved, f"checkpoint {step} was not saved; the latest is {self.latest_step()}"

    def wait(self) -> None:
        """Wait until what was saved is on disk; OSError for what went wrong on the way."""
        with _writing(self.folder):
            self._manager.wait_until_finished()

    def restore_json(self, item: Literal["data", "meta"], step: int) -> dict[str, Any]:
        """The `data` or `meta` of a checkpoint."""
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
        return self._manager.restore(step, args=args)[item]

    def has_average(self, step: int) -> bool:
        """Whether a checkpoint holds averaged weights beside those that are trained."""
        return "ema" in self._manager.item_metadata(step)["params"].tree

    def restore(self, step: int, item: Item, abstract: Any) -> Any:
        """An item's arrays in the shapes, dtypes and shardings of `abstract`.

        ValueError if the checkpoint has other arrays than the model asked for.
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
        restored = self._manager.restore(step, args=args)[item]
        return unflatten(restored, abstract) if item == "opt" else restored

    def _check_space(self, arrays: Any) -> None:
        """OSError unless the disk has room: Orbax would fail midway, among pages of tracebacks."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"the disk has {free / 1e6:,.0f} MB free, but a checkpoint takes "
                f"{needed / 1e6:,.0f} MB. Earlier checkpoints are whole: free some space and run "
                "the same command again",
                str(self.folder),
            )

    def check_shapes(self, step: int, item: str, target: Any) -> None:
        """ValueError if the checkpoint has other arrays than `target`."""
        saved = self._manager.item_metadata(step)[item].tree
        saved_shapes = {path: tuple(leaf.shape) for path, leaf in flatten(saved).items()}
        asked_shapes = {path: tuple(leaf.shape) for path, leaf in flatten(target).items()}
        if saved_shapes == asked_shapes:
            return
        lines = [
            f"  {path}: saved {saved_shapes.get(path, 'nothing')}, "
            f"the config asks for {asked_shapes.get(path, 'nothing')}"
            for path in sorted(saved_shapes.keys() | asked_shapes.keys())
            if saved_shapes.get(path) != asked_shapes.get(path)
        ]
        more = [f"  ... and {len(lines) - 12} more"] if len(lines) > 12 else []
        raise ValueError(
            f"checkpoint {self.folder}/{step} is of another architecture:\n"
            + "\n".join(lines[:12] + more)
            + "\nuse the model and optim sections it was trained with, or another run_dir"
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns the operating system's refusals, as Orbax passes them on, into one clear OSError."""
    try:
        yield
    except (OSError, ValueError) as error:
        code = _system_error(error)
        if code is None:
            raise
        raise OSError(
            code,
            f"a checkpoint could not be written ({os.strerror(code)}). Checkpoints that were "
            "complete before are whole; mend the cause (as by freeing some space) and run the "
            "same command again",
            str(folder),
        ) from error


def _system_error(error: OSError | ValueError) -> int | None:
    """The errno behind an error, which TensorStore has in the text of a ValueError; else None."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


def flatten(tree: Any) -> dict[str, Any]:
    """Any pytree -> {path: leaf}: names in a checkpoint do not hang on Optax's classes."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.flatten_with_path(tree)[0]
    }


def unflatten(flat: Mapping[str, Any], like: Any) -> Any:
    """The pytree of the structure `like` with the leaves of `flat`."""
    return jax.tree.map_with_path(
        lambda path, _: flat[jax.tree_util.keystr(path, simple=True, separator=".")], like
    )


def _manager_options(config: CheckpointConfig) -> Any:
    import orbax.checkpoint as ocp

    managers = ocp.checkpoint_managers
    policies: list[Any] = [managers.LatestN(config.keep_latest)]
    if config.keep_every is not None:
        policies.append(managers.EveryNSteps(config.keep_every))
    if config.keep_best:
        policies.append(
            managers.BestN(
                get_metric_fn=lambda metrics: metrics["validation_loss"],
                reverse=True,  # the lowest loss is the best
                n=config.keep_best,
                keep_checkpoints_without_metrics=False,
            )
        )
    return ocp.CheckpointManagerOptions(
        preservation_policy=managers.AnyPreservationPolicy(policies),
        enable_async_checkpointing=config.is_async,
        cleanup_tmp_directories=True,
    )
