"""What the fake cloud is to do: one life for each queued resource that is created."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Job:
    """What the stub of `jaxllm` does on a host when it is launched."""

    code: int | None = 0
    """Its exit code; None: it runs until it is stopped, and then ends with 75."""
    checkpoint: int | None = None
    """The step whose checkpoint it saves in the run folder before it ends."""
    lines: tuple[str, ...] = ("training 1/2  loss 4.0000",)
    """What it prints."""
    waits_for: str | None = None
    """A file that must exist before it goes on behind its lines."""


@dataclass(frozen=True)
class Life:
    """One queued resource from its creation to its end. Hosts are named SLICE.WORKER."""

    refused: str | None = None
    """The creation fails with this error."""
    create_hangs: bool = False
    """The service accepts the creation, but gcloud does not return before it is killed."""
    states: tuple[str, ...] = ("ACTIVE",)
    """The state at each look; the last one stays. SUSPENDING and all after it kill the hosts."""
    failure: str = ""
    """The error of the state FAILED."""
    hosts: int = 2
    """Hosts of each node."""
    node_states: tuple[str, ...] = ("READY",)
    """The state of each node at each look while the request is ACTIVE; the last one stays."""
    apt_locks: Mapping[str, int] = field(default_factory=dict)
    """Hosts whose package manager is busy, and for how many looks at its lock."""
    broken: tuple[str, ...] = ()
    """Hosts where nothing can be installed."""
    dies_at_ssh: Mapping[str, int] = field(default_factory=dict)
    """Hosts that die when the command of this number (from 0) comes; no answer from then on."""
    deaf_at_ssh: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Hosts that do not answer commands of these numbers (from 0), but live on."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """More variables of every host."""
    job: Job = Job()
    """What the run does on every host."""
    jobs: Mapping[str, Job] = field(default_factory=dict)
    """Hosts where it does something else."""


@dataclass(frozen=True)
class Scenario:
    """The lives, in the order of their creation; the last one again and again."""

    lives: tuple[Life, ...] = (Life(),)
    delete_errors: int = 0
    """How many deletions fail first, as with a server that is unavailable."""
    describe_errors: tuple[int, ...] = ()
    """Numbers (from 0) of the looks at a queued resource that fail so."""
    is_real: bool = False
    """The hosts run the real jaxllm, as processes of one CPU device each that meet on loopback."""
