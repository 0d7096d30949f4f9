"""The images that annotations of other tools speak of, found by their names in a folder and below."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from lucid_maskrcnn.images import SUFFIXES

from .image_folder import walk

__all__ = ["ImageFinder"]


class ImageFinder:
    """The image files in a folder and below it; names from files are compared with these, and never opened.

    Parameters
    ----------
    folder : Path
    without : sequence of str
        Folders in it whose files are no images of the data set.

    Attributes
    ----------
    names : list of str
        Of the image files, relative to the folder, with slashes.
    """

    def __init__(self, folder: Path, without: Sequence[str] = ()) -> None:
        self.folder = folder
        self.names = [
            name
            for name in walk(folder)
            if Path(name).suffix.lower() in SUFFIXES
            and not name.rpartition("/")[2].startswith(".")
            and name.partition("/")[0] not in without
        ]
        self._by_last: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            last = name.rpartition("/")[2]
            self._by_last[last].append(name)
            self._by_stem[last.rpartition(".")[0]].append(name)
        self._known = set(self.names)

    def find(self, name: str) -> list[str]:
        """Return the files that a name may mean: one if it can be told, by as many of its folders as are needed."""
        if name in self._known:
            return [name]
        return _alike(name, self._by_last.get(name.rpartition("/")[2], []))

    def find_stem(self, stem: str) -> list[str]:
        """Return the files that a name without a suffix may mean."""
        found = self._by_stem.get(stem.rpartition("/")[2], [])
        exact = [name for name in found if name.rpartition(".")[0] == stem]
        return exact or _alike(stem, found)


def _alike(name: str, candidates: list[str]) -> list[str]:
    """Return those of some files with the most last folders in common with a name.

    Where both have folders, at least the last one must be the same: train/1.png is not val/1.png.
    """
    wanted = name.split("/")[-2::-1]
    candidates = [c for c in candidates if not wanted or "/" not in c or c.split("/")[-2] == wanted[0]]
    if len(candidates) < 2:
        return candidates

    def shared(candidate: str) -> int:
        pairs = zip(wanted, candidate.split("/")[-2::-1], strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(wanted), candidate.count("/")))

    most = max(map(shared, candidates))
    return [candidate for candidate in candidates if shared(candidate) == most]
