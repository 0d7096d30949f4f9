"""The arithmetic of a step of AdamW (Loshchilov & Hutter 2019, algorithm 2), in one pass over the memory.

Shapes: arrays of any shape, all of a parameter the same; on cpu they are worked on as flat blocks.

Names: ``m`` is the moving average of the gradients, ``v`` that of their squares, as in the paper; ``t`` is the number
of the step, from 1 on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import fraction_below_one, non_negative_number, pair, positive_int, sequence

from ._memory import empty, zeros
from ._parallel import chunks, parallel_for
from ._updates import check_shape, compiled_update, with_gradient

__all__ = ["adamw_update"]

_BLOCK_VALUES = 1 << 16


def adamw_update(
    params: Sequence[Tensor],
    moments: Sequence[tuple[Any, Any] | None],
    steps: Sequence[int],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> list[tuple[Any, Any]]:
    """Move parameters by one step of AdamW: they get new arrays, the old ones are not modified.

    Parameters
    ----------
    params : sequence of Tensor
        With gradients.
    moments : sequence of pairs of NumPy or MLX arrays, or None
        One for each parameter: what the last step returned; None before the first.
    steps : sequence of int
        One for each parameter: the number of its step, 1 for the first.
    lr, betas, eps, weight_decay
        See :class:`lucid_maskrcnn.training.AdamW`.

    Returns
    -------
    list of pairs of NumPy or MLX arrays
        The new averages of the gradients and of their squares (on cpu the same arrays). On gpu neither they nor the
        parameters are computed yet.

    Raises
    ------
    TypeError, ValueError
        If there are not as many moments or steps, a parameter has no gradient, or a moment is of another shape.
    """
    lr, eps = non_negative_number("lr", lr), non_negative_number("eps", eps)
    betas, weight_decay = pair("betas", betas, fraction_below_one), non_negative_number("weight_decay", weight_decay)
    params = sequence("params", params, with_gradient)
    moments = list(sequence("moments", moments, lambda _, value: value, length=len(params)))
    steps = sequence("steps", steps, positive_int, length=len(params))
    for i, (p, both) in enumerate(zip(params, moments, strict=True)):
        for array in both or ():
            check_shape(f"moments[{i}]", array, p)
    on_gpu = [i for i, p in enumerate(params) if p.is_gpu()]
    for t, some in groupby(sorted(on_gpu, key=lambda i: steps[i]), key=lambda i: steps[i]):
        rows = list(some)
        settings = _settings(t, lr, betas, eps, weight_decay)
        found = _update_gpu([params[i] for i in rows], [moments[i] for i in rows], settings)
        for i, both in zip(rows, found, strict=True):
            moments[i] = both
    for i, p in enumerate(params):
        if p.is_cpu():
            moments[i] = _update_cpu(p, moments[i], _settings(steps[i], lr, betas, eps, weight_decay))
    return moments  # type: ignore[return-value]  # none is None now


def _settings(t: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> tuple[float, ...]:
    """Return the numbers of a step: what weights, m and v are multiplied by, the step's size, and the denominator's."""
    first, second = betas
    size = lr / (1 - first**t)
    return 1 - lr * weight_decay, first, second, size, 1 / math.sqrt(1 - second**t), eps


def _update_cpu(p: Tensor, moments: tuple[Any, Any] | None, settings: tuple[float, ...]) -> tuple[Any, Any]:
    keep, first, second, size, scale, eps = settings
    weight, grad = p.data, p.grad
    m, v = (zeros(weight.shape, weight.dtype), zeros(weight.shape, weight.dtype)) if moments is None else moments
    moved = empty(weight.shape, weight.dtype)
    old, slope, new = (a.reshape(-1) for a in (np.ascontiguousarray(weight), np.ascontiguousarray(grad), moved))
    mean, square = m.reshape(-1), v.reshape(-1)

    def run(some: slice) -> None:
        own_mean, own_square, g = mean[some], square[some], slope[some]
        own_mean *= first
        own_mean += g * (1 - first)
        own_square *= second
        own_square += g * g * (1 - second)
        below = np.sqrt(own_square)
        below *= scale
        below += eps
        update = own_mean * size
        update /= below
        np.subtract(old[some] * keep, update, out=new[some])

    parallel_for(chunks(old.size, _BLOCK_VALUES), run)
    p.data = moved
    return m, v


def _update_gpu(
    params: Sequence[Tensor], moments: Sequence[tuple[Any, Any] | None], settings: tuple[float, ...]
) -> list[tuple[Any, Any]]:
    def run(weights: Any, grads: Any, means: Any, squares: Any, settings: Any) -> Any:
        moved, new_means, new_squares = [], [], []
        for weight, grad, mean, square in zip(weights, grads, means, squares, strict=True):
            keep, first, second, size, scale, eps, one = (s.astype(weight.dtype) for s in settings)
            mean = mean * first + grad * (one - first)
            square = square * second + mx.square(grad) * (one - second)
            moved.append(weight * keep - mean * size / (mx.sqrt(square) * scale + eps))
            new_means.append(mean)
            new_squares.append(square)
        return moved, new_means, new_squares

    weights = [p.data for p in params]
    known = [
        (mx.zeros_like(w), mx.zeros_like(w)) if both is None else both for w, both in zip(weights, moments, strict=True)
    ]
    means, squares = [m for m, _ in known], [v for _, v in known]
    grads = [p.grad for p in params]
    moved, means, squares = compiled_update(run, ("adamw",), weights, grads, means, squares, (*settings, 1.0))
    for p, weight in zip(params, moved, strict=True):
        p.data = weight
    return list(zip(means, squares, strict=True))
