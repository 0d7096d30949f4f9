"""COCO's average precision (AP) of detections, computed by pycocotools.

Shapes of its arrays: T IoU thresholds, R recalls, K categories, A ranges of areas, M limits of detections.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import read_results
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.validators import choice, optional, positive_int

from .coco_results import KEYS, bbox_of, check_masks, check_results, complete
from .fast_coco import fast_evaluator

__all__ = ["Precision", "average_precision", "coco_average_precision", "require_pycocotools"]

SIZES = {"s": "small, under 32² pixels", "m": "medium, from 32² to 96² pixels", "l": "large, from 96² pixels on"}


@answers_wrong_calls
def coco_average_precision(
    annotations: str | Path | Mapping[str, Any],
    results: str | Path | Sequence[Mapping[str, Any]],
    *,
    iou_type: str = "segm",
    max_detections: int | None = None,
) -> dict[str, float]:
    """Compute COCO's average precision, with pycocotools.

    Parameters
    ----------
    annotations : str, Path or mapping
        COCO annotations, or the JSON file of them. Every image in them counts, with results or not.
    results : str, Path or sequence of mapping
        COCO results, or the JSON file of them: ``image_id``, ``category_id``, ``score`` and ``segmentation`` (RLE) or
        ``bbox`` (x, y, width, height), as ``Detections.to_coco`` returns them. May be empty. Without a ``bbox`` boxes
        are those around the masks.
    iou_type : {"segm", "bbox"}
        Whether masks or boxes are compared.
    max_detections : int, optional
        At most so many detections of an image and category count, those with the highest scores; by default all of
        them. COCO's own limit is 100.

    Returns
    -------
    dict of str to float
        ``AP`` (mean over IoU 0.50 to 0.95), ``AP50``, ``AP75``, and ``APs``, ``APm``, ``APl`` for objects
        under 32², under 96² and from 96² pixels on. From 0 to 1; -1 where the annotations have no
        object of that size, as in pycocotools.

    Raises
    ------
    ImportError
        If pycocotools is not installed.
    TypeError, ValueError
        If an argument is not as above, an annotation or result lacks a key, or a result is of an image or category
        that the annotations do not have.

    Notes
    -----
    The area of a detected mask is that of the mask, as in detectron2, even if the results have boxes
    too; pycocotools' ``loadRes`` would use the box's. Annotations get new ids: pycocotools treats id 0 as a
    missing annotation.
    """
    iou_type = choice("iou_type", iou_type, tuple(KEYS))
    max_detections = optional(positive_int)("max_detections", max_detections)
    require_pycocotools()
    truth, detections = complete(annotations, [iou_type]), read_results(results)
    check_results(truth, detections, [iou_type])
    if iou_type == "segm":
        check_masks(truth, detections)
    limit = max(len(detections), 1) if max_detections is None else max_detections
    found = average_precision(truth, detections, iou_type, [limit]).metrics(0)
    return {name: -1.0 if np.isnan(value) else value for name, value in found.items() if name != "AR"}


def require_pycocotools() -> None:
    """Raise ``ImportError`` with the command that installs pycocotools, if it is missing."""
    try:
        import pycocotools.coco
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise ImportError("Average precision needs pycocotools: pip install 'lucid-maskrcnn[coco]'.") from error


@dataclass(frozen=True)
class Precision:
    """Precision and recall, as pycocotools accumulates them.

    Attributes
    ----------
    precision : ndarray of shape (T, R, K, A, M)
        At 101 recalls; -1 where there is no object.
    recall : ndarray of shape (T, K, A, M)
        The highest; -1 where there is no object.
    category_ids : list of int
        Ids of the K categories, in the order of the axis.
    """

    precision: np.ndarray
    recall: np.ndarray
    category_ids: list[int]

    __repr__ = fields_repr

    def metrics(self, limit: int, category_id: int | None = None) -> dict[str, float]:
        """Return AP and AR at one limit of detections; NaN where there is no object.

        Parameters
        ----------
        limit : int
            Index of the limit.
        category_id : int, optional
            By default the mean over all categories that have objects.
        """
        k = None if category_id is None else self.category_ids.index(category_id)
        some = slice(None) if k is None else slice(k, k + 1)
        precision = self.precision[:, :, some, :, limit]  # (T, R, K, A)
        return {
            "AP": _mean(precision[..., 0]),
            "AP50": _mean(precision[0, ..., 0]),
            "AP75": _mean(precision[5, ..., 0]),
            **{f"AP{size}": _mean(precision[..., a]) for a, size in enumerate(SIZES, start=1)},
            "AR": _mean(self.recall[:, some, 0, limit]),
        }


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def average_precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], iou_type: str, limits: Sequence[int]
) -> Precision:
    """Run pycocotools.

    Parameters
    ----------
    truth : mapping
        What :func:`~lucid_maskrcnn.evaluation.coco_results.complete` returns.
    results : sequence of mapping
        Checked.
    iou_type : {"segm", "bbox"}
    limits : sequence of int
        In ascending order: at most so many detections of an image and category count.
    """
    from pycocotools.coco import COCO

    # pycocotools writes into what it is given, so it gets copies.
    objects = [{**annotation, "id": i} for i, annotation in enumerate(truth["annotations"], start=1)]
    found = _as_annotations(truth, results, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):  # it also reports its progress
        sets = []
        for annotations in (objects, found):
            coco = COCO()
            coco.dataset = {**truth, "annotations": annotations}
            coco.createIndex()
            sets.append(coco)
        evaluation = fast_evaluator(*sets, iou_type=iou_type)
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    # Not summarize(), which looks for limits of 1, 10 and 100.
    arrays = evaluation.eval
    return Precision(arrays["precision"], arrays["recall"], list(evaluation.params.catIds))


def _as_annotations(
    truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], iou_type: str
) -> list[dict[str, Any]]:
    """Return results with the keys that only annotations have: id, area and iscrowd."""
    from pycocotools import mask as mask_utils

    images = {image["id"]: image for image in truth["images"]}
    objects = []
    for i, result in enumerate(results, start=1):
        shape: Any
        if iou_type == "segm":
            shape = _compressed(result["segmentation"], images[result["image_id"]])
            area = float(mask_utils.area(shape))
        else:
            shape = bbox_of(result, images[result["image_id"]])
            area = shape[2] * shape[3]
        common = {name: result[name] for name in ("image_id", "category_id", "score")}
        objects.append({**common, KEYS[iou_type]: shape, "id": i, "area": area, "iscrowd": 0})
    return objects


def _compressed(segmentation: Any, image: Mapping[str, Any]) -> Any:
    """Return a run-length encoding in the compressed form that pycocotools wants for results."""
    if isinstance(segmentation, Mapping) and isinstance(segmentation.get("counts"), (str, bytes)):
        return segmentation
    return CompressedMasks.from_coco([segmentation], (image["height"], image["width"])).to_rle()[0]
