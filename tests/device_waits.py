"""How often the host waits for the device, how many arrays go to it, and how much work is described but not done.

MLX is lazy: an operation is computed when its values are needed. A *wait* is whatever needs them and finds work
pending: a conversion to NumPy or to a number, or an evaluation. Converting values that are there is none.
"""

from __future__ import annotations

import io
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np

_CONVERSIONS = ("asarray", "array", "ascontiguousarray", "asfortranarray", "copy", "asanyarray")
_ARRAY = mx.array
_METHODS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__array__", "__repr__")


def primitives(*arrays: mx.array) -> Counter[str]:
    """Return the pending operations that these arrays depend on, by name: ``Convolution``, ``Matmul``, …."""
    graph = io.StringIO()
    if arrays:
        mx.export_to_dot(graph, *arrays)
    labels = [line.split('label ="')[1] for line in graph.getvalue().splitlines() if 'label ="' in line]
    return Counter(label.split('"')[0] for label in labels)


def pending(*arrays: mx.array) -> int:
    """Return how many operations these arrays still wait for."""
    return primitives(*arrays).total()


@dataclass
class DeviceWaits:
    """What :func:`device_waits` has counted so far.

    Attributes
    ----------
    places : list of str
        Where the host waited: file, line and source of the innermost frame in this package or in a test.
    uploads : int
        NumPy arrays and lists that became MLX arrays.
    """

    places: list[str] = field(default_factory=list)
    uploads: int = 0
    _begun: list[list[mx.array]] = field(default_factory=list)  # by async_eval, and not waited for since

    def __len__(self) -> int:
        return len(self.places)

    def __str__(self) -> str:
        return "\n".join([f"{len(self)} waits", *self.places])

    def _needs(self, arrays: list[mx.array]) -> None:
        begun = [some for some in self._begun if any(a is b for a in arrays for b in some)]
        if pending(*arrays) or begun:
            self.places.append(_place())
            # Work is done in order: what was begun before is finished now, too.
            self._begun = []


def _place() -> str:
    frames = [f for f in traceback.extract_stack() if f.filename != __file__ and "unittest" not in f.filename]
    own = [f for f in frames if "lucid_maskrcnn" in f.filename or "/tests/" in f.filename]
    frame = (own or frames)[-1]
    return f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.line}"


def _arrays_in(value: Any) -> list[mx.array]:
    if isinstance(value, _ARRAY):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [a for v in value for a in _arrays_in(v)] if isinstance(value, (list, tuple)) else []


def _counting_class(real: type, counted: DeviceWaits) -> type:
    """Return a stand-in for ``mx.array`` that counts what it is called with."""

    class Counting(type):
        def __call__(cls, value: Any, *args: Any, **options: Any) -> Any:
            counted.uploads += isinstance(value, (np.ndarray, list, tuple))
            return real(value, *args, **options)

        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, real)

        def __getattr__(cls, name: str) -> Any:
            return getattr(real, name)

    return Counting("array", (), {})


@contextmanager
def device_waits() -> Iterator[DeviceWaits]:
    """Count waits and uploads of all threads for as long as the block lasts; values do not change."""
    counted = DeviceWaits()

    def waiting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            found = [a for value in args for a in _arrays_in(value)]
            if found:
                counted._needs(found)
            return function(*args, **options)

        return call

    def beginning(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            counted._begun.append([a for value in args for a in _arrays_in(value) if pending(a)])
            return function(*args)

        return call

    with ExitStack() as stack:
        for owner, name, wrap in (
            *((np, name, waiting) for name in _CONVERSIONS),
            *((mx.array, name, waiting) for name in _METHODS),
            (mx, "eval", waiting),
            (mx, "async_eval", beginning),
            (mx, "array", lambda real: _counting_class(real, counted)),
        ):
            stack.enter_context(patch.object(owner, name, wrap(getattr(owner, name))))
        yield counted
