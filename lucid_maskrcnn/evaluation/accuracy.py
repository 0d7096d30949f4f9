"""Instance accuracy AP_t = TP / (TP + FP + FN): the metric of the 2018 Data Science Bowl, StarDist and Cellpose.

The detections of an image whose score is at least ``object_score`` are matched one to one with its objects. A pair
has the same category, and masks with an IoU of at least t. TP is the number of pairs, FP that of the remaining
detections, FN that of the remaining objects.

The matching has as many pairs as possible. Where neither objects nor detections overlap among themselves, at most one
detection can have an IoU above 0.5 with an object, and there is only one matching for t > 0.5. Detections of Mask
R-CNN may overlap: a greedy matching by score or IoU may then miss a pair, and its metric depends on the order and can
rise with t. The largest number of pairs depends on the masks alone and never rises with t; StarDist and Cellpose
compute it too, as an assignment.

Crowds are not objects. An unmatched detection is not counted if a fraction of at least t of it lies within a crowd of
its category, as in COCO's evaluation.

Shapes: D detections, G objects of an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.reprs import fields_repr

from .coco_results import by_image, masks_of
from .instance_matching import mask_iou, match_objects

__all__ = ["THRESHOLDS", "ImageMetrics", "InstanceAccuracy", "instance_accuracy", "match_images"]

THRESHOLDS = tuple(n / 100 for n in range(50, 100, 5))
MEAN = "AP_0.5:0.95"  # name of the mean over the thresholds


@dataclass(frozen=True)
class ImageMetrics:
    """Counts of matched and unmatched detections and objects of one image.

    Attributes
    ----------
    image_id : int
        Id of the image in the data set.
    file_name : str
        As the data set calls the image; its id as text if it has none.
    group : str or None
        The image's value of ``group_by``, by default its ``"kind"``.
    num_objects, num_detections : int
        Without crowds, and without detections whose score is below ``object_score``.
    tp, fp, fn : tuple of int
        Pairs, unmatched detections and unmatched objects, at IoUs of 0.5, 0.55 … 0.95.
    """

    __repr__ = fields_repr

    image_id: int
    file_name: str
    group: str | None
    num_objects: int
    num_detections: int
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]

    @property
    def ap(self) -> tuple[float, ...]:
        """TP / (TP + FP + FN) at each threshold; NaN where there are neither objects nor detections."""
        return tuple(map(_ratio, self.tp, self.fp, self.fn))

    @property
    def score(self) -> float:
        """AP_0.5 of the image."""
        return self.ap[0]

    @property
    def mean_ap(self) -> float:
        """Mean of ``ap`` over the thresholds."""
        return _mean(self.ap)

    def row(self) -> dict[str, Any]:
        """Return its metrics by name."""
        return {
            "image_id": self.image_id,
            "file_name": self.file_name,
            "group": self.group,
            "objects": self.num_objects,
            "detections": self.num_detections,
            "AP_0.5": self.score,
            MEAN: self.mean_ap,
            "TP_0.5": self.tp[0],
            "FP_0.5": self.fp[0],
            "FN_0.5": self.fn[0],
        }


@dataclass(frozen=True)
class InstanceAccuracy:
    """Instance accuracy AP_t of a set of images.

    Attributes
    ----------
    num_images, num_objects, num_detections : int
        Sums of those of :class:`ImageMetrics`.
    tp, fp, fn : tuple of int
        Summed over the images, at IoUs of 0.5, 0.55 … 0.95.
    pooled : tuple of float
        TP / (TP + FP + FN) of the sums; NaN where all are 0.
    per_image : tuple of float
        Mean of the AP_t of the images; images without objects and detections have none and are left out.
    """

    __repr__ = fields_repr

    num_images: int
    num_objects: int
    num_detections: int
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    pooled: tuple[float, ...]
    per_image: tuple[float, ...]

    @property
    def mean_pooled(self) -> float:
        """Mean of ``pooled`` over the thresholds."""
        return _mean(self.pooled)

    @property
    def mean_per_image(self) -> float:
        """Mean of ``per_image`` over the thresholds: the score of the 2018 Data Science Bowl."""
        return _mean(self.per_image)

    def metrics(self) -> dict[str, float]:
        """Return ``pooled`` as ``"AP_0.5"`` and so on, and ``per_image`` as ``"images/AP_0.5"``."""
        names = [*(f"AP_{t:g}" for t in THRESHOLDS), MEAN]
        pooled = zip(names, [*self.pooled, self.mean_pooled], strict=True)
        per_image = zip(names, [*self.per_image, self.mean_per_image], strict=True)
        return {**dict(pooled), **{f"images/{name}": value for name, value in per_image}}


def instance_accuracy(images: Sequence[ImageMetrics]) -> InstanceAccuracy:
    """Return the instance accuracy of some images together."""
    tp, fp, fn = (tuple(map(sum, zip(*(getattr(i, name) for i in images), strict=True))) for name in ("tp", "fp", "fn"))
    none = (0,) * len(THRESHOLDS)
    tp, fp, fn = tp or none, fp or none, fn or none
    each = [image.ap for image in images if not math.isnan(image.score)]
    return InstanceAccuracy(
        num_images=len(images),
        num_objects=sum(image.num_objects for image in images),
        num_detections=sum(image.num_detections for image in images),
        tp=tp,
        fp=fp,
        fn=fn,
        pooled=tuple(map(_ratio, tp, fp, fn)),
        per_image=tuple(map(_mean, zip(*each, strict=True))) if each else (math.nan,) * len(THRESHOLDS),
    )


def match_images(
    truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], object_score: float, group_by: str
) -> list[ImageMetrics]:
    """Match detections and objects of each image, and count the pairs.

    Parameters
    ----------
    truth : mapping
        What :func:`lucid_maskrcnn.evaluation.coco_results.complete` returns.
    results : iterable of mapping
        COCO results with segmentations.
    object_score : float
        Detections with a lower score do not count.
    group_by : str
        Key of the images.
    """
    objects = by_image(truth["annotations"], truth["images"])
    found = by_image(results, truth["images"])
    grouped = any(group_by in image for image in truth["images"])
    return [
        _compare_image(
            overlaps(image, objects[image["id"]], found[image["id"]], object_score),
            image,
            str(image.get(group_by, "none")) if grouped else None,
        )
        for image in truth["images"]
    ]


def _compare_image(overlap: Overlap, image: Mapping[str, Any], group: str | None) -> ImageMetrics:
    num_detections, num_objects = overlap.iou.shape
    pairs = [overlap.pairs(t) for t in THRESHOLDS]
    tp = [len(some) for some in pairs]
    in_crowd = [len(overlap.in_crowd(some, t)) for some, t in zip(pairs, THRESHOLDS, strict=True)]
    return ImageMetrics(
        image_id=image["id"],
        file_name=str(image.get("file_name", image["id"])),
        group=group,
        num_objects=num_objects,
        num_detections=num_detections,
        tp=tuple(tp),
        fp=tuple(num_detections - hits - others for hits, others in zip(tp, in_crowd, strict=True)),
        fn=tuple(num_objects - hits for hits in tp),
    )


@dataclass(frozen=True)
class Overlap:
    """The overlap of detections and objects of an image.

    Attributes
    ----------
    detections, objects : CompressedMasks
        Those that count, D and G masks.
    iou : ndarray of shape (D, G)
        0 where categories differ.
    crowd_fraction : ndarray of shape (D,)
        The largest fraction of each detection that lies within one crowd of its category.
    any_iou : ndarray of shape (D, G)
        The IoU whatever the categories are.
    scores, detection_ids, object_ids : ndarray of shape (D,), (D,), (G,)
        Scores of the detections, and category ids of both.
    """

    detections: CompressedMasks
    objects: CompressedMasks
    iou: np.ndarray
    crowd_fraction: np.ndarray
    any_iou: np.ndarray
    scores: np.ndarray
    detection_ids: np.ndarray
    object_ids: np.ndarray

    def pairs(self, thresh: float) -> list[tuple[int, int]]:
        """Return the pairs (detection, object) whose IoU is at least ``thresh``."""
        return match_objects(self.iou, thresh)

    def in_crowd(self, pairs: Sequence[tuple[int, int]], thresh: float) -> list[int]:
        """Return the unmatched detections that are not counted because they lie within a crowd."""
        taken = {d for d, _ in pairs}
        return [d for d in np.flatnonzero(self.crowd_fraction >= thresh).tolist() if d not in taken]


def overlaps(
    image: Mapping[str, Any],
    objects: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    object_score: float,
) -> Overlap:
    """Compute the overlap of an image's results with its annotations.

    Raises
    ------
    ValueError
        If a segmentation is malformed or of another size than the image.
    """
    masks, detections = masks_of(image, "annotations", objects), masks_of(image, "results", found)
    crowd = np.array([bool(o["iscrowd"]) for o in objects], bool)
    counts = np.array([d["score"] >= object_score for d in found], bool)
    any_iou = mask_iou(detections, masks, crowd)[counts]
    ids, of_found = (np.array([o["category_id"] for o in some], np.int64) for some in (objects, found))
    of_found = of_found[counts]
    iou = np.where(of_found[:, None] == ids, any_iou, 0)
    return Overlap(
        detections[counts],
        masks[~crowd],
        iou[:, ~crowd],
        iou[:, crowd].max(axis=1, initial=0),
        any_iou=any_iou[:, ~crowd],
        scores=np.array([d["score"] for d in found], np.float64)[counts],
        detection_ids=of_found,
        object_ids=ids[~crowd],
    )


def _ratio(tp: int, fp: int, fn: int) -> float:
    total = tp + fp + fn
    return tp / total if total else math.nan


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)
