"""From the region proposal network's predictions to proposals (Ren et al. 2015, section 3.3), for all images at once.

On cpu an image has as many proposals as there are. On gpu each has room for the same number, and what is left over is
marked: shapes do not depend on the data, so that nothing is waited for.

Shapes: N images, A anchors over all levels, M candidates of an image (the best of each level), P proposals of an image,
R over the batch, L levels that are cut off.

Names: ``objectness`` are logits; ``rows`` say which anchor each candidate comes from, ``levels`` its level; ``alive``
candidates are finite and not too small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.validators import instance, non_negative_int, sequence, shown

from ._checks import check_tensor, image_sizes, tensors
from ._operation import as_tensor, host, no_grad
from .boxes import clip_boxes, decode_boxes
from .nms import batched_nms
from .nms_gpu import BLOCK, ROUNDS, descending_gpu, keep_gpu
from .selection import concat, finite_rows, full, remove_small_boxes, sigmoid, take, top_k_per_level

__all__ = ["ProposalRules", "Proposals", "filter_proposals"]

type Size = tuple[int, int]


class ProposalRules(NamedTuple):
    """What proposals are; see :class:`lucid_maskrcnn.RPNConfig`, whose fields these are."""

    pre_nms_top_n: int
    post_nms_top_n: int
    nms_thresh: float
    min_size: float
    by_logits: bool = False
    finite_only: bool = False


class Proposals(NamedTuple):
    """The proposals of a batch, image after image, best first.

    Attributes
    ----------
    boxes : Tensor of shape (R, 4), float32
        In pixels of the network's input, clipped to the images; zeros where there is none.
    roi_idx : Tensor of shape (R,), int32
        The image of each.
    rooms : list of int
        How many rows of the above belong to each image: on cpu as many as it has proposals.
    counts : Tensor of shape (N,), int32
        How many proposals each image has: the first ones of its rows.
    weakest : Tensor of shape (N, L + 1), float32
        Probability of an object of the last candidate of each level that has more, and last that of the last proposal
        if there are more; NaN else.
    settled : Tensor of shape (N,), bool
        Whether suppression has come to its end: on cpu it always has.
    again : callable
        Returns the proposals again, settled.
    """

    boxes: Tensor
    roi_idx: Tensor
    rooms: list[int]
    counts: Tensor
    weakest: Tensor
    settled: Tensor
    again: Callable[[], Proposals]

    def __repr__(self) -> str:
        return fields_repr(self)

    @classmethod
    def of(cls, boxes: Sequence[Tensor]) -> Proposals:
        """Make them of given boxes, (n, 4) for each image."""
        for i, of_image in enumerate(tensors("boxes", boxes)):
            check_tensor(f"boxes[{i}]", of_image, ("n", 4))
        rooms = [int(b.shape[0]) for b in boxes]
        return cls(
            boxes=concat(boxes),
            roi_idx=concat([full(n, i, boxes[0]) for i, n in enumerate(rooms)]),
            rooms=rooms,
            counts=as_tensor(rooms, boxes[0], "int32"),
            weakest=as_tensor(np.full((len(rooms), 1), np.nan), boxes[0], "float32"),
            settled=as_tensor(np.full(len(rooms), True), boxes[0]),
            again=partial(cls.of, boxes),
        )

    def per_image(self) -> list[Tensor]:
        """Return each image's proposals, (n, 4); on gpu their number is waited for."""
        counts, settled = self._read()
        if not settled:
            return self.again().per_image()
        starts = np.cumsum([0, *self.rooms])
        return [self.boxes[int(s) : int(s) + n] for s, n in zip(starts, counts, strict=False)]

    def on_cpu(self) -> list[Tensor]:
        """Return each image's proposals, (n, 4), on cpu; a gpu is waited for once."""
        if self.boxes.device == "cpu":
            return self.per_image()
        together = mx.concatenate([self.boxes.data.reshape(-1), *self._small()])
        values = np.array(host(Tensor(together)))
        num = len(self.rooms)
        boxes, counts, settled = np.split(values, [values.size - 2 * num, values.size - num])
        if not settled.all():
            return self.again().on_cpu()
        parts = np.split(boxes.reshape(-1, 4), np.cumsum(self.rooms)[:-1])
        return [as_tensor(part[: int(n)]) for part, n in zip(parts, counts, strict=True)]

    def _small(self) -> list[mx.array]:
        return [self.counts.data.astype(mx.float32), self.settled.data.astype(mx.float32)]

    def _read(self) -> tuple[list[int], bool]:
        if self.boxes.device == "cpu":
            return self.rooms, True
        counts, settled = np.split(host(Tensor(mx.concatenate(self._small()))), 2)
        return counts.astype(int).tolist(), bool(settled.all())


def filter_proposals(
    objectness: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    level_sizes: Sequence[int],
    sizes: Sequence[Size],
    rules: ProposalRules,
) -> Proposals:
    """Return the best of the boxes that the anchors' predictions give, without those that overlap a better one.

    Parameters
    ----------
    objectness : Tensor of shape (N, A, 1), float
        Logits.
    deltas : Tensor of shape (N, A, 4), float
        How the boxes lie relative to their anchors: (dx, dy, dw, dh).
    anchors : Tensor of shape (A, 4), float
        The levels one after the other.
    level_sizes : sequence of int
        How many anchors each level has.
    sizes : sequence of N (height, width)
        Of each image, in pixels of the network's input.
    rules : ProposalRules
        Thresholds and limits of the selection.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    instance("rules", rules, ProposalRules, "ProposalRules")
    check_tensor("objectness", objectness, ("N", "A", 1))
    num_images, num_anchors, _ = objectness.shape
    check_tensor("deltas", deltas, (num_images, num_anchors, 4))
    check_tensor("anchors", anchors, (num_anchors, 4))
    if sum(sequence("level_sizes", level_sizes, non_negative_int)) != num_anchors:
        raise ValueError(f"level_sizes must add up to the {num_anchors} anchors, got {shown(level_sizes)}.")
    image_sizes("sizes", sizes, num_images)
    if not objectness.device == deltas.device == anchors.device:
        raise ValueError(f"objectness is on {objectness.device}, deltas or anchors are not: move them together.")
    logits = objectness.reshape(*objectness.shape[:2])
    with no_grad():
        if objectness.device == "gpu":
            return _on_gpu(logits, deltas, anchors, level_sizes, sizes, rules, ROUNDS)
        found = [
            _of_image(take(logits, i), take(deltas, i), anchors, level_sizes, size, rules)
            for i, size in enumerate(sizes)
        ]
        made = Proposals.of([boxes for boxes, _ in found])
        return made._replace(weakest=Tensor(np.stack([weakest for _, weakest in found])))


# ------------------------------------------------------------------ cpu


def _of_image(
    objectness: Tensor, deltas: Tensor, anchors: Tensor, level_sizes: Sequence[int], size: Size, rules: ProposalRules
) -> tuple[Tensor, np.ndarray]:
    # 1. the anchors with the best objectness of each level
    rows, levels = top_k_per_level(objectness, level_sizes, rules.pre_nms_top_n)
    objectness = take(objectness, rows)
    # For ``weakest``, of which a warning is made: whether what is cut off could still have been an object.
    last = [host(sigmoid(take(objectness, as_tensor(_last_rows(level_sizes, rules), dtype="int32"))))]
    # 2. the boxes that they predict
    boxes = decode_boxes(take(deltas, rows), take(anchors, rows))
    if rules.finite_only:
        keep = finite_rows(boxes, objectness)
        boxes, objectness, levels = (take(t, keep) for t in (boxes, objectness, levels))
    # 3. inside the image, and not too small
    boxes = clip_boxes(boxes, size)
    scores = objectness if rules.by_logits else sigmoid(objectness)
    keep = remove_small_boxes(boxes, rules.min_size)
    boxes, scores, levels = (take(t, keep) for t in (boxes, scores, levels))
    # 4. non-maximum suppression within each level
    keep = batched_nms(boxes, scores, levels, rules.nms_thresh)
    num = rules.post_nms_top_n
    if keep.shape[0] > num:
        of_last = take(scores, keep[num - 1 : num])
        last.append(host(sigmoid(of_last) if rules.by_logits else of_last))
    else:
        last.append(np.array([np.nan], np.float32))
    return take(boxes, keep[:num]), np.concatenate(last).astype(np.float32)


def _last_rows(level_sizes: Sequence[int], rules: ProposalRules) -> list[int]:
    """Return the last candidate of each level that has more anchors than are taken."""
    ends = np.cumsum([min(size, rules.pre_nms_top_n) for size in level_sizes])
    return [int(end) - 1 for end, size in zip(ends, level_sizes, strict=True) if size > rules.pre_nms_top_n]


# ------------------------------------------------------------------ gpu


def _on_gpu(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    level_sizes: Sequence[int],
    sizes: Sequence[Size],
    rules: ProposalRules,
    rounds: int,
) -> Proposals:
    objectness, num_images = logits.data, logits.shape[0]
    # 1. the anchors with the best objectness of each level
    rows, levels = _best_of_levels(objectness, level_sizes, rules.pre_nms_top_n)  # (N, M), (M,)
    objectness = mx.take_along_axis(objectness, rows, axis=1)
    # 2. the boxes that they predict
    chosen = mx.take_along_axis(deltas.data, rows[..., None], axis=1)
    boxes = decode_boxes(Tensor(chosen.reshape(-1, 4)), Tensor(anchors.data[rows.reshape(-1)])).data
    boxes = boxes.reshape(num_images, -1, 4)
    alive = mx.full(objectness.shape, True)
    if rules.finite_only:
        alive = mx.isfinite(boxes).all(axis=2) & mx.isfinite(objectness)
    # 3. inside the image, and not too small
    boxes = clipped_per_image(boxes, sizes)
    scores = objectness if rules.by_logits else sigmoid(Tensor(objectness)).data
    alive = alive & large_enough(boxes, rules.min_size)
    # 4. non-maximum suppression within each level
    order = descending_gpu(scores, alive)
    boxes = mx.take_along_axis(boxes, order[..., None], axis=1)
    alive = mx.take_along_axis(alive, order, axis=1)
    keep, settled = keep_gpu(boxes, levels[order], alive, rules.nms_thresh, rounds)
    place, valid, total = first_kept(keep, rules.post_nms_top_n)
    best = mx.where(valid[..., None], mx.take_along_axis(boxes, place[..., None], axis=1), 0)  # (N, P, 4)
    of_kept = mx.take_along_axis(mx.take_along_axis(scores, order, axis=1), place, axis=1)
    more = total > rules.post_nms_top_n
    room = best.shape[1]
    return Proposals(
        boxes=Tensor(best.reshape(-1, 4)),
        roi_idx=Tensor(mx.repeat(mx.arange(num_images, dtype=mx.int32), room)),
        rooms=[room] * num_images,
        counts=Tensor(mx.minimum(total, room)),
        weakest=Tensor(_weakest(objectness, of_kept, more, level_sizes, rules)),
        settled=Tensor(settled),
        again=partial(_on_gpu, logits, deltas, anchors, level_sizes, sizes, rules, BLOCK),
    )


def _weakest(
    objectness: mx.array, of_kept: mx.array, more: mx.array, level_sizes: Sequence[int], rules: ProposalRules
) -> mx.array:
    """Return ``Proposals.weakest``: of the candidates (N, M), and of the kept ones (N, P) where there are ``more``."""
    last = [objectness[:, row : row + 1] for row in _last_rows(level_sizes, rules)]
    before = [sigmoid(Tensor(mx.concatenate(last, axis=1))).data] if last else []
    if not of_kept.shape[1]:
        return mx.concatenate([*before, mx.full((more.shape[0], 1), mx.nan)], axis=1)
    of_last = of_kept[:, -1:]
    of_last = sigmoid(Tensor(of_last)).data if rules.by_logits else of_last
    return mx.concatenate([*before, mx.where(more[:, None], of_last, mx.nan)], axis=1)


def _best_of_levels(objectness: mx.array, level_sizes: Sequence[int], k: int) -> tuple[mx.array, mx.array]:
    rows, levels, start = [], [], 0
    for level, size in enumerate(level_sizes):
        best = descending_gpu(objectness[:, start : start + size])[:, :k] + start
        rows.append(best)
        levels.append(mx.full((best.shape[1],), level, mx.int32))
        start += size
    return mx.concatenate(rows, axis=1), mx.concatenate(levels)


def clipped_per_image(boxes: mx.array, sizes: Sequence[Size]) -> mx.array:
    """Return boxes (N, M, 4) clipped each to its image, as :func:`clip_boxes` does: one table goes to the device."""
    high = np.array([(width, height, width, height) for height, width in sizes], np.float32)
    return mx.minimum(mx.maximum(boxes, 0), mx.array(high.reshape(-1, 1, 4)).astype(boxes.dtype))


def large_enough(boxes: mx.array, min_size: float) -> mx.array:
    """Return which boxes (…, 4) have sides of at least ``min_size``."""
    return (boxes[..., 2:] - boxes[..., :2] >= float(np.float32(min_size))).all(axis=-1)


def first_kept(keep: mx.array, count: int) -> tuple[mx.array, mx.array, mx.array]:
    """Return where the first ``count`` candidates are that are kept, whether there are so many, and how many are kept.

    Of ``keep`` (N, M), bool: (N, P) int32 and (N, P) bool, P at most M, and (N,) int32.
    """
    position = mx.arange(keep.shape[1], dtype=mx.int32)
    place = mx.argsort(mx.where(keep, position, position + keep.shape[1]), axis=1)[:, :count].astype(mx.int32)
    total = keep.astype(mx.int32).sum(axis=1)
    return place, mx.arange(place.shape[1], dtype=mx.int32) < total[:, None], total
