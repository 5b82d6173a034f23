import copy

import numpy as np
import pytest
from pydantic import ValidationError

from jaxllm.data import DataConfig, open_stream
from jaxllm.data.streams import read

SENTENCEPIECE = {"type": "sentencepiece", "vocab_size": 512}


def text(folder, **options):
    corpus = {"type": "text", "paths": [f"{folder}/*.txt"]}
    return {"type": "corpus", "corpus": corpus, "validation_every": 10, **options}


def config(datasets, **options):
    defaults = {"sequence_length": 32, "global_batch_size": 4, "workers": 1}
    return DataConfig.model_validate({**defaults, "datasets": datasets, **options})


def test_datasets_of_text_share_one_tokenizer_and_are_made_when_missing(texts, tmp_path):
    (tmp_path / "more").mkdir()
    for index in range(10):
        (tmp_path / "more" / f"{index}.txt").write_text(f"quite another text, number {index} " * 30)
    datasets = {"texts": text(texts), "more": text(tmp_path / "more", weight=0.5)}
    options = config(datasets, tokenizer=SENTENCEPIECE, root=str(tmp_path / "root"))
    data = options.build()
    assert data.vocab_size == 512
    assert len(list(tmp_path.glob("root/tokenizers/*"))) == 1
    loaders = data.validation_loaders()
    assert list(loaders) == ["texts", "more"]
    assert loaders["more"].raw_bytes == (tmp_path / "more" / "9.txt").stat().st_size
    batch = data.train_loader(seed=0).batch(0)
    assert data.tokenizer.decode(batch["tokens"][0])
    assert options.build().folders == data.folders
    assert hash(options) == hash(copy.deepcopy(options))


def test_a_prepared_dataset_brings_its_tokenizer(dataset, tokenizer):
    data = config({"texts": {"type": "prepared", "path": str(dataset)}}).build()
    assert data.tokenizer.fingerprint == tokenizer.fingerprint
    assert data.delimiter_id == tokenizer.delimiter_id
    assert data.train_loader(seed=0).rows_per_epoch["texts"] > 100


def test_a_dataset_of_another_tokenizer_is_refused(dataset, texts, tmp_path):
    prepared = {"type": "prepared", "path": str(dataset)}
    with pytest.raises(ValueError, match=r"'old' .* another tokenizer .*data\.tokenizer"):
        config({"old": prepared}, tokenizer={"type": "byte"}, root=str(tmp_path)).build()
    mixed = {"old": prepared, "new": text(texts)}
    with pytest.raises(ValueError, match="another tokenizer"):
        config(mixed, tokenizer={"type": "byte"}, root=str(tmp_path)).build()
    tokens = {"type": "synthetic", "vocab_size": 100}
    with pytest.raises(ValueError, match=r"do not share one vocabulary: old: 512 ids.*s: 100 ids"):
        config({"old": prepared, "s": tokens}).build()


def test_bin_and_synthetic_streams_need_no_tokenizer(tmp_path):
    np.arange(500, dtype=np.uint16).tofile(tmp_path / "train.bin")
    bin_ = {
        "type": "bin",
        "train": str(tmp_path / "train.bin"),
        "vocab_size": 500,
        "delimiter_id": 0,
    }
    synthetic = {"type": "synthetic", "vocab_size": 500, "num_tokens": 10_000, "weight": 0}
    options = config({"bin": bin_, "synthetic": synthetic})
    data = options.build()
    assert data.tokenizer is None
    assert list(data.validation_loaders()) == ["synthetic"]
    loader = data.train_loader(seed=0, rows=slice(2, 4))
    assert loader.rows_per_epoch == {"bin": 15}  # weight 0 is not trained on
    assert loader.batch(0)["tokens"].shape == (2, 32)
    stream = open_stream(options.datasets["bin"], "train")
    np.testing.assert_array_equal(read(stream, 3, 6), [3, 4, 5])
    with pytest.raises(ValueError, match="no validation split"):
        open_stream(options.datasets["bin"], "validation")


def test_configs_that_cannot_be_meant_are_refused(texts, tmp_path):
    with pytest.raises(ValidationError, match="every dataset has weight 0"):
        config({"s": {"type": "synthetic", "weight": 0}})
    with pytest.raises(ValidationError, match="datasets"):
        config({})
    with pytest.raises(ValidationError, match="workerz"):
        config({"s": {"type": "synthetic"}}, workerz=3)
    with pytest.raises(ValueError, match=r"set `data\.tokenizer`"):
        config({"texts": text(texts)}, root=str(tmp_path)).build()
    with pytest.raises(ValueError, match="no corpus to train the tokenizer on"):
        config({"s": {"type": "synthetic"}}, tokenizer=SENTENCEPIECE, root=str(tmp_path)).build()
