"""Published encoders, and networks that only data tells the task of, as run folders."""

import json

import numpy as np
import pytest
import yaml
from hf.published import published as recorded

from jaxllm.commands.export import export_model
from jaxllm.commands.import_model import import_model
from jaxllm.commands.predict import predict
from jaxllm.commands.run_folder import check_config, read_config
from jaxllm.config import load_config
from jaxllm.hf.tensor_files import read_folder

NAMES = ["peace", "war", "law", "money"]
TEXTS = (
    "objective={type: sequence_classification}",
    "data.tokenizer={type: byte}",
    "data.datasets.texts={type: labelled_texts, source: {type: jsonl, paths: [none.jsonl]}, "
    "labels: [peace, war, law, money]}",
)
PICTURES = (
    "objective={type: image_classification, pixels: {mean: [0.5], std: [0.5]}}",
    "data.datasets.pictures={type: pictures, source: {type: files, paths: ['*.png']}, "
    "image: file, label: folder, labels: LABELS, size: SIZE}",
)


def check_round_trip(folder, run_dir, out):
    """All weights come out as they came in, bit for bit."""
    export_model(run_dir, out, step=None, dtype="float32")
    before, after = read_folder(folder), read_folder(out)
    assert before.keys() == after.keys()
    for tensor, entry in before.items():
        np.testing.assert_array_equal(after[tensor].array(), entry.array(), err_msg=tensor)


@pytest.mark.parametrize("name", ["bert_masked_lm", "roberta_masked_lm"])
def test_an_encoder_of_hidden_tokens_goes_on_with_them(name, tmp_path, capsys):
    case = recorded(name)
    folder = case.write(tmp_path / "theirs")
    import_model(folder, tmp_path / "run", ["parallel.layout=replicated"])
    assert "next: jaxllm evaluate" in capsys.readouterr().out
    config = read_config(tmp_path / "run")
    assert (config.model, config.objective.type) == (case.config, "masked_lm")
    assert config.data.sequence_length == case.config.num_positions
    check_round_trip(folder, tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["bert_pooler", "bert_sequence", "bert_qa", "t5", "marian", "vit", "clip"]
)
def test_where_only_data_tells_the_task_a_config_of_its_own_is_the_way(name, tmp_path):
    folder = recorded(name).write(tmp_path / "theirs")
    with pytest.raises(ValueError, match=r"is a \w+.*\(init_from: \{type: hf, path: .*theirs\}\)"):
        import_model(folder, tmp_path / "run", [])
    assert not (tmp_path / "run").exists()


def named(tmp_path, name, names):
    """A recorded model whose classes are called so."""
    folder = recorded(name).write(tmp_path / "theirs")
    raw = json.loads((folder / "config.json").read_text())
    raw["id2label"] = dict(enumerate(names))
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def test_told_its_task_it_answers(tmp_path, capsys):
    folder = named(tmp_path, "bert_sequence", NAMES)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a war is no peace".split()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "in.jsonl").write_text('{"text": "a war"}\n{"text": "no peace is"}\n')
    overrides = [TEXTS[0], TEXTS[2], "parallel.layout=replicated"]
    import_model(folder, tmp_path / "run", overrides)
    assert "next: jaxllm predict" in capsys.readouterr().out
    predict(tmp_path / "run", tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [list(answer["probabilities"]) for answer in answers] == [NAMES] * 2
    check_round_trip(folder, tmp_path / "run", tmp_path / "exported")


def test_pictures_need_no_tokenizer(tmp_path):
    config = recorded("vit").config
    names = [f"c{number}" for number in range(config.num_labels)]
    folder = named(tmp_path, "vit", names)
    (folder / "vocab.txt").write_text("a\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    size = f"{config.image_size}, num_channels: {config.num_channels}"
    pictures = PICTURES[1].replace("LABELS", json.dumps(names)).replace("SIZE", size)
    import_model(folder, tmp_path / "run", [PICTURES[0], pictures, "parallel.layout=replicated"])
    assert read_config(tmp_path / "run").data.sequence_length == config.num_positions
    check_round_trip(folder, tmp_path / "run", tmp_path / "out")


def test_classes_that_are_called_otherwise_are_refused(tmp_path):
    folder = named(tmp_path, "bert_sequence", NAMES[::-1])
    with pytest.raises(ValueError, match=r"tells \[money, .*\], but data\.datasets have \[peace,"):
        import_model(folder, tmp_path / "run", [*TEXTS, "data.sequence_length=16"])
    assert not (tmp_path / "run").exists()


def test_so_they_are_where_the_import_is_trained(tmp_path):
    folder = named(tmp_path, "bert_sequence", NAMES)
    run_dir = tmp_path / "run"
    import_model(folder, run_dir, [*TEXTS, "parallel.layout=replicated"])
    raw = yaml.safe_load((run_dir / "config.yaml").read_text())
    check_config(run_dir, load_config(run_dir / "config.yaml"))
    raw["data"]["datasets"]["texts"]["labels"] = NAMES[::-1]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match=r"the imported model tells \[peace, .*\[money, "):
        check_config(run_dir, load_config(tmp_path / "other.yaml"))
