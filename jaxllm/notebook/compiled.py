"""A compiled step, and a ranking of ways to train, as a notebook shows them."""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from jaxllm.aot.report import Report
from jaxllm.aot.search_outcome import Outcome
from jaxllm.notebook.bars import draw_bars
from jaxllm.notebook.drawing import WIDTH, Drawing, below, label

_KINDS = {
    "matmul": "matmul",
    "pallas": "Pallas kernels",
    "vector": "element-wise",
    "communication": "exposed exchanges",
    "copy": "waiting for copies",
}
_SHOWN_COLLECTIVES = 6
_SHOWN_OUTCOMES = 8
_LINE = 110  # characters of a sentence that find room beside each other


@dataclass(frozen=True, repr=False)
class CompiledStep(Report):
    """The report of a compiled training step, which draws itself."""

    @classmethod
    def of(cls, report: Report) -> Self:
        """The same report."""
        return cls(**{field.name: getattr(report, field.name) for field in fields(Report)})

    def plot(self) -> Drawing:
        """What the memory of a device holds, what a step's time goes into, what is exchanged."""
        drawings = [self._heading(), self._memory()]
        if self.predicted_step_seconds is not None:
            drawings.append(self._time())
        if self.collectives:
            drawings.append(self._collectives())
        return below(drawings)

    def __repr__(self) -> str:
        return " ".join(self._sentences())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.plot()._repr_mimebundle_()

    def _sentences(self) -> list[str]:
        slices = f"{self.num_slices} slices of " if self.num_slices > 1 else ""
        mesh = " x ".join(f"{axis} {size}" for axis, size in self.mesh.items() if size > 1)
        verdict = "fits" if self.fits else "does not fit"
        sentences = [
            f"{slices}{self.topology}, {self.chips:,} chips, {mesh or 'one device'}: {verdict}, "
            f"{self.peak_hbm_gib:.2f} of {self.hbm_limit_gib:.2f} GiB HBM a device."
        ]
        if self.predicted_step_seconds is not None:
            sentences.append(
                f"Predicted {_seconds(self.predicted_step_seconds)} a step, MFU "
                f"{self.predicted_mfu:.1%}, {self.tokens_per_second_per_chip:,.0f} tokens a second "
                "and chip."
            )
            sentences.append("Predictions rank programs and do not promise a speed.")
        notes = (f"Note: {warning}." for warning in self.warnings)
        return [*sentences, *(line for note in notes for line in textwrap.wrap(note, _LINE))]

    def _heading(self) -> Drawing:
        sentences = self._sentences()
        lines = [label(24, 34, sentences[0], kind="title")]
        lines += [
            label(24, 56 + 18 * index, sentence, kind="unit")
            for index, sentence in enumerate(sentences[1:])
        ]
        height = 46 + 18 * len(sentences[1:])
        return Drawing("".join(lines), WIDTH, height, "\n".join(sentences))

    def _memory(self) -> Drawing:
        return draw_bars(
            {"a device": self.memory_gib},
            title="Memory at its fullest",
            unit="GiB of HBM",
            limit=("limit", self.hbm_limit_gib),
        )

    def _time(self) -> Drawing:
        spent = {_KINDS[kind]: 1e3 * seconds for kind, seconds in self.seconds_by_kind.items()}
        ordered = dict(sorted(spent.items(), key=lambda kind: -kind[1]))
        return draw_bars({"a step": ordered}, title="Predicted time", unit="milliseconds")

    def _collectives(self) -> Drawing:
        rows = {}
        for line in sorted(self.collectives, key=lambda line: -line.seconds)[:_SHOWN_COLLECTIVES]:
            how = "beside compute" if line.asynchronous else "in its way"
            name = f"{line.count:,} {line.kind} over {' x '.join(line.axes) or '-'}, {how}"
            exposed = min(line.exposed_seconds, line.seconds)
            rows[name] = {
                "waited for": 1e3 * exposed,
                "hidden": 1e3 * (line.seconds - exposed),
            }
        return draw_bars(rows, title="Exchanges of a step", unit="milliseconds on the links")


class Ranking(list[Outcome]):
    """The ways to train that were compiled, the fastest first; it draws itself."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        super().__init__(outcomes)

    @property
    def best(self) -> Outcome | None:
        """The fastest that fits; None where nothing does."""
        return next((outcome for outcome in self if outcome.fits), None)

    def plot(self) -> Drawing:
        """The predicted step and the memory of each, the fastest first."""
        shown = [outcome for outcome in self if outcome.report is not None][:_SHOWN_OUTCOMES]
        names = {_name(outcome): outcome for outcome in shown}
        times = {name: _milliseconds(outcome) for name, outcome in names.items() if outcome.fits}
        drawings = []
        if times:
            drawings.append(draw_bars(times, title="Predicted time of a step", unit="milliseconds"))
        if names:
            limit = max(float(_report(outcome)["hbm_limit_gib"]) for outcome in shown)
            drawings.append(
                draw_bars(
                    {name: {"peak": outcome.peak_gib or 0.0} for name, outcome in names.items()},
                    title="Memory at its fullest",
                    unit="GiB of HBM a device",
                    limit=("limit", limit),
                )
            )
        if not drawings:
            words = "nothing was compiled"
            return Drawing(label(24, 34, words), WIDTH, 54, words)
        return below(drawings)

    def __repr__(self) -> str:
        return self.plot().text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.plot()._repr_mimebundle_()


def _name(outcome: Outcome) -> str:
    candidate = outcome.candidate
    parts = f", {candidate.num_microbatches} parts" if candidate.num_microbatches > 1 else ""
    flags = f", {len(candidate.flags)} option" if candidate.flags else ""
    return f"{candidate.layout_words}, remat {candidate.remat_words}{parts}{flags}"


def _milliseconds(outcome: Outcome) -> dict[str, float]:
    spent: Mapping[str, float] = _report(outcome)["seconds_by_kind"]
    return {words: 1e3 * spent[kind] for kind, words in _KINDS.items() if kind in spent}


def _report(outcome: Outcome) -> Mapping[str, Any]:
    assert outcome.report is not None
    return outcome.report


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
