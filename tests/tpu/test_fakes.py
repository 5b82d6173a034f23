"""The fake cloud is as strict as the real one where scripts go wrong with it."""

import os
import subprocess
import time

import pytest

from .cloud import NAME
from .fakes import hosts
from .fakes.scenario import Life, Scenario

WHERE = ("--project=my-project", "--zone=us-west4-a")
QUEUED = ("compute", "tpus", "queued-resources")
SSH = ("compute", "tpus", "tpu-vm", "ssh", NAME, *WHERE, "--worker=all")


@pytest.fixture
def cloud(make_cloud):
    """Two hosts that are there."""
    cloud = make_cloud(Scenario((Life(deaf_at_ssh={"0.1": (1,)}),)))
    assert cloud.run("create.sh").code == 0
    return cloud


def test_what_gcloud_would_refuse_is_refused(cloud):
    wrong = [
        ((*QUEUED, "describe", NAME, "--project=p"), 1, "[zone]"),
        ((*QUEUED, "describe", NAME, *WHERE, "--spot"), 2, "--spot"),
        ((*QUEUED, "describe", NAME, "more", *WHERE), 2, "more"),
        ((*QUEUED, "describe", "other", *WHERE), 1, "NOT_FOUND"),
        ((*QUEUED, "create", NAME, *WHERE, "--node-id=n"), 2, "--accelerator-type"),
        ((*QUEUED, "delete", NAME, *WHERE), 2, "interactive"),
        ((*QUEUED, "delete", NAME, *WHERE, "--quiet"), 1, "FAILED_PRECONDITION"),
        (("compute", "tpus", "tpu-vm", "reboot", NAME), 2, "reboot"),
        (("storage", "ls", "/tmp"), 1, "gs://"),
    ]
    for arguments, code, words in wrong:
        ended = cloud.gcloud(*arguments)
        assert ended.returncode == code, arguments
        assert words in ended.stderr, arguments
    assert cloud.calls[-len(wrong) :] == [["gcloud", *arguments] for arguments, *_ in wrong]
    assert cloud.left == [NAME]


def test_ssh_reaches_each_host_and_tells_of_the_first_failure(cloud):
    said = cloud.gcloud(*SSH, "--command=echo $FAKE_WORKER at $HOME; exit $((3 + FAKE_WORKER))")
    homes = [f"{worker} at {cloud.host(f'0.{worker}')}/home" for worker in (0, 1)]
    assert sorted(said.stdout.splitlines()) == homes
    assert said.returncode == 3
    deaf = cloud.gcloud(*SSH, "--command=true")
    assert deaf.returncode == 255
    assert cloud.gcloud(*SSH, "--command=true").returncode == 0


def test_ssh_swallows_the_input_of_who_calls_it(cloud):
    """A loop over lines that calls it would lose the others."""
    script = f"{cloud.folder}/bin/gcloud {' '.join(SSH)} --command=true; cat"
    ended = subprocess.run(
        ["bash", "-c", script],
        env=cloud.environment,
        input="a second line\n",
        capture_output=True,
        text=True,
    )
    assert ended.stdout == ""


def test_ssh_lasts_as_long_as_something_holds_its_output(cloud):
    """What goes on in the background must let go of it."""
    released = cloud.gcloud(*SSH, "--command=(/bin/sleep 600 & ) > /dev/null 2>&1")
    assert released.returncode == 0
    argv = [str(cloud.folder / "bin" / "gcloud"), *SSH, "--command=(/bin/sleep 600 & )"]
    held = subprocess.Popen(argv, env=cloud.environment, stdin=subprocess.DEVNULL)
    folder = str(cloud.host("0.0"))
    deadline = time.monotonic() + 60
    while len(hosts.processes(folder)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert held.poll() is None
    cloud.preempt()
    assert held.wait(60) == 255


def test_a_host_that_is_taken_away_loses_every_process(cloud):
    """Those in sessions of their own too."""
    command = "setsid /bin/sleep 600 > /dev/null 2>&1 & echo $!"
    pids = [int(pid) for pid in cloud.gcloud(*SSH, f"--command={command}").stdout.split()]
    assert set(pids) <= set(hosts.processes(str(cloud.folder / "hosts")))
    cloud.preempt()
    assert hosts.processes(str(cloud.folder / "hosts")) == []
    for pid in pids:
        assert not os.path.exists(f"/proc/{pid}/exe")
    gone = cloud.gcloud(*SSH, "--command=true")
    assert gone.returncode == 1
    assert "PREEMPTED" in gone.stderr
