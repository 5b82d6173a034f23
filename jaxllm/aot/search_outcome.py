"""What a compile said about a candidate, and how it corrects the arithmetic for the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxllm.aot.search_memory import MemoryEstimate
from jaxllm.aot.search_space import Candidate
from jaxllm.aot.search_time import TimeEstimate, owner

_NEGLIGIBLE = 0.004  # of a step: parts below it say nothing about their ratio
# How much more a compiled program says about others on the same mesh, and with the same remat.
_SAME_MESH, _SAME_REMAT = 4.0, 2.0


@dataclass(frozen=True)
class Outcome:
    """The report of a compiled candidate as data, or why there is none."""

    candidate: Candidate
    report: Mapping[str, Any] | None
    error: str | None = None

    @property
    def fits(self) -> bool:
        """Whether it compiled within the chips' memory."""
        return self.report is not None and bool(self.report["fits"])

    @property
    def seconds(self) -> float:
        """The predicted step; infinite where it does not fit."""
        if self.report is None or not self.fits or self.report["predicted_step_seconds"] is None:
            return math.inf
        return float(self.report["predicted_step_seconds"])

    @property
    def peak_gib(self) -> float | None:
        """Peak HBM of a device, also of what does not fit."""
        return None if self.report is None else float(self.report["peak_hbm_gib"])

    def parts(self) -> dict[str, float]:
        """The step's seconds by the parts of a `TimeEstimate`; empty where it does not fit."""
        if self.report is None or not self.fits:
            return {}
        found = dict(self.report["seconds_by_kind"])
        exposed = found.pop("communication", 0.0)
        lines = self.report["collectives"]
        total = sum(line["exposed_seconds"] for line in lines)
        for line in lines if total else ():
            part = owner(tuple(line["axes"]))
            found[part] = found.get(part, 0.0) + exposed * line["exposed_seconds"] / total
        return found


@dataclass(frozen=True)
class Estimate:
    """The arithmetic about one candidate."""

    memory: MemoryEstimate
    time: TimeEstimate


@dataclass(frozen=True)
class Prediction:
    """A candidate's expected peak in bytes and step in seconds, corrected by what was compiled."""

    peak: float
    seconds: float


class Calibration:
    """Ratios of compiled to estimated figures, weighted by how alike the candidates are."""

    def __init__(self) -> None:
        self._work: list[tuple[Candidate, float]] = []
        self._parts: dict[str, list[tuple[Candidate, float]]] = {}

    def add(self, outcome: Outcome, estimate: Estimate) -> None:
        """Learn from one compiled program, be it too large."""
        if outcome.peak_gib is None:
            return
        work = max(outcome.peak_gib * 2**30 - estimate.memory.state, 1.0)
        ratio = work / max(estimate.memory.work, 1.0)
        # A program that does not fit may be measured short of what it needs.
        self._work.append((outcome.candidate, ratio if outcome.fits else max(ratio, 1.0)))
        if not outcome.fits:
            return
        least = _NEGLIGIBLE * outcome.seconds
        measured = outcome.parts()
        for part in {*measured, *estimate.time.parts}:
            estimated = estimate.time.parts.get(part, 0.0)
            ratio = (measured.get(part, 0.0) + least) / (estimated + least)
            self._parts.setdefault(part, []).append((outcome.candidate, ratio))

    def predict(self, candidate: Candidate, estimate: Estimate) -> Prediction:
        """The estimate, each part corrected."""
        seconds = sum(
            spent * _mean(self._parts.get(part, ()), candidate)
            for part, spent in estimate.time.parts.items()
        )
        memory = estimate.memory
        return Prediction(
            peak=memory.state + memory.work * _mean(self._work, candidate), seconds=seconds
        )


def _mean(ratios: Sequence[tuple[Candidate, float]], candidate: Candidate) -> float:
    """Their weighted geometric mean; 1 without any."""
    if not ratios:
        return 1.0
    total = weights = 0.0
    for known, ratio in ratios:
        weight = 1.0
        weight *= _SAME_MESH if known.parallel == candidate.parallel else 1.0
        is_alike = (known.remat, known.offload) == (candidate.remat, candidate.offload)
        weight *= _SAME_REMAT if is_alike else 1.0
        total += weight * math.log(ratio)
        weights += weight
    return math.exp(total / weights)
