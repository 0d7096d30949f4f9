"""CVAT for images 1.1: an XML file of images with polygons, masks, boxes and ellipses.

Shapes of one label and one ``group_id`` are parts of one object. The run lengths of a mask count along the rows of its
box, beginning with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from .labelme import circle
from .records import (
    AnnotationError,
    ImageRecord,
    ObjectRecord,
    Part,
    Size,
    bounded,
    checked_size,
    joined,
    mask_in_box,
    parts_of,
    pixels_of,
    polygon_of,
)
from .xml_text import Element, parse_xml

__all__ = ["make_cvat", "parse_cvat"]

_NO_OBJECTS = ("points", "polyline", "tag", "cuboid", "skeleton")


def parse_cvat(content: bytes | Element, source: str) -> tuple[list[ImageRecord], list[str]]:
    """Return the images of a file, and the labels that it declares, in its order.

    Parameters
    ----------
    content : bytes or Element
        Of the XML file.
    source : str
        What messages call the file.

    Raises
    ------
    AnnotationError
        If it is not as CVAT writes it.
    """
    root = content if isinstance(content, Element) else parse_xml(content, source)
    if root.tag != "annotations":
        raise AnnotationError(f"{source} begins with <{root.tag}>, but CVAT's files with <annotations>.")
    if root.find("track") is not None:
        raise AnnotationError(f"{source} has tracks of a video: export the task as 'CVAT for images 1.1'.")
    labels = list(dict.fromkeys(label.value("name") for label in _descend(root, "labels") if label.tag == "label"))
    return [_image(image, source) for image in root.all("image")], labels


def _descend(root: Element, tag: str) -> list[Element]:
    """Return the children of the first element of a tag below <meta>, at any depth."""
    level = list(root.all("meta"))
    while level:
        found = next((element for element in level if element.tag == tag), None)
        if found is not None:
            return found.children
        level = [child for element in level for child in element.children]
    return []


def _image(image: Element, source: str) -> ImageRecord:
    height, width = (image.number(side, image.attribute(side)) for side in ("height", "width"))
    size = checked_size(height, width, image.place)
    record = ImageRecord(image.attribute("name").replace("\\", "/"), size, source=source)
    groups: dict[object, list[ObjectRecord]] = {}
    for number, shape in enumerate(image.children):
        if shape.tag in _NO_OBJECTS:
            record.skipped.append(shape.tag)
            continue
        found = _object(shape, size)
        group = shape.attributes.get("group_id", "0")
        groups.setdefault(number if group in ("", "0") else (found.name, group), []).append(found)
    record.objects = [joined(parts, size) for parts in groups.values()]
    return record


def _object(shape: Element, size: Size) -> ObjectRecord:
    name = shape.attribute("label")
    if not name:
        raise AnnotationError(f"{shape.place}: must have a label that is not empty.")
    if shape.tag == "polygon":
        return ObjectRecord(name, _polygon(shape), place=shape.place)
    if shape.tag == "mask":
        return ObjectRecord(name, _mask(shape, size), place=shape.place)
    turn = math.radians(shape.number("rotation", shape.attributes.get("rotation", "0")))
    if shape.tag == "ellipse":
        x, y, rx, ry = (shape.number(key, shape.attribute(key)) for key in ("cx", "cy", "rx", "ry"))
        outline = polygon_of(circle(x, y, rx, ry, turn), f"{shape.place}: <ellipse>")
        return ObjectRecord(name, outline, place=shape.place)
    if shape.tag == "box":
        x1, y1, x2, y2 = (shape.number(key, shape.attribute(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        corners = [(a - x, b - y) for a in (x1, x2) for b in (y1, y2)]
        turned = [
            (x + a * math.cos(turn) - b * math.sin(turn), y + a * math.sin(turn) + b * math.cos(turn))
            for a, b in corners
        ]
        box = bounded(turned) if turn else (x1, y1, x2, y2)
        return ObjectRecord(name, box=box, place=shape.place)
    raise AnnotationError(f"{shape.place}: <{shape.tag}> is no shape that CVAT has.")


def _polygon(shape: Element) -> list[list[float]]:
    values: list[float] = []
    for point in shape.attribute("points").split(";"):
        pair = point.split(",")
        if len(pair) != 2:
            raise AnnotationError(f"{shape.place}: points of <polygon> must be 'x,y;x,y;…'.")
        values += [shape.number("a point", value) for value in pair]
    return polygon_of(values, f"{shape.place}: <polygon>")


def _mask(shape: Element, size: Size) -> object:
    left, top, width, height = (shape.number(key, shape.attribute(key)) for key in ("left", "top", "width", "height"))
    if min(left, top) < 0 or min(width, height) < 1 or top + height > size[0] or left + width > size[1]:
        raise AnnotationError(f"{shape.place}: <mask> is not inside the image.")
    try:
        lengths = np.array([int(word) for word in shape.attribute("rle").split(",")], np.int64)
    except (ValueError, OverflowError):
        lengths = np.array([-1])
    if (lengths < 0).any() or (lengths > size[0] * size[1]).any() or lengths.sum() != int(height) * int(width):
        raise AnnotationError(
            f"{shape.place}: rle of <mask> must be run lengths that are {int(height * width)} pixels in all."
        )
    pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(int(height), int(width))
    return mask_in_box(pixels, int(left), int(top), size)


# ------------------------------------------------------------------ writing


def make_cvat(images: Iterable[ImageRecord], categories: Sequence[str]) -> str:
    """Return the text of the XML file of some images, whose sizes are known."""
    labels = "".join(f"<label><name>{escape(name)}</name></label>" for name in categories)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "  <version>1.1</version>",
        f"  <meta><task><labels>{labels}</labels></task></meta>",
    ]
    for number, image in enumerate(images):
        height, width = size = image.size or (0, 0)
        name = quoteattr(image.file_name)
        lines.append(f'  <image id="{number}" name={name} width="{width}" height="{height}">')
        for group, found in enumerate(image.objects, start=1):
            lines += [f"    {line}" for line in _shapes(found, group, size)]
        lines.append("  </image>")
    return "\n".join([*lines, "</annotations>", ""])


def _shapes(found: ObjectRecord, group: int, size: Size) -> list[str]:
    common = f'label={quoteattr(found.name)} source="manual" occluded="0"'
    if found.segmentation is None:
        corners = zip(("xtl", "ytl", "xbr", "ybr"), found.box or (), strict=True)
        sides = " ".join(f'{key}="{value:.10g}"' for key, value in corners)
        return [f'<box {common} {sides} z_order="0"/>']
    parts = parts_of(found.segmentation, size)
    grouped = f' group_id="{group}"' if len(parts) > 1 else ""
    return [f'<{_part(part, size, common)} z_order="0"{grouped}/>' for part in parts]


def _part(part: Part, size: Size, common: str) -> str:
    if len(part) == 1:
        points = ";".join(f"{x:.10g},{y:.10g}" for x, y in part[0])
        return f'polygon {common} points="{points}"'
    pixels, (x1, y1, x2, y2) = pixels_of(part, size)
    changes = np.flatnonzero(np.diff(pixels.ravel(), prepend=False))
    lengths = np.diff(changes, prepend=0, append=pixels.size)
    rle = ", ".join(map(str, lengths.tolist()))
    return f'mask {common} rle="{rle}" left="{x1}" top="{y1}" width="{x2 - x1}" height="{y2 - y1}"'
