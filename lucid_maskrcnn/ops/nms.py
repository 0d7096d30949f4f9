"""Non-maximum suppression: greedy and exact, in torchvision's arithmetic.

Shapes: R boxes, K of them kept.

Names: ``boxes`` are ``(x1, y1, x2, y2)`` in pixels; ``order`` holds their indices by descending score, ``kept`` or
``keep`` which stay; ``columns`` are x1, y1, x2, y2 and area of the boxes, (5, R). Boxes of one ``idxs`` (class or
level) suppress each other.

Nothing that torchvision takes is refused. As there, a box with a NaN coordinate has no IoU above any threshold: it
stays and suppresses nothing (in :func:`batched_nms` of up to 1000 boxes it makes all others NaN, so that all stay). A
box with swapped corners overlaps nothing, so it stays too. To drop such boxes, see
:func:`~lucid_maskrcnn.ops.finite_rows` and :func:`~lucid_maskrcnn.ops.remove_small_boxes`.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import fraction

from ._checks import box_tensor, check_tensor, index_tensor
from ._operation import Op
from ._parallel import chunks, parallel_for
from .nms_gpu import OFFSET_LIMIT, nms_gpu, round_down

__all__ = ["batched_nms", "nms"]

_BLOCK = 64  # candidates decided together, first among themselves and then against all the others
_NEIGHBORS = 128  # candidates that are compared with their neighbours at a time
_MANY = 256  # from so many candidates on, they are compared with their neighbours
_RARE = 0.08  # if a block suppresses less than this part of the rest
_PAIRS = 1 << 15  # IoUs computed at a time, so that the temporaries stay in the cache


class _NMS(Op):
    differentiable = False

    def __init__(self, iou_thresh: float) -> None:
        super().__init__()
        self.iou_thresh = iou_thresh

    def cpu(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return _greedy_cpu(boxes, scores, self.iou_thresh).astype(np.int32)

    def gpu(self, boxes: mx.array, scores: mx.array) -> mx.array:
        return nms_gpu(boxes, scores, None, self.iou_thresh)


class _BatchedNMS(Op):
    differentiable = False

    def __init__(self, iou_thresh: float) -> None:
        super().__init__()
        self.iou_thresh = iou_thresh

    def cpu(self, boxes: np.ndarray, scores: np.ndarray, idxs: np.ndarray) -> np.ndarray:
        return _batched(boxes, scores, idxs, self.iou_thresh)

    def gpu(self, boxes: mx.array, scores: mx.array, idxs: mx.array) -> mx.array:
        return nms_gpu(boxes, scores, idxs.astype(mx.int32), self.iou_thresh)


def nms(boxes: Tensor, scores: Tensor, iou_thresh: float) -> Tensor:
    """Return which boxes stay when each kept box, best first, removes those that overlap it too much.

    Parameters
    ----------
    boxes : Tensor of shape (R, 4), float
        ``(x1, y1, x2, y2)`` in pixels.
    scores : Tensor of shape (R,), float
        Of two equal ones, the lower index comes first.
    iou_thresh : float
        A box goes if its IoU with a kept one is greater. An IoU of 0/0, between boxes without area, is not.

    Returns
    -------
    Tensor of shape (K,), int32
        Indices of the kept boxes by descending score.
    """
    boxes = box_tensor("boxes", boxes)
    check_tensor("scores", scores, (boxes.shape[0],))
    return _NMS(float(fraction("iou_thresh", iou_thresh)))(boxes, scores)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_thresh: float) -> Tensor:
    """Return which boxes stay when only boxes of the same class, or level, suppress each other.

    As in torchvision, up to 1000 boxes are shifted apart by class in float32, which rounds them a little, and
    go through one suppression; more go through one for each class as they are.

    Parameters
    ----------
    boxes : Tensor of shape (R, 4), float
        ``(x1, y1, x2, y2)`` in pixels.
    scores : Tensor of shape (R,), float
        Score of each box; a box suppresses those of lower scores.
    idxs : Tensor of shape (R,), int
        Class, or level, of each box.
    iou_thresh : float
        As in :func:`nms`.

    Returns
    -------
    Tensor of shape (K,), int32
        Indices of the kept boxes of all classes by descending score.
    """
    boxes = box_tensor("boxes", boxes)
    check_tensor("scores", scores, (boxes.shape[0],))
    index_tensor("idxs", idxs, boxes.shape[0])
    return _BatchedNMS(float(fraction("iou_thresh", iou_thresh)))(boxes, scores, idxs)


# ------------------------------------------------------------------ one suppression


def _greedy_cpu(boxes: np.ndarray, scores: np.ndarray, iou_thresh: float) -> np.ndarray:
    """Decide a block of the best candidates at a time, and drop what it suppresses from the rest."""
    order = descending(scores)
    thresh = round_down(iou_thresh, boxes.dtype)
    columns = np.ascontiguousarray(boxes[order].T)  # x1, y1, x2, y2
    area = (columns[2] - columns[0]) * (columns[3] - columns[1])
    columns = np.concatenate([columns, area[None]])
    kept = [order[:0]]
    while len(order):
        block, rest = columns[:, :_BLOCK], columns[:, _BLOCK:]
        chosen = _resolve(_overlaps(block, block, thresh))
        kept.append(order[chosen])
        remaining = ~_suppressed(block[:, chosen], rest, thresh)
        columns, order = rest[:, remaining], order[_BLOCK:][remaining]
        if len(order) > _MANY and len(remaining) - len(order) < _RARE * len(remaining):
            kept.append(order[_not_suppressed(columns, thresh)])
            break
    return np.concatenate(kept)


def _not_suppressed(columns: np.ndarray, thresh: np.floating) -> np.ndarray:
    """Return which candidates stay, (R,) bool, where few overlap: the pairs that do decide."""
    better, worse = _overlapping_pairs(columns, thresh)
    stays = bytearray(b"\1" * columns.shape[1])
    by_rank = np.argsort(better, kind="stable")
    for i, j in zip(better[by_rank].tolist(), worse[by_rank].tolist(), strict=True):
        if stays[i]:
            stays[j] = 0
    return np.frombuffer(stays, bool)


def _overlapping_pairs(columns: np.ndarray, thresh: np.floating) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of columns whose IoU is greater than ``thresh``, the better one of each first.

    Such boxes overlap over more than the part ``thresh`` of either width: the left sides are apart by less than
    1 - thresh of the width of the one on the left. Sorted by them, each block is compared with its neighbours only.
    """
    by_x = np.argsort(columns[0], kind="stable")
    columns = columns[:, by_x]
    left, right = columns[0].astype(np.float64), columns[2].astype(np.float64)
    with np.errstate(invalid="ignore"):
        reach = left + (right - left) * (1.001 - float(thresh))  # a little more, for what is rounded
    blocks = chunks(len(by_x), _NEIGHBORS)
    pairs: list[Any] = [None] * len(blocks)

    def compare(i: int) -> None:
        start, stop = blocks[i].start, blocks[i].stop
        end = max(int(np.searchsorted(left, np.fmax.reduce(reach[start:stop]), side="right")), stop)
        found = np.flatnonzero(_overlaps(columns[:, start:stop], columns[:, start:end], thresh))
        pairs[i] = by_x[start + np.stack(np.divmod(found, end - start))]  # (2, pairs)

    parallel_for(range(len(blocks)), compare)
    first, second = np.concatenate(pairs, axis=1)
    apart = first != second
    return np.minimum(first, second)[apart], np.maximum(first, second)[apart]


def _suppressed(kept: np.ndarray, rest: np.ndarray, thresh: np.floating) -> np.ndarray:
    """Return which of the columns ``rest`` overlap a column of ``kept``."""
    suppressed = np.zeros(rest.shape[1], bool)
    step = max(1, _PAIRS // max(1, rest.shape[1]))
    for start in range(0, kept.shape[1], step):
        suppressed |= _overlaps(kept[:, start : start + step], rest, thresh).any(axis=0)
    return suppressed


def _overlaps(a: np.ndarray, b: np.ndarray, thresh: np.floating) -> np.ndarray:
    """Return whether the IoU of column i of ``a`` with column j of ``b`` is greater than ``thresh``.

    The arithmetic of :func:`overlap_and_union`, without what cannot change the answer.
    """
    rows = a[:, :, None]
    with np.errstate(invalid="ignore"):  # of infinite boxes, whose IoU is NaN or 0
        inter = np.minimum(rows[2], b[2])
        inter -= np.maximum(rows[0], b[0])
        height = np.minimum(rows[3], b[3])
        height -= np.maximum(rows[1], b[1])
        np.maximum(height, np.zeros_like(b[0]), out=height)  # twice as fast as with the scalar 0
        inter *= height  # positive exactly where the boxes overlap
        # A union is no smaller than either box: the division is left to the few pairs that can pass.
        overlaps = inter > np.maximum(b[4], 0) * (thresh * thresh.dtype.type(0.999))
        i, j = np.divmod(np.flatnonzero(overlaps), b.shape[1])  # many times faster than a 2-D nonzero
        shared = inter[i, j]
        overlaps[i, j] = shared / (a[4, i] + b[4, j] - shared) > thresh
    return overlaps


def _resolve(overlaps: np.ndarray) -> list[int]:
    """Return the candidates that stay among themselves, best first; ``overlaps`` is a square bool matrix."""
    # A row as one integer: an or of 64 candidates is then one step of the interpreter.
    rows = [int.from_bytes(row, "little") for row in np.packbits(overlaps, axis=1, bitorder="little")]
    chosen, suppressed = [], 0
    for i, row in enumerate(rows):
        if not suppressed >> i & 1:
            chosen.append(i)
            suppressed |= row
    return chosen


def descending(scores: np.ndarray) -> np.ndarray:
    """Return the order of descending scores: ties keep theirs, NaN comes first as in torch."""
    return len(scores) - 1 - np.argsort(scores[::-1], kind="stable")[::-1]


# ------------------------------------------------------------------ one for each class


def _batched(boxes: np.ndarray, scores: np.ndarray, idxs: np.ndarray, iou_thresh: float) -> np.ndarray:
    if len(scores) <= OFFSET_LIMIT:
        return _greedy_cpu(_offset_by_class(boxes, idxs), scores, iou_thresh).astype(np.int32)
    keep = np.zeros(len(scores), bool)
    for idx in np.unique(idxs):
        (members,) = np.nonzero(idxs == idx)
        keep[members[_greedy_cpu(boxes[members], scores[members], iou_thresh)]] = True
    (kept,) = np.nonzero(keep)
    return kept[descending(scores[kept])].astype(np.int32)


def _offset_by_class(boxes: np.ndarray, idxs: np.ndarray) -> np.ndarray:
    """Add to the boxes of each class an offset that sets them apart from other classes, rounded as in torchvision."""
    offset = idxs.astype(boxes.dtype) * (boxes.max(initial=-np.inf) + 1)
    return boxes + offset[:, None]
