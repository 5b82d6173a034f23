"""How the babysitter ends, by signals too; and a slice that was there before it."""

import signal

import pytest

from .cloud import NAME
from .fakes.scenario import Job, Life, Scenario

FOREVER = Job(code=None)
SMALL = Life(hosts=1)  # where the number of hosts is of no matter
WHERE = ("--project=my-project", "--zone=us-west4-a")


def request(cloud, *, label):
    """Somebody asks for a queued resource of our name."""
    made = cloud.gcloud(
        *("compute", "tpus", "queued-resources", "create", NAME, *WHERE, f"--node-id={NAME}"),
        *("--accelerator-type=v5litepod-16", "--runtime-version=r", f"--labels=jaxllm={label}"),
    )
    assert made.returncode == 0, made.stderr


def test_what_somebody_else_made_is_left_alone(make_cloud):
    cloud = make_cloud()
    request(cloud, label="other")
    ended = cloud.run("babysit.sh")
    assert ended.code == 2, ended.err
    assert "JAXLLM_NAME" in ended.err
    assert cloud.left == [NAME]
    assert cloud.run("delete.sh").code == 2
    assert cloud.left == [NAME]
    assert cloud.run("delete.sh", "--force").code == 0
    assert cloud.left == []


def test_what_somebody_else_made_outlives_a_refusal(make_cloud):
    """The service may look at the quota first, and at names after that."""
    cloud = make_cloud(Scenario((SMALL, Life(refused="Quota limit 'x' has been exceeded."))))
    request(cloud, label="other")
    assert cloud.run("babysit.sh").code == 2
    assert cloud.left == [NAME]


def test_what_somebody_else_made_outlives_ctrl_c(make_cloud):
    """While it is not known yet whether the slice will be ours."""
    cloud = make_cloud(Scenario((SMALL, Life(create_hangs=True))))
    request(cloud, label="other")
    babysitter = cloud.start("babysit.sh")
    babysitter.wait_until(
        lambda: len(cloud.calls_of("queued-resources", "create")) == 2, "it asks too"
    )
    babysitter.interrupt()
    assert babysitter.ended().code == 130
    assert cloud.left == [NAME]


def is_watched(cloud):
    """Whether the babysitter has looked at the run on the hosts."""
    return any("host_run.sh status" in call[-1] for call in cloud.calls)


def test_a_run_that_goes_on_is_taken_over(make_cloud, tmp_path):
    """Its slice is not made again, and the run is not started twice."""
    go = tmp_path / "go"
    cloud = make_cloud(Scenario((Life(job=Job(waits_for=str(go))),)))
    assert cloud.run("create.sh").code == 0
    assert cloud.run("run.sh").code == 0
    babysitter = cloud.start("babysit.sh")
    babysitter.wait_until(lambda: is_watched(cloud), "it watches")
    go.touch()
    assert babysitter.ended().code == 0
    assert len(cloud.launches("0.0")) == 1
    assert cloud.events == ["created", "ACTIVE", "deleted"]


MOMENTS = {
    "it asks": (Life(create_hangs=True), lambda cloud: cloud.left),
    "it waits": (Life(states=("WAITING_FOR_RESOURCES",)), lambda cloud: len(cloud.history) > 1),
    "it sets up": (
        Life(apt_locks={"0.1": 10**6}),
        lambda cloud: (cloud.host("0.1") / "fuser_calls").exists(),
    ),
    "the run goes on": (Life(job=FOREVER), is_watched),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_deletes_everything(make_cloud, moment):
    """At any moment; a run that goes on may save before."""
    life, has_come = MOMENTS[moment]
    cloud = make_cloud(Scenario((life,)))
    babysitter = cloud.start("babysit.sh")
    babysitter.wait_until(lambda: has_come(cloud), moment)
    babysitter.interrupt()
    ended = babysitter.ended()
    assert ended.code == 130, ended.err
    assert cloud.left == []
    assert list((cloud.folder / "tmp").iterdir()) == []
    if life.job is FOREVER:
        assert_saved(cloud)


def assert_saved(cloud):
    """The run was asked to end, and had the time to save."""
    for place in ("0.0", "0.1"):
        log = (cloud.host(place) / "home/jaxllm-run/log").read_text()
        assert "saved; the same command goes on" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_it_delete_everything(make_cloud, number):
    """To the script alone, as `kill` or the end of a terminal sends them."""
    cloud = make_cloud(Scenario((Life(job=FOREVER),)))
    babysitter = cloud.start("babysit.sh")
    babysitter.wait_until(lambda: is_watched(cloud), "the run goes on")
    babysitter.send(number)
    ended = babysitter.ended()
    assert ended.code == 75, ended.err
    assert cloud.left == []
    assert_saved(cloud)


def test_sigterm_while_it_asks(make_cloud):
    """It does not wait for an answer that may never come."""
    cloud = make_cloud(Scenario((Life(create_hangs=True),)))
    babysitter = cloud.start("babysit.sh")
    babysitter.wait_until(lambda: cloud.left, "the slice is asked for")
    babysitter.send(signal.SIGTERM)
    assert babysitter.ended().code == 75
    assert cloud.left == []


def test_a_second_ctrl_c_does_not_stop_the_deletion(make_cloud):
    cloud = make_cloud(Scenario((Life(states=("WAITING_FOR_RESOURCES",)),), delete_errors=5))
    babysitter = cloud.start("babysit.sh")
    babysitter.wait_until(lambda: cloud.left, "the slice is asked for")
    babysitter.interrupt()
    babysitter.wait_until(lambda: cloud.calls_of("queued-resources", "delete"), "a deletion")
    babysitter.interrupt()
    assert babysitter.ended().code == 130
    assert cloud.left == []
