"""Writing files and folders whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lucid_maskrcnn import validators

__all__ = [
    "is_temporary",
    "remove_leftovers",
    "replacing",
    "replacing_folder",
    "replacing_together",
    "temporary_name",
    "write_json",
]


def temporary_name() -> str:
    """Return a hidden name that no other process has."""
    return f".{secrets.token_hex(16)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a name is one of :func:`temporary_name`."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.tmp", name) is not None


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces ``path`` once the block has ended without an error.

    Until then it has no name where the system can do that (Linux, on most file systems), so that a process that is
    killed leaves nothing. Elsewhere it is a hidden temporary file in the same folder, which an error removes, and
    :func:`remove_leftovers` after a kill.

    Raises
    ------
    OSError
        If the file cannot be written, or ``path`` is a device or a pipe, whose place no file may take. The error names
        ``path``.
    """
    target = os.path.realpath(validators.path("path", path))  # a symbolic link stays one
    if os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target):
        raise OSError(errno.EINVAL, "A device or a pipe, not a file that can be replaced", os.fspath(path))
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, temporary_name())
    try:
        with _open_unnamed(folder) or open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not os.path.lexists(temporary):
                # With src_dir_fd Python asks the system to follow the link; the path is absolute all the same.
                os.link(f"/proc/self/fd/{file.fileno()}", temporary, src_dir_fd=file.fileno(), follow_symlinks=True)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        # Errors of writing name no file, those of linking name two.
        if isinstance(error, OSError) and (error.filename in (None, temporary) or error.filename2 == temporary):
            if error.errno is None:
                raise
            missing = error.errno == errno.ENOENT and not os.path.isdir(folder)
            reason = f"There is no folder {folder!r}" if missing else error.strerror
            raise OSError(error.errno, reason, os.fspath(path)) from error  # OSError makes its own subclass of it
        raise


def _open_unnamed(folder: str) -> BinaryIO | None:
    """Open a file in a folder that has no name yet, None where that cannot be done."""
    if not hasattr(os, "O_TMPFILE") or not os.path.exists("/proc/self/fd"):
        return None
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")
    except OSError:
        return None  # the file system lacks it; any other reason comes again, with the name


@contextmanager
def replacing_together(first: str | Path, second: str | Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open two files for writing that replace ``first`` and ``second`` once the block has ended without an error.

    If the second cannot take its place, the first is as it was before, or, on file systems without links, gone: no new
    one stays beside an old one.

    Raises
    ------
    OSError
        If a file cannot be written. The error names ``first`` or ``second``.
    """
    target = os.path.realpath(validators.path("first", first))
    earlier = os.path.join(os.path.dirname(target), temporary_name())
    replaced = False
    try:
        with suppress(OSError):
            os.link(target, earlier)
        with replacing(second) as of_second:
            with replacing(first) as of_first:
                yield of_first, of_second
            replaced = True
    except BaseException:
        if replaced and os.path.lexists(earlier):
            os.replace(earlier, target)
        elif replaced:
            os.unlink(target)
        raise
    finally:
        with suppress(OSError):
            os.unlink(earlier)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder that takes the place of ``path`` once the block has ended without an error.

    Until then it is a hidden one beside it. If it cannot take the place of an earlier folder, that is put back.

    Raises
    ------
    OSError
        If the folder or what is in it cannot be written. The error names ``path``.
    """
    target = Path(os.path.realpath(validators.path("path", path)))  # a symbolic link stays one
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"There is no folder {str(target.parent)!r}", str(target))
    new, old = (target.parent / temporary_name() for _ in range(2))
    try:
        new.mkdir()
        yield new
        if target.is_dir():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            if old.is_dir():
                os.replace(old, target)
            raise
    except OSError as error:
        names = f"{error.filename} {error.filename2}"
        of_another = error.filename is not None and str(new) not in names and str(old) not in names
        if error.errno is None or of_another:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder, in which nobody else is writing."""
    for path in folder.iterdir():
        if not is_temporary(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as JSON, whole or not at all; NaN and infinity, which JSON lacks, are a ``ValueError``."""
    text = json.dumps(content, allow_nan=False)
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
