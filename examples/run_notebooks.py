"""Run the notebooks of this folder and write their outputs into them.

    uv run python examples/run_notebooks.py              # all
    uv run python examples/run_notebooks.py quick_start  # one

Each runs in a temporary copy of this folder, with the Python that runs this file. What differs from run to run is left
out of what is written: times, progress bars, paths of this computer.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).parent
MAX_BYTES = 1_500_000  # of a notebook with its outputs
WIDGET = "application/vnd.jupyter.widget-view+json"


class ThisPython(KernelSpecManager):
    """Starts kernels with this very Python, whatever kernels are installed on the computer."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return how a kernel is started."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def execute(notebook: Any, folder: Path) -> Any:
    """Run the cells of a notebook in a folder; return it with their outputs.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises an exception; the message has its code and the traceback.
    """
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
    client = NotebookClient(notebook, km=manager, timeout=None, record_timing=False, coalesce_streams=True)
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # pictures go inline
    return client.execute(cwd=str(folder), env=environment)


def run(path: Path) -> Any:
    """Run a notebook in a temporary copy of its folder; return it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "examples"
        shutil.copytree(path.parent, folder, ignore=shutil.ignore_patterns("*.ipynb", "out", "__pycache__"))
        return execute(notebook, folder)


def cleaned(notebook: Any) -> Any:
    """Leave out what differs from run to run, and what belongs to this computer."""
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": language}
    for cell in notebook.cells:
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [_lean(output) for output in cell.outputs if not _is_progress(output)]
    return notebook


def _lean(output: Any) -> Any:
    """Leave out the larger file of a picture that comes as PNG and as JPEG, as Pillow's do."""
    data = output.get("data", {})
    if {"image/png", "image/jpeg"} <= set(data):
        del data[max(("image/png", "image/jpeg"), key=lambda kind: len(data[kind]))]
    return output


def _is_progress(output: Any) -> bool:
    """Whether an output is a progress bar, as a widget or as text."""
    if output.output_type == "stream":
        return bool(output.name == "stderr" and re.search(r"%\|.*\||\d+it \[", output.text))
    return WIDGET in output.get("data", {})


def problems(notebook: Any) -> list[str]:
    """Return what must not be in a notebook that is to be read by others."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = nbformat.from_dict(output).get("text", "") or str(output.get("data", {}).get("text/plain", ""))
            if output.get("name") == "stderr" or output.output_type == "error":
                found.append(f"this cell has an error or a warning:\n{cell.source}\n{text}")
            if str(Path.home()) in text or tempfile.gettempdir() in text or str(HERE) in text:
                found.append(f"this cell's output has a path of this computer:\n{cell.source}\n{text}")
    size = len(nbformat.writes(notebook))
    return found + ([f"it has {size} bytes, more than {MAX_BYTES}"] if size > MAX_BYTES else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of notebooks; by default all")
    names = parser.parse_args().names or sorted(path.stem for path in HERE.glob("*.ipynb"))
    for name in names:
        path, start = HERE / f"{Path(name).stem}.ipynb", time.monotonic()
        notebook = cleaned(run(path))
        found = problems(notebook)
        if found:
            sys.exit("\n".join([f"{path.name} is not written:", *found]))
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
