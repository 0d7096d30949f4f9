"""From annotated pictures to the batches that training takes.

A data set is any sequence of (image, target) pairs; :class:`CocoInstances` and :class:`LabelImages` are two.
:class:`Augmentation` varies them, :class:`Loader` makes batches, and :func:`check` lists what is wrong.
"""

from .augment import Augmentation, compose
from .coco_dataset import CocoInstances
from .issues import Fault
from .label_image_dataset import LabelImages
from .loader import Batch, Loader, LoadingError
from .subsets import Subset, split
from .validation import Survey, check, survey

__all__ = [
    "Augmentation",
    "Batch",
    "CocoInstances",
    "Fault",
    "LabelImages",
    "Loader",
    "LoadingError",
    "Subset",
    "Survey",
    "check",
    "compose",
    "split",
    "survey",
]
