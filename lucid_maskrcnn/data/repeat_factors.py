"""How often images are repeated so that rare categories are seen more often: repeat-factor sampling.

After Gupta, Dollár and Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", 2019.

Shapes: N images of the data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np

from .dataset import load_pair

__all__ = ["repeat_factors", "rounded_at_random"]


def repeat_factors(dataset: Any, threshold: float) -> np.ndarray:
    """Return how often each image is to be seen in an epoch, on average.

    The factor of a category that is in a fraction ``f`` of the images is ``max(1, sqrt(threshold / f))``, that of an
    image the highest one of its categories; 1 without objects. Crowds do not count, since they are not trained on.

    Parameters
    ----------
    dataset : sequence of (image, target)
        If it has ``coco()`` and ``image_ids``, the categories come from there; otherwise every item is loaded.
    threshold : float
        Fraction of the images below which a category is rare.

    Returns
    -------
    ndarray of shape (N,), float64
    """
    categories = _categories_of_images(dataset)
    in_images = Counter(category for found in categories for category in found)
    of_category = {c: max(1.0, float(np.sqrt(threshold * len(categories) / n))) for c, n in in_images.items()}
    return np.array([max((of_category[c] for c in found), default=1.0) for found in categories], np.float64)


def rounded_at_random(factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return whole numbers (N,) whose mean over many draws are the factors: each is rounded up or down."""
    whole = np.floor(factors)
    return np.asarray(whole + (rng.random(len(factors)) < factors - whole), np.int64)


def _categories_of_images(dataset: Any) -> list[set[Hashable]]:
    if callable(getattr(dataset, "coco", None)) and hasattr(dataset, "image_ids"):
        of_id: dict[Any, set[Hashable]] = {}
        for annotation in dataset.coco()["annotations"]:
            if not annotation.get("iscrowd", 0):
                of_id.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
        return [of_id.get(image_id, set()) for image_id in dataset.image_ids]
    return [set(np.asarray(load_pair(dataset, i)[1]["labels"]).ravel().tolist()) for i in range(len(dataset))]
