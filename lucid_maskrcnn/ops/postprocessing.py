"""From the box head's predictions to detections, for all images at once.

On gpu all of it happens on the device, and one read brings how many detections there are: the mask head's batch depends
on that. Greedy suppression is decided by a prefix in the order of scores, so that there the best candidates are looked
at first, and more only if they leave fewer detections than wanted.

Shapes: N images, P proposals of an image, R over the batch, K classes without background, M = P · K pairs of a proposal
and a class, n detections of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.validators import instance

from ._checks import check_tensor, image_sizes
from ._operation import as_tensor, host, no_grad
from .boxes import clip_boxes, decode_boxes
from .nms import batched_nms, nms
from .nms_gpu import ROUNDS, descending_gpu, keep_gpu
from .proposals import Proposals, clipped_per_image, first_kept, large_enough
from .selection import finite_rows, nonzero_above, pick, remove_small_boxes, softmax, take

__all__ = ["BoxDetections", "DetectionRules", "detect_boxes"]

_CANDIDATES = 4096  # looked at first on gpu
_SMALL = 4  # numbers of an image that are read: detections, those before the cut, whether there are more, settled

type Size = tuple[int, int]


class DetectionRules(NamedTuple):
    """What detections are; see :class:`lucid_maskrcnn.HeadConfig` and ``predict``."""

    score_thresh: float
    nms_thresh: float
    top_k: int
    box_weights: tuple[float, ...]
    min_size: float
    finite_only: bool = False
    classes: tuple[int, ...] | None = None  # labels, from 1; None is all of them
    class_agnostic: bool = False


class BoxDetections(NamedTuple):
    """The detections of one image before their masks, best first.

    Attributes
    ----------
    boxes : Tensor of shape (n, 4)
        In pixels of the network's input.
    scores : Tensor of shape (n,)
        Probability of the label, 0 … 1, in descending order.
    labels : Tensor of shape (n,), int32
        From 1.
    num_before_top_k : int
        How many there would be without ``top_k``; on gpu, if it is more than ``top_k``, at least so many.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    num_before_top_k: int

    def __repr__(self) -> str:
        return fields_repr(self)


def detect_boxes(
    cls_logits: Tensor, bbox_deltas: Tensor, proposals: Proposals, sizes: Sequence[Size], rules: DetectionRules
) -> list[BoxDetections] | None:
    """Return each image's detections; None if the proposals turn out not to be settled, on gpu.

    Parameters
    ----------
    cls_logits, bbox_deltas : Tensor of shape (R, K + 1), (R, 4 · K)
        Predictions for the rows of ``proposals``.
    proposals : Proposals
        The R boxes that the predictions are for, and their images.
    sizes : sequence of N (height, width)
        Of each image, in pixels of the network's input.
    rules : DetectionRules
        Thresholds and limits of the selection.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    instance("proposals", proposals, Proposals, "Proposals")
    instance("rules", rules, DetectionRules, "DetectionRules")
    check_tensor("cls_logits", cls_logits, (proposals.boxes.shape[0], "K"))
    check_tensor("bbox_deltas", bbox_deltas, (proposals.boxes.shape[0], 4 * (cls_logits.shape[1] - 1)))
    image_sizes("sizes", sizes, len(proposals.rooms))
    if not cls_logits.device == bbox_deltas.device == proposals.boxes.device:
        raise ValueError(f"cls_logits is on {cls_logits.device}, bbox_deltas or proposals are not: move them together.")
    num_classes = cls_logits.shape[1] - 1
    deltas = bbox_deltas.reshape(bbox_deltas.shape[0], num_classes, 4)
    with no_grad():
        if cls_logits.device == "gpu":
            return _on_gpu(_probabilities(cls_logits, rules), deltas, proposals, sizes, rules)
        found, end = [], 0
        for room, size in zip(proposals.rooms, sizes, strict=True):
            some = slice(end, end := end + room)
            probs = _probabilities(cls_logits[some], rules)
            found.append(_of_image(probs, deltas[some], proposals.boxes[some], size, rules))
        return found


def _probabilities(cls_logits: Tensor, rules: DetectionRules) -> Tensor:
    """Return (R, K + 1), 0 for classes that are not asked for: no score is above a threshold then."""
    probs = softmax(cls_logits)
    if rules.classes is None:
        return probs
    asked = np.zeros(probs.shape[1], np.float32)
    asked[[0, *rules.classes]] = 1
    return Tensor(probs.data * as_tensor(asked, probs).data)


# ------------------------------------------------------------------ cpu


def _of_image(
    probs: Tensor, bbox_deltas: Tensor, proposals: Tensor, size: Size, rules: DetectionRules
) -> BoxDetections:
    if rules.finite_only:
        keep = finite_rows(decode_boxes(bbox_deltas, proposals, rules.box_weights), probs)
        probs, bbox_deltas, proposals = (take(t, keep) for t in (probs, bbox_deltas, proposals))
    # 1. every pair of a proposal and a class whose score is high enough
    class_probs = probs[:, 1:]  # (R, K)
    rows, classes = nonzero_above(class_probs, rules.score_thresh)
    scores = pick(class_probs, rows, classes)
    # 2. its box, inside the image
    deltas = pick(bbox_deltas, rows, classes)
    boxes = clip_boxes(decode_boxes(deltas, take(proposals, rows), rules.box_weights), size)
    # 3. not too small
    keep = remove_small_boxes(boxes, rules.min_size)
    boxes, scores, classes = (take(t, keep) for t in (boxes, scores, classes))
    # 4. non-maximum suppression, mostly within each class, and the best of what is left
    if rules.class_agnostic:
        left = nms(boxes, scores, rules.nms_thresh)
    else:
        left = batched_nms(boxes, scores, classes, rules.nms_thresh)
    keep = left[: rules.top_k]
    return BoxDetections(take(boxes, keep), take(scores, keep), take(classes, keep) + 1, left.shape[0])


# ------------------------------------------------------------------ gpu


class _Candidates(NamedTuple):
    """Pairs of a proposal and a class in the order of their scores, those that are not alive last."""

    boxes: mx.array  # (N, M, 4)
    scores: mx.array  # (N, M)
    classes: mx.array  # (N, M), int32
    alive: mx.array  # (N, M), bool


def _on_gpu(
    probs: Tensor, deltas: Tensor, proposals: Proposals, sizes: Sequence[Size], rules: DetectionRules
) -> list[BoxDetections] | None:
    candidates = _candidates(probs, deltas, proposals, sizes, rules)
    most = candidates.scores.shape[1]
    if not most:
        return _cut(candidates, [0] * len(sizes), [0] * len(sizes))
    looked_at, rounds = min(_CANDIDATES, most), ROUNDS
    while True:
        found, small = _suppress(candidates, looked_at, rules, rounds)
        read = host(Tensor(mx.concatenate([small, proposals.settled.data[:, None].astype(mx.float32)], axis=1)))
        if not read[:, _SMALL].all():
            return None
        counts, totals = read[:, 0].astype(int), read[:, 1].astype(int)
        too_few, settled = (read[:, 2] > 0) & (totals < rules.top_k), read[:, 3] > 0
        if settled.all() and not too_few.any():
            return _cut(found, counts.tolist(), totals.tolist())
        rounds = rounds if settled.all() else 8 * rounds
        looked_at = min(4 * looked_at, most) if too_few.any() else looked_at


def _candidates(
    probs: Tensor, deltas: Tensor, proposals: Proposals, sizes: Sequence[Size], rules: DetectionRules
) -> _Candidates:
    num_images, num_classes = len(sizes), deltas.shape[1]
    # 1. every pair of a proposal and a class, whether its score is high enough
    decoded = decode_boxes(deltas, proposals.boxes, rules.box_weights).data  # (R, K, 4)
    scores = probs.data[:, 1:].reshape(num_images, -1)  # (N, P · K)
    room = scores.shape[1] // num_classes
    filled = mx.arange(room, dtype=mx.int32) < proposals.counts.data[:, None]  # (N, P)
    if rules.finite_only:
        finite = mx.isfinite(decoded).all(axis=(1, 2)) & mx.isfinite(probs.data).all(axis=1)
        filled = filled & finite.reshape(num_images, room)
    alive = mx.repeat(filled, num_classes, axis=1) & (scores > float(np.float32(rules.score_thresh)))
    # 2. its box, inside the image
    boxes = clipped_per_image(decoded.reshape(num_images, room * num_classes, 4), sizes)
    # 3. not too small
    alive = alive & large_enough(boxes, rules.min_size)
    order = descending_gpu(scores, alive)
    return _Candidates(
        boxes=mx.take_along_axis(boxes, order[..., None], axis=1),
        scores=mx.take_along_axis(scores, order, axis=1),
        classes=order % num_classes,
        alive=mx.take_along_axis(alive, order, axis=1),
    )


def _suppress(
    candidates: _Candidates, looked_at: int, rules: DetectionRules, rounds: int
) -> tuple[_Candidates, mx.array]:
    """Return the detections among the first ``looked_at`` candidates, and the numbers to read of each image."""
    # 4. non-maximum suppression, mostly within each class, and the best of what is left
    some = _Candidates(*(a[:, :looked_at] for a in candidates))
    in_all = candidates.alive.astype(mx.int32).sum(axis=1)
    of_all = (candidates.boxes, candidates.alive)
    classes = None if rules.class_agnostic else some.classes
    keep, settled = keep_gpu(some.boxes, classes, some.alive, rules.nms_thresh, rounds, of_all=of_all)
    place, valid, total = first_kept(keep, rules.top_k)
    found = _Candidates(
        boxes=mx.take_along_axis(some.boxes, place[..., None], axis=1),
        scores=mx.take_along_axis(some.scores, place, axis=1),
        classes=mx.take_along_axis(some.classes, place, axis=1),
        alive=valid,
    )
    numbers = (mx.minimum(total, rules.top_k), total, in_all > looked_at, settled)
    return found, mx.stack([n.astype(mx.float32) for n in numbers], axis=1)


def _cut(found: _Candidates, counts: Sequence[int], totals: Sequence[int]) -> list[BoxDetections]:
    return [
        BoxDetections(
            Tensor(found.boxes[i, :n]), Tensor(found.scores[i, :n]), Tensor(found.classes[i, :n] + 1), totals[i]
        )
        for i, n in enumerate(counts)
    ]
