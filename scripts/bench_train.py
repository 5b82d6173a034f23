"""How fast a training step is, beside the same model in PyTorch. Alternates the two in one run.

    .venv/bin/python scripts/bench_train.py --torch-python PYTHON [--json FILE]
    .venv/bin/python scripts/bench_train.py --gpu --size 124m --torch-python PYTHON

- On a CPU: tokens per CPU-second on one core, float32, against plain eager PyTorch.
- With --gpu: tokens a second and MFU, bf16 compute on float32 weights, against PyTorch with
  torch.compile and flash attention; without a GPU the same code runs on the CPU (--size tiny).

Both halves start from the same weights and must agree on the losses of the first steps. The rate
of a bare matmul is reported too: a PyTorch that is slow there is slow for its library's sake.
Every row is one document without segment ids, which is what PyTorch's causal attention computes.
PYTHON needs only torch and numpy. The JAX half needs only jax (0.11 or newer), flax, optax,
pydantic and numpy; where jaxllm is not installed, PYTHONPATH=. before the command finds it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from bench_train_jax import OPTIMIZER, SIZES, JaxHalf, Size, make_batch

from jaxllm.hardware import find_chip, keep_freed_memory

TORCH_HALF = Path(__file__).with_name("bench_train_torch.py")
CHECKED_STEPS = 3
# Float32 sums in another order differ by about 1e-6 a step; bf16 keeps 8 bits of each activation.
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


class Half(Protocol):
    """One implementation under test; it keeps its weights and optimizer state between calls."""

    info: dict[str, Any]

    def losses(self, steps: int) -> list[float]:
        """The loss before each of `steps` updates."""
        ...

    def seconds(self, steps: int) -> float:
        """Seconds a step, the mean of `steps` of them: of CPU time, or on a GPU of the clock."""
        ...


class TorchHalf:
    """bench_train_torch.py in an interpreter of its own, asked over a pipe, a line a time."""

    def __init__(self, python: str, folder: Path):
        self._process = subprocess.Popen(
            [python, str(TORCH_HALF), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.info = self._reply()

    def losses(self, steps: int) -> list[float]:
        return self._ask("losses", steps)

    def seconds(self, steps: int) -> float:
        return self._ask("seconds", steps)

    def close(self) -> None:
        """Ends the other interpreter."""
        self._process.communicate()

    def _ask(self, what: str, steps: int) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, "steps": steps}) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the PyTorch half ended with exit code {self._process.wait()}; see above")
        return json.loads(line)


def write_plan(folder: Path, size: Size, weights: dict[str, np.ndarray], *, is_gpu: bool) -> None:
    """What the PyTorch half needs: plan.json, weights.npz and batch.npz."""
    model = size.model
    plan = {
        "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
        "dtype": model.dtype,
        "is_compiled": is_gpu,
        "vocab_size": size.vocab_size,
        "head_dim": model.head_size,
        "num_kv_heads": model.kv_heads,
        **{
            name: getattr(model, name)
            for name in ("num_layers", "embed_dim", "num_heads", "mlp_dim", "norm_epsilon")
        },
        "rope_theta": model.rope_theta,
        "is_tied": model.is_tied,
        "optimizer": OPTIMIZER.model_dump(
            include={"learning_rate", "beta1", "beta2", "eps", "weight_decay", "clip_norm"}
        ),
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    np.savez(folder / "weights.npz", allow_pickle=False, **weights)
    batch = make_batch(size)
    np.savez(folder / "batch.npz", tokens=batch["tokens"], targets=batch["targets"])


def check_losses(ours: list[float], theirs: list[float], dtype: str) -> None:
    """Exits unless both halves compute the same losses."""
    tolerance = LOSS_TOLERANCE[dtype]
    print(f"losses of the first steps: jaxllm {ours}, PyTorch {theirs}")
    if not np.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
        sys.exit(f"the two halves disagree by more than {tolerance}: they are not the same model")


def summary(half: Half, seconds: list[float], size: Size, matmul_parameters: int) -> dict[str, Any]:
    """One half's medians and versions; MFU where the chip's peak is known."""
    median = statistics.median(seconds)
    tokens_per_second = size.tokens / median
    result = {
        "tokens_per_second": tokens_per_second,
        "seconds_per_step": median,
        "fastest_seconds_per_step": min(seconds),
        **half.info,
    }
    chip = find_chip(jax.devices()[0].device_kind)
    if chip is not None:
        flops = size.model.flops_per_token(matmul_parameters, size.length)
        result["mfu"] = tokens_per_second * flops / chip.peak_flops
    return result


def measure(size: Size, given: argparse.Namespace) -> dict[str, Any]:
    """Both halves, checked against each other, then timed in turns."""
    jax_half = JaxHalf(size, clock=time.perf_counter if given.gpu else time.process_time)
    halves: dict[str, Half] = {"jaxllm": jax_half}
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        if given.torch_python:
            write_plan(Path(folder), size, jax_half.weights(), is_gpu=given.gpu)
            halves["torch"] = TorchHalf(given.torch_python, Path(folder))
    losses = {name: half.losses(CHECKED_STEPS) for name, half in halves.items()}
    if "torch" in losses:
        check_losses(losses["jaxllm"], losses["torch"], size.model.dtype)
    for half in halves.values():
        half.seconds(given.steps)  # the first turn is slow on either side
    seconds: dict[str, list[float]] = {name: [] for name in halves}
    for _ in range(given.rounds):
        for name, half in halves.items():
            seconds[name].append(half.seconds(given.steps))
    if isinstance(torch_half := halves.get("torch"), TorchHalf):
        torch_half.close()
    head = "embedding" if size.model.is_tied else "output"
    matmul_parameters = jax_half.parameters("hidden", head)
    results: dict[str, Any] = {
        name: summary(half, seconds[name], size, matmul_parameters) for name, half in halves.items()
    }
    results["parameters"] = jax_half.parameters()
    if "torch" in halves:
        ours, theirs = results["jaxllm"], results["torch"]
        results["ratio"] = ours["tokens_per_second"] / theirs["tokens_per_second"]
    return results


def processor() -> str:
    """The CPU's name, where Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", help="an interpreter with torch and numpy")
    parser.add_argument("--gpu", action="store_true", help="bf16, and PyTorch compiled")
    parser.add_argument("--size", choices=SIZES, help="default 25m, with --gpu 124m")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each half")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def main() -> None:
    given = parse()
    keep_freed_memory()
    if given.gpu:
        # Both halves hold their weights on the one GPU.
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.45"
    else:
        jax.config.update("jax_platforms", "cpu")
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    name = given.size or ("124m" if given.gpu else "25m")
    size = SIZES[name]
    dtype = "bfloat16" if given.gpu else "float32"
    size = replace(size, model=size.model.model_copy(update={"dtype": dtype}))
    results = {
        "size": name,
        "device": jax.devices()[0].device_kind,
        "machine": processor(),
        "clock": "wall" if given.gpu else "cpu",
        **measure(size, given),
    }
    print(json.dumps(results, indent=2))
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
