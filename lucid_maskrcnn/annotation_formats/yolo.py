"""YOLO's labels: a text file for each image, a line for each object, and ``data.yaml`` with the names of the classes.

A line is the number of a class, counted from 0, and an outline ``x y x y …`` as fractions of the image's width and
height. There is one outline an object: parts and holes are joined to it over bridges without area, as Ultralytics
joins the polygons of COCO's objects. A line of five numbers is a box: center, width and height.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lucid_maskrcnn.masks import join_rings
from lucid_maskrcnn.validators import shown

from .records import AnnotationError, ObjectRecord, Part, Size

__all__ = ["make_data_yaml", "make_yolo", "make_yolo_boxes", "parse_data_yaml", "parse_yolo"]

_OUTSIDE = 0.01  # of the image that a coordinate may lie outside of it: it is moved to the border
_MAX_CLASS = 65535  # there are as many names, which one wrong digit must not make billions
_DECIMALS = 5  # of a pixel, that are read: what division and multiplication by the width leaves is cut off


def make_yolo(objects: Sequence[Sequence[Part]], classes: Sequence[int], size: Size) -> str:
    """Return the text of an image's labels.

    Parameters
    ----------
    objects : sequence of sequence of Part
        The parts of each object, as :func:`~lucid_maskrcnn.masks.trace_parts` returns them. An object without any has
        no line.
    classes : sequence of int
        The class of each object, counted from 0: label - 1.
    size : (height, width)
        Of the image.
    """
    height, width = size
    lines = []
    for parts, number in zip(objects, classes, strict=True):
        rings = [ring for part in parts for ring in part]
        if rings:
            points = [f"{x / width:.10g} {y / height:.10g}" for x, y in join_rings(rings)]
            lines.append(f"{number} {' '.join(points)}\n")
    return "".join(lines)


def make_yolo_boxes(boxes: Sequence[Sequence[float]], classes: Sequence[int], size: Size) -> str:
    """Return the text of an image's labels that are only boxes, ``(x1, y1, x2, y2)`` in pixels."""
    height, width = size
    lines = []
    for (x1, y1, x2, y2), number in zip(boxes, classes, strict=True):
        values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{number} {' '.join(f'{value:.10g}' for value in values)}\n")
    return "".join(lines)


def parse_yolo(text: str, size: Size, source: str) -> list[ObjectRecord]:
    """Return the objects of an image's labels; their names are the numbers of their classes.

    Parameters
    ----------
    text : str
    size : (height, width)
        Of the image.
    source : str
        What messages call the file.

    Raises
    ------
    AnnotationError
        If a line is not as above. A confidence after the box or the outline, as of predictions, is ignored.
    """
    return [
        _object(words, size, f"{source}, line {number}")
        for number, words in enumerate((line.split() for line in text.splitlines()), start=1)
        if words
    ]


def _object(words: Sequence[str], size: Size, place: str) -> ObjectRecord:
    try:
        numbers = [_number(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not _is_number(word))
        raise AnnotationError(f"{place}: {shown(wrong)} is no number; YOLO's lines are 'class x y x y …'.") from None
    if not all(map(math.isfinite, numbers)):
        raise AnnotationError(f"{place}: has a number that is not finite.")
    number, values = numbers[0], numbers[1:]
    if not 0 <= number <= _MAX_CLASS or number != int(number):
        raise AnnotationError(f"{place}: begins with {words[0]}, but a class is a whole number from 0 to {_MAX_CLASS}.")
    if len(values) < 4:
        raise AnnotationError(
            f"{place}: has {len(values)} numbers after the class, but a box has four and an outline at least six."
        )
    values = values[: len(values) // 2 * 2]  # without a confidence
    if min(values) < -_OUTSIDE or max(values) > 1 + _OUTSIDE:
        wrong_value = max(values, key=lambda v: abs(v - 0.5))
        raise AnnotationError(
            f"{place}: has the coordinate {wrong_value:g}, but YOLO's are fractions of the image, from 0 to 1."
        )
    height, width = size
    if len(values) == 4:
        x, y, w, h = (value * side for value, side in zip(values, (width, height, width, height), strict=True))
        corners = (max(x - w / 2, 0.0), max(y - h / 2, 0.0), min(x + w / 2, width), min(y + h / 2, height))
        x1, y1, x2, y2 = (round(value, _DECIMALS) for value in corners)
        return ObjectRecord(str(int(number)), box=(x1, y1, x2, y2), place=place)
    pixels = [round(min(max(v, 0.0), 1.0) * (height if i % 2 else width), _DECIMALS) for i, v in enumerate(values)]
    return ObjectRecord(str(int(number)), [pixels], place=place)


def _number(word: str) -> float:
    if "_" in word:  # Python's own 1_0 is none here
        raise ValueError(word)
    return float(word)


def _is_number(word: str) -> bool:
    try:
        _number(word)
    except ValueError:
        return False
    return True


def make_data_yaml(names: Sequence[str], images: str = "images") -> str:
    """Return the text of ``data.yaml``: where the images are, relative to it, and the names of the classes."""
    lines = [f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(names)]
    place = json.dumps(images, ensure_ascii=False)
    return f"path: .\ntrain: {place}\nval: {place}\nnames:\n{''.join(lines)}"


def parse_data_yaml(text: str, source: str) -> dict[int, str]:
    """Return the names of the classes in a ``data.yaml``, by number.

    Parameters
    ----------
    text : str
    source : str
        What messages call the file.

    Raises
    ------
    ImportError
        If PyYAML is not installed.
    AnnotationError
        If it is no YAML, or has no names.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"{source} is YAML, which needs PyYAML: pip install 'lucid-maskrcnn[yaml]'.") from error
    try:
        content: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", at line {mark.line + 1}"
        raise AnnotationError(f"{source} is not YAML: {getattr(error, 'problem', None) or error}{where}.") from None
    names = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names or not all(type(k) is int and k >= 0 for k in names):
        raise AnnotationError(f"{source} must have 'names', a list of the classes or a mapping of numbers to names.")
    return {number: str(name) for number, name in sorted(names.items())}
