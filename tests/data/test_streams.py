import json
import shutil

import numpy as np
import pytest

from jaxllm.data.dataset_folder import SIDECAR
from jaxllm.data.records import RECORD_TOKENS, shard_name, write_shard
from jaxllm.data.streams import BinStream, PreparedStream, SyntheticStream, read


def whole(stream):
    return read(stream, 0, stream.num_tokens)


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "copy")


def test_rows_anywhere_are_slices_of_the_stream(dataset):
    stream = PreparedStream(dataset, "train")
    tokens = whole(stream)
    assert len(tokens) == stream.num_tokens > 3 * RECORD_TOKENS
    starts = [0, 5, RECORD_TOKENS - 1, RECORD_TOKENS, 2 * RECORD_TOKENS - 100]
    for length in (1, 100, RECORD_TOKENS + 2, 2 * RECORD_TOKENS):
        chosen = [
            start for start in [*starts, len(tokens) - length] if start + length <= len(tokens)
        ]
        rows = stream.read_rows(chosen, length)
        assert rows.dtype == np.int32
        np.testing.assert_array_equal(rows, [tokens[s : s + length] for s in chosen])


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_shard_of_another_size_is_named_before_anything_is_read(copy, damage):
    shard = copy / shard_name("texts", "train", 0, 1)
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        shard.unlink()
    with pytest.raises(ValueError, match=rf"{shard.name} is truncated or corrupt"):
        PreparedStream(copy, "train")


@pytest.mark.parametrize("damage", ["ids", "footer", "other"])
def test_a_damaged_shard_is_named_when_it_is_read(copy, damage):
    shard = copy / shard_name("texts", "train", 0, 1)
    data = bytearray(shard.read_bytes())
    if damage == "ids":
        data[data.index(b"tokens") + 1000] ^= 4  # one bit of the first record
    elif damage == "footer":
        data[-(1 << 16) :] = bytes(1 << 16)  # the last block has the index of the records
    else:
        data = (copy / shard_name("texts", "validation", 0, 1)).read_bytes()
        card = (copy / SIDECAR).read_text()
        (copy / SIDECAR).write_text(card.replace(str(shard.stat().st_size), str(len(data))))
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{shard.name} is truncated or corrupt"):
        whole(PreparedStream(copy, "train"))


@pytest.mark.parametrize("way", ["dots", "link"])
def test_a_dataset_names_no_file_outside_of_its_folder(copy, tmp_path, way):
    shard = copy / shard_name("texts", "train", 0, 1)
    elsewhere = shard.rename(tmp_path / shard.name)
    if way == "dots":
        card = (copy / SIDECAR).read_text()
        (copy / SIDECAR).write_text(card.replace(shard.name, f"../{shard.name}"))
    else:
        shard.symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"(not inside|outside) of"):
        PreparedStream(copy, "train")


def test_an_id_outside_the_vocabulary_is_named_by_shard_and_record(copy):
    shard = copy / shard_name("texts", "validation", 0, 1)
    good = whole(PreparedStream(copy, "validation"))
    blocks = np.zeros((1 + len(good) // RECORD_TOKENS, RECORD_TOKENS), np.uint16)
    blocks[0, 77] = 512
    write_shard(shard, iter(blocks))
    card = json.loads((copy / SIDECAR).read_text())
    card["splits"]["validation"]["shard_bytes"] = [shard.stat().st_size]
    (copy / SIDECAR).write_text(json.dumps(card))
    stream = PreparedStream(copy, "validation")
    assert read(stream, 0, 77).max() == 0
    with pytest.raises(ValueError, match=rf"id 512 in shard .*{shard.name}, record 0, offset 77"):
        stream.read_rows([0, 70], 60)


def test_a_folder_that_is_no_dataset_or_lacks_the_split_is_refused(copy):
    with pytest.raises(ValueError, match="no split 'test'; it has train, validation"):
        PreparedStream(copy, "test")
    card = (copy / SIDECAR).read_text()
    (copy / SIDECAR).write_text(card.replace('"format_version":1', '"format_version":9'))
    (copy / SIDECAR).write_text(card.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(ValueError, match="damaged or of another version"):
        PreparedStream(copy, "train")
    (copy / SIDECAR).unlink()
    with pytest.raises(ValueError, match="is no tokenised dataset"):
        PreparedStream(copy, "train")


def bin_stream(path, dtype="uint16"):
    return BinStream(path, dtype=np.dtype(dtype), vocab_size=100, delimiter_id=0)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32"])
def test_a_bin_file_is_read_as_it_is_and_checked(tmp_path, dtype):
    ids = np.random.default_rng(0).integers(0, 100, 5000).astype(dtype)
    ids.tofile(tmp_path / "x.bin")
    stream = bin_stream(tmp_path / "x.bin", dtype)
    np.testing.assert_array_equal(whole(stream), ids)
    np.testing.assert_array_equal(stream.read_rows([7, 4000], 50), [ids[7:57], ids[4000:4050]])
    fingerprint = stream.fingerprint
    ids[4321] = -1 if dtype == "int32" else np.iinfo(dtype).max
    ids.tofile(tmp_path / "x.bin")
    stream = bin_stream(tmp_path / "x.bin", dtype)
    assert stream.fingerprint != fingerprint
    with pytest.raises(ValueError, match=rf"id {ids[4321]} in .*x\.bin at offset 4321"):
        whole(stream)


def test_a_bin_file_that_is_missing_empty_or_cut_is_named(tmp_path):
    for data in (None, b"", b"odd"):
        if data is not None:
            (tmp_path / "x.bin").write_bytes(data)
        with pytest.raises(ValueError, match=r"token file .*x\.bin"):
            bin_stream(tmp_path / "x.bin")


def test_synthetic_tokens_depend_on_their_position_and_seed_alone():
    options = {"num_tokens": 1 << 40, "vocab_size": 1000, "mean_document_tokens": 50}
    stream = SyntheticStream(**options, seed=1)
    tokens = read(stream, 10**11, 10**11 + 100_000)
    np.testing.assert_array_equal(stream.read_rows([10**11 + 500], 20)[0], tokens[500:520])
    assert (
        tokens != read(SyntheticStream(**options, seed=2), 10**11, 10**11 + 100_000)
    ).mean() > 0.9
    assert tokens.min() == 0
    assert tokens.max() == 999
    # 2,000 delimiters are expected with a standard deviation of 44: six of those on either side.
    assert abs((tokens == 0).sum() - 2000) < 270
