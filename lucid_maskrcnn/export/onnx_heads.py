"""The stages of :mod:`~lucid_maskrcnn.models.heads` as nodes.

Shapes: R proposals, K classes without background, M the side of a mask, n detections, C channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..models.heads import ConvStack
from .onnx_boxes import apart, clip_boxes, decode_boxes, finite, large_enough, suppressed
from .onnx_graph import Graph, Value
from .onnx_layers import conv_norm, conv_transpose2d, linear, numbers_of
from .onnx_pooling import FeatureValues, multiscale_roi_align

__all__ = ["DetectionValues", "box_head", "detect", "mask_probs"]


class DetectionValues(NamedTuple):
    """Detections, best first."""

    boxes: Value  # (n, 4), pixels of the network's input
    scores: Value  # (n,)
    classes: Value  # (n,), int64, from 0


def conv_stack(g: Graph, x: Value, stack: ConvStack) -> Value:
    """Write four convolutions."""
    for i in range(1, 5):
        x = conv_norm(g, x, getattr(stack, f"conv{i}"), getattr(stack, f"bn{i}", None), relu=True)
    return x


def box_head(g: Graph, features: FeatureValues, rois: Value, model: Any) -> tuple[Value, Value]:
    """Return the probabilities (R, K + 1) and the deltas (R, K, 4) of the RoIs."""
    pooled = multiscale_roi_align(g, features, rois, model.roipool)
    x = pooled.features
    if model.box_convs is not None:
        x = conv_stack(g, x, model.box_convs)
    x = linear(g, g.Flatten(x), model.fc1, relu=True)
    if model.fc2 is not None:
        x = linear(g, x, model.fc2, relu=True)
    logits, deltas = (linear(g, x, layer).take(pooled.places) for layer in (model.cls_score, model.bbox_pred))
    return g.Softmax(logits, axis=1), deltas.reshape(-1, model.num_classes, 4)


def detect(
    g: Graph, probs: Value, deltas: Value, proposals: Value, size: Value, model: Any, thresholds: Any
) -> DetectionValues:
    """Return the detections among the predictions for R proposals, in an image of ``size`` (height, width)."""
    config, num_classes = model.config.heads, model.num_classes
    boxes = decode_boxes(g, deltas, proposals.unsqueeze(1), config.box_weights)  # (R, K, 4)
    if config.finite_only:
        rows = g.rows_where(finite(g, boxes, [1, 2]) & finite(g, probs, [1]))
        probs, boxes = probs.take(rows), boxes.take(rows)
    # 1. every pair of a class and a proposal: its score, and its box inside the image, if it is not too small
    boxes = clip_boxes(g, boxes, size).transpose(1, 0, 2)  # (K, R, 4)
    scores = probs.part(1, num_classes + 1, axis=1).transpose(1, 0)  # (K, R)
    scores = g.Where(large_enough(g, boxes, config.min_size), scores, g.constant(-1, np.float32))
    # 2. non-maximum suppression within each class
    kept = suppressed(
        g, boxes + _offsets(g, boxes, scores, thresholds.score_thresh), scores, thresholds.nms_thresh,
        thresholds.score_thresh,
    )  # fmt: skip
    # 3. the best of what is left; of equal scores the earlier proposal, and then the lower class, comes first
    pairs = kept.take(1, axis=1) * num_classes + kept.take(0, axis=1)
    pairs, _ = g.TopK(pairs, g.Shape(pairs), largest=0, outputs=2)
    rows, classes = pairs / num_classes, pairs % num_classes
    places = g.Concat(classes.unsqueeze(1), rows.unsqueeze(1), axis=1)  # (n, 2)
    found = g.GatherND(scores, places)
    scores, best = g.TopK(found, g.Min(g.Shape(found), [thresholds.top_k]), outputs=2)
    return DetectionValues(g.GatherND(boxes, places.take(best)), scores, classes.take(best))


def _offsets(g: Graph, boxes: Value, scores: Value, score_thresh: float) -> Value:
    """Return what is added to the boxes of each class so that they are apart: (K, 1, 1)."""
    taking_part = scores > g.constant(score_thresh, np.float32)
    count = g.ReduceSum(taking_part.cast(np.int64), keepdims=0)
    zeros = g.constant(0, np.float32)
    corners = g.Where(taking_part, g.ReduceMax(boxes, [2], keepdims=0), zeros).reshape(-1)
    greatest = g.ReduceMax(g.Concat(g.constant([0], np.float32), corners, axis=0), keepdims=0)
    return g.range(boxes.size(0)).cast(np.float32).unsqueeze(1, 2) * apart(g, greatest, count)


def mask_probs(g: Graph, features: FeatureValues, found: DetectionValues, model: Any) -> Value:
    """Return the mask of each detection's own class: (n, M, M)."""
    head, side = model.mask_head, model.config.mask_out_size
    pooled = multiscale_roi_align(g, features, found.boxes, model.mask_roipool)
    classes = found.classes.take(pooled.rois)
    x = conv_transpose2d(g, conv_stack(g, pooled.features, head), head.deconv, relu=True)  # (n, C, M, M)
    name, filters = numbers_of(g, head.mask_predictor.weight)  # (K, C, 1, 1)
    count, channels = filters.shape[:2]
    rows = g.weight(name, filters.reshape(count, 1, channels)).take(classes)  # (n, 1, C)
    logits = rows @ x.reshape(-1, channels, side * side)  # (n, 1, M · M)
    logits = logits + g.weight(*numbers_of(g, head.mask_predictor.bias)).take(classes).unsqueeze(1, 2)
    return g.Sigmoid(logits.reshape(-1, side, side)).take(pooled.places)
