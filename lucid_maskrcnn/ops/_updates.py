"""What the steps of all optimizers share: checks, and functions of many arrays that MLX compiles."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import mlx.core as mx
from lucid import Tensor

from ._checks import check_tensor
from .compilation import worth_compiling

__all__ = ["check_shape", "compiled_update", "with_gradient"]

_MOST_COMPILED = 16  # functions that are kept

_compiled: dict[Hashable, Callable[..., Any]] = {}


def with_gradient(name: str, p: Any) -> Tensor:
    """Return a parameter that has a gradient."""
    check_tensor(name, p, (...,))
    if p.grad is None:
        raise ValueError(f"{name} must have a gradient: call backward() first.")
    return p


def check_shape(name: str, array: Any, p: Tensor) -> None:
    """Refuse an array that is kept for a parameter and has another shape."""
    if tuple(array.shape) != tuple(p.shape):
        raise ValueError(f"{name} must have its parameter's shape {tuple(p.shape)}, got {tuple(array.shape)}.")


def compiled_update(run: Callable[..., Any], name: tuple[Hashable, ...], *lists: Any) -> Any:
    """Call a function of lists of MLX arrays, the last of numbers: compiled, if that is worth it.

    ``name`` and the arrays' shapes say which function it is: MLX never forgets a shape, this forgets the oldest.
    """
    *of_arrays, settings = lists
    if not worth_compiling():
        return run(*of_arrays, [mx.array(value) for value in settings])
    key = (name, *((a.dtype, a.shape) for arrays in of_arrays for a in arrays if a is not None))
    compiled = _compiled.pop(key, None) or mx.compile(run)
    _compiled[key] = compiled
    if len(_compiled) > _MOST_COMPILED:
        _compiled.pop(next(iter(_compiled)))
    return compiled(*of_arrays, [mx.array(value) for value in settings])
