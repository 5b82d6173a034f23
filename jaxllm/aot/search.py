"""The search itself: the most promising candidate next, corrected by each that was compiled."""

import concurrent.futures as futures
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from jaxllm.aot.search_outcome import Calibration, Estimate, Outcome, Prediction
from jaxllm.aot.search_space import Candidate, Flags

# How fast the time of a candidate that is expected not to fit grows in the order of the search.
_OVERFLOW = 8.0
# The time of a candidate whose mesh, or remat policy, broke the compiler and never worked.
_BROKEN = 2.0
_POLL_SECONDS = 0.5


class Search:
    """Candidates in the order of their promise. Arithmetic drops only what surely loses.

    estimates: by candidate. limit: bytes of HBM that a program may use. flags: options to try on
    the best candidate, beside none.
    """

    def __init__(
        self,
        estimates: Mapping[Candidate, Estimate],
        *,
        limit: float,
        flags: Sequence[Flags] = (),
    ):
        self._estimates = {
            candidate: estimate
            for candidate, estimate in estimates.items()
            if estimate.memory.lower <= limit
        }
        self.num_too_large = len(estimates) - len(self._estimates)
        self._limit, self._flags = limit, flags
        self.calibration = Calibration()
        self._open: dict[Candidate, None] = dict.fromkeys(self._estimates)
        self._order: list[Candidate] | None = None
        self._worked: set[object] = set()
        self._broken: set[object] = set()
        self.running: list[Candidate] = []
        self.outcomes: list[Outcome] = []

    @property
    def best(self) -> Outcome | None:
        """The fastest that fits, of those compiled."""
        return min(
            (outcome for outcome in self.outcomes if outcome.fits),
            key=lambda outcome: outcome.seconds,
            default=None,
        )

    @property
    def num_open(self) -> int:
        """Candidates that may still win."""
        return len(self._ordered())

    def possible(self) -> list[Candidate]:
        """All that this search may come to compile."""
        bases = list(self._estimates)
        return bases + [replace(base, flags=flags) for base in bases for flags in self._flags]

    def ranking(self) -> list[Outcome]:
        """All outcomes, the fastest first; then those that do not fit, then those that failed."""
        return sorted(
            self.outcomes, key=lambda each: (each.seconds, each.report is None, each.peak_gib or 0)
        )

    def predict(self, candidate: Candidate) -> Prediction:
        """What is expected of a candidate, in the light of what was compiled."""
        if candidate.flags:
            for outcome in self.outcomes:
                if outcome.candidate == replace(candidate, flags=()) and outcome.peak_gib:
                    return Prediction(outcome.peak_gib * 2**30, outcome.seconds)
        return self.calibration.predict(candidate, self._estimates[replace(candidate, flags=())])

    def take(self) -> Candidate | None:
        """The most promising candidate, now running; None if none may win any more."""
        ordered = self._ordered()
        if not ordered:
            return None
        chosen = ordered[0]
        if not self.outcomes:
            # Nothing is calibrated yet: a second mesh teaches more than a second remat.
            meshes = {candidate.parallel for candidate in self.running}
            chosen = next((c for c in ordered if c.parallel not in meshes), chosen)
        del self._open[chosen]
        ordered.remove(chosen)
        self.running.append(chosen)
        return chosen

    def put_back(self) -> None:
        """Forget what runs: it was stopped."""
        self._open.update(dict.fromkeys(self.running))
        self.running.clear()
        self._order = None

    def add(self, outcome: Outcome) -> None:
        """Take in a result, of a candidate that runs or of an earlier search."""
        candidate, before = outcome.candidate, self.best
        base = replace(candidate, flags=())
        if base not in self._estimates:
            return
        if candidate in self.running:
            self.running.remove(candidate)
        self._open.pop(candidate, None)
        self.outcomes.append(outcome)
        seen = self._broken if outcome.report is None else self._worked
        seen.update(_traits(candidate))
        self._broken -= self._worked
        if not candidate.flags:
            self.calibration.add(outcome, self._estimates[candidate])
        if self.best is outcome and outcome is not before and not candidate.flags:
            done = {each.candidate for each in self.outcomes}
            tried = (replace(candidate, flags=flags) for flags in self._flags)
            self._open.update({each: None for each in tried if each not in done})
        self._order = None

    def _ordered(self) -> list[Candidate]:
        if self._order is None:
            bound = self.best.seconds if self.best else math.inf
            promising = [
                (self._promise(candidate), index, candidate)
                for index, candidate in enumerate(self._open)
                if self._estimates[replace(candidate, flags=())].time.lower < bound
            ]
            self._order = [candidate for _, _, candidate in sorted(promising, key=lambda x: x[:2])]
        return self._order

    def _promise(self, candidate: Candidate) -> float:
        """Expected seconds, made longer where memory is expected to be too small."""
        expected = self.predict(candidate)
        over = max(0.0, expected.peak / self._limit - 1)
        doubts = sum(trait in self._broken for trait in _traits(candidate))
        return expected.seconds * (1 + _OVERFLOW * over) * _BROKEN**doubts


def _traits(candidate: Candidate) -> tuple[object, object]:
    """What a failure to compile may be due to."""
    return candidate.parallel, (candidate.remat, candidate.offload)


def run_search(
    search: Search,
    submit: Callable[[Candidate], futures.Future[Outcome]],
    *,
    num_workers: int,
    may_start: Callable[[], bool],
    on_change: Callable[[], None],
) -> None:
    """Compile `num_workers` candidates at a time until none is left or `may_start` says no.

    submit: begins to compile. may_start: asked before each. on_change: called at least every half
    second. What was running when an exception (ctrl-C) ends it is put back.
    """
    pending: set[futures.Future[Outcome]] = set()
    try:
        while True:
            while len(pending) < num_workers and may_start():
                candidate = search.take()
                if candidate is None:
                    break
                pending.add(submit(candidate))
            on_change()
            if not pending:
                return
            done, pending = futures.wait(pending, _POLL_SECONDS, futures.FIRST_COMPLETED)
            for each in done:
                search.add(each.result())
    finally:
        search.put_back()


def add_known(search: Search, outcomes: Iterable[Outcome]) -> None:
    """Take in the results of an earlier search, those without flags first."""
    for outcome in sorted(outcomes, key=lambda each: len(each.candidate.flags)):
        search.add(outcome)
