"""Arguments that several verbs take, and the config that they name."""

from pathlib import Path
from typing import Annotated, Any

import typer

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a shipped config.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key.path=value]...", help="Set before the config is checked."),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def load(config: str, overrides: list[str] | None) -> Any:
    """The config, with the overrides; ValueError for what is wrong in it."""
    from jaxllm.config import load_config
    from jaxllm.config_files import find_config

    return load_config(find_config(config), overrides or [])


def end_on_sigterm() -> None:
    """From here on, before the slow imports, SIGTERM ends this command with code 75."""
    from jaxllm.training.signals import exit_on_sigterm

    exit_on_sigterm()
