"""Which images a job is about: files and folders, patterns and lists, as people give them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import SUFFIXES
from lucid_maskrcnn.remote_files import file_system, is_web, last_name, path_or_url, remote_errors, url_key
from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.validators import instance, is_url

__all__ = ["FoundImage", "PathKeys", "expand_pattern", "find_images", "located", "split_list", "working_folder"]


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
    """Tells whether two paths or URLs are one file: folders are resolved, the file itself is not.

    Two links to one file are two images, as in folders that a version control of data has filled.
    """

    def __init__(self, working_folder: str) -> None:
        self._working_folder = working_folder
        self._resolved: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        """Return what is equal for equal files; a relative path begins at the working folder."""
        if is_url(path):
            return url_key(path)
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


def located(folder: str, path: str) -> str:
    """Return a path that begins in a folder; a URL is where it is."""
    return path if is_url(path) else os.path.join(folder, path)


def find_images(paths: Iterable[Path | str], *, own_folder: str, is_drawing: Callable[[str], bool]) -> list[FoundImage]:
    """Return the images that files and folders stand for, each once, in that order.

    A folder stands for the images in it and in its folders, by suffix and sorted by name; hidden ones, links to folders
    and folders of other jobs are left out. Any other path is an image, whatever its name, also if it does not exist.
    So is a URL that ends in the suffix of an image; what any other is, is asked for.

    Parameters
    ----------
    paths : iterable of Path or str
        A str is a URL.
    own_folder : str
        The job's own folder, resolved: what is in it, is left out of a folder that contains it.
    is_drawing : callable
        Whether a path is a drawing of this job, which is no image of it.

    Raises
    ------
    FileNotFoundError
        If a folder has no images.
    """
    keys = PathKeys(working_folder())
    found: dict[str, FoundImage] = {}
    paths = list(paths)
    for url in {path.partition("://")[0]: path for path in paths if isinstance(path, str)}.values():
        file_system("paths", url)  # which says what is missing, once for each protocol
    for path in paths:
        for image in _images_of(path, own_folder):
            if not is_drawing(image.path):
                found.setdefault(keys(image.path), image)
    return list(found.values())


def _images_of(path: Path | str, own_folder: str) -> list[FoundImage]:
    if isinstance(path, str):
        found = None if is_image_name(last_name(path)) else _images_at(path, own_folder)
        images = [FoundImage(path, Path(last_name(path)).stem or "image")] if found is None else found
    elif os.path.isdir(path):
        images = list(_walk(path, own_folder))
    else:
        return [FoundImage(str(path), path.stem)]
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
            if is_image_name(name):
                yield FoundImage(os.path.join(folder, name), "_".join((*inside, Path(name).stem)))


def is_image_name(name: str) -> bool:
    """Whether a file in a folder is taken for an image, by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _images_at(url: str, own_folder: str) -> list[FoundImage] | None:
    """Return the images in a folder at a URL and in its folders, None if it is no folder."""
    system, root = file_system("paths", url)
    with remote_errors(url):
        if is_web(url) and not url.endswith("/"):  # a page is not looked through for links
            return None
        if not system.isdir(root):
            return None
        names = [name[len(root) :].lstrip("/") for name in system.find(root)]
    heads = [name.removesuffix("job.json") for name in names if name.endswith("/job.json")]
    others = [head for head in heads if any(name.startswith(f"{head}results/") for name in names)]
    skipped = (*others, f"{own_folder.removeprefix(url_key(url) + '/')}/")
    found = []
    for name in sorted(names, key=_place_in_walk):
        *folders, last = name.split("/")
        hidden = any(folder.startswith(".") for folder in folders)
        if is_image_name(last) and not hidden and not name.startswith(skipped):
            address = f"{url.rstrip('/')}/{name}"
            found.append(FoundImage(address, "_".join((*folders, Path(last_name(address)).stem))))
    return found


def _place_in_walk(name: str) -> list[tuple[bool, str]]:
    """Return what sorts names as :func:`os.walk` does: the files of a folder come before its folders."""
    *folders, last = name.split("/")
    return [*((True, folder) for folder in folders), (False, last)]


def _warn_of_folder(error: OSError) -> None:
    warn_user(f"The folder {str(error.filename)!r} cannot be read ({error.strerror}): its images are left out.")


@answers_wrong_calls
def expand_pattern(text: str) -> list[str]:
    """Return the files that a pattern with ``*``, ``?`` or ``[`` stands for, sorted; ``**`` is any number of folders.

    A file of that very name comes first. What stands for no file is returned as it is. A pattern may be a URL; in a
    web address ``?`` begins a query.

    Raises
    ------
    ImportError, ValueError, OSError
        If what is at a URL cannot be listed.
    """
    text = instance("text", text, str, "a path or pattern as str")
    if is_url(text):
        place = path_or_url("text", text)
        if isinstance(place, str):
            return _expand_url(place)
        text = str(place)
    if os.path.lexists(text) or not glob.has_magic(text):
        return [text]
    return sorted(name for name in glob.iglob(text, recursive=True) if not os.path.isdir(name)) or [text]


def _expand_url(url: str) -> list[str]:
    if not any(sign in url for sign in ("*" if is_web(url) else "*?[")):
        return [url]
    system, path = file_system("paths", url)
    with remote_errors(url):
        found = system.glob(path, detail=True)
    files = sorted(name for name, entry in found.items() if entry["type"] == "file")
    return [system.unstrip_protocol(name) for name in files] or [url]


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
