"""Batch norm with statistics of the batch or fixed ones, and what it amounts to when it is folded into a convolution.

Shapes: N images, C channels, H × W pixels. On cpu ``rows`` are rows of pixels of all images, (N · H, W · C), worked
on in ``blocks`` of them; a ``_row`` is a value for each channel, repeated for each pixel of a row: (W · C,).

Names: ``mean`` and ``var`` are the statistics of each channel, (C,), ``inverse`` is 1 / standard deviation,
``slope`` is ``weight · inverse``, ``normal`` a value less its mean, divided by its standard deviation. ``passed`` is
the gradient before the ReLU.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import flag, fraction, non_negative_number

from . import conv_gpu
from ._checks import check_tensor
from ._memory import empty_like
from ._operation import Op
from ._parallel import chunks, parallel_for
from .kept_gpu import kept
from .layout import nchw, nhwc, over_rows, without_values

__all__ = ["batch_norm", "fold_batch_norm"]

_BLOCK_VALUES = 1 << 16  # values of a block of element-wise work: a few of them fit the cache


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
        rows = x.reshape(n * height, width * channels)
        blocks = chunks(len(rows), max(_BLOCK_VALUES // max(rows.shape[1], 1), 1))
        live = mean is None
        if live:
            mean, var = _moments(rows, blocks, channels)
            self.batch_mean, self.batch_var = mean, var
        inverse = 1 / np.sqrt(var + x.dtype.type(self.eps))
        slope_row = over_rows(inverse * weight, width)
        bias_row = over_rows(bias - mean * inverse * weight, width)
        residual_rows = None if residual is None else nhwc(residual).reshape(rows.shape)
        out = _scale_and_shift(rows, blocks, slope_row, bias_row, residual_rows, self.relu)

        def backward(grad: np.ndarray) -> tuple[Any, ...]:
            passed, grad_w, grad_b = _backward_sums(
                nhwc(grad).reshape(rows.shape), out if self.relu else None, rows, blocks, mean, inverse
            )
            grad_x = None
            if self.needs[0]:
                count = max(n * height * width, 1)
                # (passed - mean(passed) - normal · mean(passed · normal)) · weight / std, gathered by factor
                of_x = over_rows(-grad_w / count * inverse * inverse * weight, width)
                constant = over_rows((-grad_b / count + mean * inverse * grad_w / count) * inverse * weight, width)
                of_batch = (of_x, constant) if live else None
                grad_x = nchw(_grad_input(passed, rows, blocks, slope_row, of_batch).reshape(x.shape))
            grad_r = None if residual is None else nchw(passed.reshape(x.shape))
            return grad_x, grad_w, grad_b, grad_r, None, None

        return nchw(out.reshape(x.shape)), backward

    def gpu(self, x: Any, weight: Any, bias: Any, residual: Any, mean: Any, var: Any) -> Any:
        if x.size == 0:
            return without_values(x.shape, x.dtype, x, weight, bias, residual, None, None)
        x, live = nhwc(x), mean is None
        if live:
            wide = x.astype(mx.float32)
            mean, var = wide.mean(axis=(0, 1, 2)), wide.var(axis=(0, 1, 2))
            self.batch_mean, self.batch_var = mean, var
        inverse = mx.rsqrt(var + self.eps)
        slope = inverse * weight
        out = (x * slope + (bias - mean * slope)).astype(x.dtype)
        if residual is not None:
            out = out + nhwc(residual)
        if self.relu:
            out = mx.maximum(out, 0)

        def backward(grad: mx.array) -> tuple[Any, ...]:
            grad = nhwc(grad)
            passed = conv_gpu.before_relu(grad, out) if self.relu else grad
            normal = (x - mean) * inverse
            grad_w, grad_b = conv_gpu.sum_over_pixels(passed * normal), conv_gpu.sum_over_pixels(passed)
            grad_x = None
            if self.needs[0]:
                count = x.size // x.shape[3]
                of_batch = grad_b / count + normal * (grad_w / count) if live else 0
                grad_x = nchw(((passed - of_batch) * slope).astype(x.dtype))
            return grad_x, grad_w, grad_b, None if residual is None else nchw(passed), None, None

        return nchw(out), backward


def _scale_and_shift(
    rows: np.ndarray,
    blocks: list[slice],
    slope_row: np.ndarray,
    bias_row: np.ndarray,
    residual: np.ndarray | None,
    relu: bool,
) -> np.ndarray:
    """Return ``relu(rows · slope + bias + residual)``."""
    out = empty_like(rows)
    zero = np.zeros(rows.shape[1], rows.dtype)

    def run(block: slice) -> None:
        part = np.multiply(rows[block], slope_row, out=out[block])
        part += bias_row
        if residual is not None:
            part += residual[block]
        if relu:
            np.maximum(part, zero, out=part)

    parallel_for(blocks, run)
    return out


def _backward_sums(
    grad: np.ndarray,
    out: np.ndarray | None,
    rows: np.ndarray,
    blocks: list[slice],
    mean: np.ndarray,
    inverse: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradient before the ReLU that gave ``out`` (if any), and those of weight and bias."""
    channels = len(mean)
    width = rows.shape[1] // channels
    mean_row, inverse_row = over_rows(mean, width), over_rows(inverse, width)
    passed = empty_like(rows)
    sums = np.zeros((len(blocks), 2, channels), rows.dtype)

    def run(i: int) -> None:
        block = blocks[i]
        part = passed[block]
        if out is not None:
            np.multiply(grad[block], out[block] > 0, out=part)
        else:
            part[...] = grad[block]
        normal = rows[block] - mean_row
        normal *= inverse_row
        normal *= part
        sums[i, 0] = part.sum(axis=0).reshape(width, channels).sum(axis=0)
        sums[i, 1] = normal.sum(axis=0).reshape(width, channels).sum(axis=0)

    parallel_for(range(len(blocks)), run)
    grad_b, grad_w = sums.sum(axis=0)
    return passed, grad_w, grad_b


def _grad_input(
    passed: np.ndarray,
    rows: np.ndarray,
    blocks: list[slice],
    slope_row: np.ndarray,
    of_batch: tuple[np.ndarray, np.ndarray] | None,
) -> np.ndarray:
    """Return ``passed · slope``, and what goes through the batch's statistics: ``rows · of_batch[0] + of_batch[1]``."""
    grad = empty_like(rows)

    def run(block: slice) -> None:
        part = np.multiply(passed[block], slope_row, out=grad[block])
        if of_batch is not None:
            part += rows[block] * of_batch[0]
            part += of_batch[1]

    parallel_for(blocks, run)
    return grad


def _moments(rows: np.ndarray, blocks: list[slice], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel of (N · H, W · C), block by block, in one pass over the memory.

    Each block is centerd on its own mean (Chan et al. 1979): no cancellation, and the same result for
    any number of threads.
    """
    counts = np.array([(b.stop - b.start) * rows.shape[1] // channels for b in blocks], rows.dtype)[:, None]
    means, squares = (np.empty((len(blocks), channels), rows.dtype) for _ in range(2))

    def measure(i: int) -> None:
        block = rows[blocks[i]]
        width = block.shape[1] // channels
        means[i] = block.sum(axis=0).reshape(width, channels).sum(axis=0) / counts[i]
        centerd = block - over_rows(means[i], width)
        squares[i] = np.square(centerd, out=centerd).sum(axis=0).reshape(width, channels).sum(axis=0)

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
    """Normalize each channel, then add the residual and apply ReLU (Ioffe and Szegedy 2015).

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
        Fraction of the batch in the running statistics; added to the variance.
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
    check_tensor("x", x, ("N", "C", "H", "W"))
    _check_channels(x.shape[1], weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if residual is not None:
        check_tensor("residual", residual, tuple(x.shape))
    momentum, eps = fraction("momentum", momentum), non_negative_number("eps", eps)
    flag("relu", relu)
    count = x.shape[0] * x.shape[2] * x.shape[3]
    if not flag("training", training):
        return _BatchNorm(eps, relu)(x, weight, bias, residual, running_mean, running_var)
    if count < 2:
        raise ValueError(f"batch_norm needs at least two values per channel to train, got x of shape {tuple(x.shape)}.")
    op = _BatchNorm(eps, relu)
    out = op(x, weight, bias, residual, None, None)
    unbiased = op.batch_var * (count / (count - 1))
    running_mean.data = running_mean.data * (1 - momentum) + op.batch_mean * momentum
    running_var.data = running_var.data * (1 - momentum) + unbiased * momentum
    return out


def _check_channels(channels: int, **vectors: Tensor) -> None:
    for name, vector in vectors.items():
        check_tensor(name, vector, (channels,))


class _FoldBatchNorm(Op):
    differentiable = False

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def cpu(self, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        return self._fold(weight, bias, mean, var)

    def gpu(self, *arrays: Any) -> Any:
        return kept(("fold", self.eps), self._fold, *arrays)

    def _fold(self, weight: Any, bias: Any, mean: Any, var: Any) -> tuple[Any, Any]:
        scale = weight / (var + self.eps) ** 0.5
        return scale, bias - mean * scale


def fold_batch_norm(
    weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the scale and the bias, each ``(C,)``, that batch norm with fixed statistics amounts to."""
    check_tensor("weight", weight, ("C",))
    _check_channels(weight.shape[0], bias=bias, running_mean=running_mean, running_var=running_var)
    return _FoldBatchNorm(non_negative_number("eps", eps))(weight, bias, running_mean, running_var)
