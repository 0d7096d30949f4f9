"""Where the folder of a job is: on this machine, or at a URL of an object storage.

A job's files are written in a local folder and then published. On this machine that is the job's own folder, and
publishing puts them on the disk; for a URL it is a temporary one, and publishing copies them to the URL, where each
appears whole or not at all.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from lucid_maskrcnn.atomic import is_temporary, remove_leftovers, temporary_name
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.remote_files import (
    file_system,
    is_web,
    joined,
    path_or_url,
    remote_errors,
    temporary_folder,
    url_key,
)

from .job_exports import delete_file

__all__ = ["JobStorage", "holds_job", "job_storage"]

#: Where an upload appears once it is complete. Others get a temporary name first.
_WHOLE = frozenset("s3 s3a gs gcs az abfs abfss adl oss obs oci tos memory".split())  # noqa: SIM905


class JobStorage(ABC):
    """The place of a job's files, which are named relative to it: ``job.json``, ``results/part-00000.jsonl``.

    It can be sent to another process, which then writes files of the job, too.

    Attributes
    ----------
    place : Path or str
        The folder, or its URL.
    key : str
        Equal to the folder of a file's key (:class:`PathKeys`) if the file is in it.
    """

    place: Path | str
    key: str

    @property
    def is_remote(self) -> bool:
        """Whether it is a URL."""
        return isinstance(self.place, str)

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The local folder in which files are written."""

    def address(self, name: str) -> Path | str:
        """Return the path or URL of a file."""
        return joined(self.place, name)

    @abstractmethod
    def opened(self) -> Any:
        """Return a context manager in which files can be written; it makes the folder.

        On this machine no other process can enter it meanwhile. At a URL there is no such lock.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """Return the names of what is in a folder, sorted; none if there is no such folder."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file; ``FileNotFoundError`` if there is none."""

    @abstractmethod
    def reading(self, name: str) -> Any:
        """Return a context manager for the local path of a file's content; ``FileNotFoundError`` if there is none."""

    @abstractmethod
    def take(self, name: str) -> Path:
        """Return the path in :attr:`folder` where a file, if there is one, can be changed until it is published."""

    @abstractmethod
    def publish(self, name: str) -> None:
        """Put a file that is in :attr:`folder` in its place; it is safe there."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """Drop what was taken of a file that another process has written."""

    def close(self) -> None:  # noqa: B027 - a folder on this machine has nothing to close
        """Delete the local folder if it is a temporary one; it is made again when it is needed."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, if there is one, or a folder of crops."""


def job_storage(place: Path | str) -> JobStorage:
    """Return the storage for a folder or for a URL.

    Raises
    ------
    ImportError, ValueError, OSError
        If it is a URL that cannot be written to.
    """
    if isinstance(place, Path):
        return _LocalFolder(place)
    storage = _RemoteFolder(place)
    storage.check()
    return storage


@answers_wrong_calls
def holds_job(out: str | Path) -> bool:
    """Whether a folder, or what is at a URL, holds a job: the file ``job.json``.

    Raises
    ------
    ImportError, ValueError, OSError
        If ``out`` is a file, or a URL that cannot be reached.
    """
    return job_storage(path_or_url("out", out)).exists("job.json")


class _LocalFolder(JobStorage):
    """A folder on this machine."""

    def __init__(self, place: Path) -> None:
        if place.exists() and not place.is_dir():
            raise ValueError(f"out {str(place)!r} is a file, not a folder.")
        self.place: Path = place
        self.key = os.path.realpath(place)

    @property
    def folder(self) -> Path:
        return self.place

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the lock of the folder, which the system releases when this process ends, however that happens."""
        from filelock import FileLock, Timeout

        (self.place / "results").mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.place / "results" / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"Another process is at work in {str(self.place)!r}: wait for it, or choose another folder."
            ) from error
        try:
            remove_leftovers(self.place)
            remove_leftovers(self.place / "results")
            yield
        finally:
            lock.release()

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.place / name)

    def names(self, folder: str = "") -> list[str]:
        path = self.place / folder
        return sorted(os.listdir(path)) if path.is_dir() else []

    def read(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        yield self.place / name

    def take(self, name: str) -> Path:
        return self.place / name

    def publish(self, name: str) -> None:
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError), open(self.place / name, "rb") as file:
            os.fsync(file.fileno())

    def forget(self, name: str) -> None:
        pass

    def delete(self, name: str) -> None:
        delete_file(self.place / name)


class _RemoteFolder(JobStorage):
    """A URL. What is there is listed once: nobody else writes to it."""

    def __init__(self, place: str) -> None:
        self.place: str = place
        self.key = url_key(place)
        self._known: dict[str, set[str]] = {}  # names in each folder
        self._open = ExitStack()
        self._folder: Path | None = None  # made when it is needed

    def check(self) -> None:
        """Raise what :func:`job_storage` says."""
        if is_web(self.place):
            raise ValueError(f"out must be a folder or a URL that can be written to, got {self.place!r}.")
        _ = self._place_in_system

    @cached_property
    def _place_in_system(self) -> tuple[Any, str]:
        return file_system("out", self.place)

    @property
    def _system(self) -> Any:
        return self._place_in_system[0]

    @property
    def _root(self) -> str:
        return self._place_in_system[1]

    def __reduce__(self) -> Any:
        return _RemoteFolder, (self.place,)  # another machine may lack the package, which it says when it is needed

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = self._open.enter_context(temporary_folder())
            (self._folder / "results").mkdir()
        return self._folder

    @contextmanager
    def opened(self) -> Iterator[None]:
        self._system.invalidate_cache()  # of the system and of this object
        self._known.clear()
        for folder in ("", "results"):
            for name in filter(is_temporary, self.names(folder)):
                self.delete(f"{folder}/{name}".lstrip("/"))
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        self._folder = None
        self._open.close()

    # -------------------------------------------------------------- what is there

    def exists(self, name: str) -> bool:
        folder, _, last = name.rpartition("/")
        return last in self._listed(folder)

    def names(self, folder: str = "") -> list[str]:
        return sorted(self._listed(folder))

    def _listed(self, folder: str) -> set[str]:
        if folder not in self._known:
            path = f"{self._root}/{folder}".rstrip("/")
            try:
                with remote_errors(f"{self.place}/{folder}".rstrip("/")):
                    found = self._system.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                found = []
            self._known[folder] = {name.rstrip("/")[len(path) :].lstrip("/") for name in found} - {""}
        return self._known[folder]

    # -------------------------------------------------------------- reading

    def read(self, name: str) -> bytes:
        with remote_errors(str(self.address(name))):
            return self._system.cat_file(self._path(name))

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        path = self.folder / name
        if path.exists():  # it is being written
            yield path
            return
        try:
            self._fetch(name, path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def take(self, name: str) -> Path:
        path = self.folder / name
        if self.exists(name) and not path.exists():
            self._fetch(name, path)
        return path

    def _fetch(self, name: str, path: Path) -> None:
        with remote_errors(str(self.address(name))):
            self._system.get_file(self._path(name), str(path))

    # -------------------------------------------------------------- writing

    def publish(self, name: str) -> None:
        path, target = self.folder / name, self._path(name)
        with remote_errors(str(self.address(name))):
            if self._appears_whole:
                self._system.put_file(str(path), target)
            else:
                self._replace(path, target)
        folder, _, last = name.rpartition("/")
        self._listed(folder).add(last)
        path.unlink()

    def forget(self, name: str) -> None:
        if self._folder is not None:
            (self._folder / name).unlink(missing_ok=True)

    def _replace(self, path: Path, target: str) -> None:
        """Upload under another name, so that a process that is killed leaves no half file under this one."""
        parent = target.rpartition("/")[0]
        self._system.makedirs(parent, exist_ok=True)
        temporary = f"{parent}/{temporary_name()}"
        self._system.put_file(str(path), temporary)
        if self._system.exists(target):
            self._system.rm_file(target)
        self._system.mv(temporary, target)

    def delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        folder, _, last = name.rpartition("/")
        if last in self._listed(folder):
            with suppress(FileNotFoundError), remote_errors(str(self.address(name))):
                self._system.rm_file(self._path(name))
            self._listed(folder).discard(last)

    @cached_property
    def _appears_whole(self) -> bool:
        protocols = self._system.protocol
        return bool(_WHOLE & {*([protocols] if isinstance(protocols, str) else protocols)})

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
