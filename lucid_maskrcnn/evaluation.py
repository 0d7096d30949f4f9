"""COCO's average precision of detections."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["coco_average_precision"]

_KEYS = {"segm": "segmentation", "bbox": "bbox"}


def coco_average_precision(
    annotations: str | Path | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    iou_type: str = "segm",
    max_detections: int = 100,
) -> dict[str, float]:
    """Compute COCO's average precision, with pycocotools.

    Parameters
    ----------
    annotations : str, Path or mapping
        COCO annotations, or the JSON file of them. Every image in them counts, with results or not.
    results : sequence of mapping
        COCO results: ``image_id``, ``category_id``, ``score`` and ``segmentation`` (RLE) or ``bbox``
        (x, y, width, height), as ``Detections.to_coco`` returns them. May be empty.
    iou_type : {"segm", "bbox"}
        Whether masks or boxes are compared.
    max_detections : int
        The best so many of an image and category count. COCO's figure has 100; images with more
        objects than that need more.

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
    ValueError
        If a result lacks a key, or names an image or category that the annotations do not have.

    Notes
    -----
    The size of a detected mask is that of the mask, as in detectron2, even if the results hold boxes
    too; pycocotools' ``loadRes`` would take the box's.
    """
    if iou_type not in _KEYS:
        raise ValueError(f"iou_type must be 'segm' or 'bbox', got {iou_type!r}.")
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}.")
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("Average precision needs pycocotools: pip install 'lucid-maskrcnn[coco]'.") from error

    if isinstance(annotations, Mapping):
        data = annotations
    else:
        data = json.loads(Path(annotations).read_text())
    _check_results(data, results, _KEYS[iou_type])
    # pycocotools writes into what it is given, so it gets copies.
    truth = [{"iscrowd": 0, **a} for a in data["annotations"]]
    found = _as_annotations(results, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):  # it also reports its progress
        sets = []
        for objects in (truth, found):
            coco = COCO()
            coco.dataset = {**data, "annotations": objects}
            coco.createIndex()
            sets.append(coco)
        evaluation = COCOeval(*sets, iou_type)
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    # Not summarize(), which looks for limits of 1, 10 and 100. Here: (IoU, recall, category, size).
    precision = evaluation.eval["precision"][..., 0]
    return {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[0, ..., 0]),
        "AP75": _mean(precision[5, ..., 0]),
        "APs": _mean(precision[..., 1]),
        "APm": _mean(precision[..., 2]),
        "APl": _mean(precision[..., 3]),
    }


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]  # -1 marks categories without objects
    return float(known.mean()) if known.size else -1.0


def _check_results(annotations: Mapping[str, Any], results: Iterable[Mapping[str, Any]], key: str) -> None:
    known = {
        "image_id": {image["id"] for image in annotations["images"]},
        "category_id": {category["id"] for category in annotations["categories"]},
    }
    for i, result in enumerate(results):
        missing = [name for name in (*known, "score", key) if name not in result]
        if missing:
            raise ValueError(f"results[{i}] has no {missing[0]!r}: it has {list(result)}.")
        for name, ids in known.items():
            if result[name] not in ids:
                raise ValueError(
                    f"results[{i}] has {name} {result[name]!r}, which the annotations do not have: they are "
                    "of another data set, or labels were not turned back into category ids."
                )


def _as_annotations(results: Iterable[Mapping[str, Any]], iou_type: str) -> list[dict[str, Any]]:
    """Give results what annotations have besides: an id, an area, and that they are no crowds."""
    from pycocotools import mask as mask_utils

    objects = []
    for i, result in enumerate(results):
        shape = result[_KEYS[iou_type]]
        area = float(mask_utils.area(shape)) if iou_type == "segm" else float(shape[2] * shape[3])
        common = {name: result[name] for name in ("image_id", "category_id", "score")}
        objects.append({**common, _KEYS[iou_type]: shape, "id": i + 1, "area": area, "iscrowd": 0})
    return objects
