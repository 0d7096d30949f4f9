"""From annotated images to training batches.

A data set is any sequence of (image, target) pairs; :class:`CocoInstances` and :class:`LabelImages` are two.
:class:`Augmentation` varies the pairs at random, :class:`Loader` makes batches of them, and :func:`validate` lists
what is wrong with a data set.
"""

from .augment import Augmentation, compose
from .coco_dataset import CocoInstances
from .conversion import Conversion, convert_data
from .issues import DataFaultError, Issue
from .label_image_dataset import LabelImages
from .loader import Batch, Loader, LoadingError
from .splitting import DataPart, split_coco
from .subsets import Subset, split
from .suggestions import Suggestions, suggest
from .validation import ValidatedImage, ValidationReport, validate

__all__ = [
    "Augmentation",
    "Batch",
    "CocoInstances",
    "Conversion",
    "DataFaultError",
    "DataPart",
    "Issue",
    "LabelImages",
    "Loader",
    "LoadingError",
    "Subset",
    "Suggestions",
    "ValidatedImage",
    "ValidationReport",
    "compose",
    "convert_data",
    "split",
    "split_coco",
    "suggest",
    "validate",
]
