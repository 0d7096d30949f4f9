"""Boxes and targets that several tests of models sample from."""

import numpy as np
from gradients import tensor

from lucid_maskrcnn.targets import Target

ANCHORS = np.float32([[0, 0, 8, 8], [20, 0, 28, 8], [0, 20, 8, 28], [20, 20, 28, 28], [4, 0, 12, 8], [40, 40, 48, 48]])


def rectangles(boxes: np.ndarray, labels: list[int], device: str) -> Target:
    """Return objects that fill their boxes in an image of 50 × 50."""
    masks = np.zeros((len(boxes), 50, 50), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return Target(*(tensor(a, device) for a in (boxes.reshape(-1, 4), np.array(labels, np.int32), masks)))
