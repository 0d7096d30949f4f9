"""The pasting of :mod:`~lucid_maskrcnn.ops.mask_resampling` as nodes.

Shapes: n masks of M × M cells, images of H × W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .onnx_graph import Graph, Value

__all__ = ["paste_masks"]

_FAR = 2.0**30  # where corners beyond the range of integers are clipped


class _Patch(NamedTuple):
    """What the pixels along one axis of the image see of a mask."""

    weights: Value  # (pixels, M)
    inside: Value  # (pixels,), bool: those that belong to the mask


def paste_masks(g: Graph, probs: Value, boxes: Value, image_size: Value, side: int, thresh: float, snap: bool) -> Value:
    """Paste masks (n, M, M) into images of zeros where their boxes are, in pixels of the image: (n, H, W), bool."""
    height, width = image_size.take(0), image_size.take(1)
    # One mask more than there are, which is cut off: without any, one runtime returns those of the image before.
    probs = g.Concat(probs, g.constant(np.zeros((1, side, side), np.float32)), axis=0)
    boxes = g.Concat(boxes, g.constant(np.zeros((1, 4), np.float32)), axis=0)

    def paste(turn: Value) -> tuple[list[Value], list[Value]]:
        box = boxes.take(turn)
        patch = _snapped if snap else _sampled
        y = patch(g, box.take(1), box.take(3), side, height)
        x = patch(g, box.take(0), box.take(2), side, width)
        pixels = y.weights @ probs.take(turn) @ x.weights.transpose(1, 0)
        over = pixels > thresh if snap else pixels >= thresh
        return [], [over & y.inside.unsqueeze(1) & x.inside.unsqueeze(0)]

    _, (masks,) = g.loop(boxes.size(0), [], paste)
    return g.Slice(masks, [0], boxes.size(0).reshape(1) - 1, [0])


def _sampled(g: Graph, first: Value, last: Value, side: int, limit: Value) -> _Patch:
    """Look each pixel's center up in the box as it is."""
    pixel = g.range(limit).cast(np.float32)
    length = last - first
    margin = length / float(2 * side) + 1.0  # half a cell beyond the box a mask fades out
    inside = (pixel >= g.Floor(first - margin)) & (pixel < g.Ceil(last + margin))
    some = length > 0.0
    position = (pixel + 0.5 - first) / g.Where(some, length, g.constant(1, np.float32)) * float(side) - 0.5
    return _Patch(_bilinear(g, position, 0, side), inside & some)


def _snapped(g: Graph, first: Value, last: Value, side: int, limit: Value) -> _Patch:
    """Resize the mask, with a ring of empty cells around it, to the whole pixels of the box."""
    half = (last - first) * 0.5 * ((side + 2) / side)
    center = (last + first) * 0.5
    start, end = (g.Min(g.Max(v, -_FAR), _FAR).cast(np.int64) for v in (center - half, center + half))
    pixel = g.range(limit)
    step = float(side + 2) / g.Max(end - start + 1, 1).cast(np.float32)
    position = ((pixel - start).cast(np.float32) + 0.5) * step - 0.5
    return _Patch(_bilinear(g, position, 1, side), (pixel >= start) & (pixel <= end))


def _bilinear(g: Graph, position: Value, first: int, side: int) -> Value:
    cells = np.arange(first, first + side, dtype=np.float32)
    return g.Max(1.0 - g.Abs(position.unsqueeze(1) - cells), 0.0)
