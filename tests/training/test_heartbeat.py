"""The heartbeat of a run: what the probe says of it."""

import json
import subprocess
import sys
import time

import pytest

from jaxllm.storage.mirror import mirror_folder
from jaxllm.training.heartbeat import HEARTBEAT_FILE, Heartbeat, is_stuck, main


def beat(run_dir, *, age):
    """A heartbeat as one that was written `age` seconds ago."""
    record = {"step": 3, "phase": "step", "time": time.time() - age}
    (run_dir / HEARTBEAT_FILE).write_text(json.dumps(record))


# Ages and limits are hours and minutes apart, so that a busy machine changes nothing.
@pytest.mark.parametrize(
    ("age", "began", "expected"),
    [
        (60, 7200, False),  # a minute ago
        (3600, 7200, True),  # an hour ago, by this start
        (3600, 600, False),  # an hour ago, by another start
    ],
)
def test_a_run_is_stuck_if_it_got_on_and_does_no_longer(tmp_path, age, began, expected):
    beat(tmp_path, age=age)
    assert is_stuck(tmp_path, limit=1800, since=time.time() - began) is expected


def test_a_run_that_wrote_nothing_is_not_stuck(tmp_path):
    assert not is_stuck(tmp_path, limit=0, since=0)


def test_what_a_run_writes_is_progress(tmp_path):
    with Heartbeat(tmp_path) as heartbeat:
        heartbeat.beat(3, "step")
    assert not is_stuck(tmp_path, limit=1800, since=0)
    assert is_stuck(tmp_path, limit=-1, since=0)  # it was read


def test_the_probe_of_a_run_in_a_bucket_looks_at_its_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = mirror_folder("gs://bucket/run")
    folder.mkdir(parents=True)
    # Now and not earlier, so that it is of this start wherever process 1 began a moment ago.
    beat(folder, age=0)
    assert main(["gs://bucket/run", "--limit", "1800"]) == 0
    assert main(["gs://bucket/run", "--limit", "-1"]) == 1
    assert main(["gs://bucket/other", "--limit", "-1"]) == 0


@pytest.mark.parametrize("run", ["run", "gs://bucket/run"])
def test_the_probe_is_light(run):
    """It runs every minute beside the training process, on the same cores."""
    code = (
        "import sys; from jaxllm.training.heartbeat import main; main([sys.argv[1], '--limit=9']);"
        "print({'jax', 'numpy', 'pydantic', 'fsspec'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
