"""The babysitter in each trouble by itself; a stub stands for the run. Nothing that costs stays."""

import signal

import pytest

from .cloud import NAME, records
from .fakes.scenario import Job, Life, Scenario

FOREVER = Job(code=None)
SMALL = Life(hosts=1)  # where the number of hosts is of no matter


@pytest.fixture
def babysit(make_cloud):
    """Runs the babysitter through a scenario to its end: (how it ended, the cloud)."""

    def run(*lives, arguments=(), settings=None, **scenario):
        cloud = make_cloud(Scenario(lives or (SMALL,), **scenario))
        ended = cloud.run("babysit.sh", *arguments, **(settings or {}))
        assert list((cloud.folder / "tmp").iterdir()) == []
        return ended, cloud

    return run


def launches(cloud, place, *, life=0):
    """How the run was launched on a host: argv and environment of each time."""
    return records(cloud.host(place, life=life) / "launches")


def events(cloud):
    return [event for event, _ in cloud.history]


def test_all_goes_well(babysit):
    """Each host has the commit, is set up and runs once; then the slice is deleted."""
    ended, cloud = babysit(Life(hosts=2), arguments=("seed=7",))
    assert ended.code == 0, ended.err
    assert events(cloud) == ["created", "ACTIVE", "deleted"]
    assert cloud.left == []
    for place in ("0.0", "0.1"):
        (launch,) = launches(cloud, place)
        assert launch["argv"] == [
            "launch",
            "demo",
            f"run_dir=gs://my-bucket/runs/{NAME}",
            "compilation_cache=gs://my-bucket/compiled",
            "seed=7",
        ]
        installed = (cloud.host(place) / "uv_calls").read_text()
        assert installed.count("-r requirements.lock") == 1
        assert installed.count("-r requirements-aot.lock") == 1


def test_slow_to_become_ready(babysit):
    """It waits, and says each state once."""
    queued = ("ACCEPTED", *["WAITING_FOR_RESOURCES"] * 4, *["PROVISIONING"] * 2, "ACTIVE")
    ended, cloud = babysit(Life(hosts=1, states=queued))
    assert ended.code == 0, ended.err
    for state in set(queued):
        assert ended.err.count(f"{NAME} is {state}") == 1
    assert events(cloud).count("created") == 1


REFUSED = {
    "Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerRegionForTPUAPI' has been exceeded. "
    "Limit: 0 in region us-west4.": ("quota", "JAXLLM_CAPACITY=spot", "JAXLLM_ZONE=us-west4-a"),
    "RESOURCE_EXHAUSTED: Quota limit": ("quota", "JAXLLM_ACCELERATOR=v5litepod-16"),
    "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied": ("JAXLLM_PROJECT=my-project",),
    'INVALID_ARGUMENT: Accelerator type "v5litepod-16" not found in zone': ("JAXLLM_ZONE=",),
}


@pytest.mark.parametrize("refusal", REFUSED)
def test_what_only_a_setting_can_change_is_asked_for_once(babysit, refusal):
    """What Google says is shown, and which settings it is about."""
    ended, cloud = babysit(Life(refused=refusal))
    assert ended.code == 2, ended.err
    assert refusal in ended.err
    for words in REFUSED[refusal]:
        assert words in ended.err
    assert events(cloud) == ["refused"]


def test_any_other_refusal_is_tried_again(babysit):
    ended, cloud = babysit(Life(refused="INTERNAL: try again"), SMALL)
    assert ended.code == 0, ended.err
    assert events(cloud) == ["refused", "created", "ACTIVE", "deleted"]


LOST = {
    "not to be had": (("WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES"), "FAILED"),
    "suspended in the queue": (("WAITING_FOR_RESOURCES",), "SUSPENDED"),
    "preempted in the middle": (("ACTIVE",) * 3, "SUSPENDING"),
    "failed in the middle": (("ACTIVE",) * 3, "FAILED"),
}


@pytest.mark.parametrize("how", LOST)
def test_a_slice_that_is_lost_is_deleted_and_made_again(babysit, how):
    before, lost = LOST[how]
    life = Life(hosts=1, states=(*before, lost), failure="no capacity in the zone", job=FOREVER)
    ended, cloud = babysit(life, SMALL)
    assert ended.code == 0, ended.err
    first = ["created", before[0], lost, "deleted"]
    assert events(cloud) == [*first, "created", "ACTIVE", "deleted"]
    if lost == "FAILED":
        assert "no capacity in the zone" in ended.err


@pytest.mark.parametrize("state", ["CREATING", "REPAIRING"])
def test_a_node_that_is_not_ready_yet_is_waited_for(babysit, state):
    """A slice that was hard to get is not given back for that."""
    ended, cloud = babysit(Life(hosts=1, node_states=(state, state, "READY")))
    assert ended.code == 0, ended.err
    assert events(cloud).count("created") == 1


def test_a_node_that_is_taken_away_before_its_request_knows(babysit):
    """The request is still ACTIVE; the node says what happened."""
    states = (*["READY"] * 2, "PREEMPTED")
    ended, cloud = babysit(Life(hosts=1, node_states=states, job=FOREVER), SMALL)
    assert ended.code == 0, ended.err
    assert "PREEMPTED" in ended.err
    assert events(cloud).count("created") == 2


def test_a_host_where_nothing_can_be_installed(babysit):
    """It is named with its error; the slice is made again."""
    ended, cloud = babysit(Life(broken=("0.1",)), SMALL)
    assert ended.code == 0, ended.err
    assert "[1] error: Failed to install: no space left on device" in ended.err
    assert "0.1 setup failed" in ended.err
    assert events(cloud).count("created") == 2
    assert launches(cloud, "0.0") == []


def test_a_host_that_dies_in_the_run(babysit):
    """Its slice is still ACTIVE; after three looks without its answer it is made again."""
    ended, cloud = babysit(Life(dies_at_ssh={"0.1": 3}, job=FOREVER), SMALL)
    assert ended.code == 0, ended.err
    assert "only 1 of 2 hosts answered" in ended.err
    assert events(cloud).count("created") == 2


def test_a_host_that_does_not_answer_twice(babysit):
    """That is no reason yet."""
    ended, cloud = babysit(Life(deaf_at_ssh={"0.1": (2, 3)}))
    assert ended.code == 0, ended.err
    assert ended.err.count("only 1 of 2 hosts answered") == 2
    assert events(cloud).count("created") == 1


def test_the_lock_of_apt_is_waited_for(babysit):
    """On the host that has it; then the run begins on all."""
    ended, cloud = babysit(Life(apt_locks={"0.1": 5}))
    assert ended.code == 0, ended.err
    assert "[1] apt's lock is held" in ended.err
    assert "[0] apt's lock is held" not in ended.err
    assert len((cloud.host("0.1") / "fuser_calls").read_text().splitlines()) == 6
    assert launches(cloud, "0.0")


def test_the_lock_of_apt_is_not_waited_for_without_end(babysit):
    settings = {"JAXLLM_APT_WAIT": "0", "JAXLLM_MAX_RESTARTS": "0"}
    ended, cloud = babysit(Life(apt_locks={"0.1": 10**6}), settings=settings)
    assert ended.code == 1, ended.err
    assert "JAXLLM_APT_WAIT" in ended.err
    assert "0.1 setup failed" in ended.err
    assert cloud.left == []


def test_a_config_that_cannot_work_is_not_tried_again(babysit):
    """The last lines of the log are shown, for the hosts go with the slice."""
    wrong = Job(code=2, lines=("error: model.num_layer: unknown key",))
    ended, cloud = babysit(Life(jobs={"0.1": wrong}, job=FOREVER))
    assert ended.code == 2, ended.err
    assert "[1] error: model.num_layer: unknown key" in ended.err
    assert events(cloud) == ["created", "ACTIVE", "deleted"]


def test_it_gives_up_after_tries_without_a_newer_checkpoint(babysit):
    """The first life saves step 3, the second 4, which counts anew, the third none."""
    saved = (3, 4, None)
    lives = [Life(hosts=1, job=Job(code=75, checkpoint=step)) for step in saved]
    ended, cloud = babysit(*lives, settings={"JAXLLM_MAX_RESTARTS": "1"})
    assert ended.code == 75, ended.err
    assert events(cloud).count("created") == len(saved)
    assert "try 1 of 1" in ended.err
    assert "giving up" in ended.err
    assert cloud.left == []


def test_a_deletion_that_fails_is_tried_again(babysit):
    ended, cloud = babysit(delete_errors=3)
    assert ended.code == 0, ended.err
    assert cloud.left == []


def test_what_cannot_be_deleted_is_said_loudly(babysit):
    ended, cloud = babysit(delete_errors=10**6, settings={"JAXLLM_DELETE_TRIES": "2"})
    assert ended.code == 1
    assert "COULD NOT BE DELETED" in ended.err
    assert len(cloud.calls_of("queued-resources", "delete")) == 2
    assert cloud.left == [NAME]


def test_a_service_that_is_away_for_a_moment(babysit):
    """Looks that fail, while waiting and while the run goes on, end nothing."""
    queued = (*["WAITING_FOR_RESOURCES"] * 2, "ACTIVE")
    ended, cloud = babysit(Life(hosts=1, states=queued), describe_errors=(1, 4, 6))
    assert ended.code == 0, ended.err
    assert events(cloud).count("created") == 1


def test_kept_on_request(babysit):
    ended, cloud = babysit(arguments=("--keep",))
    assert ended.code == 0, ended.err
    assert "tpu/delete.sh" in ended.err
    assert cloud.left == [NAME]


def test_several_slices(babysit):
    """Each node is reached; every line has slice and host."""
    failing = {"1.1": Job(code=1, lines=("here it failed",))}
    settings = {"JAXLLM_SLICES": "2"}
    ended, cloud = babysit(Life(jobs=failing, job=FOREVER), Life(), settings=settings)
    assert ended.code == 0, ended.err
    assert "[1.1] here it failed" in ended.err
    for place in ("0.0", "0.1", "1.0", "1.1"):
        assert len(launches(cloud, place)) == 1
        assert len(launches(cloud, place, life=1)) == 1
    assert cloud.left == []


@pytest.mark.parametrize("slices", [1, 2])
def test_stale_variables_of_several_slices_are_cleared(babysit, slices):
    """Where there is one slice they would make libtpu wait for the others."""
    stale = {"MEGASCALE_COORDINATOR_ADDRESS": "10.0.0.9:8081", "MEGASCALE_NUM_SLICES": "2"}
    ended, cloud = babysit(Life(environment=stale), settings={"JAXLLM_SLICES": str(slices)})
    assert ended.code == 0, ended.err
    (launch,) = launches(cloud, "0.1")
    seen = {name for name in launch["environment"] if name.startswith("MEGASCALE_")}
    assert seen == (set() if slices == 1 else set(stale))


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
    assert len(launches(cloud, "0.0")) == 1
    assert events(cloud) == ["created", "ACTIVE", "deleted"]


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


def test_taken_away_while_it_is_set_up(make_cloud):
    cloud = make_cloud(Scenario((Life(apt_locks={"0.1": 10**6}), SMALL)))
    babysitter = cloud.start("babysit.sh")
    babysitter.wait_until(lambda: (cloud.host("0.1") / "fuser_calls").exists(), "it sets up")
    cloud.preempt()
    ended = babysitter.ended()
    assert ended.code == 0, ended.err
    assert events(cloud).count("created") == 2


def test_a_second_ctrl_c_does_not_stop_the_deletion(make_cloud):
    cloud = make_cloud(Scenario((Life(states=("WAITING_FOR_RESOURCES",)),), delete_errors=5))
    babysitter = cloud.start("babysit.sh")
    babysitter.wait_until(lambda: cloud.left, "the slice is asked for")
    babysitter.interrupt()
    babysitter.wait_until(lambda: cloud.calls_of("queued-resources", "delete"), "a deletion")
    babysitter.interrupt()
    assert babysitter.ended().code == 130
    assert cloud.left == []
