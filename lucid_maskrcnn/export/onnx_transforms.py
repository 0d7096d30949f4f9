"""The arithmetic of :mod:`~lucid_maskrcnn.transforms` as nodes: from an image of any size to the network's input.

The operator Resize is neither Pillow's nor torchvision's resizing: one in a hundred detections would differ. So both
are written out, as gathers and weights.

Shapes: an image of H × W pixels is resized to h × w. Sizes are (height, width), int64 (2,).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..config import ImageConfig
from .onnx_graph import Graph, Value

__all__ = ["PreparedImage", "prepare", "ratios"]

_FIXED_POINT = 22  # bits after the point of Pillow's weights
_CHANNELS = 3


class PreparedImage(NamedTuple):
    """The network's input."""

    tensor: Value  # (1, 3, h, w), padded with zeros
    size: Value  # of the image within it
    padded_size: Value
    original_size: Value


def prepare(g: Graph, image: Value, given_size: Value, config: ImageConfig) -> PreparedImage:
    """Resize, normalize and pad an image (H, W, 3); ``given_size`` replaces the size by the model's rule if not 0."""
    original = g.Shape(image, end=2)
    with g.scope("size"):
        size = g.Where(given_size > 0, given_size, resized_size(g, original, config))
    with g.scope("resize"):
        resize = _antialiased if config.antialias else _interpolated
        pixels = resize(g, image, original, size)  # (h, w, 3), float32
    with g.scope("normalize"):
        std = 255.0 * np.asarray(config.pixel_std)
        shift = 255.0 * np.asarray(config.pixel_mean) / std
        pixels = pixels.transpose(2, 0, 1)
        pixels = pixels * _of_channels(1.0 / std) - _of_channels(shift)
        padded = (size + (config.size_divisor - 1)) / config.size_divisor * config.size_divisor
        beyond = g.Concat(g.constant([0] * 6, np.int64), padded - size, axis=0)  # begins and ends of four axes
        tensor = g.Pad(pixels.unsqueeze(0), beyond)
    return PreparedImage(tensor, size, padded, original)


def _of_channels(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.float32).reshape(_CHANNELS, 1, 1)


def ratios(g: Graph, to_size: Value, from_size: Value) -> Value:
    """Return the factors of boxes (x1, y1, x2, y2) from one size to the other, float32 (4,)."""
    by_axis = to_size.cast(np.float32) / from_size.cast(np.float32)
    return by_axis.take([1, 0, 1, 0])


# ------------------------------------------------------------------ sizes


def resized_size(g: Graph, size: Value, config: ImageConfig) -> Value:
    """Return the size that an image is resized to, by the model's rule.

    In float64, as everywhere: the products are rounded down, and in float32 some would fall below the integer that they
    are meant to be.
    """
    sides = size.cast(np.float64)
    # The least quotient, not the quotient by the greatest side: one runtime computes that the wrong way round.
    longest = g.ReduceMin(config.max_size / sides, keepdims=0)
    if config.antialias:
        return _rounded_size(g, sides, config)
    scale = g.ReduceMax(config.min_size / sides, keepdims=0) if config.scale is None else config.scale
    return g.Max((sides * g.Min(longest, scale)).cast(np.int64), 1)


def _rounded_size(g: Graph, sides: Value, config: ImageConfig) -> Value:
    if config.scale is None:
        short = g.Equal(sides, g.ReduceMin(sides, keepdims=0))
        scaled = sides * g.ReduceMax(config.min_size / sides, keepdims=0)
        scaled = g.Where(short, g.constant(config.min_size, np.float64), scaled)
    else:
        scaled = sides * config.scale
    too_long = g.ReduceMax(scaled, keepdims=0) > config.max_size
    scaled = g.Where(too_long, scaled * g.ReduceMin(config.max_size / scaled, keepdims=0), scaled)
    return g.Max((scaled + 0.5).cast(np.int64), 1)


def _along(g: Graph, numbers: Value, axis: int) -> Value:
    """Return a number for each row, or for each column, of pixels (h, w, 3) in a shape that multiplies with them."""
    if axis == 0:
        return numbers.unsqueeze(1, 2)
    return g.Expand(numbers.unsqueeze(1), [1, _CHANNELS])  # broadcasting the last axis is slow


# ------------------------------------------------------------------ torchvision's interpolation


def _interpolated(g: Graph, image: Value, original: Value, size: Value) -> Value:
    pixels = image
    for axis in (0, 1):
        before, after, fraction = _neighbours(g, original.take(axis), size.take(axis))
        first, second = (pixels.take(cells, axis=axis).cast(np.float32) for cells in (before, after))
        pixels = first + (second - first) * _along(g, fraction, axis)
    return pixels


def _neighbours(g: Graph, n_in: Value, n_out: Value) -> tuple[Value, Value, Value]:
    """Return the cells before and after each output position, and its fraction of the way between."""
    step = n_in.cast(np.float32) / n_out.cast(np.float32)
    source = ((g.range(n_out).cast(np.float64) + 0.5) * step.cast(np.float64) - 0.5).cast(np.float32)
    source = g.Min(g.Max(source, 0.0), (n_in - 1).cast(np.float32))
    before = source.cast(np.int64)
    return before, g.Min(before + 1, n_in - 1), source - before.cast(np.float32)


# ------------------------------------------------------------------ Pillow's


def _antialiased(g: Graph, image: Value, original: Value, size: Value) -> Value:
    """Resize as Pillow: rows and then columns, each a sum of pixels times integers, rounded to whole values."""
    pixels = image
    for axis in (1, 0):
        with g.scope(f"axis_{axis}"):
            pixels = _weighted(g, pixels, original.take(axis), size.take(axis), axis)
    return pixels.cast(np.float32)


def _weighted(g: Graph, pixels: Value, n_in: Value, n_out: Value, axis: int) -> Value:
    first, weights = _taps(g, n_in, n_out)  # (n_out,), (K, n_out)
    last = n_in - 1
    shape = g.Concat(
        *(n_out.reshape(1) if i == axis else g.Shape(pixels, start=i, end=i + 1) for i in range(3)), axis=0
    )
    rounding = g.Expand(g.constant(1 << (_FIXED_POINT - 1), np.int32), shape)

    def add(tap: Value, total: Value) -> tuple[list[Value], list[Value]]:
        cells = pixels.take(g.Min(first + tap, last), axis=axis).cast(np.int32)
        return [total + cells * _along(g, weights.take(tap), axis)], []

    (total,), _ = g.loop(weights.size(0), [rounding], add)
    # What a loop returns has no rank for shape inference, and ONNX Runtime 1.14 needs one. A zero keeps a side.
    total = total.reshape(0, 0, _CHANNELS)
    return g.Min(total / (1 << _FIXED_POINT), 255).cast(np.uint8)


def _taps(g: Graph, n_in: Value, n_out: Value) -> tuple[Value, Value]:
    """Return the first cell of each output position, and the weights of it and those behind it in fixed point."""
    support = g.Max(n_in.cast(np.float64) / n_out.cast(np.float64), 1.0)
    # The center, (i + 0.5) · n_in / n_out, as an integer and a fraction: exact in runtimes without float64, too.
    doubled = (g.range(n_out) * 2 + 1) * n_in
    cell = doubled / (n_out * 2)
    fraction = (doubled - cell * (n_out * 2)).cast(np.float64) / (n_out * 2).cast(np.float64)
    first = g.Max(cell + g.Floor(fraction - support + 0.5).cast(np.int64), 0)
    stop = g.Min(cell + g.Floor(fraction + support + 0.5).cast(np.int64), n_in)
    tap = g.range(g.ReduceMax(stop - first, keepdims=0)).unsqueeze(1)  # (K, 1)
    position = ((first + tap - cell).cast(np.float64) - fraction + 0.5) * (1.0 / support)
    weights = g.Max(1.0 - g.Abs(position), 0.0)
    weights = g.Where(first + tap < stop, weights, g.constant(0, np.float64))
    weights = weights * (1.0 / g.ReduceSum(weights, [0], keepdims=1))
    return first, (weights * float(1 << _FIXED_POINT) + 0.5).cast(np.int32)
