"""The files that the page saves: the objects that it shows, with the numbers that it shows."""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lucid_maskrcnn import validators
from lucid_maskrcnn.detections import Detections

from .page_results import PageResult

__all__ = ["FORMATS", "ExportedFile", "export_file"]

FORMATS = {
    "coco": (".json", "application/json"),
    "csv": (".csv", "text/csv; charset=utf-8"),
    "label-image": (".tif", "image/tiff"),
    "drawing": (".png", "image/png"),
    "geojson": (".geojson", "application/geo+json"),
    "imagej": (".zip", "application/zip"),
}
_LONGEST_NAME = 80  # characters


class ExportedFile(NamedTuple):
    """A file to be saved: its name, its type and its bytes."""

    name: str
    media_type: str
    content: bytes


class _Numbered(Detections):
    """Some of the detections of an image, with the numbers that they have among all of them."""

    _numbers: np.ndarray

    @classmethod
    def of(cls, found: Detections, ids: np.ndarray) -> _Numbered:
        chosen = object.__new__(cls)
        chosen.__dict__ = {**found[ids - 1].__dict__, "_numbers": ids}
        return chosen

    @property
    def ids(self) -> np.ndarray:
        return self._numbers.copy()

    def to_label_image(self, *, dtype: Any = None) -> np.ndarray:
        labels = super().to_label_image(dtype=np.uint32)
        largest = int(self._numbers.max(initial=0))
        numbers = np.concatenate([[0], self._numbers]).astype(dtype or (np.uint16 if largest < 1 << 16 else np.uint32))
        return numbers[labels]


def export_file(
    result: PageResult, request: Mapping[str, Any], name: str, source: Path, read: Mapping[str, Any]
) -> ExportedFile:
    """Return a file of the objects that the page shows.

    Parameters
    ----------
    result : PageResult
    request : mapping
        ``format``, one of :data:`FORMATS`, ``ids`` of the objects, and how a drawing looks: ``color_by`` and ``fill``.
    name : str
        Of the image, as its sender calls it.
    source : Path
        The image file: drawings and intensities are of it.
    read : mapping
        Page, channels and intensity, as it was read.

    Raises
    ------
    TypeError, ValueError
        If the request is not as above.
    ImportError
        If the format needs a library that is not installed.
    """
    format = str(validators.choice("format", request.get("format"), FORMATS))
    ids = _checked_ids(request.get("ids"), len(result.found))
    chosen = _Numbered.of(result.found, ids)
    suffix, media_type = FORMATS[format]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"export{suffix}"
        chosen.save(path, format=format, **_options(format, request, result, ids, name, source, read))
        content = path.read_bytes()
    if format == "coco":
        content = _renumbered(content, ids.tolist())
    return ExportedFile(safe_name(name, format, suffix), media_type, content)


def _checked_ids(ids: Any, num: int) -> np.ndarray:
    if not isinstance(ids, list):
        raise TypeError(f"ids must be a list of numbers of objects, got {validators.shown(ids)}.")
    numbers = sorted({validators.integer("ids", number, 1, num) for number in ids})
    return np.array(numbers, np.int64)


def _options(
    format: str,
    request: Mapping[str, Any],
    result: PageResult,
    ids: np.ndarray,
    name: str,
    source: Path,
    read: Mapping[str, Any],
) -> dict[str, Any]:
    if format == "drawing":
        from lucid_maskrcnn.images import load_image

        by_class = validators.choice("color_by", request.get("color_by", "instance"), ("instance", "class")) == "class"
        colors: Sequence[Any] = result.class_colors if by_class else result.colors
        fill = validators.flag("fill", request.get("fill", True))
        palette = {"palette": [colors[i - 1] for i in ids]} if len(ids) else {}
        look = {"score_thresh": 0.0, "boxes": False, "alpha": 0.35 if fill else 0.0, **palette}
        return {"image": load_image(source, **read), **look}
    if format in ("csv", "geojson"):
        return {"image": source, "page": read["page"]}
    return {"file_name": name} if format == "coco" else {}


def _renumbered(content: bytes, ids: list[int]) -> bytes:
    data_set = json.loads(content)
    for annotation, number in zip(data_set["annotations"], ids, strict=True):
        annotation["id"] = number
    return json.dumps(data_set).encode()


def safe_name(name: str, format: str, suffix: str) -> str:
    """Return the name of a file to be saved: letters, digits, dots, dashes and underscores."""
    stem = re.split(r"[/\\]", name)[-1]
    stem = stem.rpartition(".")[0] or stem
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:_LONGEST_NAME]
    kind = "" if suffix == f".{format}" else f"_{format.replace('-', '_')}"  # what the suffix does not say
    return f"{plain or 'image'}{kind}{suffix}"
