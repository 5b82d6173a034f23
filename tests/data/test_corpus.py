import gzip
import json
import random
import re
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from jaxllm.data.compression import BLOCK_BYTES, open_stream
from jaxllm.data.corpus import gather_parts, read_documents, read_part, split_of
from jaxllm.data.documents import BadRecord, Document, Span, expand_paths
from jaxllm.data.jsonl_corpus import JsonlCorpus, JsonlCorpusConfig
from jaxllm.data.parquet_corpus import ParquetCorpusConfig
from jaxllm.data.text_corpus import TextCorpusConfig

from .texts import AWKWARD, document

TEXTS = [document(seed, 20) + AWKWARD[seed % len(AWKWARD)] for seed in range(45)]


def documents(config, split="train", every=0):
    found = read_documents(config, split=split, validation_every=every)
    return [document.text for document in found]


def jsonl(texts):
    return "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts).encode()


def test_every_format_yields_the_same_documents(tmp_path):
    data = jsonl(TEXTS)
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    compressor = zstandard.ZstdCompressor()
    half = len(data) // 2
    frames = compressor.compress(data[:half]) + compressor.compress(data[half:])
    (tmp_path / "a.jsonl.zst").write_bytes(frames)
    table = pyarrow.table({"id": range(len(TEXTS)), "body": TEXTS})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    (tmp_path / "texts").mkdir()
    for index, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{index:03d}.txt").write_bytes(text.encode())
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        assert documents(JsonlCorpusConfig(paths=(str(tmp_path / name),))) == TEXTS, name
    parquet = ParquetCorpusConfig(paths=(f"{tmp_path}/*.parquet",), text_column="body")
    assert documents(parquet) == TEXTS
    assert documents(TextCorpusConfig(paths=(f"{tmp_path}/texts/*",))) == TEXTS


def test_jsonl_spans_of_any_size_give_every_line_once_with_its_number(tmp_path):
    source = random.Random(0)
    lines = [
        b"" if source.random() < 0.2 else jsonl(["x" * source.randrange(200)]).strip()
        for _ in range(60)
    ]
    for ending in (b"\n", b"", b"\r\n"):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"\n".join(lines) + ending)
        corpus = JsonlCorpus((str(path),), text_key="text")
        whole = [record for span in corpus.scan(str(path), 1 << 30) for record in corpus.read(span)]
        assert len(whole) == 60
        for size in (1, 7, 100, 1000, 5000):
            spans = corpus.scan(str(path), size)
            assert [record for span in spans for record in corpus.read(span)] == whole
            assert [span.start for span in spans[1:]] == [span.stop for span in spans[:-1]]
            if size == 1:
                assert len(spans) == 60
    number = next(i for i, record in enumerate(whole) if isinstance(record, Document))
    assert whole[number].where == f"{path}:{number + 1}"


def test_spans_longer_than_a_block_of_the_scan_are_cut_at_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(["a" * 700_000] * 9))
    corpus = JsonlCorpus((str(path),), text_key="text")
    spans = corpus.scan(str(path), 1_500_000)
    assert [span.records for span in spans] == [3, 3, 3]
    assert sum(1 for span in spans for _ in corpus.read(span)) == 9


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_archive_is_named(tmp_path, ending, damage):
    data = jsonl([document(seed) for seed in range(50)])
    path = tmp_path / f"a.jsonl{ending}"
    checked = zstandard.ZstdCompressor(write_checksum=True)
    packed = bytearray(gzip.compress(data) if ending == ".gz" else checked.compress(data))
    if damage == "cut":
        del packed[len(packed) // 2 :]
    else:
        packed[len(packed) // 2] ^= 1
    path.write_bytes(packed)
    with pytest.raises(ValueError, match=f"{path.name} is truncated or corrupt"):
        documents(JsonlCorpusConfig(paths=(str(path),)))


def test_a_file_that_grows_ten_thousandfold_is_read_in_little_memory(tmp_path):
    path = tmp_path / "a.zst"
    size = 128 << 20
    path.write_bytes(zstandard.ZstdCompressor().compress(bytes(size)))
    tracemalloc.start()
    try:
        with open_stream(str(path)) as file:
            assert sum(len(block) for block in iter(lambda: file.read(BLOCK_BYTES), b"")) == size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 16 MiB of text from one piece of input, twice while the library joins it, and the buffers.
    assert peak < 40 << 20


BAD_LINES = [
    (b'{"text": "a"', "not JSON"),
    (b'["text"]', "not a JSON object but a list"),
    (b'{"body": "a"}', r"no text under key 'text' \(keys: body\)"),
    (b'{"text": 3}', "the value of 'text' is of type int, not text"),
    (b'{"text": null}', "the value of 'text' is null, not text"),
    (b'{"text": "\xff"}', "not UTF-8"),
    (b'{"text": "\\ud800"}', "lone surrogate"),
    (b"[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_malformed_line_is_a_bad_record_with_its_line(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(["one", "two"]) + line + b"\n" + jsonl(["four"]))
    corpus = JsonlCorpus((str(path),), text_key="text")
    records = [record for span in corpus.scan(str(path), 100) for record in corpus.read(span)]
    assert [getattr(record, "text", None) for record in records] == ["one", "two", None, "four"]
    bad = records[2]
    assert isinstance(bad, BadRecord)
    assert bad.where == f"{path}:3"
    assert re.search(reason, bad.reason)


def test_parquet_names_bad_rows_columns_and_files(tmp_path):
    values = pyarrow.array([b"one", None, b"\xff\xfe"], pyarrow.binary())
    pyarrow.parquet.write_table(pyarrow.table({"text": values, "n": [1, 2, 3]}), tmp_path / "p")
    path = str(tmp_path / "p")
    corpus = ParquetCorpusConfig(paths=(path,)).build()
    records = [record for span in corpus.scan(path, 1) for record in corpus.read(span)]
    assert [str(record) for record in records[1:]] == [
        f"{path}:row 1: the text is null",
        f"{path}:row 2: not UTF-8: byte 0 is 0xff (invalid start byte)",
    ]
    for column, message in (("body", "it has text, n"), ("n", "holds int64, not text")):
        with pytest.raises(ValueError, match=message):
            documents(ParquetCorpusConfig(paths=(path,), text_column=column))
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes()[:-20])
    with pytest.raises(ValueError, match="p cannot be read"):
        documents(ParquetCorpusConfig(paths=(path,)))


def test_parts_partition_the_records_and_the_split_counts_over_all_of_them(tmp_path):
    spans = [Span("f", 0, 1, records=n, first=0, size=10 * n) for n in (3, 1, 4, 1, 5, 9)]
    parts = gather_parts(spans, 50)
    assert [span for part in parts for span in part.spans] == spans
    assert [part.first for part in parts] == [0, 8, 14]
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([str(number) for number in range(45)]))
    config = JsonlCorpusConfig(paths=(str(path),))
    held_out = documents(config, "validation", every=10)
    assert held_out == ["9", "19", "29", "39"]
    assert sorted(documents(config, every=10) + held_out, key=int) == [str(n) for n in range(45)]
    assert {split_of(record, 0) for record in range(50)} == {"train"}


def test_a_part_that_lost_records_is_noticed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(["one", "two"]))
    corpus = JsonlCorpusConfig(paths=(str(path),)).build()
    (part,) = gather_parts(corpus.scan(str(path), 1000), 1000)
    path.write_bytes(jsonl(["one"]))
    with pytest.raises(ValueError, match="became shorter"):
        list(read_part(corpus, part, validation_every=0))


def test_paths_are_expanded_in_order_and_a_missing_one_is_named(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    found = expand_paths((f"{tmp_path}/*.md", f"{tmp_path}/*.txt", f"{tmp_path}/a.txt"))
    assert [path.name for path in found] == ["c.md", "a.txt", "b.txt"]
    assert expand_paths(("package://pydantic/py.typed",))[0].name == "py.typed"
    for missing in (
        f"{tmp_path}/*.none",
        "package://pydantic/none",
        "package://no_such/x",
        "/none",
    ):
        with pytest.raises(ValueError, match=r"^corpus\.paths: the corpus is empty or missing: "):
            expand_paths((missing,))
