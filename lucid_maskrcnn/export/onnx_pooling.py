"""The stages of :mod:`~lucid_maskrcnn.models.pooling` as nodes.

Shapes: C channels, R RoIs, L levels, h × w cells of a map or of a pooled RoI.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..models.pooling import MultiScaleROIAlign
from ..ops.roi_align import smallest_areas
from .onnx_graph import Graph, Value

__all__ = ["FeatureValues", "PooledRoIs", "map_strides", "multiscale_roi_align"]

_EXPONENTS = np.arange(17)  # of the strides 1 to 65,536


class FeatureValues(NamedTuple):
    """The feature maps (1, C, h, w), finest first, and the pixels along (y, x) from cell to cell of each, (2,)."""

    maps: list[Value]
    strides: list[Value]
    image_size: Value  # (height, width), padding included


class PooledRoIs(NamedTuple):
    """Pooled features, level after level."""

    features: Value  # (R, C, h, w)
    rois: Value  # (R,), whose they are
    places: Value  # (R,), where each RoI's are


def map_strides(g: Graph, image_size: Value, feature_map: Value) -> Value:
    """Return the pixels from cell to cell along y and x, float32 (2,), by the rule of ``map_scale``."""
    cells = g.Shape(feature_map, start=2)
    pixels = image_size.cast(np.float32)
    nearest = pixels / cells.cast(np.float32)
    power = g.constant(np.float32(2.0**_EXPONENTS)).take(_rounded_log2(g, nearest, axis=0))
    integer = g.Max(g.Round(nearest), 1.0)

    def fits(stride: Value) -> Value:
        return g.Equal(g.Ceil(pixels / stride), cells.cast(np.float32))

    return g.Where(fits(power), power, g.Where(fits(integer), integer, nearest))


def _rounded_log2(g: Graph, values: Value, axis: int) -> Value:
    """Return the nearest exponent of 2, at least 0, of values (n,): without a logarithm, which runtimes round."""
    halfway = g.constant(np.float32(2.0 ** (_EXPONENTS[:-1] + 0.5))).unsqueeze(1)
    return g.ReduceSum((values >= halfway).cast(np.int64), [axis], keepdims=0)


def multiscale_roi_align(g: Graph, features: FeatureValues, rois: Value, pooler: MultiScaleROIAlign) -> PooledRoIs:
    """Pool RoIs (R, 4), each from the level of its size."""
    count = pooler.num_levels
    levels = _levels(g, features, rois, pooler)
    members = [g.rows_where(g.Equal(levels, level)) for level in range(count)]
    pooled = [_roi_align(g, features.maps[i], features.strides[i], rois.take(members[i]), pooler) for i in range(count)]
    if count == 1:
        return PooledRoIs(pooled[0], members[0], members[0])
    order = g.Concat(*members, axis=0)
    # Sorting a permutation gives its inverse.
    _, places = g.TopK(order, g.Shape(order), largest=0, outputs=2)
    return PooledRoIs(g.Concat(*pooled, axis=0), order, places)


def _levels(g: Graph, features: FeatureValues, rois: Value, pooler: MultiScaleROIAlign) -> Value:
    """Return the level of each RoI, counted from the finest map: (R,)."""
    sides = rois.part(2, 4) - rois.part(0, 2)
    areas = sides.take([0], axis=1) * sides.take([1], axis=1)  # (R, 1)
    reached = areas >= smallest_areas(len(_EXPONENTS), pooler.level_margin)  # False for NaN
    level = g.ReduceSum(reached.cast(np.int64), [1], keepdims=0)  # k has stride 2**k
    finest = _rounded_log2(g, features.strides[0].part(0, 1, axis=0), axis=0)  # (1,)
    return g.Min(g.Max(level - finest, 0), pooler.num_levels - 1)


def _roi_align(g: Graph, feature_map: Value, stride: Value, rois: Value, pooler: MultiScaleROIAlign) -> Value:
    height, width = pooler.output_size
    cells = rois * (1.0 / stride).take([1, 0, 1, 0])
    image = g.ConstantOfShape(g.Shape(cells, end=1), value=_zero(), dtype=np.int64)
    return g.RoiAlign(
        feature_map,
        cells,
        image,
        output_height=height,
        output_width=width,
        sampling_ratio=pooler.sampling_ratio,
        spatial_scale=1.0,
        coordinate_transformation_mode="half_pixel" if pooler.aligned else "output_half_pixel",
    )


def _zero() -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.zeros(1, np.int64))
