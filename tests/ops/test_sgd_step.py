"""The arithmetic of a step of gradient descent; the update itself is tested with the optimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lucid import Tensor

from lucid_maskrcnn import ops


def test_sum_of_squares_by_hand(device: str) -> None:
    arrays = [ops.device_array(np.array(values, np.float32), device) for values in ([3.0, 4.0], [[1.0], [2.0]], [])]
    assert ops.sum_of_squares(arrays) == pytest.approx(30.0)
    assert ops.sum_of_squares([]) == 0.0


def test_sum_of_squares_over_both_devices() -> None:
    arrays = [Tensor(np.full(2, 2, np.float32)).to(device).data for device in ("cpu", "gpu")]
    assert ops.sum_of_squares(arrays) == pytest.approx(16.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_sum_of_squares_is_not_finite_if_an_element_is_not(value: float, device: str) -> None:
    array = ops.device_array(np.array([1.0, value], np.float32), device)
    assert not math.isfinite(ops.sum_of_squares([array]))
