"""jaxllm trains language models on TPU pods with JAX and Flax.

The verbs of the command line as functions, for notebooks and scripts:

    import jaxllm
    jaxllm.compile("demo", topology="v5e-16").predicted_step_seconds
    jaxllm.train("demo", "run_dir=runs/mine", "training.steps=100")
    jaxllm.evaluate("runs/mine")
    jaxllm.generate("runs/mine", ["My fellow citizens, "], temperature=0.5)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "compile",
    "evaluate",
    "export_model",
    "generate",
    "import_model",
    "plan",
    "prepare",
    "report",
    "train",
]


def train(config: str | Path, *overrides: str) -> int:
    """Train, or go on if the run folder has a checkpoint. Returns the exit code: 0 is done.

    config: a YAML file or the name of a shipped config. overrides: `key.path=value`.
    """
    from jaxllm.commands.train import train
    from jaxllm.config import load_config
    from jaxllm.config_files import find_config

    return train(load_config(find_config(str(config)), overrides))


def prepare(config: str | Path, *overrides: str) -> None:
    """Turn the config's raw text into tokenised TFDS datasets."""
    from jaxllm.commands.prepare import prepare
    from jaxllm.config import load_config
    from jaxllm.config_files import find_config

    prepare(load_config(find_config(str(config)), overrides))


def evaluate(
    run: str | Path, *, data: Sequence[str] = (), step: int | None = None
) -> dict[str, Any]:
    """The `jaxllm.evaluation.Score` of each validation set, or of the data given, by name."""
    from jaxllm.commands.evaluate import evaluate

    return evaluate(Path(run), data=data, step=step)


def generate(
    run: str | Path, prompts: Sequence[str] = ("",), *, step: int | None = None, **sampling: Any
) -> list[str]:
    """The continuation of each prompt. sampling: fields of `jaxllm.generation.Sampling`."""
    from jaxllm.commands.generate import generate

    return generate(Path(run), prompts, sampling=sampling, step=step)


def import_model(source: str | Path, run: str | Path, *overrides: str) -> None:
    """Make a run folder of a published model: a Hugging Face folder or a .gguf file."""
    from jaxllm.commands.convert import import_model

    import_model(Path(source), Path(run), list(overrides))


def export_model(
    run: str | Path, out: str | Path, *, step: int | None = None, dtype: str = "float32"
) -> None:
    """Write a run as a Hugging Face folder. dtype: float32, bfloat16 or float16."""
    from jaxllm.commands.convert import export_model

    export_model(Path(run), Path(out), step=step, dtype=dtype)


def compile(config: str | Path, *overrides: str, topology: str, slices: int = 1) -> Any:
    """The `jaxllm.aot.report.Report` of the training step, compiled for a TPU slice.

    topology: a slice as v5p:2x2x4 or a pod's name as v5p-32; no TPU is needed.
    """
    from jaxllm.aot.topology import parse_topology
    from jaxllm.commands.compile import compile_config
    from jaxllm.config import load_config
    from jaxllm.config_files import find_config

    chosen = parse_topology(topology, num_slices=slices)
    return compile_config(load_config(find_config(str(config)), overrides), chosen)


def plan(
    config: str | Path,
    *overrides: str,
    topology: str,
    slices: int = 1,
    budget: float = 20.0,
    out: str | Path | None = None,
) -> list[Any]:
    """The `jaxllm.aot.search_outcome.Outcome`s of the ways to train that were compiled.

    The fastest is first; it is written to `out`, if given, as a config ready to train. budget:
    minutes of compiling. The next call goes on from this one's results.
    """
    from jaxllm.commands.plan import plan
    from jaxllm.config_files import find_config

    return plan(
        find_config(str(config)),
        overrides,
        topology=topology,
        slices=slices,
        budget=budget,
        out=None if out is None else Path(out),
        is_written=out is not None,
    )


def report(*runs: str | Path, out: str | Path | None = None) -> Path:
    """Write one HTML page about the runs; returns where it is."""
    from jaxllm.commands.report import report

    return report([Path(run) for run in runs], out=None if out is None else Path(out))
