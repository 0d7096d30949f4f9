"""Arrays that are still in their file: shape and type are known, the numbers are read when they are asked for."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

__all__ = [
    "BadFile",
    "DiskFile",
    "Element",
    "Span",
    "StoredArray",
    "column_major",
    "decodable",
    "named",
    "num_elements",
    "opened",
    "row_major",
]

_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 2**48  # also of the non-zero sizes alone: NumPy refuses (2**40, 2**40, 0)
_BLOCK = 2**20

# Texts that hold bytes, one character each up to U+00FF: how many bytes of the file one of them takes at most.
_MOST_BYTES = {"latin-1": 1, "utf-8": 2, "unicode-escape": 4, "raw-unicode-escape": 6}
# What such a text may consist of where backslashes mean something. Other escapes (octal, \N{...}) no pickle writes.
_TOKENS = {
    "unicode-escape": re.compile(rb"(?:[^\\]++|\\x[0-9a-fA-F]{2}|\\[\\'\"nrt])*+"),
    "raw-unicode-escape": re.compile(rb"(?:[^\\]++|\\u00[0-9a-fA-F]{2})*+"),
}
_LONGEST_TOKEN = 6


class BadFile(Exception):  # noqa: N818, it is the name that the messages are read by
    """What is wrong with a file, in the words that follow its name in a sentence.

    Never leaves this package: :func:`named` turns it into a ``ValueError``.
    """


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn a :class:`BadFile` inside the block into a ``ValueError`` that begins with the file's name."""
    try:
        yield
    except BadFile as error:
        raise ValueError(f"{str(path)!r} {error}.") from error.__cause__


@dataclass(frozen=True)
class DiskFile:
    """A file as it was when it was opened first.

    Attributes
    ----------
    path : Path
        As the caller wrote it.
    absolute : Path
        For opening it again, from whatever directory.
    size, modified : int
        Bytes, and nanoseconds since 1970. Shapes and places were checked against them.
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
            If it is gone or another one.
        """
        try:
            with named(self.path):
                self._require_the_same(os.stat(self.absolute))  # before, as opening a pipe would wait for its writer
                with open(self.absolute, "rb", buffering=0) as file:
                    self._require_the_same(os.fstat(file.fileno()))
                    yield file
        except OSError as error:
            raise ValueError(f"{str(self.path)!r} can no longer be read: {error.strerror or error}.") from error

    def _require_the_same(self, status: os.stat_result) -> None:
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
            raise BadFile("has changed since it was opened")


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, DiskFile]]:
    """Open a file, unbuffered: what is skipped is never read."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        yield file, DiskFile(path, Path(os.path.abspath(path)), status.st_size, status.st_mtime_ns)


class Span(NamedTuple):
    """A stretch of a file.

    Attributes
    ----------
    offset, length : int
        In bytes of the file.
    encoding : str
        How the bytes were written as text, a character U+00nn for the byte nn: ``"latin-1"``, which is
        as they are, ``"utf-8"``, ``"unicode-escape"`` or ``"raw-unicode-escape"``.
    """

    offset: int
    length: int
    encoding: str = "latin-1"

    def may_hold(self, num_bytes: int) -> bool:
        """Tell whether this could be that many bytes; for text, reading it has the last word."""
        return num_bytes <= self.length <= num_bytes * _MOST_BYTES[self.encoding]


@dataclass(frozen=True, slots=True)
class Element:
    """One number: how it is stored and as what it is read.

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
    def of(cls, code: str, order: str = "<") -> Element:
        """Return the type called ``code``, "bf16" or NumPy's kind and size, in the byte order "<", ">" or "="."""
        if code == "b1":  # a byte that is neither 0 nor 1 must not become a bool that is neither True nor False
            return cls(np.dtype("u1"), np.dtype(bool))
        if code == "bf16":
            return cls(np.dtype(f"{order}u2"), np.dtype(np.float32))
        stored = np.dtype(f"{order}{code}")
        return cls(stored, np.dtype(np.float32) if stored.kind == "f" else stored.newbyteorder("="))

    @property
    def size(self) -> int:
        """Bytes that one takes in the file."""
        return self.stored.itemsize

    def convert(self, values: np.ndarray) -> np.ndarray:
        """Return ``values``, of the stored type, contiguous and as they are to be read."""
        if self.stored == self.read:
            return np.ascontiguousarray(values).reshape(values.shape)  # which makes (1,) of ()
        out = np.empty(values.shape, self.read)
        if self.read.kind == "b":
            np.not_equal(values, 0, out=out)
        elif self.read.kind == "f" and self.stored.kind == "u":  # bfloat16 is the upper half of a float32
            np.left_shift(values, 16, out=out.view(np.uint32), dtype=np.uint32)
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # 1e300 is inf, and a NaN of any kind is NaN
                np.copyto(out, values, casting="unsafe")
        return out


def num_elements(shape: object) -> int:
    """Return the product of the sizes, having checked them.

    Raises
    ------
    BadFile
        If it is not a tuple of at most 32 sizes, or beyond what any array can have.
    """
    if type(shape) is not tuple:
        raise BadFile("has an array whose shape is not a tuple of whole numbers")
    if len(shape) > _MAX_DIMENSIONS:
        raise BadFile(f"has an array of {len(shape)} dimensions, and {_MAX_DIMENSIONS} are the most")
    if not all(type(size) is int for size in shape):
        raise BadFile("has an array whose shape is not a tuple of whole numbers")
    if any(not 0 <= size <= _MAX_ELEMENTS for size in shape):
        raise BadFile("has an array with a size that is negative or beyond any array")
    if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise BadFile(f"has an array of the shape {shape}, which is beyond any array")
    return math.prod(shape)


class StoredArray:
    """An array in a file, read when ``np.asarray`` asks for it, and anew each time.

    Attributes
    ----------
    shape : tuple of int
        ``()`` for a single number.
    dtype : np.dtype
        What reading gives: ``float32`` for floats of any width, else the type that was stored.
    ndim, size, nbytes : int
        Dimensions, numbers, and bytes once read.
    """

    __slots__ = ("_disk", "_element", "_span", "_strides", "dtype", "shape", "size")

    def __init__(
        self,
        disk: DiskFile,
        span: Span,
        element: Element,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
    ) -> None:
        """Trust the arguments: who makes one has checked that they fit each other and the file.

        Parameters
        ----------
        disk : DiskFile
            Where it is.
        span : Span
            The bytes there, from the first number to the last.
        element : Element
            Their type.
        shape : tuple of int
            Sizes.
        strides : tuple of int, optional
            Steps from one index to the next, in numbers; by default the last index is the fastest.
        """
        self.shape = shape
        self.size = num_elements(shape)
        self.dtype = element.read
        self._disk, self._span, self._element = disk, span, element
        self._strides = None if strides is None or strides == row_major(shape) else strides

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes once read."""
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"StoredArray({self.shape}, {self.dtype}, in {str(self._disk.path)!r})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read it.

        Returns
        -------
        np.ndarray
            New, C-contiguous, of ``dtype`` if that is given.

        Raises
        ------
        ValueError
            If the file is gone, has changed or turns out to be damaged.
        """
        if copy is False:
            raise ValueError("An array that is in a file can only be read into a new one: copy=False cannot be had.")
        array = self._read()
        return array if dtype is None else array.astype(dtype, copy=False)

    def _read(self) -> np.ndarray:
        if self.size == 0:
            return np.empty(self.shape, self.dtype)
        stored = np.empty(self._span_elements(), self._element.stored)
        with self._disk.reopened() as file:
            _fill(stored.view(np.uint8), file, self._span)
        if self._strides is None:
            return self._element.convert(stored.reshape(self.shape))
        steps = tuple(step * self._element.size for step in self._strides)
        return self._element.convert(np.ndarray(self.shape, self._element.stored, stored, 0, steps))

    def _span_elements(self) -> int:
        if self._strides is None:
            return self.size
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self._strides, strict=True))


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in numbers, of an array whose last index is the fastest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def column_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in numbers, of an array whose first index is the fastest."""
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
            raise BadFile("has an array with more bytes than its shape has")
        target[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    if done < len(target):
        raise BadFile("has an array with fewer bytes than its shape has")


def _fill_raw(target: np.ndarray, file: BinaryIO, offset: int) -> None:
    file.seek(offset)
    view, done = memoryview(target), 0
    while done < len(view):  # one call reads at most 2 GiB
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise BadFile("ends before its arrays do")
        done += count


def _decoded(file: BinaryIO, span: Span) -> Iterator[bytes]:
    """Yield the bytes that a text stands for, block by block."""
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
            raise BadFile("has an array that is written as text, and not all of it is") from None
        if len(rest) >= _LONGEST_TOKEN:
            break
    if rest:
        raise BadFile("has an array that is written as text, and not all of it is")


def decodable(text: bytes, encoding: str) -> int:
    """Return how much of ``text`` can be decoded without what follows it."""
    if encoding == "utf-8":
        return len(text) - (text[-1] >= 0xC2)
    match = _TOKENS[encoding].match(text)
    return match.end() if match else 0
