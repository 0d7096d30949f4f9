"""The pages run: pytest executes their ``python`` and ``sh`` blocks in order, each page in a folder of its own.

The folder has the files of ``docs/extensions/samples.py``. A block that cannot run here, as it downloads weights or
needs a cluster, is marked by the line ``% skip: next "why"`` before it; ``tests/test_doc_pages.py`` still checks its
syntax and its options.
Commands that are not to be run at all (``pip install``) are in blocks of another language: ``console`` or ``text``.
Python of other libraries, which docs/coming_from shows beside this package's, is in ``py`` blocks: they are not run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from extensions.samples import sample_files
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser


def run_shell(example: Example) -> None:
    """Run a block as one script of bash, in the page's folder."""
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", str(example.parsed)],
        env={**os.environ, "PATH": commands},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode} of\n{example.parsed}\n{done.stdout}{done.stderr}")


def enter(namespace: dict[str, Any]) -> None:
    """Begin a page: in a folder of its own, with names of its own."""
    folder = Path(tempfile.mkdtemp(prefix="page-"))
    sample_files(folder)
    namespace.update({"__name__": "__main__", "_left": os.getcwd(), "_folder": folder})
    os.environ["MPLBACKEND"] = "Agg"
    os.chdir(folder)


def leave(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_left"])
    shutil.rmtree(namespace["_folder"])


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser(language="sh", evaluator=run_shell), SkipParser()],
    patterns=["*.md"],
    setup=enter,
    teardown=leave,
).pytest()
