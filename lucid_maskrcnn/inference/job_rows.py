"""Rows of a job: lines of JSON that are appended to a part of its results, and read again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lucid_maskrcnn.atomic import replacing

from .job_list import ListedImage

__all__ = ["append_line", "is_row", "keep_only", "read_rows", "row_line"]


def row_line(image: ListedImage, content: Mapping[str, Any]) -> bytes:
    """Return the row of an image as a line: ``size`` and ``detections`` are its content, or ``error``."""
    row = {"id": image.id, "source": image.source, "page": image.page, **content}
    return json.dumps(row, allow_nan=False).encode("ascii") + b"\n"


def append_line(part: Path, line: bytes) -> None:
    """Append a line; what cannot be written whole is taken back."""
    # Opened each time: a file that is held open outlives its folder, and what is written to it then is lost.
    descriptor = os.open(part, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        end = os.fstat(descriptor).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BaseException:
            with suppress(OSError):  # a resume cuts it off
                if os.fstat(descriptor).st_size < end + len(line):  # Ctrl-C may come when all of it is written
                    os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def read_rows(part: Path) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    """Yield offset, length and content of each line of a part; the content is None if it is no row."""
    offset = 0
    with open(part, "rb") as file:
        for line in file:
            yield offset, len(line), _parse_row(line)
            offset += len(line)


def _parse_row(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if is_row(row) else None


def is_row(row: Any) -> bool:
    """Whether a value is the row of an image."""
    try:
        is_of_image = type(row["id"]) is int and {"source", "page"} <= row.keys()
        if "error" in row:
            return is_of_image
        height, width = row["size"]
        results = row["detections"]
        return (
            is_of_image
            and type(height) is type(width) is int
            and all(r["image_id"] == row["id"] and type(r["category_id"]) is int for r in results)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def keep_only(part: Path, kept: Sequence[tuple[int, int]]) -> None:
    """Cut everything out of a part but the lines that begin at these offsets and have these lengths."""
    length = sum(n for _, n in kept)
    if length == part.stat().st_size:
        return
    if not kept or kept[-1][0] + kept[-1][1] == length:  # all that goes is at the end
        with open(part, "r+b") as file:
            file.truncate(length)
        return
    with open(part, "rb") as old, replacing(part) as new:
        for offset, n in kept:
            old.seek(offset)
            new.write(old.read(n))
