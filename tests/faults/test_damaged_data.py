"""Corpora and datasets with random damage: an error that names the file, or the text as it is."""

import gzip
import json
import random
import shutil

import pytest
from pydantic import TypeAdapter

from jaxllm.data.corpus import CorpusConfig, read_part
from jaxllm.data.corpus import gather_parts as parts_of
from jaxllm.data.documents import BadRecord
from jaxllm.data.prepare import tokenise_corpus
from jaxllm.data.streams import PreparedStream, read
from jaxllm.data.tokenizer import ByteTokenizer

pytestmark = pytest.mark.faults

DAMAGES = 100
TEXTS = [f"Document {i}: " + " ".join(str(i * k) for k in range(200)) for i in range(60)]


def write(folder, kind):
    """The texts in a file of this kind; its path."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    path = folder / f"texts.{kind}"
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines))
    elif kind == "jsonl.zst":
        import zstandard

        # With the checksum that the zstd command writes by default.
        path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(lines))
    else:
        path.write_bytes(lines)
    return path


def damage(data, rng):
    """The bytes with a piece missing at the end, nothing left, a bit flipped, or other bytes."""
    kind = rng.choice(("cut", "flip", "flip", "flip", "noise", "empty"))
    data = bytearray(data)
    at = rng.randrange(len(data))
    if kind == "cut":
        return kind, bytes(data[:at])
    if kind == "empty":
        return kind, b""
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    else:
        data[at : at + 16] = rng.randbytes(16)
    return kind, bytes(data)


def documents(path):
    """What a corpus of this file holds: (texts, bad records)."""
    kind = "parquet" if path.suffix == ".parquet" else "jsonl"
    config = TypeAdapter(CorpusConfig).validate_python({"type": kind, "paths": [str(path)]})
    corpus = config.build()
    spans = [span for source in corpus.sources() for span in corpus.scan(source, 4096)]
    found = [
        record
        for part in parts_of(spans, 4096)
        for _, record in read_part(corpus, part, validation_every=0)
    ]
    bad = [record for record in found if isinstance(record, BadRecord)]
    return [record.text for record in found if not isinstance(record, BadRecord)], bad


def whole(folder):
    """Every token of a dataset."""
    stream = PreparedStream(folder, "train")
    return read(stream, 0, stream.num_tokens)


def outcome(function, path):
    """(what it returns, what it refuses with), one of them None; documents come as two lists."""
    try:
        return function(path), None
    except ValueError as error:
        return ([], []), str(error)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_a_damaged_corpus_is_named_or_read_as_it_is(tmp_path, experiment, kind):
    experiment.done = f"{kind} corpora cut, emptied, flipped or overwritten"
    path, rng = write(tmp_path, kind), random.Random(0)
    original = path.read_bytes()
    named = 0
    for _ in range(DAMAGES):
        what, data = damage(original, rng)
        path.write_bytes(data)
        experiment.tries += 1
        (texts, bad), error = outcome(documents, path)
        named += bool(error or bad)
        assert error is None or str(path) in error, what
        assert all(str(path) in record.where for record in bad)
        # Plain text has no checksums: what is still text is read as it is.
        if kind in ("jsonl.gz", "jsonl.zst") and what != "empty":
            assert texts == TEXTS or error or bad, what
    assert named > DAMAGES / 20
    path.write_bytes(original)
    assert documents(path) == (TEXTS, [])


def test_a_damaged_shard_is_named(tmp_path, experiment):
    experiment.done = "tokenised shards cut, emptied, flipped or overwritten"
    source, rng = write(tmp_path, "jsonl"), random.Random(0)
    config = {"type": "jsonl", "paths": [str(source)]}
    folder = tokenise_corpus(
        TypeAdapter(CorpusConfig).validate_python(config),
        tokenizer=ByteTokenizer(),
        root=tmp_path / "root",
        name="texts",
        validation_every=0,
        workers=1,
    )
    tokens = whole(folder)
    (shard,) = folder.glob("*.array_record-*")
    original = shard.read_bytes()
    for _ in range(DAMAGES):
        _, data = damage(original, rng)
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        (copy / shard.name).write_bytes(data)
        experiment.tries += 1
        found, error = outcome(whole, copy)
        assert error is None or shard.name in error
        assert error or found.tobytes() == tokens.tobytes(), "damage went unnoticed"
