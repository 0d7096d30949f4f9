"""What may be behind an annotation whose box is not the one around its mask, or whose mask has no pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lucid_maskrcnn.images import Size
from lucid_maskrcnn.masks import CompressedMasks

from .issues import Issue

if TYPE_CHECKING:
    from .coco_reader import Annotation

__all__ = ["FAR", "Box", "check_mask", "is_plain", "same_pixels"]

type Box = tuple[float, float, float, float]

FAR = 3  # pixels; outlines may reach so far out of an image
_NEAR = 2  # pixels; a box so near to its mask's is not worth a word
_MIN_BOX_IOU = 0.5  # nor is one whose IoU with its mask's is at least this
_FIT = 1.5  # pixels; how near another reading of a bbox must come to the mask's box
_SURELY = 4  # pixels; pycocotools' outline runs on a grid of a fifth of a pixel
_LONG, _LONG_TOGETHER = 2**16, 2**24  # pixels; outlines beyond this may be refused when they are filled
_SAME = "the box around its segmentation is used"


def is_plain(annotations: Sequence[tuple[Annotation, int]], size: Size) -> np.ndarray:
    """Return which annotations need no mask to be checked: (G,) bool. Making masks takes most of the time of reading.

    They have one polygon within the image, a bbox that fits it to a pixel, an area, and no double of about the same
    extent in the image. The polygon surely has a pixel: its area is above its length. (A simple closed curve of area A
    and length L has at least A - L points of a grid in it: Jarník's inequality.)
    """
    plain = np.zeros(len(annotations), bool)
    rows = [
        i
        for i, (a, _) in enumerate(annotations)
        if a.bbox is not None and a.area is not None and isinstance(a.segmentation, list) and len(a.segmentation) == 1
    ]
    if not rows:
        return plain
    polygons = [annotations[i][0].segmentation[0] for i in rows]
    counts = np.array([len(polygon) // 2 for polygon in polygons])
    first = np.cumsum(counts) - counts
    points = np.concatenate(polygons).reshape(-1, 2)
    following = np.arange(1, len(points) + 1)
    following[first + counts - 1] = first  # the last point is joined to the first
    (x, y), (to_x, to_y) = points.T, points[following].T
    area = np.abs(np.add.reduceat(x * to_y - to_x * y, first)) / 2
    length = np.add.reduceat(np.hypot(to_x - x, to_y - y), first)
    extent = np.concatenate([np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)], axis=1)
    boxes = np.array([annotations[i][0].box for i in rows])
    inside = (extent[:, :2] >= 0).all(axis=1) & (extent[:, 2:] <= size[::-1]).all(axis=1)
    fits = np.abs(extent - boxes).max(axis=1) <= 1
    images = np.array([annotations[i][1] for i in rows], np.int64)
    _, twin, times = np.unique(
        np.column_stack([images, np.rint(extent).astype(np.int64)]), axis=0, return_inverse=True, return_counts=True
    )
    short = (length < _LONG) & (length.sum() < _LONG_TOGETHER)
    plain[rows] = inside & fits & short & (area > length + _SURELY) & (times[twin.ravel()] == 1)
    return plain


def check_mask(annotation: Annotation, size: Size, tight: np.ndarray, area: int) -> Issue | None:
    """Return the issue of an annotation whose mask is empty or whose box differs from the mask's, if it is one.

    Parameters
    ----------
    annotation : Annotation
    size : (height, width)
        Of its image.
    tight : ndarray of shape (4,)
        The box around its mask, (x1, y1, x2, y2).
    area : int
        Pixels of its mask.
    """
    place = f"annotation {annotation.id}"
    if area <= 1 and min(size) > 1 and _is_normalized(annotation):
        problem = "has coordinates between 0 and 1, where pixels are wanted"
        return Issue(place, problem, remedy="multiply x by the image's width and y by its height", kind="normalized")
    if _is_swapped(annotation, size):
        return Issue(place, "has a segmentation that fits into its image only with x and y swapped", kind="swapped",
                     remedy="a polygon is x, y, x, y, …")  # fmt: skip
    if not area:
        return _issue_of_no_pixel(annotation, place, size)
    if (
        annotation.crowd
        or annotation.bbox is None
        or annotation.box is None
        or np.abs(np.array(annotation.box) - tight).max() <= 1
    ):
        return None
    return _issue_of_bbox(annotation, annotation.box, place, tight)


def _issue_of_bbox(annotation: Annotation, given: Box, place: str, tight: np.ndarray) -> Issue:
    """Return the issue of a box that is not the one around its mask, with what may have been meant."""
    x, y, w, h = map(float, annotation.bbox)
    box, around = (", ".join(f"{v:g}" for v in corners) for corners in (given, tight.tolist()))
    problem = f"has a box from its bbox, ({box}), that is not the one around its segmentation, ({around})"
    agree = _agree(np.array(given), tight)
    if not agree and (_fits((y, x, y + w, x + h), tight) or _fits((y, x, y + h, x + w), tight)):
        remedy = "x and y are swapped in one of the two, write x first"
        return Issue(place, problem, remedy=remedy, kind="swapped bbox")
    guess = "a bbox is x, y, width, height"
    if _fits((x, y, w, h), tight):
        guess = "it is x1, y1, x2, y2, where x, y, width, height is wanted"
    elif _fits((x - w / 2, y - h / 2, x + w / 2, y + h / 2), tight):
        guess = "it begins with the center, where the upper left corner is wanted"
    elif max(x + w, y + h) <= 1:
        guess = "it is between 0 and 1, where pixels are wanted"
    elif agree:
        return Issue(place, problem, "note", _SAME, "bbox a little off")
    return Issue(place, problem, "warning", f"{guess}; {_SAME}", "bbox: " + guess)


def _issue_of_no_pixel(annotation: Annotation, place: str, size: Size) -> Issue:
    """Return the issue of an annotation whose mask has no pixel in its image."""
    polygons = _polygons(annotation)
    if polygons is not None:
        (x1, y1), (x2, y2) = polygons.min(axis=0), polygons.max(axis=0)
        if x2 <= 0 or y2 <= 0 or x1 >= size[1] or y1 >= size[0]:
            problem = f"lies outside its image of {size[0]} × {size[1]}, from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
            remedy = "its polygons may be of another image, or of another size of this one"
            return Issue(place, problem, remedy=remedy, kind="outside")
    return Issue(place, "has a segmentation that covers no pixel", "warning", "it is left out", "no pixel")


def same_pixels(annotations: Sequence[tuple[Annotation, int]], masks: CompressedMasks) -> list[tuple[int, Issue]]:
    """Return an issue for each object that has the pixels of one before it in its image, with the image's id.

    Parameters
    ----------
    annotations : sequence of (Annotation, int)
        With the id of the image of each.
    masks : CompressedMasks
        Of the annotations.
    """
    issues = []
    seen: dict[Any, int] = {}
    starts, stops, offsets = masks.starts, masks.stops, masks.offsets.tolist()
    for (annotation, image_id), low, high in zip(annotations, offsets[:-1], offsets[1:], strict=True):
        if low == high:
            continue
        runs = starts[low:high].tobytes(), stops[low:high].tobytes()
        other = seen.setdefault((image_id, annotation.label, annotation.crowd, *runs), annotation.id)
        if other != annotation.id:
            problem = f"covers the same pixels as annotation {other}"
            remedy = "remove one, the object counts twice"
            issues.append((image_id, Issue(f"annotation {annotation.id}", problem, "warning", remedy, "same pixels")))
    return issues


# ------------------------------------------------------------------ guesses


def _polygons(annotation: Annotation) -> np.ndarray | None:
    """Return all points of an annotation's polygons (P, 2), or None of a run-length encoding."""
    if not isinstance(annotation.segmentation, list):
        return None
    return np.concatenate(annotation.segmentation).reshape(-1, 2)


def _is_normalized(annotation: Annotation) -> bool:
    points = _polygons(annotation)
    return points is not None and bool(points.min() >= 0 and points.max() <= 1)


def _is_swapped(annotation: Annotation, size: Size) -> bool:
    """Whether polygons reach far out of the image, but would not with x and y exchanged."""
    points = _polygons(annotation)
    if points is None:
        return False
    limits = np.array(size[::-1], np.float64)  # width, height
    high = points.max(axis=0)
    return bool((high > limits + FAR + 0.02 * limits.max()).any() and (high <= limits[::-1] + 1).all())


def _fits(box: Box, tight: np.ndarray) -> bool:
    return bool(np.abs(np.array(box) - tight).max() <= _FIT)


def _agree(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes are about the same; boxes of small objects may be a pixel or two off."""
    if np.abs(box - other).max() <= _NEAR:
        return True
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    common = float(np.prod(np.maximum(high - low, 0)))
    both = float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])) - common
    return common >= _MIN_BOX_IOU * both
