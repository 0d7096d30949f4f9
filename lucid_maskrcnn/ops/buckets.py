"""Few shapes: on gpu a batch of rows is padded to one of a few sizes.

cuDNN plans and MLX compiles for each shape anew, and the number of detections, or of positive RoIs, is another in every
image. On cpu nothing is padded: there any shape is as good as another.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import non_negative_int, optional

from ._checks import check_tensor, tensors
from ._operation import Op, on_arrays

__all__ = ["bucket_size", "first_rows", "padded_rows"]

_LEAST = 8


def bucket_size(count: int) -> int:
    """Return the number of rows that ``count`` rows are padded to: 0, 8, 16, 32, … , the next power of two."""
    count = non_negative_int("count", count)
    return max(_LEAST, 1 << (count - 1).bit_length()) if count else 0


def padded_rows(*arrays: Tensor, rows: int | None = None) -> tuple[Tensor, ...]:
    """Return tensors with the same number of rows, on gpu with rows of zeros added up to :func:`bucket_size`.

    ``rows`` is another number to pad to; where there are more, or none, nothing is added.
    """
    rows = optional(partial(non_negative_int, maximum=2**31 - 1))("rows", rows)
    return tuple(_padded(x, rows=rows) for x in tensors("arrays", arrays))


@on_arrays
def _padded(x: mx.array, *, rows: int | None) -> mx.array:
    count = x.shape[0]
    more = (bucket_size(count) if rows is None else max(rows if count else 0, count)) - count
    if not isinstance(x, mx.array) or not more:
        return x
    return mx.concatenate([x, mx.zeros((more, *x.shape[1:]), x.dtype)])


class _FirstRows(Op):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def cpu(self, x: Any) -> Any:
        def backward(grad: Any) -> tuple[Any]:
            total = np.zeros_like(x)
            total[: self.count] = grad
            return (total,)

        return x[: self.count], backward

    def gpu(self, x: Any) -> Any:
        rest = (x.shape[0] - self.count, *x.shape[1:])
        return x[: self.count], lambda grad: (mx.concatenate([grad, mx.zeros(rest, x.dtype)]),)


def first_rows(x: Tensor, count: int) -> Tensor:
    """Return the first ``count`` rows of what was computed from :func:`padded_rows`: ``x`` itself if it has no more.

    Raises
    ------
    ValueError
        If there are not as many.
    """
    check_tensor("x", x, ("R", ...))
    if non_negative_int("count", count) > x.shape[0]:
        raise ValueError(f"count must be at most the {x.shape[0]} rows of x, got {count}.")
    return x if count == x.shape[0] else _FirstRows(count)(x)
