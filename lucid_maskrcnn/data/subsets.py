"""Parts of a data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["Subset", "split"]


class Subset:
    """Some of the images of a data set, in the order given.

    Parameters
    ----------
    dataset : CocoInstances, LabelImages or Subset
    indices : iterable of int
        Which ones.

    Attributes
    ----------
    categories, category_ids, image_ids, file_names, sizes, object_counts
        Those of the data set, of these images.
    """

    def __init__(self, dataset: Any, indices: Iterable[int]) -> None:
        self.dataset = dataset
        self.indices = np.arange(len(dataset))[np.array(list(indices), np.int64)].tolist()
        self.categories, self.category_ids = dataset.categories, dataset.category_ids

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {self.dataset!r})"

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        return self.dataset[self.indices[index]]

    def __getattr__(self, name: str) -> list[Any]:
        if name not in ("image_ids", "file_names", "sizes", "object_counts"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        values = getattr(self.dataset, name)
        return [values[i] for i in self.indices]

    def coco(self) -> dict[str, Any]:
        """Return what an evaluation needs, in COCO's format."""
        whole, ids = self.dataset.coco(), set(self.image_ids)
        return {
            **whole,
            "images": [image for image in whole["images"] if image["id"] in ids],
            "annotations": [a for a in whole["annotations"] if a["image_id"] in ids],
        }


def split(dataset: Any, fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Divide a data set at random, say into images to train and to evaluate on.

    Parameters
    ----------
    dataset : CocoInstances, LabelImages or Subset
    fraction : float
        Of the images that the second part gets; each part gets one at least.
    seed : int
        The same seed gives the same parts.

    Returns
    -------
    (Subset, Subset)
        Each in the order of the data set.
    """
    if not 0 < fraction < 1 or len(dataset) < 2:
        raise ValueError(f"fraction must be between 0 and 1, of two images at least, got {fraction} of {len(dataset)}.")
    order = np.random.default_rng(seed).permutation(len(dataset))
    count = min(max(1, round(fraction * len(dataset))), len(dataset) - 1)
    return Subset(dataset, sorted(order[count:].tolist())), Subset(dataset, sorted(order[:count].tolist()))
