"""Memory for large arrays, kept from one call to the next.

A prediction writes a few hundred megabytes of activations. The system hands such memory out page by page, zeroed,
and takes it back when an array is freed: on some machines that costs more than the arithmetic. So large arrays are
allocated in one arena whose pages stay. Its size is only a limit: memory that was never used costs nothing.

Names: sizes, starts and ends are in bytes; a ``span`` is a (start, end) of the arena.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from bisect import bisect
from collections import deque
from typing import Any

import numpy as np

__all__ = ["empty", "empty_like", "is_kept", "release_memory", "zeros"]

_ARENA_SIZE = 2 << 30  # bytes; what does not fit is left to the system
LARGE = 1 << 18  # bytes; smaller arrays are left to the system too
_ALIGNMENT = 64  # bytes


class Arena:
    """One mapping of memory, whose spans are taken at the lowest place where they fit."""

    def __init__(self, size: int) -> None:
        self.memory = _map(size)
        self.free = [(0, len(self.memory))]  # (start, end), in order, none touching another
        self.lock = threading.Lock()
        # Spans of freed arrays. The garbage collector may add one at any moment, even from within `take`, so that
        # they are only listed here and merged into `free` later.
        self.returned: deque[tuple[int, int]] = deque()

    def take(self, size: int) -> int | None:
        """Return where a free span of ``size`` bytes starts, None if there is none."""
        with self.lock:
            self.collect()
            for i, (start, end) in enumerate(self.free):
                if end - start >= size:
                    self.free[i : i + 1] = [(start + size, end)] if end - start > size else []
                    return start
            return None

    def collect(self) -> None:
        """Merge the spans of freed arrays into the free ones."""
        while self.returned:
            start, end = self.returned.popleft()
            i = bisect(self.free, (start, end))
            if i < len(self.free) and self.free[i][0] == end:
                end = self.free.pop(i)[1]
            if i > 0 and self.free[i - 1][1] == start:
                i -= 1
                start = self.free.pop(i)[0]
            self.free.insert(i, (start, end))

    def release(self) -> None:
        """Return the pages of all free spans to the system."""
        page = mmap.PAGESIZE
        with self.lock:
            self.collect()
            for start, end in self.free:
                start, end = -(-start // page) * page, end // page * page
                if end > start and hasattr(self.memory, "madvise"):
                    self.memory.madvise(mmap.MADV_DONTNEED, start, end - start)


def _map(size: int) -> Any:
    """Map memory that is only used when it is written to; return an empty object where the system refuses."""
    try:
        if not hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(-1, size)
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError):
        return b""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


_arena: Arena | None = None
_create = threading.Lock()


def _reset_after_fork() -> None:
    global _create
    _create = threading.Lock()
    if _arena is not None:
        _arena.lock = threading.Lock()  # a thread that held it does not survive a fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of arbitrary contents; its memory is reused when the array and all its views are freed."""
    global _arena
    dtype = np.dtype(dtype)
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size < LARGE:
        return np.empty(shape, dtype)
    with _create:
        if _arena is None:
            _arena = Arena(_ARENA_SIZE)
    arena = _arena
    size = -(-size // _ALIGNMENT) * _ALIGNMENT
    start = arena.take(size)
    if start is None:
        return np.empty(shape, dtype)
    # An array over a memoryview is the base of all its views, so it outlives them.
    array: np.ndarray = np.ndarray(shape, dtype, memoryview(arena.memory)[start : start + size])
    weakref.finalize(array, arena.returned.append, (start, start + size)).atexit = False
    return array


def empty_like(array: np.ndarray) -> np.ndarray:
    """Return :func:`empty` of an array's shape and dtype."""
    return empty(array.shape, array.dtype)


def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return :func:`empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def is_kept(memory: object) -> bool:
    """Return whether something is the memory of the arena, of which no two arrays share a byte."""
    return _arena is not None and memory is _arena.memory


def release_memory() -> None:
    """Return the memory that is kept for later calls, and not in use, to the system.

    Worth calling between a large computation and a long pause. Without effect on Windows.
    """
    if _arena is not None:
        _arena.release()
