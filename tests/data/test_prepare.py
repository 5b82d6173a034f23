import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow_datasets as tfds

from jaxllm.data import corpus as corpus_module
from jaxllm.data import describe_dataset, load_tokenizer, prepare_dataset, records
from jaxllm.data.jsonl_corpus import JsonlCorpusConfig
from jaxllm.data.sentence_pieces import SentencePieceTokenizerConfig
from jaxllm.data.streams import PreparedStream, read
from jaxllm.data.text_corpus import TextCorpusConfig
from jaxllm.data.tokenizer import ByteTokenizerConfig

from .conftest import SENTENCEPIECE
from .texts import document, write_texts

PART_BYTES = 8000  # 14 parts and 4 shards of the 60 texts


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(corpus_module, "MIN_PART_BYTES", PART_BYTES)
    monkeypatch.setattr(records, "SHARD_RECORDS", 2)


def prepare(texts, root, **options):
    defaults = {"tokenizer": SENTENCEPIECE, "name": "texts", "validation_every": 10, "workers": 1}
    config = TextCorpusConfig(paths=(f"{texts}/*.txt",))
    return prepare_dataset(config, root=root, **{**defaults, **options})


def digest(folder):
    """Names and bytes of every file, less the paths of the sources."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return folder.name, found


@pytest.fixture(scope="module")
def expected(texts, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_module, "MIN_PART_BYTES", PART_BYTES)
        patch.setattr(records, "SHARD_RECORDS", 2)
        return prepare(texts, tmp_path_factory.mktemp("expected"))


def test_the_stream_is_every_document_behind_a_delimiter(texts, expected):
    tokenizer = load_tokenizer(expected / "tokenizer")
    paths = sorted(texts.glob("*.txt"))
    for split, chosen in (("train", range(9)), ("validation", range(9, 10))):
        wanted = [path for index, path in enumerate(paths) if index % 10 in chosen]
        ids = [[tokenizer.delimiter_id, *tokenizer.encode(p.read_bytes().decode())] for p in wanted]
        stream = PreparedStream(expected, split)
        whole = np.concatenate([*ids, [tokenizer.delimiter_id]])
        np.testing.assert_array_equal(read(stream, 0, stream.num_tokens), whole)
        assert stream.raw_bytes == sum(path.stat().st_size for path in wanted)
    assert len(list(expected.glob("texts-train*"))) > 2


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_do_not_depend_on_the_number_of_workers(texts, expected, tmp_path, workers):
    assert digest(prepare(texts, tmp_path, workers=workers)) == digest(expected)
    assert not list(tmp_path.glob("*.partial"))


KILLED = """
import os, signal, sys
import psutil
from jaxllm.data import corpus, prepare_dataset, records
from jaxllm.data.sentence_pieces import SentencePieceTokenizerConfig
from jaxllm.data.text_corpus import TextCorpusConfig

def progress(phase, done, total):
    if phase == sys.argv[3] and done >= total // 2:
        print(*[child.pid for child in psutil.Process().children()], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    corpus.MIN_PART_BYTES, records.SHARD_RECORDS = 8000, 2
    prepare_dataset(
        TextCorpusConfig(paths=(sys.argv[1] + "/*.txt",)),
        tokenizer=SentencePieceTokenizerConfig(vocab_size=512),
        validation_every=10, root=sys.argv[2], name="texts", workers=2, on_progress=progress,
    )
"""


@pytest.mark.parametrize("phase", ["tokenise", "write"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(texts, expected, tmp_path, phase):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = tmp_path / "root"
    command = [sys.executable, str(script), str(texts), str(root), phase]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert not list(root.glob("*/tokens.json"))
    orphans = [int(pid) for pid in run.stdout.split()]
    assert orphans
    deadline = time.monotonic() + 20
    while any(map(_alive, orphans)):
        assert time.monotonic() < deadline, "worker processes outlive their parent"
        time.sleep(0.05)
    (work,) = root.glob("*.partial")
    finished = {path: path.stat().st_mtime_ns for path in work.glob("parts/*.json")}
    assert len(finished) >= 2
    seen = []
    folder = prepare(
        texts, root, on_progress=lambda *_: seen.extend([_mtimes(finished)] if not seen else [])
    )
    assert seen == [finished], "finished parts were made again"
    assert digest(folder) == digest(expected)


def _alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _mtimes(paths):
    return {path: path.stat().st_mtime_ns for path in paths if path.exists()}


def test_tfds_opens_the_dataset(expected):
    builder = tfds.builder_from_directory(expected)
    card = describe_dataset(expected)
    for split in ("train", "validation"):
        rows = builder.as_data_source(split)
        stream = PreparedStream(expected, split)
        whole = np.concatenate([rows[index]["tokens"] for index in range(len(rows))])
        assert whole.dtype == np.uint16
        np.testing.assert_array_equal(
            whole[: stream.num_tokens], read(stream, 0, stream.num_tokens)
        )
        assert (whole[stream.num_tokens :] == stream.delimiter_id).all()
        assert card["splits"][split]["tokens"] == stream.num_tokens


def test_a_prepared_dataset_is_found_and_a_changed_input_makes_another(tmp_path):
    texts = write_texts(tmp_path / "texts", 12)
    options = {"tokenizer": ByteTokenizerConfig(), "validation_every": 4}
    calls = []
    first = prepare(texts, tmp_path / "root", **options)
    again = prepare(texts, tmp_path / "root", **options, on_progress=lambda *_: calls.append(1))
    assert (again, calls) == (first, [])
    os.utime(texts / "0000.txt")  # touched, but the same
    assert prepare(texts, tmp_path / "root", **options) == first
    others = [
        prepare(texts, tmp_path / "root", **{**options, "validation_every": 5}),
        *(
            prepare(texts, tmp_path / "root", tokenizer=tokenizer, validation_every=4)
            for tokenizer in (SENTENCEPIECE, SentencePieceTokenizerConfig(vocab_size=400))
        ),
    ]
    (texts / "0000.txt").write_text("changed")
    others.append(prepare(texts, tmp_path / "root", **options))
    assert len({first, *others}) == 5


def test_the_tokenizer_learns_from_train_documents_only(tmp_path):
    texts = write_texts(tmp_path / "texts", 12)
    first = prepare(texts, tmp_path / "root", validation_every=4)
    (texts / "0003.txt").write_text("other words for the held-out document")
    second = prepare(texts, tmp_path / "root", validation_every=4)
    (texts / "0002.txt").write_text(document(77) * 2)
    third = prepare(texts, tmp_path / "root", validation_every=4)
    prints = [load_tokenizer(folder / "tokenizer").fingerprint for folder in (first, second, third)]
    assert prints[0] == prints[1] != prints[2]


def write_jsonl(folder, bad_lines, words=40):
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"text": document(seed, words)}) for seed in range(40)]
    for number in bad_lines:
        lines[number - 1] = "{broken"
    (folder / "a.jsonl").write_text("\n".join(lines))
    return folder / "a.jsonl"


def test_bad_lines_are_named_and_skipped_only_within_the_budget(tmp_path, caplog):
    path = write_jsonl(tmp_path / "in", bad_lines=(7, 31))

    def run(budget, workers):
        return prepare_dataset(
            JsonlCorpusConfig(paths=(str(path),), error_budget=budget),
            tokenizer=ByteTokenizerConfig(),
            root=tmp_path / "root",
            name="lines",
            workers=workers,
        )

    for budget in (0, 1):
        with pytest.raises(ValueError, match=rf"budget of {budget}:\n.*a\.jsonl:\d+: not JSON"):
            run(budget, workers=1)
    assert not list(tmp_path.glob("root/*/tokens.json"))
    folder = run(2, workers=2)
    card = describe_dataset(folder)
    skipped = [where.split(": ")[0] for where in card["skipped_records"]]
    assert skipped == [f"{path}:7", f"{path}:31"]
    assert sum(split["documents"] for split in card["splits"].values()) == 38
    assert "a.jsonl:31" in caplog.text


def refused(path, root, message, **options):
    """What a refused preparation of one file leaves in its root, but for the known hashes."""
    with pytest.raises(ValueError, match=message):
        prepare_dataset(
            JsonlCorpusConfig(paths=(str(path),)),
            tokenizer=ByteTokenizerConfig(),
            root=root,
            name="lines",
            workers=1,
            **options,
        )
    return [found for found in root.glob("*") if found.name != "content-hashes.json"]


def test_a_refused_preparation_leaves_no_work_behind(tmp_path):
    path, root = write_jsonl(tmp_path / "in", bad_lines=(7,)), tmp_path / "root"
    assert refused(path, root, "error budget of 0") == [], "nothing was finished"
    write_jsonl(tmp_path / "in", bad_lines=(), words=300)
    message = "no document is held out"
    assert refused(path, root, message, validation_every=50) == [], "another key, another folder"
    path.unlink()
    assert refused(path, tmp_path / "new", "matches no file") == []
    assert not (tmp_path / "new").exists()


def test_a_larger_budget_goes_on_from_the_parts_of_a_refused_preparation(tmp_path):
    path, root = write_jsonl(tmp_path / "in", bad_lines=(31,), words=300), tmp_path / "root"
    (work,) = refused(path, root, "error budget of 0")
    finished = {part: part.stat().st_mtime_ns for part in work.glob("parts/*.json")}
    assert finished
    seen = []
    folder = prepare_dataset(
        JsonlCorpusConfig(paths=(str(path),), error_budget=1),
        tokenizer=ByteTokenizerConfig(),
        root=root,
        name="lines",
        on_progress=lambda *_: seen.append(_mtimes(finished)),
    )
    assert seen[0] == finished, "finished parts were made again"
    assert len(describe_dataset(folder)["skipped_records"]) == 1
    assert not work.exists()


def test_a_document_that_is_not_utf8_is_named(tmp_path):
    texts = write_texts(tmp_path / "texts", 12)
    (texts / "0005.txt").write_bytes(b"good \xff bad")
    with pytest.raises(ValueError, match=r"0005\.txt: not UTF-8: byte 5 is 0xff"):
        prepare(texts, tmp_path / "root")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "matches no file"),
        (["", ""], "the corpus is empty or missing: it has no document with text"),
        (["one", "two"], r"texts\.validation_every: no document is held out: the corpus has 2 "),
    ],
)
def test_an_empty_corpus_is_refused(tmp_path, files, message):
    for index, text in enumerate(files):
        (tmp_path / f"{index}.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, tmp_path / "root", tokenizer=ByteTokenizerConfig())
    if not any(files):  # also where a tokenizer would be trained on it
        with pytest.raises(ValueError, match="the corpus is empty or missing"):
            prepare(tmp_path, tmp_path / "root")
    assert not list(tmp_path.glob("root/*/tokens.json"))


FULL = """
import resource, sys
from jaxllm.data import corpus, prepare_dataset, records
from jaxllm.data.text_corpus import TextCorpusConfig
from jaxllm.data.tokenizer import ByteTokenizerConfig
corpus.MIN_PART_BYTES, records.SHARD_RECORDS = 8000, 2
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    prepare_dataset(TextCorpusConfig(paths=(sys.argv[1] + "/*.txt",)), root=sys.argv[2],
                    tokenizer=ByteTokenizerConfig(), name="texts", workers=1, validation_every=10)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [12_000, 50_000])
def test_a_full_disk_leaves_no_half_dataset_and_loses_nothing(texts, tmp_path, limit):
    """A limit on file sizes stands for the full disk: parts (16 kB) or shards (64 kB) fail."""
    script = [sys.executable, "-c", FULL, str(texts), str(tmp_path), str(limit)]
    run = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)
    assert "too large" in run.stdout
    assert "make room and run the same command again" in run.stdout
    assert not list(tmp_path.glob("*/tokens.json"))
    assert not list(tmp_path.glob("**/*.tmp"))
    folder = prepare(texts, tmp_path, tokenizer=ByteTokenizerConfig())
    assert describe_dataset(folder)["splits"]["train"]["documents"] == 54


def test_documents_without_text_are_left_out(tmp_path, caplog):
    for index, text in enumerate(["a", "", "b", "c"]):
        (tmp_path / f"{index}.txt").write_text(text)
    folder = prepare(
        tmp_path, tmp_path / "root", tokenizer=ByteTokenizerConfig(), validation_every=0
    )
    stream = PreparedStream(folder, "train")
    assert read(stream, 0, stream.num_tokens).tolist() == [256, 97, 256, 98, 256, 99, 256]
    assert list(describe_dataset(folder)["splits"]) == ["train"]
    assert "left out 1 documents" in caplog.text


def test_the_name_is_made_fit_for_tfds(tmp_path):
    texts = write_texts(tmp_path / "texts", 4)
    options = {"tokenizer": ByteTokenizerConfig(), "validation_every": 2}
    folder = prepare(texts, tmp_path / "root", name="2 Big-Texts", **options)
    assert tfds.builder_from_directory(folder).name == "dataset_2_big_texts"
    assert folder.parent == Path(tmp_path / "root")


@pytest.mark.parametrize("size", [4094, 4095, 4096, 2 * 4096 - 1])
def test_the_closing_delimiter_has_room_at_the_end_of_a_record(tmp_path, size):
    (tmp_path / "0.txt").write_text("a" * size)
    folder = prepare(
        tmp_path, tmp_path / "root", tokenizer=ByteTokenizerConfig(), validation_every=0
    )
    stream = PreparedStream(folder, "train")
    assert read(stream, 0, stream.num_tokens).tolist() == [256, *[97] * size, 256]
