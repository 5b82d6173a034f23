"""A program that stands for `jaxllm launch` on a fake host and plays its job of the scenario."""

import os
import signal
import sys
import time

_HOST = os.environ["FAKE_HOST"]
_FOREVER = 600  # seconds


def main():
    """Say the job's lines, save its checkpoint, end with its code."""
    from . import literals

    signal.signal(signal.SIGTERM, _interrupted)
    job = literals.load(f"{_HOST}/job")
    with open(f"{_HOST}/launches", "a", encoding="utf-8") as launches:
        launches.write(f"{ {'argv': sys.argv[1:], 'environment': dict(os.environ)}!r}\n")
    for line in job["lines"]:
        print(line, flush=True)
    while job["waits_for"] is not None and not os.path.exists(job["waits_for"]):
        time.sleep(0.02)
    if job["checkpoint"] is not None:
        _save(job["checkpoint"])
    if job["code"] is None:
        time.sleep(_FOREVER)
    raise SystemExit(job["code"])


def _save(step):
    """A checkpoint as Orbax leaves it in a bucket: complete with the file that says so."""
    run_dir = next(word for word in sys.argv if word.startswith("run_dir=gs://"))
    buckets = f"{_HOST}/../../../buckets/"
    folder = f"{buckets}{run_dir.removeprefix('run_dir=gs://')}/checkpoints/{step}"
    os.makedirs(folder, exist_ok=True)
    open(f"{folder}/commit_success.txt", "w").close()


def _interrupted(number, frame):
    print("saved; the same command goes on", flush=True)
    raise SystemExit(75)
