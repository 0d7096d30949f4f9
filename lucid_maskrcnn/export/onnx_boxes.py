"""Box arithmetic and suppression of :mod:`~lucid_maskrcnn.ops` as nodes.

Shapes: R boxes. Boxes are (x1, y1, x2, y2) in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ops.boxes import LOG_GROWTH_CAP
from ..ops.nms_gpu import OFFSET_LIMIT, round_down
from .onnx_graph import Graph, Value

__all__ = ["apart", "clip_boxes", "decode_boxes", "finite", "large_enough", "suppressed"]

_FLOAT_MAX = float(np.finfo(np.float32).max)


def decode_boxes(g: Graph, deltas: Value, boxes: Value, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Value:
    """Apply deltas (…, 4) to boxes that broadcast with them."""
    low, high = boxes.part(0, 2), boxes.part(2, 4)
    side = high - low
    center = low + side * 0.5
    by_center, by_side = np.array(weights[:2], np.float32), np.array(weights[2:], np.float32)
    new_center = deltas.part(0, 2) / by_center * side + center
    growth = g.Exp(g.Min(deltas.part(2, 4) / by_side, LOG_GROWTH_CAP))
    half = growth * side * 0.5
    return g.Concat(new_center - half, new_center + half, axis=-1)


def clip_boxes(g: Graph, boxes: Value, size: Value) -> Value:
    """Move every corner into an image of ``size`` (height, width)."""
    return g.Min(g.Max(boxes, 0.0), size.take([1, 0, 1, 0]).cast(np.float32))


def large_enough(g: Graph, boxes: Value, min_size: float) -> Value:
    """Return which boxes (…, 4) have both sides of at least ``min_size``: (…)."""
    sides = boxes.part(2, 4) - boxes.part(0, 2)
    return _all(g, sides >= min_size, [-1])


def finite(g: Graph, values: Value, axes: Sequence[int]) -> Value:
    """Return where all numbers along some axes are finite."""
    # Without the operator Abs, which one runtime writes over its input that others still read.
    return _all(g, (values <= _FLOAT_MAX) & (values >= -_FLOAT_MAX), axes)


def _all(g: Graph, conditions: Value, axes: Sequence[int]) -> Value:
    return g.ReduceMin(conditions.cast(np.int32), list(axes), keepdims=0) > 0


def apart(g: Graph, greatest: Value, count: Value) -> Value:
    """Return by how much the boxes of one class, or level, are moved from those of the one before: ().

    Up to 1000 boxes torchvision moves them apart, which rounds them a little; ``greatest`` is their largest coordinate.
    """
    return g.Where(count <= OFFSET_LIMIT, greatest + 1.0, g.constant(0, np.float32))


def suppressed(g: Graph, boxes: Value, scores: Value, nms_thresh: float, score_thresh: float | None = None) -> Value:
    """Return class and row of the boxes (K, R, 4) that are kept of each class, best first: (n, 2).

    Scores are (K, R); those not above ``score_thresh`` take no part.
    """
    all_of_them = g.constant([np.iinfo(np.int32).max], np.int64)
    thresh = g.constant([round_down(nms_thresh, np.float32)], np.float32)
    least = None if score_thresh is None else g.constant([score_thresh], np.float32)
    kept = g.NonMaxSuppression(boxes, scores.unsqueeze(1), all_of_them, thresh, least)  # (n, 3)
    return kept.take([0, 2], axis=1)
