"""The gradients of a step: their mean over several batches, and their norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

__all__ = ["GradientMean", "clip_gradients"]


class GradientMean:
    """The mean of the gradients of several backward passes.

    Parameters
    ----------
    params : sequence of Parameter
        Their ``grad`` is taken and, at last, set.

    Attributes
    ----------
    count : int
        Passes so far.
    sums : list
        Of the gradients so far, as NumPy or MLX arrays; None for parameters that no pass gave one.

    Notes
    -----
    Lucid adds to a gradient that is already there in place, in an array that it may have handed out
    twice; so each pass's gradients are taken away and added here.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params, self.count = params, 0
        self.sums: list[Any | None] = [None] * len(params)

    def accumulate(self) -> None:
        """Take the gradients of one pass out of the parameters."""
        self.add([p.grad for p in self.params], 1)
        for p in self.params:
            p.grad = None

    def add(self, sums: Sequence[Any | None], count: int) -> None:
        """Add the sums of the gradients of ``count`` passes, None for parameters without one."""
        self.count += count
        for i, more in enumerate(sums):
            if more is not None:
                total = self.sums[i]
                self.sums[i] = more if total is None else total + more
        mx.eval([total for total in self.sums if isinstance(total, mx.array)])

    def assign_mean(self) -> None:
        """Set the parameters' gradients to the mean; those that no pass gave one have none."""
        for i, p in enumerate(self.params):
            total, self.sums[i] = self.sums[i], None
            p.grad = total if total is None or self.count == 1 else total / self.count


def clip_gradients(params: Iterable[Tensor], max_norm: float) -> float:
    """Scale the gradients down together so that their common L2 norm is at most ``max_norm``.

    Parameters
    ----------
    params : iterable of Parameter
        Those without a gradient are passed over. Each gets a new gradient array where one is scaled.
    max_norm : float
        Above 0; ``inf`` only measures.

    Returns
    -------
    float
        The norm before. Where it is not finite the gradients are left alone: look before you step.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}.")
    owners = [p for p in params if p.grad is not None]
    on_gpu = [mx.sum(mx.square(p.grad)) for p in owners if p.is_gpu()]
    squares = math.fsum(float(np.vdot(p.grad, p.grad)) for p in owners if p.is_cpu())
    if on_gpu:
        squares += float(np.asarray(mx.sum(mx.stack(on_gpu))))  # one wait for all
    norm = math.sqrt(squares)
    if math.isfinite(norm) and norm > max_norm:
        scale = max_norm / (norm + 1e-6)
        for p in owners:
            p.grad = p.grad * scale
    return norm
