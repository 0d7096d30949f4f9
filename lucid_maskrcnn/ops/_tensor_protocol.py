"""What Lucid's tensors lack to be used beside NumPy arrays and Python numbers.

NumPy's protocol (``np.asarray(tensor)``, ``float(tensor)``, ``f"{tensor:.2f}"``), arithmetic with arrays and with
numbers that a tensor's type cannot hold, copies and pickles. :func:`install` puts these methods on ``lucid.Tensor``; a
method that Lucid has is replaced only where its answer is wrong. They use nothing but the tensors' public attributes.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lucid
import lucid.nn as nn
import mlx.core as mx
import numpy as np
from lucid import Tensor

__all__ = ["install"]

_ABSENT: Any = object()


# ------------------------------------------------------------------ values


def _array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """Return the values: a read-only view on cpu, where neither ``dtype`` nor ``copy`` asks for other memory."""
    data, converted = self.data, False
    if str(data.dtype).endswith("bfloat16"):  # NumPy has no such type
        data, converted = data.astype(mx.float32), True
    array = np.asarray(data)  # on gpu this waits for the computation
    if dtype is not None and array.dtype != np.dtype(dtype):
        array, converted = array.astype(dtype), True
    if converted:
        if copy is False:
            raise ValueError(f"A tensor of {self.data.dtype} cannot be an array of {array.dtype} without a copy.")
        return array
    if copy:
        return np.array(array, copy=True)  # in the memory order of the tensor
    view = array.view()
    view.flags.writeable = False
    return view


def _numpy(self: Tensor) -> np.ndarray:
    """Return a copy of the values, those of bfloat16 as float32."""
    return np.array(_array(self), copy=True)


def _number(tensor: Tensor, wanted: str) -> Any:
    """Return the value of a tensor of one element as a Python number."""
    if math.prod(tensor.shape) != 1:
        raise TypeError(
            f"Only a tensor of one element can be {wanted}, got one of shape {tuple(tensor.shape)}: choose an element, "
            "or use np.asarray(tensor)."
        )
    return np.asarray(tensor).reshape(()).item()


def _float(self: Tensor) -> float:
    return float(_number(self, "a float"))


def _int(self: Tensor) -> int:
    return int(_number(self, "an int"))


def _complex(self: Tensor) -> complex:
    return complex(_number(self, "a complex number"))


def _round(self: Tensor, ndigits: int | None = None) -> float:
    return round(_number(self, "rounded by round()"), ndigits)


def _format(self: Tensor, spec: str) -> str:
    return format(_number(self, f"formatted as {spec!r}"), spec) if spec else str(self)


def _index(self: Tensor) -> int:
    # Never of a bool, or of one element on an axis: NumPy asks for an integer before it looks for an array, so that
    # array[mask] would be taken for array[1].
    if len(self.shape) or np.asarray(self).dtype.kind not in "iu":
        raise TypeError(
            f"Only a 0-d tensor of integers can be an index, got {self.dtype} of shape {tuple(self.shape)}."
        )
    return int(np.asarray(self))


def _contains(self: Tensor, value: Any) -> bool:
    return bool((np.asarray(self) == np.asarray(value)).any())


def _iter(self: Tensor) -> Iterator[Tensor]:
    if not len(self.shape):  # at once: matplotlib asks for an iterator to tell a value from a list of them
        raise TypeError("A 0-d tensor cannot be iterated over: it is one value.")
    return (self[i] for i in range(self.shape[0]))


_lucid_astype = Tensor.astype


def _astype(self: Tensor, dtype: Any) -> Any:
    """Return the values in another type: a tensor, or an array where Lucid has no such type.

    Lucid changes the tensor itself, so that ``found.scores.astype(int)`` made all scores of ``found`` zero. Where a
    gradient goes through the tensor that stays so, as a new tensor would not be part of the graph.
    """
    if self.requires_grad and lucid.grad_enabled():
        return _lucid_astype(self, dtype)
    if isinstance(dtype, (type, str, np.dtype)):
        wanted = np.dtype(dtype)
        if wanted.kind not in _LUCID_KINDS:
            return np.asarray(self).astype(wanted)
        if self.device == "gpu":
            name = {"bool": "bool_", "float64": "float32"}.get(wanted.name, wanted.name)  # MLX has no float64 there
            return Tensor(self.data.astype(getattr(mx, name)))
        dtype = bool if wanted.kind == "b" else wanted.type
    return _lucid_astype(_copy(self), dtype)


# ------------------------------------------------------------------ NumPy's functions


def _array_function(
    self: Tensor, function: Callable[..., Any], types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call one of NumPy's functions, which would otherwise call methods that Lucid has with other arguments."""
    return function(*_as_arrays(args), **_as_arrays(kwargs))


def _as_arrays(value: Any) -> Any:
    """Return tensors as arrays, also those in lists, tuples and mappings."""
    if isinstance(value, Tensor):
        return np.asarray(value)
    if isinstance(value, Mapping):
        return {key: _as_arrays(v) for key, v in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_as_arrays, value))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, range)):
        return list(map(_as_arrays, value))
    return value


# ------------------------------------------------------------------ arithmetic with numbers and arrays

_LUCID_KINDS = "bifc"  # of NumPy's types: Lucid has no unsigned ones
_COMPARISONS = ("__eq__", "__ne__", "__gt__", "__ge__", "__lt__", "__le__")
_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "and", "or")
_OPERATORS = (*_COMPARISONS, *(f"__{r}{name}__" for name in _ARITHMETIC for r in ("", "r")), "__matmul__")


def _with_others(name: str, operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return one of Lucid's binary operators, right also with numbers of another type and with arrays.

    Lucid gives a number the type of the tensor, so that ``labels * 1.5`` was ``labels * 1`` and ``masks > 0.5`` was
    false everywhere; and it stumbles over arrays of a type that it does not have.
    """

    @functools.wraps(operator)
    def method(self: Tensor, other: Any) -> Any:
        if isinstance(other, Tensor):
            return operator(self, other)
        if isinstance(other, np.ndarray):
            return _with_array(name, operator, self, other)
        if isinstance(other, np.generic):
            other = other.item()
        if isinstance(other, (int, float)) and not isinstance(other, bool):
            self = _wide_enough(self, other, name in _COMPARISONS)
        return operator(self, other)

    return method


def _wide_enough(tensor: Tensor, number: float, exact: bool) -> Tensor:
    """Return a tensor of bools or integers in a type that can hold a number; others as they are."""
    kind = str(tensor.data.dtype).split(".")[-1]
    if kind.startswith("float") or kind.startswith("complex") or kind == "bfloat16":
        return tensor
    if isinstance(number, float):
        wanted = "float64" if exact and tensor.device == "cpu" else "float32"  # float32 cannot hold all of int32
    elif kind == "bool":
        wanted = "int32"
    else:
        return tensor
    return Tensor(tensor.data.astype(getattr(mx, wanted) if tensor.device == "gpu" else wanted))


def _with_array(name: str, operator: Callable[..., Any], tensor: Tensor, array: np.ndarray) -> Any:
    """Return a tensor, or an array where Lucid has no type for one and no gradient depends on it."""
    if array.dtype.kind in _LUCID_KINDS and array.dtype.itemsize <= 8:
        return operator(tensor, Tensor(array, device=tensor.device))
    if tensor.requires_grad and lucid.grad_enabled() and name not in _COMPARISONS:
        return operator(tensor, Tensor(array.astype(np.asarray(tensor).dtype), device=tensor.device))
    return getattr(np.asarray(tensor), name)(array)


def _rmatmul(self: Tensor, other: Any) -> Tensor:
    return lucid.matmul(Tensor(np.asarray(other), device=self.device), self)


def _abs(self: Tensor) -> Tensor:
    return lucid.abs(self)


# ------------------------------------------------------------------ copies and pickles


def _in_memory_order(array: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return an array as contiguous memory, and the axes of that in the order of the array's."""
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))  # slowest first
    return np.asarray(array.transpose(order), order="C"), tuple(np.argsort(order).tolist())


def _reduce(self: Tensor, protocol: int) -> tuple[Any, ...]:
    """Return how a pickle makes the tensor anew: of its values in their memory order, never of its graph."""
    kind = type(self)
    data, dtype = self.data, str(self.data.dtype).split(".")[-1]
    memory, axes = _in_memory_order(np.asarray(data.astype(mx.float32) if dtype == "bfloat16" else data))
    flags = (self.requires_grad, self.keep_grad, self.is_free)
    return _rebuilt, (None if kind is Tensor else kind, memory, axes, dtype, self.device, flags)


def _rebuilt(
    kind: type[Tensor] | None,
    memory: np.ndarray,
    axes: tuple[int, ...],
    dtype: str,
    device: str,
    flags: tuple[bool, bool, bool],
) -> Tensor:
    """Return the tensor of a pickle."""
    data: Any = memory.transpose(axes)
    if device == "gpu":
        try:
            data = mx.array(data)
            data = data.astype(mx.bfloat16) if dtype == "bfloat16" else data
            mx.eval(data)
        except RuntimeError as error:  # MLX without a device
            raise RuntimeError(
                f'This tensor was pickled on "gpu", which does not work here: move the model or the detections to '
                f'"cpu" before they are pickled. ({error})'
            ) from error
    return _made(kind or Tensor, data, device, flags)


def _made(kind: Any, data: Any, device: str, flags: tuple[bool, bool, bool]) -> Tensor:
    """Return a tensor that is no result of an operation; its flags do not depend on whether gradients are on now."""
    requires_grad, keep_grad, is_free = flags
    new = kind.__new__(kind)
    Tensor.__init__(new, data, keep_grad=keep_grad, device=device)
    new.requires_grad = requires_grad
    return new.free() if is_free else new


def _copy(self: Tensor) -> Tensor:
    new = _made(type(self), self.data, self.device, (self.requires_grad, self.keep_grad, self.is_free))
    new.grad = self.grad
    return new


def _deepcopy(self: Tensor, memo: Any = None) -> Tensor:
    # Lucid's own unfreezes parameters that need no gradient, and freezes them all within no_grad.
    data = mx.array(self.data) if self.device == "gpu" else np.array(self.data, copy=True)
    new = _made(type(self), data, self.device, (self.requires_grad, self.keep_grad, self.is_free))
    if self.grad is not None and self.keep_grad:
        new.grad = Tensor.copy_grad(self.grad)
    return new


def _set_module_state(self: nn.Module, state: Mapping[str, Any]) -> None:
    """Fill a module that a copy or a pickle makes: with what its state has, or else what a new module has.

    Lucid's releases differ in the lists of hooks. The registries are the copy's own, so that a submodule that is set on
    one of two is not set on both.
    """
    merged = {**vars(nn.Module()), **state}
    own = {k: copy.copy(v) if k.startswith("_") and isinstance(v, (dict, list, set)) else v for k, v in merged.items()}
    self.__dict__.update(own)


# ------------------------------------------------------------------ on and off

_ADDED: dict[str, Any] = {
    "__array__": _array,
    "__array_priority__": 1000,  # without it NumPy would compute array * tensor itself, without a gradient
    "__array_function__": _array_function,
    "__float__": _float,
    "__int__": _int,
    "__complex__": _complex,
    "__index__": _index,
    "__round__": _round,
    "__format__": _format,
    "__contains__": _contains,
    "__abs__": _abs,
    "__rmatmul__": _rmatmul,
    "__copy__": _copy,
    "__reduce_ex__": _reduce,
}
_REPLACED: dict[str, Any] = {"__iter__": _iter, "__deepcopy__": _deepcopy, "astype": _astype, "numpy": _numpy}
_before: dict[tuple[type, str], Any] = {}


def _defines(name: str) -> bool:
    """Whether Lucid's tensors have a method that not every object has."""
    return getattr(Tensor, name, None) is not getattr(object, name, None)


def install(enable: bool) -> None:
    """Put the methods on ``lucid.Tensor`` and ``lucid.nn.Module``, or put back what was there."""
    if not enable:
        for (owner, name), method in _before.items():
            delattr(owner, name) if method is _ABSENT else setattr(owner, name, method)
        _before.clear()
        return
    if _before:
        return
    methods = {name: method for name, method in _ADDED.items() if not _defines(name)} | _REPLACED
    methods |= {name: _with_others(name, getattr(Tensor, name)) for name in _OPERATORS if _defines(name)}
    changes = {(Tensor, name): method for name, method in methods.items()}
    if not hasattr(nn.Module, "__setstate__"):
        changes[nn.Module, "__setstate__"] = _set_module_state
    for (owner, name), method in changes.items():
        _before[owner, name] = vars(owner).get(name, _ABSENT)
        setattr(owner, name, method)
