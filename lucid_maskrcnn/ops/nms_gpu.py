"""Non-maximum suppression on the gpu: greedy and exact, without waiting and without a loop over classes.

Which boxes stay is the one solution of ``keep[i] = alive[i] and no j < i with keep[j] and overlaps[j, i]``, candidates
in the order of their scores. It is found by iteration: after t rounds all decisions that hang on chains of fewer than t
others are right, and what no longer changes is the solution. Candidates are decided in blocks, so that no matrix of all
pairs is ever held, and chains are short.

Shapes: N images, R candidates of each in the order of descending scores, B candidates of a block.

Names: ``alive`` candidates take part, the others are padding; ``classes`` are the class, or level, of each. ``settled``
says whether all rounds have come to their end; if not, call again with more rounds: ``BLOCK`` are always enough.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

__all__ = ["BLOCK", "OFFSET_LIMIT", "ROUNDS", "descending_gpu", "keep_gpu", "nms_gpu", "round_down"]

OFFSET_LIMIT = 1000  # boxes up to which torchvision shifts the classes apart instead of looping over them
BLOCK = 512  # candidates decided together
ROUNDS = 16  # more than real images have needed; 24 at most in 60 random cases of up to 5000 boxes in one block


def descending_gpu(scores: mx.array, alive: mx.array | None = None) -> mx.array:
    """Return the order of descending scores along the last axis: ties keep theirs, NaN comes first as in torch.

    Those that are not ``alive`` come last.
    """
    bits = (scores.astype(mx.float32) + 0.0).view(mx.int32)  # + 0: -0 becomes 0, as it is equal
    ascending = mx.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)  # integers in the order of the floats
    ascending = mx.where(mx.isnan(scores), np.iinfo(np.int32).max, ascending)
    key = mx.bitwise_invert(ascending)
    if alive is not None:
        key = mx.where(alive, key, np.iinfo(np.int32).max)
    return mx.argsort(key, axis=-1).astype(mx.int32)  # MLX's sorts are stable


def keep_gpu(
    boxes: mx.array,
    classes: mx.array | None,
    alive: mx.array,
    iou_thresh: float,
    rounds: int = ROUNDS,
    *,
    of_all: tuple[mx.array, mx.array] | None = None,
) -> tuple[mx.array, mx.array]:
    """Return which candidates stay, (N, R) bool, and whether that is settled, (N,) bool.

    Parameters
    ----------
    boxes : mx.array of shape (N, R, 4)
        In the order of descending scores, those that are not alive last.
    classes, alive : mx.array of shape (N, R)
        Only boxes of one class suppress each other, by torchvision's rule: up to 1000 boxes that are alive are moved
        apart by class in float32, more are compared as they are within each class. Without classes all boxes suppress
        each other as they are.
    iou_thresh : float
    rounds : int
        Of iteration in a block.
    of_all : (mx.array, mx.array), optional
        All boxes and which are alive, if these are but the best: the rule is about all of them.
    """
    if classes is None:
        columns, classes = boxes, mx.zeros(alive.shape, mx.int32)
    else:
        columns, classes = _apart(boxes, classes, *(of_all or (boxes, alive)))
    thresh = float(round_down(iou_thresh, np.float32))
    num = boxes.shape[1]
    kept, settled = [], mx.full((boxes.shape[0],), True)
    for start in range(0, num, BLOCK):
        block = slice(start, start + BLOCK)
        overlaps = _overlaps(columns[:, block], classes[:, block], columns[:, start:], classes[:, start:], thresh)
        own, done = _decide(overlaps[:, :, : min(BLOCK, num - start)], alive[:, block], rounds)
        kept.append(own)
        settled = settled & done
        suppressed = _any_of(own, overlaps[:, :, own.shape[1] :])
        alive = mx.concatenate(
            [alive[:, : start + own.shape[1]], alive[:, start + own.shape[1] :] & ~suppressed], axis=1
        )
    return (mx.concatenate(kept, axis=1) if kept else alive), settled


def _apart(boxes: mx.array, classes: mx.array, all_boxes: mx.array, all_alive: mx.array) -> tuple[mx.array, mx.array]:
    """Return the boxes, where there are few moved apart by class, and the classes that are left to be compared."""
    few = all_alive.sum(axis=1, keepdims=True) <= OFFSET_LIMIT  # (N, 1)
    shifted = boxes + (classes.astype(mx.float32) * (_largest(all_boxes, all_alive) + 1))[..., None]
    return mx.where(few[..., None], shifted, boxes), mx.where(few, 0, classes)


def _largest(boxes: mx.array, alive: mx.array) -> mx.array:
    """Return the largest coordinate of each image's boxes that are alive, (N, 1); NaN if one is NaN, as NumPy's."""
    if not boxes.shape[1]:
        return mx.zeros((boxes.shape[0], 1))
    of_alive = mx.where(alive[..., None], boxes, -mx.inf)
    nan = mx.isnan(of_alive).any(axis=(1, 2))[:, None]
    return mx.where(nan, mx.nan, mx.where(mx.isnan(of_alive), 0, of_alive).max(axis=(1, 2))[:, None])


def _overlaps(a: mx.array, of_a: mx.array, b: mx.array, of_b: mx.array, thresh: float) -> mx.array:
    """Return which of ``a`` (N, A, 4) and ``b`` (N, B, 4) overlap too much and are of one class: (N, A, B), float32."""
    ax1, ay1, ax2, ay2 = (a[:, :, None, i] for i in range(4))
    bx1, by1, bx2, by2 = (b[:, None, :, i] for i in range(4))
    width = mx.maximum(mx.minimum(ax2, bx2) - mx.maximum(ax1, bx1), 0)
    inter = width * mx.maximum(mx.minimum(ay2, by2) - mx.maximum(ay1, by1), 0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    return ((inter / union > thresh) & (of_a[:, :, None] == of_b[:, None, :])).astype(mx.float32)


def _decide(overlaps: mx.array, alive: mx.array, rounds: int) -> tuple[mx.array, mx.array]:
    """Return which candidates of a block stay, and whether another round would change nothing."""
    earlier = mx.triu(overlaps, k=1)  # [j, i] with j before i
    keep, before = alive, alive
    for _ in range(rounds):
        keep, before = alive & ~_any_of(keep, earlier), keep
    return keep, (keep == before).all(axis=1)


def _any_of(keep: mx.array, overlaps: mx.array) -> mx.array:
    """Return which columns of ``overlaps`` (N, A, B) have a row that is kept: (N, B), bool."""
    return (keep.astype(mx.float32)[:, None] @ overlaps)[:, 0] > 0.5


def nms_gpu(boxes: mx.array, scores: mx.array, classes: mx.array | None, iou_thresh: float) -> mx.array:
    """Return the rows that stay, by descending score, (K,) int32: how many there are is waited for.

    Without ``classes`` all boxes (R, 4) suppress each other as they are.
    """
    if not boxes.shape[0]:
        return mx.zeros((0,), mx.int32)
    order = descending_gpu(scores)
    alive = mx.full((1, len(scores)), True)
    own = None if classes is None else classes[order][None]
    rounds = ROUNDS
    while True:
        keep, settled = keep_gpu(boxes[order][None], own, alive, iou_thresh, rounds)
        read = np.asarray(mx.concatenate([keep[0], settled]))
        if read[-1]:
            return order[mx.array(np.flatnonzero(read[:-1]).astype(np.int32))]
        rounds = min(8 * rounds, BLOCK)  # a block has no longer chain


def round_down(thresh: float, dtype: Any) -> np.floating:
    """Return the largest number of ``dtype`` that is not above ``thresh``.

    torchvision compares the float32 IoU with the threshold as a double; rounded to nearest, 0.7
    would become a float32 below itself and 0.3 one above.
    """
    rounded = np.dtype(dtype).type(thresh)
    return rounded if float(rounded) <= thresh else np.nextafter(rounded, rounded.dtype.type(-1))
