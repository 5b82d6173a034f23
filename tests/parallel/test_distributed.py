import jax
import pytest

from jaxllm.parallel import distributed

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """What JAX would have been asked to join; nothing is joined."""
    for name in (*VARIABLES, "TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *args, **kwargs: calls.append((args, kwargs))
    )
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
    assert calls == [((f"{host}:1234", 2, 1), {"coordinator_bind_address": f"{host}:1234"})]


def test_another_host_listens_for_all(calls, monkeypatch):
    set_all(monkeypatch, "10.0.0.2:1234", "4", "0")
    distributed.initialize()
    assert calls == [(("10.0.0.2:1234", 4, 0), {})]


@pytest.mark.parametrize("values", [("h:1", "2", ""), ("h:1", "", "0"), ("h:1", "two", "0")])
def test_half_a_cluster_is_refused(calls, monkeypatch, values):
    set_all(monkeypatch, *values)
    with pytest.raises(ValueError, match=r"JAX_COORDINATOR_ADDRESS=host:port.*all three"):
        distributed.initialize()
    assert calls == []


@pytest.mark.parametrize(
    ("name", "value", "is_joined"),
    [
        ("TPU_WORKER_HOSTNAMES", "a,b", True),
        ("TPU_WORKER_HOSTNAMES", "a", False),
        ("TPU_WORKER_HOSTNAMES", "", False),
        ("MEGASCALE_COORDINATOR_ADDRESS", "a:1", True),
    ],
)
def test_tpu_hosts_are_found_by_jax(calls, monkeypatch, name, value, is_joined):
    monkeypatch.setenv(name, value)
    distributed.initialize()
    assert calls == [((), {})] * is_joined


def test_the_only_process_is_first_and_waits_for_nobody():
    assert distributed.is_first()
    distributed.barrier("anything")
