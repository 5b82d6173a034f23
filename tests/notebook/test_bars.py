import re
from xml.etree import ElementTree

import pytest

from jaxllm.notebook.bars import draw_bars

SVG = "{http://www.w3.org/2000/svg}"
ROWS = {"first": {"a": 3.0, "b": 1.0}, "second": {"b": 2.0}}


def bars(drawing):
    """(colour, x, width) of every part of a bar."""
    tree = ElementTree.fromstring(drawing.svg)
    tiles = [tile for tile in tree.iter(f"{SVG}rect") if "tile" in tile.get("class")]
    return [
        (tile.get("class"), float(tile.get("x")), float(tile.get("width")))
        for tile in tiles
        if tile.find(f"{SVG}title") is not None  # those of the legend have none
    ]


def test_lengths_are_to_scale_and_parts_follow_each_other():
    (a, x_a, w_a), (b, x_b, w_b), (c, x_c, w_c) = bars(draw_bars(ROWS, title="T", unit="u"))
    # Places are written with one decimal.
    assert w_a / w_b == pytest.approx(3, abs=0.02)
    assert w_c / w_b == pytest.approx(2, abs=0.02)
    assert x_b == pytest.approx(x_a + w_a, abs=0.11)
    assert x_c == x_a
    assert b == c != a  # one colour for one part


def test_a_limit_lies_where_its_level_is():
    drawing = draw_bars(ROWS, title="T", unit="u", limit=("limit", 8.0))
    (line,) = [
        line
        for line in ElementTree.fromstring(drawing.svg).iter(f"{SVG}line")
        if line.get("class") == "limit"
    ]
    (_, x_a, w_a), *_ = bars(drawing)
    assert float(line.get("x1")) - x_a == pytest.approx(8 / 3 * w_a, rel=0.01)


def test_the_same_is_said_in_words():
    text = draw_bars(ROWS, title="Time", unit="seconds", limit=("budget", 5.0)).text
    assert text.splitlines() == [
        "Time, seconds (budget 5)",
        "first: 4 (a 3, b 1)",
        "second: 2",
    ]


def test_names_are_text_and_no_markup():
    drawing = draw_bars({"<b>&": {"<i>": 1.0}}, title="<t>", unit="&")
    ElementTree.fromstring(drawing.svg)
    assert not re.search(r"<(b|i|t)>", drawing.svg)


def test_nothing_to_draw_is_drawn_all_the_same():
    ElementTree.fromstring(draw_bars({"none": {}}, title="T", unit="u").svg)
    ElementTree.fromstring(draw_bars({}, title="T", unit="u").svg)


def test_a_part_of_nothing_has_no_place_in_the_legend():
    rows = {"first": {"idle": 0.0, "work": 2.0, "rest": 1.0}, "second": {"idle": 0.0}}
    drawing = draw_bars(rows, title="T", unit="u")
    assert "idle" not in drawing.svg
    assert len(bars(drawing)) == 2
