"""RoIAlign in MLX, for a fixed number of samples: nothing is read back, and memory is bounded.

Which cells an RoI reads is computed where the RoIs are. Every bin gathers the four taps of each of its S × S samples,
for as many RoIs at a time as a bounded memory holds.

Shapes and names are those of :mod:`~lucid_maskrcnn.ops.roi_align`; T = 2 · S are a bin's taps along an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ._checks import within

__all__ = ["Grid", "Pyramid", "Reads", "add_gradients", "fits", "pool", "pyramid", "reads"]

_GATHERED = 1 << 24  # numbers gathered at a time: 64 MB


class Grid(NamedTuple):
    """How RoIs are cut into bins, and bins into samples."""

    output_size: tuple[int, int]
    sampling_ratio: int
    aligned: bool


class Pyramid(NamedTuple):
    """The maps as one array, and where each of them lies in it."""

    cells: mx.array  # (all N · H · W, C)
    shapes: list[tuple[int, int, int, int]]  # (N, H, W, C) of each map
    starts: list[int]  # the first cell of each map
    scales: Sequence[tuple[float, float]]  # cells for each pixel of the image, along y and x

    @property
    def table(self) -> np.ndarray:
        """First cell, height and width of each map, (L, 3) int32."""
        rows = [(start, h, w) for start, (_, h, w, _) in zip(self.starts, self.shapes, strict=True)]
        return np.array(rows, np.int32)

    def split(self, total: mx.array) -> list[mx.array]:
        """Cut an array like ``cells`` into maps (N, H, W, C)."""
        return [
            part.reshape(shape)
            for part, shape in zip(mx.split(total, self.starts[1:]), self.shapes, strict=True)
        ]  # fmt: skip


def pyramid(maps: Sequence[mx.array], scales: Sequence[tuple[float, float]]) -> Pyramid:
    """Return the maps (N, H, W, C) as one array."""
    shapes = [(m.shape[0], m.shape[1], m.shape[2], m.shape[3]) for m in maps]
    num_cells = [n * h * w for n, h, w, _ in shapes]
    flat = [m.reshape(num, m.shape[3]) for m, num in zip(maps, num_cells, strict=True)]
    return Pyramid(mx.concatenate(flat), shapes, [0, *np.cumsum(num_cells[:-1]).tolist()], scales)


class Reads(NamedTuple):
    """Which cells every RoI reads, along each axis: a cell is the sum of a row's number and of a column's."""

    rows: mx.array  # (R, Py, T) int32, the first cell of each row
    columns: mx.array  # (R, Px, T) int32
    weights_y: mx.array  # (R, Py, T) float32
    weights_x: mx.array  # (R, Px, T) float32


def fits(grid: Grid, channels: int) -> bool:
    """Return whether each RoI reads a fixed number of cells that may be gathered at once."""
    return grid.sampling_ratio > 0 and _cells_of_roi(grid) * channels <= _GATHERED


def _cells_of_roi(grid: Grid) -> int:
    return grid.output_size[0] * grid.output_size[1] * (2 * grid.sampling_ratio) ** 2


def reads(rois: mx.array, roi_idx: mx.array, levels: mx.array, maps: Pyramid, grid: Grid) -> Reads:
    """Return what every RoI reads of its map.

    Looking at indices on the host would mean to wait. An RoI whose image or level does not exist reads cells of
    another, with weights that are NaN.
    """
    num_images, num_levels = maps.shapes[0][0], len(maps.shapes)
    (of_image, image), (of_level, level) = within(roi_idx, num_images), within(levels, num_levels)
    known = of_image & of_level  # (R,)
    own = mx.array(maps.table)[level]  # (R, 3)
    scales = mx.array(np.array(maps.scales, np.float32))[level]  # (R, 2)
    taps, weights = _taps_of_bins(rois, scales, own[:, 1:], grid)
    first = own[:, :1] + image[:, None] * own[:, 1:2] * own[:, 2:]  # (R, 1)
    bins_y, width = grid.output_size[0], own[:, 2, None, None]
    weights_y = mx.where(known[:, None, None], weights[:, :bins_y], mx.nan)
    rows = first[:, None] + taps[:, :bins_y] * width
    return Reads(rows, taps[:, bins_y:], weights_y, weights[:, bins_y:])


def _taps_of_bins(rois: mx.array, scales: mx.array, sizes: mx.array, grid: Grid) -> tuple[mx.array, mx.array]:
    """Return the taps (R, Py + Px, T) of all bins, those along y first, and their weights.

    Arithmetic is the host's, in its order. Scales and sizes (R, 2) are those of each RoI's map.
    """
    offset = 0.5 if grid.aligned else 0.0
    start = rois[:, 1::-1] * scales - offset  # (R, 2), along y and x
    length = rois[:, :1:-1] * scales - offset - start
    if not grid.aligned:
        length = mx.maximum(length, 1)
    step = length / mx.array(np.array(grid.output_size, np.float32))
    axis = mx.array(np.repeat(np.arange(2, dtype=np.int32), grid.output_size))  # of each bin
    number = mx.array(np.concatenate([np.arange(bins, dtype=np.float32) for bins in grid.output_size]))
    start, step = (part[:, axis] for part in (start, step))  # (R, Py + Px)
    last = (sizes - 1).astype(mx.float32)[:, axis, None]
    sample = mx.array(np.arange(grid.sampling_ratio, dtype=np.float32) + np.float32(0.5))
    position = (start + number * step)[..., None] + sample * step[..., None] / grid.sampling_ratio  # (R, P, S)
    outside = (position < -1) | (position > last + 1)
    position = mx.maximum(position, 0)
    cell = mx.floor(position)
    upper = mx.where(position >= last, 0, position - cell)  # 0 … 1 from that cell to the next
    cell = mx.where(cell > 0, mx.where(cell < last, cell, last), 0)  # NaN is 0
    of_mean = mx.where(outside, 0.0, 1 / grid.sampling_ratio)
    index = mx.concatenate([cell, mx.minimum(cell + 1, last)], axis=-1).astype(mx.int32)
    return index, mx.concatenate([(1 - upper) * of_mean, upper * of_mean], axis=-1)


def _pieces(read: Reads, channels: int) -> list[slice]:
    """Return which RoIs are gathered together."""
    (num, bins_y, taps), bins_x = read.rows.shape, read.columns.shape[1]
    step = max(1, _GATHERED // (bins_y * bins_x * taps * taps * channels))
    return [slice(start, min(start + step, num)) for start in range(0, num, step)]


def _taps(read: Reads, some: slice) -> tuple[mx.array, mx.array]:
    """Return the cells and the weights (r, Py, Px, T · T) of some RoIs."""
    index = read.rows[some][:, :, None, :, None] + read.columns[some][:, None, :, None, :]
    weight = read.weights_y[some][:, :, None, :, None] * read.weights_x[some][:, None, :, None, :]
    shape = (*index.shape[:3], index.shape[3] * index.shape[4])
    return index.reshape(shape), weight.reshape(shape)


def pool(cells: mx.array, read: Reads) -> mx.array:
    """Return all RoIs, pooled (R, Py, Px, C) from the flattened maps ``cells`` (…, C)."""
    channels = cells.shape[1]
    parts = [mx.zeros((0, read.rows.shape[1], read.columns.shape[1], channels), cells.dtype)]
    for some in _pieces(read, channels):
        # MLX computes what does not depend on each other in any order; all that is gathered would lie side by side.
        source = mx.depends(cells, parts[-1])
        index, weight = _taps(read, some)
        pixels = source[index].astype(mx.float32)  # (r, Py, Px, T · T, C)
        parts.append((weight[..., None, :] @ pixels).squeeze(-2).astype(cells.dtype))
    return mx.concatenate(parts)


def add_gradients(total: mx.array, read: Reads, grad: mx.array) -> mx.array:
    """Add the gradient of the pooled RoIs (R, Py, Px, C) to that of the flattened maps, float32 (…, C)."""
    channels = total.shape[1]
    for some in _pieces(read, channels):
        index, weight = _taps(read, some)
        own = mx.depends(grad, total)[some].astype(mx.float32)
        pixels = weight[..., None] * own[..., None, :]  # (r, Py, Px, T · T, C)
        total = total.at[index.reshape(-1)].add(pixels.reshape(-1, channels))
    return total
