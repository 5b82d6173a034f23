"""A run on a slice that is there: started once, looked at, its log followed, asked to end."""

import re
import signal

import pytest

from .fakes import hosts
from .fakes.scenario import Job, Life, Scenario


@pytest.fixture
def ready(make_cloud):
    """Makes a cloud in which the slice is there."""

    def make(life, **settings):
        cloud = make_cloud(Scenario((life,)))
        assert cloud.run("create.sh", **settings).code == 0
        return cloud

    return make


def test_a_run_is_started_once(ready):
    """However often it is asked for; another one is refused as long as it goes on."""
    cloud = ready(Life(job=Job(code=None)))
    for _ in range(2):
        ended = cloud.run("run.sh", "seed=1")
        assert ended.code == 0, ended.err
    other = cloud.run("run.sh", "seed=2")
    assert other.code == 2, other.err
    assert "seed=1" in other.err
    for place in ("0.0", "0.1"):
        assert len(cloud.launches(place)) == 1


def test_it_ends_when_asked_and_goes_on_when_started_again(ready):
    cloud = ready(Life(job=Job(code=None)))
    assert cloud.run("run.sh").code == 0
    ended = cloud.run("run.sh", "--stop")
    assert ended.code == 0, ended.err
    assert "saved; the same command goes on" in cloud.run("status.sh").out
    assert cloud.run("run.sh", "--stop").code == 0  # of nothing
    assert cloud.run("run.sh").code == 0
    assert len(cloud.launches("0.0")) == 2


def test_the_status_of_slice_and_run(ready):
    """Before the run, while it goes on, when it has ended, when a host was taken away."""
    cloud = ready(Life(jobs={"0.1": Job(code=1)}, job=Job(code=None, lines=("step 1", "step 2"))))
    before = cloud.run("status.sh")
    assert before.code in (0, 1), before.err
    assert re.search(r"^checkpoint +none$", before.out, re.M)
    assert cloud.run("run.sh").code == 0
    folder = cloud.folder / "buckets/my-bucket/runs/pod/checkpoints"
    for step in ("9", "120", "130.orbax-checkpoint-tmp"):
        (folder / step).mkdir(parents=True)
        (folder / step / "commit_success.txt").touch()
    (folder / "200").mkdir()
    status = cloud.run("status.sh", "--lines", "2")
    assert status.code == 0, status.err
    assert "pod is ACTIVE" in status.out
    assert re.search(r"\b120$", status.out, re.M)
    assert "[0] step 1\n[0] step 2\n" in status.out
    assert re.search(r"0\.0 +running", status.out)
    assert re.search(r"0\.1 +ended 1", status.out)
    cloud.preempt()
    gone = cloud.run("status.sh")
    assert gone.code == 75
    assert "SUSPENDED" in gone.out


def test_without_a_slice_each_script_says_so(make_cloud):
    cloud = make_cloud()
    for script, code in (("run.sh", 75), ("status.sh", 75), ("logs.sh", 75), ("delete.sh", 0)):
        ended = cloud.run(script)
        assert ended.code == code, (script, ended.err)
        assert ended.out + ended.err


@pytest.mark.parametrize("slices", [1, 2])
def test_logs_are_followed_host_by_host_until_the_run_ends(ready, tmp_path, slices):
    """Lines of before and after, each with its host in front."""
    go = tmp_path / "go"
    settings = {"JAXLLM_SLICES": str(slices)}
    cloud = ready(Life(job=Job(lines=("one", "two"), waits_for=str(go))), **settings)
    assert cloud.run("run.sh", **settings).code == 0
    logs = cloud.start("logs.sh", "--lines", "1", **settings)
    hosts = ["0", "1"] if slices == 1 else ["0.0", "0.1", "1.0", "1.1"]
    logs.wait_until(lambda: all(f"[{host}] two" in logs.said for host in hosts), "all logs")
    assert logs.is_running
    go.touch()
    ended = logs.ended()
    assert ended.code == 0, ended.err
    assert sorted(ended.out.splitlines()) == [f"[{host}] two" for host in hosts]


def test_ctrl_c_of_the_logs_leaves_the_run_alone(ready):
    cloud = ready(Life(job=Job(code=None)))
    assert cloud.run("run.sh").code == 0
    logs = cloud.start("logs.sh")
    logs.wait_until(lambda: "[1] training" in logs.said, "a log")
    logs.interrupt()
    assert logs.ended().code in (130, -signal.SIGINT)
    assert len(re.findall(r"0\.[01] +running", cloud.run("status.sh").out)) == 2


def test_a_dead_launcher_is_seen(ready):
    """Killed with all it started, as by the system when memory runs out."""
    cloud = ready(Life(job=Job(code=None)))
    assert cloud.run("run.sh").code == 0
    kill_run(cloud.host("0.1"))
    status = cloud.run("status.sh")
    assert re.search(r"0\.0 +running", status.out)
    assert re.search(r"0\.1 +died", status.out)


def kill_run(host):
    """Kill every process of a host, which itself lives on."""
    hosts.kill_all(str(host))
