"""A checkpoint of four processes goes on in other numbers of processes, devices and cuts."""

import shutil
from pathlib import Path

import pytest
from commands import runs
from commands.test_two_processes import assert_close

from .gangs import Gang

pytestmark = pytest.mark.faults

SAVED, STEPS = 6, 12
LAYOUTS = {
    "4 processes x 2 devices": (4, 2, ()),
    "1 x 8": (1, 8, ()),
    "2 x 1": (2, 1, ()),
    "1 x 4, data=2, tensor=2": (1, 4, ("parallel={data: 2, fsdp: 1, tensor: 2}",)),
}

# What was restored is saved at once, in another folder, before any step.
SAVED_AGAIN = """
import os
from pathlib import Path
from jaxllm import cli
from jaxllm.commands.saved_state import SavedState
restore = SavedState.restore
def restore_and_save(self, parts):
    state = restore(self, parts)
    folder = Path(os.environ["SAVED_AGAIN"]) / "checkpoints"
    again = SavedState(folder, self._config, self._loader,
                       vocab_size=self._vocab_size, run_config=self._run_config)
    with again:
        again.save(self.start, state, validation_loss=None, training_seconds=0.0)
    return state
SavedState.restore = restore_and_save
cli.main()
"""


def trained(ids, run_dir, layout, *overrides, **variables):
    """Starts the run in a layout, and waits for its end."""
    processes, devices, parallel = LAYOUTS[layout]
    gang = Gang(
        ("train", ids, f"run_dir={run_dir}", "compilation_cache=null", *parallel, *overrides),
        count=processes,
        folder=Path(f"{run_dir}_{len(overrides)}_said"),
        XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
        **variables,
    )
    try:
        codes = gang.ended(within=300)
        assert set(codes.values()) == {0}, gang.said(0)
    finally:
        gang.close()


def test_a_checkpoint_goes_on_in_any_layout(ids, tmp_path, experiment):
    first, *others = LAYOUTS
    experiment.done = f"a checkpoint of {first} restored on " + "; ".join(others)
    original = tmp_path / "original"
    trained(ids, original, first, f"training.steps={SAVED}")
    (original / "summary.json").unlink()
    before = runs.arrays(original, SAVED)

    def goes_on(layout, number):
        run_dir, again = tmp_path / f"run{number}", tmp_path / f"again{number}"
        shutil.copytree(original, run_dir)
        trained(
            ids,
            run_dir,
            layout,
            f"training.steps={STEPS}",
            script=SAVED_AGAIN,
            SAVED_AGAIN=str(again),
        )
        restored = runs.arrays(again, SAVED)
        assert restored.keys() == before.keys()
        changed = [path for path in before if restored[path].tobytes() != before[path].tobytes()]
        experiment.bytes_lost += sum(before[path].nbytes for path in changed)
        assert changed == []
        assert runs.data_position(again, SAVED) == runs.data_position(original, SAVED)
        assert [step for step, _ in runs.losses(run_dir)] == list(range(1, STEPS + 1))
        return run_dir

    expected = goes_on(first, 0)
    for number, layout in enumerate(others, start=1):
        experiment.tries += 1
        run_dir = goes_on(layout, number)
        assert runs.data_position(run_dir, STEPS) == runs.data_position(expected, STEPS)
        assert runs.losses(run_dir)[:SAVED] == runs.losses(expected)[:SAVED]
        assert_close(runs.losses(run_dir), runs.losses(expected))
