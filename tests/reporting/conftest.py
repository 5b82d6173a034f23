"""Run folders to report on, and a real browser to look at the page with."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .browser import NAMES, Browser


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder: `records` (or metrics.jsonl as bytes), config and, if given, summary."""

    def make(
        name: str,
        records: list[dict[str, Any]] | bytes,
        *,
        config: dict[str, Any] | None = None,
        summary: dict[str, Any] | None = None,
    ) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        if not isinstance(records, bytes):
            records = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        (path / "metrics.jsonl").write_bytes(records)
        config = {"training": {"steps": 200}} if config is None else config
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        if summary is not None:
            (path / "summary.json").write_text(json.dumps(summary))
        return path

    return make


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser from JAXLLM_BROWSER or PATH. Without one tests skip, or fail where
    JAXLLM_REQUIRE_BROWSER=1."""
    program = os.environ.get("JAXLLM_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        message = f"no browser: none of {', '.join(NAMES)} on PATH, and JAXLLM_BROWSER is not set"
        if os.environ.get("JAXLLM_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
