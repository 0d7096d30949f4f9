"""Notebooks and cells run in a real kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat

EXAMPLES = Path(__file__).parents[1] / "examples"
WITHOUT_WIDGETS = "import sys; sys.modules['ipywidgets'] = None"  # as if it were not installed
# In a process of its own: the sockets to the kernel are left for the garbage collection to close.
RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import nbformat, run_notebooks
notebook = nbformat.read(sys.argv[2], as_version=4)
nbformat.write(run_notebooks.execute(notebook, Path(sys.argv[3])), sys.argv[2])
"""


def run_notebook(notebook: Any, folder: Path) -> Any:
    """Return a notebook with its outputs, run in a folder; the exception of a cell has its traceback."""
    file = folder / "run.ipynb"
    nbformat.write(notebook, file)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(EXAMPLES), str(file), str(folder)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(file, as_version=4)


def run_cells(folder: Path, *sources: str) -> list[list[Any]]:
    """Run cells in one kernel; return the outputs of each."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    return [cell.outputs for cell in run_notebook(notebook, folder).cells]


def text_of(outputs: list[Any], name: str = "") -> str:
    """Return what was written to a stream, or to both."""
    return "".join(o.text for o in outputs if o.output_type == "stream" and name in ("", o.name))


def data_of(outputs: list[Any]) -> list[dict[str, Any]]:
    """Return what was shown, in all its forms."""
    return [dict(o.data) for o in outputs if o.output_type in ("display_data", "execute_result")]
