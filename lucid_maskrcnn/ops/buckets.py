"""Few shapes: on gpu a batch of rows is padded to one of a few sizes.

cuDNN plans and MLX compiles for each shape anew, and the number of detections, or of positive RoIs, is another in every
image. On cpu nothing is padded: there any shape is as good as another.
"""

from __future__ import annotations

import mlx.core as mx
from lucid import Tensor

from lucid_maskrcnn.validators import non_negative_int

from ._checks import tensors
from ._operation import on_arrays

__all__ = ["bucket_size", "padded_rows"]

_LEAST = 8


def bucket_size(count: int) -> int:
    """Return the number of rows that ``count`` rows are padded to: 0, 8, 16, 32, … , the next power of two."""
    count = non_negative_int("count", count)
    return max(_LEAST, 1 << (count - 1).bit_length()) if count else 0


def padded_rows(*arrays: Tensor) -> tuple[Tensor, ...]:
    """Return tensors with the same number of rows, on gpu with rows of zeros added up to :func:`bucket_size`."""
    return tuple(_padded(x) for x in tensors("arrays", arrays))


@on_arrays
def _padded(x: mx.array) -> mx.array:
    more = bucket_size(x.shape[0]) - x.shape[0]
    if not isinstance(x, mx.array) or not more:
        return x
    return mx.concatenate([x, mx.zeros((more, *x.shape[1:]), x.dtype)])
