"""What stands for which array while ``mx.compile`` looks at a function, in the thread that it does so in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

__all__ = ["stand_in", "standing_for", "tracing"]


class _Thread(threading.local):
    def __init__(self) -> None:
        self.stand_ins: dict[int, mx.array] | None = None


_thread = _Thread()


def tracing() -> bool:
    """Return whether this thread is inside :func:`standing_for`."""
    return _thread.stand_ins is not None


def stand_in(array: Any) -> Any:
    """Return what stands for an array at present: usually itself."""
    stand_ins = _thread.stand_ins
    return array if stand_ins is None else stand_ins.get(id(array), array)


@contextmanager
def standing_for(arrays: list[mx.array], stand_ins: list[mx.array]) -> Iterator[None]:
    """Let operators in this thread see ``stand_ins`` where a tensor holds one of ``arrays``."""
    before = _thread.stand_ins
    _thread.stand_ins = {id(array): other for array, other in zip(arrays, stand_ins, strict=True)}
    try:
        yield
    finally:
        _thread.stand_ins = before
