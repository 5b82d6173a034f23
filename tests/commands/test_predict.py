"""Answers in a file: in order, whatever the batches are and wherever it was stopped."""

import json
import random

import numpy as np
import pytest

from jaxllm.commands import predict as module
from jaxllm.commands.predict import predict
from jaxllm.commands.prediction_batches import PredictionBatches
from jaxllm.commands.prediction_file import PredictionFile
from jaxllm.data.example_record import ExampleRecord

from . import runs
from .test_classification import CONFIG

RECORDS = 23


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run that tells peace from war. Read it only."""
    folder = tmp_path_factory.mktemp("predict")
    lines = [{"text": f"{'peace war'.split()[n % 2]} {n} " * 3, "label": "peace war".split()[n % 2],
              "speech": n} for n in range(24)]  # fmt: skip
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = folder / "classes.yaml"
    path.write_text(CONFIG.format(folder=folder))
    assert runs.start(path, folder / "run", "training.steps=4", "evaluation.baseline=null") == 0
    return folder / "run"


@pytest.fixture
def source(tmp_path):
    """Texts of very different lengths, so that some are of several rows."""
    rng = random.Random(0)
    records = [
        {"id": n, "text": "war " * rng.choice([1, 2, 4, 20, 50]) + str(n)} for n in range(RECORDS)
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    return path


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 8)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_alike(answers, others):
    assert [one["label"] for one in answers] == [one["label"] for one in others]
    for one, other in zip(answers, others, strict=True):
        # Float32 sums in another order, of rows filled up to another length.
        np.testing.assert_allclose(
            list(one["probabilities"].values()), list(other["probabilities"].values()), rtol=1e-5
        )


def test_each_record_has_its_answer_whatever_the_batch(run_dir, source, tmp_path):
    whole = read(predict(run_dir, source, tmp_path / "whole.jsonl", keep=["id"]))
    assert [one["id"] for one in whole] == list(range(RECORDS))
    assert all(sum(one["probabilities"].values()) == pytest.approx(1) for one in whole)
    lines = source.read_text().splitlines()
    alone = []
    for number in (0, 3, 7):
        (tmp_path / "one.jsonl").write_text(lines[number])
        out = tmp_path / f"one{number}.jsonl"
        alone += read(predict(run_dir, tmp_path / "one.jsonl", out, batch_size=16))
    assert_alike(alone, [whole[number] for number in (0, 3, 7)])
    assert "id" not in alone[0]


def test_stopped_anywhere_the_same_command_ends_in_the_same_bytes(
    run_dir, source, tmp_path, monkeypatch
):
    whole = predict(run_dir, source, tmp_path / "whole.jsonl").read_bytes()
    out = tmp_path / "out.jsonl"
    blocks = []

    def stopping(self, table):
        if len(blocks) == 2:
            raise KeyboardInterrupt
        blocks.append(table.num_examples)
        return PredictionBatches.answers(self, table)

    class Stopping(PredictionBatches):
        answers = stopping

    with monkeypatch.context() as patch:
        patch.setattr(module, "PredictionBatches", Stopping)
        with pytest.raises(KeyboardInterrupt):
            predict(run_dir, source, out)
    assert not out.exists()
    partial = tmp_path / "out.jsonl.partial"
    assert len(read(partial)) == 16
    # A kill may cut the last block in a line, and between lines.
    partial.write_bytes(partial.read_bytes()[:-7])
    blocks.clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "PredictionBatches", Stopping)
        predict(run_dir, source, out)
    assert blocks == [8, 7]  # the first one is not computed again
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out.jsonl",
        "whole.jsonl",
    ]
    with pytest.raises(ValueError, match=r"--output: .*out\.jsonl is there already"):
        predict(run_dir, source, out)


def test_what_was_begun_with_other_things_is_not_gone_on_with(run_dir, source, tmp_path):
    out = tmp_path / "out.jsonl"
    source.write_text(source.read_text() + '{"text": ""}\n')
    with pytest.raises(ValueError, match=r"in\.jsonl:24: 'text' is empty"):
        predict(run_dir, source, out)
    source.write_text(source.read_text().replace("war", "peace"))
    with pytest.raises(ValueError, match=r"was begun with other things:\n  input: "):
        predict(run_dir, source, out)
    with pytest.raises(ValueError, match=r"--keep name: .*:1 has no such field \(fields: 'id'"):
        predict(run_dir, source, tmp_path / "other.jsonl", keep=["name"])


def test_a_field_that_no_line_can_hold_is_told_with_its_record(run_dir, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "war", "id": "\\ud800"}\n')
    with pytest.raises(ValueError, match=r"--keep id: .*in\.jsonl:1 has there what a line of JSON"):
        predict(run_dir, path, tmp_path / "out.jsonl", keep=["id"])
    record = ExampleRecord({"file": b"bytes"}, "a:1")
    with pytest.raises(ValueError, match=r"--keep file: a:1 has there .*bytes"):
        module._said(record, {}, ["file"])


def test_several_processes_do_not_write_one_file(tmp_path, monkeypatch):
    """Each would give its devices the same rows, and the file all of the answers."""
    monkeypatch.setattr(module.jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"predict is done by one process .*there are 2; start it"):
        predict(tmp_path / "run", tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_no_record_is_no_answer_and_tables_are_read_too(run_dir, source, tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    assert predict(run_dir, tmp_path / "none.jsonl", tmp_path / "a.jsonl").read_bytes() == b""
    texts = [record["text"] for record in read(source)]
    (tmp_path / "in [1].csv").write_text("\n".join(["text", *texts]))
    table = predict(run_dir, tmp_path / "in [1].csv", tmp_path / "b.jsonl").read_bytes()
    assert table == predict(run_dir, source, tmp_path / "c.jsonl").read_bytes()
    (tmp_path / "in.txt").write_text("war")
    with pytest.raises(ValueError, match=r"in\.txt: give a file named \.jsonl"):
        predict(run_dir, tmp_path / "in.txt", tmp_path / "d.jsonl")


def test_two_at_once_do_not_write_one_file(tmp_path):
    """Else each would add its answers behind the other's."""
    given = {"made_of": {"run": "a"}, "block": 1}
    with PredictionFile(tmp_path / "out.jsonl", **given) as file:
        file.add([{"label": "a"}])
        with pytest.raises(ValueError, match=r"another process is writing .*out\.jsonl\.partial"):
            PredictionFile(tmp_path / "out.jsonl", **given)
        file.add([{"label": "b"}])
    with PredictionFile(tmp_path / "out.jsonl", **given) as file:
        assert file.num_done == 2


@pytest.mark.parametrize("sizes", [[1], [3] * 9, [64, 1, 17, 33, 16, 2], list(range(1, 65))])
def test_batches_have_every_row_once_and_room_for_each(sizes):
    batches = object.__new__(PredictionBatches)
    batches._length, batches._rows, batches._num_devices = 64, 4, 2
    seen = []
    for numbers, rows, length in batches.plan(np.array(sizes)):
        assert len(numbers) <= rows
        assert rows % 2 == 0
        assert rows * length <= 4 * 64
        assert max(sizes[n] for n in numbers) <= length
        seen += numbers.tolist()
    assert sorted(seen) == list(range(len(sizes)))
