"""The verbs of trained and published models."""

from pathlib import Path
from typing import Annotated

import typer

from jaxllm.verbs.arguments import OverridesArgument, RunArgument, end_on_sigterm


def add_to(app: typer.Typer) -> None:
    """These verbs, in the order of `--help`."""
    app.command()(evaluate)
    app.command()(generate)
    app.command()(predict)
    app.command("import")(import_model)
    app.command("export")(export_model)


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
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The run's dataset that records are read as; default any, if all are alike.",
        ),
    ] = None,
    step: Annotated[int | None, typer.Option(help="Checkpoint; default the newest.")] = None,
) -> None:
    """Answer every record of a file: its class, spans, translation or embedding.

    Stopped, the same command goes on behind the last answers that it wrote.
    """
    end_on_sigterm()
    from jaxllm.commands.predict import predict

    predict(run, source, output, keep=keep or (), batch_size=batch_size, step=step, dataset=dataset)


def import_model(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A Hugging Face folder, or a .gguf file.")
    ],
    out: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that is made.")],
    overrides: OverridesArgument = None,
) -> None:
    """Make a run folder of a published model, which train, evaluate and generate take."""
    from jaxllm.commands.import_model import import_model

    import_model(source, out, list(overrides or []))


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
    from jaxllm.commands.export import export_adapter, export_model

    (export_adapter if adapter else export_model)(run, out, step=step, dtype=dtype)
