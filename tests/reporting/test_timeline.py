"""The picture of where the time went, as markup and in a real browser."""

import json
import re

import pytest

from jaxllm.commands.report import report
from jaxllm.reporting import timeline
from jaxllm.reporting.account import KINDS
from jaxllm.reporting.page import render_report
from jaxllm.reporting.run import read_run
from jaxllm.reporting.scale import time_ticks

from .accounts import write_account
from .records import training_records
from .test_browser import STICKING_OUT
from .test_page import Outline

# Of every bar: the share of its width that each kind has on the screen.
SHARES = """[...document.querySelectorAll('.shares')].map((bar) =>
  Object.fromEntries([...bar.querySelectorAll('rect')].map((part) =>
    [part.getAttribute('class').slice(2),
     part.getBoundingClientRect().width / bar.getBoundingClientRect().width])))"""

# Where the mark of each interruption stands, as a share of the width of its time line.
MARKS = """[...document.querySelectorAll('.timeline')].map((line) => {
  const box = line.getBoundingClientRect();
  return [...line.querySelectorAll('.cut-mark')].map((mark) => {
    const own = mark.getBoundingClientRect();
    return ((own.left + own.right) / 2 - box.left) / box.width;
  });
})"""

# Texts of one time line that lie over each other.
OVERLAPS = """[...document.querySelectorAll('.timeline')].flatMap((line) => {
  const boxes = [...line.querySelectorAll('text')].map((text) => text.getBoundingClientRect())
    .filter((box) => box.width);
  return boxes.flatMap((one, i) => boxes.slice(i + 1).filter((two) =>
    one.left < two.right && two.left < one.right && one.top < two.bottom && two.top < one.bottom)
    .map(() => i));
})"""


@pytest.fixture
def run_of(make_run):
    def make(interruptions, *, name="run", **settings):
        path = make_run(name, training_records(200))
        if interruptions is not None:
            write_account(path, interruptions=interruptions, **settings)
        return path

    return make


def text_of(*paths):
    return " ".join(Outline(render_report([read_run(path) for path in paths])).text)


def test_a_run_without_an_account_has_no_picture(run_of):
    text = text_of(run_of(None))
    assert "Where the time went" not in text
    assert "Goodput" not in text


def test_one_run_says_its_goodput_and_lists_its_interruptions(run_of):
    path = run_of(2)
    text = text_of(path)
    assert "<b>the disk" not in render_report([read_run(path)])  # text, not markup
    share = read_run(path).account.goodput
    assert f"{share:.1%} of the time in productive steps" in text
    assert f"Goodput {share:.1%}" in text  # the tile
    assert "Interruptions (2)" in text
    assert "OSError: <b>the disk</b> is full" in text
    assert "killed while training" in text


def test_a_rollback_has_a_mark_and_a_word_of_its_own(run_of):
    path = run_of(2)
    lines = (path / "goodput.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    back = {"event": "rollback", "time": last["time"], "step": 1900, "to": 1700, "seconds": {}}
    (path / "goodput.jsonl").write_text("\n".join([*lines, json.dumps(back)]) + "\n")
    page, text = render_report([read_run(path)]), text_of(path)
    assert "2 interruptions, 1 rollback" in text
    assert "Interruptions and rollbacks (3)" in text
    assert "at step 1,900: went back" in text
    assert page.count(timeline._BACK) == 1
    assert page.count(timeline._DOWN) == 2


def test_few_interruptions_are_listed_openly_and_many_folded(run_of):
    few, many = (
        render_report([read_run(run_of(n, name=f"of{n}"))]).count("<details open>") for n in (6, 7)
    )
    assert (few, many) == (1, 0)


def test_several_runs_have_a_bar_each_and_one_axis(run_of):
    paths = [run_of(n, name=f"of-{n}") for n in (0, None, 3)]
    page = render_report([read_run(path) for path in paths])
    assert page.count("class='shares'") == page.count("class='timeline'") == 2
    axes = re.findall(r'overflow="visible">(<line class="axis".*?)</svg>', page)
    assert len(axes) == 2
    assert axes[0] == axes[1]
    assert "class='account-run run-2'" in page


def test_days_of_records_keep_the_page_small(run_of):
    """Ten thousand records in which no two neighbours are alike, interrupted a hundred times."""
    path = run_of(None)
    records = []
    for number in range(10_000):
        seconds = {kind: (number * 7 + len(kind)) % 11 / 10 for kind in KINDS}
        event = "spans" if number % 100 else "start"
        more = {"before": {"phase": "step"}, "furthest": number} if number else {"before": None}
        at = {"time": 10.0 * number, "step": number, "seconds": seconds}
        records.append(json.dumps({"event": event} | at | (more if event == "start" else {})))
    (path / "goodput.jsonl").write_text("\n".join(records) + "\n")
    without = len(render_report([read_run(run_of(None, name="without"))]))
    # 400 columns of 8 kinds, and 99 rows and marks of some hundred characters.
    assert 50_000 < len(render_report([read_run(path)])) - without < 250_000


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (0.5, ["0", "0.1 s", "0.2 s", "0.3 s", "0.4 s", "0.5 s"]),
        (13.0, ["0", "2 s", "4 s", "6 s", "8 s", "10 s", "12 s"]),
        (250.0, ["0", "1m", "2m", "3m", "4m"]),
        (7200.0, ["0", "20m", "40m", "60m", "80m", "100m", "120m"]),
        (86400.0 * 3, ["0", "12h", "24h", "36h", "48h", "60h", "72h"]),
        (86400.0 * 3000, ["0", "500d", "1,000d", "1,500d", "2,000d", "2,500d", "3,000d"]),
    ],
)
def test_times_have_round_ticks(until, expected):
    ticks = time_ticks(until)
    assert [text for _, text in ticks] == expected
    assert ticks[-1][0] <= until


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("interruptions", [0, 1, 5, 60])
def test_the_picture_on_the_screen(browser, run_of, interruptions, width):
    path = run_of(interruptions)
    page = browser.open(report([path]), width=width)
    account = read_run(path).account
    (shares,) = page.value_of(SHARES)
    total = sum(account.seconds.values())
    # A bar of 300 pixels on a phone; a browser places edges in 64ths of a pixel.
    assert shares == pytest.approx({k: s / total for k, s in account.seconds.items()}, abs=1e-3)
    (marks,) = page.value_of(MARKS)
    assert marks == pytest.approx(
        [cut.at / account.wall for cut in account.interruptions], abs=2e-3
    )
    assert page.value_of(OVERLAPS) == []
    page.value_of("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.value_of("document.documentElement.scrollWidth") <= width
    assert page.value_of(STICKING_OUT) == []
    assert page.complaints() == []


def test_every_kind_has_a_colour_of_its_own(browser, run_of):
    path = report([run_of(5)])
    colours = "[...document.querySelectorAll('.shares rect')].map((e) => getComputedStyle(e).fill)"
    for dark in (False, True):
        found = browser.open(path, dark=dark).value_of(colours)
        assert len(set(found)) == len(found) == 8
        assert "rgb(0, 0, 0)" not in found


def test_the_legend_hides_the_picture_of_a_run(browser, run_of):
    path = report([run_of(n, name=f"of-{n}") for n in (1, 2)])
    page = browser.open(path)
    page.value_of("document.querySelectorAll('.legend button')[1].click()")
    shown = "[...document.querySelectorAll('.shares')].map((e) => e.getClientRects().length)"
    assert page.value_of(shown) == [1, 0]
