"""LabelMe's annotations: a JSON file for each image, with shapes in pixels.

Shapes of one label and one ``group_id`` are parts of one object. A part without holes is a polygon. Polygons have no
holes there: a part that has some is a shape of type ``"mask"``, a box of pixels with a PNG of zeros and ones, which
LabelMe writes since 5.3.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lucid_maskrcnn.masks.polygons import MAX_COORDINATE
from lucid_maskrcnn.validators import MAX_PIXELS, shown

from .records import AnnotationError, ImageRecord, ObjectRecord, Part, Size, bounded, joined, mask_in_box, pixels_of

__all__ = ["circle", "make_labelme", "parse_labelme"]

_VERSION = "5.5.0"  # of LabelMe, that reads and writes all of this
_NO_OBJECTS = ("point", "points", "line", "linestrip")
_CIRCLE = 64  # points of a circle's outline


def make_labelme(
    objects: Sequence[Sequence[Part]],
    names: Sequence[str],
    size: Size,
    *,
    file_name: str,
    ids: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
    boxes: Sequence[tuple[str, Sequence[float]]] = (),
) -> dict[str, Any]:
    """Return the content of LabelMe's JSON file of one image.

    Parameters
    ----------
    objects : sequence of sequence of Part
        The parts of each object, as :func:`~lucid_maskrcnn.masks.trace_parts` returns them. An object without any is
        left out.
    names : sequence of str
        The label of each object.
    size : (height, width)
        Of the image.
    file_name : str
        The image: its path, relative to the folder of the JSON file.
    ids : sequence of int, optional
        The ``group_id`` of each object, by default 1, 2, …
    scores : sequence of float, optional
        A further key of the shapes, ``"score"``, which LabelMe keeps.
    boxes : sequence of (label, (x1, y1, x2, y2))
        Objects without a mask: rectangles, after the others.
    """
    numbers = range(1, len(objects) + 1) if ids is None else ids
    shapes = []
    for row, (parts, name, number) in enumerate(zip(objects, names, numbers, strict=True)):
        for part in parts:
            shape = {"label": name, **_shape(part, size), "group_id": int(number), "description": "", "flags": {}}
            shapes.append(shape if scores is None else {**shape, "score": round(float(scores[row]), 4)})
    for name, (x1, y1, x2, y2) in boxes:
        shape = {"points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", "mask": None}
        shapes.append({"label": name, **shape, "group_id": None, "description": "", "flags": {}})
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def _shape(part: Part, size: Size) -> dict[str, Any]:
    if len(part) == 1:
        points = [[float(x), float(y)] for x, y in part[0]]
        return {"points": points, "shape_type": "polygon", "mask": None}
    pixels, (x1, y1, x2, y2) = pixels_of(part, size)
    points = [[float(x1), float(y1)], [float(x2 - 1), float(y2 - 1)]]  # the last pixel is included
    return {"points": points, "shape_type": "mask", "mask": _png(pixels)}


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


# ------------------------------------------------------------------ reading


def parse_labelme(content: Any, source: str) -> ImageRecord:
    """Return the image and the objects of a LabelMe file.

    Parameters
    ----------
    content : mapping
        Of the JSON file.
    source : str
        What messages call the file.

    Raises
    ------
    AnnotationError
        If it is not as LabelMe writes it.
    """
    shapes = content.get("shapes") if isinstance(content, Mapping) else None
    if not isinstance(shapes, list):
        raise AnnotationError(f"{source} has no list of 'shapes', as LabelMe's files have.")
    name = content.get("imagePath")
    if not isinstance(name, str) or not name:
        raise AnnotationError(f"{source} must have the image's file as 'imagePath', got {shown(name)}.")
    size = (content.get("imageHeight"), content.get("imageWidth"))
    if not all(type(side) is int and side > 0 for side in size) or size[0] * size[1] > MAX_PIXELS:
        raise AnnotationError(
            f"{source} must have positive integers as 'imageHeight' and 'imageWidth', got {shown(size[0])} and "
            f"{shown(size[1])}."
        )
    record = ImageRecord(name.replace("\\", "/"), size, source=source)
    groups: dict[Any, list[ObjectRecord]] = {}
    for number, shape in enumerate(shapes):
        place = f"{source}, shapes[{number}]"
        if not isinstance(shape, Mapping):
            raise AnnotationError(f"{place} must be a mapping, got {shown(shape)}.")
        kind = shape.get("shape_type") or "polygon"
        if kind in _NO_OBJECTS:
            record.skipped.append(f"{kind}")
            continue
        found = _object(shape, kind, size, place)
        group = shape.get("group_id")
        key = number if group is None else (found.name, group if isinstance(group, (int, str)) else repr(group))
        groups.setdefault(key, []).append(found)
    record.objects = [joined(parts, size) for parts in groups.values()]
    return record


def _object(shape: Mapping[str, Any], kind: str, size: Size, place: str) -> ObjectRecord:
    name = shape.get("label")
    if not isinstance(name, str) or not name:
        raise AnnotationError(f"{place} must have a label, got {shown(name)}.")
    points = _points(shape.get("points"), place)
    if kind == "polygon":
        if len(points) < 3:
            raise AnnotationError(f"{place} is a polygon of {len(points)} points, but it needs at least three.")
        return ObjectRecord(name, [[value for point in points for value in point]], place=place)
    if kind == "rectangle" and len(points) in (2, 4):
        return ObjectRecord(name, box=bounded(points), place=place)
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        return ObjectRecord(name, [circle(x, y, math.dist((x, y), edge))], place=place)
    if kind == "mask" and len(points) == 2:
        return ObjectRecord(name, _mask(shape.get("mask"), points[0], size, place), place=place)
    raise AnnotationError(f"{place} is a {shown(kind)} of {len(points)} points, which cannot be read.")


def _points(values: Any, place: str) -> list[list[float]]:
    try:
        points = np.asarray(values)
    except ValueError:
        points = np.asarray(None)
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        raise AnnotationError(f"{place} must have 'points', a list of [x, y], got {shown(values)}.")
    if not np.isfinite(points).all() or np.abs(points).max() > MAX_COORDINATE:
        raise AnnotationError(f"{place} has a coordinate that is not finite or beyond {MAX_COORDINATE} pixels.")
    return points.astype(float).tolist()


def circle(x: float, y: float, radius_x: float, radius_y: float | None = None, turn: float = 0.0) -> list[float]:
    """Return the outline ``[x, y, x, y, …]`` of a circle or an ellipse, which is turned by an angle in radians."""
    radius_y = radius_x if radius_y is None else radius_y
    angle = np.arange(_CIRCLE) * (2 * np.pi / _CIRCLE)
    across, down = radius_x * np.cos(angle), radius_y * np.sin(angle)
    xs = x + across * np.cos(turn) - down * np.sin(turn)
    ys = y + across * np.sin(turn) + down * np.cos(turn)
    return np.stack([xs, ys], axis=1).ravel().tolist()


def _mask(text: Any, first: Sequence[float], size: Size, place: str) -> Any:
    from PIL import Image

    try:
        if not isinstance(text, str):
            raise ValueError(f"it must be text, got {shown(text)}")
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            if image.width > size[1] or image.height > size[0]:
                raise ValueError("it is larger than the image")
            pixels = np.asarray(image.convert("L")) > 0 if image.mode != "1" else np.asarray(image)
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AnnotationError(f"{place} has a mask that is no PNG in base64: {str(error).rstrip('.')}.") from None
    found = mask_in_box(pixels, math.floor(first[0]), math.floor(first[1]), size)
    if found is None:
        raise AnnotationError(f"{place} has a mask that is not inside the image.")
    return found
