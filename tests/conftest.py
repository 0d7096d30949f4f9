"""Fixtures for all tests."""

from __future__ import annotations

import warnings

import mlx.core as mx
import pytest
from lucid import Tensor

with warnings.catch_warnings():  # Lucid says once that there is no Metal; MLX then computes on the CPU
    warnings.simplefilter("ignore")
    Tensor(mx.zeros(1))


@pytest.fixture(params=["cpu", "gpu"])
def device(request: pytest.FixtureRequest) -> str:
    """Both of Lucid's devices, in turn."""
    return request.param
