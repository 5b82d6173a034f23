"""jaxllm trains language models on TPU pods with JAX and Flax.

The verbs of the command line as functions, for notebooks and scripts:

    import jaxllm
    run = jaxllm.train("demo", {"optim.learning_rate": 1e-3, "training.steps": 100})
    run.plot()
    run.generate("My fellow citizens, ", temperature=0.5)
    run.export("out")
    jaxllm.open_run("runs/demo").evaluate()
    jaxllm.compile("demo", topology="v5e-16").predicted_step_seconds

A config is a YAML file or the name of a shipped one. Overrides of its keys are dicts, as above, or
strings as on the command line: `"training.steps=100"`; the last one counts. A run is a folder, or
the `jaxllm.notebook.run.Run` of one.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.notebook.quiet import quiet_libraries

if TYPE_CHECKING:
    from jaxllm.config import RunConfig
    from jaxllm.evaluation import Score
    from jaxllm.notebook.compiled import CompiledStep, Ranking
    from jaxllm.notebook.run import Run

__all__ = [
    "compile",
    "evaluate",
    "export_model",
    "generate",
    "import_model",
    "open_run",
    "plan",
    "prepare",
    "report",
    "train",
]

_PathLike = str | os.PathLike[str]
_Override = str | Mapping[str, Any]


@quiet_libraries()
def train(config: _PathLike, *overrides: _Override) -> "Run":
    """Train, or go on if the run folder has a checkpoint; returns the finished run.

    Ctrl-C, or interrupting a notebook's cell, saves and raises KeyboardInterrupt, and SIGTERM
    SystemExit with code 75: the same call goes on from there. ValueError for anything in the
    config that cannot work, before JAX compiles anything.
    """
    from jaxllm.commands.train import train
    from jaxllm.exit_codes import EXIT_CTRL_C
    from jaxllm.notebook.run import Interrupted, Run

    loaded = _load(config, overrides)
    code = train(loaded)
    run = Run(loaded.run_dir)
    if code == EXIT_CTRL_C:
        raise Interrupted(run)
    if code:
        raise SystemExit(code)
    return run


def open_run(path: _PathLike) -> "Run":
    """The run of a folder that `train` or `import_model` made. ValueError if it is none."""
    from jaxllm.notebook.run import open_run

    return open_run(os.fspath(path))


@quiet_libraries()
def prepare(config: _PathLike, *overrides: _Override) -> None:
    """Turn the config's raw text into tokenised TFDS datasets."""
    from jaxllm.commands.prepare import prepare

    prepare(_load(config, overrides))


@quiet_libraries()
def evaluate(
    run: _PathLike, *, data: Sequence[str] = (), step: int | None = None
) -> "dict[str, Score]":
    """The `jaxllm.evaluation.Score` of each validation set, or of the data given, by name."""
    from jaxllm.commands.evaluate import evaluate

    return evaluate(os.fspath(run), data=data, step=step)


@quiet_libraries()
def generate(
    run: _PathLike, prompts: Sequence[str] = ("",), *, step: int | None = None, **sampling: Any
) -> list[str]:
    """The continuation of each prompt. sampling: fields of `jaxllm.generation.Sampling`."""
    from jaxllm.commands.generate import generate

    return generate(os.fspath(run), prompts, sampling=sampling, step=step)


@quiet_libraries()
def predict(
    run: _PathLike,
    source: _PathLike,
    output: _PathLike,
    *,
    keep: Sequence[str] = (),
    batch_size: int | None = None,
    step: int | None = None,
) -> Path:
    """Write the answer to each record of the file `source` to `output`, a line of JSON each."""
    from jaxllm.commands.predict import predict

    return predict(
        os.fspath(run), Path(source), Path(output), keep=keep, batch_size=batch_size, step=step
    )


@quiet_libraries()
def import_model(source: _PathLike, run: _PathLike, *overrides: _Override) -> "Run":
    """Make a run folder of a published model: a Hugging Face folder or a .gguf file."""
    from jaxllm.commands.import_model import import_model
    from jaxllm.notebook.overrides import override_texts
    from jaxllm.notebook.run import Run

    import_model(Path(source), Path(run), override_texts(overrides))
    return Run(os.fspath(run))


@quiet_libraries()
def export_model(
    run: _PathLike,
    out: _PathLike,
    *,
    step: int | None = None,
    dtype: str = "float32",
    adapter: bool = False,
) -> None:
    """Write a run as a Hugging Face folder. dtype: float32, bfloat16 or float16.

    adapter: only what was learned beside init_from, as PEFT has it.
    """
    from jaxllm.commands.export import export_adapter, export_model

    export = export_adapter if adapter else export_model
    export(os.fspath(run), Path(out), step=step, dtype=dtype)


@quiet_libraries()
def compile(
    config: _PathLike, *overrides: _Override, topology: str, slices: int = 1
) -> "CompiledStep":
    """The `jaxllm.aot.report.Report` of the training step, compiled for a TPU slice.

    topology: a slice as v5p:2x2x4 or a pod's name as v5p-32; no TPU is needed.
    """
    from jaxllm.aot.topology import parse_topology
    from jaxllm.commands.compile import compile_config
    from jaxllm.notebook.compiled import CompiledStep

    chosen = parse_topology(topology, num_slices=slices)
    return CompiledStep.of(compile_config(_load(config, overrides), chosen))


@quiet_libraries()
def plan(
    config: _PathLike,
    *overrides: _Override,
    topology: str,
    slices: int = 1,
    budget: float = 20.0,
    out: _PathLike | None = None,
) -> "Ranking":
    """The `jaxllm.aot.search_outcome.Outcome`s of the ways to train that were compiled, in a list.

    The fastest is first; it is written to `out`, if given, as a config ready to train. budget:
    minutes of compiling. The next call goes on from this one's results.
    """
    from jaxllm.commands.plan import plan
    from jaxllm.config_files import find_config
    from jaxllm.notebook.compiled import Ranking
    from jaxllm.notebook.overrides import override_texts

    outcomes = plan(
        find_config(os.fspath(config)),
        override_texts(overrides),
        topology=topology,
        slices=slices,
        budget=budget,
        out=None if out is None else Path(out),
        is_written=out is not None,
    )
    return Ranking(outcomes)


def report(*runs: _PathLike, out: _PathLike | None = None) -> Path:
    """Write one HTML page about the runs; returns where it is."""
    from jaxllm.commands.report import report

    return report([os.fspath(run) for run in runs], out=None if out is None else os.fspath(out))


def _load(config: _PathLike, overrides: Sequence[_Override]) -> "RunConfig":
    from jaxllm.config import load_config
    from jaxllm.config_files import find_config
    from jaxllm.notebook.overrides import override_texts

    return load_config(find_config(os.fspath(config)), override_texts(overrides))
