"""Fixtures for all tests."""

from __future__ import annotations

import json
import re
import signal
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lucid_maskrcnn import ops

with warnings.catch_warnings():  # it is said once that the gpu is MLX's CPU code, where it is
    warnings.simplefilter("ignore")
    ops.as_tensor([0.0], "gpu")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background job; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that read an export back with the library that people use are left out where it is not installed; a development
# environment has all of them (pyproject.toml, group "test").
_LEFT_OUT: dict[str, str] = {}
_PEERS = {
    *("cv2", "fontTools", "matplotlib", "mlflow", "pandas", "pycocotools", "roifile", "selenium", "shapely"),
    *("fsspec", "pyarrow", "skimage", "supervision", "wandb"),
}


# What may differ from one version of Python to the next, and the files that would show it. All other tests are marked
# ``once``: what they are about is this package's, NumPy's or MLX's.
_DIFFERS = {
    "signatures, annotations and reprs": (
        *("api_reference", "array_arguments", "call_answers", "config", "reprs", "validators"),
    ),
    "texts of argparse, errors and warnings": ("hostile_names", "info", "main", "streams", "wrong_options"),
    "imports": ("layering", "backend", "mlx"),
    "pickles and copies": (
        *("checkpoint_file", "coco_dataset", "numpy_pickles", "pickles", "pickling", "predictions", "state_dicts"),
        *("selection_and_merging", "settings", "subsets", "tensor_protocol"),
    ),
    "reference counts and garbage": ("compilation", "engine", "kept_gpu", "memory", "winograd"),
    "threads, processes and signals": (
        *("detected_objects", "download", "forked_group", "image_stream", "job_folder", "loader", "log", "parallel"),
        *("state", "watch"),
    ),
    "files and texts": ("atomic", "json_text", "sources", "text_tables", "yaml_files"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what one version of Python is enough for."""
    on_each = {f"test_{name}" for names in _DIFFERS.values() for name in names}
    for item in items:
        if item.path.stem not in on_each:
            item.add_marker(pytest.mark.once)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out a test file that imports a missing library at its head."""
    if not re.fullmatch(r"test_\w+\.py", collection_path.name):
        return None
    imported = re.findall(r"^(?:import|from) (\w+)", collection_path.read_text(encoding="utf-8"), re.MULTILINE)
    missing = sorted(name for name in _PEERS.intersection(imported) if find_spec(name) is None)
    if missing:
        _LEFT_OUT[collection_path.name] = ", ".join(missing)
    return bool(missing) or None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which files were left out."""
    for name, missing in _LEFT_OUT.items():
        terminalreporter.write_line(f"LEFT OUT {name}: {missing} not installed")


@pytest.fixture(params=["cpu", "gpu"])
def device(request: pytest.FixtureRequest) -> str:
    """Both of Lucid's devices, in turn."""
    return request.param


class Recorded:
    """Arrays that torchvision computed, by name; ``meta`` holds the settings."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self._arrays = {name: file[name] for name in file.files}
        self.meta = json.loads(str(self._arrays.pop("meta")))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name].copy()

    def names(self, prefix: str) -> list[str]:
        """Return which arrays begin with ``prefix``."""
        return sorted(name for name in self._arrays if name.startswith(prefix))


@pytest.fixture(scope="session")
def torchvision_ops() -> Recorded:
    """Inputs, outputs and gradients of single operators, see tests/data/torchvision/ops.md."""
    return Recorded(Path(__file__).parent / "data" / "torchvision" / "ops.npz")
