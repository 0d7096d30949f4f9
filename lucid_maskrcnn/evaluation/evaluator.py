"""From a model and a data set, or from results, to the metrics."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lucid_maskrcnn.validators import positive_int

from .accuracy import instance_accuracy, match_images
from .average_precision import Precision, average_precision, require_pycocotools
from .coco_results import KEYS, check_results, complete, have_masks, read_results
from .ground_truth import GroundTruth
from .result import CategoryMetrics, Evaluation, explain

__all__ = ["evaluate", "evaluate_results"]

_USUAL = 100  # detections an image, COCO's limit


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
    """Run a model over a data set, one image at a time, and measure what it finds.

    Parameters
    ----------
    model : MaskRCNN
        Or any object with such a ``predict``. Its mode makes no difference.
    dataset : sequence of (image, target)
        A :class:`~lucid_maskrcnn.data.CocoInstances`, ``LabelImages`` or ``Subset``, whose ``coco()`` has crowds
        and what the file says besides; or any sequence of pairs as ``get_loss`` takes them, best with
        ``categories``, ``category_ids``, ``image_ids`` and ``file_names``.
    top_k : int, optional
        At most so many detections of an image; by default the model's own setting. Where images have more objects,
        no more of them can be found. COCO's metrics count all of them, and the best 100 besides if there are more.
    score_thresh : float
        Detections score more than this.
    iou_types : sequence of {"segm", "bbox"}
        What COCO's average precision compares, masks or boxes. None of it, ``()``, needs no pycocotools.
    object_score : float
        Detections count for AP_t from this score on.
    group_by : str
        A key that images have in the annotations, such as ``"kind"``: AP_t is given for each of its values too.
    category_ids : mapping of int to int, optional
        The model's label -> category id. By default labels are taken as they are if model and data have the same
        table of names, else names decide; detections of other categories than the data's are left out.
    progress : bool
        Whether to show a progress bar on a terminal.

    Returns
    -------
    Evaluation

    Raises
    ------
    ImportError
        If ``iou_types`` needs pycocotools and it is not installed.
    ValueError
        If an argument is not as above, or the categories do not fit.

    Notes
    -----
    AP_t is TP / (TP + FP + FN) after a one-to-one matching of detections and objects of a category with an IoU of
    their masks of t at least, by as many pairs as there can be: see :mod:`lucid_maskrcnn.evaluation.accuracy`.
    """
    top_k = _own_top_k(model) if top_k is None else top_k
    _check("top_k", top_k, iou_types)
    if not score_thresh <= object_score:
        raise ValueError(
            f"object_score must be score_thresh at least, got {object_score} and {score_thresh}: detections that "
            "are not asked for cannot count."
        )
    ground_truth = GroundTruth(dataset, model)
    ids = ground_truth.category_ids_of(model) if category_ids is None else ground_truth.checked(category_ids)
    results: list[dict[str, Any]] = []
    for i in _shown(range(len(dataset)), progress):
        image, target = dataset[i]
        (found,) = model.predict(image, score_thresh=score_thresh, top_k=top_k)
        ground_truth.collect(i, target, found.image_size)
        named = [(ids.get(result["category_id"]), result) for result in found.to_coco(ground_truth.image_ids[i])]
        results += [{**result, "category_id": number} for number, result in named if number is not None]
    options = {
        "top_k": top_k,
        "max_detections": top_k,
        "score_thresh": score_thresh,
        "iou_types": list(iou_types),
        "object_score": object_score,
        "group_by": group_by,
    }
    return _measure(ground_truth.truth(), results, options, ground_truth.notes(model, ids))


def evaluate_results(
    annotations: str | Path | Mapping[str, Any],
    results: str | Path | Sequence[Mapping[str, Any]],
    *,
    max_detections: int = 100,
    iou_types: Sequence[str] = ("segm", "bbox"),
    object_score: float = 0.5,
    group_by: str = "kind",
) -> Evaluation:
    """Measure detections that are there already.

    Parameters
    ----------
    annotations : str, Path or mapping
        COCO annotations, or the JSON file of them. Every image in them counts, with results or not.
    results : str, Path or sequence of mapping
        COCO results, or the JSON file of them: ``image_id``, ``category_id``, ``score`` and ``segmentation`` or
        ``bbox`` or both, as ``Detections.to_coco`` and ``lucid-maskrcnn evaluate --out`` give them.
    max_detections : int
        The best so many of an image and category count for COCO's metrics. AP_t counts all.
    iou_types, object_score, group_by
        As for :func:`evaluate`. AP_t is there if all annotations and results have masks.

    Returns
    -------
    Evaluation

    Raises
    ------
    ImportError
        If ``iou_types`` needs pycocotools and it is not installed.
    ValueError
        If an argument is not as above, a result lacks a key, or it is of an image or category that the annotations do
        not have.
    """
    _check("max_detections", max_detections, iou_types)
    found = list(read_results(results))
    truth = complete(annotations, iou_types)
    options = {
        "max_detections": max_detections,
        "iou_types": list(iou_types),
        "object_score": object_score,
        "group_by": group_by,
    }
    return _measure(truth, found, options, [])


def _own_top_k(model: Any) -> int:
    return int(getattr(getattr(model, "head_settings", None), "top_k", _USUAL))


def _check(name: str, limit: Any, iou_types: Sequence[str]) -> None:
    positive_int(name, limit)
    if isinstance(iou_types, str) or not set(iou_types) <= set(KEYS):
        raise ValueError(f"iou_types must be some of 'segm' and 'bbox', got {iou_types!r}.")
    if iou_types:
        require_pycocotools()


def _shown(numbers: range, progress: bool) -> Iterable[int]:
    if not progress or not sys.stderr.isatty():
        return numbers
    from tqdm import tqdm

    return tqdm(numbers, desc="evaluate", unit="image", file=sys.stderr, dynamic_ncols=True, leave=False)


# ------------------------------------------------------------------ the metrics


def _measure(
    truth: dict[str, Any],
    results: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
    notes: Sequence[str],
) -> Evaluation:
    kinds = [name for name in KEYS if name in options["iou_types"]]
    check_results(truth, results, kinds)
    images = None
    if have_masks(truth, results):
        images = match_images(truth, results, options["object_score"], options["group_by"])
    limits = sorted({min(_USUAL, options["max_detections"]), options["max_detections"]})
    precisions = {kind: average_precision(truth, results, kind, limits) for kind in kinds}
    metrics = _precision_metrics(precisions, len(limits))
    whole, groups = None, {}
    if images is not None:
        whole = instance_accuracy(images)
        metrics |= whole.metrics()
        names = dict.fromkeys(image.group for image in images if image.group is not None)
        groups = {name: instance_accuracy([i for i in images if i.group == name]) for name in names}
    return Evaluation(
        metrics=metrics,
        instance_accuracy=whole,
        per_group=groups,
        per_category=_per_category(truth, results, precisions),
        per_image=tuple(images or ()),
        options=options,
        notes=(*notes, *explain(metrics, truth, results, options)),
        truth=truth,
        results=tuple(results),
    )


def _precision_metrics(precisions: Mapping[str, Precision], num_limits: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for kind, precision in precisions.items():
        metrics |= {f"{kind}/{name}": value for name, value in precision.metrics(num_limits - 1).items()}
    if num_limits > 1:  # those that others report, too
        for kind, precision in precisions.items():
            usual = precision.metrics(0)
            metrics |= {f"{kind}/{name}@{_USUAL}": usual[name] for name in ("AP", "AP50", "AP75")}
    return metrics


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
