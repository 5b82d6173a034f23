"""Executes the notebooks of tpu/colab on this machine and writes their outputs into them.

    .venv/bin/python scripts/run_notebooks.py [NAME ...]

A notebook that has been executed says so by a digest of its code, so that a cell which was changed
since is found (tests/notebooks).
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).parent.parent / "tpu" / "colab"
_CELL_SECONDS = 900


def code_digest(notebook: Any) -> str:
    """A digest of all code of a notebook."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def execute(path: Path, folder: Path) -> Any:
    """The notebook with the outputs that it has now; executed in `folder`, which is its home too.

    Its kernel has one CPU device, unless the notebook asks for more. Raises
    nbclient.exceptions.CellExecutionError for a cell that fails.
    """
    from nbclient import NotebookClient  # of `make notebooks`; the rest needs none of it

    notebook = nbformat.read(path, as_version=4)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "XLA_FLAGS"))
    }
    client = NotebookClient(
        notebook,
        timeout=_CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    # Programs that were compiled before, or plans, would hide what no longer works.
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"  # as where jaxllm is installed
    client.execute(env={**kept, "HOME": str(folder), "JAX_PLATFORMS": "cpu"})
    return notebook


def cleaned(notebook: Any) -> Any:
    """Without what another machine or another day would say differently."""
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["jaxllm"] = {"executed": code_digest(notebook)}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _merged(cell.outputs)
    return notebook


def _merged(outputs: list[Any]) -> list[Any]:
    """Lines that follow each other as one output, and nothing that is random."""
    merged: list[Any] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if output.output_type == "stream" and last and last.get("name") == output.name:
            last.text += output.text
            continue
        output.pop("transient", None)
        merged.append(output)
    return merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help=", ".join(names))
    for name in parser.parse_args().names:
        path, begun = FOLDER / f"{name}.ipynb", time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = cleaned(execute(path, Path(folder)))
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1e3
        print(f"{name}: {time.monotonic() - begun:.0f} s, {size:,.0f} kB", flush=True)


if __name__ == "__main__":
    main()
