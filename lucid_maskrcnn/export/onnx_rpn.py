"""The stages of :mod:`~lucid_maskrcnn.models.rpn` as nodes.

Shapes: A anchors at a position of a map of h × w cells, k candidates of a level, R proposals.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from .onnx_boxes import apart, clip_boxes, decode_boxes, finite, large_enough, suppressed
from .onnx_graph import Graph, Value
from .onnx_layers import conv2d, sigmoid
from .onnx_pooling import FeatureValues

__all__ = ["propose"]


class _Level(NamedTuple):
    """The candidates of one map."""

    boxes: Value  # (k, 4)
    objectness: Value  # (k,), logits in descending order

    def rows(self, rows: Value) -> _Level:
        return _Level(self.boxes.take(rows), self.objectness.take(rows))


def propose(g: Graph, features: FeatureValues, size: Value, rpn: Any) -> Value:
    """Return the proposals in an image of ``size`` (height, width), best first: (R, 4)."""
    config = rpn.config
    levels = []
    for i in range(len(features.maps)):
        with g.scope(f"level_{i}"):
            levels.append(_candidates(g, features, i, size, rpn))
    with g.scope("suppression"):
        offsets = _offsets(g, levels)
        kept = []
        for level, offset in zip(levels, offsets, strict=True):
            boxes = (level.boxes + offset).unsqueeze(0)
            # Within a level probabilities have the order of the logits, which never tie where those do not.
            kept.append(level.rows(suppressed(g, boxes, level.objectness.unsqueeze(0), config.nms_thresh).take(1, 1)))
        boxes = g.Concat(*(level.boxes for level in kept), axis=0)
        objectness = g.Concat(*(level.objectness for level in kept), axis=0)
        scores = objectness if config.by_logits else sigmoid(g, objectness)
        _, best = g.TopK(scores, g.Min(g.Shape(scores), [config.post_nms_top_n]), outputs=2)
    return boxes.take(best)


def _candidates(g: Graph, features: FeatureValues, index: int, size: Value, rpn: Any) -> _Level:
    config, feature_map = rpn.config, features.maps[index]
    logits, deltas = _head(g, feature_map, rpn.head)
    # 1. the anchors with the best objectness
    objectness, rows = g.TopK(logits, g.Min(g.Shape(logits), [config.pre_nms_top_n]), outputs=2)
    # 2. the boxes that they predict
    anchors = _anchors(g, rows, features, index, rpn.anchor_generator)
    level = _Level(decode_boxes(g, deltas.take(rows), anchors), objectness)
    if config.finite_only:
        keep = finite(g, g.Concat(level.boxes, objectness.unsqueeze(1), axis=1), [1])
        level = level.rows(g.rows_where(keep))
    # 3. inside the image, and not too small
    level = _Level(clip_boxes(g, level.boxes, size), level.objectness)
    return level.rows(g.rows_where(large_enough(g, level.boxes, config.min_size)))


def _head(g: Graph, feature_map: Value, head: Any) -> tuple[Value, Value]:
    """Return logits (h · w · A,) and deltas (h · w · A, 4) of one map; its layers are shared by all."""
    convs = [head.conv, *(getattr(head, f"conv{i + 1}") for i in range(1, head.depth))]
    hidden = reduce(lambda x, conv: conv2d(g, x, conv, relu=True), convs, feature_map)
    logits, deltas = (conv2d(g, hidden, conv).transpose(0, 2, 3, 1) for conv in (head.cls_logits, head.bbox_pred))
    return logits.reshape(-1), deltas.reshape(-1, 4)


def _anchors(g: Graph, rows: Value, features: FeatureValues, index: int, generator: Any) -> Value:
    """Return the anchors with these numbers, (k, 4): row by row, column by column, cell by cell."""
    feature_map, strides = features.maps[index], features.strides[index]
    if not generator.nominal_strides:
        strides = g.Max(features.image_size / g.Shape(feature_map, start=2), 1).cast(np.float32)
    position = rows / generator.num_anchors
    columns = feature_map.size(3)
    y = position / columns
    x = position - y * columns
    shift = g.Concat(x.unsqueeze(1), y.unsqueeze(1), axis=1).cast(np.float32) * strides.take([1, 0])  # (k, 2)
    cells = g.constant(generator.cells[index], np.float32).take(rows - position * generator.num_anchors)
    return cells + g.Concat(shift, shift, axis=1)


def _offsets(g: Graph, levels: list[_Level]) -> list[Value]:
    """Return what is added to the boxes of each level so that they are apart, as :func:`apart` has it."""
    count = reduce(Value.__add__, (level.objectness.size(0) for level in levels))
    # A row of zeros, as there may be no boxes, whose greatest coordinate runtimes do not agree on.
    zero = g.constant(np.zeros((1, 4), np.float32))
    greatest = g.ReduceMax(g.Concat(zero, *(level.boxes for level in levels), axis=0), keepdims=0)
    step = apart(g, greatest, count)
    return [step * float(i) for i in range(len(levels))]
