"""How good detections are: COCO's average precision, and TP / (TP + FP + FN), as it is used in microscopy.

:func:`evaluate` runs a model over a data set, :func:`evaluate_results` takes detections that are there already;
both give an :class:`Evaluation`.
"""

from .agreement import Agreement
from .matching import mask_iou, match_objects
from .outcome import CategoryFigures, Evaluation, ImageFigures
from .precision import coco_average_precision
from .running import evaluate, evaluate_results
from .sheets import contact_sheet

__all__ = [
    "Agreement",
    "CategoryFigures",
    "Evaluation",
    "ImageFigures",
    "coco_average_precision",
    "contact_sheet",
    "evaluate",
    "evaluate_results",
    "mask_iou",
    "match_objects",
]
