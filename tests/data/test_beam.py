"""Preparation by Apache Beam, in the environment of `make test-beam`; skipped elsewhere."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

beam = pytest.importorskip("apache_beam")

from tensorflow_datasets.core import shuffle  # noqa: E402

from jaxllm.cli import main  # noqa: E402
from jaxllm.data import corpus as corpus_module  # noqa: E402
from jaxllm.data import describe_dataset, prepare_dataset, records  # noqa: E402
from jaxllm.data.beam_makers import BeamMakers, Work, pipeline_options  # noqa: E402
from jaxllm.data.beam_shards import last_key  # noqa: E402
from jaxllm.data.jsonl_corpus import JsonlCorpusConfig  # noqa: E402
from jaxllm.data.parquet_corpus import ParquetCorpusConfig  # noqa: E402
from jaxllm.data.parts import ShardTask, encode_part  # noqa: E402
from jaxllm.data.streams import PreparedStream, read  # noqa: E402
from jaxllm.data.text_corpus import TextCorpusConfig  # noqa: E402
from jaxllm.data.tokenizer import ByteTokenizerConfig  # noqa: E402

from .conftest import SENTENCEPIECE  # noqa: E402
from .test_prepare import digest, write_jsonl  # noqa: E402
from .texts import document  # noqa: E402

pytestmark = pytest.mark.beam

ON_THIS_MACHINE: list[str] = []


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(corpus_module, "MIN_PART_BYTES", 8000)
    monkeypatch.setattr(records, "SHARD_RECORDS", 2)


def prepare(config, root, *, options=ON_THIS_MACHINE, **changes):
    defaults = {"tokenizer": ByteTokenizerConfig(), "name": "set", "validation_every": 10}
    return prepare_dataset(config, root=root, beam=options, workers=1, **{**defaults, **changes})


def documents(folder, split):
    """How often each document is in a split, as its ids."""
    stream = PreparedStream(folder, split)
    ids = read(stream, 0, stream.num_tokens)
    starts = np.flatnonzero(ids == stream.delimiter_id)
    return Counter(ids[a:b].tobytes() for a, b in pairwise(starts))


def test_the_dataset_is_that_of_worker_processes_byte_for_byte(texts, tmp_path):
    config = TextCorpusConfig(paths=(f"{texts}/*.txt",))
    here = prepare(config, tmp_path / "here", options=None, tokenizer=SENTENCEPIECE)
    there = prepare(config, tmp_path / "there", tokenizer=SENTENCEPIECE)
    for split in ("train", "validation"):
        assert documents(there, split) == documents(here, split)
    card = describe_dataset(there)["splits"]
    assert card == describe_dataset(here)["splits"]
    assert (card["train"]["documents"], card["train"]["shards"]) == (54, 3)
    assert digest(there) == digest(here)
    assert not list(tmp_path.glob("there/*.partial"))


WITHOUT_JAX = """
import sys
from jaxllm.data import corpus, prepare_dataset, records
from jaxllm.data.text_corpus import TextCorpusConfig
from jaxllm.data.tokenizer import ByteTokenizerConfig
corpus.MIN_PART_BYTES, records.SHARD_RECORDS = 8000, 2
print(prepare_dataset(TextCorpusConfig(paths=(sys.argv[1] + "/*.txt",)), root=sys.argv[2],
      tokenizer=ByteTokenizerConfig(), name="set", validation_every=10, beam=sys.argv[3:]))
"""


def test_workers_are_processes_of_their_own_that_need_no_jax(texts, tmp_path):
    """Wherever a worker or the pipeline's own process imported JAX, it would fail."""
    for name in ("jax", "flax", "optax", "orbax", "grain"):
        (tmp_path / "none" / name).mkdir(parents=True)
        (tmp_path / "none" / name / "__init__.py").write_text(f"raise ImportError({name!r})")
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    script = [sys.executable, "-c", WITHOUT_JAX, str(texts), str(tmp_path / "root")]
    path = os.pathsep.join([str(tmp_path / "none"), os.getcwd()])
    run = subprocess.run(
        [*script, *ON_THIS_MACHINE, *options],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    config = TextCorpusConfig(paths=(f"{texts}/*.txt",))
    expected = prepare(config, tmp_path / "here", options=None)
    assert digest(tmp_path / "root" / expected.name) == digest(expected)


def test_bad_lines_are_named_and_skipped_only_within_the_budget(tmp_path):
    path = write_jsonl(tmp_path / "in", bad_lines=(7, 31), words=300)
    (tmp_path / "root").mkdir()

    def run(budget):
        config = JsonlCorpusConfig(paths=(str(path),), error_budget=budget)
        return prepare(config, tmp_path / "root")

    for budget in (0, 1):
        with pytest.raises(ValueError, match=rf"budget of {budget}:\n.*a\.jsonl:\d+: not JSON"):
            run(budget)
    (work,) = tmp_path.glob("root/*.partial")
    finished = {part: part.stat().st_mtime_ns for part in work.glob("parts/*.json")}
    assert len(finished) > 2
    folder = run(2)
    card = describe_dataset(folder)
    skipped = [where.split(": ")[0] for where in card["skipped_records"]]
    assert skipped == [f"{path}:7", f"{path}:31"]
    assert sum(split["documents"] for split in card["splits"].values()) == 38
    assert not work.exists()


def test_finished_parts_are_not_made_again(tmp_path):
    path = write_jsonl(tmp_path / "in", bad_lines=(31,), words=300)
    with pytest.raises(ValueError, match="budget of 0"):
        prepare(JsonlCorpusConfig(paths=(str(path),)), tmp_path / "root")
    (work,) = tmp_path.glob("root/*.partial")
    parts = {part: part.stat().st_mtime_ns for part in work.glob("parts/*.json")}
    seen = []
    prepare(
        JsonlCorpusConfig(paths=(str(path),), error_budget=1),
        tmp_path / "root",
        on_progress=lambda phase, *_: seen.append(
            phase == "write" or {part: part.stat().st_mtime_ns for part in parts} == parts
        ),
    )
    assert parts
    assert all(seen)


def test_a_runner_counts_documents_and_bad_records(tmp_path):
    path = write_jsonl(tmp_path / "in", bad_lines=(7, 31), words=300)
    with pytest.raises(ValueError, match="budget of 1"):
        prepare(JsonlCorpusConfig(paths=(str(path),), error_budget=1), tmp_path / "root")
    files = tmp_path.glob("root/*.partial/beam/encode_part-*-tasks-*.json")
    lines = [line for file in files for line in file.read_text().splitlines()]
    pipeline = beam.Pipeline(options=pipeline_options(ON_THIS_MACHINE))
    _ = pipeline | beam.Create(lines) | beam.ParDo(Work(encode_part))
    result = pipeline.run()
    result.wait_until_finish()
    counters = {
        found.key.metric.name: found.committed
        for found in result.metrics().query()["counters"]
        if found.key.metric.namespace == "jaxllm"
    }
    assert counters["documents"] == 38
    assert counters["bad_records"] == 2


def test_what_is_wrong_with_the_input_is_told_as_without_beam(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    config = ParquetCorpusConfig(paths=(f"{tmp_path}/a.parquet",))
    with pytest.raises(ValueError, match=r"data\.datasets\.set\.corpus\.text_column: .* no column"):
        prepare(config, tmp_path / "root")
    assert not list(tmp_path.glob("root/*.partial"))
    whole = gzip.compress(json.dumps({"text": document(0)}).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"data.datasets.set: .*a.jsonl.gz is truncated"):
        prepare(JsonlCorpusConfig(paths=(f"{tmp_path}/a.jsonl.gz",)), tmp_path / "root")
    for index in range(3):
        (tmp_path / f"{index}.txt").write_text(document(index))
    with pytest.raises(ValueError, match="no document is held out"):
        prepare(TextCorpusConfig(paths=(f"{tmp_path}/*.txt",)), tmp_path / "root")


def test_a_root_in_a_bucket(texts, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = TextCorpusConfig(paths=(f"{texts}/*.txt",))
    here = prepare(config, tmp_path / "here", options=None, tokenizer=SENTENCEPIECE)
    there = prepare(config, f"{bucket.url}/root", tokenizer=SENTENCEPIECE)
    assert str(there) == f"{bucket.url}/root/{here.name}"
    files = (path for path in here.rglob("*") if path.is_file())
    expected = {str(path.relative_to(here)): path.read_bytes() for path in files}
    assert bucket.files(f"root/{here.name}") == expected
    others = {name.split("/")[0] for name in bucket.files("root")}
    assert others == {here.name, "tokenizers"}, "the work folder is removed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--project=mine", "--workers=4"], "Beam has no option --workers"),
        (["-p", "x"], "Beam has no option -p"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pipeline_options(options)


def test_dataflow_needs_a_root_that_its_workers_reach(tmp_path):
    with pytest.raises(ValueError, match=r"DataflowRunner do not reach .*gs://"):
        BeamMakers(["--runner=DataflowRunner"], tmp_path / "set.partial")


@pytest.mark.parametrize(
    ("records_of_shards", "shards"), [(2, 1), (2, 7), (8192, 1), (8192, 3), (8192, 40_000)]
)
def test_the_writer_cuts_where_shards_are_full(records_of_shards, shards):
    """What TFDS's writer does with the keys, for the records around each cut and the last one."""
    for last_length in {1, records_of_shards // 2, records_of_shards}:
        lengths = [records_of_shards] * (shards - 1) + [last_length]
        tasks = [ShardTask("", "train", 0, length, (), 0, "uint16") for length in lengths]
        key, last = last_key(tasks), sum(lengths) - 1
        assert key > last
        for shard in {0, 1, shards // 2, shards - 1} & set(range(shards)):
            first = shard * records_of_shards
            for record in (first, first + lengths[shard] - 1):
                given = key if record == last else record
                assert shuffle.get_bucket_number(given, shards, key) == shard


def test_the_command(texts, tmp_path, monkeypatch, capsys):
    config = tmp_path / "config.yaml"
    dataset = {"corpus": {"type": "text", "paths": [f"{texts}/*.txt"]}, "validation_every": 10}
    given = {
        "run_dir": str(tmp_path / "run"),
        "model": {"num_layers": 1, "embed_dim": 16, "num_heads": 2, "mlp_dim": 16},
        "optim": {"type": "adamw", "learning_rate": 0.01, "schedule": {"type": "constant"}},
        "training": {"steps": 1},
        "data": {
            "root": str(tmp_path / "root"),
            "sequence_length": 64,
            "global_batch_size": 8,
            "tokenizer": {"type": "byte"},
            "datasets": {"set": {"type": "corpus", **dataset}},
        },
    }
    config.write_text(json.dumps(given))
    command = f"jaxllm prepare --runner beam {config} data.sequence_length=32 --"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--direct_num_workers=1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "train 54 documents" in capsys.readouterr().out
