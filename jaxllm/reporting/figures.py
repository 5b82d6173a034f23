"""The figures of a run: what it reached, how fast, and whether it is done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxllm.reporting import scale
from jaxllm.reporting.run import RunRecords


@dataclass(frozen=True)
class Figure:
    """One figure: where it stands in summary.json, which series has it before the run is done,
    how it is said, which way is better (0: neither), and whether it is a mean over the run."""

    label: str
    key: str
    series: str | None
    say: Callable[[float], str]
    better: int = 0
    is_mean: bool = False

    def of(self, run: RunRecords) -> float | None:
        """The figure of the finished run, else what its records say so far, else None."""
        value = run.summary.get(self.key)
        if isinstance(value, float):
            return value
        if self.key == "goodput" and run.account is not None:
            return run.account.goodput
        if self.key == "steps" and run.last_step is not None:
            return float(run.last_step)
        series = run.series.get(self.series or "")
        if series is None:
            return None
        return series.mean if self.is_mean else series.last


def _precise(value: float) -> str:
    return scale.compact(value, 4)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


FIGURES = (
    Figure("Accuracy", "accuracy", "validation_accuracy", _percent, +1),
    Figure("Macro-F1", "macro_f1", "validation_macro_f1", _precise, +1),
    Figure("Baseline accuracy", "baseline_accuracy", None, _percent),
    Figure("Baseline macro-F1", "baseline_macro_f1", None, _precise),
    Figure("BLEU", "bleu", "validation_bleu", _precise, +1),
    Figure("chrF", "chrf", "validation_chrf", _precise, +1),
    Figure("F1", "f1", "validation_f1", _precise, +1),
    Figure("Exact match", "exact_match", "validation_exact_match", _precise, +1),
    Figure("Pearson", "pearson", "validation_pearson", _precise, +1),
    Figure("Spearman", "spearman", "validation_spearman", _precise, +1),
    Figure("First found", "recall_at_1", "validation_recall_at_1", _percent, +1),
    Figure("Bits per byte", "validation_bits_per_byte", "validation_bits_per_byte", _precise, -1),
    Figure("xz \u22129e", "xz_bits_per_byte", None, _precise),
    Figure("Validation loss", "validation_loss", "validation_loss", _precise, -1),
    Figure("Training loss", "loss", "loss", _precise),
    Figure("Steps", "steps", None, scale.count),
    Figure("Tokens", "tokens", None, scale.compact),
    Figure(
        "Tokens a second", "tokens_per_second", "tokens_per_second", scale.compact, is_mean=True
    ),
    Figure("Goodput", "goodput", None, _percent, +1),
    Figure("Time", "wall_seconds", None, scale.duration),
)


def table(runs: Sequence[RunRecords]) -> list[tuple[Figure, list[float | None]]]:
    """The figures that at least one of `runs` has, each with its value in every run."""
    rows = [(figure, [figure.of(run) for run in runs]) for figure in FIGURES]
    return [(figure, values) for figure, values in rows if any(v is not None for v in values)]


def best(figure: Figure, values: Sequence[float | None]) -> int | None:
    """Which run has the best value, where runs differ and one way is better."""
    known = [(figure.better * v, i) for i, v in enumerate(values) if v is not None and v == v]
    if not figure.better or len(known) < 2 or len({value for value, _ in known}) < 2:
        return None
    return max(known)[1]


def state(run: RunRecords) -> str:
    """Whether the run is done, and where it stands if not."""
    last = run.last_step
    if run.summary:
        return "done"
    if last is None:
        return "nothing recorded yet"
    planned = _planned_steps(run.config)
    reached = f"step {last:,} of {planned:,}" if planned else f"step {last:,}"
    return f"not finished, at {reached}"


def verdict(run: RunRecords) -> str | None:
    """How the run's bits per byte compare with those of xz, in a sentence."""
    own, other = (run.summary.get(k) for k in ("validation_bits_per_byte", "xz_bits_per_byte"))
    if not isinstance(own, float) or not isinstance(other, float) or not own > 0 or not other > 0:
        return None
    share = abs(1 - own / other)
    way = "fewer" if own < other else "more"
    return (
        f"{own:.3f} bits per byte of validation text: {share:.1%} {way} than the "
        f"{other:.3f} of xz \u22129e after it has seen the training text."
    )


def warnings(run: RunRecords) -> list[str]:
    """Sentences about what is wrong with the records: gaps, and lines that could not be read."""
    found = list(run.problems)
    for key, series in run.series.items():
        bad = len(series) - len(series.finite)
        if bad:
            first = series.steps[~np.isfinite(series.values)][0]
            found.append(
                f"{key} is NaN or infinite at {bad:,} of {len(series):,} recorded steps, "
                f"first at step {first:,}; its curve has a gap there"
            )
    return found


def _planned_steps(config: Any) -> int | None:
    training = config.get("training")
    steps = training.get("steps") if isinstance(training, dict) else None
    return steps if isinstance(steps, int) else None
