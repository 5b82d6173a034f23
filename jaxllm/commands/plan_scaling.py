"""How the speed of a planned config scales: as many rows a chip, on 16 to 4,096 chips."""

import math
from dataclasses import dataclass, replace

from rich import box
from rich.table import Table

from jaxllm.aot.search import Search
from jaxllm.aot.search_space import Candidate, candidates
from jaxllm.aot.search_time import chip_of
from jaxllm.aot.search_workload import Workload
from jaxllm.aot.topology import Topology, parse_topology
from jaxllm.commands.plan_screen import PlanScreen
from jaxllm.commands.plan_workload import estimates, num_devices
from jaxllm.hardware import Tpu

SCALED_CHIPS = tuple(2**power for power in range(4, 13))


@dataclass(frozen=True)
class ScaledStep:
    """The fastest expected step on some chips. how: compiled, or extrapolated by arithmetic."""

    topology: Topology
    rows: int
    candidate: Candidate
    seconds: float
    tokens_per_second_per_chip: float
    mfu: float
    how: str


def show_scaling(
    workload: Workload, search: Search, topology: Topology, screen: PlanScreen
) -> None:
    """Print the table of `scaled_steps`."""
    table = Table(box=box.SIMPLE_HEAD, title="scaling, rows a chip kept", title_justify="left")
    for heading in ("chips", "slices", "rows"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("layout")
    for heading in ("step s", "tokens/s/chip", "MFU"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("figures")
    for step in scaled_steps(workload, search, topology):
        slices = f"{step.topology.num_slices} x " if step.topology.num_slices > 1 else ""
        table.add_row(
            f"{num_chips(step.topology):,}",
            slices + step.topology.name,
            f"{step.rows:,}",
            step.candidate.layout_words,
            f"{step.seconds:.3f}",
            f"{step.tokens_per_second_per_chip:,.0f}",
            f"{step.mfu:.1%}",
            step.how,
        )
    screen.show(table)


def scaled_steps(workload: Workload, search: Search, topology: Topology) -> list[ScaledStep]:
    """The planned slice as compiled, and others by the arithmetic that its compiles corrected.

    The winner's remat policy, microbatches and compiler options are kept, its layout is chosen
    anew. Chips on which no layout fits, or whose share of the rows is no whole number, are left
    out.
    """
    assert search.best is not None, "nothing to scale"
    planned, best = num_chips(topology), search.best
    steps = []
    for chips in sorted({*SCALED_CHIPS, planned}):
        if chips == planned:
            steps.append(_step(workload, topology, best.candidate, best.seconds, "compiled"))
            continue
        rows, remainder = divmod(workload.rows * chips, planned)
        scaled = scaled_topology(topology.tpu, chips)
        if remainder or not rows or scaled is None:
            continue
        step = _extrapolated(replace(workload, rows=rows), search, scaled)
        steps += [] if step is None else [step]
    return steps


def scaled_topology(tpu: Tpu, chips: int) -> Topology | None:
    """A published slice of so many chips, or several of the largest; None where neither is."""
    by_chips = {math.prod(map(int, shape.split("x"))): shape for shape in tpu.slices}
    largest = max(by_chips)
    if chips in by_chips:
        return parse_topology(f"{tpu.name}:{by_chips[chips]}")
    if chips % largest:
        return None
    return parse_topology(f"{tpu.name}:{by_chips[largest]}", num_slices=chips // largest)


def num_chips(topology: Topology) -> int:
    """Chips of all slices."""
    return num_devices(topology) // topology.tpu.devices_per_chip


def _extrapolated(workload: Workload, search: Search, topology: Topology) -> ScaledStep | None:
    """The fastest by arithmetic of those that are expected to fit."""
    assert search.best is not None
    winner, limit = search.best.candidate, topology.tpu.hbm_limit_gib * 2**30
    try:
        found = candidates(
            workload, num_devices=num_devices(topology), num_slices=topology.num_slices
        )
    except ValueError:
        return None  # nothing divides so many rows
    alike = [
        candidate
        for candidate in found
        if (candidate.remat, candidate.offload) == (winner.remat, winner.offload)
        and candidate.num_microbatches == winner.num_microbatches
    ]
    expected = {
        candidate: search.calibration.predict(candidate, estimate)
        for candidate, estimate in estimates(workload, alike, topology).items()
    }
    fitting = [candidate for candidate in alike if expected[candidate].peak <= limit]
    if not fitting:
        return None
    chosen = min(fitting, key=lambda candidate: expected[candidate].seconds)
    seconds = expected[chosen].seconds * _flags_factor(search)
    return _step(workload, topology, chosen, seconds, "extrapolated")


def _flags_factor(search: Search) -> float:
    """What its compiler options make of the winner's step; arithmetic knows nothing of them."""
    assert search.best is not None
    base = replace(search.best.candidate, flags=())
    without = [each.seconds for each in search.outcomes if each.candidate == base and each.fits]
    return search.best.seconds / without[0] if without else 1.0


def _step(
    workload: Workload, topology: Topology, candidate: Candidate, seconds: float, how: str
) -> ScaledStep:
    peak = chip_of(topology).peak_flops * num_devices(topology)
    return ScaledStep(
        topology=topology,
        rows=workload.rows,
        candidate=candidate,
        seconds=seconds,
        tokens_per_second_per_chip=workload.tokens / seconds / num_chips(topology),
        mfu=workload.flops / seconds / peak,
        how=how,
    )
