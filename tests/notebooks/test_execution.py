"""The notebooks of tpu/colab, executed on a CPU; `make test-notebooks`."""

import pytest

pytestmark = pytest.mark.notebooks

NAMES = ("quickstart", "finetune", "sharding", "plan")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(name, script, tmp_path):
    path = script.FOLDER / f"{name}.ipynb"
    notebook = script.execute(path, tmp_path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    committed = [
        cell for cell in script.nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
    ]
    for cell, before in zip(cells, committed, strict=True):
        # What was drawn when it was committed is drawn now.
        assert kinds(cell) == kinds(before), cell.source


def kinds(cell):
    """The kinds of output that a cell has; how many lines it prints hangs on how fast it is."""
    return {kind for output in cell.outputs for kind in output.get("data", [output.output_type])}
