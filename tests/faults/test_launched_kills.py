"""Processes of a launched run, and its launcher, killed at random: the run is what it would be."""

import os
import random
import re
import signal
import subprocess
import time

import pytest
from commands import runs

from . import chaos

pytestmark = pytest.mark.faults

STEPS, EVERY, KILLS = 120, 10, 20
VICTIMS = ("first", "second", "second", "first", "launcher")
MOMENTS = ("any", "any", "any", "save", "compile")


class Launched:
    """`jaxllm launch` of two processes with two devices each, and what it says."""

    def __init__(self, config, run_dir, said):
        self.run_dir, self._said = run_dir, said
        options = ("--processes", 2, "--devices-per-process", 2)
        patience = ("--max-restarts", 1000, "--max-backoff", 1)
        with said.open("w") as file:
            self.process = subprocess.Popen(
                runs.command("launch", *options, *patience, config, f"run_dir={run_dir}"),
                env=runs.environment(devices=1),
                stdout=subprocess.DEVNULL,
                stderr=file,
            )

    @property
    def gangs(self):
        """The process ids of every gang so far."""
        started = re.findall(r"started 2 processes \(pid (\d+), (\d+)\)", self.said())
        return [[int(pid) for pid in pids] for pids in started]

    def said(self):
        return self._said.read_text(errors="replace")

    def next_gang(self, number):
        """Waits for the start of a gang, by number from 1, or the end; its process ids or None."""
        wait_until(lambda: len(self.gangs) >= number or self.process.poll() is not None)
        return self.gangs[number - 1] if len(self.gangs) >= number else None

    def kill(self, victim, pids):
        """Kills one of them, and waits until nothing of this gang is left."""
        pid = {"first": pids[0], "second": pids[1], "launcher": self.process.pid}[victim]
        os.kill(pid, signal.SIGKILL)
        if victim == "launcher":
            self.process.wait()
        # The others leave by themselves; what is left of a gang would hinder the next one.
        wait_until(lambda: not any(map(is_alive, pids)), seconds=30)


def test_kills_of_a_launched_run(tmp_path, experiment):
    """The same command goes on where the launcher itself was killed."""
    experiment.done = (
        "kill -9 of either of two launched processes, or of their launcher, at random moments"
    )
    config = chaos.write_config(tmp_path, steps=STEPS, every=EVERY, cache=tmp_path / "compiled")
    reference = tmp_path / "undisturbed"
    began = time.monotonic()
    undisturbed = Launched(config, reference, tmp_path / "undisturbed.txt")
    assert undisturbed.process.wait(600) == 0, undisturbed.said()
    longest = time.monotonic() - began
    seed = 0
    while experiment.kills < KILLS:
        run_dir = tmp_path / f"killed{seed}"
        killed_until_done(config, run_dir, experiment, rng=random.Random(seed), longest=longest)
        experiment.bytes_lost += chaos.bytes_lost(run_dir, reference, step=STEPS)
        runs.assert_same_run(run_dir, reference, step=STEPS)
        seed += 1
    # A save is complete at the latest when the next one begins.
    assert experiment.most_steps_again <= 2 * EVERY


def killed_until_done(config, run_dir, experiment, *, rng, longest):
    """Launches a run, again where it must be, and kills until there were enough kills."""
    launches = 0
    while True:
        said = run_dir.with_name(f"{run_dir.name}_{launches}.txt")
        launched, gang = Launched(config, run_dir, said), 0
        launches += 1
        try:
            while experiment.kills < KILLS:
                gang += 1
                written = chaos.config_time(run_dir)
                pids = launched.next_gang(gang)
                if pids is None:
                    break
                experiment.tries += 1
                moment, delay = rng.choice(MOMENTS), rng.uniform(0, longest)
                chaos.wait_for_moment(
                    moment, launched.process, run_dir, delay=delay, written=written
                )
                if not all(map(is_alive, pids)):
                    continue  # it ended meanwhile
                launched.kill(rng.choice(VICTIMS), pids)
                experiment.kills += 1
                lost = chaos.last_step(run_dir) - chaos.last_checkpoint(run_dir)
                experiment.lost(max(0, lost))
            code = launched.process.wait(600)
        finally:
            launched.process.kill()
        if code != -signal.SIGKILL:
            assert code == 0, launched.said()
            return


def is_alive(pid):
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(is_so, *, seconds=120):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)
