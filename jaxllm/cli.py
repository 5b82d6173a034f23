"""The command line: parses arguments, imports a verb only when it is called, sets exit codes.

Exit codes: 0 done, 2 wrong usage or config, 75 interrupted (run the same command again),
130 ctrl-C, 1 anything else.
"""

import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from jaxllm.exit_codes import EXIT_CTRL_C, EXIT_FAILED, EXIT_USAGE

app = typer.Typer(
    name="jaxllm",
    help="Train language models on TPU pods with JAX and Flax; on a laptop it runs on CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a shipped config.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key.path=value]...", help="Set before the config is checked."),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


class CommandWithConfigHelp(TyperCommand):
    """A command whose --help ends with every config key, its default and its meaning."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from jaxllm.commands.schema import describe_fields

        super().format_help(ctx, formatter)
        formatter.write("\nConfig keys (key = default: meaning):\n\n" + describe_fields() + "\n")


@app.command(cls=CommandWithConfigHelp)
def train(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Prepare the data, check everything short of computing, then stop."
        ),
    ] = False,
    change: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Go on though KEY differs from the run's; repeatable."),
    ] = None,
) -> None:
    """Train, or go on if the run folder has a checkpoint. Prepares missing datasets first."""
    _exit_on_sigterm()
    from jaxllm.commands.train import train

    loaded = _load(config, overrides)
    raise typer.Exit(train(loaded, dry_run=dry_run, requested=change or []))


@app.command()
def launch(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="CPU processes that are one run; default one with the devices there are.", min=1
        ),
    ] = None,
    devices_per_process: Annotated[
        int | None, typer.Option(help="CPU devices of each of them; default 1.", min=1)
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(help="In a row without a newer checkpoint, until it gives up.", min=0)
    ] = 10,
    max_backoff: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="Longest pause before a restart; the first is 1 s.", min=0
        ),
    ] = 60.0,
    change: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="As for train; repeatable.")
    ] = None,
) -> None:
    """Train, and start again what fails: this machine's process, or several on its CPU."""
    from jaxllm.commands.launch import launch

    raise typer.Exit(
        launch(
            config,
            [*(overrides or []), *(f"--change={key}" for key in change or [])],
            processes=processes,
            devices_per_process=devices_per_process,
            max_restarts=max_restarts,
            max_backoff=max_backoff,
        )
    )


@app.command()
def prepare(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    runner: Annotated[
        Literal["beam"] | None,
        typer.Option(help="What works in place of processes here; Beam's options follow a `--`."),
    ] = None,
) -> None:
    """Turn the config's raw text into tokenised TFDS datasets."""
    _exit_on_sigterm()
    from jaxllm.commands.prepare import beam_options, prepare

    given, beam = beam_options(overrides or [], runner=runner)
    prepare(_load(config, given), beam=beam)


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[
        list[str] | None,
        typer.Option(help="A dataset folder or text, JSONL or Parquet files; repeatable."),
    ] = None,
    step: Annotated[int | None, typer.Option(help="Checkpoint; default the newest.")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Tasks of the lm-evaluation-harness in place of text (jaxllm[lm-eval]).",
        ),
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="YAML files of more tasks.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Solved examples before each; default as the task.", min=0)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Examples of each task; default all.", min=1)
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Tokens that a task's model sees; default data.sequence_length.", min=1),
    ] = None,
    add_bos_token: Annotated[
        bool | None,
        typer.Option(
            "--add-bos-token/--no-add-bos-token",
            help="Whether the delimiter opens a task's texts; default as the tokenizer has it.",
        ),
    ] = None,
    tasks_output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the tasks' results as JSON.")
    ] = None,
) -> None:
    """Loss, perplexity and bits per byte of a run by source, or how well it does tasks."""
    from jaxllm.commands.evaluate import evaluate, evaluate_tasks, task_names

    for_tasks = {
        "include_path": include_path,
        "num_fewshot": num_fewshot,
        "limit": limit,
        "max_length": max_length,
        "add_bos_token": add_bos_token,
        "tasks_output": tasks_output,
    }
    names = task_names(tasks, {key for key, value in for_tasks.items() if value is not None})
    if names:
        evaluate_tasks(
            run,
            names,
            include_path=include_path,
            num_fewshot=num_fewshot,
            limit=limit,
            max_length=max_length,
            add_bos_token=add_bos_token,
            output=tasks_output,
            step=step,
        )
    if data or not names:
        evaluate(run, data=data or [], step=step)


@app.command()
def generate(
    run: RunArgument,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text to continue; repeatable. Default: none.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.")] = None,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens with this much probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Longest continuation, in tokens.")] = 200,
    chat: Annotated[
        bool, typer.Option("--chat", help="Prompts are questions, in the model's chat template.")
    ] = False,
    step: Annotated[int | None, typer.Option(help="Checkpoint; default the newest.")] = None,
) -> None:
    """Continue prompts with a trained model."""
    from jaxllm.commands.generate import generate

    generate(
        run,
        prompt or [""],
        sampling={
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "max_tokens": max_tokens,
        },
        step=step,
        is_chat=chat,
    )


@app.command()
def predict(
    run: RunArgument,
    source: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Records: .jsonl, .csv, .tsv, .parquet, .conll or .json.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="Answers, a line of JSON a record, in order.")
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="Copy this field of each record; repeatable."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Longest rows in a batch; default that of training."),
    ] = None,
    step: Annotated[int | None, typer.Option(help="Checkpoint; default the newest.")] = None,
) -> None:
    """Answer every record of a file: its class, spans, translation or embedding.

    Stopped, the same command goes on behind the last answers that it wrote.
    """
    _exit_on_sigterm()
    from jaxllm.commands.predict import predict

    predict(run, source, output, keep=keep or (), batch_size=batch_size, step=step)


@app.command("import")
def import_model(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A Hugging Face folder, or a .gguf file.")
    ],
    out: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that is made.")],
    overrides: OverridesArgument = None,
) -> None:
    """Make a run folder of a published model, which train, evaluate and generate take."""
    from jaxllm.commands.convert import import_model

    import_model(source, out, list(overrides or []))


@app.command("export")
def export_model(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that is made.")],
    step: Annotated[int | None, typer.Option(help="Checkpoint; default the newest.")] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the weights: float32, bfloat16 or float16.")
    ] = "float32",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="What was learned beside init_from, as PEFT has it.")
    ] = False,
) -> None:
    """Write a run as a Hugging Face folder: config, weights in safetensors, tokenizer."""
    from jaxllm.commands.convert import export_adapter, export_model

    (export_adapter if adapter else export_model)(run, out, step=step, dtype=dtype)


@app.command("compile")
def compile_step(
    config: ConfigArgument,
    topology: Annotated[
        str, typer.Option(help="A TPU slice as v5p:2x2x4, or a pod's name as v5p-32.")
    ],
    overrides: OverridesArgument = None,
    slices: Annotated[
        int, typer.Option(help="Equal slices, joined by the data-centre network.")
    ] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report as JSON.")
    ] = None,
    hlo_file: Annotated[
        Path | None, typer.Option("--hlo", metavar="FILE", help="Also write the scheduled program.")
    ] = None,
) -> None:
    """Compile the training step for a TPU slice, without a TPU: memory, time, collectives.

    Ends with exit code 1 if the step does not fit into the chips' memory.
    """
    from jaxllm.commands.compile import compile_command

    loaded = _load(config, overrides)
    raise typer.Exit(
        compile_command(
            loaded, topology=topology, slices=slices, json_path=json_file, hlo_path=hlo_file
        )
    )


@app.command()
def plan(
    config: ConfigArgument,
    topology: Annotated[
        str, typer.Option(help="A TPU slice as v5p:2x2x4, or a pod's name as v5p-32.")
    ],
    overrides: OverridesArgument = None,
    slices: Annotated[
        int, typer.Option(help="Equal slices, joined by the data-centre network.")
    ] = 1,
    global_batch: Annotated[
        int | None, typer.Option(help="Rows of a step, in place of data.global_batch_size.", min=1)
    ] = None,
    budget: Annotated[
        float, typer.Option(metavar="MINUTES", help="How long candidates are compiled.")
    ] = 20.0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The fastest config; default CONFIG_TOPOLOGY.yaml."),
    ] = None,
    smallest: Annotated[
        bool, typer.Option("--smallest", help="Only find the smallest slice that is enough.")
    ] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also say what 16 to 4,096 such chips would do.")
    ] = False,
) -> None:
    """Find the fastest layout, remat policy and batch split for a TPU slice, without a TPU.

    Stopped, it goes on from what it had. Ends with exit code 1 if nothing fits.
    """
    from jaxllm.commands.plan import plan
    from jaxllm.commands.plan_smallest import find_smallest
    from jaxllm.config_files import find_config

    file, given = find_config(config), list(overrides or [])
    if global_batch is not None:
        given.append(f"data.global_batch_size={global_batch}")
    if smallest:
        ignored = {"--slices": slices > 1, "--out": out is not None, "--scaling": scaling}
        for option, is_given in ignored.items():
            if is_given:
                raise ValueError(f"{option} says nothing about the smallest slice; leave it out")
        is_found = find_smallest(file, given, topology=topology, budget=budget) is not None
    else:
        ranking = plan(
            file,
            given,
            topology=topology,
            slices=slices,
            budget=budget,
            out=out,
            with_scaling=scaling,
        )
        is_found = any(outcome.fits for outcome in ranking)
    raise typer.Exit(0 if is_found else 1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One or more run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page; default report.html in RUN, or comparison.html in the first of several."
        ),
    ] = None,
) -> None:
    """One self-contained HTML page: curves, throughput, samples, differences between runs."""
    from jaxllm.commands.report import report

    typer.echo(report(runs, out=out))


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(metavar="CONFIG|DATASET|RUN")],
    overrides: OverridesArgument = None,
    rows: Annotated[int, typer.Option(help="How many rows of data are shown.", min=0)] = 2,
) -> None:
    """Show decoded batches, the table of parameters with sharding, or a dataset's card."""
    from jaxllm.commands.inspect import inspect

    inspect(target, overrides or [], rows=rows)


@app.command()
def schema() -> None:
    """The JSON schema of the config, for editors."""
    from jaxllm.commands.schema import json_schema

    typer.echo(json_schema())


@app.command()
def configs() -> None:
    """The shipped configs by name, with the command that launches each."""
    from jaxllm.commands.schema import list_configs

    typer.echo(list_configs())


def _exit_on_sigterm() -> None:
    """From here on, before the slow imports, SIGTERM ends this command with code 75."""
    from jaxllm.training.signals import exit_on_sigterm

    exit_on_sigterm()


def _load(config: str, overrides: list[str] | None) -> Any:
    from jaxllm.config import load_config
    from jaxllm.config_files import find_config

    return load_config(find_config(config), overrides or [])


def main() -> None:
    """Run the command line; user errors end in one message, everything else in a traceback."""
    # Orbax and TFDS log what they do, and before they raise what goes wrong, with its traceback.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Of writes that fail together one is raised; of the others asyncio only says that nobody asked.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _say_unless_late
    try:
        app()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _tell_others(EXIT_CTRL_C, "interrupted by ctrl-C")
        _leave(EXIT_CTRL_C)
    except (ValueError, OSError, RuntimeError) as error:
        if not _is_ours(error):
            raise
        code = EXIT_USAGE if isinstance(error, ValueError) else EXIT_FAILED
        _tell_others(code, str(error))
        print(f"error: {error}", file=sys.stderr)
        _leave(code)
    finally:
        sys.excepthook = _leave_after_traceback  # typer has put its own there


def _say_unless_late(event: Any) -> None:
    """What Python does with an error that cannot be raised, but for those that follow another.

    Where a save fails, each write that TensorStore gives up reports to an event loop that is gone.
    """
    if str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _leave_after_traceback(kind: type, error: BaseException, trace: Any) -> None:
    """What Python does with an error that nobody expected, and then `_leave`."""
    _tell_others(1, f"{kind.__name__}: {error}")
    sys.__excepthook__(kind, error, trace)
    _leave(1)


def _is_ours(error: BaseException) -> bool:
    """Whether jaxllm itself raised the error for a user, rather than code that it called."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return frames[-1][0].f_globals.get("__name__", "").startswith("jaxllm.")


def _tell_others(code: int, reason: str) -> None:
    """Of several processes of a run, those that end with this one say why.

    Where another process failed before, this one ends here, in the same words: what went wrong on
    all is told by one, and an error that is only how a death was noticed by none.
    """
    if "jax" in sys.modules:
        from jaxllm.parallel import lifeline

        lifeline.report(code, reason)


def _leave(code: int) -> None:
    """End the process; one of several that failed goes at once.

    A normal exit waits for the other processes, and they for this one, until JAX gives up.
    """
    if "jax" in sys.modules:
        from jaxllm.parallel import distributed

        distributed.leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
