"""The picture of which classes were taken for which."""

import json
from xml.etree import ElementTree

import pytest

from jaxllm.reporting.confusion import picture, section
from jaxllm.reporting.page import render_report
from jaxllm.reporting.run import read_run

COUNTS, NAMES = [[8, 2], [1, 9]], ["peace", "<war>"]


def run(folder, **summary):
    folder.mkdir()
    (folder / "config.yaml").write_text("training: {steps: 1}\n")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    (folder / "summary.json").write_text(json.dumps(summary))
    return read_run(folder)


def test_true_classes_are_rows_and_shares_are_of_them():
    drawn = ElementTree.fromstring(picture({"confusion": COUNTS, "class_names": NAMES}))
    cells = list(drawn.iter("g"))
    assert [cell.find("title").text for cell in cells] == [
        "peace told as peace: 8, 80.0%",
        "peace told as <war>: 2, 20.0%",
        "<war> told as peace: 1, 10.0%",
        "<war> told as <war>: 9, 90.0%",
    ]
    places = [
        (float(cell.find("rect").get("y")), float(cell.find("rect").get("x"))) for cell in cells
    ]
    assert places == sorted(places), "rows from the top, columns from the left"
    assert places[0][0] == places[1][0] < places[2][0]
    shades = [float(cell.find("rect").get("fill-opacity")) for cell in cells]
    assert sorted(shades) == [shades[2], shades[1], shades[0], shades[3]]
    assert "peace: 8 of 10 right; <war>: 9 of 10 right" in drawn.get("aria-label")


def test_it_is_on_the_page_of_a_run_that_tells_classes_and_on_no_other(tmp_path):
    with_classes = run(tmp_path / "one", confusion=COUNTS, class_names=NAMES, accuracy=0.85)
    page = render_report([with_classes])
    assert "<h2>Confusion</h2>" in page
    assert "<war>" not in page
    assert "85.0%" in page
    assert "Confusion" not in render_report([run(tmp_path / "two", validation_loss=1.0)])


@pytest.mark.parametrize(
    "summary",
    [
        {"confusion": COUNTS},
        {"confusion": [[1, 2]], "class_names": NAMES},
        {"confusion": [[1, "<b>"], [1, 2]], "class_names": NAMES},
        {"confusion": COUNTS, "class_names": [1, 2]},
        {"confusion": "none", "class_names": "none"},
    ],
)
def test_what_is_no_table_is_not_drawn(summary, tmp_path):
    assert section([run(tmp_path / "run", **summary)]) == ""
