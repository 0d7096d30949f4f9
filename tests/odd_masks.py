"""Masks as exports must survive them: holes, parts that touch at a corner, the image's edge, one pixel, none."""

from __future__ import annotations

import numpy as np

from lucid_maskrcnn.detections import Detections

SIZE = (24, 30)
ROWS = {
    "whole": ["####", "####", "####"],
    "hole": ["#####", "#...#", "#.#.#", "#...#", "#####"],  # with an island, a part of its own
    "corner": ["##..", "##..", "..##", "..##"],
    "closing": [".###", "#..#", "#..#", "####"],  # its ends meet at a corner
    "pixel": ["#"],
    "apart": ["##..#", "##..#"],
    "empty": ["."],
}
PLACES = [(0, 0), (3, 8), (1, 16), (10, 2), (23, 29), (22, 10), (5, 5)]
NAMES = {1: "nucleus", 2: "=1+1", 3: 'é, "quoted"\nline', 4: "漢字: a=b\\n <i>&"}


def dense_masks() -> np.ndarray:
    """Return the masks, (7, H, W) bool, in the order of ``ROWS``."""
    masks = np.zeros((len(ROWS), *SIZE), bool)
    for mask, rows, (y, x) in zip(masks, ROWS.values(), PLACES, strict=True):
        part = np.array([[c == "#" for c in row] for row in rows])
        mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    return masks


def odd_detections(**options) -> Detections:
    """Return detections with these masks, of four classes, two without names of their own."""
    scores = np.array([0.9, 0.3, 0.95, 0.5, 0.05, 1, 0], np.float32)
    labels = [1, 2, 3, 4, 1, 5, 2]
    return Detections.from_masks(dense_masks(), scores=scores, labels=labels, **{"categories": NAMES, **options})
