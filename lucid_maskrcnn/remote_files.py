"""Files at URLs, ``s3://bucket/a.png`` and the like, through fsspec (extra ``storage``).

Each protocol has a package of its own (s3fs, gcsfs, adlfs, …), whose errors are of its own kinds: here they become an
``OSError`` with one reason. Credentials and endpoints are where these packages look for them: environment variables,
files of the cloud's own tools, and fsspec's configuration.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from . import validators
from .validators import shown

__all__ = [
    "exists_at",
    "file_system",
    "is_web",
    "joined",
    "last_name",
    "open_remote",
    "path_or_url",
    "remote_errors",
    "temporary_folder",
    "url_key",
]

_LONGEST_REASON = 300
_PREFIX = "lucid_maskrcnn-"  # of temporary folders
_YOUNG = 60.0  # seconds: a folder that is so new may not have its lock yet


def path_or_url(name: str, value: Any) -> Path | str:
    """Return a path, or a URL as str; a ``file://`` URL is the path of a file on this machine."""
    if not validators.is_url(value):
        return validators.path(name, value)
    scheme, _, rest = value.partition("://")
    if scheme.lower() != "file":
        return f"{scheme.lower()}://{rest}"
    from urllib.request import url2pathname  # here, as it imports what talks to web servers

    parts = urlsplit(value)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{name} must be on this machine if it begins with file://, got {shown(value)}.")
    return validators.path(name, url2pathname(parts.path))


def joined(folder: Path | str, name: str) -> Path | str:
    """Return the place of a file in a folder, which may be a URL."""
    return folder / name if isinstance(folder, Path) else f"{folder.rstrip('/')}/{name}"


def is_web(url: str) -> bool:
    """Whether a URL is an address of the web, which can only be read."""
    return url.startswith(("http://", "https://"))


def last_name(url: str) -> str:
    """Return the name of the file at a URL, without the query that a web address may have."""
    if is_web(url):
        return unquote(urlsplit(url).path.rpartition("/")[2])
    return url.rstrip("/").rpartition("/")[2]


def url_key(url: str) -> str:
    """Return what is equal for two spellings of a URL."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.lower()}://{rest.strip('/')}"


def file_system(name: str, url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the URL's path in it.

    Parameters
    ----------
    name : str
        The argument, for messages.
    url : str

    Raises
    ------
    ImportError
        If fsspec or the package of the protocol is missing.
    ValueError
        If there is no such protocol.
    OSError
        If the file system cannot be reached.
    """
    try:
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations, registry
    except ImportError as error:
        raise ImportError(f"{name} {shown(url)} needs fsspec: pip install 'lucid-maskrcnn[storage]'.") from error
    scheme = url.partition("://")[0]
    if scheme not in {*known_implementations, *registry}:
        raise ValueError(f"{name} must be a path or a URL of a protocol that fsspec knows, got {shown(url)}.")
    with remote_errors(url):
        try:
            system, path = url_to_fs(url)
        except ImportError as error:
            raise ImportError(f"{name} {shown(url)} needs the package of {scheme}: {_reason(error)}.") from error
        system.invalidate_cache()  # of what it has listed before: other processes write there
        return system, path


@contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Turn any error of a file system's package into an ``OSError`` that has the URL as its file name."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "There is no such file, folder or bucket", url) from error
    except Exception as error:
        number = getattr(error, "errno", None)
        raise OSError(number if isinstance(number, int) else errno.EIO, _reason(error), url) from error


def _reason(error: Exception) -> str:
    """Return what an error says in one line, without the full stop."""
    said = " ".join((getattr(error, "strerror", None) or str(error)).split()).rstrip(".")
    return said[:_LONGEST_REASON] or type(error).__name__


def exists_at(name: str, url: str) -> bool:
    """Whether there is something at a URL that is the argument ``name``; raises what :func:`file_system` does."""
    system, path = file_system(name, url)
    with remote_errors(url):
        return bool(system.exists(path))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for copies on this machine, which is gone when the block ends.

    The first one of a process deletes what processes that were killed have left.
    """
    import tempfile  # here, as few files are at URLs

    from filelock import FileLock

    _remove_abandoned(tempfile.gettempdir())
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder,
        FileLock(os.path.join(folder, ".lock")),  # which the system releases, however this process ends
    ):
        yield Path(folder)


@cache
def _remove_abandoned(root: str) -> None:
    from filelock import FileLock, Timeout

    for path in Path(root).glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):
            info = path.lstat()
            is_own = stat.S_ISDIR(info.st_mode) and (not hasattr(os, "getuid") or info.st_uid == os.getuid())
            if is_own and time.time() - info.st_mtime > _YOUNG:
                with FileLock(path / ".lock").acquire(timeout=0):
                    shutil.rmtree(path, ignore_errors=True)


def open_remote(name: str, url: str) -> BinaryIO:
    """Return a local copy of a file at a URL, open for reading; it is gone when it is closed.

    Parameters
    ----------
    name : str
        The argument, for messages.
    url : str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError, ValueError, OSError
        As :func:`file_system`.
    """
    system, path = file_system(name, url)
    with temporary_folder() as folder:
        copy = folder / "copy"
        with remote_errors(url):
            system.get_file(path, str(copy))
        file = open(copy, "rb")  # noqa: SIM115
        if os.name != "nt":
            return file
        with file:  # an open file cannot be deleted there
            return io.BytesIO(file.read())
