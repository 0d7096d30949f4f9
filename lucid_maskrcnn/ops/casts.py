"""Half precision on gpu: float16, and bfloat16, which Lucid has no name for until this module gives it one."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor
from lucid.types import Numeric, numeric_dict

from lucid_maskrcnn.validators import choice, instance, shown

from ._checks import Cast, check_tensor
from ._operation import host

__all__ = ["DTYPES", "cast", "cast_like", "convert", "dtype_name", "fits_float16", "set_values"]

DTYPES = ("float32", "float16", "bfloat16")
_HALVES = ("float16", "bfloat16")


class _BFloat16(Numeric):
    """Lucid's description of MLX's bfloat16; on cpu, where NumPy has none, it is float32."""

    def __init__(self) -> None:
        super().__init__(float, 32)
        self.bits, self.base_str, self._mlx_dtype = 16, "bfloat", mx.bfloat16

    def __str__(self) -> str:
        return "bfloat16"


numeric_dict.setdefault("bfloat", {}).setdefault("16", _BFloat16())


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's element type, such as ``"float16"``."""
    return str(instance("tensor", tensor, Tensor, "a Lucid tensor").data.dtype).rpartition(".")[2]


def cast(x: Tensor, dtype: str) -> Tensor:
    """Return a tensor of floats in another type, itself if it has it; its gradient is cast back.

    Parameters
    ----------
    x : Tensor of any shape
        Floats of any of these types.
    dtype : {"float32", "float16", "bfloat16"}
        ``"bfloat16"`` only on gpu.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    check_tensor("x", x, (...,))
    dtype = choice("dtype", dtype, DTYPES)
    if dtype == "bfloat16" and x.device == "cpu":
        raise ValueError('dtype "bfloat16" is MLX\'s, and x is on cpu: use "float32" there.')
    return x if dtype_name(x) == dtype else Cast(dtype)(x)


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` in the type of ``like``, where one of the two has 16 bits; else ``x`` itself."""
    for name, value in (("x", x), ("like", like)):
        instance(name, value, Tensor, "a Lucid tensor")
    if x.data.dtype == like.data.dtype or (dtype_name(x) not in _HALVES and dtype_name(like) not in _HALVES):
        return x
    return cast(x, dtype_name(like))


def convert(variable: Tensor, dtype: str) -> None:
    """Give a parameter another element type in place, 16 bits only on gpu; its gradient is dropped."""
    check_tensor("variable", variable, (...,))
    cast_data = cast(Tensor(variable.data), dtype).data
    if isinstance(cast_data, mx.array):
        mx.eval(cast_data)  # which other threads could not
    variable.data, variable.dtype, variable.grad = cast_data, Tensor(cast_data).dtype, None


def fits_float16(values: Any) -> bool:
    """Return whether float16 can hold all values of a tensor or array: none is NaN or beyond 65504."""
    array = host(values) if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"values must be a tensor or array of real numbers, got {shown(values)}.")
    return bool(np.abs(array).max(initial=0) <= np.finfo(np.float16).max)


def set_values(variable: Tensor, values: np.ndarray) -> None:
    """Set a parameter's or a buffer's values, which keeps its element type where that has 16 bits."""
    instance("variable", variable, Tensor, "a Lucid tensor")
    if not isinstance(values, np.ndarray) or values.shape != variable.shape or values.dtype.kind not in "biuf":
        given = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else shown(values)
        raise TypeError(f"values must be a NumPy array of numbers of shape {tuple(variable.shape)}, got {given}.")
    dtype = dtype_name(variable)
    data: Any = mx.array(values) if variable.device == "gpu" else values
    if variable.device == "gpu" and dtype in _HALVES:
        data = data.astype(getattr(mx, dtype))
        mx.eval(data)
    variable.data = data
