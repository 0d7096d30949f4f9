"""The three loss functions of Mask R-CNN, each with its closed-form gradient.

They pick the entries that count themselves, so that only those are computed. Empty selections give a loss of 0 with
gradients of 0.

Shapes: R rows, K classes without background, N images (or RoIs), M entries of each (anchors or classes), S entries that
the loss picks.

Names: ``x`` are predictions, ``i`` and ``j`` say which of them count: ``x[i, j]`` is compared with ``targets``.
``slope`` is the derivative of a loss with respect to its prediction, ``divisor`` what the sum of the losses is
divided by.

Labels, indices and targets are checked on cpu. On gpu they may not be computed yet: there a label that is no column, or
an index that is no row or entry, makes the loss NaN.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import non_negative_number, positive_number

from ._checks import check_range_on_cpu, check_tensor, index_tensor, within
from ._operation import Op
from .layout import with_vjp

__all__ = ["binary_cross_entropy", "cross_entropy", "smooth_l1"]

_ROUNDING = 1e-4  # by which targets, which are weighted sums of 0 and 1, may leave 0 … 1


class _CrossEntropy(Op):
    def cpu(self, logits: Any, labels: Any) -> Any:
        count = max(len(logits), 1)
        rows = np.arange(len(logits))
        shifted = logits - logits.max(axis=1, keepdims=True)
        exponents = np.exp(shifted)
        total = exponents.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - shifted[rows, labels]).sum() / count

        def backward(grad: np.ndarray) -> tuple[Any, None]:
            slope = exponents / total
            slope[rows, labels] -= 1
            return slope * (grad / count), None

        return np.asarray(loss, logits.dtype), backward

    def gpu(self, logits: Any, labels: Any) -> Any:
        def run(logits: mx.array) -> mx.array:
            inside, columns = within(labels, logits.shape[1])
            picked = mx.take_along_axis(logits, columns[:, None], axis=1)[:, 0]
            picked = mx.where(inside, picked, mx.nan)
            return (mx.logsumexp(logits, axis=1) - picked).sum() / logits.shape[0]

        if not len(logits):
            return mx.zeros(()), lambda grad: (mx.zeros(logits.shape), None)
        out, vjp = with_vjp(run, logits)
        return out, lambda grad: (vjp(grad)[0], None)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of softmax.

    Parameters
    ----------
    logits : Tensor of shape (R, K + 1), float
        ``R = 0`` gives 0.
    labels : Tensor of shape (R,), int32
        Class of each row, from 0 to K.
    weights : Tensor of shape (K + 1,), float, optional
        What a row of each class counts in the mean, which is divided by the sum of the rows' weights; 0 if that is 0.
        By default all count the same. They get no gradient.

    Returns
    -------
    Tensor of shape ()

    Raises
    ------
    ValueError
        If shapes do not fit, or a label on cpu is no column of ``logits``.
    """
    check_tensor("logits", logits, ("R", "K + 1"))
    index_tensor("labels", labels, logits.shape[0])
    check_range_on_cpu("labels", labels, logits.shape[1], "columns of logits")
    if weights is None:
        return _CrossEntropy()(logits, labels)
    check_tensor("weights", weights, (logits.shape[1],))
    return _WeightedCrossEntropy()(logits, labels, weights)


class _WeightedCrossEntropy(Op):
    """As the mean of rows that count as often as the weight of their label says."""

    def cpu(self, logits: Any, labels: Any, weights: Any) -> Any:
        rows = np.arange(len(logits))
        shifted = logits - logits.max(axis=1, keepdims=True)
        exponents = np.exp(shifted)
        total = exponents.sum(axis=1, keepdims=True)
        of_row = weights[labels]
        share = of_row / (of_row.sum() or 1)
        loss = ((np.log(total[:, 0]) - shifted[rows, labels]) * share).sum()

        def backward(grad: np.ndarray) -> tuple[Any, None, None]:
            slope = exponents / total
            slope[rows, labels] -= 1
            return slope * (share[:, None] * grad), None, None

        return np.asarray(loss, logits.dtype), backward

    def gpu(self, logits: Any, labels: Any, weights: Any) -> Any:
        def run(logits: mx.array) -> mx.array:
            inside, columns = within(labels, logits.shape[1])
            picked = mx.take_along_axis(logits, columns[:, None], axis=1)[:, 0]
            picked = mx.where(inside, picked, mx.nan)
            of_row = weights[columns]
            whole = of_row.sum()
            share = of_row / mx.where(whole == 0, 1, whole)
            return ((mx.logsumexp(logits, axis=1) - picked) * share).sum()

        if not len(logits):
            return mx.zeros(()), lambda grad: (mx.zeros(logits.shape), None, None)
        out, vjp = with_vjp(run, logits)
        return out, lambda grad: (vjp(grad)[0], None, None)


class _PickedLoss(Op):
    """Sum of an element-wise loss between ``x[i, j]`` and targets, divided by a fixed number."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = max(divisor, 1)

    def cpu(self, x: Any, i: Any, j: Any, targets: Any) -> Any:
        by_entry = x.reshape(len(x), _entries(x, targets), *targets.shape[1:])
        values, slopes = self.loss_and_slope(by_entry[i, j], targets)

        def backward(grad: np.ndarray) -> tuple[Any, ...]:
            total = np.zeros_like(by_entry)
            np.add.at(total, (i, j), slopes * (grad / self.divisor))
            return total.reshape(x.shape), None, None, None

        return np.asarray(values.sum() / self.divisor, x.dtype), backward

    def gpu(self, x: Any, i: Any, j: Any, targets: Any) -> Any:
        if not len(i):
            return mx.zeros(()), lambda grad: (mx.zeros(x.shape), None, None, None)
        shape = (len(x), _entries(x, targets), *targets.shape[1:])
        (i_inside, i), (j_inside, j) = within(i, shape[0]), within(j, shape[1])
        inside = (i_inside & j_inside).reshape(-1, *(1,) * (targets.ndim - 1))

        def run(x: mx.array) -> mx.array:
            return mx.where(inside, self.loss(x.reshape(shape)[i, j], targets), mx.nan).sum() / self.divisor

        out, vjp = with_vjp(run, x)
        return out, lambda grad: (vjp(grad)[0], None, None, None)

    @abstractmethod
    def loss_and_slope(self, x: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of each element and its derivative."""

    @abstractmethod
    def loss(self, x: mx.array, targets: mx.array) -> mx.array:
        """Return the loss of each element, for MLX to differentiate."""


def _entries(x: Any, targets: Any) -> int:
    """Return how many entries of the targets' shape a row of ``x`` holds."""
    return int(np.prod(x.shape[1:])) // max(int(np.prod(targets.shape[1:])), 1)


class _SmoothL1(_PickedLoss):
    def __init__(self, beta: float, divisor: float) -> None:
        super().__init__(divisor)
        self.beta = beta

    def loss_and_slope(self, x: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        beta = x.dtype.type(self.beta)
        d = x - targets
        size = np.abs(d)
        near = size < beta
        return np.where(near, 0.5 * d * d / beta, size - beta / 2), np.where(near, d / beta, np.sign(d))

    def loss(self, x: mx.array, targets: mx.array) -> mx.array:
        d = x - targets
        size = mx.abs(d)
        return mx.where(size < self.beta, 0.5 * d * d / self.beta, size - self.beta / 2)


class _BinaryCrossEntropy(_PickedLoss):
    def loss_and_slope(self, x: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        decay = np.exp(-np.abs(x))  # never overflows
        probs = np.where(x >= 0, 1, decay) / (1 + decay)
        return np.maximum(x, 0) - x * targets + np.log1p(decay), probs - targets

    def loss(self, x: mx.array, targets: mx.array) -> mx.array:
        size = mx.abs(x)
        # (x + |x|) / 2 is max(x, 0), but MLX gives it the right slope at 0: one half.
        return (x + size) / 2 - x * targets + mx.log1p(mx.exp(-size))


def _check_picked(x: Tensor, i: Tensor, j: Tensor, targets: Tensor) -> None:
    check_tensor("x", x, ("N", "M", ...))
    index_tensor("i", i, "S")
    index_tensor("j", j, i.shape[0])
    check_tensor("targets", targets, (i.shape[0], ...))
    of_row, of_target = int(np.prod(x.shape[1:])), int(np.prod(targets.shape[1:]))
    if of_target == 0 or of_row % of_target:
        raise ValueError(
            f"targets[0] must be as large as an entry of x, got targets of shape {tuple(targets.shape)} and x of "
            f"{tuple(x.shape)}."
        )
    check_range_on_cpu("i", i, x.shape[0], "rows of x")
    check_range_on_cpu("j", j, _entries(x, targets), "entries of a row of x")


def smooth_l1(x: Tensor, i: Tensor, j: Tensor, targets: Tensor, *, beta: float, divisor: float) -> Tensor:
    """Return the smooth L1 loss of ``x[i, j]`` (Girshick 2015, equation 3), summed and divided by ``divisor``.

    Parameters
    ----------
    x : Tensor of shape (N, M, …) or (N, M · …), float
        Predictions, of which the loss picks S.
    i, j : Tensor of shape (S,), int32
        Row and entry of each. ``S = 0`` gives 0.
    targets : Tensor of shape (S, …)
        What ``x[i, j]`` should be.
    beta : float
        Below this difference the loss is quadratic, ``d² / (2 · beta)``, above it is ``|d| - beta / 2``.
    divisor : float
        At least 1 is used.

    Returns
    -------
    Tensor of shape ()

    Raises
    ------
    ValueError
        If shapes do not fit, or an index on cpu is out of range.
    """
    _check_picked(x, i, j, targets)
    beta, divisor = positive_number("beta", beta), non_negative_number("divisor", divisor)
    return _SmoothL1(beta, divisor)(x, i, j, targets)


def binary_cross_entropy(x: Tensor, i: Tensor, j: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of ``sigmoid(x[i, j])``.

    Parameters
    ----------
    x : Tensor of shape (N, M, …) or (N, M · …), float
        Logits, of which the loss picks S.
    i, j : Tensor of shape (S,), int32
        Row and entry of each. ``S = 0`` gives 0.
    targets : Tensor of shape (S, …)
        Probabilities, 0 … 1.

    Returns
    -------
    Tensor of shape ()

    Raises
    ------
    ValueError
        If shapes do not fit, or on cpu an index is out of range or a target not between 0 and 1.
    """
    _check_picked(x, i, j, targets)
    if isinstance(targets.data, np.ndarray) and targets.data.size:
        low, high = targets.data.min(), targets.data.max()
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN is neither
            raise ValueError(f"targets must be probabilities between 0 and 1, got values from {low} to {high}.")
    return _BinaryCrossEntropy(float(np.prod(targets.shape)))(x, i, j, targets)
