"""The notebooks of tpu/colab as they are committed: executed, whole, and of no machine."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "tpu" / "colab"
NAMES = ("quickstart", "finetune", "sharding", "plan")
REPOSITORY = "jaxllm/jaxllm"
_LARGEST = 1_500_000  # bytes: what a person loads, and a repository keeps
# Of whoever executed them; /content is where Colab keeps everything.
_LOCAL_PATH = re.compile(r"/(?:root|home|Users|tmp|work|var|usr|opt)/|site-packages|File \"")


@pytest.fixture(params=NAMES)
def path(request):
    return FOLDER / f"{request.param}.ipynb"


@pytest.fixture
def notebook(path):
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    return found


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(output):
    """All that an output says, in every form that it has."""
    parts = [output.get("text", ""), *output.get("data", {}).values()]
    return "\n".join(str(part) for part in parts)


def test_there_are_no_others():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


def test_it_was_executed_from_top_to_bottom_as_it_is(notebook, script):
    """The digest is of the code that was executed: a cell that was changed since differs."""
    assert notebook.metadata["jaxllm"]["executed"] == script.code_digest(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_every_cell_shows_something_and_none_failed(notebook):
    for cell in code_cells(notebook):
        kinds = [output.output_type for output in cell.outputs]
        assert kinds, cell.source
        assert "error" not in kinds, cell.source


def test_it_draws_more_than_it_prints(notebook):
    kinds = [
        {kind for output in cell.outputs for kind in output.get("data", {})}
        for cell in code_cells(notebook)
    ]
    assert all(kinds)  # no cell has nothing but lines
    assert sum("image/svg+xml" in of_cell for of_cell in kinds) >= len(kinds) / 2


def test_nothing_of_the_machine_that_executed_it_is_in_it(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            found = _LOCAL_PATH.search(texts(output))
            assert found is None, (cell.source, texts(output)[max(found.start() - 80, 0) :][:200])
            assert output.get("name") != "stderr", (cell.source, output.text)


def test_it_opens_by_its_badge_and_is_not_too_large(path, notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    url = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/tpu/colab/{path.name}"
    assert f"]({url})" in first.source
    assert path.stat().st_size < _LARGEST


def test_its_first_code_installs_only_where_something_is_missing_and_asks_for_restarts(notebook):
    first = code_cells(notebook)[0].source
    assert f"git+https://github.com/{REPOSITORY}" in first
    assert 'if "google.colab" in sys.modules or importlib.util.find_spec("jaxllm") is None' in first
    assert "session.ready(" in first
    for line in first.splitlines():
        assert not line.startswith(("%pip", "!")), "installs without asking"


def test_each_explains_itself(notebook):
    """Words before every few cells of code, and links that lead somewhere."""
    kinds = [cell.cell_type for cell in notebook.cells]
    assert "code code code" not in " ".join(kinds)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)]+)\)", cell.source):
                assert target.startswith("https://")  # Colab knows no files beside this one
                _, is_ours, file = target.partition(f"{REPOSITORY}/blob/main/")
                assert not is_ours or (FOLDER.parents[1] / file).is_file(), target
