"""Write docs/commands.md, the reference of the command line, from the command line itself.

    python scripts/docs_commands.py

The tests compare the file with what this would write, so run it after a change of a command.
"""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer.main

from jaxllm.cli import app
from jaxllm.config_errors import alternatives
from jaxllm.config_files import shipped_configs

# What stands for a value where an option names none itself.
WORDS = {int: "N", float: "NUMBER", Path: "PATH", str: "TEXT"}

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"

HEAD = """\
# Commands

<!-- Written by scripts/docs_commands.py from the command line; do not edit. -->

`jaxllm COMMAND --help` prints the same. CONFIG is a YAML file or the name of a
[shipped config](#the-shipped-configs), RUN a run folder. `key.path=value` sets a
[key of the config](configuration.md); options may stand anywhere behind the command.

[Exit codes](reliability.md#exit-codes): 0 done, 2 wrong usage or config, 75 interrupted (run the
same command again), 130 ctrl-C, 1 anything else.
"""


def page() -> str:
    """The whole page: a part for each command, in the order of `jaxllm --help`."""
    lines = [HEAD]
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    lines += [f"- [`{name}`](#{name}) {_summary(command)}" for name, command in commands.items()]
    for (name, command), written in zip(commands.items(), app.registered_commands, strict=True):
        types = get_type_hints(written.callback)
        lines += ["", f"## {name}", "", *_command(name, command, types)]
    lines += ["", "## The shipped configs", "", *_configs()]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any, types: dict[str, Any]) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = [_argument(argument) for argument in arguments]
    usage = " ".join(["jaxllm", name, *words, *["[OPTIONS]"] * bool(options)])
    yield from ("```", usage, "```", "", *(command.help or "").strip().splitlines())
    rows = [(_argument(one), one) for one in arguments if one.help]
    rows += [(_option(one, types[one.name]), one) for one in options]
    if rows:
        yield from ("", "| | meaning | default |", "|---|---|---|")
    for shown, parameter in rows:
        shown = shown.replace("|", "\\|")
        yield f"| `{shown}` | {_meaning(parameter)} | {_default(parameter)} |"


def _argument(argument: Any) -> str:
    return argument.metavar or argument.name.upper()


def _option(option: Any, kind: Any) -> str:
    """As it is typed, with a word for its value."""
    if option.is_flag:
        return ", ".join([*option.opts, *option.secondary_opts])
    kinds = [inner for outer in alternatives(kind) for inner in get_args(outer) or [outer]]
    choices = "|".join(choice for choice in kinds if isinstance(choice, str))  # of a Literal
    return f"{option.opts[0]} {option.metavar or choices or WORDS[kinds[0]]}"


def _meaning(parameter: Any) -> str:
    return " ".join(parameter.help.split()).replace("|", "\\|")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default in (None, False) else f"`{parameter.default}`"


def _summary(command: Any) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split())


def _configs() -> Iterator[str]:
    yield "`jaxllm configs` prints their names with the command that launches each."
    yield from ("", "| name | what it is |", "|---|---|")
    for name, path in shipped_configs().items():
        yield f"| `{name}` | {_first_sentence(path)} |"


def _first_sentence(path: Path) -> str:
    """Of the comment that a config begins with, behind its command."""
    _, *lines = path.read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.lstrip("# ") for line in comment).split(". ")[0].rstrip(".") + "."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(page().splitlines())} lines")
