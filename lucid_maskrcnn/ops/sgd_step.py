"""The arithmetic of a step of gradient descent, in one pass over the memory, and the gradients' norm.

Shapes: arrays of any shape, all of a call the same; on cpu they are worked on as flat blocks.

Names: as in PyTorch's ``SGD``: ``p`` is a parameter, ``velocity`` its momentum buffer, ``update`` what the learning
rate multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import flag, instance, non_negative_number

from ._checks import check_tensor
from ._memory import empty, zeros
from ._parallel import chunks, parallel_for

__all__ = ["sgd_update", "sum_of_squares"]

_BLOCK_VALUES = 1 << 16


def sgd_update(
    p: Tensor, velocity: Any | None, *, lr: float, momentum: float, weight_decay: float, nesterov: bool
) -> Any | None:
    """Move ``p`` by one step of stochastic gradient descent: it gets a new array, its old one is not modified.

    Parameters
    ----------
    p : Tensor
        With a gradient.
    velocity : NumPy or MLX array, optional
        What the last step returned; None before the first.
    lr, momentum, weight_decay, nesterov
        See :class:`lucid_maskrcnn.training.SGD`.

    Returns
    -------
    NumPy or MLX array, optional
        The new velocity (on cpu the same array), None without momentum.

    Raises
    ------
    ValueError
        If ``p`` has no gradient, or ``velocity`` is of another shape.
    """
    check_tensor("p", p, (...,))
    weight, grad = p.data, p.grad
    if grad is None:
        raise ValueError("p must have a gradient: call backward() first.")
    if velocity is not None and tuple(velocity.shape) != tuple(weight.shape):
        raise ValueError(f"velocity must have p's shape {tuple(weight.shape)}, got {tuple(velocity.shape)}.")
    lr, momentum = non_negative_number("lr", lr), non_negative_number("momentum", momentum)
    weight_decay, nesterov = non_negative_number("weight_decay", weight_decay), flag("nesterov", nesterov)
    if isinstance(weight, mx.array):
        update = grad + weight * weight_decay
        if momentum:
            velocity = update if velocity is None else velocity * momentum + update
            update = update + velocity * momentum if nesterov else velocity
        p.data = weight - update * lr
        return velocity
    if momentum and velocity is None:
        velocity = zeros(weight.shape, weight.dtype)
    moved = empty(weight.shape, weight.dtype)
    old, slope, new = (a.reshape(-1) for a in (np.ascontiguousarray(weight), np.ascontiguousarray(grad), moved))
    speed = None if velocity is None or not momentum else velocity.reshape(-1)

    def run(some: slice) -> None:
        update = old[some] * weight_decay
        update += slope[some]
        if speed is not None:
            own = speed[some]
            own *= momentum
            own += update
            update = update + own * momentum if nesterov else own
        np.subtract(old[some], update * lr, out=new[some])

    parallel_for(chunks(old.size, _BLOCK_VALUES), run)
    p.data = moved
    return velocity


def sum_of_squares(arrays: Iterable[Any]) -> float:
    """Return the sum of the squares of all elements of NumPy or MLX arrays, waiting once for those of MLX."""
    if isinstance(arrays, (Tensor, np.ndarray, mx.array, str)) or not isinstance(arrays, Iterable):
        raise TypeError(f"arrays must be a list of NumPy or MLX arrays, got {type(arrays).__name__}.")
    arrays = [instance("arrays", a, (np.ndarray, mx.array), "a list of NumPy or MLX arrays") for a in arrays]
    total = math.fsum(float(np.vdot(a, a)) for a in arrays if not isinstance(a, mx.array))
    on_gpu = [mx.sum(mx.square(a)) for a in arrays if isinstance(a, mx.array)]
    return total + float(np.asarray(mx.sum(mx.stack(on_gpu)))) if on_gpu else total
