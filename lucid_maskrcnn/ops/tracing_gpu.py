"""What ``mx.compile`` is to see of a function: its arrays as inputs, and what was kept of them as inputs, too.

A compiled function computes all that it saw being computed, each time. What is computed once and kept (see
:mod:`.kept_gpu`) must not be among it. So a first, ordinary run notes what it keeps and of which arrays; when MLX looks
at the function, these results are inputs beside the arrays; and each call of the compiled function asks for them anew,
which gives new ones where the arrays have changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx

__all__ = ["Recording", "StandIns", "current", "stand_in", "tracing"]


class _Step(NamedTuple):
    """Something that is kept, and the places of what it is computed from, among the arrays and what was kept before."""

    name: Hashable
    function: Callable[..., Any]
    sources: list[int]


class Recording:
    """What a function keeps in an ordinary run on these arrays."""

    def __init__(self, arrays: Sequence[mx.array]) -> None:
        self._places = {id(array): i for i, array in enumerate(arrays)}
        self._count = len(arrays)
        self._steps: list[_Step | None] = []
        self._alive: list[Any] = []  # so that no other array takes an id

    def note(self, name: Hashable, function: Callable[..., Any], arrays: Sequence[mx.array], result: Any) -> None:
        """Take down what was asked for; of arrays that came from elsewhere it will be computed each time."""
        places = [self._places.get(id(array)) for array in arrays]
        known = [place for place in places if place is not None]
        self._steps.append(_Step(name, function, known) if len(known) == len(places) else None)
        for array in _several(result) if len(known) == len(places) else ():
            self._places.setdefault(id(array), self._count)
            self._count += 1
            self._alive.append(array)

    def finish(self) -> None:
        """Let go of the arrays."""
        self._places, self._alive = {}, []

    def results(self, ask: Callable[..., Any], arrays: Sequence[mx.array]) -> list[list[mx.array]]:
        """Return what is kept of other arrays at the same places, by asking for it: a list for each time it was."""
        found: list[list[mx.array]] = []
        known = list(arrays)
        for step in self._steps:
            if step is None:
                found.append([])
            else:
                of_step = _several(ask(step.name, step.function, *(known[i] for i in step.sources)))
                found.append(of_step)
                known += of_step
        return found


class StandIns:
    """What stands for arrays, and for what is kept of them, while MLX looks at a function."""

    def __init__(self, arrays: Sequence[mx.array], inputs: Sequence[mx.array], kept: Sequence[list[mx.array]]) -> None:
        self.of = {id(array): other for array, other in zip(arrays, inputs, strict=True)}
        self._kept = iter(kept)

    def kept(self, function: Callable[..., Any], arrays: Sequence[mx.array]) -> Any:
        """Return what stands for what is asked for next."""
        found = next(self._kept)
        if not found:
            return function(*arrays)
        return found[0] if len(found) == 1 else tuple(found)


class _Thread(threading.local):
    current: Recording | StandIns | None = None


_thread = _Thread()


def current() -> Recording | StandIns | None:
    """Return what this thread is doing with a function: taking down, letting MLX look, or neither."""
    return _thread.current


def stand_in(array: Any) -> Any:
    """Return what stands for an array at present: usually itself."""
    now = _thread.current
    return now.of.get(id(array), array) if isinstance(now, StandIns) else array


@contextmanager
def tracing(what: Recording | StandIns) -> Iterator[None]:
    """Let operators in this thread take down what they keep, or see what stands for it."""
    before, _thread.current = _thread.current, what
    try:
        yield
    finally:
        _thread.current = before


def _several(result: Any) -> list[mx.array]:
    return list(result) if isinstance(result, tuple) else [result]
