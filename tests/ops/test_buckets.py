"""Rows are padded to few sizes on gpu, and on cpu not at all."""

from __future__ import annotations

import numpy as np
import pytest

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
