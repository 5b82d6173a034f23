import copy
import shutil
import threading

import numpy as np
import pytest
from pydantic import ValidationError

from jaxllm.data import DataConfig, MissingData, open_stream
from jaxllm.data.streams import SyntheticStream, read

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


def test_a_dataset_used_before_needs_no_raw_text(texts, tmp_path):
    """Its text is gone, and so is the root where the tokenizer and the hashes are."""
    raw = shutil.copytree(texts, tmp_path / "texts")
    options = config({"texts": text(raw)}, tokenizer=SENTENCEPIECE, root=str(tmp_path / "root"))
    first = options.build()
    expected = first.train_loader(seed=0).batch(3)
    moved = (tmp_path / "root").rename(tmp_path / "moved")
    folders = {"texts": moved / first.folders["texts"].name, "other": tmp_path / "nowhere"}
    shutil.rmtree(raw)
    again = options.build(tokenizer=first.tokenizer, folders=folders)
    assert again.folders == {"texts": folders["texts"]}
    assert not (tmp_path / "root").exists()
    batch = again.train_loader(seed=0).batch(3)
    for name, values in expected.items():
        np.testing.assert_array_equal(batch[name], values)
    with pytest.raises(ValueError, match="matches no file"):
        options.build(tokenizer=first.tokenizer, folders={"texts": tmp_path / "nowhere"})


def test_a_folder_of_other_tokens_is_not_used(texts, tmp_path):
    datasets = {"texts": text(texts)}
    options = config(datasets, tokenizer=SENTENCEPIECE, root=str(tmp_path))
    pieces = options.build()
    bytes_ = config(datasets, tokenizer={"type": "byte"}, root=str(tmp_path))
    fewer = config({"texts": text(texts, validation_every=20)}, root=str(tmp_path))
    for other, tokenizer in ((bytes_, None), (fewer, pieces.tokenizer)):
        plain = other.build(tokenizer=tokenizer)
        assert other.build(tokenizer=tokenizer, folders=pieces.folders).folders == plain.folders
        assert plain.folders != pieces.folders
    shutil.rmtree(pieces.folders["texts"])
    assert options.build(folders=pieces.folders).folders == pieces.folders  # made again


def test_errors_of_a_dataset_have_its_whole_key(texts, dataset, tmp_path):
    good = text(texts)
    cases = [
        ("more", text(tmp_path), r"^data\.datasets\.more\.corpus\.paths: the corpus is empty"),
        ("more", text(texts, validation_every=99), r"^data\.datasets\.more\.validation_every: no "),
        (
            "more",
            {"type": "prepared", "path": "/no"},
            r"^data\.datasets\.more: /no is no tokenised",
        ),
        # As `evaluate --data` calls it: no key of a config leads there.
        ("no/a.txt", text("no"), r"^dataset 'no/a\.txt': the corpus is empty .*'no/\*\.txt'"),
    ]
    for kind in ({"type": "byte"}, SENTENCEPIECE):
        for name, bad, message in cases:
            options = config({"good": good, name: bad}, tokenizer=kind, root=str(tmp_path / "root"))
            with pytest.raises(ValueError, match=message):
                options.build()


def test_what_is_missing_is_told_whole_and_last(dataset, tmp_path):
    """First comes what is wrong with the data that is there."""
    (tmp_path / "odd.bin").write_bytes(b"odd")
    tokens = {"type": "bin", "train": "a.bin", "vocab_size": 512, "delimiter_id": 1}
    missing = {
        "text": text(tmp_path),
        "old": {"type": "prepared", "path": "/no"},
        "ids": {**tokens, "validation": "b.bin"},
    }
    wrong = {
        "is empty or truncated": {**tokens, "validation": str(tmp_path / "odd.bin")},
        "another tokenizer": {"type": "prepared", "path": str(dataset)},
        "has no tokens.json": {"type": "prepared", "path": str(tmp_path)},
    }
    options = {"tokenizer": {"type": "byte"}, "root": str(tmp_path / "root")}
    with pytest.raises(MissingData) as told:
        config(missing, **options).build()
    assert [str(problem).split(": ")[0] for problem in told.value.problems] == [
        "data.datasets.old",
        "data.datasets.text.corpus.paths",
        "data.datasets.ids.train",
        "data.datasets.ids.validation",
    ]
    for message, dataset_config in wrong.items():
        with pytest.raises(ValueError, match=message) as refused:
            config({**missing, "wrong": dataset_config}, **options).build()
        assert not isinstance(refused.value, MissingData)


def test_prefetch_is_the_number_of_batches_read_ahead(monkeypatch):
    together = threading.Barrier(3, timeout=10)  # opens when three threads wait in it
    reads = []

    def read_rows(self, starts, length):
        reads.append(starts)
        together.wait()
        return np.zeros((len(starts), length), np.int32)

    monkeypatch.setattr(SyntheticStream, "read_rows", read_rows)
    data = config({"s": {"type": "synthetic"}}, prefetch=3).build()
    batches = data.train_loader(seed=0).iterate()
    next(batches)
    batches.close()
    assert len(reads) == 3


def test_a_prepared_dataset_brings_its_tokenizer(dataset, tokenizer):
    data = config({"texts": {"type": "prepared", "path": str(dataset)}}).build()
    assert data.tokenizer.fingerprint == tokenizer.fingerprint
    assert data.delimiter_id == tokenizer.delimiter_id
    assert data.train_loader(seed=0).batch(0)["tokens"].shape == (4, 32)


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
    loader = data.train_loader(seed=0, rows=range(2, 4))
    assert list(data.training_streams) == ["bin"]  # weight 0 is not trained on
    assert loader.batch(0)["tokens"].shape == (2, 32)
    stream = open_stream(options.datasets["bin"], "train")
    np.testing.assert_array_equal(read(stream, 3, 6), [3, 4, 5])
    with pytest.raises(ValueError, match="no validation split"):
        open_stream(options.datasets["bin"], "validation")


def test_configs_that_cannot_be_meant_are_refused(texts, tmp_path):
    with pytest.raises(ValidationError, match="every dataset has weight 0"):
        config({"s": {"type": "synthetic", "weight": 0}})
    with pytest.raises(ValueError, match=r"data\.datasets is empty"):
        config({}).build()
    with pytest.raises(ValidationError, match="workerz"):
        config({"s": {"type": "synthetic"}}, workerz=3)
    with pytest.raises(ValueError, match=r"set `data\.tokenizer`"):
        config({"texts": text(texts)}, root=str(tmp_path)).build()
    with pytest.raises(ValueError, match="no corpus to train the tokenizer on"):
        config({"s": {"type": "synthetic"}}, tokenizer=SENTENCEPIECE, root=str(tmp_path)).build()
