"""The three loss functions of Mask R-CNN, each with its closed-form gradient.

They pick the entries that count themselves, so that only those are computed. Empty selections
give a loss of 0 with gradients of 0.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from ._operation import Op
from .layout import with_vjp

__all__ = ["binary_cross_entropy", "cross_entropy", "smooth_l1"]


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
            picked = mx.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
            return (mx.logsumexp(logits, axis=1) - picked).sum() / logits.shape[0]

        if not len(logits):
            return mx.zeros(()), lambda grad: (mx.zeros(logits.shape), None)
        out, vjp = with_vjp(run, logits)
        return out, lambda grad: (vjp(grad)[0], None)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of softmax.

    Parameters
    ----------
    logits : Tensor of shape (R, K + 1)
        ``R = 0`` gives 0.
    labels : Tensor of shape (R,), int32
        The right column of each row.

    Returns
    -------
    Tensor of shape ()
    """
    return _CrossEntropy()(logits, labels)


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
        out, vjp = with_vjp(lambda x: self.loss(x.reshape(shape)[i, j], targets).sum() / self.divisor, x)
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


def smooth_l1(x: Tensor, i: Tensor, j: Tensor, targets: Tensor, *, beta: float, divisor: float) -> Tensor:
    """Smooth L1 loss of ``x[i, j]`` (Girshick 2015, equation 3), summed and divided by ``divisor``.

    Parameters
    ----------
    x : Tensor of shape (N, M, …) or (N, M · …)
        Predictions, of which the loss picks S.
    i, j : Tensor of shape (S,), int32
        Where. ``S = 0`` gives 0.
    targets : Tensor of shape (S, …)
        What ``x[i, j]`` should be.
    beta : float
        Below this difference the loss is quadratic, ``d² / (2 · beta)``, above it is ``|d| - beta / 2``.
    divisor : float
        At least 1 is used.

    Returns
    -------
    Tensor of shape ()
    """
    return _SmoothL1(beta, divisor)(x, i, j, targets)


def binary_cross_entropy(x: Tensor, i: Tensor, j: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of ``sigmoid(x[i, j])``.

    Parameters
    ----------
    x : Tensor of shape (N, M, …) or (N, M · …)
        Logits, of which the loss picks S.
    i, j : Tensor of shape (S,), int32
        Where. ``S = 0`` gives 0.
    targets : Tensor of shape (S, …)
        Probabilities in [0, 1].

    Returns
    -------
    Tensor of shape ()
    """
    return _BinaryCrossEntropy(float(np.prod(targets.shape)))(x, i, j, targets)
