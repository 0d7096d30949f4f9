"""Evaluating a model on a data set, or results that exist already: from detections to metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import read_results
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.config import ModelConfig
from lucid_maskrcnn.data.dataset import Dataset, check_dataset, load_pair
from lucid_maskrcnn.models.limits import Limits
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.streams import with_progress
from lucid_maskrcnn.validators import choice, flag, fraction, optional, positive_int, sequence, shown, text

from .accuracy import ImageMetrics, InstanceAccuracy, instance_accuracy, match_images
from .average_precision import Precision, average_precision, require_pycocotools
from .coco_results import KEYS, check_results, complete, have_masks
from .ground_truth import GroundTruth
from .result import CategoryMetrics, Evaluation, explain

__all__ = ["evaluate", "evaluate_results"]

_COCO_LIMIT = 100  # detections per image and category: COCO's own, which its metrics are also given at


@answers_wrong_calls
def evaluate(
    model: Any,
    dataset: Any,
    *,
    top_k: int | None = None,
    score_thresh: float = 0.05,
    iou_types: Sequence[str] = ("segm", "bbox"),
    object_score: float = 0.5,
    group_by: str = "kind",
    category_ids: Mapping[int, int] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run a model on a data set, one image at a time, and measure how good its detections are.

    Parameters
    ----------
    model : MaskRCNN
        Or any object with such a ``predict``. Whether it is in training mode makes no difference.
    dataset : sequence of (image, target)
        A :class:`~lucid_maskrcnn.data.CocoInstances`, ``LabelImages`` or ``Subset``, whose ``coco()`` includes crowds
        and further keys of the file; or any sequence of pairs as ``get_loss`` takes them, preferably with the
        attributes ``categories``, ``category_ids``, ``image_ids`` and ``file_names``.
    top_k : int, optional
        At most so many detections of an image; by default the model's own number. In images with more objects the
        rest cannot be found. All metrics count all of them; COCO's are also given of the best 100, its own limit, if
        there may be more.
    score_thresh : float
        Detections have a higher score than this.
    iou_types : sequence of {"segm", "bbox"}
        What COCO's average precision compares, masks or boxes. An empty one, ``()``, does not need pycocotools.
    object_score : float
        Detections count for AP_t if their score is at least this.
    group_by : str
        A key of the images in the annotations, such as ``"kind"``: AP_t is also computed for each of its values.
    category_ids : mapping of int to int, optional
        The model's label -> category id. By default labels are used unchanged if model and data set have the same
        categories, and are matched by name otherwise; detections of categories that the data set does not have are
        left out.
    progress : bool
        Whether to show a progress bar, on a terminal or in a notebook.

    Returns
    -------
    Evaluation

    Raises
    ------
    ImportError
        If ``iou_types`` needs pycocotools and it is not installed.
    TypeError, ValueError
        If an argument is not as above, or the categories of model and data set do not match.

    Warns
    -----
    UserWarning
        Once, if objects of some images could not be found because of a limit: ``top_k``, ``image.max_size`` or the
        numbers of proposals. The warning says which and what to set.

    Notes
    -----
    AP_t is TP / (TP + FP + FN) after a one-to-one matching of detections and objects of the same category whose masks
    have an IoU of at least t, with as many pairs as possible: see :func:`match_objects`.
    """
    check_dataset("dataset", dataset)
    if isinstance(model, type) or not callable(getattr(model, "predict", None)):
        given = f"the class {model.__name__}" if isinstance(model, type) else shown(model)
        raise TypeError(f"model must be a MaskRCNN or another object with a predict method, got {given}.")
    top_k = _top_k_of(model) if top_k is None else positive_int("top_k", top_k)
    score_thresh = fraction("score_thresh", score_thresh)
    common = _check_options(iou_types, object_score, group_by)
    if score_thresh > common["object_score"]:
        raise ValueError(
            f"object_score must be at least score_thresh, got {object_score} and {score_thresh}: detections that "
            "the model does not return cannot count."
        )
    progress = flag("progress", progress)
    ground_truth = GroundTruth(dataset, model)
    ids = ground_truth.label_ids(model, category_ids)
    ground_truth.read()  # all of it: a fault in the last target is found before the first prediction
    results = _detect(model, dataset, ground_truth, ids, score_thresh, top_k, progress)
    limit = _largest_number(results) if top_k is None else top_k
    options = {"top_k": top_k, "score_thresh": score_thresh, "max_detections": limit, **common}
    return _measure(ground_truth.coco(), results, options, ground_truth.notes(model, ids))


@answers_wrong_calls
def evaluate_results(
    annotations: str | Path | Mapping[str, Any],
    results: str | Path | Sequence[Mapping[str, Any]],
    *,
    max_detections: int | None = None,
    iou_types: Sequence[str] = ("segm", "bbox"),
    object_score: float = 0.5,
    group_by: str = "kind",
) -> Evaluation:
    """Measure how good existing detections are.

    Parameters
    ----------
    annotations : str, Path or mapping
        COCO annotations, or the JSON file of them. Every image in them counts, with results or not.
    results : str, Path or sequence of mapping
        COCO results, or the JSON file of them: ``image_id``, ``category_id``, ``score`` and ``segmentation`` or
        ``bbox`` or both, as ``Detections.to_coco`` and ``lucid-maskrcnn evaluate --out`` give them. Without a
        ``bbox`` boxes are those around the masks.
    max_detections : int, optional
        At most so many detections of an image and category count for COCO's metrics, those with the highest scores; by
        default all of them, and if they are more than 100, COCO's own limit, the metrics of the best 100 are given
        too. AP_t counts all.
    iou_types, object_score, group_by
        As for :func:`evaluate`. AP_t needs masks in all annotations and results.

    Returns
    -------
    Evaluation

    Raises
    ------
    ImportError
        If ``iou_types`` needs pycocotools and it is not installed.
    TypeError, ValueError
        If an argument is not as above, an annotation or result lacks a key, or a result is of an image or category
        that the annotations do not have.
    """
    max_detections = optional(positive_int)("max_detections", max_detections)
    options = _check_options(iou_types, object_score, group_by)
    detections = read_results(results)
    truth = complete(annotations, options["iou_types"])
    check_results(truth, detections, options["iou_types"])
    limit = _largest_number(detections) if max_detections is None else max_detections
    return _measure(truth, detections, {"max_detections": limit, **options}, [])


def _check_options(iou_types: Any, object_score: Any, group_by: Any) -> dict[str, Any]:
    """Return the options that both evaluations have."""
    kinds = sequence("iou_types", iou_types, lambda name, value: choice(name, value, tuple(KEYS)))
    if kinds:
        require_pycocotools()
    return {
        "iou_types": list(kinds),
        "object_score": fraction("object_score", object_score),
        "group_by": text("group_by", group_by),
    }


def _top_k_of(model: Any) -> int | None:
    """Return the model's own number of detections per image; None, if it has no configuration that says so."""
    config = getattr(model, "config", None)
    return config.heads.top_k if isinstance(config, ModelConfig) else None


def _largest_number(results: Sequence[Mapping[str, Any]]) -> int:
    """Return the limit of COCO's metrics that cuts nothing off: COCO's own, or the most of an image and category."""
    counts = Counter((result["image_id"], result["category_id"]) for result in results)
    return max(_COCO_LIMIT, *counts.values(), 1)


# ------------------------------------------------------------------ detections


def _detect(
    model: Any,
    dataset: Dataset,
    ground_truth: GroundTruth,
    ids: Mapping[int, int],
    score_thresh: float,
    top_k: int | None,
    progress: bool,
) -> list[dict[str, Any]]:
    """Return the model's detections in a data set as COCO results."""
    results: list[dict[str, Any]] = []
    with Limits() as limits:
        for i in with_progress(range(len(dataset)), len(dataset), progress, desc="evaluate", unit="image"):
            image, target = load_pair(dataset, i)
            limits.name = shown(ground_truth.file_names[i])
            (found,) = model.predict(image, score_thresh=score_thresh, top_k=top_k)
            if len(target["boxes"]) <= len(found):  # as many as there are objects: nothing that counts is cut off
                limits.full = [one for one in limits.full if one[0] != limits.name]
            known = found[np.isin(host(found.labels), list(ids))]
            results += known.to_coco(ground_truth.image_ids[i], category_ids=ids)
    return results


# ------------------------------------------------------------------ metrics


def _measure(
    truth: dict[str, Any],
    results: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
    notes: Sequence[str],
) -> Evaluation:
    kinds = [name for name in KEYS if name in options["iou_types"]]
    check_results(truth, results, kinds)
    images: list[ImageMetrics] = []
    whole = None
    if have_masks(truth, results):
        images = match_images(truth, results, options["object_score"], options["group_by"])
        whole = instance_accuracy(images)
    limits = sorted({min(_COCO_LIMIT, options["max_detections"]), options["max_detections"]})
    precisions = {kind: average_precision(truth, results, kind, limits) for kind in kinds}
    metrics = _precision_metrics(precisions, len(limits)) | ({} if whole is None else whole.metrics())
    return Evaluation(
        metrics=metrics,
        instance_accuracy=whole,
        per_group=_per_group(images),
        per_category=_per_category(truth, results, precisions),
        per_image=tuple(images),
        options=options,
        notes=(*notes, *explain(metrics, truth, results, options)),
        truth=truth,
        results=tuple(results),
        precisions=precisions,
    )


def _precision_metrics(precisions: Mapping[str, Precision], num_limits: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for kind, precision in precisions.items():
        metrics |= {f"{kind}/{name}": value for name, value in precision.metrics(num_limits - 1).items()}
    if num_limits > 1:  # also at COCO's limit, for comparison with what others report
        for kind, precision in precisions.items():
            usual = precision.metrics(0)
            metrics |= {f"{kind}/{name}@{_COCO_LIMIT}": usual[name] for name in ("AP", "AP50", "AP75")}
    return metrics


def _per_group(images: Sequence[ImageMetrics]) -> dict[str, InstanceAccuracy]:
    names = dict.fromkeys(image.group for image in images if image.group is not None)
    return {name: instance_accuracy([image for image in images if image.group == name]) for name in names}


def _per_category(
    truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], precisions: Mapping[str, Precision]
) -> tuple[CategoryMetrics, ...]:
    objects = Counter(a["category_id"] for a in truth["annotations"] if not a["iscrowd"])
    found = Counter(result["category_id"] for result in results)
    return tuple(
        CategoryMetrics(
            category_id=category["id"],
            name=str(category.get("name", category["id"])),
            num_objects=objects[category["id"]],
            num_detections=found[category["id"]],
            metrics={
                f"{kind}/{name}": value
                for kind, precision in precisions.items()
                for name, value in precision.metrics(-1, category["id"]).items()
                if name in ("AP", "AP50", "AP75")
            },
        )
        for category in sorted(truth["categories"], key=lambda category: category["id"])
    )
