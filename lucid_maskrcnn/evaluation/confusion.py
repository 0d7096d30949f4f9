"""The confusion matrix of detections: which categories are taken for which, missed, or seen where nothing is.

Shapes: K categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucid_maskrcnn.reprs import fields_repr

from .accuracy import overlaps
from .coco_results import by_image
from .instance_matching import match_objects

__all__ = ["ConfusionMatrix", "confusion_matrix"]

BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """How many objects of each category were found as each category.

    Attributes
    ----------
    counts : ndarray of shape (K + 1, K + 1), int64
        Rows are the categories of the objects, columns those of the detections. The last row counts detections without
        an object, the last column objects without a detection.
    names : tuple of str, of length K + 1
        The last is ``"background"``.
    iou_thresh, score_thresh : float
        Masks of pairs have at least this IoU, detections at least this score.
    """

    __repr__ = fields_repr

    counts: np.ndarray
    names: tuple[str, ...]
    iou_thresh: float
    score_thresh: float

    @property
    def fractions(self) -> np.ndarray:
        """Fractions of each row's objects, (K + 1, K + 1); rows without any are 0."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)


def confusion_matrix(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], iou_thresh: float, score_thresh: float
) -> ConfusionMatrix:
    """Return the matrix of checked annotations and results with masks; see :meth:`Evaluation.confusion_matrix`."""
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    row_of = {category["id"]: i for i, category in enumerate(categories)}
    background = len(categories)
    counts = np.zeros((background + 1, background + 1), np.int64)
    objects = by_image(truth["annotations"], truth["images"])
    found = by_image(results, truth["images"])
    for image in truth["images"]:
        overlap = overlaps(image, objects[image["id"]], found[image["id"]], score_thresh)
        # Right categories first: what a wrong one overlaps as well is not an error of the right one.
        pairs = overlap.pairs(iou_thresh)
        rest = overlap.any_iou.copy()
        rest[[d for d, _ in pairs]] = 0
        rest[:, [g for _, g in pairs]] = 0
        in_crowd = overlap.in_crowd(pairs, iou_thresh)
        rest[in_crowd] = 0
        pairs = [*pairs, *match_objects(rest, iou_thresh)]
        of_detections = [row_of[i] for i in overlap.detection_ids.tolist()]
        of_objects = [row_of[i] for i in overlap.object_ids.tolist()]
        for d, g in pairs:
            counts[of_objects[g], of_detections[d]] += 1
        for d in set(range(len(of_detections))) - {d for d, _ in pairs} - set(in_crowd):
            counts[background, of_detections[d]] += 1
        for g in set(range(len(of_objects))) - {g for _, g in pairs}:
            counts[of_objects[g], background] += 1
    names = tuple(str(category.get("name", category["id"])) for category in categories)
    return ConfusionMatrix(counts, (*names, BACKGROUND), iou_thresh, score_thresh)
