"""A slice that is asked for and deleted by hand."""

import pytest

from .cloud import NAME
from .fakes.scenario import Life, Scenario


def test_it_is_waited_for(make_cloud):
    """Asked for again, it is waited for again, and is not made twice."""
    states = (*["WAITING_FOR_RESOURCES"] * 2, "PROVISIONING", "ACTIVE")
    cloud = make_cloud(Scenario((Life(states=states, hosts=4),)))
    for _ in range(2):
        ended = cloud.run("create.sh")
        assert ended.code == 0, ended.err
        assert "4 hosts" in ended.err
    assert cloud.events == ["created", *dict.fromkeys(states)]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_one_that_will_not_come_is_not_waited_for(make_cloud, state):
    cloud = make_cloud(Scenario((Life(states=("ACCEPTED", state), failure="no capacity"),)))
    ended = cloud.run("create.sh")
    assert ended.code == 75, ended.err
    assert state in ended.err
    assert "tpu/delete.sh" in ended.err
    assert ("no capacity" in ended.err) == (state == "FAILED")
    assert cloud.run("delete.sh").code == 0
    assert cloud.left == []


def test_no_quota(make_cloud):
    words = "Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded. Limit: 8 in zone x."
    cloud = make_cloud(Scenario((Life(refused=words),)))
    ended = cloud.run("create.sh")
    assert ended.code == 2
    assert words in ended.err
    assert cloud.left == []


def test_ctrl_c_while_waiting_leaves_the_request(make_cloud):
    """Waiting in the queue costs nothing, and the place in it is kept."""
    cloud = make_cloud(Scenario((Life(states=("WAITING_FOR_RESOURCES",)),)))
    script = cloud.start("create.sh")
    script.wait_until(lambda: len(cloud.history) > 1, "it waits")
    script.interrupt()
    assert script.ended().code != 0
    assert cloud.left == [NAME]


def test_a_deletion_is_tried_until_it_is_gone(make_cloud):
    cloud = make_cloud(Scenario(delete_errors=2))
    assert cloud.run("create.sh").code == 0
    ended = cloud.run("delete.sh")
    assert ended.code == 0, ended.err
    assert cloud.left == []
    assert len(cloud.calls_of("queued-resources", "delete")) == 3
