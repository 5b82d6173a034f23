import json
import re
from pathlib import Path

import jax
import pytest

from jaxllm.commands.console import Console
from jaxllm.commands.inspect import inspect, show_rows
from jaxllm.data import DataConfig

GOLDEN = Path(__file__).parents[1] / "golden/hf_tokenizers"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that tables are not wrapped


def test_a_config_shows_its_weights_and_decoded_rows(finished, text, capsys):
    inspect(str(text), [f"run_dir={text.parent}/new"], rows=1)
    shown = capsys.readouterr().out
    assert not (text.parent / "new").exists()
    (line,) = [line for line in shown.splitlines() if "embed.table" in line]
    assert f"{320 * 32 * 4:,}" in line, "bytes of the whole table"
    assert f"{320 * 32 * 4 // jax.device_count():,}" in line, "bytes on a device"
    assert "fsdp" in line
    assert "row 0 of batch 0" in shown
    assert "row 1 of batch 0" not in shown
    assert "targets in the loss" in shown
    assert any(word in shown for word in (" the ", " people ", " congress "))


def test_overrides_change_what_a_config_shows(finished, text, capsys):
    inspect(str(text), ["model.embed_dim=64"], rows=0)
    assert f"{320 * 64 * 4:,}" in capsys.readouterr().out


def test_a_dataset_shows_its_card(finished, text, capsys):
    (folder,) = (text.parent / "root").glob("plain-*/")
    inspect(str(folder))
    shown = capsys.readouterr().out
    for word in ("train documents", "validation documents", "train tokens", "tokenizer"):
        assert word in shown, word


def test_a_run_shows_how_far_it_came(finished, unfinished, capsys):
    inspect(str(finished), rows=1)
    shown = capsys.readouterr().out
    assert "embed.table" in shown
    assert "validation_bits_per_byte" in shown
    inspect(str(unfinished), rows=1)
    shown = capsys.readouterr().out
    assert "is not complete; the command that began it goes on with it" in shown
    assert "segment_ids" in shown, "ids are shown as they are without a tokenizer"


def test_a_config_shows_its_weights_before_its_data_is_there(ids, capsys):
    inspect(str(ids), ["data.datasets.ids.train=no.bin", "data.datasets.ids.validation=yet.bin"])
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if "not there yet" in line]
    assert "data.datasets.ids.train: there is no token file no.bin" in line
    assert "data.datasets.ids.validation: there is no token file yet.bin" in line
    assert "embed.table" in shown
    assert f"{64 * 32 * 4:,}" in shown, "the vocabulary of 60, padded"
    assert "row 0" not in shown


def test_a_run_shows_how_far_it_came_when_its_data_is_gone(unfinished, capsys):
    config = unfinished / "config.yaml"
    config.write_text(config.read_text().replace("train.bin", "gone.bin"))
    inspect(str(unfinished))
    shown = capsys.readouterr().out
    assert "gone.bin" in shown
    assert "embed.table" in shown
    assert "is not complete" in shown


def test_data_that_is_there_but_wrong_is_refused(ids, tmp_path):
    (tmp_path / "odd.bin").write_bytes(b"odd")
    odd = f"data.datasets.ids.validation={tmp_path}/odd.bin"
    with pytest.raises(ValueError, match=r"odd\.bin is empty or truncated"):
        inspect(str(ids), ["data.datasets.ids.train=nowhere.bin", odd])
    nowhere = "data.datasets={one: {type: prepared, path: nowhere}}"
    with pytest.raises(ValueError, match="nowhere is no tokenised dataset"):
        inspect(str(ids), [nowhere])  # which alone would tell the size of the vocabulary


def test_what_is_neither_is_refused(finished, tmp_path):
    with pytest.raises(ValueError, match="nothing that can be inspected") as refused:
        inspect(str(tmp_path))
    for looked_for in ("config.yaml", "tokens.json", "a YAML file or the name of a shipped one"):
        assert looked_for in str(refused.value)
    with pytest.raises(ValueError, match="no config file"):
        inspect("nothing")
    with pytest.raises(ValueError, match="overrides go with a CONFIG"):
        inspect(str(finished), ["seed=1"])


def test_conversations_among_texts_are_counted_beside_them(text, tmp_path, capsys):
    lines = [{"prompt": f"Number {i}?", "completion": f"It is {i}."} for i in range(20)]
    talks = tmp_path / "talks.jsonl"
    talks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    tokenizer = f"type: hf, path: {GOLDEN}/json_bytelevel, chat_template: {template}"
    inspect(
        str(text),
        [
            f"data.tokenizer={{{tokenizer}}}",
            f"data.datasets.talks={{type: chats, source: {{type: jsonl, paths: [{talks}]}}}}",
            f"data.root={tmp_path}/root",
        ],
        rows=0,
    )
    shown = capsys.readouterr().out
    assert re.search(r"\d+ training examples and [\d,]+ tokens of text in \d+ rows", shown), shown


def test_rows_of_examples_are_shown_with_every_text(tmp_path, capsys):
    lines = [{"source": f"a house {i}", "target": f"una casa {i}"} for i in range(4)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"type": "jsonl", "paths": [str(path)]}
    data = DataConfig.model_validate(
        {
            "sequence_length": 32,
            "global_batch_size": 2,
            "tokenizer": {"type": "byte"},
            "datasets": {
                "pairs": {"type": "translations", "source": source, "validation_every": 0}
            },
            "root": str(tmp_path),
        }
    ).build()
    show_rows(Console(is_shown=True), data, seed=0, rows=4)
    shown = capsys.readouterr().out
    for line in lines:
        assert re.search(rf"{line['source']}\n.*target.*\n    {line['target']}\n", shown), shown
    assert "row 1 of batch 1" in shown
