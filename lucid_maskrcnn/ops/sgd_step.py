"""The arithmetic of a step of gradient descent, in one pass over the memory, and the gradients' norm.

Shapes: arrays of any shape, all of a call the same; on cpu they are worked on as flat blocks.

Names: as in PyTorch's ``SGD``: ``p`` is a parameter, ``velocity`` its momentum buffer, ``update`` what the learning
rate multiplies.

On gpu all parameters are updated by one function, compiled where :mod:`.compilation` says so; the numbers of a schedule
are its inputs, so that a new learning rate is no new function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import flag, fraction, instance, non_negative_number, sequence

from ._memory import empty, zeros
from ._parallel import chunks, parallel_for
from ._updates import check_shape, compiled_update, with_gradient

__all__ = ["moved_averages", "sgd_update", "sum_of_squares"]

_BLOCK_VALUES = 1 << 16


def sgd_update(
    params: Sequence[Tensor],
    velocities: Sequence[Any | None],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> list[Any | None]:
    """Move parameters by one step of stochastic gradient descent: they get new arrays, the old ones are not modified.

    Parameters
    ----------
    params : sequence of Tensor
        With gradients.
    velocities : sequence of NumPy or MLX arrays, or None
        One for each parameter: what the last step returned; None before the first.
    lr, momentum, weight_decay, nesterov
        See :class:`lucid_maskrcnn.training.SGD`.

    Returns
    -------
    list of NumPy or MLX arrays, or None
        The new velocities (on cpu the same arrays), None without momentum. On gpu neither they nor the parameters are
        computed yet.

    Raises
    ------
    TypeError, ValueError
        If there are not as many velocities, a parameter has no gradient, or its velocity is of another shape.
    """
    lr, momentum = non_negative_number("lr", lr), non_negative_number("momentum", momentum)
    weight_decay, nesterov = non_negative_number("weight_decay", weight_decay), flag("nesterov", nesterov)
    params = sequence("params", params, with_gradient)
    for i, velocity in enumerate(sequence("velocities", velocities, lambda _, value: value, length=len(params))):
        if velocity is not None:
            check_shape(f"velocities[{i}]", velocity, params[i])
    moved = list(velocities)
    on_gpu = [i for i, p in enumerate(params) if p.is_gpu()]
    if on_gpu:
        found = _update_gpu(
            [params[i] for i in on_gpu], [velocities[i] for i in on_gpu], (lr, momentum, weight_decay), nesterov
        )
        for i, velocity in zip(on_gpu, found, strict=True):
            moved[i] = velocity
    for i, p in enumerate(params):
        if p.is_cpu():
            moved[i] = _update_cpu(p, velocities[i], lr, momentum, weight_decay, nesterov=nesterov)
    return moved


def _update_cpu(
    p: Tensor, velocity: Any | None, lr: float, momentum: float, weight_decay: float, *, nesterov: bool
) -> Any | None:
    weight, grad = p.data, p.grad
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


def _update_gpu(
    params: Sequence[Tensor], velocities: Sequence[Any | None], settings: tuple[float, ...], nesterov: bool
) -> list[Any | None]:
    momentum = settings[1]

    def run(weights: Any, grads: Any, speeds: Any, settings: Any) -> Any:
        lr, momentum, weight_decay = settings
        own, updates = [], []
        for weight, grad, speed in zip(weights, grads, speeds, strict=True):
            update = grad + weight * weight_decay.astype(weight.dtype)
            if speed is not None:
                speed = speed * momentum.astype(speed.dtype) + update
                update = update + speed * momentum.astype(speed.dtype) if nesterov else speed
            own.append(speed)
            updates.append(weight - update * lr.astype(weight.dtype))
        return updates, own

    weights = [p.data for p in params]
    if momentum:
        velocities = [mx.zeros_like(w) if v is None else v for w, v in zip(weights, velocities, strict=True)]
    speeds = list(velocities) if momentum else [None] * len(weights)
    moved, own = compiled_update(
        run, ("sgd", bool(momentum), nesterov), weights, [p.grad for p in params], speeds, settings
    )
    for p, weight in zip(params, moved, strict=True):
        p.data = weight
    return list(own if momentum else velocities)


def moved_averages(averages: Sequence[Any], values: Sequence[Any], share: float) -> list[Any]:
    """Return averages moved towards present values: new arrays, on gpu not computed yet.

    Parameters
    ----------
    averages, values : sequence of NumPy or MLX arrays
        The same shapes and devices.
    share : float
        What the values count, 0 … 1.
    """
    share = fraction("share", share)
    averages, values = sequence("averages", averages, _array), sequence("values", values, _array)
    if [(type(a), tuple(a.shape)) for a in averages] != [(type(v), tuple(v.shape)) for v in values]:
        raise ValueError("values must have the kinds and shapes of the averages.")

    def run(averages: Any, values: Any, settings: Any) -> Any:
        (share,) = settings
        return [a + (v - a) * share.astype(a.dtype) for a, v in zip(averages, values, strict=True)]

    on_gpu = [(a, v) for a, v in zip(averages, values, strict=True) if isinstance(a, mx.array)]
    of_gpu = iter(
        compiled_update(run, ("averages",), *map(list, zip(*on_gpu, strict=True)), (share,)) if on_gpu else []
    )
    return [
        next(of_gpu) if isinstance(a, mx.array) else a + (v - a) * share for a, v in zip(averages, values, strict=True)
    ]


def _array(name: str, value: Any) -> Any:
    return instance(name, value, (np.ndarray, mx.array), "a NumPy or MLX array")


def sum_of_squares(arrays: Iterable[Any]) -> float:
    """Return the sum of the squares of all elements of NumPy or MLX arrays, waiting once for those of MLX."""
    if isinstance(arrays, (Tensor, np.ndarray, mx.array, str)) or not isinstance(arrays, Iterable):
        raise TypeError(f"arrays must be a list of NumPy or MLX arrays, got {type(arrays).__name__}.")
    arrays = [instance("arrays", a, (np.ndarray, mx.array), "a list of NumPy or MLX arrays") for a in arrays]
    total = math.fsum(float(np.vdot(a, a)) for a in arrays if not isinstance(a, mx.array))
    on_gpu = [a for a in arrays if isinstance(a, mx.array)]

    def run(arrays: Any, _: Any) -> Any:
        return mx.sum(mx.stack([mx.sum(mx.square(a.astype(mx.float32))) for a in arrays]))

    return total + float(np.asarray(compiled_update(run, ("squares",), on_gpu, ()))) if on_gpu else total
