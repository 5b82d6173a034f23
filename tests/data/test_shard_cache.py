import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxllm.data import DataConfig, MissingData, prepare_dataset, records
from jaxllm.data.datasets import PreparedDatasetConfig, open_stream
from jaxllm.data.remote_files import send_folder
from jaxllm.data.shard_cache import ShardCache, tokenizer_folder
from jaxllm.data.streams import PreparedStream, read
from jaxllm.data.text_corpus import TextCorpusConfig
from jaxllm.data.tokenizer import ByteTokenizerConfig, load_tokenizer
from jaxllm.storage import as_path


@pytest.fixture(scope="module")
def local(texts, tmp_path_factory):
    """The texts as bytes, in shards of 2 records: 11 of them to train on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "SHARD_RECORDS", 2)
        return _prepare(texts, tmp_path_factory.mktemp("root"))


def _prepare(texts, root):
    return prepare_dataset(
        TextCorpusConfig(paths=(f"{texts}/*.txt",)),
        tokenizer=ByteTokenizerConfig(),
        validation_every=10,
        root=root,
        name="texts",
        workers=1,
    )


@pytest.fixture
def remote(local, bucket, quick_retries, tmp_path, monkeypatch):
    """The same folder in a bucket, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = as_path(f"{bucket.url}/sets/texts")
    send_folder(local, folder, last="tokens.json")
    bucket.requests.clear()
    return folder


def cached(tmp_path):
    return sorted(path.name for path in tmp_path.glob("cache/jaxllm/datasets/*/texts-*"))


def fetched(bucket):
    """The shards that were asked for, one item a request of their bytes."""
    gets = (line for line in bucket.requests if line.startswith("GET") and "alt=media" in line)
    return [line for line in gets if "array_record" in line]


def test_rows_are_those_of_the_folder_it_was_made_of(local, remote):
    here, there = PreparedStream(local, "train"), PreparedStream(remote, "train")
    assert there.fingerprint == here.fingerprint, "a run may go on with either"
    assert there.num_tokens == here.num_tokens
    whole = read(there, 0, there.num_tokens)
    np.testing.assert_array_equal(whole, read(here, 0, here.num_tokens))


def test_only_the_shards_of_what_is_read_are_fetched_and_once(remote, bucket, tmp_path):
    stream = open_stream(PreparedDatasetConfig(path=str(remote)), "train")
    assert cached(tmp_path) == []
    shard_tokens = 2 * records.RECORD_TOKENS
    first = stream.read_rows([3 * shard_tokens - 5, 8 * shard_tokens], 10)
    assert cached(tmp_path) == [
        f"texts-train.array_record-{shard:05d}-of-00011" for shard in (2, 3, 8)
    ]
    assert len(fetched(bucket)) == 3
    again = PreparedStream(remote, "train").read_rows([3 * shard_tokens - 5, 8 * shard_tokens], 10)
    np.testing.assert_array_equal(again, first)
    assert len(fetched(bucket)) == 3, "a later start fetched them again"


def test_a_dataset_of_tokens_brings_its_tokenizer(remote, local, tmp_path):
    config = DataConfig(
        sequence_length=16,
        global_batch_size=2,
        datasets={"t": PreparedDatasetConfig(path=str(remote))},
    )
    data = config.build()
    assert data.tokenizer.fingerprint == load_tokenizer(local / "tokenizer").fingerprint
    assert str(data.folders["t"]) == str(remote)
    assert tokenizer_folder(str(remote)).is_relative_to(tmp_path / "cache")
    assert data.train_loader(seed=0).batch(0)["tokens"].shape == (2, 16)


def test_threads_that_want_the_same_shard_fetch_it_once(remote, bucket):
    cache = ShardCache(remote)
    split = cache.card.splits["train"]
    shards = list(zip(split.shards, split.shard_bytes, strict=True))[:4]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.fetch(shards), range(8)))
    assert len(fetched(bucket)) == 4


def _fetch_all(url, together):
    cache = ShardCache(url)
    split = cache.card.splits["train"]
    together.wait(60)
    cache.fetch(zip(split.shards, split.shard_bytes, strict=True))


def test_processes_of_a_host_share_the_cache(remote, bucket, tmp_path):
    context = multiprocessing.get_context("spawn")
    given = (str(remote), context.Barrier(2))
    workers = [context.Process(target=_fetch_all, args=given) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(cached(tmp_path)) == 11, "and no partial file is left"
    assert len(fetched(bucket)) == 11


def test_what_a_killed_process_left_is_fetched_anew(remote, local, tmp_path):
    cache = ShardCache(remote)
    split = cache.card.splits["train"]
    name, size = split.shards[0], split.shard_bytes[0]
    cache.folder.mkdir(parents=True)
    (cache.folder / f"{name}.partial").write_bytes(b"half")
    (cache.folder / split.shards[1]).write_bytes(b"of another size")
    cache.fetch([(name, size), (split.shards[1], split.shard_bytes[1])])
    for shard in split.shards[:2]:
        assert cache.path(shard).read_bytes() == (local / shard).read_bytes()
    assert cached(tmp_path) == list(split.shards[:2])


@pytest.mark.parametrize("fault", [503, 429, "cut before", "half"])
def test_requests_that_fail_for_a_while_are_made_again(remote, local, bucket, fault):
    stream = PreparedStream(remote, "train")
    bucket.faults.next(fault, method="GET", path="array_record.*alt=media", times=2)
    whole = read(stream, 0, stream.num_tokens)
    assert bucket.faults.count >= 2
    here = PreparedStream(local, "train")
    np.testing.assert_array_equal(whole, read(here, 0, here.num_tokens))


def test_a_bucket_that_stays_away_is_named(remote, bucket):
    stream = PreparedStream(remote, "train")
    bucket.faults.next(503, method="GET", path="array_record", times=None)
    with pytest.raises(OSError, match=rf"{remote}/texts-train.* could not be brought to .*again"):
        read(stream, 0, 10)
    bucket.faults.clear()
    read(stream, 0, 10)


def test_an_unreachable_bucket_is_not_an_absent_dataset(remote, bucket):
    bucket.faults.next(503, method="GET", path=".", times=None)
    with pytest.raises(OSError, match="cannot be reached"):
        PreparedStream(remote, "train")


def test_another_dataset_under_the_same_address_is_read_anew(
    remote, bucket, texts, tmp_path, monkeypatch
):
    """Even one with shards of the same names and sizes."""
    monkeypatch.setattr(records, "SHARD_RECORDS", 2)
    old = PreparedStream(remote, "train")
    before = read(old, 0, old.num_tokens)
    (tmp_path / "texts").mkdir()
    for path in texts.iterdir():
        (tmp_path / "texts" / path.name).write_bytes(path.read_bytes().replace(b"e", b"a"))
    other = _prepare(tmp_path / "texts", tmp_path / "other")
    for name in bucket.files("sets/texts"):
        bucket.remove(f"sets/texts/{name}")
    send_folder(other, remote, last="tokens.json")
    new, here = PreparedStream(remote, "train"), PreparedStream(other, "train")
    np.testing.assert_array_equal(read(new, 0, new.num_tokens), read(here, 0, here.num_tokens))
    np.testing.assert_array_equal(read(old, 0, old.num_tokens), before)


@pytest.mark.parametrize(("content", "message"), [(None, "is missing"), (b"x", "has 1 bytes")])
def test_shards_that_are_wrong_are_told_before_training(remote, bucket, content, message):
    name = "sets/texts/texts-train.array_record-00004-of-00011"
    bucket.remove(name) if content is None else bucket.put(name, content)
    with pytest.raises(ValueError, match=rf"shard {remote}/texts-train.*00004-of-00011 {message}"):
        PreparedStream(remote, "train")


def test_a_damaged_copy_is_named_and_can_be_fetched_anew(remote):
    stream = PreparedStream(remote, "validation")
    expected = read(stream, 0, stream.num_tokens)
    (copy,) = ShardCache(remote).folder.glob("texts-validation*00000-of-*")
    damaged = bytearray(copy.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    copy.write_bytes(damaged)
    again = PreparedStream(remote, "validation")
    with pytest.raises(ValueError, match=rf"shard {copy} is truncated .* it is fetched anew"):
        read(again, 0, again.num_tokens)
    os.unlink(copy)
    again = PreparedStream(remote, "validation")
    np.testing.assert_array_equal(read(again, 0, again.num_tokens), expected)


def test_a_folder_without_a_dataset_is_told_as_missing(remote, bucket):
    with pytest.raises(MissingData, match=rf"{bucket.url}/sets/nothing is no tokenised dataset"):
        open_stream(PreparedDatasetConfig(path=f"{bucket.url}/sets/nothing"), "train")


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere"])
def test_a_sidecar_cannot_name_places_outside_of_the_cache(remote, bucket, name):
    card = bucket.files("sets/texts")["tokens.json"].decode()
    bucket.put(
        "sets/texts/tokens.json", card.replace('"name": "texts"', f'"name": "{name}"').encode()
    )
    with pytest.raises(ValueError, match="not inside of it"):
        PreparedStream(remote, "train")
