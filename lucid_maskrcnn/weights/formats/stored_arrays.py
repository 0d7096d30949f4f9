"""Arrays that are still in their file: shape and dtype are known, the values are read on demand."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from ...validators import shown

__all__ = [
    "ByteOrder",
    "CheckpointError",
    "DiskFile",
    "ElementType",
    "Span",
    "StoredArray",
    "column_major",
    "decodable",
    "file_errors",
    "num_elements",
    "open_disk_file",
    "printable",
    "row_major",
]

_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 2**48  # also of the non-zero sizes alone: NumPy refuses (2**40, 2**40, 0)
_BLOCK = 2**20

# For each encoding of binary data as text, one character up to U+00FF a byte: the most bytes that a character takes.
_MAX_BYTES_PER_CHARACTER = {"latin-1": 1, "utf-8": 2, "unicode-escape": 4, "raw-unicode-escape": 6}
# What such a text may consist of where backslashes escape. No pickle writes other escapes (octal, \N{...}).
_TOKENS = {
    "unicode-escape": re.compile(rb"(?:[^\\]++|\\x[0-9a-fA-F]{2}|\\[\\'\"nrt])*+"),
    "raw-unicode-escape": re.compile(rb"(?:[^\\]++|\\u00[0-9a-fA-F]{2})*+"),
}
_MAX_TOKEN_LENGTH = 6


class CheckpointError(Exception):
    """A file that cannot be used; the message continues a sentence that begins with the file's name.

    Never leaves this package: :func:`file_errors` turns it into a ``ValueError``.
    """


def printable(name: str) -> str:
    """Return a string from a file as messages show it: escaped, and shortened to 100 characters."""
    escaped = name.encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= 100 else escaped[:97] + "..."


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn a :class:`CheckpointError` in the block into a ``ValueError`` that begins with the file's name."""
    try:
        yield
    except CheckpointError as error:
        raise ValueError(f"{str(path)!r} {error}.") from error.__cause__


@dataclass(frozen=True)
class DiskFile:
    """A file in the state in which it was first opened.

    Attributes
    ----------
    path : Path
        As the caller wrote it.
    absolute : Path
        For opening it again after a change of the working directory.
    size : int
        In bytes. Shapes and offsets were checked against it.
    modified : int
        Time of the last modification, in nanoseconds since 1970.
    """

    path: Path
    absolute: Path
    size: int
    modified: int

    @contextmanager
    def reopened(self) -> Iterator[BinaryIO]:
        """Open the file again, unbuffered, for as long as the block lasts.

        Raises
        ------
        ValueError
            If it no longer exists or has changed.
        """
        try:
            with file_errors(self.path):
                self._check_unchanged(
                    os.stat(self.absolute)
                )  # before opening, as opening a pipe would wait for its writer
                with open(self.absolute, "rb", buffering=0) as file:
                    self._check_unchanged(os.fstat(file.fileno()))
                    yield file
        except OSError as error:
            raise ValueError(f"{str(self.path)!r} can no longer be read: {error.strerror or error}.") from error

    def _check_unchanged(self, status: os.stat_result) -> None:
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
            raise CheckpointError("has changed since it was opened")


@contextmanager
def open_disk_file(path: Path) -> Iterator[tuple[BinaryIO, DiskFile]]:
    """Open a file, unbuffered, so that skipped bytes are never read."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        yield file, DiskFile(path, Path(os.path.abspath(path)), status.st_size, status.st_mtime_ns)


class Span(NamedTuple):
    """A byte range of a file.

    Attributes
    ----------
    offset, length : int
        In bytes.
    encoding : str
        How the file writes binary data as text, one character U+00nn for the byte nn: ``"latin-1"`` (the bytes
        themselves), ``"utf-8"``, ``"unicode-escape"`` or ``"raw-unicode-escape"``.
    """

    offset: int
    length: int
    encoding: str = "latin-1"

    def may_hold(self, num_bytes: int) -> bool:
        """Return whether this could decode to ``num_bytes``; encoded text is only certain once it is read."""
        return num_bytes <= self.length <= num_bytes * _MAX_BYTES_PER_CHARACTER[self.encoding]


type ByteOrder = Literal["<", ">", "="]


@dataclass(frozen=True, slots=True)
class ElementType:
    """The type of an array's elements: in the file, and once read.

    Attributes
    ----------
    stored : np.dtype
        Of the bytes in the file; ``uint16`` for bfloat16, ``uint8`` for bool.
    read : np.dtype
        In this machine's byte order; ``float32`` for every real floating type.
    """

    stored: np.dtype
    read: np.dtype

    @classmethod
    def of(cls, name: str, order: ByteOrder = "<") -> ElementType:
        """Return the type that NumPy calls ``name``, or ``"bfloat16"``, in a byte order."""
        if name == "bfloat16":
            return cls(np.dtype(f"{order}u2"), np.dtype(np.float32))
        stored = np.dtype(name).newbyteorder(order)
        if stored.kind == "b":  # a byte that is neither 0 nor 1 must not become a bool that is neither True nor False
            return cls(np.dtype(np.uint8), np.dtype(bool))
        return cls(stored, np.dtype(np.float32) if stored.kind == "f" else stored.newbyteorder("="))

    @property
    def size(self) -> int:
        """Bytes of one element in the file."""
        return self.stored.itemsize

    def convert(self, values: np.ndarray) -> np.ndarray:
        """Return ``values`` of the stored dtype in the dtype ``read``, C-contiguous."""
        if self.stored == self.read:
            return np.ascontiguousarray(values).reshape(values.shape)  # ascontiguousarray makes (1,) of ()
        out = np.empty(values.shape, self.read)
        if self.read.kind == "b":
            np.not_equal(values, 0, out=out)
        elif self.read.kind == "f" and self.stored.kind == "u":  # bfloat16 is the upper half of a float32
            np.left_shift(values, 16, out=out.view(np.uint32), dtype=np.uint32)
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # float64 1e300 becomes inf, any NaN stays NaN
                np.copyto(out, values, casting="unsafe")
        return out


def num_elements(shape: object, array: str = "an array") -> int:
    """Check a shape and return its number of elements; ``array`` is what messages call it.

    Raises
    ------
    CheckpointError
        If ``shape`` is not a tuple of at most 32 sizes, or has more elements than any array can have.
    """
    if type(shape) is not tuple:
        raise CheckpointError(f"has {array} whose shape is not a sequence of integers")
    if len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"has {array} of {len(shape)} dimensions; at most {_MAX_DIMENSIONS} are allowed")
    if not all(type(size) is int for size in shape):
        raise CheckpointError(f"has {array} whose shape is not a sequence of integers")
    if any(not 0 <= size <= _MAX_ELEMENTS for size in shape):
        raise CheckpointError(f"has {array} with a negative or too large size in its shape")
    if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise CheckpointError(f"has {array} of the shape {shown(shape)}, which is too large")
    return math.prod(shape)


class StoredArray:
    """An array in a file; each ``np.asarray`` reads it again.

    Attributes
    ----------
    shape : tuple of int
        ``()`` for a scalar.
    dtype : np.dtype
        Once read: ``float32`` for real floats of any width, else the dtype in the file.
    ndim, size, nbytes : int
        Number of dimensions, of elements, and of bytes once read.
    """

    __slots__ = ("_disk", "_element", "_span", "_strides", "dtype", "shape", "size")

    def __init__(
        self,
        disk: DiskFile,
        span: Span,
        element: ElementType,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
    ) -> None:
        """Make an array of arguments that are known to fit each other and the file.

        Parameters
        ----------
        disk : DiskFile
            The file.
        span : Span
            The bytes in it, from the first element to the last.
        element : ElementType
            Type of the elements.
        shape : tuple of int
            Sizes.
        strides : tuple of int, optional
            In elements, not bytes; by default row-major.
        """
        self.shape = shape
        self.size = num_elements(shape)
        self.dtype = element.read
        self._disk, self._span, self._element = disk, span, element
        self._strides = None if strides is None or strides == row_major(shape) else strides

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes once read."""
        return self.size * self.dtype.itemsize

    @property
    def num_stored_bytes(self) -> int:
        """Number of bytes that reading it takes from the file: of a slice, also those between its elements."""
        return self._span.length

    def __repr__(self) -> str:
        return f"StoredArray({self.shape}, {self.dtype}, in {str(self._disk.path)!r})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read the array.

        Returns
        -------
        np.ndarray
            New, C-contiguous, of ``dtype`` if given.

        Raises
        ------
        ValueError
            If the file no longer exists, has changed or turns out to be damaged.
        """
        if copy is False:
            raise ValueError("copy=False is not possible for an array in a file: reading always makes a new array.")
        array = self._read()
        return array if dtype is None else array.astype(dtype, copy=False)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all values, flat and in any order, block by block: to look at them without keeping them."""
        if self._strides is not None or self._span.encoding != "latin-1" or self.size == 0:
            yield self._read().reshape(-1)
            return
        buffer = np.empty(min(self.size, _BLOCK // self._element.size), self._element.stored)
        with self._disk.reopened() as file:
            for start in range(0, self.size, len(buffer)):
                block = buffer[: self.size - start]
                _fill_raw(block.view(np.uint8), file, self._span.offset + start * self._element.size)
                yield self._element.convert(block)

    def _read(self) -> np.ndarray:
        if self.size == 0:
            return np.empty(self.shape, self.dtype)
        stored = np.empty(self._span_elements(), self._element.stored)
        with self._disk.reopened() as file:
            _fill(stored.view(np.uint8), file, self._span)
        if self._strides is None:
            return self._element.convert(stored.reshape(self.shape))
        byte_strides = tuple(stride * self._element.size for stride in self._strides)
        return self._element.convert(np.ndarray(self.shape, self._element.stored, stored, 0, byte_strides))

    def _span_elements(self) -> int:
        if self._strides is None:
            return self.size
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self._strides, strict=True))


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a row-major array (last index fastest)."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def column_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a column-major array (first index fastest)."""
    return tuple(math.prod(shape[:axis]) for axis in range(len(shape)))


# ------------------------------------------------------------------ from the file into an array


def _fill(target: np.ndarray, file: BinaryIO, span: Span) -> None:
    """Read ``span`` into all of ``target``, (N,) uint8."""
    if span.encoding == "latin-1":
        _fill_raw(target, file, span.offset)
        return
    done = 0
    for block in _decoded(file, span):
        if len(block) > len(target) - done:
            raise CheckpointError("has an array with more bytes than its shape needs")
        target[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    if done < len(target):
        raise CheckpointError("has an array with fewer bytes than its shape needs")


def _fill_raw(target: np.ndarray, file: BinaryIO, offset: int) -> None:
    file.seek(offset)
    view, done = memoryview(target), 0
    while done < len(view):  # one call reads at most 2 GiB
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError("ends before its arrays do")
        done += count


def _decoded(file: BinaryIO, span: Span) -> Iterator[bytes]:
    """Yield the binary data that a text encodes, block by block."""
    rest = b""
    for start in range(0, span.length, _BLOCK):
        block = np.empty(min(_BLOCK, span.length - start), np.uint8)
        _fill_raw(block, file, span.offset + start)
        text = rest + block.tobytes()
        whole = decodable(text, span.encoding)
        rest = text[whole:]
        try:
            yield text[:whole].decode(span.encoding).encode("latin-1")
        except UnicodeError:
            raise CheckpointError("has an array that is written as text and cannot be decoded") from None
        if len(rest) >= _MAX_TOKEN_LENGTH:
            break
    if rest:
        raise CheckpointError("has an array that is written as text and cannot be decoded")


def decodable(text: bytes, encoding: str) -> int:
    """Return how many bytes at the beginning of ``text`` can be decoded without those that follow."""
    if encoding == "utf-8":
        return len(text) - (text[-1] >= 0xC2)
    match = _TOKENS[encoding].match(text)
    return match.end() if match else 0
