"""The verbs that train, and what they train on."""

from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from jaxllm.verbs.arguments import ConfigArgument, OverridesArgument, end_on_sigterm, load


def add_to(app: typer.Typer) -> None:
    """These verbs, in the order of `--help`."""
    app.command(cls=CommandWithConfigHelp)(train)
    app.command()(launch)
    app.command()(prepare)


class CommandWithConfigHelp(TyperCommand):
    """A command whose --help ends with every config key, its default and its meaning."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from jaxllm.commands.schema import describe_fields

        super().format_help(ctx, formatter)
        formatter.write("\nConfig keys (key = default: meaning):\n\n" + describe_fields() + "\n")


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
    end_on_sigterm()
    from jaxllm.commands.train import train

    loaded = load(config, overrides)
    raise typer.Exit(train(loaded, dry_run=dry_run, requested=change or []))


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


def prepare(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    runner: Annotated[
        Literal["beam"] | None,
        typer.Option(help="What works in place of processes here; Beam's options follow a `--`."),
    ] = None,
) -> None:
    """Turn the config's raw text into tokenised TFDS datasets."""
    end_on_sigterm()
    from jaxllm.commands.prepare import beam_options, prepare

    given, beam = beam_options(overrides or [], runner=runner)
    prepare(load(config, given), beam=beam)
