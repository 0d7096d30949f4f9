"""Checks of the tensors that public operators are given; other arguments go through :mod:`lucid_maskrcnn.validators`.

Each raises one sentence that names the argument, what was wanted and what was given: a ``TypeError`` for the wrong
kind of object or element type, a ``ValueError`` for a wrong shape or index. They cost about a microsecond each. On gpu
they look at nothing that MLX would have to compute first: element types and shapes are known, indices are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import positive_int, sequence, shown

from ._operation import Array, Backward, Op, array_module

__all__ = ["box_tensor", "check_range", "check_range_on_cpu", "check_tensor", "image_sizes", "index_tensor", "tensors"]

# An axis of any length has a letter, as in the function's docstring; ... stands for any number of axes.
type Shape = tuple[int | str | EllipsisType, ...]

_KINDS = {"f": "float", "i": "integer", "b": "bool"}
_MLX_KINDS = {
    mx.float32: "f",
    mx.float16: "f",
    mx.bfloat16: "f",
    mx.bool_: "b",
    **dict.fromkeys([mx.int8, mx.int16, mx.int32, mx.int64], "i"),
}
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}  # by item size


def _kind(array: Array) -> str:
    return array.dtype.kind if isinstance(array, np.ndarray) else _MLX_KINDS.get(array.dtype, "?")


def _fits(shape: Sequence[int], wanted: Shape) -> bool:
    if ... in wanted:
        at = wanted.index(...)
        behind = len(wanted) - at - 1
        if len(shape) < at + behind:
            return False
        shape = (*shape[:at], *shape[len(shape) - behind :])
        wanted = (*wanted[:at], *wanted[at + 1 :])
    if len(shape) != len(wanted):
        return False
    for n, w in zip(shape, wanted, strict=True):  # noqa: SIM110 - twice as fast as all(...), and on predict's path
        if n != w and not isinstance(w, str):
            return False
    return True


def _written(shape: Shape) -> str:
    axes = ["..." if n is ... else str(n) for n in shape]
    return f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"


def check_tensor(name: str, value: Any, shape: Shape, kinds: str = "f") -> None:
    """Raise unless ``value`` is a Lucid tensor of that shape, whose elements are of one of the ``kinds``.

    Parameters
    ----------
    shape : tuple
        Of each axis its length, or a letter if any will do; one ``...`` stands for any number of axes.
    kinds : str
        Letters as those of ``numpy.dtype.kind``: "f" float, "i" integer, "b" bool.
    """
    if not isinstance(value, Tensor):
        of_shape = "" if shape == (...,) else f" of shape {_written(shape)}"
        raise TypeError(f"{name} must be a Lucid tensor{of_shape}, got {_described(value)}.")
    if not _fits(value.shape, shape):
        raise ValueError(f"{name} must have shape {_written(shape)}, got {tuple(value.shape)}.")
    if _kind(value.data) not in kinds:
        wanted = " or ".join(_KINDS[k] for k in kinds)
        raise TypeError(f"{name} must be a tensor of {wanted} elements, got {_dtype_name(value)}.")


def _described(value: Any) -> str:
    if isinstance(value, (np.ndarray, mx.array)):
        kind = "a NumPy array" if isinstance(value, np.ndarray) else "an MLX array"
        return f"{kind} of shape {tuple(value.shape)}: convert it with lucid_maskrcnn.ops.as_tensor(...)"
    return shown(value)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.data.dtype).rpartition(".")[2]


def image_sizes(name: str, sizes: Any, count: int) -> None:
    """Raise unless ``sizes`` are ``count`` pairs of positive integers, (height, width)."""
    for i, size in enumerate(sequence(name, sizes, lambda _, size: size, length=count)):
        sequence(f"{name}[{i}]", size, positive_int, length=2)


def index_tensor(name: str, value: Any, length: int | str) -> None:
    """Raise unless ``value`` is a tensor of ``length`` integers."""
    check_tensor(name, value, (length,), "i")


def tensors(name: str, values: Any) -> list[Tensor]:
    """Return the Lucid tensors of a list or tuple, at least one."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a list or tuple of Lucid tensors, got {type(values).__name__}.")
    if not values:
        raise ValueError(f"{name} must have at least one tensor, got none.")
    for i, value in enumerate(values):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}[{i}] must be a Lucid tensor, got {_described(value)}.")
    return list(values)


# ------------------------------------------------------------------ indices


def check_range(name: str, values: np.ndarray, stop: int, what: str) -> None:
    """Raise unless all of the integer ``values`` lie in ``[0, stop)``."""
    # As unsigned numbers, negative ones are the largest: one pass over the memory instead of two.
    if values.size and values.view(_UNSIGNED[values.itemsize]).max() >= stop:
        place = int(np.flatnonzero((values < 0) | (values >= stop))[0])
        at = f"[{place}]" if values.ndim else ""
        raise ValueError(f"{name}{at} must be an index of one of {stop} {what}, got {values.flat[place]}.")


def check_range_on_cpu(name: str, index: Tensor, stop: int, what: str) -> None:
    """Raise unless all of ``index`` lies in ``[0, stop)``; on gpu it is not known yet, and not waited for."""
    if isinstance(index.data, np.ndarray):
        check_range(name, index.data, stop, what)


def as_int32(index: Array) -> Array:
    """Return indices on gpu as int32; those that int32 cannot hold stay out of any range."""
    return (mx.clip(index, -1, 2**31 - 1) if index.dtype.size > 4 else index).astype(mx.int32)


def within(index: Array, stop: int) -> tuple[Array, Array]:
    """Return which indices on gpu lie in ``[0, stop)``, and int32 indices that do: MLX would read beyond the memory."""
    index = as_int32(index)
    return (index >= 0) & (index < stop), mx.clip(index, 0, max(stop - 1, 0))


# ------------------------------------------------------------------ boxes


class Cast(Op):
    """A tensor of floats in another type; its gradient is cast back."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype

    def cpu(self, x: Array) -> tuple[Array, Backward]:
        return x.astype(getattr(array_module(x), self.dtype)), lambda grad: (grad.astype(x.dtype),)

    gpu = cpu


def box_tensor(name: str, value: Any, shape: Shape = ("R", 4)) -> Tensor:
    """Return a tensor of boxes or of deltas, float16 ones as float32: their areas would overflow."""
    check_tensor(name, value, shape)
    return Cast("float32")(value) if value.data.itemsize < 4 else value
