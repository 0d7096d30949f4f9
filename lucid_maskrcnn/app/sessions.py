"""Who has the page open, with their image files and results: bounded, and deleted when nobody asks for them.

All methods are called in the event loop's thread, and answer at once.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .app_errors import AppError
from .app_options import AppOptions
from .prediction_queue import Job

__all__ = ["Session", "SessionStore", "StoredImage"]


@dataclass
class StoredImage:
    """An image file that was sent.

    Attributes
    ----------
    key : str
    name : str
        As the sender calls it; never part of a path.
    path : Path
        On the server, of a name of its own.
    nbytes : int
    """

    key: str
    name: str
    path: Path
    nbytes: int
    used: float = field(default_factory=time.monotonic)


@dataclass
class Session:
    """What belongs to one open page."""

    key: str
    images: OrderedDict[str, StoredImage] = field(default_factory=OrderedDict)
    jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    used: float = field(default_factory=time.monotonic)


class SessionStore:
    """The sessions.

    Parameters
    ----------
    options : AppOptions
    folder : Path
        For the image files.
    """

    def __init__(self, options: AppOptions, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._incoming = 0  # bytes of files that are being sent

    def new(self) -> Session:
        """Return a new session; the one that was idle for the longest gives way if there are too many."""
        self.expire()
        while len(self._sessions) >= self._options.max_sessions:
            self._drop(min(self._sessions.values(), key=lambda session: session.used))
        session = Session(secrets.token_urlsafe(24))
        self._sessions[session.key] = session
        return session

    def find(self, key: str | None) -> Session:
        """Return a session.

        Raises
        ------
        AppError
            If there is none of this key, as it has expired or the server was started again.
        """
        session = self._sessions.get(key or "")
        if session is None:
            raise AppError(404, "This page was idle for too long, or the server was started again: load the page anew.")
        session.used = time.monotonic()
        return session

    def image(self, session: Session, key: Any) -> StoredImage:
        """Return an image of a session."""
        image = session.images.get(key) if isinstance(key, str) else None
        if image is None:
            raise AppError(404, "The server no longer has this image: choose the file again.")
        image.used = time.monotonic()
        return image

    def job(self, session: Session, key: Any) -> Job:
        """Return a prediction of a session."""
        job = session.jobs.get(key) if isinstance(key, str) else None
        if job is None:
            raise AppError(404, "The server no longer has this result: find the objects again.")
        job.used = time.monotonic()
        return job

    # -------------------------------------------------------------- files

    def reserve(self, nbytes: int) -> None:
        """Make room for bytes that are about to be written; the files that were unused for the longest go."""
        self._incoming += nbytes
        while self._file_bytes() + self._incoming > self._options.max_files:
            idle = [
                (image.used, session, image) for session, image in self._each_image() if not _is_used(session, image)
            ]
            if not idle:
                self._incoming -= nbytes
                raise AppError(503, "The server has no room for more images now: try again in a minute.")
            _, session, image = min(idle, key=lambda row: row[0])
            self._drop_image(session, image)

    def release(self, nbytes: int) -> None:
        """Give back what was reserved."""
        self._incoming -= nbytes

    def new_path(self) -> Path:
        """Return a path for a file that is being sent."""
        return self._folder / secrets.token_hex(16)

    def add_image(self, session: Session, name: str, path: Path, nbytes: int) -> StoredImage:
        """Add a file to a session; its oldest gives way if it has too many."""
        for image in list(session.images.values()):
            if len(session.images) >= self._options.max_images and not _is_used(session, image):
                self._drop_image(session, image)
        image = StoredImage(secrets.token_urlsafe(12), name, path, nbytes)
        session.images[image.key] = image
        return image

    # -------------------------------------------------------------- results

    def add_job(self, session: Session, job: Job) -> None:
        """Add a prediction to a session; its oldest ended one gives way if it has too many."""
        for other in list(session.jobs.values()):
            if len(session.jobs) >= self._options.max_images and other.ended:
                del session.jobs[other.key]
        if len(session.jobs) >= self._options.max_images:
            raise AppError(429, "This page has as many predictions waiting as it may: wait for one of them.")
        session.jobs[job.key] = job

    def trim_results(self) -> None:
        """Delete the results that were unused for the longest, while there are too many bytes of them."""
        ended = sorted(
            (
                (job.used, session, job)
                for session in self._sessions.values()
                for job in session.jobs.values()
                if job.ended
            ),
            key=lambda row: row[0],
        )
        total = sum(job.nbytes for _, _, job in ended)
        for _, session, job in ended[:-1]:  # one result, however large, is there to be fetched
            if total <= self._options.max_results:
                break
            total -= job.nbytes
            del session.jobs[job.key]

    # -------------------------------------------------------------- expiry

    def expire(self) -> None:
        """Delete the sessions that nobody has asked for in a while."""
        before = time.monotonic() - self._options.expire_after
        for session in [s for s in self._sessions.values() if s.used < before]:
            self._drop(session)
        self.trim_results()

    def close(self) -> None:
        """Delete everything."""
        for session in list(self._sessions.values()):
            self._drop(session)

    def _drop(self, session: Session) -> None:
        for job in session.jobs.values():
            job.cancel()
        for image in list(session.images.values()):
            self._drop_image(session, image)
        del self._sessions[session.key]

    def _drop_image(self, session: Session, image: StoredImage) -> None:
        del session.images[image.key]
        with suppress(OSError):  # on Windows a file that is being read stays; the folder goes with the server
            image.path.unlink(missing_ok=True)

    def _each_image(self) -> Iterator[tuple[Session, StoredImage]]:
        for session in self._sessions.values():
            for image in session.images.values():
                yield session, image

    def _file_bytes(self) -> int:
        return sum(image.nbytes for _, image in self._each_image())


def _is_used(session: Session, image: StoredImage) -> bool:
    return any(job.path == image.path and not job.ended for job in session.jobs.values())
