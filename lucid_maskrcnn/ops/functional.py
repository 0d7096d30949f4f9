"""The network's other layers: linear, batch norm, pooling, top-down addition, dropout, reshapings.

Shapes: N images, C channels, H × W pixels, R rows, D and O features, A anchors per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lucid
import mlx.core as mx
import numpy as np
from lucid import Tensor

from ._memory import empty, empty_like, zeros
from ._operation import Op, as_tensor
from ._parallel import chunks, copy, matmul, parallel_for, relu_backward, scratch, sum_rows
from .layout import nchw, nearest, nhwc, over_rows, with_vjp

__all__ = [
    "add_scalars",
    "batch_norm",
    "concat_anchors",
    "dropout",
    "flatten",
    "fold_batch_norm",
    "linear",
    "max_pool2d",
    "subsample",
    "upsample_add",
]


_add_at: Any = np.add.at  # NumPy's types know only index arrays, not tuples with slices
_BLOCK_VALUES = 1 << 16  # values of a block of element-wise work: a few of them fit the cache


# ------------------------------------------------------------------ linear


class _Linear(Op):
    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.relu = relu

    def cpu(self, x: Any, weight: Any, bias: Any) -> Any:
        out = matmul(x, weight.T)
        zero = np.zeros_like(bias)

        def finish(rows: slice) -> None:
            part = out[rows]
            part += bias
            if self.relu:
                np.maximum(part, zero, out=part)

        parallel_for(chunks(len(out), _BLOCK_VALUES // max(len(bias), 1)), finish)

        def backward(grad: np.ndarray) -> tuple[Any, ...]:
            grad = relu_backward(np.ascontiguousarray(grad), out) if self.relu else grad
            grad_x = matmul(grad, weight) if self.needs[0] else None
            grad_w = matmul(grad.T, x) if self.needs[1] else None
            return grad_x, grad_w, sum_rows(grad)

        return out, backward

    def gpu(self, x: Any, weight: Any, bias: Any) -> Any:
        def run(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
            out = x @ weight.T + bias
            return mx.maximum(out, 0) if self.relu else out

        return with_vjp(run, x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """Return ``x · weightᵀ + bias``, with ReLU if asked for.

    Parameters
    ----------
    x : Tensor of shape (R, D)
        ``R = 0`` is allowed.
    weight : Tensor of shape (O, D)
        One row per output.
    bias : Tensor of shape (O,)
        Added to each row of the result.
    relu : bool
        Whether negative results become 0.

    Returns
    -------
    Tensor of shape (R, O)

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(
            f"linear takes x (R, D), weight (O, D) and bias (O,), got {tuple(x.shape)}, {tuple(weight.shape)} and "
            f"{tuple(bias.shape)}."
        )
    return _Linear(relu)(x, weight, bias)


# ------------------------------------------------------------------ batch norm


class _BatchNorm(Op):
    """``relu((x - mean) / std · weight + bias + residual)``; the statistics of the batch unless given."""

    def __init__(self, eps: float, relu: bool) -> None:
        super().__init__()
        self.eps, self.relu = eps, relu
        self.batch_mean: Any = None
        self.batch_var: Any = None

    def cpu(self, x: Any, weight: Any, bias: Any, residual: Any, mean: Any, var: Any) -> Any:
        x = nhwc(x)
        n, height, width, channels = x.shape
        count = max(n * height * width, 1)
        rows = x.reshape(n * height, width * channels)
        blocks = chunks(len(rows), _BLOCK_VALUES // max(rows.shape[1], 1))
        live = mean is None
        if live:
            mean, var = _moments(rows, blocks, channels)
            self.batch_mean, self.batch_var = mean, var
        inverse = 1 / np.sqrt(var + x.dtype.type(self.eps))
        mean_row, inverse_row = over_rows(mean, width), over_rows(inverse, width)
        slope_row, bias_row = (
            over_rows(inverse * weight, width),
            over_rows(bias - mean * inverse * weight, width),
        )
        residual_rows = None if residual is None else nhwc(residual).reshape(rows.shape)
        out = empty_like(rows)
        zero = np.zeros(rows.shape[1], x.dtype)

        def normalise(block: slice) -> None:
            part = np.multiply(rows[block], slope_row, out=out[block])
            part += bias_row
            if residual_rows is not None:
                part += residual_rows[block]
            if self.relu:
                np.maximum(part, zero, out=part)

        parallel_for(blocks, normalise)

        def backward(grad: np.ndarray) -> tuple[Any, ...]:
            incoming = nhwc(grad).reshape(rows.shape)
            passed = empty_like(rows)  # through the ReLU
            sums = np.zeros((len(blocks), 2, channels), x.dtype)

            def reduce(i: int) -> None:
                block = blocks[i]
                part = passed[block]
                if self.relu:
                    np.multiply(incoming[block], out[block] > 0, out=part)
                else:
                    part[...] = incoming[block]
                normal = rows[block] - mean_row
                normal *= inverse_row
                normal *= part
                sums[i, 0] = part.sum(axis=0).reshape(width, channels).sum(axis=0)
                sums[i, 1] = normal.sum(axis=0).reshape(width, channels).sum(axis=0)

            parallel_for(range(len(blocks)), reduce)
            grad_b, grad_w = sums.sum(axis=0)
            grad_x = None
            if self.needs[0]:
                inner = empty_like(rows)
                # (passed - mean(passed) - normal · mean(passed · normal)) · weight / std, gathered by factor
                of_x = over_rows(-grad_w / count * inverse * inverse * weight, width)
                constant = over_rows((-grad_b / count + mean * inverse * grad_w / count) * inverse * weight, width)

                def differentiate(block: slice) -> None:
                    part = np.multiply(passed[block], slope_row, out=inner[block])
                    if live:
                        part += rows[block] * of_x
                        part += constant

                parallel_for(blocks, differentiate)
                grad_x = nchw(inner.reshape(x.shape))
            grad_r = None if residual is None else nchw(passed.reshape(x.shape))
            return grad_x, grad_w, grad_b, grad_r, None, None

        return nchw(out.reshape(x.shape)), backward

    def gpu(self, x: Any, weight: Any, bias: Any, residual: Any, mean: Any, var: Any) -> Any:
        if mean is None:
            self.batch_mean = x.mean(axis=(0, 2, 3))
            self.batch_var = x.var(axis=(0, 2, 3))

        def run(x: mx.array, weight: mx.array, bias: mx.array, residual: mx.array | None) -> mx.array:
            m = x.mean(axis=(0, 2, 3), keepdims=True) if mean is None else mean[:, None, None]
            v = x.var(axis=(0, 2, 3), keepdims=True) if mean is None else var[:, None, None]
            out = (x - m) * mx.rsqrt(v + self.eps) * weight[:, None, None] + bias[:, None, None]
            out = out if residual is None else out + residual
            return mx.maximum(out, 0) if self.relu else out

        out, vjp = with_vjp(run, x, weight, bias, residual)
        return out, lambda grad: [*vjp(grad), None, None]


def _moments(rows: np.ndarray, blocks: list[slice], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel of (N · H, W · C), block by block, in one pass over the memory.

    Each block is centred on its own mean (Chan et al. 1979): no cancellation, and the same result for
    any number of threads.
    """
    counts = np.array([(b.stop - b.start) * rows.shape[1] // channels for b in blocks], rows.dtype)[:, None]
    means, squares = (np.empty((len(blocks), channels), rows.dtype) for _ in range(2))

    def measure(i: int) -> None:
        block = rows[blocks[i]]
        width = block.shape[1] // channels
        means[i] = block.sum(axis=0).reshape(width, channels).sum(axis=0) / counts[i]
        centred = block - over_rows(means[i], width)
        squares[i] = np.square(centred, out=centred).sum(axis=0).reshape(width, channels).sum(axis=0)

    parallel_for(range(len(blocks)), measure)
    total = counts.sum()
    mean = (means * counts).sum(axis=0) / total
    return mean, (squares.sum(axis=0) + (counts * np.square(means - mean)).sum(axis=0)) / total


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Normalise each channel, then add the residual and apply ReLU (Ioffe and Szegedy 2015).

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        What a convolution gave.
    weight, bias : Tensor of shape (C,)
        Scale and offset, trained.
    running_mean, running_var : Tensor of shape (C,)
        Used if not ``training``; otherwise moved towards the batch's statistics by ``momentum``
        (the variance unbiased, as in PyTorch).
    training : bool
        Whether to use the batch's statistics.
    momentum, eps : float
        Share of the batch in the running statistics; added to the variance.
    residual : Tensor of shape (N, C, H, W), optional
        Added before the ReLU.
    relu : bool
        Whether negative results become 0.

    Returns
    -------
    Tensor of shape (N, C, H, W)

    Raises
    ------
    ValueError
        If the batch's statistics are asked for and each channel has fewer than two values.
    """
    count = x.shape[0] * x.shape[2] * x.shape[3]
    if not training:
        return _BatchNorm(eps, relu)(x, weight, bias, residual, running_mean, running_var)
    if count < 2:
        raise ValueError(f"batch_norm needs at least two values per channel to train, got x of shape {tuple(x.shape)}.")
    op = _BatchNorm(eps, relu)
    out = op(x, weight, bias, residual, None, None)
    unbiased = op.batch_var * (count / (count - 1))
    running_mean.data = running_mean.data * (1 - momentum) + op.batch_mean * momentum
    running_var.data = running_var.data * (1 - momentum) + unbiased * momentum
    return out


class _FoldBatchNorm(Op):
    differentiable = False

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def cpu(self, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        scale = weight / (var + self.eps) ** 0.5
        return scale, bias - mean * scale

    gpu = cpu


def fold_batch_norm(
    weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the scale and the bias, each ``(C,)``, that batch norm with fixed statistics amounts to."""
    return _FoldBatchNorm(eps)(weight, bias, running_mean, running_var)


# ------------------------------------------------------------------ pooling and the top-down path


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
            # Over rows first, then over columns, with a border that never wins.
            image, block = task
            tall = scratch("tall", (block.stop - block.start) * (width + 2 * p) * channels, x.dtype)
            tall = tall.reshape(-1, width + 2 * p, channels)
            tall.fill(-np.inf)
            inner = tall[:, p : p + width]
            for i in range(k):
                of_block, there = _met(block, i - p, s, height)
                np.maximum(inner[of_block], x[image, there], out=inner[of_block])
            wide = out[image, block]
            end = (size[1] - 1) * s + 1
            np.copyto(wide, tall[:, :end:s])
            for j in range(1, k):
                np.maximum(wide, tall[:, j : j + end : s], out=wide)

        parallel_for([(i, block) for i in range(n) for block in chunks(size[0], rows)], pool)

        def backward(grad: np.ndarray) -> tuple[Any]:
            rest = nhwc(grad).copy()  # what no earlier tap of the window has claimed
            padded = np.full((n, height + 2 * p, width + 2 * p, channels), -np.inf, x.dtype)
            padded[:, p : p + height, p : p + width] = x
            total = np.zeros_like(padded)
            for rows, cols in self._taps(padded.shape):
                hit = padded[:, rows, cols] == out
                share = rest * hit
                total[:, rows, cols] += share
                rest -= share
            return (nchw(np.ascontiguousarray(total[:, p : p + height, p : p + width])),)

        return nchw(out), backward

    def gpu(self, x: Any) -> Any:
        def run(x: mx.array) -> mx.array:
            p = self.padding
            padded = mx.pad(nhwc(x), [(0, 0), (p, p), (p, p), (0, 0)], constant_values=-np.inf)
            return nchw(self._windows(padded))

        return with_vjp(run, x)

    def _taps(self, shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
        """For each place in the window, the rows and columns of the padded image that it meets."""
        ends = [((n - self.kernel) // self.stride) * self.stride + 1 for n in shape[1:3]]
        return [
            (slice(i, i + ends[0], self.stride), slice(j, j + ends[1], self.stride))
            for i in range(self.kernel)
            for j in range(self.kernel)
        ]

    def _windows(self, padded: mx.array) -> mx.array:
        """Largest value under each window: over rows first, then over columns."""
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


def _met(block: slice, offset: int, stride: int, size: int) -> tuple[slice, slice]:
    """Of a block of output rows: which of them read an input row inside 0 … size - 1, and those input rows."""
    low = min(max(block.start, -(offset // stride)), block.stop)
    high = max(low, min(block.stop, (size - 1 - offset) // stride + 1))
    first = low * stride + offset
    return slice(low - block.start, high - block.start), slice(first, first + (high - low) * stride, stride)


def max_pool2d(x: Tensor, kernel_size: int, *, stride: int, padding: int = 0) -> Tensor:
    """Return the largest value under each window; pixels outside the image never win.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        Of equal pixels one gets the gradient: on cpu the first in row order.
    kernel_size, stride, padding : int
        The same for both axes.

    Returns
    -------
    Tensor of shape (N, C, P, Q)

    Raises
    ------
    ValueError
        If the image is smaller than the window.
    """
    if min(x.shape[2:]) + 2 * padding < kernel_size:
        raise ValueError(f"x of {x.shape[2]} × {x.shape[3]} pixels is smaller than max_pool2d's {kernel_size}.")
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
        return with_vjp(lambda x: x[:, :, ::2, ::2], x)


def subsample(x: Tensor) -> Tensor:
    """Return every second row and column of ``x`` (N, C, H, W): how P6 comes from P5 (Lin et al. 2017)."""
    return _Subsample()(x)


class _UpsampleAdd(Op):
    def cpu(self, coarse: Any, fine: Any) -> Any:
        low, high = nhwc(coarse), nhwc(fine)
        (n, h, w, c), (height, width) = low.shape, high.shape[1:3]
        doubled = (height, width) == (2 * h, 2 * w)
        rows, cols = nearest(h, height), nearest(w, width)
        out = empty(high.shape, high.dtype)
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
            if doubled:
                total = empty(low.shape, grad.dtype)

                def collect(task: tuple[int, slice]) -> None:
                    image, block = task
                    split = grad[image].reshape(h, 2, w, 2, c)[block]
                    there = total[image, block]
                    np.add(split[:, 0, :, 0], split[:, 0, :, 1], out=there)
                    there += split[:, 1, :, 0]
                    there += split[:, 1, :, 1]

                parallel_for(tasks, collect)
            else:
                by_row = np.zeros((n, h, width, c), grad.dtype)
                _add_at(by_row, (slice(None), rows), grad)
                total = np.zeros(low.shape, grad.dtype)
                _add_at(total, (slice(None), slice(None), cols), by_row)
            return nchw(total), nchw(copy(grad))

        return nchw(out), backward

    def gpu(self, coarse: Any, fine: Any) -> Any:
        rows = mx.array(nearest(coarse.shape[2], fine.shape[2]))
        cols = mx.array(nearest(coarse.shape[3], fine.shape[3]))
        return with_vjp(lambda coarse, fine: coarse[:, :, rows][:, :, :, cols] + fine, coarse, fine)


def upsample_add(coarse: Tensor, fine: Tensor) -> Tensor:
    """Enlarge ``coarse`` (N, C, h, w) to the size of ``fine`` (N, C, H, W) by nearest neighbour and add them.

    The top-down path of a feature pyramid (Lin et al. 2017, section 3).

    Raises
    ------
    ValueError
        If batch or channels differ.
    """
    if tuple(coarse.shape[:2]) != tuple(fine.shape[:2]):
        raise ValueError(
            f"coarse and fine must have the same batch and channels, got {tuple(coarse.shape)} and {tuple(fine.shape)}."
        )
    return _UpsampleAdd()(coarse, fine)


# ------------------------------------------------------------------ reshapings, dropout, sums


class _Flatten(Op):
    def cpu(self, x: Any) -> Any:
        def backward(grad: np.ndarray) -> tuple[Any]:
            return (nchw(copy(grad.reshape(x.shape).transpose(0, 2, 3, 1))),)

        return copy(x).reshape(x.shape[0], int(np.prod(x.shape[1:]))), backward

    def gpu(self, x: Any) -> Any:
        return with_vjp(lambda x: x.reshape(x.shape[0], int(np.prod(x.shape[1:]))), x)


def flatten(x: Tensor) -> Tensor:
    """Return ``x`` (R, C, H, W) as (R, C · H · W), channels slowest."""
    return _Flatten()(x)


class _ConcatAnchors(Op):
    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values

    def cpu(self, *maps: Any) -> Any:
        flat = [nhwc(m).reshape(self._shape(m)) for m in maps]
        ends = np.cumsum([f.shape[1] for f in flat])

        def backward(grad: np.ndarray) -> list[Any]:
            parts = np.split(grad, ends[:-1], axis=1)
            return [
                nchw(copy(p).reshape(m.shape[0], *m.shape[2:], m.shape[1])) for p, m in zip(parts, maps, strict=True)
            ]

        return np.concatenate(flat, axis=1), backward

    def gpu(self, *maps: Any) -> Any:
        def run(*maps: mx.array) -> mx.array:
            return mx.concatenate([nhwc(m).reshape(self._shape(m)) for m in maps], axis=1)

        return with_vjp(run, *maps)

    def _shape(self, features: Any) -> tuple[int, int, int]:
        n, channels, height, width = features.shape
        return n, height * width * channels // self.values, self.values


def concat_anchors(maps: Sequence[Tensor], values: int) -> Tensor:
    """Line up what a head says of each anchor, over all levels.

    Parameters
    ----------
    maps : sequence of Tensor of shape (N, A · values, H, W)
        One per level.
    values : int
        Numbers per anchor: 1 logit or 4 deltas.

    Returns
    -------
    Tensor of shape (N, anchors, values)
        In the anchors' order: level, row, column, shape.
    """
    return _ConcatAnchors(values)(*maps)


class _Dropout(Op):
    def cpu(self, x: Any, keep: Any) -> Any:
        return x * keep, lambda grad: (grad * keep, None)

    gpu = cpu


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each value with probability ``p`` and divide the others by ``1 - p``; draws from Lucid's generator."""
    kept = np.asarray(lucid.random.rand(*x.shape).data) >= p
    return _Dropout()(x, as_tensor(kept * np.float32(1 / (1 - p)), x))


class _AddScalars(Op):
    def cpu(self, *terms: Any) -> Any:
        return np.asarray(sum(terms)), lambda grad: [grad.copy() for _ in terms]

    def gpu(self, *terms: Any) -> Any:
        return sum(terms[1:], terms[0]), lambda grad: [mx.array(grad) for _ in terms]


def add_scalars(*terms: Tensor) -> Tensor:
    """Return the sum of 0-d tensors, as a 0-d tensor."""
    return _AddScalars()(*terms)
