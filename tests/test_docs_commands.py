"""Every command line of jaxllm in the documents is one that jaxllm takes."""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile

import pytest
import typer.main
import yaml
from documents import ROOT, documents, lines
from pydantic import BaseModel

from jaxllm.cli import app
from jaxllm.config import RunConfig, load_config
from jaxllm.config_errors import sections
from jaxllm.config_files import shipped_configs
from jaxllm.package_paths import located

COMMANDS = vars(typer.main.get_command(app))["commands"]
WITH_CONFIG = ("train", "launch", "prepare", "compile", "plan")
SHELL = ("", "sh", "bash", "console", "shell")
# Of a command's own words: the shell's, and the `--` in front of another program's options.
ENDS = ("|", "||", "&", "&&", ";", ">", "<", "--")
SPAN = re.compile(r"`(jaxllm [^`]+)`")
OVERRIDE = re.compile(r"[a-z_]+(\.\w+)*=.*", re.DOTALL)

Found = tuple[str, str, list[str]]


def command_lines() -> Iterator[Found]:
    """(where, command, the words behind it) in shell blocks, indented blocks and code spans."""
    for path in documents():
        name, folded = path.relative_to(ROOT), ""
        for (number, line, language), after in pairwise([*lines(path), (0, "", None)]):
            if language not in SHELL and (language is not None or not line.startswith("    ")):
                for span in SPAN.findall(line):
                    yield from in_line(f"{name}:{number}", span)
            elif line.endswith("\\"):
                folded += line.removesuffix("\\")
            else:
                if not after[1].startswith("error:"):  # which shows what is refused
                    yield from in_line(f"{name}:{number}", (folded + line).strip())
                folded = ""


def in_line(where: str, line: str) -> Iterator[Found]:
    """The commands of a line, also within a quoted one."""
    try:
        tokens = shlex.split(line, comments=True)
    except ValueError:  # what a command prints, with an apostrophe
        assert not line.startswith("jaxllm"), f"{where}: quotes that do not end"
        return
    for place, token in enumerate(tokens, start=1):
        if "jaxllm " in token:
            yield from in_line(where, token)
        elif token == "jaxllm" or token.endswith("/jaxllm"):
            rest = list(takewhile(lambda word: word not in ENDS, tokens[place:]))
            if rest and re.fullmatch("[a-z]+", rest[0]):
                yield where, rest[0], [word.removeprefix("[") for word in rest[1:]]


FOUND = list(command_lines())


def test_there_are_command_lines():
    assert len(FOUND) > 40
    assert {command for _, command, _ in FOUND} >= {*WITH_CONFIG, "generate", "report", "import"}


@pytest.mark.parametrize(("where", "command", "given"), FOUND, ids=[found[0] for found in FOUND])
def test_a_command_line_is_one_that_jaxllm_takes(where, command, given):
    assert command in COMMANDS, f"{where}: no command {command!r}"
    options = [p for p in COMMANDS[command].params if p.param_type_name == "option"]
    known = {name for p in options for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    overrides = [word for word in given if OVERRIDE.fullmatch(word) and "key.path" not in word]
    for word in given:
        if word.startswith("--"):
            name = word.partition("=")[0]
            assert name in known, f"{where}: {command} has no option {name}"
        elif word in overrides:
            key = word.partition("=")[0]
            assert is_key([RunConfig], key.split(".")), f"{where}: no key {key}"
    if command in WITH_CONFIG and given and re.fullmatch(r"[a-z][a-z0-9_]*", given[0]):
        assert given[0] in shipped_configs(), f"{where}: no shipped config {given[0]}"
        if overrides and "$" not in "".join(overrides):  # then the values are what is allowed, too
            path = shipped_configs()[given[0]]
            start = yaml.safe_load(path.read_text(encoding="utf-8")).get("init_from")
            if start is None or located(start["path"]).exists():  # else what is there says more
                load_config(path, overrides)
    if given and given[0].startswith("configs/"):
        assert (ROOT / given[0]).is_file(), f"{where}: there is no {given[0]}"


def is_key(kinds: Sequence[type[BaseModel]], path: Sequence[str]) -> bool:
    """Whether a path leads to a key of sections of these kinds."""
    name, *rest = path
    for kind in kinds:
        field = kind.model_fields.get(name)
        if field is None:
            continue
        inside = list(sections(field.annotation, name))
        if not rest:
            return True
        if not inside:  # a dictionary of plain values, as xla_flags
            return "dict" in str(field.annotation)
        has_names = inside[0][0].endswith(".NAME")
        below = rest[1:] if has_names else rest
        if not below or is_key([section for _, section in inside], below):
            return True
    return False


def test_every_target_of_make_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        (target, f"{path.relative_to(ROOT)}:{number}")
        for path in documents()
        for number, line, _ in lines(path)
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", line)
    }
    assert len(named) > 10
    missing = sorted(f"{where}: make {target}" for target, where in named if target not in targets)
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("key", ["training.stepz", "optim.beta", "data.datasets.x.corpus.path"])
def test_a_wrong_key_is_noticed(key):
    assert is_key([RunConfig], key.split(".")) == (key == "optim.beta")  # which Muon has
