"""Which processes make a run, and where they find each other, as variables of our own say it."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

COORDINATOR, COUNT, RANK = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
LIFELINE, START_TIMEOUT = "JAXLLM_LIFELINE_ADDRESS", "JAXLLM_START_TIMEOUT"

_SECONDS_TO_START = 300.0


@dataclass(frozen=True)
class Address:
    """A host and a port, and the variable that named them."""

    host: str
    port: int
    source: str

    def __str__(self) -> str:
        return f"{self.joined} ({self.source})"

    @property
    def joined(self) -> str:
        """host:port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False


@dataclass(frozen=True)
class Gang:
    """The processes of a run, seen by one of them."""

    rank: int
    count: int
    coordinator: Address
    """Where JAX's service listens, on the host of process 0."""
    lifeline: Address
    """Where the lifelines end, on the same host."""
    start_timeout: float
    """Seconds until all processes must be there."""
    found_by: str
    """What named them, in words."""
    local_devices: tuple[int, ...] | None = None
    """The GPUs of this host that are this process's; None is all that it sees."""

    def __str__(self) -> str:
        return f"{self.count}, found by {self.found_by}; coordinator {self.coordinator.joined}"


def read_gang(environ: Mapping[str, str]) -> Gang | None:
    """The processes that variables name on any platform; None if none of the three is there.

    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID. ValueError for some
    of the three, and for what is no address, no number or no rank.
    """
    given = {name: environ[name] for name in (COORDINATOR, COUNT, RANK) if environ.get(name)}
    if not given:
        return None
    if len(given) < 3 or not given[COUNT].isdigit() or not given[RANK].isdigit():
        raise ValueError(
            f"the environment has {given}; a run of several processes needs "
            f"{COORDINATOR}=host:port, {COUNT}=how many and {RANK}=which (from 0), all three"
        )
    count, rank = int(given[COUNT]), int(given[RANK])
    if rank >= count:
        raise ValueError(
            f"{RANK}={rank} is no process of {COUNT}={count}; "
            f"the processes count from 0 to {count - 1}"
        )
    coordinator = parse_address(given[COORDINATOR], COORDINATOR)
    return make_gang(environ, rank=rank, count=count, coordinator=coordinator, found_by=COORDINATOR)


def make_gang(
    environ: Mapping[str, str], *, rank: int, count: int, coordinator: Address, found_by: str
) -> Gang:
    """A gang with the lifeline and the patience that the environment asks for."""
    return Gang(
        rank=rank,
        count=count,
        coordinator=coordinator,
        lifeline=lifeline_address(environ, coordinator),
        start_timeout=start_timeout(environ),
        found_by=found_by,
    )


def lifeline_address(environ: Mapping[str, str], coordinator: Address) -> Address:
    """JAXLLM_LIFELINE_ADDRESS, or the port after the coordinator's."""
    if environ.get(LIFELINE):
        return parse_address(environ[LIFELINE], LIFELINE)
    if coordinator.port == 65535:
        raise ValueError(
            f"{coordinator} leaves no port after it for the lifelines; "
            f"choose a lower one or set {LIFELINE}=host:port"
        )
    source = f"the port after {coordinator.source}; {LIFELINE} can set another"
    return Address(coordinator.host, coordinator.port + 1, source)


def start_timeout(environ: Mapping[str, str]) -> float:
    """JAXLLM_START_TIMEOUT in seconds, 300 by default."""
    given = environ.get(START_TIMEOUT) or str(_SECONDS_TO_START)
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 1.0 <= seconds <= 1e6:
        raise ValueError(f"{START_TIMEOUT}={given!r}: it must be seconds, from 1 to 1000000")
    return seconds


def parse_address(given: str, source: str) -> Address:
    """host:port or [host]:port."""
    host, _, port = given.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{source}={given!r} is not host:port, with a port from 1 to 65535")
    return Address(host, int(port), source)
