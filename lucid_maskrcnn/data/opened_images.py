"""Decoding the images of a data set before it is used: a header does not say whether the file is whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lucid_maskrcnn.images import Size, exif_orientation, load_image, size_mismatch
from lucid_maskrcnn.streams import with_progress

from .issues import Issue, unreadable

__all__ = ["issues_of_files", "open_image", "while_opening"]

type Reading = Mapping[str, Any]  # keywords of load_image

_AS_IT_IS: Reading = MappingProxyType({})
_THREADS = 4  # Pillow decodes without the interpreter's lock


def open_image(
    place: str, file: Path, size: Size, said_by: str | None, read: Reading = _AS_IT_IS
) -> tuple[np.ndarray | None, list[Issue]]:
    """Decode an image file.

    Parameters
    ----------
    place : str
        What the issues speak of.
    file : Path
    size : (height, width)
        That it must have.
    said_by : str or None
        Who says so: "the annotations say"; None if the size is that of the file.
    read : mapping
        Keywords of :func:`~lucid_maskrcnn.images.load_image`.

    Returns
    -------
    pixels : ndarray of shape (H, W, 3), uint8, or None
        None if there is a fault.
    issues : list of Issue
    """
    try:
        pixels = load_image(file, **read)
    except (ValueError, OSError) as error:
        return None, [unreadable(place, error)]
    if pixels.shape[:2] != size:
        problem = size_mismatch(file, pixels.shape[:2], size, said_by or "it had")
        return None, [Issue(place, problem, kind="other size")]
    turn = exif_orientation(file)
    # The size tells whether the annotations are of the turned image, but not of a square one or of half a turn.
    if turn == 1 or (turn >= 5 and size[0] != size[1] and said_by is not None):
        return pixels, []
    problem = f"is turned by its EXIF orientation, {turn}, and its annotations are taken to be of the turned image"
    remedy = "if they are of the image as stored, save it without"
    return pixels, [Issue(place, problem, "warning", remedy, "EXIF")]


def issues_of_files(
    files: Sequence[tuple[str, Path, Size, str | None]], progress: bool, read: Reading = _AS_IT_IS
) -> list[list[Issue]]:
    """Decode image files, each once, and return the issues of each; ``files`` has the arguments of each opening."""

    def look(file: tuple[str, Path, Size, str | None]) -> list[Issue]:
        return open_image(*file, read)[1]

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="lucid_maskrcnn_opening") as pool:
        return list(while_opening(pool.map(look, files), len(files), progress))


def while_opening[T](items: Iterable[T], total: int, progress: bool) -> Iterable[T]:
    """Return the items of a loop that opens files, behind a progress bar."""
    return with_progress(items, total, progress, desc="open", unit=" images")
