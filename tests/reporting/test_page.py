import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from jaxllm.reporting.charts import standalone
from jaxllm.reporting.difference import differing_keys
from jaxllm.reporting.page import render_report
from jaxllm.reporting.panels import loss_chart, sections
from jaxllm.reporting.run import read_run

from .records import training_records

SUMMARY = {
    "steps": 200,
    "tokens": 512_000,
    "validation_loss": 3.42,
    "validation_bits_per_byte": 1.534,
    "tokens_per_second": 21033.2,
    "wall_seconds": 131.4,
    "xz_bits_per_byte": 1.749,
}


def render(*paths):
    return render_report([read_run(path) for path in paths])


class Outline(HTMLParser):
    """The tags and the visible text of a page; fails where a tag is closed that is not open."""

    VOID = ("meta", "link", "br")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def test_a_finished_run_shows_its_figures_and_beats_xz_in_words(make_run):
    page = render(make_run("demo", training_records(200), summary=SUMMARY))
    text = " ".join(Outline(page).text)
    assert "1.534 bits per byte of validation text: 12.3% fewer than the 1.749" in text
    for figure in ("512k", "2m 11s", "xz \u22129e 1.749", "done"):
        assert figure in text
    titles = {"Loss", "Bits per byte", "Learning rate", "Gradient norm", "Waiting for data"}
    assert titles <= set(Outline(page).text)


def test_the_line_of_xz_in_the_loss_chart_is_in_nats_per_token(make_run):
    (loss, bits) = sections([read_run(make_run("demo", training_records(20), summary=SUMMARY))])[
        0
    ].charts
    assert bits.references[0].value == 1.749
    assert loss.references[0].value == 1.749 * 3.42 / 1.534


def test_no_text_of_a_run_becomes_markup(make_run):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\""
    records = training_records(40)
    records.append({"step": 40, "prompt": evil, "sample": evil})
    records.append({"step": 40, f"validation/{evil}/loss": 1.0, evil: 2.0})
    paths = [
        make_run(f"{folder}/<script>alert(3)<", records, config={"note": evil, evil: folder})
        for folder in ("a", "b")
    ]
    for page in (render(paths[0]), render(*paths)):
        tags = [(tag, attributes) for tag, attributes in Outline(page).tags]
        assert not [tag for tag, _ in tags if tag == "img"]
        kinds = [a.get("type", "own") for tag, a in tags if tag == "script"]
        assert kinds.count("own") == 1
        assert set(kinds) == {"own", "application/json"}
        assert not [key for _, attributes in tags for key in attributes if key.startswith("on")]
        assert "alert(1)" in " ".join(Outline(page).text)


def test_the_page_names_nothing_outside_itself(make_run):
    page = render(make_run("demo", training_records(40), summary=SUMMARY))
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?+(?!data:)|url\(|@import|https?://""", page)


@pytest.mark.parametrize("metrics", [b"", b'{"step": 1, "lo', b'{"step": 1, "loss": 7.5}\n'])
def test_a_run_that_has_hardly_begun(make_run, metrics):
    page = render(make_run("new", metrics))
    state = "not finished, at step 1 of 200" if b"}" in metrics else "nothing recorded yet"
    assert state in " ".join(Outline(page).text)


def test_a_run_with_evaluations_only_still_shows_them(make_run):
    page = render(make_run("e", [{"step": 0, "validation_loss": 8.0}]))
    assert "validation" in page
    assert "NaN" not in " ".join(Outline(page).text)


def test_losses_that_are_not_finite_leave_a_gap_and_are_said(make_run):
    records = [{"step": s, "loss": 5.0 - s / 100} for s in range(1, 101)]
    records[49]["loss"], records[50]["loss"] = "NaN", "Infinity"
    run = read_run(make_run("gap", records))
    page = render_report([run])
    assert "loss is NaN or infinite at 2 of 100 recorded steps, first at step 50" in page
    (path,) = re.findall(r'<path class="curve c0 run-0" d="([^"]*)"', page)
    assert path.count("M") == 2
    (data,) = re.findall(r"<script type='application/json'>(.*?)</script>", page)
    assert json.loads(data)["lines"][0]["values"].count(None) == 2


def test_all_losses_nan_draws_an_empty_chart(make_run):
    page = render(make_run("nan", [{"step": s, "loss": "NaN"} for s in range(3)]))
    assert "loss is NaN or infinite at 3 of 3" in page


def test_a_step_recorded_twice_counts_as_last_written(make_run):
    run = read_run(make_run("twice", [{"step": 1, "loss": 9.0}, {"step": 1, "loss": 2.0}]))
    assert run.series["loss"].values.tolist() == [2.0]


def test_a_damaged_line_is_left_out_and_said(make_run):
    run = make_run("damaged", b'{"step": 1, "loss": 2.0}\nnonsense\n{"step": 2, "loss": 1.0}\n')
    assert "line 2 of metrics.jsonl is not a record and is left out" in render(run)


def test_speeds_are_averaged_by_the_time_that_they_lasted(make_run):
    """Steps of one second and of a ninth, in turn: 18 tokens in 10 ninths of a second."""
    records = [
        {"step": s, "tokens_per_second": 9.0 if s % 2 else 81.0, "data_wait_share": 0.9 * (s % 2)}
        for s in range(1, 241)
    ]
    run = read_run(make_run("uneven", records))
    assert run.series["tokens_per_second"].mean == pytest.approx(240 * 9 / (120 + 120 / 9))
    assert run.series["data_wait_share"].mean == pytest.approx(0.9 * 0.9)
    text = " ".join(Outline(render_report([run])).text)
    assert "Tokens a second 16.2" in text
    (speed, waiting) = sections([run])[-1].charts
    middle = speed.lines[0].series.smoothed(41).values[100:140]
    assert middle == pytest.approx(16.2, rel=0.05)
    assert waiting.lines[0].series.smoothed(41).values[100:140] == pytest.approx(81, rel=0.02)


def test_thousands_of_points_keep_the_page_small_and_the_spike_in_it(make_run):
    records = [{"step": s, "loss": 4.0 + s % 7 / 10} for s in range(1, 30_001)]
    records[17_777]["loss"] = 77.5
    page = render(make_run("long", records))
    assert len(page) < 100_000  # 30,000 points alone would take 400,000 characters
    assert "77.5" in page


def test_several_runs_have_a_colour_each_and_only_differing_keys_are_shown(make_run):
    shared = {"optim": {"type": "muon"}, "training": {"steps": 40}}
    paths = [
        make_run(f"run-{i}", training_records(40), config=shared | {"seed": i}, summary=SUMMARY)
        for i in range(8)
    ]
    page = render(*paths)
    for index in range(8):
        assert f'class="curve c{index} run-{index}"' in page
    table = page[page.index("class='difference'") :].split("</table>")[0]
    assert "<code>seed</code>" in table
    assert "optim" not in table
    with pytest.raises(ValueError, match="1 to 8 runs, not 9"):
        render(*paths, paths[0])


def test_runs_in_folders_of_one_name_are_told_apart(make_run):
    text = Outline(render(make_run("a/run", []), make_run("b/run", []))).text
    assert {"a/run", "b/run"} <= set(text)


def test_one_run_folds_its_whole_config(make_run):
    page = render(make_run("demo", [], config={"optim": {"learning_rate": 0.02}}))
    assert "learning_rate: 0.02" in page
    assert "class='difference'" not in page


def test_differing_keys_reach_into_lists_and_say_what_is_absent():
    one = {"a": 1, "b": {"c": [{"d": 1}, {"d": 2}]}, "e": None, "f": [1, 2]}
    two = {"a": 1, "b": {"c": [{"d": 1}, {"d": 3}]}, "e": "x", "f": [1, 2], "g": True}
    assert differing_keys([one, two]) == [
        ("b.c.1.d", ["2", "3"]),
        ("e", ["null", "x"]),
        ("g", [None, "true"]),
    ]


def test_the_picture_is_a_valid_svg_document_of_its_own(make_run):
    run = read_run(make_run("demo & co", training_records(200), summary=SUMMARY))
    root = ET.fromstring(standalone(loss_chart(run)))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    paths = root.findall(".//{http://www.w3.org/2000/svg}path")
    # Training faintly and its mean, validation once.
    assert len(paths) == 3
    assert all(path.get("d").count("L") >= 9 for path in paths)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", standalone(loss_chart(run)))


def test_all_samples_of_the_last_step_are_open_and_earlier_ones_folded(make_run):
    records = [
        {"step": step, "prompt": prompt, "sample": f"{prompt} goes on at {step}"}
        for step in (10, 20, 30)
        for prompt in ("one", "two")
    ]
    page = render(make_run("samples", records))
    opened, folded = page.split("Earlier samples (2)")
    for prompt in ("one", "two"):
        assert f"<b>{prompt}</b> goes on at 30" in opened
        assert f"<b>{prompt}</b> goes on at 10" in folded


def test_curves_that_would_say_nothing_new_are_not_drawn(make_run):
    def record(step, other_set):
        return {
            "step": step,
            "validation_loss": 5.0 - step,
            "validation_perplexity": 9.0,
            "validation/only/loss": 5.0 - step,
            "validation/only/perplexity": 9.0,
        } | ({"validation/other/loss": 4.0} if other_set else {})

    for other_set, curves in ((False, {"validation"}), (True, {"validation", "other"})):
        run = read_run(make_run(f"{other_set}", [record(s, other_set) for s in (1, 2)]))
        drawn = {line.label for s in sections([run]) for c in s.charts for line in c.lines}
        assert drawn == curves


def test_all_charts_share_one_axis_of_steps(make_run):
    runs = [read_run(make_run(f"r{n}", training_records(n))) for n in (40, 90)]
    ends = {(c.x.low, c.x.high) for s in sections(runs) for c in s.charts}
    assert ends == {(0.0, 90.0)}


def unit_of_loss(*runs):
    (chart,) = [one for part in sections([read_run(run) for run in runs]) for one in part.charts][
        :1
    ]
    return chart.unit


def test_the_loss_is_in_the_unit_of_the_objective(make_run):
    text = make_run("text", training_records(20))
    one = make_run("one", training_records(20))
    (one / "config.yaml").write_text("objective: {type: sequence_classification}\n")
    assert unit_of_loss(text) == "nats per token"
    assert unit_of_loss(one) == "nats per text"
    assert unit_of_loss(text, one) == "as each run has it"


def test_steps_that_are_skipped_are_drawn_where_there_are_some(make_run):
    records = [record | {"skipped_steps": 0} for record in training_records(20)]
    assert "skipped_steps" not in render(make_run("good", records))
    records[0]["skipped_steps"] = 1
    assert "skipped_steps" in render(make_run("bad", records))
