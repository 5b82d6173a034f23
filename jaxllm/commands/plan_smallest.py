"""`jaxllm plan --smallest`: the smallest slice on which a config fits."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from jaxllm.aot.search_outcome import Calibration, Outcome
from jaxllm.aot.search_space import Candidate, candidates
from jaxllm.aot.search_workload import Workload
from jaxllm.aot.topology import Topology, parse_topology, require_libtpu
from jaxllm.commands.plan_compiler import (
    FIRST_COMPILE_SECONDS,
    StepCompiler,
    budget_left,
    result_cache,
)
from jaxllm.commands.plan_screen import PlanScreen, outcome_line
from jaxllm.commands.plan_workload import estimates, num_devices, workload_of
from jaxllm.config import load_config
from jaxllm.hardware import TPUS, Tpu

TRIES = 3  # compiles on a slice that arithmetic does not rule out
_GIB = 2**30


@dataclass(frozen=True)
class Verdict:
    """About one slice. fits: None where nothing was compiled that decides it."""

    topology: Topology
    fits: bool | None
    words: str


def find_smallest(
    config_file: Path, overrides: Sequence[str], *, topology: str, budget: float
) -> Topology | None:
    """The smallest slice of a generation on which the config fits; None if none was found.

    topology: a generation (v5e), or any of its slices. budget: minutes for compiling.
    """
    config, tpu = load_config(config_file, overrides), generation(topology)
    require_libtpu()
    workload, screen = workload_of(config), PlanScreen()
    seconds: list[float] = []
    may_start = budget_left(
        budget, seconds, first_seconds=FIRST_COMPILE_SECONDS, clock=time.monotonic
    )

    def try_one(candidate: Candidate, topology: Topology) -> Outcome | None:
        cache = result_cache(config, topology, vocab_size=workload.vocab_size)
        known = cache.load(candidate)
        if known is None and not may_start():
            return None
        if known is None:
            with StepCompiler(config, topology, cache, 1) as compiler:
                known = compiler.submit(candidate).result()
                seconds.extend(compiler.seconds)
        screen.say(f"{topology.name}: {outcome_line(known)}")
        return known

    verdicts = ask_slices(workload, tpu, try_one)
    screen.show(_table(verdicts))
    last = verdicts[-1]
    if not last.fits:
        screen.say("no slice was found on which it fits: " + last.words)
        return None
    screen.say(
        f"the smallest is {last.topology.name}; how to run fastest there: "
        f"jaxllm plan {config_file} --topology {last.topology.name}"
    )
    return last.topology


def generation(topology: str) -> Tpu:
    """The TPU generation of `v5e`, or of any of its slices; ValueError that lists what there is."""
    name = topology.strip().lower()
    return TPUS[name] if name in TPUS else parse_topology(topology).tpu


def ask_slices(
    workload: Workload,
    tpu: Tpu,
    try_one: Callable[[Candidate, Topology], Outcome | None],
) -> list[Verdict]:
    """Verdicts up to the first slice that fits; try_one returns None when the budget is spent."""
    calibration, verdicts = Calibration(), []
    for shape in sorted(tpu.slices, key=lambda shape: math.prod(map(int, shape.split("x")))):
        topology = parse_topology(f"{tpu.name}:{shape}")
        verdict = _ask(workload, topology, calibration, try_one)
        verdicts.append(verdict)
        if verdict.fits or verdict.fits is None:
            break
    return verdicts


def _ask(
    workload: Workload,
    topology: Topology,
    calibration: Calibration,
    try_one: Callable[[Candidate, Topology], Outcome | None],
) -> Verdict:
    """Whether a slice is large enough: the candidates that are expected to need least, compiled."""
    limit = topology.tpu.hbm_limit_gib * _GIB
    try:
        found = candidates(workload, num_devices=num_devices(topology), most_parts=workload.rows)
    except ValueError:
        return Verdict(topology, False, "no layout divides the rows and the model's sizes")
    known = estimates(workload, found, topology)
    least = min(estimate.memory.lower for estimate in known.values())
    if least > limit:
        return Verdict(topology, False, f"surely takes more than {least / _GIB:.2f} GiB a device")
    open_ = [each for each in found if known[each].memory.lower <= limit]
    peaks: list[float] = []
    errors: list[str] = []
    for _ in range(min(TRIES, len(open_))):
        expected = {each: calibration.predict(each, known[each]) for each in open_}
        candidate = min(open_, key=lambda each: (expected[each].peak, expected[each].seconds))
        if peaks and expected[candidate].peak > 1.25 * limit:
            break  # what needs least was compiled, and the rest is far from fitting
        open_.remove(candidate)
        outcome = try_one(candidate, topology)
        if outcome is None:
            return Verdict(topology, None, "--budget is spent; give more minutes to go on")
        calibration.add(outcome, known[candidate])
        if outcome.fits:
            words = f"fits: {outcome.peak_gib:.2f} GiB as {candidate.layout_words}"
            return Verdict(topology, True, f"{words}, remat {candidate.remat_words}")
        peaks += [] if outcome.peak_gib is None else [outcome.peak_gib]
        errors += [] if outcome.error is None else [outcome.error]
    if peaks:
        return Verdict(topology, False, f"compiled, needs {min(peaks):.2f} GiB a device")
    return Verdict(topology, False, f"does not compile: {errors[0]}")


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("slice", no_wrap=True)
    table.add_column("chips", justify="right")
    table.add_column("GiB a device", justify="right")
    table.add_column("verdict")
    for verdict in verdicts:
        tpu = verdict.topology.tpu
        chips = num_devices(verdict.topology) // tpu.devices_per_chip
        words = verdict.words
        table.add_row(verdict.topology.name, f"{chips:,}", f"{tpu.hbm_limit_gib:.2f}", words)
    return table
