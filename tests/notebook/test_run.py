import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxllm.config import dump_yaml, load_config
from jaxllm.config_files import find_config
from jaxllm.notebook.run import Interrupted, Run, open_run
from tests.reporting.records import training_records

SVG = "{http://www.w3.org/2000/svg}"
SUMMARY = {
    "steps": 60,
    "tokens": 30720,
    "tokens_per_second": 21000.0,
    "wall_seconds": 75.0,
    "validation_loss": 3.5,
    "validation_bits_per_byte": 1.6,
    "sample": "text",
}


def make_run(folder, *, records=None, summary=None):
    folder.mkdir()
    config = load_config(find_config("test_tiny"), [f"run_dir={folder}"])
    (folder / "config.yaml").write_text(dump_yaml(config))
    if records is not None:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(lines)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return open_run(folder)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", records=training_records(60), summary=SUMMARY)


def curves(drawing):
    tree = ElementTree.fromstring(drawing.svg)
    return [path for path in tree.iter(f"{SVG}path") if "curve" in (path.get("class") or "")]


def test_metrics_are_columns_of_equal_length_with_gaps_where_nothing_was_measured(run):
    columns = run.metrics
    assert {len(column) for column in columns.values()} == {60}
    assert columns["step"].tolist() == list(range(1, 61))
    expected = [record["loss"] for record in training_records(60) if "loss" in record]
    assert columns["loss"].tolist() == expected
    measured = np.isfinite(columns["validation_loss"])
    assert columns["step"][measured].tolist() == list(range(6, 61, 6))


def test_a_run_is_a_path(run):
    assert Path(run) == run.path
    assert (Path(run) / "config.yaml").is_file()


def test_the_loss_is_drawn_and_what_is_named(run):
    assert len(curves(run.plot())) == 2  # training and validation
    assert "Learning rate" in run.plot("learning_rate").svg
    assert run.plot("learning_rate", "gradient_norm").height == 2 * run.plot("learning_rate").height


def test_runs_are_drawn_beside_each_other(run, tmp_path):
    other = make_run(tmp_path / "other", records=training_records(60, shift=0.5))
    drawing = run.plot("loss", beside=[other])
    assert len(curves(drawing)) == 2
    assert "run: from" in drawing.text
    assert "other: from" in drawing.text


def test_a_metric_that_was_not_recorded_is_named_with_those_that_were(run):
    with pytest.raises(ValueError, match=r"^los: not recorded in .*run; there are .*loss"):
        run.plot("los")


def test_a_finished_run_says_what_came_out(run):
    shown = run._repr_html_()
    for part in ("60 of 60", "bits per byte", "21,000 tokens/s", "1m 15s"):
        assert part in shown
    assert "not done" not in shown
    assert repr(run).startswith(f"Run('{run.path}': steps 60 of 60, training loss ")


def test_an_unfinished_run_says_how_far_it_is(tmp_path):
    unfinished = make_run(tmp_path / "half", records=training_records(60)[:20])
    assert "not done" in unfinished._repr_html_()
    assert unfinished.summary == {}
    assert unfinished.step == 16  # of 20 records, four are scores and samples


def test_an_imported_model_says_that_nothing_was_trained(tmp_path):
    imported = make_run(tmp_path / "imported")
    assert imported.step == 0
    assert "not trained here" in imported._repr_html_()
    with pytest.raises(ValueError, match=r"has no metrics\.jsonl"):
        imported.plot()


def test_a_loss_that_is_no_number_is_shown(tmp_path):
    records = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": "NaN"}]
    broken = make_run(tmp_path / "broken", records=records)
    assert math.isnan(broken.metrics["loss"][1])
    ElementTree.fromstring(broken.plot().svg)
    assert "nan" in broken._repr_html_()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        open_run(tmp_path)


def test_an_interruption_says_how_to_go_on_and_shows_no_traceback():
    error = Interrupted(Run(Path("runs/a")))
    assert isinstance(error, KeyboardInterrupt)  # as a cell's others, it stops those after it
    assert error._render_traceback_() == [str(error)]
    assert "jaxllm.open_run('runs/a')" in str(error)
