"""Compile the shipped pod configs and record what the compiler says of them.

    python scripts/record_pods.py [CONFIG ...]

Each config that names its pod in a comment (`Proved without the pod: jaxllm compile NAME ...`) is
compiled as that line says, and tests/golden/pods.json keeps what `make test-tpu-compile` compares
with. Without arguments all of them, about two minutes each.
"""

import json
import re
import sys
from pathlib import Path

from jaxllm.aot.report import Report
from jaxllm.aot.topology import parse_topology
from jaxllm.commands.compile import compile_config
from jaxllm.config import load_config
from jaxllm.config_files import shipped_configs

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "pods.json"
COMMAND = re.compile(r"# Proved without the pod: jaxllm compile \S+ --topology (\S+)(.*)")


def pods() -> dict[str, tuple[str, int]]:
    """Config -> topology and number of slices, of every config that names its pod.

    The config is compiled as it is shipped: its line has no key=value.
    """
    found = {}
    for name, path in shipped_configs().items():
        command = COMMAND.search(path.read_text(encoding="utf-8"))
        if command:
            slices = re.fullmatch(r" --slices (\d+)", command[2])
            assert slices or not command[2], f"{path}: cannot read {command[0]!r}"
            found[name] = (command[1], int(slices[1]) if slices else 1)
    return found


def compile_pod(name: str, topology: str, num_slices: int) -> Report:
    """What the compiler says of a shipped config on its pod."""
    config = load_config(shipped_configs()[name])
    return compile_config(config, parse_topology(topology, num_slices=num_slices))


def golden(report: Report) -> dict:
    """What is recorded of a report: the collectives counted by kind, axes and whether async."""
    counts = {
        f"{line.kind} {'+'.join(line.axes)} {'async' if line.asynchronous else 'sync'}": line.count
        for line in report.collectives
    }
    return {
        "topology": report.topology,
        "num_slices": report.num_slices,
        "fits": report.fits,
        "peak_hbm_gib": round(report.peak_hbm_gib, 3),
        "hbm_limit_gib": report.hbm_limit_gib,
        "predicted_step_seconds": report.predicted_step_seconds,
        "predicted_mfu": report.predicted_mfu,
        "tokens_per_second_per_chip": report.tokens_per_second_per_chip,
        "compile_seconds": round(report.compile_seconds, 1),
        "collectives": dict(sorted(counts.items())),
        "versions": report.versions,
    }


def main() -> None:
    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    every = pods()
    unknown = set(sys.argv[1:]) - every.keys()
    if unknown:
        sys.exit(f"no such pod config: {', '.join(unknown)}; there are {', '.join(every)}")
    for name in sys.argv[1:] or every:
        recorded[name] = golden(compile_pod(name, *every[name]))
        recorded = {key: recorded[key] for key in sorted(recorded) if key in every}
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(recorded, indent=1) + "\n")
        shown = {key: recorded[name][key] for key in ("fits", "peak_hbm_gib", "predicted_mfu")}
        print(name, *every[name], shown, flush=True)


if __name__ == "__main__":
    main()
