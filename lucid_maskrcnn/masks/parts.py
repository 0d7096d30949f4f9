"""The connected parts of masks.

Shapes: G masks, R runs of pixels, N pairs of neighboring runs.
"""

from __future__ import annotations

import numpy as np

from .compressed import CompressedMasks

__all__ = ["count_large_parts"]


def count_large_parts(masks: CompressedMasks, fraction: float = 0.25) -> np.ndarray:
    """Return how many large parts each mask has: (G,), int64; 0 for an empty one.

    Parameters
    ----------
    masks : CompressedMasks
    fraction : float
        A part is large if its area is at least this fraction of the largest one's: specks at the border do not count.
        Pixels that touch at a corner are of one part.
    """
    num = len(masks)
    owner = np.repeat(np.arange(num), np.diff(masks.offsets))
    part = _components(masks, owner)
    area = np.bincount(part, masks.stops - masks.starts, len(part))  # of the part that begins with each run
    largest = np.zeros(num)
    np.maximum.at(largest, owner, area)
    return np.bincount(owner[(area > 0) & (area >= fraction * largest[owner])], minlength=num)


def _components(masks: CompressedMasks, owner: np.ndarray) -> np.ndarray:
    """Return the first run of the part that each run belongs to: (R,), int64."""
    height, width = (max(side, 1) for side in masks.image_size)
    column, top = np.divmod(masks.starts.astype(np.int64), height)
    line = owner * (width + 1) + column  # with a gap after the last column of a mask
    first, last = line * (height + 2) + top, line * (height + 2) + top + (masks.stops - masks.starts)
    step = height + 2  # from a column to the next
    # Runs of a column are in order and apart, so that those beside a run are a range.
    low = np.searchsorted(last, first + step, "left")
    high = np.maximum(np.searchsorted(first, last + step, "right"), low)
    count = high - low
    a = np.repeat(np.arange(len(first)), count)
    b = low[a] + np.arange(len(a)) - np.repeat(np.cumsum(count) - count, count)
    part = np.arange(len(first))
    while True:  # the number of rounds grows with the logarithm of the windings of a part
        lower = np.minimum(part[a], part[b])
        before = part.copy()
        np.minimum.at(part, part[a], lower)
        np.minimum.at(part, part[b], lower)
        part = part[part]
        if np.array_equal(part, before):
            return part
