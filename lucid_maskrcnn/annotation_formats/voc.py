"""Pascal VOC: an XML file of boxes for each image, and pictures of its objects and classes with a palette.

In ``SegmentationObject`` a pixel has the number of its object, counted as the objects of the XML file are, in
``SegmentationClass`` that of its class; 0 is background and 255 is void, which belongs to no object. Boxes of VOC begin
with pixel 1 and include their last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.validators import shown

from .records import AnnotationError, ImageRecord, ObjectRecord, Size, checked_size, polygon_of
from .xml_text import Element, parse_xml

__all__ = [
    "CLASSES",
    "MAX_OBJECTS",
    "make_label_map",
    "make_voc",
    "parse_label_map",
    "parse_voc",
    "read_indices",
    "voc_objects",
    "voc_palette",
]

MAX_OBJECTS = 254  # numbers that a pixel of eight bits can have beside 0 and 255
VOID = 255
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_SAME = 0.5  # IoU of boxes, from which an object of the XML file is that of the picture


def voc_palette() -> np.ndarray:
    """Return the colors of VOC's pictures, (256, 3) uint8: bits of the number, three by three from the lowest."""
    number = np.arange(256)[:, None]
    colors = np.zeros((256, 3), np.int64)
    for place in range(8):
        colors |= (number >> (3 * place + np.arange(3)) & 1) << (7 - place)
    return colors.astype(np.uint8)


# ------------------------------------------------------------------ reading


def parse_voc(content: bytes | Element, source: str) -> ImageRecord:
    """Return the image of an XML file, and its objects: boxes, or outlines where it has polygons.

    Parameters
    ----------
    content : bytes or Element
        Of the XML file.
    source : str
        What messages call the file.

    Raises
    ------
    AnnotationError
        If it is not as VOC's files are.
    """
    root = content if isinstance(content, Element) else parse_xml(content, source)
    if root.tag != "annotation":
        raise AnnotationError(f"{source} begins with <{root.tag}>, but VOC's files with <annotation>.")
    return ImageRecord(
        root.value("filename").replace("\\", "/"), _size(root), [_object(o) for o in root.all("object")], source
    )


def _size(root: Element) -> Size | None:
    size = root.find("size")
    if size is None:
        return None
    height, width = (size.number(side, size.value(side)) for side in ("height", "width"))
    if height == width == 0:  # as some tools write when they do not know
        return None
    return checked_size(height, width, size.place)


def _object(found: Element) -> ObjectRecord:
    name, polygon, bndbox = found.value("name"), found.find("polygon"), found.find("bndbox")
    if polygon is not None and polygon.children:
        points = [p for pt in polygon.all("pt") for p in pt.children] or polygon.children
        values = [polygon.number("a point", point.text) for point in points if point.tag[:1] in "xy"]
        return ObjectRecord(name, polygon_of(values, f"{polygon.place}: <polygon>"), place=found.place)
    if bndbox is None:
        raise AnnotationError(f"{found.place}: <object> must have a <bndbox>.")
    keys = ("xmin", "ymin", "xmax", "ymax")
    x1, y1, x2, y2 = (bndbox.number(key, bndbox.value(key)) for key in keys)
    if x2 < x1 or y2 < y1:
        raise AnnotationError(f"{bndbox.place}: xmax must not be below xmin, nor ymax below ymin.")
    return ObjectRecord(name, box=(max(x1 - 1, 0), max(y1 - 1, 0), x2, y2), place=found.place)


def read_indices(path: Path) -> np.ndarray:
    """Return the numbers in a picture of objects or classes: (H, W) integers, 0 where it is void.

    A picture in color, as CVAT writes them, has the numbers of VOC's palette; other colors are numbered from 256 on.

    Raises
    ------
    AnnotationError
        If it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
            pixels = np.asarray(image if mode in ("P", "L", "I;16", "I") else image.convert("RGB")).astype(np.int64)
    except Exception as error:  # Pillow's plugins raise anything
        raise AnnotationError(f"Cannot read the picture {str(path)!r}: {str(error).rstrip('.')}.") from error
    if pixels.ndim == 3:
        pixels = _numbers_of_colors(pixels)
    pixels[pixels == VOID] = 0
    return pixels


def _numbers_of_colors(pixels: np.ndarray) -> np.ndarray:
    weights = np.array([65536, 256, 1])
    colors, inverse = np.unique(pixels @ weights, return_inverse=True)
    known = {int(color): number for number, color in enumerate(voc_palette().astype(np.int64) @ weights)}
    others = iter(range(VOID + 1, VOID + 1 + len(colors)))
    numbers = np.array([known[int(c)] if int(c) in known else next(others) for c in colors])
    return numbers[inverse].reshape(pixels.shape[:2])


def voc_objects(
    objects: np.ndarray,
    classes: np.ndarray | None,
    boxes: Sequence[ObjectRecord],
    names: Mapping[int, str],
    source: str,
) -> list[ObjectRecord]:
    """Return the objects of a picture, each with its mask and the name of its category.

    Parameters
    ----------
    objects : ndarray of shape (H, W), integers
        The number of the object of each pixel.
    classes : ndarray of shape (H, W), integers, optional
        That of its class.
    boxes : sequence of ObjectRecord
        Those of the XML file. Number n is the n-th of them if their boxes match; else the class counts.
    names : mapping of int to str
        Of the classes.
    source : str
        What messages call the picture.

    Raises
    ------
    AnnotationError
        If the pictures are of different sizes, or an object's class has no name.
    """
    if classes is not None and classes.shape != objects.shape:
        raise AnnotationError(f"{source} has another size than the picture of its classes.")
    masks = CompressedMasks.from_labels(objects)
    numbers = np.unique(objects[objects != 0]).tolist()
    found = []
    for row, (number, rle) in enumerate(zip(numbers, masks.to_rle(), strict=True)):
        place = f"{source}, object {number}"
        listed = boxes[number - 1] if 0 < number <= len(boxes) else None
        box = listed.box if listed is not None else None
        if listed is not None and box is not None and _iou(box, masks.boxes[row].tolist()) >= _SAME:
            name = listed.name
        else:
            name = _class_name(objects == number, classes, names, place)
        found.append(ObjectRecord(name, rle, place=place))
    return found


def _class_name(mask: np.ndarray, classes: np.ndarray | None, names: Mapping[int, str], place: str) -> str:
    if classes is None:
        raise AnnotationError(f"{place} has no box in the XML file that matches it, and no picture of its class.")
    number = int(np.bincount(classes[mask]).argmax())
    if number not in names:
        raise AnnotationError(f"{place} is of class {number}, which has no name: write it to labelmap.txt.")
    return names[number]


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    total = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / total if total > 0 else 0.0


def parse_label_map(text: str, source: str) -> dict[int, str]:
    """Return the names of the classes in a ``labelmap.txt``, as CVAT writes it, by their numbers in VOC's palette."""
    known = {tuple(color): number for number, color in enumerate(voc_palette().tolist())}
    names = {}
    for line_number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = line.rsplit(":", 3)
        try:
            color = tuple(int(value) for value in rest[0].split(","))
        except (ValueError, IndexError):
            color = ()
        if len(color) != 3 or not name:
            raise AnnotationError(
                f"{source}, line {line_number}: must be 'label:r,g,b:parts:actions', got {shown(line)}."
            )
        if color in known:
            names[known[color]] = name
    names.pop(0, None)
    return names


# ------------------------------------------------------------------ writing


def make_voc(image: ImageRecord, boxes: Sequence[Sequence[float]], *, segmented: bool) -> str:
    """Return the text of an image's XML file; ``boxes`` are those of its objects, ``(x1, y1, x2, y2)``."""
    height, width = image.size or (0, 0)
    folder, _, _ = image.file_name.rpartition("/")
    lines = [
        "<annotation>",
        f"  <folder>{escape(folder)}</folder>",
        f"  <filename>{escape(image.file_name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        f"  <segmented>{int(segmented)}</segmented>",
    ]
    for found, (x1, y1, x2, y2) in zip(image.objects, boxes, strict=True):
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True)
        sides = "".join(f"<{key}>{value:.10g}</{key}>" for key, value in corners)
        lines.append(
            f"  <object><name>{escape(found.name)}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox>{sides}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>", ""])


def make_label_map(names: Sequence[str]) -> str:
    """Return the text of ``labelmap.txt``: the classes, of which the first has number 1."""
    colors = voc_palette().tolist()
    lines = [f"{name}:{','.join(map(str, colors[n]))}::" for n, name in enumerate(("background", *names))]
    return "\n".join(["# label:color_rgb:parts:actions", *lines, ""])
