"""Answers in a file: in order, whatever the batches are and wherever it was stopped."""

import errno
import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxllm.commands import predict as module
from jaxllm.commands import prediction_file
from jaxllm.commands.predict import predict
from jaxllm.commands.prediction_batches import PredictionBatches
from jaxllm.commands.prediction_file import PredictionFile
from jaxllm.commands.prediction_records import _kept
from jaxllm.commands.run_folder import open_model
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import table_of
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.data.tokenizer import ByteTokenizer

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
        given = {"batch_size": 16, "dataset": "texts"}
        alone += read(predict(run_dir, tmp_path / "one.jsonl", out, **given))
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


def counting(monkeypatch):
    """The sizes of the blocks that are computed from here on, as they come."""
    blocks = []

    class Counting(PredictionBatches):
        def answers(self, table):
            blocks.append(table.num_examples)
            return super().answers(table)

    monkeypatch.setattr(module, "PredictionBatches", Counting)
    return blocks


def test_blocks_before_a_bad_record_are_kept_and_gone_on_behind(
    run_dir, source, tmp_path, monkeypatch, capsys
):
    whole = predict(run_dir, source, tmp_path / "whole.jsonl").read_bytes()
    out, lines = tmp_path / "out.jsonl", source.read_text().splitlines()
    bad = {12: '{"text": ""}', 19: '{"text": "wa'}  # no example, and no record
    source.write_text("\n".join(bad.get(n, line) for n, line in enumerate(lines)))
    with pytest.raises(ValueError, match=r"in\.jsonl:13: 'text' is empty"):
        predict(run_dir, source, out)
    assert "8 answers are kept; the same command goes on" in capsys.readouterr().out
    lines_but = [line for n, line in enumerate(lines) if n != 19]
    source.write_text("\n".join([*lines_but[:19], bad[19], *lines_but[19:]]))
    monkeypatch.chdir(run_dir.parent)  # the same run, from another folder
    blocks = counting(monkeypatch)
    with pytest.raises(ValueError, match=r"in\.jsonl:20: not a line of JSON"):
        predict(run_dir.name, source, out)
    assert blocks == [8]  # the second: neither the first one again, nor the third
    source.write_text("\n".join(lines).replace("war", "peace", 1))
    with pytest.raises(ValueError, match=r"the answers to 16 records, which are not the first of"):
        predict(run_dir, source, out)
    source.write_text("\n".join(lines[:10]))
    with pytest.raises(ValueError, match=r"the answers to 16 records, which are not the first of"):
        predict(run_dir, source, out)
    with pytest.raises(ValueError, match=r"begun with other things:\n  keep: \[\] then, \['id'"):
        predict(run_dir, source, out, keep=["id"])
    source.write_text("\n".join(lines))
    assert predict(run_dir, source, out).read_bytes() == whole
    assert blocks == [8, 7]


def test_of_a_stop_before_the_first_answers_nothing_is_left(run_dir, source, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=r"--keep name: .*:1 has no such field \(fields: 'id'"):
        predict(run_dir, source, out, keep=["name"])
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    # Nor is anything compared with what a kill left.
    (tmp_path / "out.jsonl.partial").write_text('{"label": "war"}\n')
    with PredictionFile(out, made_of={"run": "a"}, block=8) as file:
        assert file.num_done == 0
        file.complete()
    assert out.read_bytes() == b""


def test_a_field_that_no_line_can_hold_is_told_with_its_record(run_dir, tmp_path):
    path = tmp_path / "in.jsonl"
    for value in ('"\\ud800"', "NaN"):
        path.write_text(f'{{"text": "war", "id": {value}}}\n')
        with pytest.raises(ValueError, match=r"--keep id: .*in\.jsonl:1 has there what a line of"):
            predict(run_dir, path, tmp_path / "out.jsonl", keep=["id"])
    record = ExampleRecord({"file": b"bytes"}, "a:1")
    with pytest.raises(ValueError, match=r"--keep file: a:1 has there .*bytes"):
        _kept(record, ["file"])


def test_an_answer_that_is_no_number_is_told_with_its_record(
    run_dir, source, tmp_path, monkeypatch
):
    def broken(*given, **options):
        trained = open_model(*given, **options)
        return trained._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, trained.params))

    monkeypatch.setattr(module, "open_model", broken)
    (tmp_path / "one.jsonl").write_text(source.read_text().splitlines()[0])
    with pytest.raises(ValueError, match=r"one\.jsonl:1: what the model answers is no finite num"):
        predict(run_dir, tmp_path / "one.jsonl", tmp_path / "out.jsonl", batch_size=16)
    record = ExampleRecord({}, "a:1")
    assert module._line(record, {"id": 1}, {"value": 2.0}) == '{"id": 1, "value": 2.0}'
    with pytest.raises(ValueError, match="a:1: what the model answers is no finite number"):
        module._line(record, {}, {"value": np.inf})


def test_where_outputs_are_no_numbers_there_is_no_answer():
    """No tag would be the likeliest then, and no entity found."""
    source = {"type": "jsonl", "paths": ["a.jsonl"]}
    dataset = LabelledTextsConfig.model_validate({"source": source, "labels": ["a", "b"]})
    doing = SimpleNamespace(
        dataset=dataset,
        tokenizer=ByteTokenizer(),
        begin=lambda params, batch: batch["example_index"],
        outputs=lambda begun: {
            "logits": np.where(begun[:, None] == 1, [0, np.nan], [-np.inf, 0]).astype(np.float32),
            "text": np.array(["a"] * len(begun), object),
        },
        answer=lambda parts, rows, numbers: {"entities": []},
    )
    table = table_of([{"text": ByteTokenizer().encode(text)} for text in "abc"])
    batches = PredictionBatches(doing, {}, length=16, rows=2, num_devices=1)
    assert batches.answers(table) == [{"entities": []}, None, {"entities": []}]


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    given = {"made_of": {}, "block": 1}
    with pytest.raises(OSError, match=r"--output: .*/file cannot be written: "):
        PredictionFile(tmp_path / "file" / "out.jsonl", **given)
    with pytest.raises(ValueError, match=r"--output gs://bucket/out\.jsonl: answers are written"):
        PredictionFile(Path("gs://bucket/out.jsonl"), **given)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with PredictionFile(tmp_path / "out.jsonl", **given) as file:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"out\.jsonl\.partial cannot be written: No space left"):
            file.add(['{"label": "a"}'], digest="a")


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
        file.add(['{"label": "a"}'], digest="a")
        with pytest.raises(ValueError, match=r"another process is writing .*out\.jsonl\.partial"):
            PredictionFile(tmp_path / "out.jsonl", **given)
        file.add(['{"label": "b"}'], digest="b")
    with PredictionFile(tmp_path / "out.jsonl", **given) as file:
        assert file.num_done == 2
        file.check_records("b")
        file.complete()
        with pytest.raises(ValueError, match="is there already"):
            PredictionFile(tmp_path / "out.jsonl", **given)


def test_what_another_process_completes_meanwhile_is_left_alone(tmp_path, monkeypatch):
    """It may have the lock when the file is opened, and be done when the lock is asked for."""
    lock = prediction_file.fcntl.flock
    (tmp_path / "out.jsonl.partial").write_text('{"label": "a"}\n')

    def late(*given):
        (tmp_path / "out.jsonl.partial").rename(tmp_path / "out.jsonl")
        lock(*given)

    monkeypatch.setattr(prediction_file.fcntl, "flock", late)
    with pytest.raises(ValueError, match=r"another process is writing .*out\.jsonl\.partial"):
        PredictionFile(tmp_path / "out.jsonl", made_of={}, block=1)
    assert (tmp_path / "out.jsonl").read_text() == '{"label": "a"}\n'


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
