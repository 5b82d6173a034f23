"""Runs whose folder is in a bucket; everything here is against an emulator of the service."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from gcs import empty_bucket

from jaxllm.commands import lease, lease_beats, train
from jaxllm.commands.evaluate import evaluate
from jaxllm.commands.export import export_model
from jaxllm.commands.generate import generate
from jaxllm.commands.inspect import inspect
from jaxllm.commands.lease import Owner, RunLease
from jaxllm.commands.report import report
from jaxllm.storage.mirror import mirror_folder

from . import poison, runs
from .test_skips import OFTEN, PATIENCE, THREE_BAD

FOLDER = "runs/one"
GREEDY = {"temperature": 0.0, "max_tokens": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A machine without mirrors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def states(ids, gcs_emulator, tmp_path_factory):
    """What lay in the run's folder after each change that a whole run of `ids` made there."""
    with pytest.MonkeyPatch.context() as monkeypatch, empty_bucket(gcs_emulator) as bucket:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        seen = bucket.states()
        assert runs.start(ids, f"{bucket.url}/{FOLDER}") == 0
    start = f"{FOLDER}/"
    return [{name.removeprefix(start): files[name] for name in files} for files in seen]


def copied(files, folder):
    """Objects as local files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def left_by_a_kill(bucket, files, *, name):
    """The URL of a run that was killed and left these files; its lease is a dead process's."""
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    dead = Owner.here()._replace(process=ended.pid)
    for path, content in files.items():
        is_leased = path == ".lease" and content
        bucket.put(f"{name}/{path}", dead.write(beat=1) if is_leased else content)
    return f"{bucket.url}/{name}"


def names(folder):
    return {path.name for path in folder.iterdir()}


def is_complete(files, step):
    return f"checkpoints/{step}/commit_success.txt" in files


def events(run_dir):
    """The records of goodput.jsonl."""
    return [json.loads(line) for line in (run_dir / "goodput.jsonl").read_text().splitlines()]


def test_a_run_in_a_bucket_is_the_run_on_a_disk(states, uninterrupted, tmp_path):
    there = copied(states[-1], tmp_path / "there")
    runs.assert_same_run(there, uninterrupted, step=8)
    assert {path.name for path in uninterrupted.iterdir()} <= {
        path.name for path in there.iterdir()
    }
    assert "run_dir: gs://test-" in (there / "config.yaml").read_text()
    assert events(there)[-1]["event"] == "end"
    assert states[-1][".lease"] == b"", "free for the next"
    assert {**states[-2], ".lease": b""} == states[-1], "and not before all is there"
    assert states[-2][".lease"]


def test_a_checkpoint_is_complete_only_where_its_records_are(states):
    seen = set()
    for files in states:
        for step in (3, 6, 8):
            if is_complete(files, step):
                seen.add(step)
                recorded = map(json.loads, files["metrics.jsonl"].splitlines())
                assert {record["step"] for record in recorded} >= set(range(1, step + 1))
                assert "config.yaml" in files
    assert seen == {3, 6, 8}


def test_a_machine_goes_on_with_what_another_left(
    ids, states, uninterrupted, bucket, tmp_path, capsys
):
    """What is here from an earlier start of the run, and not in the bucket, counts for nothing."""
    files = next(files for files in states if is_complete(files, 6))
    url = left_by_a_kill(bucket, files, name="killed")
    here = mirror_folder(url)
    copied({"metrics.jsonl": b"others", "rollbacks.json": b"[]", "tokenizer/x": b"x"}, here)
    assert runs.start(ids, url) == 0
    shown = capsys.readouterr().out
    assert "resuming at step 6" in shown
    assert f"run folder  {url}\n" in shown
    assert str(here) not in shown
    there = copied(bucket.files("killed"), tmp_path / "there")
    runs.assert_same_run(there, uninterrupted, step=8)
    assert not (there / "rollbacks.json").exists()
    assert not (here / "checkpoints").exists()


def test_a_run_in_use_is_refused_and_left_alone(ids, states, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(lease_beats, "BEAT", 0.05)
    monkeypatch.setattr(lease, "_TICK_THERE", 0.02)
    monkeypatch.setattr(train, "RunLease", partial(RunLease, patience=0.1))
    url = left_by_a_kill(bucket, states[-1], name="run")
    before = bucket.files("run")
    with (
        RunLease(tmp_path, origin=url),
        pytest.raises(ValueError, match=f"run_dir {url} is in use by process {os.getpid()}"),
    ):
        runs.start(ids, url, "training.steps=9")
    after = bucket.files("run")
    assert {name for name in after if after[name] != before[name]} <= {".lease"}
    assert after.keys() == before.keys()


def test_a_folder_of_other_things_is_refused_and_left_alone(ids, bucket):
    bucket.put("things/large/1", b"")
    with pytest.raises(ValueError, match="is a folder with other things in it, as large/, and no"):
        runs.start(ids, f"{bucket.url}/things")
    assert bucket.files("things") == {"large/1": b""}
    with pytest.raises(OSError, match="gs://no-such-bucket/run: there is no such bucket"):
        runs.start(ids, "gs://no-such-bucket/run")


def test_a_run_of_other_data_is_refused_by_its_url(ids, states, bucket):
    url = left_by_a_kill(bucket, states[-1], name="run")
    with pytest.raises(ValueError, match=f"{url} holds a run with another config"):
        runs.start(ids, url, "seed=1")
    with pytest.raises(ValueError, match=f"{url} is at step 8 already"):
        runs.start(ids, url, "training.steps=7")
    assert bucket.files("run")[".lease"] == b""


def test_commands_read_a_run_in_a_bucket_and_change_nothing(states, bucket, tmp_path, capsys):
    url = left_by_a_kill(bucket, states[-1], name="run")
    before = bucket.files("run")
    inspect(url, rows=0)
    assert f"run {url}" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"{url} has no validation split"):
        evaluate(url)
    with pytest.raises(ValueError, match=f"{url} was trained on ids without a tokenizer"):
        generate(url, [""], sampling={})
    export_model(url, tmp_path / "out", step=6, dtype="float32")
    assert (tmp_path / "out" / "config.json").is_file()
    report([url], out=tmp_path / "page.html")
    assert bucket.files("run") == before
    assert str(report([url])) == f"{url}/report.html"
    assert bucket.files("run")["report.html"] == (tmp_path / "page.html").read_bytes()
    assert not list((tmp_path / "cache").glob("**/config.yaml")), "no mirror stays"


def test_what_is_no_run_is_told_by_its_url(bucket, tmp_path):
    url = f"{bucket.url}/none"
    for use in (evaluate, inspect, lambda url: report([url])):
        with pytest.raises(ValueError, match=f"{url} is not a run folder: it has no config.yaml"):
            use(url)
    with pytest.raises(ValueError, match="gs://a/b: an import and an export read and write local"):
        export_model(url, "gs://a/b", step=None, dtype="float32")


@pytest.mark.slow
def test_whatever_kills_it_a_new_machine_goes_on_to_the_same_run(
    ids, states, uninterrupted, bucket, tmp_path, monkeypatch
):
    """All that a kill leaves is what was in the bucket: every tenth of these states goes on."""
    assert len(states) > 100
    resumed = set()
    for number in range(0, len(states), 10):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{number}"))
        name = f"killed-{number}"
        assert runs.start(ids, left_by_a_kill(bucket, states[number], name=name)) == 0
        there = copied(bucket.files(name), tmp_path / name)
        runs.assert_same_run(there, uninterrupted, step=8)
        starts = [event["step"] for event in events(there) if event["event"] == "start"]
        resumed.add(starts[-1])
    assert resumed == {0, 3, 6, 8}


@pytest.mark.slow
def test_killed_while_it_goes_back_it_goes_back_again(ids, bucket, tmp_path, monkeypatch):
    """The checkpoints behind it are gone first, and what is left out is sent up later."""
    poison.batches(monkeypatch, THREE_BAD)
    shape = (*OFTEN, PATIENCE)
    assert runs.start(ids, tmp_path / "plain", *shape) == 0
    seen = bucket.states()
    assert runs.start(ids, f"{bucket.url}/{FOLDER}", *shape) == 0
    states = [{name.removeprefix(f"{FOLDER}/"): files[name] for name in files} for files in seen]
    saved = next(number for number, files in enumerate(states) if is_complete(files, 24))
    gone = next(n for n in range(saved, len(states)) if not is_complete(states[n], 24))
    recorded = next(n for n, files in enumerate(states) if "rollbacks.json" in files)
    assert gone < recorded
    for number in (gone, (gone + recorded) // 2, recorded - 1, recorded):
        name = f"killed-{number}"
        assert runs.start(ids, left_by_a_kill(bucket, states[number], name=name), *shape) == 0
        there = copied(bucket.files(name), tmp_path / name)
        runs.assert_same_run(there, tmp_path / "plain", step=36)
        rollbacks = (tmp_path / "plain" / "rollbacks.json").read_bytes()
        assert (there / "rollbacks.json").read_bytes() == rollbacks


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_that_are_killed_on_a_bad_network_lose_nothing(ids, bucket, tmp_path, processes):
    """Three times with SIGKILL, each time another machine's cache; one request in fifty fails."""
    shape = [] if processes == 1 else ["--processes", processes, "--devices-per-process", 4]
    verb = "train" if processes == 1 else "launch"
    plain = tmp_path / "plain"
    start = partial(_start, verb, ids, *shape, environment=bucket.environment)
    assert start(f"run_dir={plain}", cache=tmp_path / "none").wait(300) == 0
    bucket.faults.now_and_then(0.02, seed=3)
    url, states = f"{bucket.url}/{FOLDER}", bucket.states()
    for number, changes in enumerate((8, 60, 120)):
        running = start(f"run_dir={url}", cache=tmp_path / f"cache-{number}")
        while len(states) < changes and running.poll() is None:
            time.sleep(0.01)
        assert running.poll() is None, "it was to be killed in the middle"
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert start(f"run_dir={url}", cache=tmp_path / "last").wait(300) == 0
    assert bucket.faults.count > 5
    there = copied(bucket.files(FOLDER), tmp_path / "there")
    runs.assert_same_run(there, plain, step=8)


def _start(verb, config, *arguments, environment, cache):
    return subprocess.Popen(
        runs.command(verb, config, *arguments),
        env=runs.environment(**{**environment, "XDG_CACHE_HOME": str(cache)}),
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_run_with_everything_and_all_commands_on_it(text, finished, bucket, tmp_path):
    """Tokenizer, validation sets, samples, a profile: as on a disk."""
    url = f"{bucket.url}/{FOLDER}"
    assert runs.start(text, url) == 0
    there = copied(bucket.files(FOLDER), tmp_path / "there")
    runs.assert_same_run(there, finished, step=6)
    assert names(finished) <= names(there)
    assert bucket.files(f"{FOLDER}/tokenizer") == runs.contents(finished / "tokenizer")
    assert [name for name in bucket.files(f"{FOLDER}/profile") if name.endswith(".xplane.pb")]
    assert evaluate(url) == evaluate(finished)
    assert generate(url, ["the "], sampling=GREEDY) == generate(finished, ["the "], sampling=GREEDY)
    inspect(url)
    export_model(url, tmp_path / "out", step=None, dtype="float32")
    export_model(finished, tmp_path / "expected", step=None, dtype="float32")
    assert runs.contents(tmp_path / "out") == runs.contents(tmp_path / "expected")
