import jax
import pytest

from jaxllm.parallel import distributed

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LIMITS = {
    "shutdown_timeout_seconds": 24 * 3600,
    "initialization_timeout": 300,
    "local_device_ids": None,
    "cluster_detection_method": "deactivate",
}
TPU = ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "MEGASCALE_COORDINATOR_ADDRESS")


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """What JAX would have been asked to join, after which lifelines; nothing is joined."""
    for name in (*VARIABLES, *TPU):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setattr(distributed, "_gang", None)
    calls = []

    def initialize(*args, **kwargs):
        calls.append(("jax", *args, kwargs))
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)

    def begin(gang):
        calls.append(("lifeline", gang.rank, gang.count))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(distributed.lifeline, "begin", begin)
    monkeypatch.setattr(distributed.lifeline, "goodbye", lambda: calls.append("goodbye"))
    monkeypatch.setattr(distributed.lifeline, "report", lambda *said: calls.append(said))
    monkeypatch.setattr(distributed.lifeline, "check_free", lambda address: None)
    monkeypatch.setattr(distributed.atexit, "register", lambda function: None)
    return calls


def set_all(monkeypatch, *values):
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)


def test_one_process_joins_nothing(calls):
    distributed.initialize()
    assert calls == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_listens_on_loopback_only(calls, monkeypatch, host):
    set_all(monkeypatch, f"{host}:1234", "2", "1")
    distributed.initialize()
    limits = LIMITS | {"coordinator_bind_address": f"{host}:1234"}
    assert calls == [("lifeline", 1, 2), ("jax", f"{host}:1234", 2, 1, limits)]


def test_another_host_listens_for_all_and_a_second_call_joins_nothing(calls, monkeypatch):
    set_all(monkeypatch, "10.0.0.2:1234", "4", "0")
    distributed.initialize()
    joined = [("lifeline", 0, 4), ("jax", "10.0.0.2:1234", 4, 0, LIMITS)]
    assert calls == joined
    distributed.initialize()
    assert calls == joined


@pytest.mark.parametrize("values", [("h:1", "2", ""), ("h:1", "", "0"), ("h:1", "two", "0")])
def test_half_a_cluster_is_refused(calls, monkeypatch, values):
    set_all(monkeypatch, *values)
    with pytest.raises(ValueError, match=r"JAX_COORDINATOR_ADDRESS=host:port.*all three"):
        distributed.initialize()
    assert calls == []


def test_a_port_that_is_taken_is_said_before_jax_tries_it(calls, monkeypatch):
    def taken(address):
        raise OSError(f"{address} is taken")

    monkeypatch.setattr(distributed.lifeline, "check_free", taken)
    set_all(monkeypatch, "10.0.0.2:1234", "4", "0")
    with pytest.raises(OSError, match=r"10\.0\.0\.2:1234"):
        distributed.initialize()
    assert calls == [("lifeline", 0, 4)]


def test_tpu_hosts_are_named_to_jax(calls, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    distributed.initialize()
    assert calls == [("lifeline", 1, 2), ("jax", "a:8482", 2, 1, LIMITS)]
    assert distributed.found() == "2, found by TPU_WORKER_HOSTNAMES; coordinator a:8482"


@pytest.mark.parametrize("code", [0, 75])
def test_who_is_done_says_goodbye(calls, code):
    distributed.leave(code)
    assert calls == ["goodbye"]


def test_who_failed_says_why(calls):
    distributed.leave(2, "a wrong config")
    assert calls == [(2, "a wrong config")]


def test_the_only_process_is_first_and_waits_for_nobody():
    assert distributed.is_first()
    distributed.barrier("anything")


def test_the_only_process_is_the_first_and_its_text_its_own():
    assert distributed.is_first()
    for text in ("", "[]", "Zwölf Boxkämpfer\n" * 500):
        assert distributed.from_first(text) == text
        assert distributed.from_all(text) == [text]
