"""Orbax's manager, as the checkpoints of a run need it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxllm.checkpoints.agreement import SaveBarriers
from jaxllm.checkpoints.commit import temporary_path_class
from jaxllm.checkpoints.faults import numbered
from jaxllm.checkpoints.folders import folder_of


def reading_manager(folder: Path) -> Any:
    """Opens checkpoints without changing anything."""
    import orbax.checkpoint as ocp

    # Lightweight: it reads no file of a step that nobody asked for, corrupt as it may be.
    options = ocp.CheckpointManagerOptions(
        read_only=True, lightweight_initialize=True, **folder_of(folder).manager_options()
    )
    return _manager(folder, options)


def writing_manager(
    folder: Path,
    *,
    keep_latest: int,
    keep_every: int | None,
    keep_best: int,
    barriers: SaveBarriers,
) -> Any:
    """Saves in the background, under what CheckpointConfig says is kept.

    barriers: where processes wait for each other in the background.
    """
    import orbax.checkpoint as ocp

    managers = ocp.checkpoint_managers
    policies: list[Any] = [managers.LatestN(keep_latest)]
    if keep_every is not None:
        policies.append(managers.EveryNSteps(keep_every))
    if keep_best:
        policies.append(
            managers.BestN(
                get_metric_fn=_validation_loss,
                reverse=True,  # the lowest loss is the best
                n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
        )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=managers.AnyPreservationPolicy(policies),
        # Alone this makes Orbax write the losses down, so that the next start knows the best too.
        best_fn=_validation_loss if keep_best else None,
        best_mode="min",
        async_options=ocp.AsyncOptions(barrier_sync_fn=barriers.wait),
        temporary_path_class=temporary_path_class(folder, lambda: barriers.attempt),
        **folder_of(folder).manager_options(),
    )
    return _manager(folder, options)


def _validation_loss(metrics: Mapping[str, float]) -> float:
    return metrics["validation_loss"]


@numbered()
def _manager(folder: Path, options: Any) -> Any:
    import orbax.checkpoint as ocp

    _count_no_bytes()
    return ocp.CheckpointManager(
        folder_of(folder).absolute_path(),
        options=options,
        item_handlers={
            # Weights are noise to a compressor: zstd takes 5% off for three times the work.
            "params": ocp.PyTreeCheckpointHandler(use_compression=False),
            "opt": ocp.PyTreeCheckpointHandler(use_compression=False),
            "data": ocp.JsonCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        },
    )


def _count_no_bytes() -> None:
    """Spares Orbax the bytes that it asks TensorStore for at each save, for a line of its log.

    TensorStore never frees the lists of figures that it answers with, 50 kB for each save.
    """
    from orbax.checkpoint._src.serialization import tensorstore_utils

    assert hasattr(tensorstore_utils, "get_tensorstore_raw_bytes")
    tensorstore_utils.get_tensorstore_raw_bytes = _no_bytes


def _no_bytes(direction: Any = None) -> int:
    return 0
