"""Drawings of a job: their names, and writing them."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lucid_maskrcnn import validators
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.detections import Detections

__all__ = ["DRAWING_FORMATS", "DrawingNames", "name_key", "save_drawing"]

DRAWING_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_LONGEST = 255  # bytes of a file name, in the usual file systems


@answers_wrong_calls
def save_drawing(path: str | Path, pixels: np.ndarray, detections: Detections) -> None:
    """Draw all of the detections on their image and write it as PNG or JPEG; a small image is enlarged."""
    path = validators.path("path", path)
    validators.choice("the suffix of path", path.suffix.lower(), DRAWING_FORMATS)
    validators.instance("detections", detections, Detections, "Detections")
    detections.save(path, format="drawing", image=pixels, score_thresh=0)


def name_key(name: str) -> str:
    """Return what is equal for names that some file systems do not tell apart: a.png and A.png, and forms of é."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class DrawingNames:
    """Gives each image's drawing a name of its own: ``<stem>.png``, or ``<stem>_2.png`` where that is taken.

    Parameters
    ----------
    taken : iterable of str
        File names that are not to be given.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = {name_key(name) for name in taken}
        self._next: dict[str, int] = {}  # thousands of images may have one stem

    def give(self, stem: str) -> str:
        """Return the name of the next drawing."""
        return self.give_all(stem, (".png",))[0]

    def give_all(self, stem: str, endings: Sequence[str]) -> list[str]:
        """Return the names of several files about an image, which differ in their endings only."""
        key, longest = name_key(stem), max(map(len, endings), default=0)
        for k in itertools.count(self._next.get(key, 1)):
            number = "" if k == 1 else f"_{k}"
            short = _shortened(stem, _LONGEST - len(number) - longest) + number
            names = [short + ending for ending in endings]
            if not any(name_key(name) in self._taken for name in names):
                self._next[key] = k + 1
                self._taken.update(map(name_key, names))
                return names
        raise AssertionError("there is always another number")


def _shortened(stem: str, most: int) -> str:
    while len(os.fsencode(stem)) > most:
        stem = stem[:-1]
    return stem
