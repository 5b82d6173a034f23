"""A long run holds no more memory and no more files in the end than after its beginning."""

import statistics
import subprocess
import time

import psutil
import pytest
from commands import runs

from . import chaos

pytestmark = pytest.mark.faults

STEPS, EVERY = 10_000, 50


def test_memory_and_files_do_not_grow(tmp_path, experiment):
    experiment.done = f"{STEPS:,} steps with {STEPS // EVERY} saves; tries are saves"
    config = chaos.write_config(tmp_path, steps=STEPS, every=EVERY, cache=None)
    run_dir = tmp_path / "run"
    files, process = _watched(runs.command("train", config, f"run_dir={run_dir}"))
    assert process.returncode == 0, process.stderr.read()
    experiment.tries = STEPS // EVERY

    memory = [record["memory_bytes"] for record in runs.records(run_dir) if "loss" in record]
    assert len(memory) == STEPS
    early = statistics.median(memory[STEPS // 4 : STEPS // 2])
    late = statistics.median(memory[-STEPS // 4 :])
    # An allocator keeps some pages; 8 MB over 5,000 steps is less than one state of this model
    # for every save.
    assert late - early < 8e6, (early, late)
    assert statistics.median(files[len(files) // 2 :]) <= statistics.median(files[5:]) + 1
    assert max(files[-10:]) <= max(files[:-10])


def _watched(command):
    """Runs a command to its end; the number of its open files now and then, and the process."""
    process = subprocess.Popen(
        command, env=runs.environment(devices=1), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        files, seen = [], psutil.Process(process.pid)
        while process.poll() is None:
            files.append(seen.num_fds())
            time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
    return files, process
