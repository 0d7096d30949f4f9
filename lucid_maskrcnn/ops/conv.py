"""Convolutions on channels-last memory, with bias, residual and ReLU fused.

Shapes: N images, C input channels, O output channels (filters), H × W input pixels, P × Q output pixels, kh × kw pixels
of a kernel, k = kh · kw · C values under it.

Names: ``weight`` holds the filters, as a ``matrix`` (k, O); ``columns`` are the values under the kernel at each
output pixel (im2col), a ``task`` is an image and a block of its output rows, a ``tap`` a place in the kernel.
``passed`` is the gradient before the ReLU.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import flag, non_negative_int, positive_int

from . import conv_gpu, winograd
from ._checks import check_range_on_cpu, check_tensor, index_tensor
from ._memory import empty
from ._operation import Op
from ._parallel import chunks, copy, matmul, num_threads, parallel_for, relu_backward, scratch, split_evenly, sum_rows
from .layout import nchw, nhwc, without_values

__all__ = ["conv2d", "conv_transpose2d", "one_channel"]

_BLOCK_VALUES = 1 << 19  # values of an im2col block: 2 MiB of float32 stay in cache
_IMAGES = ("N", "C", "H", "W")
_FILTER_VALUES = 1 << 16  # values of a block of filters
_MAX_STEP = 1024  # of stride and padding: more is a mistake, and could ask for any amount of memory
_PARTIAL_SUMS = 4  # of a weight gradient
_BLOCKS_PER_THREAD = 4  # of a convolution
_SHORT = 64  # values of a kernel's row: copied so few at a time, they take as long as the products with them,
_WIDE = 64  # and so many output pixels of a row are enough for a product of their own


class _Conv2d(Op):
    """``relu(conv(x, weight · scale) + bias + residual)``."""

    def __init__(self, stride: int, padding: int, relu: bool) -> None:
        super().__init__()
        self.stride, self.padding, self.relu = stride, padding, relu

    def cpu(self, x: Any, weight: Any, bias: Any, scale: Any, residual: Any) -> Any:
        x = nhwc(x)
        kernel, stride, padding = weight.shape[2:], self.stride, self.padding
        fused = {"bias": bias, "residual": None if residual is None else nhwc(residual), "relu": self.relu}
        fast = winograd.suits(kernel, stride, *weight.shape[1::-1])

        def factors() -> np.ndarray:
            # What the pixels are multiplied with; for a weight in training it is computed twice rather than kept.
            if fast:
                return winograd.weight_points(weight, scale, keep=not self.needs[1])  # (36, C, O)
            return as_matrix(weight, scale)  # (k, O)

        if fast:
            out = winograd.correlate(x, factors(), padding, **fused)
        else:
            out = correlate(x, factors(), kernel, stride, padding, **fused)
        positive = out if self.relu else None  # without a ReLU the output is not needed again, and not kept

        def backward(grad: np.ndarray) -> tuple[Any, ...]:
            grad = nhwc(grad)
            passed = grad if positive is None else relu_backward(grad, positive, overwrite=self.owns_gradient)
            grad_x = grad_w = grad_b = grad_r = None
            if self.needs[0] and fast:
                grad_x = nchw(winograd.correlate(passed, factors(), 2 - padding, turned=True))
            elif self.needs[0]:
                grad_x = nchw(_grad_input(passed, factors(), kernel, stride, padding, x.shape))
            if self.needs[1]:
                differentiate = winograd.grad_weight if fast else _grad_weight
                grad_w = differentiate(x, passed, weight.shape, stride, padding, scale)
            if self.needs[2]:
                grad_b = sum_rows(passed.reshape(-1, passed.shape[3]))
            if self.needs[4]:
                grad_r = nchw(passed if self.relu else copy(passed))
            return grad_x, grad_w, grad_b, None, grad_r

        return nchw(out), backward

    def gpu(self, x: Any, weight: Any, bias: Any, scale: Any, residual: Any) -> Any:
        x, kernel, stride, padding = nhwc(x), weight.shape[2:], self.stride, self.padding
        size = _out_size((x.shape[1], x.shape[2]), kernel, stride, padding)
        if 0 in (x.shape[0], weight.shape[0]):
            shape = (x.shape[0], weight.shape[0], *size)
            return without_values(shape, x.dtype, nchw(x), weight, bias, None, residual)
        filters = conv_gpu.filters_of(weight, scale, keep=not self.needs[1])
        out = conv_gpu.correlate(x, filters, stride, padding, bias)
        if residual is not None:
            out = out + nhwc(residual).astype(out.dtype)
        if self.relu:
            out = mx.maximum(out, 0)

        def backward(grad: mx.array) -> tuple[Any, ...]:
            grad = nhwc(grad)
            passed = conv_gpu.before_relu(grad, out) if self.relu else grad
            grad_x = grad_w = grad_b = None
            if self.needs[0]:
                grad_x = nchw(conv_gpu.grad_input(passed, filters, stride, padding, (x.shape[1], x.shape[2])))
            if self.needs[1]:
                grad_w = nchw(conv_gpu.grad_filters(x, passed, kernel, stride, padding))
                if scale is not None:
                    grad_w = grad_w * scale[:, None, None, None]
            if self.needs[2]:
                grad_b = conv_gpu.sum_over_pixels(passed)
            return grad_x, grad_w, grad_b, None, nchw(passed) if self.needs[4] else None

        return nchw(out), backward


def as_matrix(weight: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """Return filters (O, C, kh, kw), times ``scale`` (O,), as a matrix (kh · kw · C, O)."""
    filters, channels, *kernel = weight.shape
    if scale is None and kernel == [1, 1]:
        return weight.reshape(filters, channels).T
    matrix = empty((filters, *kernel, channels), weight.dtype)

    def run(some: slice) -> None:
        taps = weight[some].transpose(0, 2, 3, 1)
        if scale is None:
            np.copyto(matrix[some], taps)
        else:
            np.multiply(taps, scale[some, None, None, None], out=matrix[some])

    parallel_for(chunks(filters, max(_FILTER_VALUES // max(matrix[:1].size, 1), 1)), run)
    return matrix.reshape(filters, -1).T


def _out_size(size: tuple[int, int], kernel: tuple[int, int], stride: int, padding: int) -> tuple[int, int]:
    height, width = ((n + 2 * padding - k) // stride + 1 for n, k in zip(size, kernel, strict=True))
    return height, width


def correlate(
    x: np.ndarray,
    matrix: np.ndarray,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    *,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    relu: bool = False,
) -> np.ndarray:
    """Convolve ``x`` (N, H, W, C) with ``matrix`` (k, O): (N, P, Q, O)."""
    filters = matrix.shape[1]
    size = _out_size((x.shape[1], x.shape[2]), kernel, stride, padding)
    result = out = empty((x.shape[0], *size, filters), np.result_type(x, matrix))
    if kernel == (1, 1) and stride == 1 and padding == 0:
        # A 1 × 1 kernel mixes no pixels: all images as one column of pixels can be cut most evenly.
        x, out = (a.reshape(1, -1, 1, a.shape[3]) for a in (x, out))
        residual = None if residual is None else residual.reshape(out.shape)
    columns = _Columns(x, kernel, stride, padding, _BLOCKS_PER_THREAD * num_threads(), filters)
    by_rows = kernel != (1, 1) and kernel[1] * x.shape[3] <= _SHORT and size[1] >= _WIDE
    zero = np.zeros(filters, out.dtype)

    def run(task: tuple[int, slice]) -> None:
        block = out[task].reshape(-1, filters)  # (p · Q, O)
        if by_rows:
            np.matmul(columns.gather_rows(*task), matrix, out=out[task])
        else:
            np.matmul(columns.gather(*task), matrix, out=block)
        if bias is not None:
            block += bias
        if residual is not None:
            block += residual[task].reshape(-1, filters)
        if relu:
            np.maximum(block, zero, out=block)  # of two arrays: three times as fast as with a number

    parallel_for(columns.tasks, run)
    return result


class _Columns:
    """The values under the kernel, block of output rows after block (im2col).

    Attributes
    ----------
    size : (int, int)
        P and Q.
    tasks : list of (int, slice)
        Image and output rows of each block.
    """

    def __init__(
        self, x: np.ndarray, kernel: tuple[int, int], stride: int, padding: int, num_blocks: int, filters: int
    ) -> None:
        self.x, self.kernel, self.stride, self.padding = x, kernel, stride, padding
        self.size = _out_size((x.shape[1], x.shape[2]), kernel, stride, padding)
        per_row = self.size[1] * (kernel[0] * kernel[1] * x.shape[3] + filters)
        of_block = -(-x.shape[0] * self.size[0] // num_blocks)  # output rows
        most = max(1, min(self.size[0], of_block, _BLOCK_VALUES // max(per_row, 1)))
        parts = -(-self.size[0] // most)
        if x.shape[0] == 1:
            parts = -(-parts // num_blocks) * num_blocks  # equally many for each thread
        self.tasks = [(n, rows) for n in range(x.shape[0]) for rows in split_evenly(self.size[0], max(parts, 1))]

    def gather(self, image: int, rows: slice) -> np.ndarray:
        """Return the values of a task, (p · Q, k), in memory that this thread's next call reuses."""
        if self.kernel == (1, 1) and self.padding == 0:
            return self._pixels(image, rows)
        (kh, kw), s = self.kernel, self.stride
        staged = self._staged(image, rows)
        count, width, of_row = rows.stop - rows.start, self.size[1], kw * staged.shape[2]
        values = scratch("values", count * width * kh * of_row, self.x.dtype).reshape(count, width, kh, of_row)
        down, across, item = staged.strides
        np.copyto(values, np.ndarray(values.shape, values.dtype, staged, strides=(down * s, across * s, down, item)))
        return values.reshape(count * width, -1)

    def gather_rows(self, image: int, rows: slice) -> np.ndarray:
        """Return the values of a task, (p, Q, k), as a view of what lies side by side in each row of the input.

        An input row is copied once, not for each output row that reads it: the rows under a kernel are neighbours in
        memory. A product takes one output row at a time, whose pixels are all input rows apart.
        """
        (kh, kw), s = self.kernel, self.stride
        staged = self._staged(image, rows)
        count, width, height, of_row = rows.stop - rows.start, self.size[1], len(staged), kw * staged.shape[2]
        values = scratch("values", width * height * of_row, self.x.dtype).reshape(width, height, of_row)
        down, across, item = staged.strides
        np.copyto(values, np.ndarray(values.shape, values.dtype, staged, strides=(across * s, down, item)))
        strides = (s * of_row * item, height * of_row * item, item)
        return np.ndarray((count, width, kh * of_row), values.dtype, values, strides=strides)

    def _staged(self, image: int, rows: slice) -> np.ndarray:
        """Return the input rows that some output rows read, between the zeros of the padding: (rows, W + 2 · p, C)."""
        (kh, _), p, channels = self.kernel, self.padding, self.x.shape[3]
        first = rows.start * self.stride - p
        height, across = (rows.stop - rows.start - 1) * self.stride + kh, self.x.shape[2] + 2 * p
        low = min(max(first, 0), self.x.shape[1])  # a block may lie in the padding altogether
        high = min(max(first + height, low), self.x.shape[1])
        above = min(max(low - first, 0), height)
        staged = scratch("staged", height * across * channels, self.x.dtype).reshape(height, across, channels)
        staged[:above] = 0
        staged[above + high - low :] = 0
        inner = staged[above : above + high - low]
        inner[:, :p] = 0
        inner[:, p : p + self.x.shape[2]] = self.x[image, low:high]
        inner[:, p + self.x.shape[2] :] = 0
        return staged

    def _pixels(self, image: int, rows: slice) -> np.ndarray:
        s = self.stride
        down, across = (
            slice(rows.start * s, (rows.stop - 1) * s + 1, s),
            slice(0, (self.size[1] - 1) * s + 1, s),
        )
        return self.x[image, down, across].reshape(-1, self.x.shape[3])


def _grad_weight(
    x: np.ndarray, grad: np.ndarray, shape: tuple[int, ...], stride: int, padding: int, scale: np.ndarray | None
) -> np.ndarray:
    """Return the gradient of :func:`correlate` with respect to the weight, of that ``shape``, before the ``scale``."""
    filters, channels, *kernel = shape
    pointwise = kernel == [1, 1] and stride == 1 and padding == 0
    if pointwise:
        x, grad = (a.reshape(1, -1, 1, a.shape[3]) for a in (x, grad))
    columns = _Columns(x, (kernel[0], kernel[1]), stride, padding, _PARTIAL_SUMS, filters)
    # What needs no copies is one product for each partial sum.
    tasks = [(0, rows) for rows in split_evenly(x.shape[1], _PARTIAL_SUMS)] if pointwise else columns.tasks
    # Fixed blocks and partial sums, whatever the number of threads: the result is always the same.
    groups = [tasks[i::_PARTIAL_SUMS] for i in range(min(_PARTIAL_SUMS, len(tasks)))]
    count = filters * kernel[0] * kernel[1] * channels
    sums = empty((len(groups), filters, count // max(filters, 1)), grad.dtype)

    def run(group: int) -> None:
        for i, task in enumerate(groups[group]):
            into = sums[group] if i == 0 else scratch("product", count, grad.dtype).reshape(sums.shape[1:])
            np.matmul(grad[task].reshape(-1, filters).T, columns.gather(*task), out=into)
            if i:
                sums[group] += into

    parallel_for(range(len(groups)), run)
    total = empty(shape, grad.dtype)

    def finish(some: slice) -> None:
        taps = sums[:, some].sum(axis=0).reshape(-1, *kernel, channels).transpose(0, 3, 1, 2)
        np.multiply(taps, 1 if scale is None else scale[some, None, None, None], out=total[some])

    parallel_for(chunks(filters, max(_FILTER_VALUES // max(sums[:, :1].size, 1), 1)), finish)
    return total


def _grad_input(
    grad: np.ndarray,
    matrix: np.ndarray,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Return the gradient of :func:`correlate` with respect to ``x``: (N, H, W, C)."""
    (kh, kw), filters = kernel, matrix.shape[1]
    taps = matrix.T.reshape(filters, kh, kw, -1)
    if stride == 1 and padding < min(kh, kw) and kh == kw:
        # A convolution again, with the kernel rotated by 180 degrees and its channels exchanged.
        turned = np.ascontiguousarray(taps[:, ::-1, ::-1].transpose(1, 2, 0, 3))
        return correlate(grad, turned.reshape(-1, taps.shape[3]), kernel, 1, kh - 1 - padding)
    total = empty(shape, grad.dtype)
    lattices = [_Lattice(grad, taps, stride, padding, y, x, total) for y in range(stride) for x in range(stride)]
    parallel_for([task for lattice in lattices for task in lattice.tasks()], lambda task: task[0].write(*task[1:]))
    return total


class _Lattice:
    """Every ``stride``-th input pixel, down and across, from (y, x) on: the same taps of the kernel reach all of them.

    Parameters
    ----------
    grad : ndarray of shape (N, P, Q, O)
        Gradient with respect to the output.
    taps : ndarray of shape (O, kh, kw, C)
        The filters.
    total : ndarray of shape (N, H, W, C)
        Where the gradients of the lattice's pixels are written.
    """

    def __init__(
        self, grad: np.ndarray, taps: np.ndarray, stride: int, padding: int, y: int, x: int, total: np.ndarray
    ) -> None:
        self.grad, self.total = grad, total[:, y::stride, x::stride]
        down, across = (
            [(i, (first + padding - i) // stride) for i in range(size) if (first + padding - i) % stride == 0]
            for first, size in ((y, taps.shape[1]), (x, taps.shape[2]))
        )
        # Of each tap, from which output pixel to the first input pixel of the lattice.
        self.shifts = [(dy, dx) for _, dy in down for _, dx in across]
        self.matrix = np.concatenate([taps[:, i, j] for i, _ in down for j, _ in across] or [taps[:0, 0, 0]])

    def tasks(self) -> list[tuple[_Lattice, int, slice]]:
        """Return the arguments of :meth:`write` for all pixels, cut into blocks."""
        images, height, width, channels = self.total.shape
        of_row = width * (len(self.matrix) + channels)
        blocks = chunks(height, max(_BLOCK_VALUES // max(of_row, 1), 1))
        return [(self, image, rows) for image in range(images) for rows in blocks]

    def write(self, image: int, rows: slice) -> None:
        """Compute the gradients of some rows of the lattice, in an image."""
        there = self.total[image, rows]
        if not self.shifts:
            there[...] = 0
            return
        count, width, channels = there.shape
        columns = scratch("columns", count * width * len(self.matrix), there.dtype)
        columns = columns.reshape(count, width, len(self.shifts), self.grad.shape[3])
        for i, (dy, dx) in enumerate(self.shifts):
            _shift(self.grad[image], rows.start + dy, dx, columns[:, :, i])
        values = scratch("values", there.size, there.dtype).reshape(count * width, channels)
        np.matmul(columns.reshape(len(values), len(self.matrix)), self.matrix, out=values)
        there[...] = values.reshape(there.shape)


def _shift(source: np.ndarray, y: int, x: int, out: np.ndarray) -> None:
    """Copy the pixels of ``source`` from (y, x) on to ``out``, and zeros for what lies outside."""
    (height, width), (rows, cols) = source.shape[:2], out.shape[:2]
    top, left = min(max(-y, 0), rows), min(max(-x, 0), cols)
    bottom, right = max(min(height - y, rows), top), max(min(width - x, cols), left)
    out[:top] = 0
    out[bottom:] = 0
    out[top:bottom, :left] = 0
    out[top:bottom, right:] = 0
    out[top:bottom, left:right] = source[y + top : y + bottom, x + left : x + right]


class _ConvTranspose2d(Op):
    """``relu(conv_transpose(x, weight) + bias)``."""

    def __init__(self, stride: int, relu: bool) -> None:
        super().__init__()
        self.stride, self.relu = stride, relu

    def cpu(self, x: Any, weight: Any, bias: Any) -> Any:
        x = nhwc(x)
        n, height, width, channels = x.shape
        _, filters, kh, kw = weight.shape
        s = self.stride
        matrix = np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(channels, -1)  # (C, kh · kw · O)
        out = empty((n, (height - 1) * s + kh, (width - 1) * s + kw, filters), x.dtype)
        zero = np.zeros(matrix.shape[1], x.dtype)
        # Where no two pixels meet, each value is finished before it is put in its place, while it is in cache.
        apart = (kh, kw) == (s, s)
        biases = None if bias is None else np.tile(bias, kh * kw if apart else 1)

        def finish(values: np.ndarray) -> None:
            if biases is not None:
                values += biases
            if self.relu:
                np.maximum(values, zero[: values.shape[-1]], out=values)

        def run(images: slice) -> None:
            part = out[images]
            taps = scratch("taps", (images.stop - images.start) * height * width * matrix.shape[1], x.dtype)
            taps = taps.reshape(len(part) * height * width, matrix.shape[1])
            np.matmul(x[images].reshape(len(taps), channels), matrix, out=taps)
            if apart:
                finish(taps)
            _spread(taps, (height, width), (kh, kw), s, part)
            if not apart:
                finish(part)

        size = max(_BLOCK_VALUES // max(height * width * matrix.shape[1], 1), 1)
        parallel_for(split_evenly(n, max(-(-n // size), 2 * num_threads())), run)

        def backward(grad: np.ndarray) -> tuple[Any, ...]:
            grad = nhwc(grad)
            passed = relu_backward(grad, out, overwrite=self.owns_gradient) if self.relu else grad
            taps = _collect(passed, (n, height, width), (kh, kw), s)  # (N · H · W, kh · kw · O)
            grad_x = nchw(matmul(taps, matrix.T).reshape(x.shape)) if self.needs[0] else None
            grad_w = None
            if self.needs[1]:
                grad_w = matmul(x.reshape(-1, channels).T, taps).reshape(channels, kh, kw, filters)
                grad_w = np.ascontiguousarray(grad_w.transpose(0, 3, 1, 2))
            return grad_x, grad_w, sum_rows(passed.reshape(-1, passed.shape[3])) if self.needs[2] else None

        return nchw(out), backward

    def gpu(self, x: Any, weight: Any, bias: Any) -> Any:
        x, s = nhwc(x), self.stride
        n, height, width, _ = x.shape
        _, filters, *kernel = weight.shape
        size = ((height - 1) * s + kernel[0], (width - 1) * s + kernel[1])
        if 0 in (n, filters):
            return without_values((n, filters, *size), x.dtype, nchw(x), weight, bias)
        # Of a convolution of the result it is the gradient with respect to the input, and the other way around.
        taps = conv_gpu.filters_of(weight, None, keep=not self.needs[1])  # (C, kh, kw, O)
        out = conv_gpu.grad_input(x, taps, s, 0, size)
        if bias is not None:
            out = out + bias.astype(out.dtype)
        if self.relu:
            out = mx.maximum(out, 0)

        def backward(grad: mx.array) -> tuple[Any, ...]:
            grad = nhwc(grad)
            passed = conv_gpu.before_relu(grad, out) if self.relu else grad
            grad_x = nchw(conv_gpu.correlate(passed, taps, s, 0)) if self.needs[0] else None
            grad_w = nchw(conv_gpu.grad_filters(passed, x, (kernel[0], kernel[1]), s, 0)) if self.needs[1] else None
            return grad_x, grad_w, conv_gpu.sum_over_pixels(passed) if self.needs[2] else None

        return nchw(out), backward


def _spread(taps: np.ndarray, size: tuple[int, int], kernel: tuple[int, int], stride: int, out: np.ndarray) -> None:
    """Put each pixel's (kh, kw, O) patch into the enlarged images ``out``; where patches meet they are added."""
    (height, width), (kh, kw) = size, kernel
    patches = taps.reshape(len(out), height, width, kh, kw, out.shape[3])
    apart = kernel == (stride, stride)
    if not apart:
        out.fill(0)
    for y in range(kh):
        for z in range(kw):
            rows, cols = y + (height - 1) * stride + 1, z + (width - 1) * stride + 1
            there = out[:, y:rows:stride, z:cols:stride]
            if apart:
                there[...] = patches[:, :, :, y, z]
            else:
                there += patches[:, :, :, y, z]


def _collect(images: np.ndarray, pixels: tuple[int, int, int], kernel: tuple[int, int], stride: int) -> np.ndarray:
    """Take each pixel's (kh, kw, O) patch out of the enlarged images: the adjoint of :func:`_spread`."""
    (n, height, width), (kh, kw), filters = pixels, kernel, images.shape[3]
    patches = empty((n, height, width, kh, kw, filters), images.dtype)

    def run(some: slice) -> None:
        for y in range(kh):
            for z in range(kw):
                rows, cols = y + (height - 1) * stride + 1, z + (width - 1) * stride + 1
                patches[some, :, :, y, z] = images[some, y:rows:stride, z:cols:stride]

    parallel_for(split_evenly(n, 2 * num_threads()), run)
    return patches.reshape(n * height * width, kh * kw * filters)


class _OneChannel(Op):
    """``x[i] · weight[channels[i]] + bias[channels[i]]`` at every pixel."""

    def cpu(self, x: Any, weight: Any, bias: Any, channels: Any) -> Any:
        x = nhwc(x)
        n, height, width, depth = x.shape
        pixels = x.reshape(n, height * width, depth)
        own = weight[channels, :, 0, 0]  # (N, C)
        out = np.empty((n, height * width), x.dtype)

        def run(image: int) -> None:
            np.matmul(pixels[image], own[image], out=out[image])
            out[image] += bias[channels[image]]

        parallel_for(range(n), run)

        def backward(grad: np.ndarray) -> tuple[Any, ...]:
            flat = np.ascontiguousarray(grad).reshape(out.shape)
            grad_x = empty(x.shape, x.dtype)
            grad_own = np.empty_like(own)

            def differentiate(image: int) -> None:
                np.multiply(flat[image, :, None], own[image], out=grad_x[image].reshape(-1, depth))
                np.matmul(flat[image], pixels[image], out=grad_own[image])

            parallel_for(range(n), differentiate)
            grad_w, grad_b = np.zeros_like(weight), np.zeros_like(bias)
            np.add.at(grad_w[:, :, 0, 0], channels, grad_own)
            np.add.at(grad_b, channels, flat.sum(axis=1))
            return nchw(grad_x), grad_w, grad_b, None

        return out.reshape(n, 1, height, width), backward

    def gpu(self, x: Any, weight: Any, bias: Any, channels: Any) -> Any:
        x = nhwc(x)
        n, height, width, depth = x.shape
        if x.size == 0:
            return without_values((n, 1, height, width), x.dtype, nchw(x), weight, bias, None)
        pixels = x.reshape(n, height * width, depth)
        own = weight[channels, :, 0, 0]  # (N, C)
        out = (pixels @ own[:, :, None])[:, :, 0] + bias[channels][:, None].astype(x.dtype)

        def backward(grad: mx.array) -> tuple[Any, ...]:
            flat = grad.reshape(n, height * width)
            grad_x = nchw((flat[:, :, None] * own[:, None]).reshape(x.shape))
            # Sums over the images of each output as products: without a scatter, and the same every time.
            members = (mx.arange(weight.shape[0])[:, None] == channels).astype(grad.dtype)  # (O, N)
            grad_w = members @ (flat[:, None] @ pixels)[:, 0]
            return grad_x, grad_w.reshape(weight.shape), members @ flat.sum(axis=1), None

        return out.reshape(n, 1, height, width), backward


def one_channel(x: Tensor, weight: Tensor, bias: Tensor, channels: Tensor) -> Tensor:
    """Compute one output channel of a 1×1 convolution for each image.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        ``N = 0`` is allowed.
    weight : Tensor of shape (O, C, 1, 1)
        The filters.
    bias : Tensor of shape (O,)
        Added to each output channel.
    channels : Tensor of shape (N,), int32
        Which of the O outputs each image gets.

    Returns
    -------
    Tensor of shape (N, 1, H, W)
        ``conv2d(x, weight, bias)[i, channels[i]]`` for each image i.

    Raises
    ------
    ValueError
        If the shapes do not fit or, on cpu, a channel is not one of the O.
    """
    check_tensor("x", x, _IMAGES)
    check_tensor("weight", weight, ("O", x.shape[1], 1, 1))
    check_tensor("bias", bias, (weight.shape[0],))
    index_tensor("channels", channels, x.shape[0])
    check_range_on_cpu("channels", channels, weight.shape[0], "outputs")
    return _OneChannel()(x, weight, bias, channels)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Convolve, then add bias and residual and apply ReLU, in one operator.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        Fastest as a channels-last view; another layout is copied once. ``N = 0`` is allowed.
    weight : Tensor of shape (O, C, kh, kw)
        The filters.
    bias : Tensor of shape (O,), optional
        Added to each output channel.
    stride, padding : int
        The same for both axes, at most 1024; the padding is zeros.
    scale : Tensor of shape (O,), optional
        Multiplies the filters: a frozen batch norm is a scale and a bias. It gets no gradient.
    residual : Tensor of shape (N, O, P, Q), optional
        Added before the ReLU: the shortcut of a residual block.
    relu : bool
        Whether negative results become 0.

    Returns
    -------
    Tensor of shape (N, O, P, Q)
        A channels-last view, ``P = (H + 2 · padding - kh) // stride + 1`` and Q likewise.

    Raises
    ------
    ValueError
        If the shapes do not fit or a setting is out of range.
    """
    check_tensor("x", x, _IMAGES)
    kernel = _check_weight(weight, ("O", x.shape[1], "kh", "kw"))
    stride, padding = positive_int("stride", stride, _MAX_STEP), non_negative_int("padding", padding, _MAX_STEP)
    height, width = size = _out_size((x.shape[2], x.shape[3]), kernel, stride, padding)
    if min(size) < 1:
        raise ValueError(
            f"x must be at least as large as the {kernel[0]} × {kernel[1]} kernel of weight, got {x.shape[2]} × "
            f"{x.shape[3]} pixels with padding {padding}."
        )
    filters = weight.shape[0]
    for name, tensor, shape in (
        ("bias", bias, (filters,)),
        ("scale", scale, (filters,)),
        ("residual", residual, (x.shape[0], filters, height, width)),
    ):
        if tensor is not None:
            check_tensor(name, tensor, shape)
    return _Conv2d(stride, padding, flag("relu", relu))(x, weight, bias, scale, residual)


def _check_weight(weight: Tensor, shape: tuple[int | str, ...]) -> tuple[int, int]:
    """Return the size of the kernel."""
    check_tensor("weight", weight, shape)
    height, width = weight.shape[2:]
    if 0 in (height, width):
        raise ValueError(f"weight must have a kernel of at least 1 × 1, got shape {tuple(weight.shape)}.")
    return height, width


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, relu: bool = False
) -> Tensor:
    """Convolve transposed (enlarge by ``stride``), add the bias and apply ReLU, in one operator.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        ``N = 0`` is allowed.
    weight : Tensor of shape (C, O, kh, kw)
        The filters, in PyTorch's order of axes.
    bias : Tensor of shape (O,), optional
        Added to each output channel.
    stride : int
        Output pixels per input pixel.
    relu : bool
        Whether negative results become 0.

    Returns
    -------
    Tensor of shape (N, O, (H - 1) · stride + kh, (W - 1) · stride + kw)
        A channels-last view.

    Raises
    ------
    ValueError
        If the shapes do not fit or a setting is out of range.
    """
    check_tensor("x", x, _IMAGES)
    if 0 in x.shape[2:]:
        raise ValueError(f"x must have a pixel to enlarge, got shape {tuple(x.shape)}.")
    _check_weight(weight, (x.shape[1], "O", "kh", "kw"))
    if bias is not None:
        check_tensor("bias", bias, (weight.shape[1],))
    return _ConvTranspose2d(positive_int("stride", stride, _MAX_STEP), flag("relu", relu))(x, weight, bias)
