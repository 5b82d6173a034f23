import pytest

from jaxllm.commands.report import report


def make_run(path):
    path.mkdir()
    (path / "config.yaml").write_text("training:\n  steps: 2\n")
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    return path


def test_the_page_of_one_run_goes_into_its_folder(tmp_path):
    run = make_run(tmp_path / "run")
    page = report([run])
    assert page == run / "report.html"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {file.name for file in run.iterdir()} == {"config.yaml", "metrics.jsonl", "report.html"}


def test_a_comparison_leaves_the_report_of_each_run_alone(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    own = report(runs[:1])
    before = own.read_text(encoding="utf-8")
    assert report(runs) == runs[0] / "comparison.html"
    assert own.read_text(encoding="utf-8") == before


def test_the_page_goes_where_it_is_sent(tmp_path):
    out = tmp_path / "new" / "page.html"
    assert report([make_run(tmp_path / "run")], out=out) == out
    assert out.is_file()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_a_folder_that_is_no_run_is_told_what_one_holds(tmp_path, name):
    run = make_run(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(ValueError, match=rf"has no {name}\. A run folder holds config\.yaml and"):
        report([run])
    with pytest.raises(ValueError, match=r"nowhere is not a folder\. A run folder holds"):
        report([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "a: [", "config.yaml is not YAML"),
        ("config.yaml", "- 1", "not a mapping"),
        ("summary.json", "{", "summary.json is not JSON"),
        ("summary.json", "[]", "not an object"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    run = make_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        report([run])
