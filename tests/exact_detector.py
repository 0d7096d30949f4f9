"""A model that finds exactly what is drawn, so that what is wrong after merging is the merging's fault."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.masks import CompressedMasks


class ExactDetector:
    """Finds each color but black: red and green are the object's number, blue is its label, 0 being label 1.

    The smaller an object is, or the less of it is in the image, the better is its score: merging must not trust it.

    Parameters
    ----------
    hidden : int
        So many pixels next to a border of the image are not seen.
    """

    categories: ClassVar = {1: "cat", 2: "dog"}

    def __init__(self, hidden: int = 0) -> None:
        self.calls: list[tuple[int, ...]] = []
        self._hidden = hidden

    def predict(self, image: np.ndarray, *, score_thresh: float = 0, **_: Any) -> list[Detections]:
        self.calls.append(image.shape)
        colors = image.astype(np.int64) @ [256, 1, 1 << 16]
        if self._hidden:
            seen = np.zeros_like(colors)
            inner = (slice(self._hidden, -self._hidden),) * 2
            seen[inner] = colors[inner]
            colors = seen
        numbers = np.unique(colors)
        numbers = numbers[numbers > 0]
        masks = CompressedMasks.from_labels(colors)
        scores = (1 - masks.areas / (image.shape[0] * image.shape[1] + 1)).clip(0, 1)
        found = Detections.from_masks(
            masks, scores=scores, labels=np.maximum(numbers >> 16, 1), categories=self.categories
        )
        return [found[np.argsort(-scores, kind="stable")][:400]]


def draw(masks: np.ndarray, labels: Any = None) -> np.ndarray:
    """The image (H, W, 3) in which :class:`ExactDetector` finds masks (n, H, W) that do not overlap."""
    image = np.zeros((*masks.shape[1:], 3), np.uint8)
    for i, mask in enumerate(masks, start=1):
        image[mask] = (i >> 8, i & 255, 0 if labels is None else labels[i - 1])
    return image


def scene(height: int, width: int, count: int, largest: int, seed: int = 0) -> np.ndarray:
    """Masks (n, H, W) of ellipses of up to ``largest`` pixels across; they touch each other, and do not overlap."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    number = np.zeros((height, width), np.int64)
    for i in range(1, count + 1):
        a, b = rng.uniform(1, largest / 2, 2)
        center = rng.uniform(0, (height, width))
        number[((y - center[0]) / a) ** 2 + ((x - center[1]) / b) ** 2 < 1] = i
    masks = np.stack([number == i for i in np.unique(number[number > 0])])
    return np.stack([mask for mask in masks if is_compact(mask, largest)])


def is_compact(mask: np.ndarray, largest: int) -> bool:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return bool(max(np.ptp(rows), np.ptp(columns)) < largest)
