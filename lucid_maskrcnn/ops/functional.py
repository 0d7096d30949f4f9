"""The network's other layers: linear, reshapings, dropout and the sum of the losses.

Shapes: N images, C channels, H × W pixels, R rows (or RoIs), D input and O output features, A anchors per position.

Names: ``maps`` are a head's outputs on each level of the pyramid, ``values`` how many of them an anchor has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lucid
import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import flag, fraction_below_one, non_negative_number, positive_int

from . import conv_gpu
from ._checks import check_tensor, tensors
from ._operation import Op, as_tensor
from ._parallel import chunks, copy, matmul, parallel_for, relu_backward, sum_rows
from .layout import nchw, nhwc, without_values

__all__ = ["add_scalars", "concat_anchors", "dropout", "flatten", "linear", "scale_scalar"]

_BLOCK_VALUES = 1 << 16  # values of a block of element-wise work: a few of them fit the cache


# ------------------------------------------------------------------ linear


class _Linear(Op):
    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.relu = relu

    def cpu(self, x: Any, weight: Any, bias: Any) -> Any:
        out = matmul(x, weight.T)
        zero = np.zeros(len(weight), out.dtype)

        def finish(rows: slice) -> None:
            part = out[rows]
            if bias is not None:
                part += bias
            if self.relu:
                np.maximum(part, zero, out=part)

        if bias is not None or self.relu:
            parallel_for(chunks(len(out), max(_BLOCK_VALUES // max(len(weight), 1), 1)), finish)

        def backward(grad: np.ndarray) -> tuple[Any, ...]:
            if self.relu:
                grad = relu_backward(np.ascontiguousarray(grad), out, overwrite=self.owns_gradient)
            grad_x = matmul(grad, weight) if self.needs[0] else None
            grad_w = matmul(grad.T, x) if self.needs[1] else None
            return grad_x, grad_w, sum_rows(grad) if self.needs[2] else None

        return out, backward

    def gpu(self, x: Any, weight: Any, bias: Any) -> Any:
        shape = (x.shape[0], weight.shape[0])
        if 0 in shape:
            return without_values(shape, x.dtype, x, weight, bias)
        out = conv_gpu.product(x, weight.T, bias)
        if self.relu:
            out = mx.maximum(out, 0)

        def backward(grad: mx.array) -> tuple[Any, ...]:
            passed = conv_gpu.before_relu(grad, out) if self.relu else grad
            grad_x = passed @ weight if self.needs[0] else None
            grad_w = passed.T @ x if self.needs[1] else None
            return grad_x, grad_w, passed.sum(axis=0) if self.needs[2] else None

        return out, backward


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Return ``x · weightᵀ + bias``, with ReLU if asked for.

    Parameters
    ----------
    x : Tensor of shape (R, D)
        ``R = 0`` is allowed.
    weight : Tensor of shape (O, D)
        One row per output.
    bias : Tensor of shape (O,), optional
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
    check_tensor("x", x, ("R", "D"))
    check_tensor("weight", weight, ("O", x.shape[1]))
    if bias is not None:
        check_tensor("bias", bias, (weight.shape[0],))
    return _Linear(flag("relu", relu))(x, weight, bias)


# ------------------------------------------------------------------ reshapings


class _Flatten(Op):
    def cpu(self, x: Any) -> Any:
        shape = x.shape  # and not the values, which are free then

        def backward(grad: np.ndarray) -> tuple[Any]:
            return (nchw(copy(grad.reshape(shape).transpose(0, 2, 3, 1))),)

        return copy(x).reshape(shape[0], int(np.prod(shape[1:]))), backward

    def gpu(self, x: Any) -> Any:
        return x.reshape(x.shape[0], int(np.prod(x.shape[1:]))), lambda grad: (grad.reshape(x.shape),)


def flatten(x: Tensor) -> Tensor:
    """Return ``x`` (R, C, H, W) as (R, C · H · W), channels slowest."""
    check_tensor("x", x, ("R", "C", "H", "W"))
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
        flat = [nhwc(m).reshape(self._shape(m)) for m in maps]
        ends = np.cumsum([f.shape[1] for f in flat]).tolist()
        shapes = [nhwc(m).shape for m in maps]

        def backward(grad: mx.array) -> list[Any]:
            parts = mx.split(grad, ends[:-1], axis=1)
            return [nchw(p.reshape(shape)) for p, shape in zip(parts, shapes, strict=True)]

        return mx.concatenate(flat, axis=1), backward

    def _shape(self, features: Any) -> tuple[int, int, int]:
        n, channels, height, width = features.shape
        return n, height * width * channels // self.values, self.values


def concat_anchors(maps: Sequence[Tensor], values: int) -> Tensor:
    """Put a head's outputs of all levels into one tensor with a row for each anchor.

    Parameters
    ----------
    maps : sequence of Tensor of shape (N, A · values, H, W)
        One per level.
    values : int
        Numbers per anchor: 1 logit or 4 deltas.

    Returns
    -------
    Tensor of shape (N, anchors, values)
        In the order of :func:`grid_anchors`: level, row, column, anchor of the position.
    """
    maps, values = tensors("maps", maps), positive_int("values", values, 2**31 - 1)
    for i, features in enumerate(maps):
        check_tensor(f"maps[{i}]", features, ("N" if i == 0 else maps[0].shape[0], "C", "H", "W"))
        if features.shape[1] % values:
            raise ValueError(f"maps[{i}] must have a multiple of {values} channels, got {features.shape[1]}.")
    return _ConcatAnchors(values)(*maps)


# ------------------------------------------------------------------ dropout, sums


class _Dropout(Op):
    def cpu(self, x: Any, keep: Any) -> Any:
        return x * keep, lambda grad: (grad * keep, None)

    gpu = cpu


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each value with probability ``p`` and divide the others by ``1 - p``.

    Draws from Lucid's generator. ``p`` is at least 0 and below 1.
    """
    check_tensor("x", x, (...,))
    p = fraction_below_one("p", p)
    kept = np.asarray(lucid.random.rand(*x.shape).data) >= p
    return _Dropout()(x, as_tensor(kept * np.float32(1 / (1 - p)), x))


class _AddScalars(Op):
    def cpu(self, *terms: Any) -> Any:
        return np.asarray(sum(terms)), lambda grad: [grad.copy() for _ in terms]

    def gpu(self, *terms: Any) -> Any:
        return sum(terms[1:], terms[0]), lambda grad: [mx.array(grad) for _ in terms]


def add_scalars(*terms: Tensor) -> Tensor:
    """Return the sum of one or more 0-d tensors, as a 0-d tensor."""
    for i, term in enumerate(tensors("terms", terms)):
        check_tensor(f"terms[{i}]", term, ())
    return _AddScalars()(*terms)


class _ScaleScalar(Op):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def cpu(self, x: Any) -> Any:
        factor = x.dtype.type(self.factor)
        return np.asarray(x * factor), lambda grad: (np.asarray(grad * factor),)

    def gpu(self, x: Any) -> Any:
        return x * self.factor, lambda grad: (grad * self.factor,)


def scale_scalar(x: Tensor, factor: float) -> Tensor:
    """Return a 0-d tensor times a number of at least 0, as a 0-d tensor."""
    check_tensor("x", x, ())
    return _ScaleScalar(non_negative_number("factor", factor))(x)
