"""Raw text in a bucket, and datasets that are prepared there."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from jaxllm.data import corpus as corpus_module
from jaxllm.data import prepare_dataset, read_documents, records
from jaxllm.data.datasets import BinDatasetConfig, open_stream
from jaxllm.data.jsonl_corpus import JsonlCorpusConfig
from jaxllm.data.missing import MissingData
from jaxllm.data.parquet_corpus import ParquetCorpusConfig
from jaxllm.data.streams import PreparedStream, read
from jaxllm.data.text_corpus import TextCorpusConfig
from jaxllm.data.tfds_corpus import TfdsCorpusConfig
from jaxllm.data.tokenizer import ByteTokenizerConfig

from .conftest import SENTENCEPIECE
from .texts import document, write_texts

TEXTS = [document(seed, 20) for seed in range(30)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, quick_retries):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus_module, "MIN_PART_BYTES", 8000)
    monkeypatch.setattr(records, "SHARD_RECORDS", 2)
    return tmp_path / "cache"


def prepare(texts, root, **options):
    defaults = {"tokenizer": SENTENCEPIECE, "name": "texts", "validation_every": 10, "workers": 1}
    config = TextCorpusConfig(paths=(f"{texts}/*.txt",))
    return prepare_dataset(config, root=root, **{**defaults, **options})


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_format_is_read_from_a_bucket(bucket, tmp_path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    bucket.put("raw/a.jsonl", lines)
    bucket.put("raw/a.jsonl.gz", gzip.compress(lines))
    table = pyarrow.table({"text": TEXTS})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    bucket.put("raw/a.parquet", (tmp_path / "a.parquet").read_bytes())
    for index, text in enumerate(TEXTS):
        bucket.put(f"raw/texts/{index // 10}/{index:03d}.txt", text.encode())
    for config in (
        JsonlCorpusConfig(paths=(f"{bucket.url}/raw/a.jsonl",)),
        JsonlCorpusConfig(paths=(f"{bucket.url}/raw/*.gz",)),
        ParquetCorpusConfig(paths=(f"{bucket.url}/raw/a.*quet",)),
        TextCorpusConfig(paths=(f"{bucket.url}/raw/texts/**/*.txt",)),
    ):
        documents = read_documents(config, split="train", validation_every=0)
        assert [document.text for document in documents] == TEXTS, config


def test_text_in_a_bucket_gives_the_same_tokens_and_is_known_by_its_checksum(bucket, tmp_path):
    texts = write_texts(tmp_path / "texts", 12)
    options = {"tokenizer": ByteTokenizerConfig(), "validation_every": 4}
    for path in texts.iterdir():
        bucket.put(f"raw/{path.name}", path.read_bytes())
    here = PreparedStream(prepare(texts, tmp_path / "here", **options), "train")
    folder = prepare(f"{bucket.url}/raw", tmp_path / "there", **options)
    there = PreparedStream(folder, "train")
    assert (read(here, 0, here.num_tokens) == read(there, 0, there.num_tokens)).all()
    assert prepare(f"{bucket.url}/raw", tmp_path / "there", **options) == folder
    bucket.put("raw/0003.txt", b"changed")
    assert prepare(f"{bucket.url}/raw", tmp_path / "there", **options) != folder


def test_a_root_in_a_bucket_gets_what_a_local_one_does(texts, bucket, tmp_path, cache, monkeypatch):
    expected = prepare(texts, tmp_path / "root")
    folder = prepare(texts, f"{bucket.url}/root")
    assert str(folder) == f"{bucket.url}/root/{expected.name}"
    assert bucket.files(f"root/{expected.name}") == contents(expected)
    before = len(bucket.requests)
    stream = PreparedStream(folder, "train")
    read(stream, 0, stream.num_tokens)
    shards = [line for line in bucket.requests[before:] if "array_record" in line]
    assert shards == [], "who made it needs not fetch it"
    # Another host, which has neither the dataset nor the tokenizer yet.
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "other"))
    before = bucket.files("root")
    assert prepare(texts, f"{bucket.url}/root") == folder
    assert bucket.files("root") == before
    assert list((cache / "other").glob("**/sentencepiece-*")) != []
    assert not list(cache.glob("**/*.tmp"))


def test_a_dataset_that_could_not_be_sent_is_sent_by_the_next_run(texts, bucket, tmp_path):
    root, options = f"{bucket.url}/root", {"tokenizer": ByteTokenizerConfig()}
    expected = contents(prepare(texts, tmp_path / "root", **options))
    bucket.faults.next(503, method="POST", path="upload", times=None, after=len(expected) - 1)
    with pytest.raises(OSError, match=rf"{root}/texts-.* cannot be reached"):
        prepare(texts, root, **options)
    (sent,) = {name.split("/")[0] for name in bucket.files("root")}
    missing = set(expected) - set(bucket.files(f"root/{sent}"))
    assert missing == {"tokens.json"}, "the sidecar says that all the rest is there"
    bucket.faults.clear()
    phases = []
    folder = prepare(texts, root, **options, on_progress=lambda phase, *_: phases.append(phase))
    assert phases == [], "the text was tokenised anew"
    assert bucket.files(f"root/{folder.name}") == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TextCorpusConfig(paths=("gs://{}/no/*.txt",)), "'gs://.*/no/.*matches no file"),
        (JsonlCorpusConfig(paths=("gs://{}/no.jsonl",)), "'gs://.*/no.jsonl' matches no file"),
        (TfdsCorpusConfig(name="gs://{}/set"), "corpus.name: gs://.*/set: .*copy it to this"),
    ],
)
def test_what_is_not_there_or_cannot_be_read_in_a_bucket_is_named(bucket, config, message):
    given = json.loads(config.model_dump_json().replace("{}", bucket.name))
    with pytest.raises(ValueError, match=message):
        list(read_documents(type(config)(**given), split="train", validation_every=0))


def test_token_files_are_not_mapped_from_a_bucket(bucket):
    config = BinDatasetConfig(train=f"{bucket.url}/a.bin", vocab_size=9, delimiter_id=0)
    with pytest.raises(ValueError, match=r"train: gs://.*/a.bin cannot be memory-mapped") as error:
        open_stream(config, "train")
    assert not isinstance(error.value, MissingData)


def test_another_scheme_is_refused(tmp_path):
    with pytest.raises(ValueError, match="s3:// is not supported"):
        prepare("s3://bucket/texts", tmp_path)
