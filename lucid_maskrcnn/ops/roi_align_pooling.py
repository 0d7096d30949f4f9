"""RoIAlign on cpu: what a plan says, pooled.

Small RoIs are pooled a batch at a time, for with one after the other most of the time would go into calling NumPy;
their cells are copied together. The cells of larger ones are read where they are.

Shapes and names are those of :mod:`~lucid_maskrcnn.ops.roi_align`; B RoIs of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ._parallel import chunks, parallel_for, scratch
from .roi_align_plan import Chunk, Region, num_cells, regions, some_rows

__all__ = ["pool_rois"]

_SMALL = 1 << 15  # numbers that an RoI reads: above, copying them takes longer than a call
_BATCH = 1 << 19  # numbers that a batch copies: they stay in the cache
_MOST = 64  # RoIs of a batch
_TASK = 32  # larger RoIs pooled by a thread at a time


class _Batch(NamedTuple):
    """RoIs of one map and similar size."""

    chunk: Chunk
    rows: np.ndarray  # (B,) int, of the chunk


def pool_rois(
    maps: Sequence[np.ndarray], planned: Sequence[Chunk], levels: np.ndarray, roi_idx: np.ndarray, pooled: np.ndarray
) -> None:
    """Pool RoIs from the maps.

    Parameters
    ----------
    maps : sequence of ndarray of shape (N, H, W, C)
        One for each level.
    planned : sequence of Chunk
        What each RoI reads of its map.
    levels, roi_idx : ndarray of shape (R,), int
        Map and image of each RoI.
    pooled : ndarray of shape (R, Py, Px, C)
        What is written.
    """
    channels = pooled.shape[3]
    small = [num_cells(chunk) * channels <= _SMALL for chunk in planned]
    read = regions(some_rows(planned, [~rows for rows in small]))

    def pool(task: _Batch | slice) -> None:
        if isinstance(task, _Batch):
            members = task.chunk.members[task.rows]
            pooled[members] = _pool_batch(maps[levels[members[0]]], roi_idx[members], task, pooled.shape[1:3])
            return
        for region in read[task]:
            _pool_region(maps[levels[region.roi]][roi_idx[region.roi]], region, pooled[region.roi])

    tasks: list[_Batch | slice] = [*chunks(len(read), _TASK)]
    for chunk in some_rows(planned, small):
        tasks += _batches(chunk, levels, channels)
    parallel_for(tasks, pool)


def _batches(chunk: Chunk, levels: np.ndarray, channels: int) -> list[_Batch]:
    """Divide RoIs among batches of one level each, in which they read about as many rows and columns."""
    of_level = levels[chunk.members]
    order = np.lexsort((chunk.x.num, chunk.y.num, of_level))
    cells, of_level = num_cells(chunk)[order], of_level[order]
    batches, start = [], 0
    while start < len(order):
        end = int(np.searchsorted(of_level, of_level[start], side="right"))
        room = np.maximum.accumulate(cells[start : min(start + _MOST, end)]) * channels
        fits = int(np.count_nonzero(room * np.arange(1, len(room) + 1) <= _BATCH))
        batches.append(_Batch(chunk, order[start : start + max(fits, 1)]))
        start += max(fits, 1)
    return batches


def _pool_batch(images: np.ndarray, roi_idx: np.ndarray, batch: _Batch, bins: tuple[int, int]) -> np.ndarray:
    """Return the RoIs of a batch pooled from ``images`` (N, H, W, C): (B, Py, Px, C)."""
    (_, y, x), rows = batch
    _, height, width, channels = images.shape
    count, (bins_y, bins_x) = len(rows), bins
    ky, kx = int(y.num[rows].max()), int(x.num[rows].max())  # what an RoI has less is padding
    of_image = y.rows[rows, :ky] + (roi_idx.astype(np.int64) * height)[:, None]
    cells = (of_image * width)[:, :, None] + x.rows[rows, None, :kx]  # (B, Ky, Kx)
    pixels = scratch("pixels", cells.size * channels, images.dtype).reshape(*cells.shape, channels)
    # All cells are inside the maps; what else there is to do with others makes NumPy copy once more.
    images.reshape(-1, channels).take(cells, axis=0, out=pixels, mode="clip")
    of_bins = scratch("rows", count * bins_y * kx * channels, images.dtype).reshape(count, bins_y, kx * channels)
    np.matmul(y.weights[rows, :, :ky], pixels.reshape(count, ky, kx * channels), out=of_bins)
    out = scratch("bins", count * bins_y * bins_x * channels, images.dtype).reshape(count, bins_y, bins_x, channels)
    return np.matmul(x.weights[rows, None, :, :kx], of_bins.reshape(count, bins_y, kx, channels), out=out)


def _pool_region(source: np.ndarray, region: Region, pooled: np.ndarray) -> None:
    """Pool one RoI of the map ``source`` (H, W, C) into ``pooled`` (Py, Px, C)."""
    bins_y, bins_x, channels = pooled.shape
    ky, kx = region.weights_y.shape[1], region.weights_x.shape[1]
    taps_y, taps_x, weights_y, weights_x = region.taps
    # The products touch every cell of the region for every bin. In a large region most of them weigh
    # nothing: from about half as many cells as taps, 19 × 19 for 7 × 7 bins, it is quicker to gather the taps.
    if region.solid and 2 * ky * kx <= taps_y.size * taps_x.size:
        pixels = source[region.slices()].reshape(ky, kx * channels)  # a view
        rows = np.matmul(region.weights_y, pixels).reshape(bins_y, kx, channels)
        np.matmul(region.weights_x, rows, out=pooled)
        return
    cells = (taps_y * source.shape[1])[:, None, :, None] + taps_x[:, None, :]  # (Py, Px, 2 · S, 2 · S)
    weights = weights_y[:, None, :, None] * weights_x[:, None, :]
    flat = source.reshape(source.shape[0] * source.shape[1], channels)
    for i in range(bins_y):  # a row of bins at a time stays in the cache
        pixels = flat.take(cells[i].reshape(bins_x, -1), axis=0)  # (Px, 2 · S · 2 · S, C)
        np.matmul(weights[i].reshape(bins_x, 1, -1), pixels, out=pooled[i, :, None])
