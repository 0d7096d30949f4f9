"""Decoding the images of a data set before it is used: a header does not say whether the file is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lucid_maskrcnn.images import Size, exif_orientation, load_image, size_mismatch

from .issues import Issue, unreadable

__all__ = ["issues_of_files", "open_image", "with_progress"]

_THREADS = 4  # Pillow decodes without the interpreter's lock


def open_image(place: str, file: Path, size: Size, said_by: str) -> tuple[np.ndarray | None, list[Issue]]:
    """Decode an image file.

    Parameters
    ----------
    place : str
        What the issues speak of.
    file : Path
    size : (height, width)
        That it must have.
    said_by : str
        Who says so: "the annotations say".

    Returns
    -------
    pixels : ndarray of shape (H, W, 3), uint8, or None
        None if there is a fault.
    issues : list of Issue
    """
    try:
        pixels = load_image(file)
    except (ValueError, OSError) as error:
        return None, [unreadable(place, error)]
    if pixels.shape[:2] != size:
        return None, [Issue(place, size_mismatch(file, pixels.shape[:2], size, said_by), kind="other size")]
    turn = exif_orientation(file)
    # The size tells whether the annotations are of the turned image, but not of a square one or of half a turn.
    if turn == 1 or (turn >= 5 and size[0] != size[1]):
        return pixels, []
    problem = f"is turned by its EXIF orientation, {turn}, and its annotations are taken to be of the turned image"
    remedy = "if they are of the image as stored, save it without"
    return pixels, [Issue(place, problem, "warning", remedy, "EXIF")]


def issues_of_files(files: Sequence[tuple[str, Path, Size]], said_by: str, progress: bool) -> list[list[Issue]]:
    """Decode image files, each once, and return the issues of each; the arguments are those of :func:`open_image`."""

    def look(file: tuple[str, Path, Size]) -> list[Issue]:
        return open_image(*file, said_by)[1]

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="lucid_maskrcnn_opening") as pool:
        return list(with_progress(pool.map(look, files), len(files), progress))


def with_progress[T](items: Iterable[T], total: int, progress: bool) -> Iterable[T]:
    """Return the items, behind a progress bar on a terminal."""
    if not progress or sys.stderr is None or not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, total=total, desc="open", unit=" images", leave=False)
    return bar
