"""How good detections are: COCO's average precision, and instance accuracy, TP / (TP + FP + FN), as in microscopy.

:func:`evaluate` runs a model on a data set, :func:`evaluate_results` takes existing detections; both return an
:class:`Evaluation`.
"""

from .accuracy import InstanceAccuracy
from .average_precision import Precision, coco_average_precision
from .confusion import ConfusionMatrix
from .contact_sheets import contact_sheet
from .evaluator import evaluate, evaluate_results
from .instance_matching import mask_iou, match_objects
from .result import CategoryMetrics, Evaluation, ImageMetrics
from .score_thresholds import ThresholdCurve

__all__ = [
    "CategoryMetrics",
    "ConfusionMatrix",
    "Evaluation",
    "ImageMetrics",
    "InstanceAccuracy",
    "Precision",
    "ThresholdCurve",
    "coco_average_precision",
    "contact_sheet",
    "evaluate",
    "evaluate_results",
    "mask_iou",
    "match_objects",
]
