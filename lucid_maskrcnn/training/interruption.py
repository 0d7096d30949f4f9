"""Handling Ctrl-C: finish the step, then stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupted", "Interruption"]


class Interrupted(KeyboardInterrupt):
    """A run was interrupted, and has written a checkpoint."""


class Interruption:
    """A context in which the first SIGINT or SIGTERM is only noted; a second one has its usual effect.

    Outside of the main thread, where Python allows no signal handlers, it does nothing. A signal that
    is ignored, such as SIGINT in a shell's background job, stays ignored.

    Attributes
    ----------
    requested : bool
        Whether there was a signal.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._restore()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In this block a signal raises :class:`KeyboardInterrupt` at once."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        if self._at_once:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
