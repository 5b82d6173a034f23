"""`jaxllm launch`: one training run in processes of this machine, kept alive.

It only reads and starts: no JAX here, neither in its time nor in its memory.
"""

import os
import re
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import Any

import yaml

from jaxllm.commands.children import Command, Lines
from jaxllm.commands.restarts import Restarts
from jaxllm.commands.supervision import supervise
from jaxllm.config_files import find_config
from jaxllm.storage import is_remote, text_of
from jaxllm.storage.bucket import BucketFiles

_DEVICES_FLAG = "--xla_force_host_platform_device_count"
_HOST = "127.0.0.1"


def launch(
    config: str,
    overrides: Sequence[str] = (),
    *,
    processes: int | None = None,
    devices_per_process: int | None = None,
    max_restarts: int = 10,
    max_backoff: float = 60.0,
) -> int:
    """Train a config in `processes` processes with CPU devices on loopback. The exit code.

    processes: None for one process that has the environment as it is, as each host of a pod has it.
    devices_per_process: of those on loopback; None for 1.
    overrides: what `jaxllm train` takes behind the config, options included.
    max_restarts: in a row without a newer checkpoint. max_backoff: longest pause in seconds.
    ValueError if there is no such config, or for devices without `processes`.
    """
    if processes is None and devices_per_process is not None:
        raise ValueError(
            f"--devices-per-process {devices_per_process} counts CPU devices of several processes; "
            "add --processes, or leave it out: the one process has the devices of this machine"
        )
    run_dir = read_run_dir(config, overrides)
    argv = (sys.executable, "-m", "jaxllm.cli", "train", config, *overrides)

    def commands() -> list[Command]:
        if processes is None:
            return [Command(argv, os.environ)]
        return _on_loopback(argv, processes=processes, devices=devices_per_process or 1)

    lines = Lines()
    watched = Checkpoints(run_dir, lines)
    restarts = Restarts(
        max_restarts=max_restarts, max_backoff=max_backoff, newest_step=watched.newest_step()
    )
    return supervise(commands, restarts, newest_step=watched.newest_step, lines=lines)


def _on_loopback(argv: Sequence[str], *, processes: int, devices: int) -> list[Command]:
    """The processes of one try, which meet at new ports."""
    coordinator, lifeline = free_ports(2)
    return [
        Command(
            argv,
            rank_environment(
                os.environ,
                rank=rank,
                processes=processes,
                devices=devices,
                coordinator=f"{_HOST}:{coordinator}",
                lifeline=f"{_HOST}:{lifeline}",
            ),
        )
        for rank in range(processes)
    ]


def rank_environment(
    inherited: Mapping[str, str],
    *,
    rank: int,
    processes: int,
    devices: int,
    coordinator: str,
    lifeline: str,
) -> dict[str, str]:
    """The variables of one process. XLA flags that are there stay, but for the device count.

    coordinator, lifeline: host:port where the first process listens for the others.
    """
    flags = re.sub(rf"{_DEVICES_FLAG}=\S*", "", inherited.get("XLA_FLAGS", ""))
    return {
        **inherited,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*flags.split(), f"{_DEVICES_FLAG}={devices}"]),
        "JAX_COORDINATOR_ADDRESS": coordinator,
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(rank),
        "JAXLLM_LIFELINE_ADDRESS": lifeline,
    }


def free_ports(count: int) -> list[int]:
    """Different TCP ports that nothing listens on, on loopback."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((_HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


class Checkpoints:
    """The checkpoints of a run folder, of which only the newest counts here."""

    def __init__(self, run_dir: str, lines: Lines) -> None:
        self._run_dir, self._lines = run_dir, lines

    def newest_step(self) -> int | None:
        """As the function; None too where a bucket cannot be reached, and a line that says so.

        What trains must not end with that: the next try has the bucket to write to, or fails.
        """
        try:
            return newest_step(self._run_dir)
        except OSError as error:
            self._lines.say(f"cannot see whether a checkpoint is newer: {error}")
            return None


def newest_step(run_dir: str | PurePath) -> int | None:
    """The step of the newest complete checkpoint of a run folder, or None.

    OSError if the folder is in a bucket that cannot be reached.
    """
    if is_remote(run_dir):
        folder = BucketFiles(f"{text_of(run_dir)}/checkpoints")
        steps = _steps(name.rstrip("/") for name in folder.names())
        # Nothing can be renamed in a bucket: Orbax marks there what is complete.
        complete = (step for step in steps if folder.objects([f"{step}/commit_success.txt"]))
        return next(complete, None)
    local = Path(run_dir) / "checkpoints"
    return next(iter(_steps(os.listdir(local) if local.is_dir() else [])), None)


def _steps(names: Iterable[str]) -> list[int]:
    """The names that are steps, the newest first."""
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def read_run_dir(config: str, overrides: Sequence[str] = ()) -> str:
    """The run folder of a config, the rest of which the processes check."""
    given = [value for key, _, value in map(_parts, overrides) if key == "run_dir"]
    file = find_config(config)
    try:
        if given:
            run_dir = yaml.safe_load(given[-1])
        else:
            raw: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
            run_dir = raw.get("run_dir") if isinstance(raw, dict) else None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(run_dir, str):
        raise ValueError(f"{file}: run_dir is {run_dir!r}; give the folder of the run")
    return run_dir


def _parts(override: str) -> tuple[str, str, str]:
    key, equals, value = override.partition("=")
    return key.strip(), equals, value
