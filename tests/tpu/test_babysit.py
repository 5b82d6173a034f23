"""The babysitter in each trouble by itself; a stub stands for the run. Nothing that costs stays."""

import pytest

from .cloud import NAME
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


def test_all_goes_well(babysit):
    """Each host has the commit, is set up and runs once; then the slice is deleted."""
    ended, cloud = babysit(Life(hosts=2), arguments=("seed=7",))
    assert ended.code == 0, ended.err
    assert cloud.events == ["created", "ACTIVE", "deleted"]
    assert cloud.left == []
    for place in ("0.0", "0.1"):
        (launch,) = cloud.launches(place)
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
    assert cloud.events.count("created") == 1


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
    assert cloud.events == ["refused"]


def test_any_other_refusal_is_tried_again(babysit):
    ended, cloud = babysit(Life(refused="INTERNAL: try again"), SMALL)
    assert ended.code == 0, ended.err
    assert cloud.events == ["refused", "created", "ACTIVE", "deleted"]


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
    assert cloud.events == [*first, "created", "ACTIVE", "deleted"]
    if lost == "FAILED":
        assert "no capacity in the zone" in ended.err


@pytest.mark.parametrize("state", ["CREATING", "REPAIRING"])
def test_a_node_that_is_not_ready_yet_is_waited_for(babysit, state):
    """A slice that was hard to get is not given back for that."""
    ended, cloud = babysit(Life(hosts=1, node_states=(state, state, "READY")))
    assert ended.code == 0, ended.err
    assert cloud.events.count("created") == 1


def test_a_node_that_is_taken_away_before_its_request_knows(babysit):
    """The request is still ACTIVE; the node says what happened."""
    states = (*["READY"] * 2, "PREEMPTED")
    ended, cloud = babysit(Life(hosts=1, node_states=states, job=FOREVER), SMALL)
    assert ended.code == 0, ended.err
    assert "PREEMPTED" in ended.err
    assert cloud.events.count("created") == 2


def test_a_host_where_nothing_can_be_installed(babysit):
    """It is named with its error; the slice is made again."""
    ended, cloud = babysit(Life(broken=("0.1",)), SMALL)
    assert ended.code == 0, ended.err
    assert "[1] error: Failed to install: no space left on device" in ended.err
    assert "0.1 setup failed" in ended.err
    assert cloud.events.count("created") == 2
    assert cloud.launches("0.0") == []


def test_a_host_that_dies_in_the_run(babysit):
    """Its slice is still ACTIVE; after three looks without its answer it is made again."""
    ended, cloud = babysit(Life(dies_at_ssh={"0.1": 3}, job=FOREVER), SMALL)
    assert ended.code == 0, ended.err
    assert "only 1 of 2 hosts answered" in ended.err
    assert cloud.events.count("created") == 2


def test_a_host_that_does_not_answer_twice(babysit):
    """That is no reason yet."""
    ended, cloud = babysit(Life(deaf_at_ssh={"0.1": (2, 3)}))
    assert ended.code == 0, ended.err
    assert ended.err.count("only 1 of 2 hosts answered") == 2
    assert cloud.events.count("created") == 1


def test_the_lock_of_apt_is_waited_for(babysit):
    """On the host that has it; then the run begins on all."""
    ended, cloud = babysit(Life(apt_locks={"0.1": 5}))
    assert ended.code == 0, ended.err
    assert "[1] apt's lock is held" in ended.err
    assert "[0] apt's lock is held" not in ended.err
    assert len((cloud.host("0.1") / "fuser_calls").read_text().splitlines()) == 6
    assert cloud.launches("0.0")


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
    assert cloud.events == ["created", "ACTIVE", "deleted"]


def test_it_gives_up_after_tries_without_a_newer_checkpoint(babysit):
    """The first life saves step 3, the second 4, which counts anew, the third none."""
    saved = (3, 4, None)
    lives = [Life(hosts=1, job=Job(code=75, checkpoint=step)) for step in saved]
    ended, cloud = babysit(*lives, settings={"JAXLLM_MAX_RESTARTS": "1"})
    assert ended.code == 75, ended.err
    assert cloud.events.count("created") == len(saved)
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
    assert cloud.events.count("created") == 1


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
        assert len(cloud.launches(place)) == 1
        assert len(cloud.launches(place, life=1)) == 1
    assert cloud.left == []


@pytest.mark.parametrize("slices", [1, 2])
def test_stale_variables_of_several_slices_are_cleared(babysit, slices):
    """Where there is one slice they would make libtpu wait for the others."""
    stale = {"MEGASCALE_COORDINATOR_ADDRESS": "10.0.0.9:8081", "MEGASCALE_NUM_SLICES": "2"}
    ended, cloud = babysit(Life(environment=stale), settings={"JAXLLM_SLICES": str(slices)})
    assert ended.code == 0, ended.err
    (launch,) = cloud.launches("0.1")
    seen = {name for name in launch["environment"] if name.startswith("MEGASCALE_")}
    assert seen == (set() if slices == 1 else set(stale))


def test_taken_away_while_it_is_set_up(make_cloud):
    cloud = make_cloud(Scenario((Life(apt_locks={"0.1": 10**6}), SMALL)))
    babysitter = cloud.start("babysit.sh")
    babysitter.wait_until(lambda: (cloud.host("0.1") / "fuser_calls").exists(), "it sets up")
    cloud.preempt()
    ended = babysitter.ended()
    assert ended.code == 0, ended.err
    assert cloud.events.count("created") == 2
