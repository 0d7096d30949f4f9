"""The weights that the page offers, and the models that were built of them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from lucid_maskrcnn.models import MaskRCNN
from lucid_maskrcnn.weights import PublishedWeights, list_weights
from lucid_maskrcnn.weights.download import cache_folder, cached

from .app_errors import AppError

__all__ = ["WeightsMenu"]

_SUFFIXES = {".safetensors", ".pth", ".pkl"}
_MODELS = 2  # that are kept in memory


class WeightsMenu:
    """Weights by key: clients name keys, never files.

    Parameters
    ----------
    first : str, Path or None
        The file or the name that the server was started with.
    device : str
        Where models are.
    """

    def __init__(self, first: str | Path | None, device: str) -> None:
        self._device = device
        self._sources: dict[str, str | Path] = {}
        self._models: OrderedDict[str, MaskRCNN] = OrderedDict()
        self.default = "NUCLEI"
        published = {_key(entry) for entry in _detectors()}
        if first is not None and str(first) in published:
            self.default = str(first)
        elif first is not None:
            self.default = "started-with"
            self._sources[self.default] = first

    def entries(self) -> list[dict[str, Any]]:
        """Return the menu: a key, a title and a note each, and whether it must be downloaded first."""
        rows = []
        if "started-with" in self._sources:
            name = Path(self._sources["started-with"]).name
            rows.append({"key": "started-with", "title": name, "note": "given with --weights", "download": False})
        known = set()
        for entry in sorted(_detectors(), key=lambda e: e.url is not None):  # those of the package first
            key = _key(entry)
            here = cached(entry) is not None
            self._sources.setdefault(key, key)
            known.add(entry.file)
            rows.append({"key": key, "title": key, "note": _note(entry, here), "download": not here})
        for path in _other_files(known):
            key = f"file:{path.name}"
            self._sources.setdefault(key, path)
            rows.append({"key": key, "title": path.name, "note": "in the folder of weights", "download": False})
        return rows

    def check(self, key: Any) -> str:
        """Return the key of a row of the menu.

        Raises
        ------
        AppError
            If there is none.
        """
        if not isinstance(key, str) or key not in self._sources:
            raise AppError(400, "There are no such weights in the menu: choose others.")
        return key

    def title(self, key: str) -> str:
        """Return what the page calls a row."""
        source = self._sources[key]
        return str(source) if key == source else Path(source).name

    def model(self, key: str) -> MaskRCNN:
        """Return the model of a row, built when it is first asked for; only one thread may ask."""
        if key not in self._models:
            while len(self._models) >= _MODELS:
                self._models.popitem(last=False)
            self._models[key] = MaskRCNN.from_file(self._sources[key]).eval().to(self._device)
        self._models.move_to_end(key)
        return self._models[key]

    def paths(self) -> dict[str | Path, str]:
        """Return what stands for the paths of weights in messages."""
        folder, here = cache_folder(), "the server's folder of weights"
        names: dict[str | Path, str] = {f"{str(folder)!r}": here, folder: here}
        files: dict[str | Path, str] = {path: path.name for path in self._sources.values() if isinstance(path, Path)}
        first = self._sources.get("started-with")
        return {**names, **files, **({} if first is None else {str(first): Path(first).name})}


def _detectors() -> list[PublishedWeights]:
    return [entry for entry in list_weights() if entry.categories]


def _key(entry: PublishedWeights) -> str:
    """Return the name, with the architecture where several have it."""
    shared = sum(other.name == entry.name for other in _detectors()) > 1
    return f"{entry.architecture}/{entry.name}" if shared else entry.name


def _note(entry: PublishedWeights, here: bool) -> str:
    if entry.url is None:
        return "nuclei, comes with the package"
    size = "" if entry.size is None else f", {entry.size / 1e6:.0f} MB"
    return entry.dataset if here else f"{entry.dataset}{size}, downloaded at first use"


def _other_files(known: set[str]) -> list[Path]:
    try:
        files = [path for path in cache_folder().iterdir() if path.suffix in _SUFFIXES and path.is_file()]
    except OSError:
        return []
    others = sorted(path for path in files if path.name not in known)
    backbones = {entry.file for entry in list_weights() if not entry.categories}
    return [path for path in others if path.name not in backbones]
