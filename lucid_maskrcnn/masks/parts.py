"""The connected parts of masks.

Shapes: G masks, R runs of pixels, N pairs of neighboring runs.
"""

from __future__ import annotations

import numpy as np

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.validators import instance

from .compressed import CompressedMasks
from .rings import boundary_rings, signed_area, simple_rings

__all__ = ["connected", "count_large_parts", "placed_runs", "trace_parts"]

type Polygon = list[list[tuple[int, int]]]  # the outer ring, and those of the holes


def count_large_parts(masks: CompressedMasks, fraction: float = 0.25) -> np.ndarray:
    """Return how many large parts each mask has: (G,), int64; 0 for an empty one.

    Parameters
    ----------
    masks : CompressedMasks
        G masks of one image.
    fraction : float
        A part is large if its area is at least this fraction of the largest one's: specks at the border do not count.
        Pixels that touch at a corner are of one part.
    """
    num = len(masks)
    owner = masks._owners()
    part = _components(masks, owner, corners=True)
    area = np.bincount(part, masks.stops - masks.starts, len(part))  # of the part that begins with each run
    largest = np.zeros(num)
    np.maximum.at(largest, owner, area)
    return np.bincount(owner[(area > 0) & (area >= fraction * largest[owner])], minlength=num)


def placed_runs(masks: CompressedMasks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the mask of each run, its column, its first row, and the row after its last: (R,) integers each."""
    return masks._owners(), *masks._columns()


@answers_wrong_calls
def trace_parts(masks: CompressedMasks) -> list[list[Polygon]]:
    """Return the parts of each mask as polygons with holes, along the edges of its pixels.

    Their area is that of the mask, and they are valid where polygons must be, as in GeoJSON: no ring crosses or touches
    itself, and rings share no more than points.

    Parameters
    ----------
    masks : CompressedMasks
        G masks of one image.

    Returns
    -------
    list of list of list of list of (x, y)
        For each mask its parts; pixels that touch at a corner only are of different ones. A part is its outer ring,
        clockwise on a screen, and the rings of its holes, counterclockwise. A ring is the points where it turns; the
        first is not repeated. An empty mask has no parts.

    Raises
    ------
    TypeError
        If ``masks`` are something else.
    """
    instance("masks", masks, CompressedMasks, "CompressedMasks")
    owner, column, top, bottom = placed_runs(masks)
    part = _components(masks, owner, corners=False).tolist()
    outer: dict[int, list[tuple[int, int]]] = {}
    holes: dict[int, list[list[tuple[int, int]]]] = {}
    for ring in boundary_rings(owner, column, top, bottom):
        for points in simple_rings(ring.points):
            if ring.is_outer and (len(points) == len(ring.points) or signed_area(points) > 0):
                outer[part[ring.run]] = points
            else:
                holes.setdefault(part[ring.run], []).append(points)
    found: list[list[Polygon]] = [[] for _ in range(len(masks))]
    for number, points in outer.items():
        found[owner[number]].append([points, *holes.get(number, ())])
    return found


def _components(masks: CompressedMasks, owner: np.ndarray, *, corners: bool) -> np.ndarray:
    """Return the first run of the part that each run belongs to: (R,), int64; ``corners`` may join a part."""
    height, width = (max(side, 1) for side in masks.image_size)
    column, top = np.divmod(masks.starts.astype(np.int64), height)
    line = owner * (width + 1) + column  # with a gap after the last column of a mask
    first, last = line * (height + 2) + top, line * (height + 2) + top + (masks.stops - masks.starts)
    step = height + 2  # from a column to the next
    # Runs of a column are in order and apart, so that those beside a run are a range.
    low = np.searchsorted(last, first + step, "left" if corners else "right")
    high = np.maximum(np.searchsorted(first, last + step, "right" if corners else "left"), low)
    count = high - low
    a = np.repeat(np.arange(len(first)), count)
    b = low[a] + np.arange(len(a)) - np.repeat(np.cumsum(count) - count, count)
    return connected(a, b, len(first))


def connected(first: np.ndarray, second: np.ndarray, num: int) -> np.ndarray:
    """Return for each of ``num`` rows the least row that pairs of rows connect it with: (num,), int64."""
    least = np.arange(num)
    while True:  # the number of rounds grows with the logarithm of the longest chain of pairs
        lower = np.minimum(least[first], least[second])
        before = least.copy()
        np.minimum.at(least, least[first], lower)
        np.minimum.at(least, least[second], lower)
        least = least[least]
        if np.array_equal(least, before):
            return least
