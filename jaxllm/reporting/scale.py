"""Axes: from values to a place between 0 and 1, round tick values, and numbers as text."""

import math
from dataclasses import dataclass

TICKS = 6
_MINUS = "\u2212"


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, linear or (both positive) logarithmic."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> tuple[float, ...]:
        """Round values inside the axis, about `TICKS` of them."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = round_step((self.high - self.low) / TICKS)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return tuple(index * step for index in range(first, last + 1))


def scale_over(values: list[float], *, log: bool = False, from_zero: bool = False) -> Scale:
    """An axis that shows all `values` (finite) with a little room, from zero if asked."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log:
        room = max(0.04 * math.log10(high / low), 0.05)
        return Scale(low / 10**room, high * 10**room, log=True)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        margin = abs(high) * 0.1 or 1.0
        return Scale(0.0 if from_zero else low - margin, high + margin)
    room = 0.05 * (high - low)
    if not (from_zero and low == 0):
        # The axis starts at a tick if one is near, so that no grid line hugs its edge.
        step = round_step((high - low) / TICKS)
        tick = math.floor(low / step) * step
        low = tick if low - tick < 0.12 * (high - low) else low - room
    return Scale(low, high + room)


def round_step(step: float) -> float:
    """The smallest of 1, 2, 2.5 or 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * 0.999)


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten over many decades, also their 2- and 5-fold over few."""
    decades = math.log10(high / low)
    factors = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    every = max(1, math.ceil(decades / 6))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return tuple(
        factor * 10.0**power
        for power in powers
        if power % every == 0
        for factor in factors
        if low <= factor * 10.0**power <= high
    )


def tick_texts(ticks: tuple[float, ...]) -> tuple[str, ...]:
    """The ticks of one axis, all in the same unit and with the decimals that tell them apart."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if 0 < largest < 1e-3:
        return tuple("0" if tick == 0 else _scientific(tick) for tick in ticks)
    factor, suffix = _unit(largest)
    scaled = [tick / factor for tick in ticks]
    decimals = next(
        (d for d in range(4) if all(abs(t - round(t, d)) <= 1e-9 * max(1, abs(t)) for t in scaled)),
        4,
    )
    return tuple(_grouped(t, decimals) + (suffix if t else "") for t in scaled)


def log_tick_texts(ticks: tuple[float, ...]) -> tuple[str, ...]:
    """Each tick of a logarithmic axis in its own unit."""
    return tuple(compact(tick) for tick in ticks)


# From this size on, in this unit, with this suffix (B for 10^9, as tokens are counted).
_UNITS = (
    (1e12, 1e12, "T"),
    (1e9, 1e9, "B"),
    (1e6, 1e6, "M"),
    (1e4, 1e3, "k"),
    (0.0, 1.0, ""),
)


def compact(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits: 0.0123, 7.62, 1,234, 12.3k, 3.00e-4."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "\u221e" if value > 0 else _MINUS + "\u221e"
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return _scientific(value, digits)
    factor, suffix = _unit(abs(value))
    scaled = value / factor
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(scaled))))
    text = _grouped(scaled, decimals)
    return (text.rstrip("0").rstrip(".") if "." in text else text) + suffix


def _unit(size: float) -> tuple[float, str]:
    return next((unit, suffix) for least, unit, suffix in _UNITS if size >= least)


def _scientific(value: float, digits: int = 3) -> str:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}".replace("-", _MINUS)


def _grouped(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return (text[1:] if float(text.replace(",", "")) == 0 and text[0] == "-" else text).replace(
        "-", _MINUS
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 42 s, 4m 12s, 3h 05m, 2d 4h."""
    if not math.isfinite(seconds):
        return compact(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def count(value: float) -> str:
    """A whole number, grouped: 1,234,567."""
    return f"{round(value):,}" if math.isfinite(value) else compact(value)


# Steps of an axis of time in seconds, each with the unit that its multiples are said in.
_TIME_STEPS = tuple(
    (count * seconds, seconds, unit)
    for seconds, unit, counts in (
        (1, "s", (1, 2, 5, 10, 20)),
        (60, "m", (1, 2, 5, 10, 20)),
        (3600, "h", (1, 2, 4, 8, 12)),
        (86400, "d", (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    )
    for count in counts
)


def time_ticks(until: float) -> list[tuple[float, str]]:
    """Round times from 0 to `until` (seconds), about `TICKS` of them, each with its text."""
    if until < TICKS:
        ticks = Scale(0.0, until).ticks()
        return [
            (at, f"{text} s" if at else "0")
            for at, text in zip(ticks, tick_texts(ticks), strict=True)
        ]
    step, seconds, unit = next(
        (entry for entry in _TIME_STEPS if until / entry[0] <= TICKS + 1), _TIME_STEPS[-1]
    )
    gap = " " if unit == "s" else ""
    times = [index * step for index in range(math.floor(until / step + 1e-9) + 1)]
    return [(float(at), f"{at // seconds:,}{gap}{unit}" if at else "0") for at in times]
