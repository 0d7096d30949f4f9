"""What the formats of other tools have in common: objects of images, with outlines or run lengths.

Names: a *part* of an object is a polygon with holes, a list of rings of points (x, y) in pixels: the outer one, and
those of its holes. A *segmentation* is what COCO calls so: polygons ``[x, y, x, y, …]``, or a run-length encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lucid_maskrcnn.masks import CompressedMasks, join_rings, trace_parts
from lucid_maskrcnn.masks.polygons import check_polygon
from lucid_maskrcnn.validators import MAX_PIXELS

__all__ = [
    "AnnotationError",
    "ImageRecord",
    "ObjectRecord",
    "Part",
    "Size",
    "bounded",
    "checked_size",
    "joined",
    "mask_in_box",
    "parts_of",
    "pixels_of",
    "polygon_of",
    "union_of",
]

type Part = Sequence[Sequence[tuple[float, float]]]
type Size = tuple[int, int]  # (height, width)
type Box = tuple[float, float, float, float]  # x1, y1, x2, y2


class AnnotationError(ValueError):
    """A file of annotations, or an entry of it, cannot be used; the message is one sentence that names it."""


@dataclass(slots=True)
class ObjectRecord:
    """One object of an image.

    Attributes
    ----------
    name : str
        Its category.
    segmentation : list of polygons, mapping or None
        As in COCO's format; None if it has only a box.
    box : (x1, y1, x2, y2) or None
        In pixels; None for that around the mask.
    place : str
        Where it stands, for messages: ``"line 3"``.
    crowd : bool
        Whether it is a group of objects that are not told apart.
    extra : mapping
        Further keys of a COCO annotation.
    """

    name: str
    segmentation: Any = None
    box: Box | None = None
    place: str = ""
    crowd: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class ImageRecord:
    """One image and its objects.

    Attributes
    ----------
    file_name : str
        As the annotations call it, with slashes.
    size : (height, width) or None
        As the annotations say; None if they say nothing.
    objects : list of ObjectRecord
    source : str
        The file that says so.
    skipped : list of str
        What of it is no object: ``"point"``, ``"line"``, one entry each.
    """

    file_name: str
    size: Size | None
    objects: list[ObjectRecord] = field(default_factory=list)
    source: str = ""
    skipped: list[str] = field(default_factory=list)


def bounded(points: Sequence[Sequence[float]]) -> Box:
    """Return the box around some points."""
    x, y = np.array(points, float).T
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def checked_size(height: float, width: float, place: str) -> Size:
    """Return the size of an image, which must be as images can be."""
    if min(height, width) < 1 or height * width > MAX_PIXELS or height % 1 or width % 1:
        raise AnnotationError(f"{place}: must have a height and a width that are positive integers.")
    return int(height), int(width)


def polygon_of(values: Any, what: str) -> list[list[float]]:
    """Return the segmentation of one outline ``[x, y, x, y, …]``; ``what`` is what messages call it."""
    try:
        return [check_polygon(values).tolist()]
    except ValueError as error:
        raise AnnotationError(f"{what} {error}.") from None


def parts_of(segmentation: Any, size: Size) -> list[Part]:
    """Return the parts of an object; polygons are kept as they are if they do not overlap.

    Parameters
    ----------
    segmentation : list of polygons or mapping
    size : (height, width)
    """
    if not isinstance(segmentation, Mapping):
        rings = [np.reshape(np.asarray(polygon, float), (-1, 2)) for polygon in segmentation]
        boxes = np.array([bounded(ring.tolist()) for ring in rings])
        apart = len(rings) == 1 or not _any_overlap(boxes)
        within = (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (size[1], size[0])).all()
        if apart and within:
            return [[[(x, y) for x, y in ring.tolist()]] for ring in rings]
    return [list(part) for part in trace_parts(CompressedMasks.from_coco([segmentation], size))[0]]


def _any_overlap(boxes: np.ndarray) -> bool:
    from lucid_maskrcnn.masks import overlapping_pairs

    return len(overlapping_pairs(boxes)[0]) > 0


def pixels_of(part: Part, size: Size) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Return the pixels of a part in the box around it, (h, w) bool, and the box: x1, y1, x2, y2."""
    mask = CompressedMasks.from_coco([[[float(value) for point in join_rings(part) for value in point]]], size)
    x1, y1, x2, y2 = (int(value) for value in mask.boxes[0])
    return mask.decode_region(0, slice(y1, y2), slice(x1, x2)), (x1, y1, x2, y2)


def joined(shapes: Sequence[ObjectRecord], size: Size) -> ObjectRecord:
    """Return the object of one or several shapes; boxes beside masks are dropped, for they are around them."""
    masked = [shape for shape in shapes if shape.segmentation is not None]
    if not masked:
        return shapes[0]
    whole = union_of([shape.segmentation for shape in masked], size)
    return ObjectRecord(shapes[0].name, whole, place=masked[0].place)


def union_of(segmentations: Sequence[Any], size: Size) -> Any:
    """Return the segmentation of an object that consists of several: polygons if all are, else run lengths."""
    if len(segmentations) == 1:
        return segmentations[0]
    if not any(isinstance(s, Mapping) for s in segmentations):
        return [polygon for polygons in segmentations for polygon in polygons]
    masks = CompressedMasks.from_coco(segmentations, size)
    return CompressedMasks.from_dense(np.asarray(masks).any(axis=0)[None]).to_rle()[0]


def mask_in_box(mask: np.ndarray, left: int, top: int, size: Size) -> dict[str, Any] | None:
    """Return the run lengths of a mask (h, w) bool that begins at a pixel of an image; None if it is not inside."""
    height, width = mask.shape
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        return None
    patch = (slice(top, top + height), slice(left, left + width), mask)
    return CompressedMasks.from_patches([patch], size).to_rle()[0]
