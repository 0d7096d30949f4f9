"""Predictions one after the other, in one thread: results of MLX can be read in the thread that computed them."""

from __future__ import annotations

import secrets
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .app_errors import AppError
from .page_results import PageResult

__all__ = ["CanceledError", "Job", "PredictionQueue"]

type State = Literal["waiting", "loading", "running", "done", "failed", "canceled"]


class CanceledError(Exception):
    """Nobody waits for this prediction anymore."""


@dataclass(eq=False)
class Job:
    """A prediction that was asked for.

    Attributes
    ----------
    path, name : Path, str
        The file of the image, and what its sender calls it.
    options : dict
        What was asked for, checked.
    state : str
    done, total : int
        Tiles.
    error : str or None
        Why there is no result.
    result : PageResult or None
    """

    path: Path
    name: str
    options: dict[str, Any]
    key: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: State = "waiting"
    done: int = 0
    total: int = 0
    error: str | None = None
    result: PageResult | None = None
    used: float = field(default_factory=time.monotonic)
    _canceled: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed", "canceled")

    @property
    def nbytes(self) -> int:
        """What its result takes in memory."""
        return 0 if self.result is None else self.result.nbytes

    def cancel(self) -> None:
        """Have it end soon: before it begins, or before the next tile."""
        self._canceled = True
        if self.state == "waiting":
            self.state = "canceled"

    def check(self) -> None:
        """Raise :class:`CanceledError` if it was canceled."""
        if self._canceled:
            raise CanceledError


class PredictionQueue:
    """The thread and what waits for it.

    Parameters
    ----------
    work : function
        Takes a job, and returns its result; its errors are told with ``tell``.
    tell : function
        Takes an error and a job, and returns a sentence.
    max_waiting : int
    """

    def __init__(
        self, work: Callable[[Job], PageResult], tell: Callable[[BaseException, Job], str], max_waiting: int
    ) -> None:
        self._work, self._tell, self._max_waiting = work, tell, max_waiting
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        # A daemon: the end of the process does not wait for a prediction.
        threading.Thread(target=self._run, name="predictions", daemon=True).start()

    def submit(self, job: Job) -> None:
        """Add a job at the end.

        Raises
        ------
        AppError
            If too many wait.
        """
        with self._changed:
            self._waiting = deque(other for other in self._waiting if not other.ended)
            if len(self._waiting) >= self._max_waiting:
                raise AppError(503, f"{len(self._waiting)} predictions wait already: try again in a minute.")
            self._waiting.append(job)
            self._changed.notify()

    def ahead(self, job: Job) -> int:
        """Return how many predictions come before a job."""
        with self._changed:
            before = [other for other in self._waiting if not other.ended]
            if job not in before:
                return 0
            return before.index(job) + (self._running is not None)

    def close(self) -> None:
        """Cancel everything, and end the thread after what it is doing."""
        with self._changed:
            self._closed = True
            for job in [*self._waiting, *([self._running] if self._running else [])]:
                job.cancel()
            self._waiting.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                job = self._running = self._waiting.popleft()
            if not job.ended:
                self._do(job)

    def _do(self, job: Job) -> None:
        try:
            job.check()
            job.state = "loading"
            with _heard() as sentences:
                job.result = self._work(job)
            job.result.warnings = [self._tell(UserWarning(sentence), job) for sentence in dict.fromkeys(sentences)]
            job.state = "done"
        except CanceledError:
            job.state = "canceled"
        except BaseException as error:  # the thread must live
            if self._closed:  # the interpreter ends, and lets no thread begin anything: nobody waits for this
                job.state = "canceled"
                return
            job.error = self._tell(error, job)
            job.state = "failed"


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect the warnings to the user of this thread."""
    heard: list[str] = []
    thread = threading.get_ident()

    def hear(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if threading.get_ident() == thread and category is UserWarning:
            heard.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = hear
        yield heard
