"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lucid_maskrcnn import validators

__all__ = ["replacing", "write_json"]


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces ``path`` once the block has ended without an error.

    Until then it is a hidden temporary file in the same folder; an error removes it.

    Raises
    ------
    OSError
        If the file cannot be written. The error names ``path``.
    """
    target = os.path.realpath(validators.path("path", path))  # a symbolic link stays one
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(16)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == temporary:
            folder = os.path.dirname(target)
            missing = error.errno == errno.ENOENT and not os.path.isdir(folder)
            reason = f"There is no folder {folder!r}" if missing else error.strerror
            raise OSError(error.errno, reason, os.fspath(path)) from error  # OSError makes its own subclass of it
        raise


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as JSON, whole or not at all; NaN and infinity, which JSON lacks, are a ``ValueError``."""
    text = json.dumps(content, allow_nan=False)
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
