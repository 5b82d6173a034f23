"""The page in a real browser."""

import pytest

from jaxllm.commands.report import report

from .records import training_records
from .test_page import SUMMARY

# For every chart: the curves, their number of points, and the length that they are drawn with.
CURVES = """[...document.querySelectorAll('figure.chart')].map((figure) => ({
  title: figure.querySelector('h3').textContent,
  curves: [...figure.querySelectorAll('path.curve')].map((path) => ({
    points: (path.getAttribute('d').match(/[ML]/g) || []).length,
    length: path.getTotalLength(),
    width: path.getBoundingClientRect().width / figure.querySelector('.plot').clientWidth,
  })),
}))"""

# Elements that stick out to the right of the window, but for those in a box that scrolls.
STICKING_OUT = """[...document.querySelectorAll('main *')].filter((element) =>
  element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
  && !element.closest('.scroll, .legend, pre')).map((element) => element.outerHTML.slice(0, 120))"""

POINT_AT = """((chart, share) => {
  const area = document.querySelectorAll('.plot')[chart], box = area.getBoundingClientRect();
  area.dispatchEvent(new PointerEvent('pointermove',
    {clientX: box.left + share * box.width, clientY: box.top + 9}));
  return area.querySelector('.tip').innerText;
})(%d, %f)"""


@pytest.fixture
def page_of_one(make_run):
    records = training_records(500)
    records.append({"step": 500, "prompt": "", "sample": "<script>document.title='owned'</script>"})
    run = make_run("<script>document.title='owned'<", records, summary=SUMMARY)
    return report([run])


@pytest.fixture
def page_of_eight(make_run):
    return report(
        [
            make_run(
                f"a-rather-long-name-of-a-run-{i}",
                training_records(200 - 10 * i, shift=0.1 * i),
                config={"optim": {"learning_rate": 0.01 * i}, "note": "x" * 300 * i},
                summary=SUMMARY,
            )
            for i in range(8)
        ]
    )


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("which", ["page_of_one", "page_of_eight"])
def test_the_page_is_quiet_draws_its_curves_and_fits(browser, request, which, width):
    path = request.getfixturevalue(which)
    page = browser.open(path, width=width)
    assert page.requests() == [path.resolve().as_uri()]
    charts = page.value_of(CURVES)
    assert len(charts) >= 7
    for chart in charts:
        assert chart["curves"], chart["title"]
        for curve in chart["curves"]:
            assert curve["points"] >= 10
            assert curve["length"] > 0
            # Runs of 130 to 200 steps share an axis; evaluations begin at a tenth of a run.
            assert 0.5 < curve["width"] <= 1.02  # strokes stand out by half their width
    page.value_of("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.value_of("innerWidth") == width
    assert page.value_of("document.documentElement.scrollWidth") <= width
    assert page.value_of(STICKING_OUT) == []
    assert page.complaints() == []


@pytest.mark.parametrize("share", [0.0, 0.49, 1.0])
def test_pointing_reads_values_and_stays_inside_a_phone(browser, page_of_eight, share):
    page = browser.open(page_of_eight, width=360)
    text = page.value_of(POINT_AT % (0, share))
    assert text.startswith("step ")
    assert "a-rather-long-name-of-a-run-0" in text
    assert page.value_of("document.documentElement.scrollWidth") <= 360


def test_pointing_shows_the_recorded_value(browser, page_of_one):
    page = browser.open(page_of_one)
    last = [record["loss"] for record in training_records(500) if "loss" in record][-1]
    text = page.value_of(POINT_AT % (0, 1.0))
    assert text.splitlines()[0] == "step 500"
    shown = float(text.splitlines()[text.splitlines().index("training") + 1])
    assert shown == float(f"{last:.5g}")


def test_the_legend_hides_a_run_everywhere(browser, page_of_eight):
    page = browser.open(page_of_eight)
    count = (
        "[...document.querySelectorAll('.run-3')].filter((e) => e.getClientRects().length).length"
    )
    assert page.value_of(count) > 0
    page.value_of("document.querySelectorAll('.legend button')[3].click()")
    assert page.value_of(count) == 0
    assert "run-3" not in page.value_of(POINT_AT % (0, 0.5))


def test_text_of_a_run_runs_no_script(browser, page_of_one):
    page = browser.open(page_of_one)
    assert page.value_of("document.title").startswith("<script>document.title='owned'<")
    assert "<script>document.title='owned'</script>" in page.value_of("document.body.innerText")


def test_a_script_that_got_in_would_be_refused(browser, page_of_one):
    text = page_of_one.read_text(encoding="utf-8")
    script = "<script>document.title = 'owned'</script></main>"
    page_of_one.write_text(text.replace("</main>", script), encoding="utf-8")
    page = browser.open(page_of_one)
    assert page.value_of("document.title") != "owned"
    assert "Content Security Policy" in str(page.complaints())


def test_colours_follow_the_preferred_scheme(browser, page_of_one):
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = (browser.open(page_of_one, dark=dark).value_of(paper) for dark in (False, True))
    assert light == "rgb(245, 246, 248)"
    assert dark == "rgb(14, 16, 21)"
