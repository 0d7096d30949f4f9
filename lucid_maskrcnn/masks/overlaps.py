"""Which masks of an image overlap, the boxes around them, and non-maximum suppression by masks.

Shapes: G masks, P pairs of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid_maskrcnn.array_arguments import finite_boxes, numeric_array
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.masks.compressed import CompressedMasks
from lucid_maskrcnn.validators import fraction, instance

__all__ = ["best_of_pairs", "iou_of_pairs", "mask_nms", "outer_boxes", "overlapping_pairs"]


@answers_wrong_calls
def overlapping_pairs(boxes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of boxes that share an area.

    Parameters
    ----------
    boxes : Tensor, array or nested list of shape (G, 4)
        Corners (x1, y1, x2, y2).

    Returns
    -------
    first, second : ndarray of shape (P,), int64
        The rows of each pair, each pair once, ``first < second``.

    Raises
    ------
    TypeError, ValueError
        If ``boxes`` is not as above.
    """
    x1, y1, x2, y2 = finite_boxes("boxes", boxes).T
    order = np.argsort(x1, kind="stable")
    # Those that begin between the left and the right side of a box overlap it in x; there are few of them in an image.
    reach = np.searchsorted(x1[order], x2[order], side="left")
    counts = (reach - np.arange(1, len(order) + 1)).clip(0)
    left = np.repeat(np.arange(len(order)), counts)
    right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
    a, b = order[left], order[right]
    share = np.minimum(x2[a], x2[b]) > np.maximum(x1[a], x1[b])  # not so if one has no width
    share &= np.minimum(y2[a], y2[b]) > np.maximum(y1[a], y1[b])
    a, b = a[share], b[share]
    return np.minimum(a, b), np.maximum(a, b)


def outer_boxes(boxes: np.ndarray, masks: CompressedMasks) -> np.ndarray:
    """Return the boxes around both box and mask: (G, 4), float64."""
    found, around, some = boxes.astype(np.float64), masks.boxes, masks.areas > 0
    found[some, :2] = np.minimum(found[some, :2], around[some, :2])
    found[some, 2:] = np.maximum(found[some, 2:], around[some, 2:])
    return found


@answers_wrong_calls
def iou_of_pairs(masks: CompressedMasks, first: Any, second: Any) -> np.ndarray:
    """Return the intersection over union of pairs of masks.

    Parameters
    ----------
    masks : CompressedMasks
        G masks of one image.
    first, second : sequence of int of length P
        The rows of each pair.

    Returns
    -------
    ndarray of shape (P,), float64
        0 for two empty masks.
    """
    shared = instance("masks", masks, CompressedMasks, "CompressedMasks").intersections(first, second)
    areas = masks.areas
    return shared / np.maximum(areas[np.asarray(first, int)] + areas[np.asarray(second, int)] - shared, 1)


@answers_wrong_calls
def mask_nms(masks: CompressedMasks, scores: Any, iou_thresh: float, idxs: Any = None) -> np.ndarray:
    """Choose the best masks: each suppresses those of lower score that overlap it too much.

    Parameters
    ----------
    masks : CompressedMasks
        G of them.
    scores : Tensor or array of shape (G,)
        Score of each mask; where two overlap too much, the one with the lower score goes.
    iou_thresh : float
        Masks with a greater IoU are suppressed.
    idxs : Tensor or array of shape (G,), int, optional
        Only masks of equal numbers suppress each other, such as those of one class; by default all do.

    Returns
    -------
    ndarray of shape (K,), int64
        Rows of the kept masks by descending score; those of equal score in their order.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    num = len(instance("masks", masks, CompressedMasks, "CompressedMasks"))
    values = numeric_array("scores", scores, f"numbers of shape ({num},), one for each mask", shape=(num,)).astype(
        np.float64
    )
    iou_thresh = fraction("iou_thresh", iou_thresh)
    first, second = overlapping_pairs(masks.boxes)
    if idxs is not None:
        groups = numeric_array("idxs", idxs, f"integers of shape ({num},), one for each mask", kinds="iu", shape=(num,))
        same = groups[first] == groups[second]
        first, second = first[same], second[same]
    over = iou_of_pairs(masks, first, second) > iou_thresh
    order = np.argsort(-values, kind="stable")
    return order[best_of_pairs(first[over], second[over], order, np.ones(num, bool))[order]]


def best_of_pairs(first: np.ndarray, second: np.ndarray, order: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return which candidates are kept, (G,) bool: going through them in order, each drops those paired with it."""
    rank = np.argsort(order)
    better, worse = np.sort([rank[first], rank[second]], axis=0)
    by_rank = np.argsort(better, kind="stable")
    better, worse = better[by_rank], worse[by_rank]
    keep = candidates[order]
    ends = np.searchsorted(better, np.arange(len(order) + 1))
    for k in np.unique(better).tolist():  # from the best on
        if keep[k]:
            keep[worse[ends[k] : ends[k + 1]]] = False
    return keep[rank]
