"""Precision, recall, F1 and instance accuracy as functions of the score threshold: which one to choose.

Detections and objects are matched as for :mod:`lucid_maskrcnn.evaluation.accuracy`, with as many pairs as possible
among the detections above each threshold. Adding detections one by one, the best first, a matching is enlarged along
augmenting paths and no detection ever loses its partner: each is right or wrong at all thresholds below its score.

Shapes: S thresholds, D detections, G objects of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucid_maskrcnn.reprs import fields_repr

from .accuracy import overlaps
from .coco_results import by_image
from .instance_matching import right_in_order

__all__ = ["ThresholdCurve", "threshold_curve"]

_THRESHOLDS = np.arange(101) / 100


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """Right and wrong detections, and missed objects, at each score threshold.

    Attributes
    ----------
    iou_thresh : float
        A detection is right if it is matched with an object of its category with at least this IoU of masks.
    thresholds : ndarray of shape (S,)
        0, 0.01, … 1: detections count whose score is above this, as in ``predict(score_thresh=)``.
    tp, fp, fn : ndarray of shape (S,), int64
        Matched and unmatched detections, and unmatched objects, of all images.
    """

    __repr__ = fields_repr

    iou_thresh: float
    thresholds: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """TP / (TP + FP), (S,); NaN where there are no detections."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> np.ndarray:
        """TP / (TP + FN), (S,); NaN without objects."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN), (S,)."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> np.ndarray:
        """AP_t, TP / (TP + FP + FN), (S,)."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def best(self) -> float:
        """The score threshold with the highest F1, which has the highest AP_t, too; NaN without objects."""
        return math.nan if np.isnan(self.f1).all() else float(self.thresholds[np.nanargmax(self.f1)])

    def sentence(self) -> str:
        """Return the best threshold and what it gives, in words."""
        if math.isnan(self.best):
            return "There is no best score threshold: the annotations have no objects, and nothing was found."
        i = int(np.nanargmax(self.f1))
        precision = "no detections" if np.isnan(self.precision[i]) else f"precision {self.precision[i]:.3f}"
        recall = "no objects" if np.isnan(self.recall[i]) else f"recall {self.recall[i]:.3f}"
        return (
            f"Best score threshold: {self.best:g}, with F1 {self.f1[i]:.3f}, {precision}, {recall} (masks, IoU "
            f"{self.iou_thresh:g})."
        )

    def rows(self) -> list[dict[str, float]]:
        """Return the curve as a table: one mapping a threshold."""
        columns = {
            "score_thresh": self.thresholds,
            "TP": self.tp,
            "FP": self.fp,
            "FN": self.fn,
            "precision": self.precision,
            "recall": self.recall,
            "F1": self.f1,
            f"AP_{self.iou_thresh:g}": self.accuracy,
        }
        names = list(columns)
        return [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def threshold_curve(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], iou_thresh: float, category_id: int | None
) -> ThresholdCurve:
    """Return the curve of checked annotations and results with masks; see :meth:`Evaluation.threshold_curve`."""
    objects = by_image(truth["annotations"], truth["images"])
    found = by_image(results, truth["images"])
    right_scores, wrong_scores, num_objects = [np.zeros(0)], [np.zeros(0)], 0
    for image in truth["images"]:
        annotated, detected = (
            [entry for entry in entries[image["id"]] if category_id in (None, entry["category_id"])]
            for entries in (objects, found)
        )
        overlap = overlaps(image, annotated, detected, object_score=-math.inf)
        order = np.argsort(-overlap.scores, kind="stable")
        right = np.zeros(len(order), bool)
        right[order] = right_in_order(overlap.iou[order], iou_thresh)
        wrong = ~right & (overlap.crowd_fraction < iou_thresh)  # in a crowd neither right nor wrong
        right_scores.append(overlap.scores[right])
        wrong_scores.append(overlap.scores[wrong])
        num_objects += len(overlap.objects)
    tp, fp = (_count_above(np.concatenate(scores)) for scores in (right_scores, wrong_scores))
    return ThresholdCurve(iou_thresh, _THRESHOLDS, tp, fp, num_objects - tp)


def _count_above(scores: np.ndarray) -> np.ndarray:
    """Count the scores above each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), _THRESHOLDS, side="right")
