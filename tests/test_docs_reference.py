"""The pages that are written from the code are as the code is."""

import importlib.util

import pytest
from documents import ROOT


@pytest.mark.parametrize("name", ["configuration", "commands"])
def test_the_page_is_what_its_script_would_write(name):
    file = ROOT / "scripts" / f"docs_{name}.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert written == script.page(), f"run: .venv/bin/python scripts/{file.name}"
