"""kill -9 at random moments: the finished run is the run that was never killed."""

import random

import pytest
from commands import runs

from . import chaos

pytestmark = pytest.mark.faults

STEPS, EVERY, KILLS = 600, 20, 50


def test_kill_9_at_random_moments(tmp_path, experiment):
    """Every second start compiles anew, so that kills meet compiling too."""
    experiment.done = "kill -9 of a run at random moments, inside saves and compiling too"
    config = chaos.write_config(tmp_path, steps=STEPS, every=EVERY, cache=None)
    environment = runs.environment(devices=1)
    reference = tmp_path / "uninterrupted"
    longest = chaos.uninterrupted(
        runs.command("train", config, f"run_dir={reference}"), environment=environment
    )
    seed = 0
    while experiment.kills < KILLS:
        run_dir = tmp_path / f"killed{seed}"
        chaos.killed_until_done(
            runs.command("train", config, f"run_dir={run_dir}"),
            run_dir,
            experiment,
            rng=random.Random(seed),
            longest=longest,
            kills=KILLS - experiment.kills,
            environment=environment,
        )
        experiment.bytes_lost += chaos.bytes_lost(run_dir, reference, step=STEPS)
        runs.assert_same_run(run_dir, reference, step=STEPS)
        seed += 1
    # One interval, and as many steps again as ran while the newest save was still being written:
    # no more than another, for the save after it would have waited.
    assert experiment.most_steps_again <= 2 * EVERY
