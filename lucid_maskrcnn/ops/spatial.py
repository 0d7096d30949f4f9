"""Operators that change the size of feature maps: max pooling, subsampling, and a feature pyramid's top-down addition.

Shapes: N images, C channels, H × W pixels, P × Q pixels of the result, h × w pixels of the coarser map.

Names: ``coarse`` and ``fine`` are neighbouring levels of a pyramid, ``rows`` and ``cols`` the coarse pixel that each
fine one copies. A ``tap`` is a place in the kernel, a ``task`` an image and a block of its rows.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import flag, non_negative_int, positive_int

from . import conv_gpu
from ._checks import check_tensor
from ._memory import empty, zeros
from ._operation import Op
from ._parallel import chunks, copy, parallel_for, scratch
from .layout import nchw, nearest, nhwc

__all__ = ["max_pool2d", "subsample", "upsample_add"]

_add_at: Any = np.add.at  # NumPy's types know only index arrays, not tuples with slices
_BLOCK_VALUES = 1 << 19  # values of a block of element-wise work: several rows of a large map


# ------------------------------------------------------------------ max pooling and subsampling


class _MaxPool2d(Op):
    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def cpu(self, x: Any) -> Any:
        x = nhwc(x)
        n, height, width, channels = x.shape
        k, s, p = self.kernel, self.stride, self.padding
        size = [(length + 2 * p - k) // s + 1 for length in (height, width)]
        out = empty((n, *size, channels), x.dtype)
        rows = max(_BLOCK_VALUES // max(width * channels * s, 1), 1)

        def pool(task: tuple[int, slice]) -> None:
            # Over rows first, then over columns; outside the image there is -inf.
            image, block = task
            tall = scratch("tall", (block.stop - block.start) * (width + 2 * p) * channels, x.dtype)
            tall = tall.reshape(-1, width + 2 * p, channels)
            tall.fill(-np.inf)
            inner = tall[:, p : p + width]
            for i in range(k):
                of_block, there = _rows_read(block, i - p, s, height)
                np.maximum(inner[of_block], x[image, there], out=inner[of_block])
            wide = out[image, block]
            end = (size[1] - 1) * s + 1
            np.copyto(wide, tall[:, :end:s])
            for j in range(1, k):
                np.maximum(wide, tall[:, j : j + end : s], out=wide)

        parallel_for([(i, block) for i in range(n) for block in chunks(size[0], rows)], pool)
        return nchw(out), lambda grad: (nchw(self._grad_input(nhwc(grad), x, out)),)

    def _grad_input(self, grad: np.ndarray, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Give each gradient to the first pixel, in row order, that has the largest value: (N, H, W, C)."""
        (n, height, width, channels), p = x.shape, self.padding
        rest = grad.copy()  # what no earlier pixel of the kernel has got
        padded = np.full((n, height + 2 * p, width + 2 * p, channels), -np.inf, x.dtype)
        padded[:, p : p + height, p : p + width] = x
        total = np.zeros_like(padded)
        for rows, cols in self._taps(padded.shape):
            hit = padded[:, rows, cols] == out
            given = rest * hit
            total[:, rows, cols] += given
            rest -= given
        return np.ascontiguousarray(total[:, p : p + height, p : p + width])

    def gpu(self, x: Any) -> Any:
        x, p = nhwc(x), self.padding
        around = [(0, 0), (p, p), (p, p), (0, 0)]
        padded = mx.pad(x, around, constant_values=mx.array(-np.inf, x.dtype)) if p else x
        out = self._pool_gpu(padded)
        return nchw(out), lambda grad: (nchw(self._grad_input_gpu(nhwc(grad), padded, out)),)

    def _grad_input_gpu(self, grad: mx.array, padded: mx.array, out: mx.array) -> mx.array:
        """As :meth:`_grad_input`, without a scatter: (N, H, W, C)."""
        (n, height, width, channels), k, s, p = padded.shape, self.kernel, self.stride, self.padding
        _, rows, cols, _ = grad.shape
        size = -(-height // s), -(-width // s)
        # Every s-th row and column of the result is a plane of its own; whole planes come together at the end.
        planes = {(i, j): mx.zeros((n, *size, channels), grad.dtype) for i in range(s) for j in range(s)}
        rest = grad  # what no earlier pixel of the kernel has got
        for (i, j), (down, across) in zip(np.ndindex(k, k), self._taps(padded.shape), strict=True):
            given = rest * (padded[:, down, across] == out)
            rest = rest - given
            top, left = i // s, j // s
            around = [(0, 0), (top, size[0] - rows - top), (left, size[1] - cols - left), (0, 0)]
            planes[i % s, j % s] = planes[i % s, j % s] + mx.pad(given, around)
        whole = mx.stack([mx.stack([planes[i, j] for j in range(s)], axis=3) for i in range(s)], axis=2)
        total = whole.reshape(n, size[0] * s, size[1] * s, channels)
        return total[:, p : height - p, p : width - p]

    def _taps(self, shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
        """Return, for each place in the kernel, the rows and columns of the padded image that it reads."""
        ends = [((n - self.kernel) // self.stride) * self.stride + 1 for n in shape[1:3]]
        return [
            (slice(i, i + ends[0], self.stride), slice(j, j + ends[1], self.stride))
            for i in range(self.kernel)
            for j in range(self.kernel)
        ]

    def _pool_gpu(self, padded: mx.array) -> mx.array:
        """Return the largest value under the kernel at each place: over rows first, then over columns."""
        k, s = self.kernel, self.stride
        end = ((padded.shape[1] - k) // s) * s + 1
        tall = padded[:, 0:end:s]
        for i in range(1, k):
            tall = mx.maximum(tall, padded[:, i : i + end : s])
        end = ((padded.shape[2] - k) // s) * s + 1
        out = tall[:, :, 0:end:s]
        for j in range(1, k):
            out = mx.maximum(out, tall[:, :, j : j + end : s])
        return out


def _rows_read(block: slice, offset: int, stride: int, size: int) -> tuple[slice, slice]:
    """Return which rows of a block of output rows read an input row inside 0 … size - 1, and those input rows."""
    low = min(max(block.start, -(offset // stride)), block.stop)
    high = max(low, min(block.stop, (size - 1 - offset) // stride + 1))
    first = low * stride + offset
    return slice(low - block.start, high - block.start), slice(first, first + (high - low) * stride, stride)


def max_pool2d(x: Tensor, kernel_size: int, *, stride: int, padding: int = 0) -> Tensor:
    """Return the largest value under the kernel at each place; pixels outside the image never count.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        Of equal pixels the first in row order gets the gradient.
    kernel_size, stride, padding : int
        The same for both axes; the padding is at most half of the kernel.

    Returns
    -------
    Tensor of shape (N, C, P, Q)

    Raises
    ------
    ValueError
        If the image is smaller than the kernel, or a setting is out of range.
    """
    check_tensor("x", x, ("N", "C", "H", "W"))
    kernel_size, stride = positive_int("kernel_size", kernel_size), positive_int("stride", stride)
    padding = non_negative_int("padding", padding)
    if padding > kernel_size // 2:
        raise ValueError(f"padding must be at most half of kernel_size, {kernel_size}, got {padding}.")
    if min(x.shape[2:]) + 2 * padding < kernel_size:
        raise ValueError(
            f"x must be at least as large as kernel_size, {kernel_size}, got {x.shape[2]} × {x.shape[3]} pixels with "
            f"padding {padding}."
        )
    return _MaxPool2d(kernel_size, stride, padding)(x)


class _Subsample(Op):
    def cpu(self, x: Any) -> Any:
        taken = np.ascontiguousarray(nhwc(x)[:, ::2, ::2])

        def backward(grad: np.ndarray) -> tuple[Any]:
            total = zeros((x.shape[0], *x.shape[2:], x.shape[1]), grad.dtype)
            total[:, ::2, ::2] = nhwc(grad)
            return (nchw(total),)

        return nchw(taken), backward

    def gpu(self, x: Any) -> Any:
        size = (x.shape[2], x.shape[3])
        return x[:, :, ::2, ::2], lambda grad: (nchw(conv_gpu.interleave_zeros(nhwc(grad), 2, size)),)


def subsample(x: Tensor) -> Tensor:
    """Return every second row and column of ``x`` (N, C, H, W): how P6 comes from P5 (Lin et al. 2017)."""
    check_tensor("x", x, ("N", "C", "H", "W"))
    return _Subsample()(x)


# ------------------------------------------------------------------ the top-down path


class _UpsampleAdd(Op):
    def __init__(self, overwrite: bool) -> None:
        super().__init__()
        self.overwrite = overwrite

    def cpu(self, coarse: Any, fine: Any) -> Any:
        low, high = nhwc(coarse), nhwc(fine)
        (n, h, w, c), (height, width) = low.shape, high.shape[1:3]
        doubled = (height, width) == (2 * h, 2 * w)
        rows, cols = nearest(h, height), nearest(w, width)
        out = high if self.overwrite else empty(high.shape, high.dtype)
        tasks = [(i, block) for i in range(n) for block in chunks(h, max(_BLOCK_VALUES // max(4 * w * c, 1), 1))]

        def add(task: tuple[int, slice]) -> None:
            image, block = task
            if doubled:  # each coarse pixel meets a 2 × 2 block: no gather needed
                sources, there = (a[image].reshape(h, 2, w, 2, c)[block] for a in (high, out))
                np.add(sources, low[image, block, None, :, None], out=there)
            else:
                fine_rows = slice(*np.searchsorted(rows, (block.start, block.stop)))
                np.add(high[image, fine_rows], low[image, rows[fine_rows]][:, cols], out=out[image, fine_rows])

        parallel_for(tasks, add)

        def backward(grad: np.ndarray) -> tuple[Any, Any]:
            grad = nhwc(grad)
            total = _sum_of_2x2(grad, tasks) if doubled else _sum_of_copies(grad, low.shape, rows, cols)
            return nchw(total), nchw(copy(grad))

        return nchw(out), backward

    def gpu(self, coarse: Any, fine: Any) -> Any:
        low, high = nhwc(coarse), nhwc(fine)
        (n, h, w, c), (height, width) = low.shape, high.shape[1:3]
        if (height, width) == (2 * h, 2 * w):
            copies = mx.broadcast_to(low[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(high.shape)
        else:
            rows, cols = nearest(h, height), nearest(w, width)
            copies = low[:, mx.array(rows)][:, :, mx.array(cols)]

        def backward(grad: mx.array) -> tuple[Any, Any]:
            grad = nhwc(grad)
            if (height, width) == (2 * h, 2 * w):
                total = grad.reshape(n, h, 2, w, 2, c).sum(axis=(2, 4))
            else:
                total = _sum_of_copies_gpu(_sum_of_copies_gpu(grad, rows, h, axis=1), cols, w, axis=2)
            return nchw(total), nchw(grad)

        return nchw(copies + high), backward


def _sum_of_2x2(grad: np.ndarray, tasks: list[tuple[int, slice]]) -> np.ndarray:
    """Sum each 2 × 2 block of ``grad`` (N, 2 · h, 2 · w, C), for each image and rows of ``tasks``: (N, h, w, C)."""
    n, height, width, channels = grad.shape
    total = empty((n, height // 2, width // 2, channels), grad.dtype)

    def run(task: tuple[int, slice]) -> None:
        image, block = task
        split = grad[image].reshape(height // 2, 2, width // 2, 2, channels)[block]
        there = total[image, block]
        np.add(split[:, 0, :, 0], split[:, 0, :, 1], out=there)
        there += split[:, 1, :, 0]
        there += split[:, 1, :, 1]

    parallel_for(tasks, run)
    return total


def _sum_of_copies(grad: np.ndarray, shape: tuple[int, ...], rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Sum ``grad`` (N, H, W, C) over the copies that ``rows`` and ``cols`` made of each pixel: (N, h, w, C)."""
    n, h, _, channels = shape
    by_row = np.zeros((n, h, grad.shape[2], channels), grad.dtype)
    _add_at(by_row, (slice(None), rows), grad)
    total = np.zeros(shape, grad.dtype)
    _add_at(total, (slice(None), slice(None), cols), by_row)
    return total


def _sum_of_copies_gpu(grad: mx.array, places: np.ndarray, size: int, axis: int) -> mx.array:
    """Sum ``grad`` over the copies of each of ``size`` rows or columns: ``places``, ascending, is what each copies."""
    counts = np.bincount(places, minlength=size)
    firsts = np.cumsum(counts) - counts
    shape = [1] * grad.ndim
    shape[axis] = size
    total = mx.zeros([size if i == axis else length for i, length in enumerate(grad.shape)], grad.dtype)
    for i in range(int(counts.max(initial=0))):  # gathers of the first copies, the second, …: not a scatter
        there = mx.array(np.minimum(firsts + i, max(len(places) - 1, 0)).astype(np.int32))
        total = total + mx.where(mx.array(counts > i).reshape(shape), mx.take(grad, there, axis=axis), 0)
    return total


def upsample_add(coarse: Tensor, fine: Tensor, *, overwrite: bool = False) -> Tensor:
    """Enlarge ``coarse`` (N, C, h, w) to the size of ``fine`` (N, C, H, W) by nearest neighbour and add them.

    The top-down path of a feature pyramid (Lin et al. 2017, section 3). With ``overwrite`` the sum may take the memory
    of ``fine``, whose values are lost: for maps that nothing else reads, not the gradient of what made them either.

    Raises
    ------
    ValueError
        If batch or channels differ.
    """
    check_tensor("coarse", coarse, ("N", "C", "h", "w"))
    check_tensor("fine", fine, (*coarse.shape[:2], "H", "W"))
    if 0 in coarse.shape[2:]:
        raise ValueError(f"coarse must have a pixel to enlarge, got shape {tuple(coarse.shape)}.")
    return _UpsampleAdd(flag("overwrite", overwrite))(coarse, fine)
