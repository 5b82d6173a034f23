import pytest

from jaxllm.parallel.gang import read_gang

EXPLICIT = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.2:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


def places(gang):
    """Where the two services listen."""
    return gang.coordinator.joined, gang.lifeline.joined


def test_the_lifeline_takes_the_port_after_the_coordinators():
    gang = read_gang(EXPLICIT)
    assert (gang.rank, gang.count, gang.start_timeout) == (3, 4, 300.0)
    assert places(gang) == ("10.0.0.2:1234", "10.0.0.2:1235")
    assert str(gang) == "4, found by JAX_COORDINATOR_ADDRESS; coordinator 10.0.0.2:1234"


def test_address_and_limit_of_the_lifeline_can_be_set():
    chosen = {"JAXLLM_LIFELINE_ADDRESS": "[::1]:99", "JAXLLM_START_TIMEOUT": "7.5"}
    gang = read_gang({**EXPLICIT, **chosen})
    assert (gang.lifeline.host, gang.lifeline.port, gang.start_timeout) == ("::1", 99, 7.5)
    assert str(gang.lifeline) == "[::1]:99 (JAXLLM_LIFELINE_ADDRESS)"


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("[::1]", True),
        ("10.0.0.2", False),
        ("host-0", False),
        ("[fd00::1]", False),
    ],
)
def test_loopback_is_known_by_its_address(host, is_loopback):
    gang = read_gang({**EXPLICIT, "JAX_COORDINATOR_ADDRESS": f"{host}:1234"})
    assert gang.coordinator.is_loopback is is_loopback
    assert gang.lifeline.is_loopback is is_loopback


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"JAX_PROCESS_ID": ""}, r"JAX_COORDINATOR_ADDRESS=host:port.*all three"),
        ({"JAX_NUM_PROCESSES": ""}, r"JAX_COORDINATOR_ADDRESS=host:port.*all three"),
        ({"JAX_NUM_PROCESSES": "two"}, r"JAX_COORDINATOR_ADDRESS=host:port.*all three"),
        ({"JAX_PROCESS_ID": "4"}, r"JAX_PROCESS_ID=4 .* from 0 to 3"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, r"JAX_COORDINATOR_ADDRESS='host' is not host:port"),
        ({"JAX_COORDINATOR_ADDRESS": "host:70000"}, r"port from 1 to 65535"),
        ({"JAX_COORDINATOR_ADDRESS": "host:65535"}, r"no port after it.*JAXLLM_LIFELINE_ADDRESS"),
        ({"JAXLLM_LIFELINE_ADDRESS": ":5"}, r"JAXLLM_LIFELINE_ADDRESS=':5' is not host:port"),
        ({"JAXLLM_START_TIMEOUT": "soon"}, r"JAXLLM_START_TIMEOUT='soon': it must be seconds"),
        ({"JAXLLM_START_TIMEOUT": "0"}, r"JAXLLM_START_TIMEOUT='0': it must be seconds"),
    ],
)
def test_what_cannot_be_is_refused_with_the_variable(wrong, message):
    with pytest.raises(ValueError, match=message):
        read_gang({**EXPLICIT, **wrong})
