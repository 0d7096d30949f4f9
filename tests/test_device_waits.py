"""The counter of waits counts, and leaves values as they are."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits, pending, primitives
from lucid import Tensor

from lucid_maskrcnn import ops


@pytest.mark.parametrize(
    "read",
    [
        lambda a: np.asarray(a),
        lambda a: np.array(a),
        float,
        bool,
        lambda a: a.item(),
        lambda a: a.tolist(),
        lambda a: mx.eval(a),
        lambda a: mx.eval([{"a": a}]),
        lambda a: ops.host(Tensor(a)),
    ],
)
def test_each_way_to_need_a_value_is_a_wait_once(read) -> None:
    value = mx.ones(1) * 2
    with device_waits() as waits:
        read(value)
        read(value)
        assert len(waits) == 1, waits
    assert value.item() == 2


def test_what_was_begun_is_waited_for_once() -> None:
    a, b = mx.ones(3) * 2, mx.ones(3) * 3
    with device_waits() as waits:
        mx.async_eval(a, b)
        assert not waits.places
        np.testing.assert_array_equal(np.asarray(a), 2)
        np.testing.assert_array_equal(np.asarray(b), 3)
        assert len(waits) == 1, waits


def test_arrays_that_are_there_are_no_wait_and_uploads_are_counted() -> None:
    with device_waits() as waits:
        value = mx.array(np.ones(3, np.float32))
        assert isinstance(value, mx.array)
        np.asarray(value)
        assert (len(waits), waits.uploads) == (0, 1)
    before = waits.uploads
    mx.array(np.ones(3))
    assert waits.uploads == before


def test_pending_work_is_counted_by_kind() -> None:
    x = mx.ones((2, 2))
    assert pending(x) > 0
    mx.eval(x)
    y = (x @ x) @ x
    assert primitives(y) == {"Matmul": 2}
    mx.eval(y)
    assert pending(y) == 0
