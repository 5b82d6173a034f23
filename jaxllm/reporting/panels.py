"""Which charts the page shows of the quantities that runs recorded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxllm.objectives import loss_unit
from jaxllm.reporting.charts import Chart, Line, Reference
from jaxllm.reporting.run import RunRecords
from jaxllm.reporting.series import Series

_VALIDATION = ("validation_loss", "validation_bits_per_byte")
# Perplexity is the exponential of the loss: its curve has nothing to add.
_NOT_DRAWN = re.compile(r"validation_perplexity|validation/.+/perplexity")
_NAMED_SET = re.compile(r"validation/(?P<name>.+)/(?P<measure>loss|bits_per_byte)")


@dataclass(frozen=True)
class Quantity:
    """How a recorded number is shown: its values times `factor` are in `unit`."""

    title: str
    unit: str
    factor: float = 1.0
    may_be_log: bool = False
    from_zero: bool = True


@dataclass(frozen=True)
class Section:
    """Charts that belong together, under a heading."""

    title: str
    charts: tuple[Chart, ...]


_OPTIMISATION = {
    "learning_rate": Quantity("Learning rate", "as scheduled"),
    "gradient_norm": Quantity("Gradient norm", "global, before clipping", may_be_log=True),
    "objective": Quantity("Objective", "loss and its regularisers", from_zero=False),
}
_THROUGHPUT = {
    "tokens_per_second": Quantity("Throughput", "tokens per second"),
    "tokens_per_second_per_device": Quantity("Throughput a device", "tokens per second"),
    "mfu": Quantity("Model FLOP utilisation", "% of peak", factor=100.0),
    "data_wait_share": Quantity("Waiting for data", "% of the time", factor=100.0),
    "goodput": Quantity("Goodput", "% of the time since the first start", factor=100.0),
    "memory_bytes": Quantity("Memory", "GiB", factor=2.0**-30),
    "num_tokens": Quantity("Tokens a step", "with a loss"),
}
_TASK = {
    "validation_accuracy": Quantity("Accuracy", "% of validation rows", factor=100.0),
    "validation_macro_f1": Quantity("Macro-F1", "mean over classes"),
    "validation_micro_f1": Quantity("Micro-F1", "over rows"),
    "validation_matthews": Quantity("Matthews correlation", "1 is right, 0 is chance"),
    "validation_subset_accuracy": Quantity("All labels right", "% of rows", factor=100.0),
    "validation_f1": Quantity("F1", "of what is found"),
    "validation_precision": Quantity("Precision", "share of what is found"),
    "validation_recall": Quantity("Recall", "share of what is there"),
    "validation_exact_match": Quantity("Exact match", "share of answers"),
    "validation_pearson": Quantity("Pearson", "correlation", from_zero=False),
    "validation_spearman": Quantity("Spearman", "correlation of ranks", from_zero=False),
    "validation_mean_squared_error": Quantity("Squared error", "mean"),
    "validation_recall_at_1": Quantity("First found", "share of pairs"),
    "validation_recall_at_5": Quantity("Among the first five", "share of pairs"),
    "validation_mean_reciprocal_rank": Quantity("Reciprocal rank", "mean over pairs"),
    "validation_bleu": Quantity("BLEU", "0 to 100"),
    "validation_chrf": Quantity("chrF", "0 to 100"),
}
_EXPERTS = {
    "router_balance_loss": Quantity("Balance of experts", "1 is even", from_zero=False),
    "router_max_load": Quantity("Most loaded expert", "times an even load"),
    "router_min_load": Quantity("Least loaded expert", "times an even load"),
    "router_entropy": Quantity("Entropy of routing", "nats"),
    "router_z_loss": Quantity("Squared log-normaliser of routers", "mean"),
    "router_loss": Quantity("What routers add to the objective", "summed over layers"),
}
# A number that equals the other one throughout (one device, no regularisers) says nothing new.
_REPEATS = {
    "tokens_per_second_per_device": "tokens_per_second",
    "objective": "loss",
    "validation_micro_f1": "validation_accuracy",
}
# Throughout 0 where no step was bad.
_OF_BAD_STEPS = ("is_skipped", "skipped_in_a_row", "skipped_steps")


def sections(runs: Sequence[RunRecords]) -> tuple[Section, ...]:
    """The charts of all quantities that any of `runs` recorded; unknown ones come last."""
    keys = {key for run in runs for key in run.series if not _NOT_DRAWN.fullmatch(key)}
    named = {key for key in keys if _NAMED_SET.fullmatch(key)}
    known = {"loss", *_VALIDATION, *_OPTIMISATION, *_TASK, *_EXPERTS, *_THROUGHPUT, *named}
    keys -= {key for key, other in _REPEATS.items() if _equal(runs, key, other)}
    keys -= {"num_tokens"} if _constant(runs, "num_tokens") else set()
    keys -= {key for key in _OF_BAD_STEPS if _zero(runs, key)}
    others = {
        key: Quantity(key, "as recorded", may_be_log=True, from_zero=False)
        for key in sorted(keys - known)
    }
    found = (
        ("Loss", _loss_charts(runs, named)),
        ("Task", _charts(runs, _TASK, keys)),
        ("Optimisation", _charts(runs, _OPTIMISATION, keys)),
        ("Experts", _charts(runs, _EXPERTS, keys)),
        ("Throughput", _charts(runs, _THROUGHPUT, keys)),
        ("Further measurements", _charts(runs, others, keys)),
    )
    # One axis of steps for all, so that what happened at a step stands at one place.
    last = max((run.last_step or 0 for run in runs), default=0)
    return tuple(
        Section(title, tuple(replace(chart, last_step=last) for chart in charts))
        for title, charts in found
        if charts
    )


def loss_chart(run: RunRecords) -> Chart:
    """Training and validation loss of one run in one chart, with the line of xz if known."""
    return _curves_of(
        [run],
        _loss([run]),
        [("training", "loss"), ("validation", "validation_loss")],
        _references([run], per_byte=False),
    )[0]


def _loss(runs: Sequence[RunRecords]) -> Quantity:
    """The loss in the unit of the runs' objectives, where it is one."""
    units = {loss_unit(run.config.get("objective", {}).get("type")) for run in runs}
    unit = units.pop() if len(units) == 1 else "as each run has it"
    return Quantity("Loss", unit, may_be_log=True, from_zero=False)


_BITS = Quantity("Bits per byte", "validation text", may_be_log=True, from_zero=False)


def _loss_charts(runs: Sequence[RunRecords], named: set[str]) -> tuple[Chart, ...]:
    losses = [("training", "loss"), ("validation", "validation_loss")]
    bits = [("validation", "validation_bits_per_byte")]
    for key in sorted(named):
        match = _NAMED_SET.fullmatch(key)
        assert match
        whole = f"validation_{match['measure']}"
        if _equal(runs, key, whole):
            continue  # the only set there is
        (losses if match["measure"] == "loss" else bits).append((match["name"], key))
    return (
        *_curves_of(runs, _loss(runs), losses, _references(runs, per_byte=False)),
        *_curves_of(runs, _BITS, bits, _references(runs, per_byte=True)),
    )


def _curves_of(
    runs: Sequence[RunRecords],
    quantity: Quantity,
    curves: list[tuple[str, str]],
    references: tuple[Reference, ...],
) -> tuple[Chart, ...]:
    """The `(label, key)` curves: of one run in one chart, of several in a chart for each curve."""
    present = [(label, key) for label, key in curves if any(key in run.series for run in runs)]
    if len(runs) > 1:
        return tuple(
            replace(
                _chart(runs, quantity, key),
                title=f"{quantity.title}, {label}",
                references=references if key in _VALIDATION else (),
            )
            for label, key in present
        )
    lines = tuple(
        Line(label, runs[0].series[key], colour=colour, noisy=key == "loss")
        for colour, (label, key) in enumerate(present)
    )
    if not lines and quantity is _BITS:
        return ()
    held = any(key in _VALIDATION for _, key in present)
    chart = Chart(quantity.title, quantity.unit, lines, references if held else ())
    return (replace(chart, may_be_log=quantity.may_be_log),)


def _charts(
    runs: Sequence[RunRecords], quantities: dict[str, Quantity], keys: set[str]
) -> tuple[Chart, ...]:
    return tuple(_chart(runs, quantities[key], key) for key in quantities if key in keys)


def _chart(runs: Sequence[RunRecords], quantity: Quantity, key: str) -> Chart:
    """One quantity of every run that recorded it, a colour for each run."""
    lines = tuple(
        Line(
            run.name if len(runs) > 1 else quantity.title,
            _times(run.series[key], quantity.factor),
            colour=index,
            group=index,
            noisy=key != "learning_rate" and not key.startswith("validation"),
        )
        for index, run in enumerate(runs)
        if key in run.series
    )
    return Chart(
        quantity.title,
        quantity.unit,
        lines,
        may_be_log=quantity.may_be_log,
        from_zero=quantity.from_zero,
    )


def _times(series: Series, factor: float) -> Series:
    return series if factor == 1.0 else replace(series, values=series.values * factor)


def _references(runs: Sequence[RunRecords], *, per_byte: bool) -> tuple[Reference, ...]:
    """What xz reaches on the validation text, once for each value that the runs give."""
    levels: dict[str, Reference] = {}
    for run in runs:
        level = _xz_level(run, per_byte=per_byte)
        if level is not None and np.isfinite(level):
            levels.setdefault(f"{level:.3g}", Reference("xz \u22129e", level))
    return tuple(levels.values())


def _xz_level(run: RunRecords, *, per_byte: bool) -> float | None:
    """Bits per byte that xz needs, or the nats per token of the run's tokenizer these come to.

    One is a fixed multiple of the other on the same text, which the run's own two figures give.
    """
    level = run.summary.get("xz_bits_per_byte")
    bits = run.summary.get("validation_bits_per_byte")
    loss = run.summary.get("validation_loss")
    if per_byte:
        return level if isinstance(level, float) else None
    if isinstance(level, float) and isinstance(loss, float) and isinstance(bits, float) and bits:
        return level * loss / bits
    return None


def _equal(runs: Sequence[RunRecords], key: str, other: str) -> bool:
    """Whether every run that recorded `key` recorded the same as `other`."""
    pairs = [(run.series[key], run.series.get(other)) for run in runs if key in run.series]
    return all(two is not None and np.array_equal(one.values, two.values) for one, two in pairs)


def _constant(runs: Sequence[RunRecords], key: str) -> bool:
    return all(len(np.unique(run.series[key].values)) == 1 for run in runs if key in run.series)


def _zero(runs: Sequence[RunRecords], key: str) -> bool:
    return not any(run.series[key].values.any() for run in runs if key in run.series)
