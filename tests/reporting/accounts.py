"""Accounts of wall time as a run writes them, with clocks that need no waiting."""

import random
from pathlib import Path

from jaxllm.training.goodput import Goodput
from jaxllm.training.phases import Phases

ENDINGS = ((75, "SIGTERM"), (None, "OSError: <b>the disk</b> is full"), None, None)


class Machine:
    """Clocks that stand still until time is spent."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def spend(self, seconds: float) -> None:
        self.now += seconds


def write_account(
    run_dir: Path,
    *,
    interruptions: int,
    steps: int = 2000,
    step_seconds: float = 1.0,
    seed: int = 0,
) -> dict[str, float]:
    """The account of a run that was interrupted so often, at moments drawn from `seed`.

    Killed starts (every second one) leave no word. Returns the seconds by kind as the run itself
    has counted them.
    """
    chance, machine = random.Random(seed), Machine()
    ends = sorted(chance.sample(range(1, steps), interruptions))
    saved, goodputs, loops = 0, [], []
    for end in [*ends, steps]:
        goodput = Goodput(clock=lambda: machine.now, wall_clock=lambda: machine.now)
        goodputs.append(goodput)
        phases = Phases(goodput)
        machine.spend(12)
        goodput.open(run_dir, step=saved)
        with phases.during("restore"):
            machine.spend(9)
        with phases.during("compile"):
            machine.spend(45)
        # Never left: what is killed does not tidy up.
        loop = phases.during("step")
        loops.append(loop)
        loop.__enter__()
        saved = _train(machine, phases, saved, end, steps=steps, seconds=step_seconds)
        if end == steps:
            with phases.during("end"):
                machine.spend(3)
            goodput.end(0, "done")
        else:
            ending = ENDINGS[len(goodputs) % len(ENDINGS)]
            if ending is not None:
                goodput.end(*ending)
            machine.spend(chance.uniform(5, 120))
    seconds = goodputs[-1].seconds
    for goodput in goodputs:  # their threads, without a word in the file
        goodput._log = None
        goodput.end(0, "done")
    return dict(seconds)


def _train(
    machine: Machine, phases: Phases, start: int, end: int, *, steps: int, seconds: float
) -> int:
    """Steps with ten evaluations and twenty checkpoints in a whole run; the step saved last."""
    saved = start
    for step in range(start + 1, end + 1):
        with phases.during("data"):
            machine.spend(0.03 * seconds)
        machine.spend(seconds)
        phases.stepped(step)
        if step % max(steps // 10, 1) == 0:
            with phases.during("evaluation"):
                machine.spend(0.01 * steps * seconds)
        if step % max(steps // 20, 1) == 0:
            with phases.during("checkpoint"):
                machine.spend(0.004 * steps * seconds)
            saved = step
    return saved
