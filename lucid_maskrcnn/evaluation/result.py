"""The result of an evaluation: metrics, tables, and why a metric is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lucid_maskrcnn.atomic import write_json
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.plotting import plot_path
from lucid_maskrcnn.reprs import described, fields_repr
from lucid_maskrcnn.text_tables import align_columns, printable
from lucid_maskrcnn.validators import choice, fraction, non_negative_int, open_fraction
from lucid_maskrcnn.validators import path as path_of

from .accuracy import MEAN, THRESHOLDS, ImageMetrics, InstanceAccuracy
from .average_precision import SIZES, Precision
from .confusion import ConfusionMatrix, confusion_matrix
from .evaluation_plots import plot_confusion, plot_precision_recall, plot_thresholds
from .score_thresholds import ThresholdCurve, threshold_curve

__all__ = ["CategoryMetrics", "Evaluation", "explain"]

_NONE = "–"
_KINDS = {"segm": "masks", "bbox": "boxes"}
_PRECISION = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
_SHOWN_THRESHOLDS = (0, 2, 4, 6, 8)  # 0.5, 0.6 … 0.9: all ten would make lines too wide


@dataclass(frozen=True)
class CategoryMetrics:
    """Metrics of one category.

    Attributes
    ----------
    category_id : int
        Id of the category in the data set.
    name : str
        Name of the category.
    num_objects, num_detections : int
        Without crowds.
    metrics : dict of str to float
        ``"segm/AP"``, ``"segm/AP50"``, ``"segm/AP75"`` and the same of ``"bbox"``; NaN without objects.
    """

    __repr__ = fields_repr

    category_id: int
    name: str
    num_objects: int
    num_detections: int
    metrics: dict[str, float]


@answers_wrong_calls
@dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """How good detections are.

    Attributes
    ----------
    metrics : dict of str to float
        All metrics of the whole data set, from 0 to 1.

        ``"segm/AP"``, ``"bbox/AP"``
            COCO's average precision of masks and boxes, the mean over IoU 0.50 to 0.95; also ``AP50``, ``AP75``,
            ``APs``, ``APm``, ``APl`` (by size of the objects) and ``AR`` (average recall), of at most
            ``options["max_detections"]`` detections, which is ``top_k`` in :func:`evaluate`. If that is more than
            100, COCO's limit, also ``"segm/AP@100"`` and so on.
        ``"AP_0.5"`` … ``"AP_0.95"``, ``"AP_0.5:0.95"``
            TP / (TP + FP + FN) of all images together, and its mean over the thresholds.
        ``"images/AP_0.5"`` …
            The mean of the AP_t of the images.

        NaN where there is nothing to measure, as -1 in pycocotools: ``notes`` has the reason.
    instance_accuracy : InstanceAccuracy or None
        AP_t with its counts; None if masks are missing.
    per_group : dict of str to InstanceAccuracy
        One for each value of ``group_by``; empty if images have no such key.
    per_category : tuple of CategoryMetrics
        In the order of their ids.
    per_image : tuple of ImageMetrics
        In the order of the data set; empty if masks are missing.
    options : dict
        The limits and thresholds of the evaluation.
    notes : tuple of str
        Sentences that say why metrics are missing or low.
    truth : mapping
        The annotations, in COCO's format.
    results : tuple of mapping
        The detections, as COCO results.
    precisions : mapping of str to Precision
        pycocotools' arrays of ``"segm"`` and ``"bbox"``.

    See Also
    --------
    lucid_maskrcnn.evaluation.match_objects : how detections and objects are matched.
    """

    metrics: dict[str, float]
    instance_accuracy: InstanceAccuracy | None
    per_group: dict[str, InstanceAccuracy]
    per_category: tuple[CategoryMetrics, ...]
    per_image: tuple[ImageMetrics, ...]
    options: dict[str, Any]
    notes: tuple[str, ...]
    truth: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...]
    precisions: Mapping[str, Precision] = field(default_factory=dict)

    @described
    def __repr__(self) -> str:
        shown = ("segm/AP", "bbox/AP", "AP_0.5")
        metrics = ", ".join(f"{name} {self.metrics[name]:.3f}" for name in shown if name in self.metrics)
        return f"Evaluation({metrics})"

    def __str__(self) -> str:
        return "\n".join(self.table())

    def worst(self, k: int) -> list[ImageMetrics]:
        """Return the ``k`` images with the lowest AP_0.5; ties go to those with more objects."""
        return self._ranked(1)[: non_negative_int("k", k)]

    def best(self, k: int) -> list[ImageMetrics]:
        """Return the ``k`` images with the highest AP_0.5; ties go to those with more objects."""
        return self._ranked(-1)[: non_negative_int("k", k)]

    def _ranked(self, sign: int) -> list[ImageMetrics]:
        scored = [image for image in self.per_image if not math.isnan(image.score)]
        return sorted(scored, key=lambda i: (sign * i.score, sign * i.mean_ap, -i.num_objects))

    # -------------------------------------------------------------- curves and confusion

    def threshold_curve(self, iou_thresh: float = 0.5, *, category_id: int | None = None) -> ThresholdCurve:
        """Return precision, recall, F1 and AP_t at each score threshold, to choose one.

        Parameters
        ----------
        iou_thresh : float
            Of masks, for a detection to be right.
        category_id : int, optional
            Of one category; by default all together.

        Returns
        -------
        ThresholdCurve
            Below ``options["score_thresh"]`` there are no detections.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or masks are missing.
        """
        self._need_masks("threshold_curve()")
        ids = [category["id"] for category in self.truth["categories"]]
        if category_id is not None:
            choice("category_id", category_id, ids)
        return threshold_curve(self.truth, self.results, open_fraction("iou_thresh", iou_thresh), category_id)

    def confusion_matrix(self, iou_thresh: float = 0.5, *, score_thresh: float | None = None) -> ConfusionMatrix:
        """Return how many objects of each category were found as each category.

        Pairs of the same category are made first, then of what is left those of any category.

        Parameters
        ----------
        iou_thresh : float
            Of masks, for a detection and an object to be a pair.
        score_thresh : float, optional
            Detections count if their score is at least this; by default ``options["object_score"]``.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or masks are missing.
        """
        self._need_masks("confusion_matrix()")
        score = self.options["object_score"] if score_thresh is None else fraction("score_thresh", score_thresh)
        return confusion_matrix(self.truth, self.results, open_fraction("iou_thresh", iou_thresh), score)

    def plot_thresholds(self, path: str | Path, *, iou_thresh: float = 0.5) -> None:
        """Plot :meth:`threshold_curve` to a ``.png``, ``.pdf`` or ``.svg`` file; needs matplotlib.

        Raises
        ------
        ImportError, TypeError, ValueError
            If matplotlib is not installed, an argument is not as above, or masks are missing.
        """
        file = plot_path("path", path)
        plot_thresholds(self.threshold_curve(iou_thresh), file)

    def plot_confusion(self, path: str | Path, *, iou_thresh: float = 0.5, score_thresh: float | None = None) -> None:
        """Plot :meth:`confusion_matrix` to a ``.png``, ``.pdf`` or ``.svg`` file; needs matplotlib.

        Raises
        ------
        ImportError, TypeError, ValueError
            If matplotlib is not installed, an argument is not as above, or masks are missing.
        """
        file = plot_path("path", path)
        plot_confusion(self.confusion_matrix(iou_thresh, score_thresh=score_thresh), file)

    def plot_precision_recall(self, path: str | Path, *, iou_type: str | None = None) -> None:
        """Plot COCO's precision against recall to a ``.png``, ``.pdf`` or ``.svg`` file; needs matplotlib.

        Parameters
        ----------
        path : str or Path
            The file to write; its suffix says the format.
        iou_type : {"segm", "bbox"}, optional
            By default the first that was evaluated.

        Raises
        ------
        ImportError, TypeError, ValueError
            If matplotlib is not installed, an argument is not as above, or COCO's average precision was not computed.
        """
        file = plot_path("path", path)
        if not self.precisions:
            raise ValueError("iou_type must be one that was evaluated, and none was: there is no average precision.")
        kind = choice("iou_type", next(iter(self.precisions)) if iou_type is None else iou_type, tuple(self.precisions))
        names = {category["id"]: str(category.get("name", category["id"])) for category in self.truth["categories"]}
        plot_precision_recall(self.precisions[kind], names, _KINDS[kind], file)

    def _need_masks(self, what: str) -> None:
        if self.instance_accuracy is None:
            raise ValueError(
                f"{what} needs masks in all annotations and results, and some have none: give them a segmentation."
            )

    # -------------------------------------------------------------- files and tables

    def to_json(self, path: str | Path) -> None:
        """Write all but annotations and detections to a JSON file, atomically; a missing metric is ``null``."""
        file = path_of("path", path)
        content = {
            "metrics": self.metrics,
            "instance_accuracy": None if self.instance_accuracy is None else _accuracy_row(self.instance_accuracy),
            "per_group": {name: _accuracy_row(group) for name, group in self.per_group.items()},
            "per_category": [asdict(category) for category in self.per_category],
            "per_image": [image.row() for image in self.per_image],
            "options": self.options,
            "notes": self.notes,
        }
        if self.instance_accuracy is not None:
            confusion = self.confusion_matrix()
            content["score_thresholds"] = self.threshold_curve().rows()
            content["confusion_matrix"] = {"names": confusion.names, "counts": confusion.counts.tolist()}
        write_json(file, _without_nan(content))

    def table(self) -> list[str]:
        """Return the metrics as lines of text."""
        blocks = [
            self._precision_table(),
            self._accuracy_table(),
            self._category_table() if len(self.per_category) > 1 else [],
            list(self.notes),
        ]
        return [printable(line) for block in blocks if block for line in (*block, "")][:-1]

    def _precision_table(self) -> list[str]:
        limit = self.options["max_detections"]
        rows: list[tuple[str, ...]] = [("COCO", *_PRECISION)]
        for kind, name in _KINDS.items():
            for at, end in (("", f", {limit} an image"), ("@100", ", 100 an image")):
                if f"{kind}/AP{at}" in self.metrics:
                    values = (self.metrics.get(f"{kind}/{column}{at}") for column in _PRECISION)
                    rows.append((name + end, *("" if v is None else _number(v) for v in values)))
        return align_columns(rows) if len(rows) > 1 else []

    def _accuracy_table(self) -> list[str]:
        if self.instance_accuracy is None:
            return []
        score = f"TP / (TP + FP + FN), score at least {self.options['object_score']:g}"
        thresholds = [f"AP_{THRESHOLDS[i]:g}" for i in _SHOWN_THRESHOLDS]
        rows: list[tuple[str, ...]] = [(score, "images", "objects", "TP_0.5", "FP_0.5", "FN_0.5", *thresholds, MEAN)]
        rows.append(_accuracy_line("all together", self.instance_accuracy, self.instance_accuracy.pooled))
        rows.append(("mean of the images", *[""] * 5, *_numbers(self.instance_accuracy.per_image)))
        rows += [_accuracy_line(f"  {name}", group, group.pooled) for name, group in self.per_group.items()]
        return align_columns(rows)

    def _category_table(self) -> list[str]:
        names = list(self.per_category[0].metrics)
        titles = [name.replace(kind, word) for name in names for kind, word in _KINDS.items() if kind in name]
        rows: list[tuple[str, ...]] = [("category", "objects", "detections", *titles)]
        for category in self.per_category:
            counts = str(category.num_objects), str(category.num_detections)
            rows.append((category.name, *counts, *(_number(category.metrics[name]) for name in names)))
        return align_columns(rows)


def explain(
    metrics: Mapping[str, float], truth: Mapping[str, Any], results: Sequence[Any], options: Mapping[str, Any]
) -> Iterable[str]:
    """Yield sentences that say why metrics are missing or low."""
    counts = Counter(a["image_id"] for a in truth["annotations"] if not a["iscrowd"])
    if "AP_0.5" not in metrics:
        yield "AP_t is missing: not all annotations and detections have masks."
    if not counts:
        yield "The annotations have no objects: there is nothing to find, and no average precision."
        return
    for size, words in SIZES.items():
        missing = [n for n in (f"segm/AP{size}", f"bbox/AP{size}") if math.isnan(metrics.get(n, 0))]
        if missing:
            yield f"{' and '.join(missing)} cannot be computed (pycocotools: -1): no object is {words}."
    limit = options["max_detections"]
    full = [n for n in counts.values() if n > limit]
    found = Counter((r["image_id"], r["category_id"]) for r in results)
    name = "top_k" if options.get("top_k") else "max_detections"
    if full and (name == "top_k" or max(found.values(), default=0) > limit):
        yield (
            f"{_images(full)} more objects than the {limit} detections that count, up to {max(full)}: "
            f"with a higher {name} more of them could be found."
        )
    outside = [r["score"] for r in results if not 0 <= r["score"] <= 1]
    if outside and "AP_0.5" in metrics:
        yield (
            f"{len(outside)} scores are not between 0 and 1, such as {outside[0]:g}: AP_t counts the detections with a "
            f"score of at least {options['object_score']:g}, which may not be those that are meant."
        )
    empty = [image for image in truth["images"] if image["id"] not in counts]
    if empty and "AP_0.5" in metrics:
        yield f"{_images(empty)} no objects: without detections too, they have no AP_t of their own."
    if not results:
        yield "Nothing was found in any image."
    elif metrics.get("segm/AP50", metrics.get("bbox/AP50", metrics.get("AP_0.5", 1))) == 0:
        yield "No detection overlaps an object: do the annotations belong to these images and categories?"


def _images(some: Sequence[Any]) -> str:
    return "1 image has" if len(some) == 1 else f"{len(some)} images have"


# ------------------------------------------------------------------ text


def _accuracy_line(name: str, group: InstanceAccuracy, values: Sequence[float]) -> tuple[str, ...]:
    counts = (group.num_images, group.num_objects, group.tp[0], group.fp[0], group.fn[0])
    return (name, *map(str, counts), *_numbers(values))


def _numbers(values: Sequence[float]) -> tuple[str, ...]:
    mean = math.fsum(values) / len(values)
    return (*(_number(values[i]) for i in _SHOWN_THRESHOLDS), _number(mean))


def _number(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.3f}"


def _accuracy_row(group: InstanceAccuracy) -> dict[str, Any]:
    return {
        "images": group.num_images,
        "objects": group.num_objects,
        "detections": group.num_detections,
        "thresholds": THRESHOLDS,
        "TP": group.tp,
        "FP": group.fp,
        "FN": group.fn,
        **group.metrics(),
    }


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
