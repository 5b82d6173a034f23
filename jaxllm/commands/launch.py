"""`jaxllm launch`: one training run in several processes of this machine, kept alive.

It only reads and starts: no JAX here, neither in its time nor in its memory.
"""

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from jaxllm.commands.children import Command, Lines
from jaxllm.commands.restarts import Restarts
from jaxllm.commands.supervision import supervise
from jaxllm.config_files import find_config

_DEVICES_FLAG = "--xla_force_host_platform_device_count"
_HOST = "127.0.0.1"


def launch(
    config: str,
    overrides: Sequence[str] = (),
    *,
    processes: int,
    devices_per_process: int = 1,
    max_restarts: int = 10,
    max_backoff: float = 60.0,
) -> int:
    """Train a config in `processes` processes with CPU devices on loopback. The exit code.

    overrides: what `jaxllm train` takes behind the config, options included.
    max_restarts: in a row without a newer checkpoint. max_backoff: longest pause in seconds.
    ValueError if there is no such config.
    """
    run_dir = read_run_dir(config, overrides)
    argv = (sys.executable, "-m", "jaxllm.cli", "train", config, *overrides)

    def commands() -> list[Command]:
        coordinator, lifeline = free_ports(2)
        return [
            Command(
                argv,
                rank_environment(
                    os.environ,
                    rank=rank,
                    processes=processes,
                    devices=devices_per_process,
                    coordinator=f"{_HOST}:{coordinator}",
                    lifeline=f"{_HOST}:{lifeline}",
                ),
            )
            for rank in range(processes)
        ]

    restarts = Restarts(
        max_restarts=max_restarts, max_backoff=max_backoff, newest_step=newest_step(run_dir)
    )
    return supervise(commands, restarts, newest_step=lambda: newest_step(run_dir), lines=Lines())


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


def newest_step(run_dir: Path) -> int | None:
    """The step of the newest complete checkpoint of a run folder, or None."""
    folder = run_dir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=None)


def read_run_dir(config: str, overrides: Sequence[str] = ()) -> Path:
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
    return Path(run_dir)


def _parts(override: str) -> tuple[str, str, str]:
    key, equals, value = override.partition("=")
    return key.strip(), equals, value
