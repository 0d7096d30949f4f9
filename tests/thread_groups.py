"""A group whose ranks are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

_PATIENCE = 20  # seconds, for a rank that has raised an error alone


class ThreadGroup:
    """One rank of a group of threads; see :func:`in_threads`."""

    def __init__(self, rank: int, size: int, meeting: threading.Barrier, given: list[Any]) -> None:
        self.rank, self.size, self._meeting, self._given = rank, size, meeting, given

    def all_reduce(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._given[self.rank] = list(arrays)
        self._meeting.wait(_PATIENCE)
        sums = [np.sum(same, axis=0, dtype=same[0].dtype) for same in zip(*self._given, strict=True)]
        self._meeting.wait(_PATIENCE)
        return sums

    def broadcast(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._given[self.rank] = list(arrays)
        self._meeting.wait(_PATIENCE)
        found = [array.copy() for array in self._given[0]]
        self._meeting.wait(_PATIENCE)
        return found

    def barrier(self) -> None:
        self._meeting.wait(_PATIENCE)


def in_threads(size: int, function: Callable[[ThreadGroup], Any]) -> list[Any]:
    """Call a function on each rank of a group, and return what each returns or raises."""
    meeting, given = threading.Barrier(size), [None] * size

    def on_rank(rank: int) -> Any:
        try:
            return function(ThreadGroup(rank, size, meeting, given))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(on_rank, range(size)))
