"""The files that ``file_name`` speaks of: in the folder of the images and nowhere else.

A name comes from a file that anyone may have written. It must not lead out of the folder: not by ``..``, not as an
absolute path and not over a link.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

__all__ = ["ImageFolder", "safe_stem", "walk"]

_MAX_LISTED = 200_000  # files of a folder that are searched for a name like the one that is missing
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


class ImageFolder:
    """A folder of images, in which file names are looked up.

    Parameters
    ----------
    folder : Path
        It may itself be a link.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = os.path.realpath(folder)

    def find(self, name: str) -> tuple[str, str] | None:
        """Return None if ``name`` is a file in the folder, else what is wrong with it and the remedy."""
        if _leaves(name):
            return "has a file_name that leads out of the folder of images", self._hint(name)
        path = os.path.join(self.folder, name)
        if not os.path.isfile(path):  # also for names that no file can have
            return f"is not in {str(self.folder)!r}", self._hint(name)
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(self._root):
            remedy = "copy the file into the folder, or give the folder that it is in; that may be a link"
            return "is a link that leads out of the folder of images", remedy
        return None

    # -------------------------------------------------------------- names that are nearly right

    def _hint(self, name: str) -> str:
        """Return what the file_name should be, if a file of nearly this name is there."""
        last = re.split(r"[/\\]", name)[-1]
        tried = [name.replace("\\", "/"), unquote(name), unquote(name.replace("\\", "/")), last, unquote(last)]
        for candidate in tried:
            if candidate != name and not _leaves(candidate) and os.path.isfile(self.folder / candidate):
                what = "its last part" if candidate == last else "a name like it"
                return f"{candidate!r}, {what}, is there: write that as file_name"
        parent = self.folder.absolute().parent
        if not _leaves(name) and os.path.isfile(parent / name):
            return f"it is in {str(parent)!r}: give that as the folder of images"
        close = self._by_key.get(_key(unquote(name.replace("\\", "/")))) or self._by_last.get(_key(unquote(last)))
        if close is not None and close.endswith(f"/{name}"):
            inner = self.folder / close.removesuffix(f"/{name}")
            return f"it is in {str(inner)!r}: give that as the folder of images"
        if close is not None:
            return f"{close!r} is there, which differs in case, accents, ending or folder: write that as file_name"
        return "file_name is the path within the folder of images: give the right folder, or change the names"

    @cached_property
    def _names(self) -> list[str]:
        """Names of the files in the folder and below; made when the first name is missing."""
        return [name for name, _ in zip(walk(self.folder), range(_MAX_LISTED), strict=False)]

    @cached_property
    def _by_key(self) -> dict[str, str]:
        return {_key(name): name for name in reversed(self._names)}

    @cached_property
    def _by_last(self) -> dict[str, str]:
        return {_key(name.rpartition("/")[2]): name for name in reversed(self._names)}


def _leaves(name: str) -> bool:
    """Whether a name is absolute on any system, or goes up."""
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or _DRIVE.match(name) is not None or os.path.splitdrive(name)[0] != ""


def walk(folder: Path) -> Iterator[str]:
    """Yield the paths of the files below a folder, relative to it, with slashes."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            yield os.path.relpath(os.path.join(place, file), folder).replace(os.sep, "/")


def _key(name: str) -> str:
    """Return what names have in common that differ in case, in how accents are written, or in the suffix."""
    stem, _, suffix = unicodedata.normalize("NFC", name).casefold().rpartition(".")
    return stem if stem and len(suffix) <= 4 else suffix


def safe_stem(name: str) -> str:
    """Return the stem of a file that is made of the file ``name``, in whatever folder that says it is.

    It has no folder and no control characters, and does not begin with a dot; the last folders of the name are kept
    before it, so that it can be recognized.
    """
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    flat = "_".join(parts[-3:])
    flat = flat.rpartition(".")[0] or flat
    return "".join(c if c.isalnum() or c in "-_. +()=,@#" else "_" for c in flat).strip(" .") or "image"
