"""Which images a job is about: files and folders, patterns and lists, as people give them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import SUFFIXES
from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.validators import instance

__all__ = ["FoundImage", "PathKeys", "expand_pattern", "find_images", "split_list", "working_folder"]


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image to predict on.

    Attributes
    ----------
    path : str
        As it was given, or as it was found in the folder that was given.
    stem : str
        What its drawing is named after: with the names of the folders in which it was found.
    """

    path: str
    stem: str


class PathKeys:
    """Tells whether two paths are one file: folders are resolved, the file itself is not.

    Two links to one file are two images, as in folders that a version control of data has filled.
    """

    def __init__(self, working_folder: str) -> None:
        self._working_folder = working_folder
        self._resolved: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        """Return what is equal for equal files; a relative path begins at the working folder."""
        folder, name = os.path.split(os.path.join(self._working_folder, path))
        if folder not in self._resolved:
            self._resolved[folder] = os.path.realpath(folder)
        return os.path.join(self._resolved[folder], name)


def working_folder() -> str:
    """Return the folder in which relative paths begin.

    Raises
    ------
    FileNotFoundError
        If it has been deleted.
    """
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise FileNotFoundError("The current folder does not exist any more: change to another one.") from error


def find_images(paths: Iterable[Path], *, out: Path, is_drawing: Callable[[str], bool]) -> list[FoundImage]:
    """Return the images that files and folders stand for, each once, in that order.

    A folder stands for the images in it and in its folders, by suffix and sorted by name; hidden ones, links to folders
    and folders of other jobs are left out. Any other path is an image, whatever its name, also if it does not exist.

    Parameters
    ----------
    paths : iterable of Path
    out : Path
        The job's own folder: what is in it, is left out of a folder that contains it.
    is_drawing : callable
        Whether a path is a drawing of this job, which is no image of it.

    Raises
    ------
    FileNotFoundError
        If a folder has no images.
    """
    keys, own_folder = PathKeys(working_folder()), os.path.realpath(out)
    found: dict[str, FoundImage] = {}
    for path in paths:
        for image in _images_of(path, own_folder):
            if not is_drawing(image.path):
                found.setdefault(keys(image.path), image)
    return list(found.values())


def _images_of(path: Path, own_folder: str) -> list[FoundImage]:
    if not os.path.isdir(path):
        return [FoundImage(str(path), path.stem)]
    images = list(_walk(path, own_folder))
    if not images:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise FileNotFoundError(f"There is no image in the folder {str(path)!r}, no file that ends in {suffixes}.")
    return images


def _walk(root: Path, own_folder: str) -> Iterator[FoundImage]:
    """Yield the images in a folder and its folders."""
    for folder, folders, names in os.walk(root, onerror=_warn_of_folder):
        inside = Path(folder).relative_to(root).parts
        if inside and "job.json" in names and "results" in folders:  # drawings of another job
            folders.clear()
            continue
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and os.path.realpath(os.path.join(folder, f)) != own_folder
        )
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield FoundImage(os.path.join(folder, name), "_".join((*inside, Path(name).stem)))


def _warn_of_folder(error: OSError) -> None:
    warn_user(f"The folder {str(error.filename)!r} cannot be read ({error.strerror}): its images are left out.")


@answers_wrong_calls
def expand_pattern(text: str) -> list[str]:
    """Return the files that a pattern with ``*``, ``?`` or ``[`` stands for, sorted; ``**`` is any number of folders.

    A file of that very name comes first. What stands for no file is returned as it is.
    """
    text = instance("text", text, str, "a path or pattern as str")
    if os.path.lexists(text) or not glob.has_magic(text):
        return [text]
    return sorted(name for name in glob.iglob(text, recursive=True) if not os.path.isdir(name)) or [text]


@answers_wrong_calls
def split_list(content: bytes) -> list[str]:
    """Return the paths in a list, one a line, or separated by NUL as ``find -print0`` does it.

    Empty ones are left out. Bytes that are no text are kept as :func:`os.fsdecode` does.
    """
    instance("content", content, bytes, "the bytes of a list of paths")
    if b"\0" in content:
        return [os.fsdecode(name) for name in content.split(b"\0") if name]
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    ends = [line if os.path.lexists(line) else line.removesuffix(b"\r") for line in lines if line.strip()]
    return [os.fsdecode(line) for line in ends]
