"""Averaged weights."""

from __future__ import annotations

import math
from typing import Any

import lucid.nn as nn
import numpy as np
import pytest
from lucid import Tensor
from tiny_runs import (
    parameter,
)

from lucid_maskrcnn import ops
from lucid_maskrcnn.models.layers import Linear
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.training import (
    EMA,
)


class Cell(nn.Module):
    def __init__(self, value: float, device: str = "cpu") -> None:
        super().__init__()
        self.weight = parameter([value], device)
        self.register_buffer("mean", as_tensor([value], device, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x


def host_average(ema: EMA, name: str) -> np.ndarray:
    return np.asarray(ema.averages[name])


def test_average_follows_weights_and_buffers(device: str) -> None:
    model = Cell(1.0, device)
    ema = EMA(model, decay=0.5)
    set_to = np.array([11.0], np.float32)
    model.weight.data = ops.device_array(set_to, device)
    ema.update(model)  # keeps 1/10
    np.testing.assert_allclose(host_average(ema, "weight"), [10.0])
    np.testing.assert_allclose(host_average(ema, "mean"), [1.0])
    ema.update(model)  # keeps 2/11
    np.testing.assert_allclose(host_average(ema, "weight"), [11 - 2 / 11], rtol=1e-6)
    assert host(model.weight) == [11.0]


def test_average_resumes_and_keeps_its_own_arrays() -> None:
    model = Cell(2.0)
    ema = EMA(model)
    model.mean.data += 5  # as a live batch norm might
    assert host_average(ema, "mean") == [2.0]
    ema.update(model)
    again = EMA(Cell(0.0))
    again.restore(ema.averages, ema.updates)
    for e in (ema, again):
        e.update(model)
    np.testing.assert_array_equal(host_average(ema, "mean"), host_average(again, "mean"))


@pytest.mark.parametrize(
    ("model", "decay", "error", "message"),
    [
        (Cell(1.0), 1, ValueError, "decay must be a number of at least 0 and below 1, got 1"),
        (Cell(1.0), math.nan, ValueError, "decay must be a number of at least 0 and below 1, got nan"),
        (Cell(1.0), "0.9", TypeError, "decay must be a number of at least 0 and below 1, got '0.9'"),
        ([parameter([1.0])], 0.9, TypeError, "model must be a module, got "),
        (Cell, 0.9, TypeError, "model must be a module, got the class Cell"),
    ],
)
def test_bad_arguments_of_ema(model: Any, decay: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EMA(model, decay)


@pytest.mark.parametrize(
    ("averages", "updates", "error", "message"),
    [
        ({}, 1, ValueError, "averages have no 'mean': it must be the same model"),
        ({"weight": np.ones(1), "mean": np.ones(1), "x": 1}, 1, ValueError, "averages have 'x', which the averaged"),
        (
            {"weight": np.ones(2), "mean": np.ones(1)},
            1,
            ValueError,
            r"averages\['weight'\] must have shape \(1,\), got",
        ),
        ({"weight": np.ones(1), "mean": np.ones(1)}, -1, ValueError, "updates must be a non-negative integer, got -1"),
        (None, 1, TypeError, "averages must be a mapping of names to arrays, got None"),
    ],
)
def test_averages_of_another_model_are_refused(
    averages: Any, updates: Any, error: type[Exception], message: str
) -> None:
    ema = EMA(Cell(1.0))
    with pytest.raises(error, match=message):
        ema.restore(averages, updates)
    assert (host_average(ema, "weight"), ema.updates) == ([1.0], 0)


def test_average_of_another_model_is_refused() -> None:
    ema, other = EMA(Cell(1.0)), Linear(2, 2)
    for method in (ema.update, ema.apply, ema.applied(other).__enter__):
        with pytest.raises(ValueError, match="model has 'bias', which the averaged model does not have"):
            method(*([] if method.__name__ == "__enter__" else [other]))
    assert ema.updates == 0


@pytest.mark.parametrize("model", [None, {}, Cell])
def test_average_of_no_model_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="model must be a module, got"):
        EMA(Cell(1.0)).update(model)
