"""Fixtures for all tests."""

from __future__ import annotations

import json
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest

from lucid_maskrcnn import ops

with warnings.catch_warnings():  # it is said once that the gpu is MLX's CPU code, where it is
    warnings.simplefilter("ignore")
    ops.as_tensor([0.0], "gpu")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background job; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
