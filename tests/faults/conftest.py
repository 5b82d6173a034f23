"""Collects what each experiment counted, and shows the table in the end."""

import sys

import pytest
from commands.conftest import (  # the tiny runs that experiments begin with
    finished,
    ids,
    quick_programs,
    text,
    unfinished,
    uninterrupted,
)

from jaxllm import cli

from . import experiments
from .disks import disk

__all__ = ["disk", "finished", "ids", "quick_programs", "text", "unfinished", "uninterrupted"]


@pytest.fixture
def experiment(request):
    """The row of the table that a test fills: tries, kills, steps lost and bytes lost."""
    row = experiments.Experiment(request.node.name)
    request.config.stash.setdefault(experiments.TABLE, []).append(row)
    yield row
    report = request.node.stash.get(experiments.OUTCOME, None)
    row.is_passed = report is not None and report.passed


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command line in this process: (exit code, what it said on stderr)."""

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(cli, "_leave", leave)
    monkeypatch.setattr(cli, "_exit_on_sigterm", lambda: None)
    for name in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["jaxllm", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().err

    return command


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[experiments.OUTCOME] = report
    return report


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(experiments.TABLE, [])
    if rows:
        terminalreporter.section("what was done to runs, and what they lost")
        terminalreporter.write_line(experiments.table(rows))
