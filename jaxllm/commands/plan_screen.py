"""What `plan` shows: a live table while candidates compile, and the rankings at the end."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jaxllm.aot.search import Search
from jaxllm.aot.search_outcome import Outcome
from jaxllm.aot.search_space import Candidate

_WIDTH = 160  # of tables that go to a file or a pipe
_WIDE = 110  # from which on the last two columns are shown too
_SHOWN_LIVE = 10
_SHOWN_ERROR = 60  # characters of an error in a table
_SHOWN_KINDS = 2  # of work, that a step's time is told in
_KINDS = {"communication": "links", "pallas": "Pallas"}
_GIB = 2**30


class PlanScreen:
    """A live table on a terminal, a line a result elsewhere. Used in a `with`."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            self._console.width = _WIDTH
        self._live: Live | None = None
        self._begun: dict[Candidate, float] = {}
        self._told: set[Candidate] = set()

    @property
    def width(self) -> int:
        """Characters in a line."""
        return self._console.width

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False)

    def show(self, table: Table | Group) -> None:
        """A table."""
        self._console.print(table)

    def update(self, search: Search) -> None:
        """What is compiled, what runs, and how much is open."""
        for candidate in search.running:
            self._begun.setdefault(candidate, time.monotonic())
        if self._live is not None:
            self._live.update(self.progress(search))
            return
        for outcome in search.outcomes:
            if outcome.candidate not in self._told:
                self._told.add(outcome.candidate)
                self.say(outcome_line(outcome))

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, transient=True, refresh_per_second=2, auto_refresh=True
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def progress(self, search: Search) -> Group:
        """The live table."""
        table = ranking_table(search.ranking()[:_SHOWN_LIVE], width=self.width)
        now = time.monotonic()
        for candidate in search.running:
            expected = search.predict(candidate)
            row: list[str | Text] = [
                f"{now - self._begun[candidate]:.0f} s",
                *_how(candidate),
                Text(f"~{expected.peak / _GIB:.1f}", style="dim"),
                Text(f"~{expected.seconds:.3g}", style="dim"),
                Text("compiling", style="cyan"),
                "",
                "",
            ]
            table.add_row(*row[: len(table.columns)])
        return Group(table, Text(progress_line(search), style="dim"))


def progress_line(search: Search) -> str:
    """How many candidates there are of each kind."""
    return (
        f"{len(search.outcomes)} compiled, {len(search.running)} compiling, {search.num_open} "
        f"more may win; {search.num_too_large} are surely too large"
    )


def ranking_table(outcomes: Sequence[Outcome], *, width: int = _WIDTH) -> Table:
    """One row a candidate, in the order given. width: characters of the terminal."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", no_wrap=True, min_width=2)
    table.add_column("layout", no_wrap=True)
    table.add_column("remat", no_wrap=True)
    table.add_column("parts", justify="right", no_wrap=True, min_width=5)
    has_flags = any(outcome.candidate.flags for outcome in outcomes)
    table.add_column("flags", max_width=24 if has_flags else 5)
    for heading in ("GiB", "step s", "MFU"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=6)
    if width >= _WIDE:
        table.add_column("tokens/s/chip", justify="right", no_wrap=True)
        table.add_column("what takes the time")
    for place, outcome in enumerate(outcomes, start=1):
        row = _row(outcome, place)
        table.add_row(*row[: len(table.columns)])
    return table


def outcome_line(outcome: Outcome) -> str:
    """A result in one line."""
    layout, remat, parts, flags = _how(outcome.candidate)
    how = f"{layout} | remat {remat} | {parts} parts" + (f" | {flags}" if flags else "")
    if outcome.report is None:
        return f"{how}: {outcome.error}"
    peak = f"{outcome.peak_gib:.2f} GiB"
    if not outcome.fits:
        return f"{how}: does not fit, {peak}"
    return f"{how}: {outcome.seconds:.3f} s, {peak}, MFU {outcome.report['predicted_mfu']:.1%}"


def limit_words(outcome: Outcome) -> str:
    """What limits a compiled step."""
    if outcome.report is None:
        error = outcome.error or ""
        return error if len(error) <= _SHOWN_ERROR else error[:_SHOWN_ERROR] + "…"
    if not outcome.fits:
        return f"needs more than {outcome.report['hbm_limit_gib']:.2f} GiB"
    kinds = sorted(outcome.report["seconds_by_kind"].items(), key=lambda kind: -kind[1])
    shares = [f"{_KINDS.get(kind, kind)} {spent / outcome.seconds:.0%}" for kind, spent in kinds]
    return ", ".join(shares[:_SHOWN_KINDS])


def _row(outcome: Outcome, place: int) -> tuple[str | Text, ...]:
    how, report = _how(outcome.candidate), outcome.report
    peak = "" if outcome.peak_gib is None else f"{outcome.peak_gib:.2f}"
    if report is None or not outcome.fits:
        verdict = Text("failed" if report is None else "no fit", style="red")
        return ("", *how, peak, verdict, "", "", Text(limit_words(outcome), style="red"))
    return (
        str(place),
        *how,
        peak,
        f"{outcome.seconds:.3f}",
        f"{report['predicted_mfu']:.1%}",
        f"{report['tokens_per_second_per_chip']:,.0f}",
        limit_words(outcome),
    )


def _how(candidate: Candidate) -> tuple[str, str, str, str]:
    flags = ", ".join(
        f"{name.removeprefix('xla_').removeprefix('tpu_')}={value}"
        for name, value in candidate.flags
    )
    return candidate.layout_words, candidate.remat_words, str(candidate.num_microbatches), flags
