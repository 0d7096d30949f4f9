"""Label images that have no number for each object: the picture itself, one mask for all, classes, numbers run out.

Shapes: G objects of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.parts import count_large_parts

from .issues import Issue

__all__ = ["LabelFacts", "check_label_images", "facts_of"]

_MANY = 10  # numbers; fewer are no gray values
_SCATTERED = 0.1  # of the boxes' pixels, which objects fill to a third at least
_SPECKS = 3  # pixels; objects are larger on average
_PIECES = 3  # of a gray value, on average; photographs have dozens
_CROWDED = 0.3  # of the pixels; spots do not cover as much of an image
_HALF = 0.5
_WHITE = (255, 65535)  # of a mask that is an image of 8 or 16 bits
_PICTURE = "has a picture as its label image: gray values all over, where objects have a number each"


@dataclass(frozen=True)
class LabelFacts:
    """What the checks need of a label image.

    Attributes
    ----------
    place : str
    num_objects : int
    num_split : int
        Objects of several large parts.
    is_scattered : bool
        Whether it looks like a picture.
    highest, second : int
        The highest number, and the next; 0 if there is none.
    background : float
        Fraction of the pixels that are 0.
    largest : float
        Fraction of the pixels of the largest object.
    limit : int
        The highest that the file can have.
    """

    place: str
    num_objects: int
    num_split: int
    is_scattered: bool
    highest: int
    second: int
    background: float
    largest: float
    limit: int


def facts_of(place: str, labels: np.ndarray, masks: CompressedMasks) -> LabelFacts:
    """Return what the checks need of a label image (H, W) and its masks."""
    areas, boxes = masks.areas, masks.boxes.astype(np.float64)
    boxed = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
    # Thin objects fill little of their boxes, but are of one piece; spots are small, but few.
    loose = areas.sum() < _SCATTERED * boxed and count_large_parts(masks, 0).mean() >= _PIECES
    specks = areas.sum() > _CROWDED * labels.size and areas.mean() < _SPECKS
    scattered = len(masks) >= _MANY and (loose or specks)
    split = 0 if scattered else int((count_large_parts(masks) > 1).sum())
    highest = int(labels.max())
    second = int(labels.max(initial=0, where=labels < highest))
    background, largest = 1 - areas.sum() / labels.size, areas.max(initial=0) / labels.size
    limit = int(np.iinfo(labels.dtype).max)
    return LabelFacts(
        place, len(masks), split, bool(scattered), highest, second, float(background), float(largest), limit
    )


def check_label_images(facts: Sequence[LabelFacts]) -> list[Issue]:
    """Return the issues of the label images of a data set.

    One object of several parts, as behind a post, is none. Objects mostly of several parts are one mask, or the map of
    a class, where each should have a number.
    """
    issues = []
    objects, split = sum(f.num_objects for f in facts), sum(f.num_split for f in facts if not f.is_scattered)
    mostly = split >= _HALF * objects
    for f in facts:
        if f.is_scattered:
            full = f.num_objects >= f.limit
            remedy = "give the folder of the label images" + full * ", or save more objects than 255 with more bits"
            issues.append(Issue(f.place, _PICTURE, remedy=remedy, kind=f"picture {remedy}"))
        elif f.num_split and f.num_objects >= f.limit == f.highest:
            problem = f"uses all {f.limit:,} numbers of its type, and some for several objects"
            issues.append(Issue(f.place, problem, remedy="save it with more bits", kind="numbers used twice"))
        elif f.num_split and f.num_split >= _HALF * f.num_objects:
            issues.append(_issue_of_parts(f, fault=mostly))
        else:
            issues += _issues_of_numbers(f)
    return issues


def _issues_of_numbers(f: LabelFacts) -> Iterator[Issue]:
    """Yield the issues of the numbers that a label image has."""
    if f.num_objects == 1 and f.highest in _WHITE:
        problem = f"has no numbers but 0 and {f.highest}, as a mask of all objects has: it is taken for one object"
        remedy = "if there are several, number them, for example with skimage.measure.label"
        yield Issue(f.place, problem, "warning", remedy, "black and white")
    elif f.highest == f.limit and f.num_objects >= f.limit:
        problem = f"uses all {f.limit:,} numbers of its type: further objects would share them"
        yield Issue(f.place, problem, "warning", "save it with more bits", "numbers")
    elif f.highest == 255 and f.num_objects > 1 and f.second == f.num_objects - 1:
        problem = f"has the numbers 1 to {f.second} and 255, which Pascal VOC has at borders: it is taken for an object"
        yield Issue(f.place, problem, "warning", "if it is none, set it to 0", "border")
    if not f.background and f.largest > _HALF:
        problem = f"has no 0, and an object of {f.largest:.0%} of the image: its background is taken for an object"
        yield Issue(f.place, problem, "warning", "set the background to 0", "background")


def _issue_of_parts(facts: LabelFacts, *, fault: bool) -> Issue:
    if not fault:
        problem = f"has {facts.num_split} of {facts.num_objects} numbers on several separate parts"
        remedy = "each number is taken for one object; draw the image to see whether it is"
        return Issue(facts.place, problem, "warning", remedy, "parts")
    what = f"one number, {facts.highest}, on" if facts.num_objects == 1 else "most of its numbers on"
    problem = f"has {what} several separate parts: one mask, or a map of classes, where each object needs a number"
    remedy = "number the parts, for example with skimage.measure.label"
    return Issue(facts.place, problem, remedy=remedy, kind="one mask for all")
