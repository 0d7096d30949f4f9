"""NumPy arrays in plain pickles: what detectron2 and Caffe2 write, and numbers in PyTorch's files."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

from ...validators import shown
from .bounded_reader import BoundedReader
from .pickles import PickledObject, PickledStr, SafeGlobal, as_key, globals_by_name, read_pickle
from .stored_arrays import (
    ByteOrder,
    CheckpointError,
    DiskFile,
    ElementType,
    Span,
    StoredArray,
    column_major,
    num_elements,
    printable,
)

__all__ = ["NUMPY_SAFE_GLOBALS", "NumpyArray", "read_numpy_pickle"]


def read_numpy_pickle(file: BinaryIO, disk: DiskFile) -> Any:
    """Read the object that a pickle of NumPy arrays holds.

    Parameters
    ----------
    file : BinaryIO
        Opened, unbuffered.
    disk : DiskFile
        The same file's path and size.

    Returns
    -------
    object
        As from ``read_pickle``, with a :class:`NumpyArray` for each array.

    Raises
    ------
    CheckpointError
        If the file is damaged, or asks for anything but arrays.
    """
    reader = BoundedReader(file, 0, disk.size)
    content = read_pickle(reader, NUMPY_SAFE_GLOBALS)
    if reader.position != reader.end:
        raise CheckpointError("has data behind the end of its pickle")
    return content


# ------------------------------------------------------------------ dtypes and arrays


_BYTE_ORDERS: dict[str, ByteOrder] = {"<": "<", ">": ">", "=": "=", "|": "="}  # "|": of single bytes


class NumpyDtype(PickledObject):
    """A ``numpy.dtype``; its byte order comes after the call, as state."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order: ByteOrder = "="

    def set_state(self, state: object) -> None:
        """Take ``(3, byte order, None, None, None, -1, -1, 0)``; structured dtypes have other values for None."""
        if type(state) is not tuple or len(state) != 8 or any(part is not None for part in state[2:5]):
            raise CheckpointError("has an array of a structured dtype")
        if type(state[1]) is not PickledStr or state[1] not in _BYTE_ORDERS:
            raise CheckpointError("has an array of an unknown byte order")
        self.order = _BYTE_ORDERS[state[1]]

    @property
    def element(self) -> ElementType:
        """The dtype as it is known so far."""
        return ElementType.of(self.code, self.order)


class NumpyArray(PickledObject):
    """A ``numpy.ndarray``, without content until its state or its bytes are known."""

    def __init__(self) -> None:
        self._content: tuple[Span, ElementType, tuple[int, ...], tuple[int, ...] | None] | None = None

    def set_state(self, state: object) -> None:
        """Take ``(1, shape, dtype, is_fortran, bytes)``."""
        if type(state) is not tuple or len(state) != 5:
            raise CheckpointError("has an array whose state is not (version, shape, dtype, order, bytes)")
        self.set(state[4], state[2], state[1], fortran=state[3])

    def set(self, content: object, dtype: object, shape: Any, *, fortran: object) -> NumpyArray:
        """Check that bytes, dtype and shape fit each other, and keep them."""
        if isinstance(dtype, PickledObject) and dtype.problem:
            raise CheckpointError(dtype.problem)
        if type(dtype) is not NumpyDtype:
            raise CheckpointError("has an array whose dtype is not a numpy.dtype")
        span = content.span if type(content) is PickledStr else content
        if type(span) is not Span:
            raise CheckpointError("has an array whose content is not bytes")
        if type(fortran) not in (bool, int):
            raise CheckpointError("has an array whose memory order is neither row-major nor column-major")
        element = dtype.element
        num_bytes = num_elements(shape) * element.size
        if not span.may_hold(num_bytes):
            wanted = f"the shape {shown(shape)} of {element.stored} needs {num_bytes}"
            raise CheckpointError(f"has an array of {span.length} bytes, but {wanted}")
        self._content = span, element, shape, column_major(shape) if fortran else None
        return self

    def stored(self, disk: DiskFile) -> StoredArray:
        """Return the array in the form in which it can be read."""
        if self._content is None:
            raise CheckpointError("has an array without content")
        return StoredArray(disk, *self._content)


# Not objects, strings, dates and structures, which are not weights, nor longdouble, whose size depends on the machine.
_NUMPY_CODES = re.compile(r"[fc]8|[fiu][24]|[iu][18]|b1|c16")


def _dtype(arguments: tuple[Any, ...]) -> NumpyDtype:
    code = arguments[0] if arguments else None
    if type(code) is not PickledStr or not _NUMPY_CODES.fullmatch(code):
        kind = f"the dtype {printable(code)}" if type(code) is PickledStr else "a dtype without a name"
        raise CheckpointError(f"has an array of {kind}, which is not numeric: it is refused")
    return NumpyDtype(str(code))


def _reconstruct(arguments: tuple[Any, ...]) -> NumpyArray:
    if not arguments or arguments[0] is not _NDARRAY:
        raise CheckpointError("has an array of a class that is not numpy.ndarray")
    return NumpyArray()


def _scalar(arguments: tuple[Any, ...]) -> NumpyArray:
    if len(arguments) != 2:
        raise CheckpointError("has a NumPy scalar that is not a dtype and bytes")
    return NumpyArray().set(arguments[1], arguments[0], (), fortran=False)


def _frombuffer(arguments: tuple[Any, ...]) -> NumpyArray:
    if len(arguments) != 4 or type(arguments[3]) is not PickledStr or arguments[3] not in ("C", "F"):
        raise CheckpointError("has an array that is not bytes, dtype, shape and an order of C or F")
    content, dtype, shape, order = arguments
    return NumpyArray().set(content, dtype, shape, fortran=order == "F")


def _encode(arguments: tuple[Any, ...]) -> Span:
    """Return bytes that were written as text, one character each: protocols 0 to 2 have no opcode for bytes."""
    if len(arguments) != 2 or type(arguments[1]) is not PickledStr or arguments[1] != "latin1":
        raise CheckpointError("calls _codecs.encode with a codec other than latin1: it is refused")
    text = arguments[0]
    if type(text) is PickledStr:
        return text.span
    if type(text) is not Span:
        raise CheckpointError("calls _codecs.encode with something that is not a string: it is refused")
    return text


def _empty_bytes(arguments: tuple[Any, ...]) -> Span:
    """Return empty bytes, which protocols 0 to 2 write as a call."""
    if arguments:
        raise CheckpointError("calls bytes with arguments: it is refused")
    return Span(0, 0)


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Return a dict: empty, or of the list of pairs that Python 2 passes."""
    result: dict[Any, Any] = {}
    pairs = arguments[0] if len(arguments) == 1 else []
    if len(arguments) > 1 or type(pairs) is not list:
        raise CheckpointError("calls collections.OrderedDict with something that is not a list of pairs: it is refused")
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise CheckpointError(
                "calls collections.OrderedDict with something that is not a list of pairs: it is refused"
            )
        result[as_key(pair[0])] = pair[1]
    pairs.clear()  # else one long list, passed again and again, would take time without taking opcodes
    return result


_NDARRAY = SafeGlobal("numpy.ndarray")

NUMPY_SAFE_GLOBALS = globals_by_name(
    _NDARRAY,
    SafeGlobal("numpy.dtype", _dtype),
    *(SafeGlobal(f"numpy.{core}.multiarray._reconstruct", _reconstruct) for core in ("core", "_core")),
    *(SafeGlobal(f"numpy.{core}.multiarray.scalar", _scalar) for core in ("core", "_core")),
    *(SafeGlobal(f"numpy.{core}.numeric._frombuffer", _frombuffer) for core in ("core", "_core")),
    SafeGlobal("_codecs.encode", _encode),
    SafeGlobal("builtins.bytes", _empty_bytes),
    SafeGlobal("__builtin__.bytes", _empty_bytes),
    SafeGlobal("collections.OrderedDict", _ordered_dict),
)
"""What pickles of NumPy arrays may name."""
