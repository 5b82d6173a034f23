import logging
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from jaxllm.data import read_documents
from jaxllm.data.tfds_corpus import TfdsCorpusConfig

from .texts import AWKWARD


class AwkwardTexts(tfds.core.GeneratorBasedBuilder):
    """A dataset as a user would define it."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"body": tfds.features.Text(), "number": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, text in enumerate(AWKWARD):
            yield number, {"body": text, "number": number}


def read(**options):
    config = TfdsCorpusConfig(**{"name": "awkward_texts", "text_key": "body", **options})
    found = read_documents(config, split="train", validation_every=0)
    return [document.text for document in found]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


def test_a_builder_is_generated_as_array_record_and_read_again(data_dir):
    first = read(data_dir=data_dir)
    assert sorted(first) == sorted(AWKWARD)  # TFDS shuffles what it generates
    assert read(data_dir=data_dir) == first
    assert read(data_dir=data_dir, split="train[3:]") == first[3:]
    folder = f"{data_dir}/awkward_texts/1.0.0"
    assert tfds.builder_from_directory(folder).info.file_format.value == "array_record"
    assert read(name=folder) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "no_such_dataset"}, "TFDS knows no dataset 'no_such_dataset'"),
        ({"name": "no/such/folder"}, "^corpus.name: 'no/such/folder' is no folder; .* `name`"),
        ({"split": "test"}, r"^corpus\.split: .* no split 'test'; it has train"),
        ({"text_key": "text"}, "no feature 'text'; it has body, number"),
    ],
)
def test_what_is_not_there_is_named(data_dir, options, message):
    with pytest.raises(ValueError, match=message):
        read(data_dir=data_dir, **options)


def test_a_folder_that_is_no_dataset_gets_one_line(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path), "mine"):
        problem = rf"^corpus\.name: '{name}' has no dataset_info\.json; give the folder .*`$"
        with pytest.raises(ValueError, match=problem):
            read(name=name, data_dir=str(tmp_path / "none"))


def test_a_dataset_that_cannot_be_downloaded_is_one_error(tmp_path, monkeypatch, caplog):
    """Without a network; the retries are the library's own, but say nothing."""

    def refuse(builder, **_):
        logging.getLogger("urllib3.connectionpool").warning("Retrying")
        raise requests.ConnectionError("Failed to resolve 'example.org'")

    monkeypatch.setattr(AwkwardTexts, "download_and_prepare", refuse)
    problem = (
        rf"^corpus\.name: 'awkward_texts' is not prepared in {tmp_path}/.* cannot be downloaded "
        r"\(ConnectionError\); .* the folder of a prepared dataset$"
    )
    with pytest.raises(ValueError, match=problem):
        read(data_dir=str(tmp_path))
    assert "Retrying" not in caplog.text


def test_a_tfrecord_dataset_gets_the_name_of_the_conversion(data_dir, tmp_path):
    read(data_dir=data_dir)
    info = tmp_path / "awkward_texts" / "1.0.0" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        text = Path(data_dir, "awkward_texts/1.0.0", name).read_text()
        (info.parent / name).write_text(text.replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"tfrecord.*TensorFlow.*convert_format"):
        read(data_dir=str(tmp_path))
