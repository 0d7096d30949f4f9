"""Writing detections to files: which formats there are, what options they take, and one function for each."""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucid_maskrcnn.annotation_formats.coco import make_data_set
from lucid_maskrcnn.annotation_formats.csv_tables import table_text
from lucid_maskrcnn.annotation_formats.imagej import make_rois, write_roi_zip
from lucid_maskrcnn.annotation_formats.label_images import write_label_image
from lucid_maskrcnn.atomic import replacing, replacing_folder, write_json
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.validators import choice, integer, nearest, text
from lucid_maskrcnn.validators import path as checked_path

if TYPE_CHECKING:
    from .exports import DetectionExports

__all__ = ["EXPORT_FORMATS", "format_of", "is_folder_of_crops", "save_detections", "suffix_of"]

_CROP = re.compile(r"[0-9]+\.png")


@dataclass(frozen=True)
class Export:
    """What is to be written.

    Attributes
    ----------
    found : DetectionExports
    path : Path
    image : path, PIL image, array or None
        As the user gave it.
    options : dict
        Of the format, those that the user gave.
    made_by : dict of str to str
        Program and weights.
    """

    found: DetectionExports
    path: Path
    image: Any
    options: Mapping[str, Any]
    made_by: Mapping[str, str]

    def file_name(self) -> str:
        """Return the name of the image: the one given, or of its file, or that of the export."""
        if "file_name" in self.options:
            return text("file_name", self.options["file_name"])
        return Path(self.image).name if isinstance(self.image, (str, os.PathLike)) else f"{self.path.stem}.png"


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes
    ----------
    suffixes : tuple of str
        Of its files; the first is the usual one.
    write : function
        Takes an :class:`Export` and writes it.
    options : tuple of str
        Names of the options that it takes.
    by_name : bool
        Whether it has to be named, as its suffix is another format's.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Export], None]
    options: tuple[str, ...] = ()
    by_name: bool = False


def save_detections(
    found: DetectionExports,
    path: str | Path,
    *,
    format: str | None = None,
    image: Any = None,
    options: Mapping[str, Any],
    weights: Mapping[str, Any] | None = None,
) -> None:
    """Write detections to a file; see :meth:`Detections.save <lucid_maskrcnn.detections.Detections.save>`.

    ``weights`` are the ``name`` and ``sha256`` of those that found them.
    """
    file = checked_path("path", path)
    name = format_of(file, format)
    chosen = EXPORT_FORMATS[name]
    _check_options(name, options, _drawing_options(found) if name == "drawing" else chosen.options)
    if chosen.suffixes and file.suffix.lower() not in chosen.suffixes:
        ends = " or ".join(chosen.suffixes)
        raise ValueError(f"path must end in {ends} for the format {name!r}, got {str(file)!r}.")
    chosen.write(Export(found, file, image, options, found._made_by(weights)))


def format_of(path: Path, format: str | None) -> str:
    """Return the name of the format of a file: the one given, or that of its suffix."""
    if format is not None:
        return choice("format", format, tuple(EXPORT_FORMATS))
    for name, known in EXPORT_FORMATS.items():
        if not known.by_name and path.suffix.lower() in known.suffixes:
            return name
    suffixes: dict[str, str] = {}
    for name, known in EXPORT_FORMATS.items():
        suffixes |= {suffix: name for suffix in known.suffixes if not known.by_name and suffix not in suffixes}
    listed = ", ".join(f"{suffix} ({name})" for suffix, name in suffixes.items())
    named = ", ".join(repr(name) for name, known in EXPORT_FORMATS.items() if known.by_name)
    raise ValueError(
        f"path must end in the suffix of a format, or format= must name one, got {str(path)!r}: {listed}; "
        f"only by name: {named}."
    )


def _check_options(format: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            near = nearest(name, known)
            hint = f" Did you mean {near!r}?" if near else ""
            takes = f"takes {', '.join(known)}" if known else "has no options"
            raise TypeError(f"save() has no option {name!r} for the format {format!r}, which {takes}.{hint}")


def suffix_of(format: str) -> str:
    """Return the usual suffix of a format; an empty one for a folder."""
    return (*EXPORT_FORMATS[format].suffixes, "")[0]


# ------------------------------------------------------------------ pictures


def _drawing_options(found: DetectionExports) -> tuple[str, ...]:
    names = inspect.signature(found.draw).parameters  # type: ignore[attr-defined]
    return tuple(name for name in names if name != "image")


def _save_drawing(export: Export) -> None:
    drawing = export.found.draw(export.image, **export.options)  # type: ignore[attr-defined]
    # In memory first: of a full disk, Pillow's encoders say "encoder error -2".
    encoded = io.BytesIO()
    # A PNG at level 6, the default, takes twice as long and is a twentieth to a tenth smaller.
    drawing.save(encoded, "PNG" if export.path.suffix.lower() == ".png" else "JPEG", quality=92, compress_level=4)
    with replacing(export.path) as file:
        file.write(encoded.getbuffer())


def _save_crops(export: Export) -> None:
    from PIL import Image

    crops = export.found.crops(image=export.image, **export.options)
    if os.path.lexists(export.path) and not is_folder_of_crops(export.path):
        raise ValueError(
            f"path {str(export.path)!r} holds other files than crops, which would be lost: choose another folder."
        )
    with replacing_folder(export.path) as folder:
        for number, crop in zip(export.found.ids.tolist(), crops, strict=True):
            Image.fromarray(crop).save(folder / f"{number}.png")


def is_folder_of_crops(path: Path) -> bool:
    """Whether a path is a folder that holds nothing but crops."""
    return path.is_dir() and all(_CROP.fullmatch(name) for name in os.listdir(path))


# ------------------------------------------------------------------ tables and annotations


def _save_label_image(export: Export) -> None:
    labels = export.found.to_label_image(**export.options)
    with replacing(export.path) as file:
        write_label_image(file, labels, export.path.suffix.lower(), made_by=export.made_by)


def _save_csv(export: Export) -> None:
    _write_text(export.path, table_text(export.found._table(image=export.image, **export.options)))


def _save_geojson(export: Export) -> None:
    measured_in = dict(export.options)
    object_type = measured_in.pop("object_type", "detection")
    content = export.found._geojson(export.made_by, object_type, image=export.image, **measured_in)
    write_json(export.path, content)


def _save_imagej(export: Export) -> None:
    found = export.found
    scores, labels = host(found.scores), host(found.labels).tolist()
    known = [
        {"id": number, "name": name, "label": label, "score": str(score), **export.made_by}
        for number, name, label, score in zip(found.ids.tolist(), found.names, labels, scores, strict=True)
    ]
    rois = make_rois(found.compressed_masks, ids=found.ids.tolist(), colors=found._class_colors(), properties=known)
    with replacing(export.path) as file:
        write_roi_zip(file, rois)


def _save_coco(export: Export) -> None:
    found = export.found
    content = make_data_set(
        found.compressed_masks,
        image={"id": integer("image_id", export.options.get("image_id", 1)), "file_name": export.file_name()},
        categories=_categories(found),
        category_ids=found.category_ids.tolist(),
        boxes=host(found.boxes),
        scores=[float(str(score)) for score in host(found.scores)],
        info={"description": "Detections", **export.made_by},
    )
    write_json(export.path, content)


def _save_yolo(export: Export) -> None:
    _write_text(export.path, export.found.to_yolo())


def _save_labelme(export: Export) -> None:
    write_json(export.path, export.found.to_labelme(export.file_name()))


def _categories(found: DetectionExports) -> dict[int, str]:
    """Return the name of each category id: those of the model, and those of labels that it has no name for."""
    known = found.categories
    names = {} if known is None else {known.ids.get(label, label): name for label, name in known.items()}
    return {**dict(zip(found.category_ids.tolist(), found.names, strict=True)), **names}


def _write_text(path: Path, content: str) -> None:
    with replacing(path) as file:
        file.write(content.encode("utf-8", "backslashreplace"))  # a name may have half a surrogate pair


EXPORT_FORMATS: dict[str, Format] = {
    "drawing": Format((".png", ".jpg", ".jpeg"), _save_drawing),
    "label-image": Format((".tif", ".tiff", ".png"), _save_label_image, ("dtype",)),
    "csv": Format((".csv",), _save_csv, ("page", "pixel_size")),
    "geojson": Format((".geojson",), _save_geojson, ("object_type", "page", "pixel_size")),
    "imagej": Format((".zip",), _save_imagej),
    "yolo": Format((".txt",), _save_yolo),
    "coco": Format((".json",), _save_coco, ("file_name", "image_id")),
    "labelme": Format((".json",), _save_labelme, ("file_name",), by_name=True),
    "crops": Format((), _save_crops, ("padding", "masked"), by_name=True),
}
