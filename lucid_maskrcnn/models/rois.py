"""Boxes of several images as one flat list of RoIs, and back.

Shapes: n boxes of an image, R RoIs over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from lucid import Tensor

from .. import ops

__all__ = ["concat_rois", "split_per_image"]


def concat_rois(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the boxes of all images, (R, 4), and the index of each one's image, (R,) int32."""
    return ops.concat(boxes), ops.concat([ops.full(b.shape[0], i, b) for i, b in enumerate(boxes)])


def split_per_image(values: Tensor, boxes: Sequence[Tensor]) -> list[Tensor]:
    """Cut ``values``, a row for each of the ``boxes`` in :func:`concat_rois`'s order, into those of each image."""
    parts, end = [], 0
    for b in boxes:
        start, end = end, end + b.shape[0]
        parts.append(values[start:end])
    return parts
