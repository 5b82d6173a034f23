"""Meshes of devices, and how a layout cuts arrays over them, as pictures."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxllm.notebook.drawing import Drawing, beside, label
from jaxllm.parallel.layouts import Layout
from jaxllm.reporting.charts import COLOURS

_CELL, _LABELS = 46, 26  # pixels of a device, and beside the devices for what an axis is called
_BOX, _LEAST = 200, 44  # pixels of the longer side of an array, and at least of the shorter
_EDGE, _HEAD = 24, 66
_CHARACTER = 6.6

_Slices = tuple[slice, ...]


def draw_mesh(layout: Layout, *, title: str = "") -> Drawing:
    """The devices of a layout's mesh along its axes of more than one device.

    Each has its number and its colour, as in `draw_array`. ValueError for more than three axes.
    """
    sizes = {name: size for name, size in layout.mesh.shape.items() if size > 1}
    if len(sizes) > 3:
        raise ValueError(f"a mesh of {len(sizes)} axes, {_words(sizes)}: three can be drawn")
    names = ["", "", "", *sizes][-3:]
    grid = np.arange(layout.mesh.size).reshape([sizes.get(name, 1) for name in names])
    planes = [
        _plane(plane, names[1:], f"{names[0]} {index}" if names[0] else "")
        for index, plane in enumerate(grid)
    ]
    title = title or _words(sizes) or "one device"
    return _titled(beside(planes), title, f"{layout.mesh.size} devices: {_words(sizes)}")


def _words(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{name} {size}" for name, size in sizes.items())


def _plane(devices: np.ndarray, names: Sequence[str], caption: str) -> Drawing:
    """Devices in rows and columns. names: of the axes along them."""
    rows, columns = devices.shape
    left, top = _EDGE + (_LABELS if names[0] else 0), 8 + (_LABELS if names[1] else 0)
    parts = []
    for (row, column), number in np.ndenumerate(devices):
        x, y = left + _CELL * column, top + _CELL * row
        parts.append(_tile(x, y, _CELL, _CELL, [int(number)]))
    if names[1]:
        parts.append(label(left + _CELL * columns / 2, top - 8, names[1], anchor="middle"))
    if names[0]:
        y = top + _CELL * rows / 2
        parts.append(
            f'<g transform="rotate(-90 {left - 10} {y})">'
            f"{label(left - 10, y, names[0], anchor='middle')}</g>"
        )
    bottom = top + _CELL * rows
    if caption:
        parts.append(label(left, bottom + 18, caption, kind="tick"))
    return Drawing("".join(parts), left + _CELL * columns + _EDGE, bottom + 30, caption)


def draw_array(
    shape: Sequence[int], axes: Sequence[str | None], layout: Layout, *, title: str = ""
) -> Drawing:
    """An array of this shape with these logical axes, in the pieces that devices hold.

    A piece that several devices hold has the numbers of all of them. Of more than two dimensions
    those are drawn that are cut, and the longest; ValueError where more than two are cut.
    """
    shown = _shown_dimensions(shape, axes, layout)
    pieces = _pieces(shape, axes, layout, shown)
    high, wide = (shape[dim] for dim in shown)
    height, width = _sides(high, wide)
    caption = " x ".join(f"{axis or 'any'} {size}" for axis, size in zip(axes, shape, strict=True))
    heading = title or caption
    parts, held = [], 0
    for (rows, columns), devices in pieces.items():
        x, y = _EDGE + width * columns.start / wide, height * rows.start / high
        held = math.prod(shape) * (rows.stop - rows.start) * (columns.stop - columns.start)
        parts.append(
            _tile(
                x,
                y,
                width * (columns.stop - columns.start) / wide,
                height * (rows.stop - rows.start) / high,
                devices,
            )
        )
    share = held // (high * wide)
    foot = f"{share:,} of {math.prod(shape):,} numbers a device"
    longest = max(len(heading), len(caption), len(foot)) * _CHARACTER
    picture = Drawing("".join(parts), int(max(width, longest)) + 2 * _EDGE, int(height) + 6, "")
    where = "; ".join(
        f"{_numbers(devices)} has [{_range(rows, high)}, {_range(columns, wide)}]"
        for (rows, columns), devices in pieces.items()
    )
    return _titled(
        picture, heading, f"{heading}: {caption}; {foot}. {where}", caption=caption, foot=foot
    )


def _shown_dimensions(
    shape: Sequence[int], axes: Sequence[str | None], layout: Layout
) -> tuple[int, int]:
    """The two dimensions of the picture, in their order; -1 stands beside an only one."""
    if len(shape) < 2:
        raise ValueError(f"an array of shape {tuple(shape)}: two dimensions or more can be drawn")
    cut = [dim for dim, axis in enumerate(axes) if layout.mesh_axes(axis)]
    if len(cut) > 2:
        names = ", ".join(str(axes[dim]) for dim in cut)
        raise ValueError(f"{names} are all cut: an array that is cut along two can be drawn")
    by_use = sorted(range(len(shape)), key=lambda dim: (dim not in cut, -shape[dim]))
    first, second = sorted(by_use[:2])
    return first, second


def _pieces(
    shape: Sequence[int], axes: Sequence[str | None], layout: Layout, shown: tuple[int, int]
) -> dict[tuple[slice, slice], list[int]]:
    """The numbers of the devices that hold each piece, by its place along the shown dimensions."""
    numbers = {device: index for index, device in enumerate(layout.mesh.devices.flat)}
    pieces: dict[tuple[slice, slice], list[int]] = {}
    held: Mapping[jax.Device, _Slices] = layout.sharding(axes).devices_indices_map(tuple(shape))
    for device, slices in held.items():
        rows, columns = (slice(*slices[dim].indices(shape[dim])[:2]) for dim in shown)
        pieces.setdefault((rows, columns), []).append(numbers[device])
    return {place: sorted(devices) for place, devices in pieces.items()}


def _sides(high: int, wide: int) -> tuple[float, float]:
    """Pixels down and across; shapes are kept as far as both sides stay visible."""
    scale = _BOX / max(high, wide)
    return max(high * scale, _LEAST), max(wide * scale, _LEAST)


def _tile(x: float, y: float, width: float, height: float, devices: Sequence[int]) -> str:
    """A piece in the colour of the first device that holds it; held by all of many, in none."""
    numbers = _numbers(devices)
    colour = devices[0] % COLOURS
    half = "" if len(devices) == 1 else ' fill-opacity="0.72"'
    fits = len(numbers) * 7 < width and height > 14
    text = (
        label(x + width / 2, y + height / 2 + 4, numbers, kind="on-tile", anchor="middle")
        if fits
        else ""
    )
    return (
        f'<rect class="tile c{colour}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}"{half}><title>device {numbers}</title></rect>{text}'
    )


def _numbers(devices: Sequence[int]) -> str:
    """Device numbers in short: 0-7 for a stretch, else all of them."""
    first, last = devices[0], devices[-1]
    if len(devices) > 2 and list(devices) == list(range(first, last + 1)):
        return f"{first}\u2013{last}"
    return " ".join(map(str, devices))


def _range(part: slice, size: int) -> str:
    return ":" if part.stop - part.start == size else f"{part.start}:{part.stop}"


def _titled(
    picture: Drawing, title: str, text: str, *, caption: str = "", foot: str = ""
) -> Drawing:
    head = _HEAD if caption and caption != title else _HEAD - 20
    parts = [
        label(_EDGE, 30, title, kind="title"),
        f'<g transform="translate(0 {head})">{picture.body}</g>',
    ]
    if head == _HEAD:
        parts.append(label(_EDGE, 50, caption, kind="tick"))
    if foot:
        parts.append(label(_EDGE, head + picture.height + 14, foot, kind="tick"))
    width = max(picture.width, int(len(title) * 9 + 2 * _EDGE))
    return Drawing("".join(parts), width, head + picture.height + (30 if foot else 4), text)
