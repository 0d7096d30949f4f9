"""The VGG Image Annotator (VIA) 2: a project or its annotations in JSON, or a table in CSV; polygons, circles, boxes.

An object is one region: VIA has neither parts nor holes, so that they are joined to one outline, as YOLO's are. The
category is an attribute of the region, whose name annotators choose.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lucid_maskrcnn.json_text import parse_json
from lucid_maskrcnn.masks import join_rings
from lucid_maskrcnn.validators import shown

from .labelme import circle
from .records import AnnotationError, ImageRecord, ObjectRecord, bounded, parts_of, polygon_of

__all__ = ["make_via", "parse_via", "parse_via_csv"]

_NO_OBJECTS = ("point", "polyline")
_USUAL = ("name", "label", "class", "category", "type", "object")  # attributes that name the category, the first best
_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")


def parse_via(content: Any, source: str, attribute: str | None = None) -> list[ImageRecord]:
    """Return the images of a project, or of annotations exported as JSON. Their sizes are not in it.

    Parameters
    ----------
    content : mapping
        Of the JSON file.
    source : str
        What messages call the file.
    attribute : str, optional
        The attribute of regions that names their category. By default the only one, or else one called name, label,
        class, category, type or object; without any all are ``"object"``.

    Raises
    ------
    AnnotationError
        If it is not as VIA writes it.
    """
    entries = content.get("_via_img_metadata", content) if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise AnnotationError(f"{source} has no mapping of images, as VIA's files have.")
    files: dict[str, list[tuple[Any, Any, str]]] = {}
    for key, entry in entries.items():
        place = f"{source}, image {shown(key)}"
        name, regions = entry.get("filename"), entry.get("regions")
        if not isinstance(name, str) or not name:
            raise AnnotationError(f"{place} must have a filename, got {shown(name)}.")
        regions = list(regions.values()) if isinstance(regions, Mapping) else regions  # VIA 1 numbers them
        if not isinstance(regions, list):
            raise AnnotationError(f"{place} must have 'regions', a list, got {shown(regions)}.")
        rows = files.setdefault(name, [])
        for number, region in enumerate(regions):
            if not isinstance(region, Mapping):
                raise AnnotationError(f"{place}, region {number} must be a mapping, got {shown(region)}.")
            where = f"{place}, region {number}"
            rows.append((region.get("shape_attributes"), region.get("region_attributes"), where))
    return _records(files, source, attribute)


def parse_via_csv(text: str, source: str, attribute: str | None = None) -> list[ImageRecord]:
    """Return the images of a table, as :func:`parse_via` does of JSON."""
    largest = csv.field_size_limit(max(len(text), 131072))  # an outline may be long
    try:
        return _records(_rows_of_csv(text, source), source, attribute)
    finally:
        csv.field_size_limit(largest)


def _rows_of_csv(text: str, source: str) -> dict[str, list[tuple[Any, Any, str]]]:
    files: dict[str, list[tuple[Any, Any, str]]] = {}
    table = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    if not set(_COLUMNS) <= {(name or "").lstrip("#") for name in table.fieldnames or ()}:
        raise AnnotationError(f"{source} must have the columns {', '.join(_COLUMNS)}, as VIA's tables have.")
    try:
        for row in table:
            values = {(key or "").lstrip("#"): value for key, value in row.items() if isinstance(value, str)}
            place = f"{source}, line {table.line_num}"
            name, shape = values.get("filename"), values.get("region_shape_attributes")
            if not name or not shape:
                raise AnnotationError(f"{place} must have {len(table.fieldnames or ())} columns, as the first line.")
            rows = files.setdefault(name, [])
            geometry = parse_json(place, shape)
            if geometry:  # an image without regions has a line with {}
                rows.append((geometry, parse_json(place, values.get("region_attributes") or "{}"), place))
    except csv.Error as error:
        raise AnnotationError(f"{source}, line {table.line_num} is no table: {error}.") from None
    return files


def _records(
    files: Mapping[str, Sequence[tuple[Any, Any, str]]], source: str, attribute: str | None
) -> list[ImageRecord]:
    kept = [a for rows in files.values() for _, a, _ in rows if isinstance(a, Mapping)]
    key = attribute or _naming_attribute(kept, source)
    records = []
    for file_name, rows in files.items():
        record = ImageRecord(file_name.replace("\\", "/"), None, source=source)
        for geometry, attributes, place in rows:
            kind = geometry.get("name") if isinstance(geometry, Mapping) else None
            if kind in _NO_OBJECTS:
                record.skipped.append(str(kind))
            else:
                record.objects.append(_object(geometry, kind, _name(attributes, key, place), place))
        records.append(record)
    return records


def _naming_attribute(attributes: Iterable[Mapping[str, Any]], source: str) -> str | None:
    counts = Counter(str(key) for mapping in attributes for key in mapping)
    if len(counts) <= 1:
        return next(iter(counts), None)
    by_name = {key.casefold(): key for key in counts}
    usual = next((by_name[name] for name in _USUAL if name in by_name), None)
    if usual is None:
        listed = ", ".join(map(repr, counts))
        raise AnnotationError(
            f"{source} has regions with the attributes {listed}: say which is the category, with attribute= "
            "(--attribute)."
        )
    return usual


def _name(attributes: Any, key: str | None, place: str) -> str:
    if key is None:
        return "object"
    value = attributes.get(key) if isinstance(attributes, Mapping) else None
    if isinstance(value, Mapping):  # of checkboxes
        chosen = [str(name) for name, is_set in value.items() if is_set]
        value = chosen[0] if len(chosen) == 1 else None
    if not isinstance(value, (str, int)) or not str(value).strip():
        raise AnnotationError(f"{place} must have one value of the attribute {key!r}, got {shown(attributes)}.")
    return str(value).strip()


def _object(geometry: Any, kind: Any, name: str, place: str) -> ObjectRecord:
    if not isinstance(geometry, Mapping):
        raise AnnotationError(f"{place} must have 'shape_attributes', got {shown(geometry)}.")
    if kind in ("polygon", "polygone"):
        across, down = geometry.get("all_points_x"), geometry.get("all_points_y")
        if not isinstance(across, list) or not isinstance(down, list) or len(across) != len(down):
            raise AnnotationError(f"{place} must have as many all_points_x as all_points_y.")
        values = [value for point in zip(across, down, strict=True) for value in point]
    elif kind in ("circle", "ellipse"):
        keys = ("cx", "cy", "r") if kind == "circle" else ("cx", "cy", "rx", "ry")
        turn = _number(geometry, "theta", place) if geometry.get("theta") is not None else 0.0
        x, y, *radii = (_number(geometry, key, place) for key in keys)
        values = circle(x, y, radii[0], radii[-1], turn=turn)
    elif kind == "rect":
        left, top, width, height = (_number(geometry, key, place) for key in ("x", "y", "width", "height"))
        return ObjectRecord(name, box=bounded([(left, top), (left + width, top + height)]), place=place)
    else:
        raise AnnotationError(f"{place} has a shape {shown(kind)}, which cannot be read.")
    return ObjectRecord(name, polygon_of(values, place), place=place)


def _number(geometry: Mapping[str, Any], key: str, place: str) -> float:
    value = geometry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > 1e9:
        raise AnnotationError(f"{place} must have a number as {key!r}, got {shown(value)}.")
    return float(value)


# ------------------------------------------------------------------ writing


def make_via(
    images: Iterable[ImageRecord], categories: Sequence[str], file_sizes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return the content of a project, which VIA 2 opens.

    Parameters
    ----------
    images : iterable of ImageRecord
        Their sizes are known.
    categories : sequence of str
    file_sizes : mapping of str to int, optional
        Bytes of the files, which are part of VIA's keys; -1 for those that are not known.
    """
    entries = {}
    for image in images:
        size_in_bytes = (file_sizes or {}).get(image.file_name, -1)
        regions = [
            {"shape_attributes": shape, "region_attributes": {"name": found.name}}
            for found in image.objects
            if (shape := _shape(found, image)) is not None
        ]
        entries[f"{image.file_name}{size_in_bytes}"] = {
            "filename": image.file_name,
            "size": size_in_bytes,
            "regions": regions,
            "file_attributes": {},
        }
    options = {name: name for name in categories}
    region = {"name": {"type": "dropdown", "description": "", "options": options, "default_options": {}}}
    return {
        "_via_settings": {
            "core": {"buffer_size": 18, "filepath": {}, "default_filepath": ""},
            "project": {"name": "lucid_maskrcnn"},
        },
        "_via_img_metadata": entries,
        "_via_attributes": {"region": region, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(entries),
    }


def _shape(found: ObjectRecord, image: ImageRecord) -> dict[str, Any] | None:
    if found.segmentation is None:
        x1, y1, x2, y2 = found.box or (0, 0, 0, 0)
        return {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    rings = [ring for part in parts_of(found.segmentation, image.size or (0, 0)) for ring in part]
    if not rings:
        return None
    x, y = zip(*join_rings(rings), strict=True)
    return {"name": "polygon", "all_points_x": list(x), "all_points_y": list(y)}
