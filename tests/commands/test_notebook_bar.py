import re
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from rich import console as rich_console

from jaxllm.commands.console import Console, only_progress

RECORD = {"loss": 3.25, "learning_rate": 1e-3, "tokens_per_second": 12345.0}


class Handle:
    """One place of a cell's output; all that was shown there."""

    def __init__(self, bundle):
        self.shown = [bundle]

    def update(self, bundle, *, raw):
        assert raw
        self.shown.append(bundle)

    @property
    def kind(self):
        return "curve" if "image/svg+xml" in self.shown[0] else "bar"


@pytest.fixture
def cell(monkeypatch):
    """The places of the output of a notebook's cell."""
    handles = []

    def display(bundle, *, raw, display_id):
        assert raw
        assert display_id
        handles.append(Handle(bundle))
        return handles[-1]

    monkeypatch.setattr(rich_console, "_is_jupyter", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return handles


def test_a_run_has_one_bar_and_one_curve_which_move(cell, capsys):
    console = Console(is_shown=True)
    console.say("before")
    for step in range(1, 41):
        console.step(step, 40, {**RECORD, "loss": 5 - step / 20})
    console.close()
    assert [handle.kind for handle in cell] == ["bar", "curve"]
    last = cell[0].shown[-1]
    assert last["text/plain"].startswith(
        "training 40/40  loss 3.0000  lr 1.00e-03  12,345 tokens/s"
    )
    assert '<progress value="40" max="40"' in last["text/html"]
    curve = cell[1].shown[-1]
    ElementTree.fromstring(curve["image/svg+xml"])
    assert re.search(r"from 4\.95 to 3 over steps 1 to 40", curve["text/plain"])
    assert capsys.readouterr().out == "before\n"


def test_the_phases_of_the_data_share_a_bar_and_training_has_its_own(cell):
    console = Console(is_shown=True)
    for phase in ("tokenizer", "tokens"):
        console.data_progress(phase, 0, 2)
        console.data_progress(phase, 2, 2)
    console.close()
    console.step(1, 2, RECORD)
    console.close()
    first, second = (
        [bundle["text/plain"].split("  ")[0] for bundle in handle.shown] for handle in cell
    )
    assert first[0] == "data: tokenizer 0%"
    assert first[-1] == "data: tokens 100%"
    assert {"data: tokenizer 100%", "data: tokens 0%"} <= set(first)
    assert set(second) == {"training 1/2"}


def test_an_interrupted_bar_stays_where_it_was(cell):
    console = Console(is_shown=True)
    for step in range(1, 6):
        console.step(step, 40, RECORD)
    console.interrupted(5, is_saved=True)
    assert [handle.kind for handle in cell] == ["bar"]  # too few points for a curve
    assert cell[0].shown[-1]["text/plain"].startswith("training 5/40")


def test_processes_that_do_not_speak_show_nothing(cell, capsys):
    console = Console(is_shown=False)
    console.step(1, 2, RECORD)
    console.say("text")
    console.close()
    assert not cell
    assert capsys.readouterr().out == ""


def test_results_that_the_caller_shows_are_not_printed(capsys):
    with only_progress():
        console = Console(is_shown=True)
        console.say("the result")
        console.step(2, 2, RECORD)
    console.say("a line")
    assert capsys.readouterr().out == (
        "training 2/2  loss 3.2500  lr 1.00e-03  12,345 tokens/s\na line\n"
    )
