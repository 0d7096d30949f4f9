"""Box arithmetic: area, IoU, clipping and the coding of boxes as deltas, with their gradients.

Shapes: A, B boxes of two sets, R boxes of one set, K classes.

Names: a box is ``(x1, y1, x2, y2)`` in pixels, ``x2`` and ``y2`` are edges: its ``side`` is ``(x2 - x1, y2 - y1)``,
its ``center`` ``(x, y)``. Deltas are ``(dx, dy, dw, dh)``. ``overlap`` is the width and height of an intersection,
``inter`` its area, ``union`` that of the union. In a backward, ``to_x`` is the gradient with respect to x.

float16 boxes are computed and returned as float32: an area of 256 × 256 pixels is beyond float16. Where a function
has a kink, the gradient is torch's: ties of a minimum or maximum share it evenly, a clamp passes it on at its
bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import non_negative_number, pair, positive_number, sequence

from ._checks import box_tensor
from ._operation import Array, Backward, Op, array_module
from ._parallel import parallel_for

__all__ = ["box_area", "box_iou", "clip_boxes", "decode_boxes", "encode_boxes"]

# A predicted side grows at most 62.5-fold (1000 / 16), so that exp() of a large delta stays finite.
LOG_GROWTH_CAP = math.log(1000.0 / 16)
_ANY_BOXES = (..., 4)


# ------------------------------------------------------------------ area and IoU


class _BoxArea(Op):
    def cpu(self, boxes: Array) -> tuple[Array, Backward]:
        xp = array_module(boxes)
        w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]

        def backward(grad: Array) -> tuple[Array]:
            along_x, along_y = grad * h, grad * w
            return (xp.stack([-along_x, -along_y, along_x, along_y], axis=-1),)

        return w * h, backward

    gpu = cpu


def box_area(boxes: Tensor) -> Tensor:
    """Return the area of each box.

    Parameters
    ----------
    boxes : Tensor of shape (..., 4), float
        ``(x1, y1, x2, y2)`` in pixels.

    Returns
    -------
    Tensor of shape (...)
        Square pixels; negative where exactly one pair of corners is swapped.
    """
    return _BoxArea()(box_tensor("boxes", boxes, _ANY_BOXES))


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return :func:`box_iou` (A, B) of boxes (A, 4) and (B, 4)."""
    iou = np.empty((len(a), len(b)), np.result_type(a, b))
    b_corners = np.ascontiguousarray(b.T)  # four rows: all boxes at once along contiguous memory
    b_area = (b_corners[2] - b_corners[0]) * (b_corners[3] - b_corners[1])

    # The arithmetic of overlap_and_union, a row at a time: nothing is of the matrix's size but the result.
    def of_row(i: int) -> None:
        box = a[i]
        wide = np.minimum(b_corners[2], box[2])
        wide -= np.maximum(b_corners[0], box[0])
        high = np.minimum(b_corners[3], box[3])
        high -= np.maximum(b_corners[1], box[1])
        inter = np.maximum(wide, 0, out=wide)
        inter *= np.maximum(high, 0, out=high)
        union = (box[2] - box[0]) * (box[3] - box[1]) + b_area
        union -= inter
        with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is NaN on purpose
            np.divide(inter, union, out=iou[i])

    parallel_for(range(len(a)), of_row)
    return iou


class _BoxIoU(Op):
    def cpu(self, a: Array, b: Array) -> tuple[Array, Backward]:
        return iou_matrix(a, b), self._backward(a, b)

    def gpu(self, a: Array, b: Array) -> tuple[Array, Backward]:
        _, inter, union = overlap_and_union(mx, a, b)
        return inter / union, self._backward(a, b)

    def _backward(self, a: Array, b: Array) -> Backward:
        xp = array_module(a)
        a_side, b_side = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]  # (A, 2), (B, 2)

        def backward(grad: Array) -> tuple[Array | None, Array | None]:
            overlap, inter, union = overlap_and_union(xp, a, b)
            shared = xp.maximum(overlap, 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                by_union = grad / union
                by_area = -by_union * (inter / union)  # (A, B)
                by_inter = by_union - by_area
            # The gradient of the overlap's sides, whichever of the two boxes they come from.
            by_side = by_inter[..., None] * shared[..., ::-1] * (overlap >= 0)  # (A, B, 2)

            def corners(own: Array, other: Array, side: Array, axis: int) -> Array:
                low = (by_side * _tie_fraction(xp, own[..., :2] - other[..., :2])).sum(axis=axis)
                high = (by_side * _tie_fraction(xp, other[..., 2:] - own[..., 2:])).sum(axis=axis)
                by_own_side = by_area.sum(axis=axis)[:, None] * side[:, ::-1]  # d area / d side = other side
                return xp.concatenate([-low - by_own_side, high + by_own_side], axis=-1)

            return (
                corners(a[:, None], b, a_side, 1) if self.needs[0] else None,
                corners(b, a[:, None], b_side, 0) if self.needs[1] else None,
            )

        return backward


def overlap_and_union(xp: Any, a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Return width and height of each pair's overlap, unclamped (A, B, 2), its area, and the union's (A, B)."""
    overlap = xp.minimum(a[:, None, 2:], b[:, 2:]) - xp.maximum(a[:, None, :2], b[:, :2])
    shared = xp.maximum(overlap, 0)
    inter = shared[..., 0] * shared[..., 1]
    a_side, b_side = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    return overlap, inter, (a_side[:, 0] * a_side[:, 1])[:, None] + b_side[:, 0] * b_side[:, 1] - inter


def _tie_fraction(xp: Any, lead: Array) -> Array:
    """Return the fraction of a maximum's gradient that goes to an operand greater by ``lead``: 1, 0; 0.5 if equal."""
    return (xp.sign(lead) + 1) * 0.5


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of every box in ``a`` with every box in ``b``.

    Parameters
    ----------
    a : Tensor of shape (A, 4), float
        ``(x1, y1, x2, y2)`` in pixels.
    b : Tensor of shape (B, 4), float
        ``(x1, y1, x2, y2)`` in pixels of the same image.

    Returns
    -------
    Tensor of shape (A, B)
        0 … 1; NaN, as in torchvision, where both boxes have no area (0/0).
    """
    return _BoxIoU()(box_tensor("a", a, ("A", 4)), box_tensor("b", b, ("B", 4)))


# ------------------------------------------------------------------ clipping


class _ClipBoxes(Op):
    def __init__(self, size: tuple[float, float]) -> None:
        super().__init__()
        self.size = size

    def cpu(self, boxes: Array) -> tuple[Array, Backward]:
        xp = array_module(boxes)
        height, width = self.size
        high = xp.array([width, height, width, height], dtype=boxes.dtype)

        def backward(grad: Array) -> tuple[Array]:
            return (grad * ((boxes >= 0) & (boxes <= high)),)

        return xp.minimum(xp.maximum(boxes, 0), high), backward

    gpu = cpu


def clip_boxes(boxes: Tensor, size: float | tuple[float, float]) -> Tensor:
    """Return the boxes with every corner moved into the image.

    Parameters
    ----------
    boxes : Tensor of shape (..., 4), float
        ``(x1, y1, x2, y2)`` in pixels. A box outside the image becomes one without area on its edge.
    size : (height, width) or number
        Of the image, in pixels; one number is both.

    Returns
    -------
    Tensor of shape (..., 4)
        ``0 <= x <= width`` and ``0 <= y <= height``.
    """
    boxes = box_tensor("boxes", boxes, _ANY_BOXES)
    height, width = pair("size", size, non_negative_number)
    return _ClipBoxes((float(height), float(width)))(boxes)


# ------------------------------------------------------------------ boxes as deltas


class _BoxCoder(Op):
    def __init__(self, weights: tuple[float, ...]) -> None:
        super().__init__()
        self.weights = weights

    def _weights(self, like: Array) -> tuple[Array, Array]:
        """Return the weights of the center (dx, dy) and of the sides (dw, dh)."""
        weights = array_module(like).array(self.weights, dtype=like.dtype)
        return weights[:2], weights[2:]


def _coder_weights(weights: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(w) for w in sequence("weights", weights, positive_number, length=4))


class _EncodeBoxes(_BoxCoder):
    def cpu(self, reference: Array, boxes: Array) -> tuple[Array, Backward]:
        xp = array_module(boxes)
        by_center, by_side = self._weights(boxes)
        side, reference_side = boxes[:, 2:] - boxes[:, :2], reference[:, 2:] - reference[:, :2]
        center = boxes[:, :2] + 0.5 * side
        reference_center = reference[:, :2] + 0.5 * reference_side
        with np.errstate(divide="ignore", invalid="ignore"):  # of a box without area: inf or NaN
            shift = by_center * (reference_center - center) / side  # (R, 2)
            deltas = xp.concatenate([shift, by_side * xp.log(reference_side / side)], axis=1)

        def backward(grad: Array) -> tuple[Array | None, Array | None]:
            with np.errstate(divide="ignore", invalid="ignore"):
                to_center = 0.5 * grad[:, :2] * by_center / side
                to_log = grad[:, 2:] * by_side
                to_reference_side = to_log / reference_side
                to_side = -(to_log + grad[:, :2] * shift) / side
            return (
                _to_corners(xp, to_center, to_reference_side) if self.needs[0] else None,
                _to_corners(xp, -to_center, to_side) if self.needs[1] else None,
            )

        return deltas, backward

    gpu = cpu


def _to_corners(xp: Any, half_center: Array, side: Array) -> Array:
    """Turn half the gradient of the center, and that of the sides, into that of the corners."""
    return xp.concatenate([half_center - side, half_center + side], axis=-1)


def encode_boxes(reference: Tensor, boxes: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Return the deltas of ``reference`` relative to ``boxes``: the inverse of :func:`decode_boxes`.

    Parameters
    ----------
    reference : Tensor of shape (R, 4), float
        Boxes to encode, ground truth; ``(x1, y1, x2, y2)`` in pixels.
    boxes : Tensor of shape (R, 4), float
        Boxes that they are encoded relative to, anchors or proposals.
    weights : four numbers
        Factors of dx, dy, dw, dh: (1, 1, 1, 1) in the RPN, (10, 10, 5, 5) in the box head.

    Returns
    -------
    Tensor of shape (R, 4)
        ``(dx, dy, dw, dh)``: the shift of the center in sides of the box, and the logarithm of the growth
        of the sides. Infinite or NaN for boxes without area.

    References
    ----------
    Girshick et al., Rich feature hierarchies for accurate object detection, 2014, appendix C.
    """
    reference = box_tensor("reference", reference)
    boxes = box_tensor("boxes", boxes, (reference.shape[0], 4))
    return _EncodeBoxes(_coder_weights(weights))(reference, boxes)


class _DecodeBoxes(_BoxCoder):
    def cpu(self, deltas: Array, boxes: Array) -> tuple[Array, Backward]:
        xp = array_module(boxes)
        by_center, by_side = self._weights(boxes)
        rows = boxes.reshape(boxes.shape[0], *(1,) * (deltas.ndim - 2), 4)  # (R, 4) or (R, 1, 4)
        side = rows[..., 2:] - rows[..., :2]
        center = rows[..., :2] + 0.5 * side
        shift = deltas[..., :2] / by_center  # (R, 2) or (R, K, 2)
        log_growth = deltas[..., 2:] / by_side
        growth = xp.exp(xp.minimum(log_growth, LOG_GROWTH_CAP))
        new_center, half = shift * side + center, 0.5 * (growth * side)

        def backward(grad: Array) -> tuple[Array | None, Array | None]:
            to_center = grad[..., :2] + grad[..., 2:]
            to_new_side = 0.5 * (grad[..., 2:] - grad[..., :2])
            to_deltas = to_boxes = None
            if self.needs[0]:
                to_log = to_new_side * (growth * side) / by_side * (log_growth <= LOG_GROWTH_CAP)
                to_deltas = xp.concatenate([to_center * side / by_center, to_log], axis=-1)
            if self.needs[1]:
                to_side = to_center * shift + to_new_side * growth
                to_boxes = _to_corners(xp, 0.5 * to_center, to_side)
                to_boxes = to_boxes if to_boxes.ndim == 2 else to_boxes.sum(axis=1)
            return to_deltas, to_boxes

        return xp.concatenate([new_center - half, new_center + half], axis=-1), backward

    gpu = cpu


def decode_boxes(deltas: Tensor, boxes: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Apply ``deltas`` to ``boxes``: the inverse of :func:`encode_boxes`.

    Parameters
    ----------
    deltas : Tensor of shape (R, 4) or (R, K, 4), float
        ``(dx, dy, dw, dh)``, see :func:`encode_boxes`; K sets for each box. After division by their weight,
        dw and dh count as log(1000 / 16) at most.
    boxes : Tensor of shape (R, 4), float
        Anchors or proposals, ``(x1, y1, x2, y2)`` in pixels.
    weights : four numbers
        Factors of dx, dy, dw, dh: (1, 1, 1, 1) in the RPN, (10, 10, 5, 5) in the box head.

    Returns
    -------
    Tensor of the shape of ``deltas``
        ``(x1, y1, x2, y2)``, not clipped.
    """
    boxes = box_tensor("boxes", boxes)
    deltas = box_tensor("deltas", deltas, _ANY_BOXES)
    if deltas.ndim not in (2, 3) or deltas.shape[0] != boxes.shape[0]:
        raise ValueError(
            f"deltas must have shape (R, 4) or (R, K, 4) with R = {boxes.shape[0]} boxes, got {tuple(deltas.shape)}."
        )
    return _DecodeBoxes(_coder_weights(weights))(deltas, boxes)
