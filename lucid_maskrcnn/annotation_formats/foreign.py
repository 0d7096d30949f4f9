"""Annotation files of other tools: recognized and named, so that it can be said what to do with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lucid_maskrcnn.validators import path

__all__ = ["foreign_content", "foreign_file", "foreign_folder"]

_SEEN = 1000  # files of a folder that are looked at

_EXPORT = "export it as COCO instance segmentation from the tool that made it"
_CONVERT = "convert it with 'lucid-maskrcnn convert-data'"
_SUFFIXES = {
    ".txt": f"as YOLO's labels are: {_CONVERT}",
    ".yaml": f"as YOLO's data sets have one: {_CONVERT}",
    ".yml": f"as YOLO's data sets have one: {_CONVERT}",
    ".xml": f"as Pascal VOC and CVAT write them: {_CONVERT}",
    ".csv": f"a table, as VIA and Open Images write them: {_CONVERT} (VIA)",
    ".zip": "an archive: unpack it, and give the JSON file of instances in it",
    ".tar": "an archive: unpack it, and give the JSON file of instances in it",
    ".gz": "compressed: unpack it first",
    ".jsonl": f"one JSON value a line: {_EXPORT}",
    ".ndjson": f"one JSON value a line, as Labelbox writes them: {_EXPORT}",
    ".geojson": f"outlines as QuPath writes them: {_EXPORT}",
    ".png": "an image: label images are a folder, given as --labels (LabelImages)",
    ".tif": "an image: label images are a folder, given as --labels (LabelImages)",
    ".npy": "an array: label images are a folder, given as --labels (LabelImages)",
}
_LABELME = f"labelme's annotations of one image: {_CONVERT}, all files of the folder at once"


def foreign_file(file: Path) -> str | None:
    """Return what a file is that is not JSON, by its name, or None."""
    file = path("file", file)
    if not file.is_dir():
        return _SUFFIXES.get(file.suffix.lower())
    jsons = sorted(f.name for f in islice(file.iterdir(), _SEEN) if f.suffix.lower() == ".json")
    if len(jsons) == 1:
        return f"a folder: give the file in it, {jsons[0]!r}"
    return foreign_folder(file) or "a folder: give the JSON file of COCO instances"


def foreign_folder(folder: Path) -> str | None:
    """Return what annotations a folder has, by the names in it, or None."""
    folder = path("folder", folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    suffixes = {file.suffix.lower() for file in islice(folder.iterdir(), _SEEN)}
    if ".json" in suffixes:
        return f"a folder of JSON files, as labelme and Supervisely write them: {_CONVERT} (labelme)"
    if ".txt" in suffixes:
        return f"a folder of text files, as YOLO's labels are: {_CONVERT}"
    if ".xml" in suffixes:
        return f"a folder of XML files, as Pascal VOC's annotations are: {_CONVERT}"
    if suffixes & {".png", ".tif", ".tiff", ".npy"}:
        return "a folder of images: label images are given as --labels (LabelImages)"
    return None


def foreign_content(content: Any) -> str | None:
    """Return what the content of a JSON file is if it is known and no COCO instances, or None."""
    if isinstance(content, Mapping):
        return _of_mapping(content)
    if isinstance(content, (list, tuple)) and content and isinstance(content[0], Mapping):
        return _of_list(content[0])
    return None


def _of_mapping(content: Mapping[str, Any]) -> str | None:
    values = [value for value in islice(content.values(), 20) if isinstance(value, Mapping)]
    if "_via_img_metadata" in content or "_via_settings" in content or _any_has(values, "filename", "regions"):
        return f"a file of the VGG Image Annotator (VIA): {_CONVERT}"
    if "shapes" in content and ("imagePath" in content or "imageData" in content):
        return _LABELME
    kind = content.get("type")
    if isinstance(kind, str) and kind == "FeatureCollection":
        return f"GeoJSON, as QuPath writes it: {_EXPORT}"
    if {"size", "objects"} <= content.keys():
        return f"Supervisely's annotations of one image: {_EXPORT}"
    if "item" in content and "annotations" in content:
        return f"a file of V7 Darwin: {_EXPORT}"
    if "file_attributes" in content or _any_has(values, "file_attributes"):
        return f"a file of the VGG Image Annotator (VIA): {_CONVERT}"
    entries = content.get("annotations")
    first = entries[0] if isinstance(entries, (list, tuple)) and entries else None
    if isinstance(first, Mapping) and "segments_info" in first:
        return "COCO's panoptic annotations: give the instances (instances_….json), or convert them with panopticapi"
    if isinstance(first, Mapping) and "caption" in first:
        return "COCO's captions, without masks: give the instances (instances_….json)"
    images = content.get("images")
    if isinstance(images, (list, tuple)) and images and "annotations" not in content:
        return "a list of images without annotations, as image_info_….json of COCO's test images is"
    return None


def _of_list(first: Mapping[str, Any]) -> str | None:
    if "image_id" in first and "score" in first:
        return "COCO results, a list of detections: give the annotations that they belong to"
    if "image_id" in first and ("segmentation" in first or "bbox" in first):
        return "only a list of annotations: COCO's format is a mapping with 'images', 'annotations' and 'categories'"
    if "data" in first and ("annotations" in first or "completions" in first):
        return "a file of Label Studio: export it as COCO from there, which needs polygons or brushes"
    if "image" in first and "annotations" in first:
        return f"a file of CreateML, which has boxes only: {_EXPORT}"
    if "name" in first and "labels" in first:
        return f"a file of BDD100K or Scalabel: {_EXPORT}"
    if "External ID" in first or "Labeled Data" in first:
        return f"a file of Labelbox: {_EXPORT}"
    return None


def _any_has(values: Iterable[Mapping[str, Any]], *keys: str) -> bool:
    return any(all(key in value for key in keys) for value in values)
