"""Writing files whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["replacing", "write_json"]


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of ``path`` when all went well, and not before."""
    target = os.path.realpath(path)  # through a link, not in its place
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(16)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as JSON, whole or not at all."""
    text = json.dumps(content, allow_nan=False)
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
