"""The verbs that only look."""

from pathlib import Path
from typing import Annotated

import typer

from jaxllm.verbs.arguments import OverridesArgument


def add_to(app: typer.Typer) -> None:
    """These verbs, in the order of `--help`."""
    app.command()(report)
    app.command()(inspect)
    app.command()(schema)
    app.command()(configs)


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


def inspect(
    target: Annotated[str, typer.Argument(metavar="CONFIG|DATASET|RUN")],
    overrides: OverridesArgument = None,
    rows: Annotated[int, typer.Option(help="How many rows of data are shown.", min=0)] = 2,
) -> None:
    """Show decoded batches, the table of parameters with sharding, or a dataset's card."""
    from jaxllm.commands.inspect import inspect

    inspect(target, overrides or [], rows=rows)


def schema() -> None:
    """The JSON schema of the config, for editors."""
    from jaxllm.commands.schema import json_schema

    typer.echo(json_schema())


def configs() -> None:
    """The shipped configs by name, with the command that launches each."""
    from jaxllm.commands.schema import list_configs

    typer.echo(list_configs())
