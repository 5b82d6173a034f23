import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def script():
    """What scripts/run_notebooks.py has."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "run_notebooks.py")))
