"""Instance matching: IoU of masks, and a one-to-one matching of detections and objects.

Shapes: D detections, G objects of an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid_maskrcnn.array_arguments import refuse_rows
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.validators import fraction, instance

__all__ = ["mask_iou", "match_objects", "right_in_order"]


@answers_wrong_calls
def mask_iou(detections: CompressedMasks, objects: CompressedMasks, crowd: Any = None) -> np.ndarray:
    """Return the intersection over union of each detection and each object, as pycocotools does.

    Masks are not decoded: intersections are counted on the runs, where the boxes around two masks overlap.

    Parameters
    ----------
    detections, objects : CompressedMasks
        D and G masks of one image.
    crowd : array of shape (G,), bool, optional
        Whether an object is a crowd: then the value is the fraction of the detection that lies within it.

    Returns
    -------
    ndarray of shape (D, G), float64
        0 for masks without pixels.

    Raises
    ------
    TypeError, ValueError
        If the masks are not compressed or of images of different sizes, or ``crowd`` has another shape.
    """
    for name, masks in (("detections", detections), ("objects", objects)):
        instance(name, masks, CompressedMasks, "CompressedMasks")
    if detections.image_size != objects.image_size:
        raise ValueError(
            f"detections and objects must be masks of the same image, got sizes {detections.image_size} and "
            f"{objects.image_size}."
        )
    shared = _intersections(detections, objects).astype(np.float64)  # (D, G)
    areas = detections.areas[:, None].astype(np.float64)  # (D, 1)
    union = areas + objects.areas - shared  # (D, G)
    if crowd is not None:
        is_crowd = _array(crowd)
        if is_crowd.shape != (len(objects),) or is_crowd.dtype.kind not in "biu":
            raise ValueError(
                f"crowd must be one bool for each of {len(objects)} objects, got {is_crowd.dtype} of shape "
                f"{is_crowd.shape}."
            )
        odd = (is_crowd != 0) & (is_crowd != 1)
        refuse_rows("crowd", is_crowd, odd, "is not a bool, 0 or 1")
        union = np.where(is_crowd.astype(bool), areas, union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _array(values: Any) -> np.ndarray:
    """Return an array; of rows of different lengths one of objects, which no check accepts."""
    try:
        return np.asarray(values)
    except ValueError:
        return np.asarray(values, object)


def _intersections(masks: CompressedMasks, others: CompressedMasks) -> np.ndarray:
    """Count the pixels that each mask shares with each of the others: (D, G), int64."""
    counts = np.zeros((len(masks), len(others)), np.int64)
    near = np.nonzero(_boxes_overlap(masks.boxes, others.boxes))
    counts[near] = CompressedMasks.concatenated([masks, others]).intersections(near[0], len(masks) + near[1])
    return counts


def _boxes_overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    a, b = boxes[:, None], others[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    return (low < high).all(axis=2)


@answers_wrong_calls
def match_objects(iou: np.ndarray, thresh: float) -> list[tuple[int, int]]:
    """Match detections and objects one to one, with as many pairs as possible.

    Parameters
    ----------
    iou : ndarray of shape (D, G)
        IoU of each detection and object.
    thresh : float
        Pairs have at least this IoU, from 0 to 1, and more than 0.

    Returns
    -------
    list of (int, int)
        Row and column of each pair, sorted by row. No matching has more pairs; pairs of larger IoU are preferred.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    partners: dict[int, list[int]] = {}
    of_row: dict[int, int] = {}
    of_column: dict[int, int] = {}
    for d, g in _possible_pairs(iou, thresh):
        partners.setdefault(d, []).append(g)
        if d not in of_row and g not in of_column:
            of_row[d], of_column[g] = g, d
    for d in partners:
        if d not in of_row:
            _augment(d, partners, of_row, of_column)
    return sorted(of_row.items())


def right_in_order(iou: np.ndarray, thresh: float) -> np.ndarray:
    """Return which detections have a partner if they are matched one after the other, from the first row on.

    Among the first d rows as many have a partner as the largest matching of them has pairs, for each d.

    Parameters
    ----------
    iou, thresh
        As for :func:`match_objects`.

    Returns
    -------
    ndarray of shape (D,), bool
    """
    partners: dict[int, list[int]] = {}
    for d, g in _possible_pairs(iou, thresh):
        partners.setdefault(d, []).append(g)
    of_row: dict[int, int] = {}
    of_column: dict[int, int] = {}
    for d in sorted(partners):
        _augment(d, partners, of_row, of_column)
    right = np.zeros(len(iou), bool)
    right[list(of_row)] = True
    return right


def _possible_pairs(iou: Any, thresh: float) -> list[tuple[int, int]]:
    """Return row and column of the pairs whose IoU is large enough, the largest first."""
    iou, thresh = _array(iou), fraction("thresh", thresh)
    if iou.ndim != 2 or iou.dtype.kind not in "iuf":
        raise ValueError(f"iou must be numbers of shape (D, G), got {iou.dtype} of shape {iou.shape}.")
    if not np.isfinite(iou).all():
        raise ValueError("iou must be finite, got NaN or infinity.")
    rows, columns = np.nonzero((iou >= thresh) & (iou > 0))
    order = np.argsort(-iou[rows, columns], kind="stable")
    return list(zip(rows[order].tolist(), columns[order].tolist(), strict=True))


def _augment(start: int, partners: dict[int, list[int]], of_row: dict[int, int], of_column: dict[int, int]) -> None:
    """Match one more row if an augmenting path exists, along which other rows move to other columns."""
    came_from: dict[int, int] = {}  # column -> row
    waiting = [start]
    for row in waiting:  # a queue that grows in the loop
        for column in partners[row]:
            if column in came_from:
                continue
            came_from[column] = row
            if column in of_column:
                waiting.append(of_column[column])
                continue
            while True:
                row = came_from[column]
                freed = of_row.get(row)
                of_row[row], of_column[column] = column, row
                if freed is None:
                    return
                column = freed
