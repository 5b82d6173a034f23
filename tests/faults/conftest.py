"""Collects what each experiment counted, and shows the table in the end."""

import pytest

from . import experiments


@pytest.fixture
def experiment(request):
    """The row of the table that a test fills: tries, kills, steps lost and bytes lost."""
    row = experiments.Experiment(request.node.name)
    request.config.stash.setdefault(experiments.TABLE, []).append(row)
    yield row
    report = request.node.stash.get(experiments.OUTCOME, None)
    row.is_passed = report is not None and report.passed


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
