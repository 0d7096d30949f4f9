"""Rows are padded to few sizes on gpu, and on cpu not at all."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import gradients

from lucid_maskrcnn import ops


def test_up_to_a_hundred_rows_have_five_shapes() -> None:
    sizes = [ops.bucket_size(n) for n in range(1, 101)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 5
    assert ops.bucket_size(0) == 0


@pytest.mark.parametrize("count", [0, 1, 8, 9, 100])
def test_rows_of_zeros_are_added_on_gpu_only(device: str, count: int) -> None:
    x = np.arange(count * 4, dtype=np.float32).reshape(count, 4) + 1
    boxes, rows = ops.padded_rows(ops.as_tensor(x, device), ops.as_tensor(np.ones(count, np.int32), device))
    size = ops.bucket_size(count) if device == "gpu" else count
    assert (boxes.shape[0], rows.shape[0]) == (size, size)
    np.testing.assert_array_equal(ops.host(boxes)[:count], x)
    assert not ops.host(boxes)[count:].any()
    assert not ops.host(rows)[count:].any()
    assert rows.data.dtype in (np.int32, ops.as_tensor([1], "gpu", "int32").data.dtype)


def test_rows_are_padded_to_a_number_and_cut_again(device: str) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2) + 1
    (padded,) = ops.padded_rows(ops.as_tensor(x, device), rows=7)
    assert padded.shape == (7 if device == "gpu" else 3, 2)
    np.testing.assert_array_equal(ops.host(ops.first_rows(padded, 3)), x)
    assert ops.padded_rows(ops.as_tensor(x, device), rows=2)[0].shape == (3, 2)
    assert ops.padded_rows(ops.as_tensor(x[:0], device), rows=2)[0].shape == (0, 2)
    whole = ops.as_tensor(x, device)
    assert ops.first_rows(whole, 3) is whole


def test_gradient_of_the_first_rows(device: str) -> None:
    x, cotangent = np.ones((4, 2), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    out, (grad,) = gradients(lambda x: ops.first_rows(x, 3), x, wrt=[0], cotangent=cotangent, device=device)
    np.testing.assert_array_equal(out, x[:3])
    np.testing.assert_array_equal(grad, np.concatenate([cotangent, np.zeros((1, 2))]))
    with pytest.raises(ValueError, match="count must be at most the 4 rows of x, got 5"):
        ops.first_rows(ops.as_tensor(x, device), 5)
