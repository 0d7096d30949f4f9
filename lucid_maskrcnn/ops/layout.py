"""Channels-last views: NCHW shapes over NHWC memory.

Every operator on the hot path reads pixels as contiguous rows of channels, while users see the
usual ``(N, C, H, W)``: a 4-D tensor is an NHWC array seen through a transpose.

Shapes: N images, C channels, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import numpy as np

from lucid_maskrcnn.validators import MAX_PIXELS, non_negative_int, positive_int

type Array = Any  # np.ndarray or mx.array


def nhwc(array: Array) -> Array:
    """Return the ``(N, C, H, W)`` array as contiguous ``(N, H, W, C)``: free for a channels-last view."""
    turned = array.transpose(0, 2, 3, 1)
    return turned if isinstance(array, mx.array) else np.ascontiguousarray(turned)


def nchw(array: Array) -> Array:
    """Return the ``(N, H, W, C)`` array seen as ``(N, C, H, W)``."""
    return array.transpose(0, 3, 1, 2)


def over_rows(vector: np.ndarray, width: int) -> np.ndarray:
    """Repeat a per-channel ``vector`` for each of ``width`` pixels.

    NumPy broadcasts ``(H, W · C) * (W · C,)`` several times faster than ``(H, W, C) * (C,)``,
    whose inner loop is only C long.
    """
    return np.tile(vector, width)


def nearest(n_in: int, n_out: int) -> np.ndarray:
    """Return, for nearest-neighbour resizing, which of ``n_in`` cells each of ``n_out`` copies: (n_out,), int32.

    In torchvision's arithmetic: the product is rounded to float32 before the floor.
    """
    n_in, n_out = positive_int("n_in", n_in, MAX_PIXELS), non_negative_int("n_out", n_out, MAX_PIXELS)
    if not n_out:
        return np.zeros(0, np.int32)
    step = np.float32(n_in) / np.float32(n_out)
    return np.minimum((np.arange(n_out, dtype=np.float32) * step).astype(np.int32), n_in - 1)


def without_values(
    shape: tuple[int, ...], dtype: mx.Dtype, *arrays: mx.array | None
) -> tuple[mx.array, Callable[[mx.array], list[mx.array | None]]]:
    """Return an empty result of this ``shape`` and its backward: zeros for each array, None for None.

    MLX cannot convolve or scatter nothing, and its sum over an empty axis may never end.
    """
    return mx.zeros(shape, dtype), lambda grad: [None if a is None else mx.zeros(a.shape, a.dtype) for a in arrays]


def with_vjp(
    function: Callable[..., mx.array], *arrays: mx.array | None
) -> tuple[mx.array, Callable[[mx.array], list[mx.array | None]]]:
    """Return ``function(*arrays)`` and its backward, both by MLX; an array that is None stays None.

    MLX is lazy: what the backward does not need of the forward is not computed again, but what it needs is. An empty
    result is that of :func:`without_values`.
    """
    given = [a for a in arrays if a is not None]

    def fill(some: Iterable[mx.array]) -> list[mx.array | None]:
        rest = iter(some)
        return [None if a is None else next(rest) for a in arrays]

    def run(*some: mx.array) -> mx.array:
        return function(*fill(some))

    out = run(*given)
    if out.size == 0:
        return without_values(out.shape, out.dtype, *arrays)
    return out, lambda grad: fill(mx.vjp(run, given, [grad])[1])
