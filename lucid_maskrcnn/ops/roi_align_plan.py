"""What RoIAlign reads: the cells of a map that each RoI is pooled from, and their weights.

Bilinear sampling and the mean over a bin's samples are linear and separable: along each axis a bin is a weighted sum of
a few rows of the map.

Shapes and names are those of :mod:`~lucid_maskrcnn.ops.roi_align`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .roi_align_gpu import Grid

__all__ = ["MAX_CELLS", "Axis", "Chunk", "Region", "num_cells", "plan", "regions", "some_rows"]

_SAMPLES = 1 << 18  # samples along an axis prepared at a time
MAX_CELLS = 1 << 20  # the longest RoI whose number of samples may follow its size
_SLACK = 1.5  # rows read in one piece for each row needed; beyond, the needed ones are gathered


class Axis(NamedTuple):
    """What some RoIs read along one axis of their maps; row ``k`` may be padding, with weight 0."""

    rows: np.ndarray  # (R, K) int, ascending, inside the map
    num: np.ndarray  # (R,) int, rows that count
    solid: np.ndarray  # (R,) bool: the rows follow each other without a gap
    weights: np.ndarray  # (R, P, K) float
    taps: np.ndarray  # (R, P, 2 · S) int, the rows again, one for each corner of each sample
    tap_weights: np.ndarray  # (R, P, 2 · S) float


class Chunk(NamedTuple):
    """Some of the RoIs and what they read."""

    members: np.ndarray  # (R,) int, places among all RoIs
    y: Axis
    x: Axis


def plan(rois: np.ndarray, sizes: np.ndarray, scales: np.ndarray, grid: Grid) -> list[Chunk]:
    """Return what every RoI reads of its map; RoIs with similar numbers of samples are in one chunk.

    Parameters
    ----------
    rois : ndarray of shape (R, 4), float
        Pixels of the image; positions are computed in this dtype, in torchvision's order of operations.
    sizes : ndarray of shape (R, 2), int
        Height and width of the map of each RoI.
    scales : ndarray of shape (R, 2)
        Cells for each pixel, along y and x.
    grid : Grid
    """
    axes = []
    for axis, (low, high, bins) in enumerate(zip((1, 0), (3, 2), grid.output_size, strict=True)):
        scale = scales[:, axis].astype(rois.dtype)
        offset = rois.dtype.type(0.5 if grid.aligned else 0)
        start = rois[:, low] * scale - offset
        length = rois[:, high] * scale - offset - start
        if not grid.aligned:
            length = np.maximum(length, 1)
        step = length / bins
        axes.append((start, step, _num_samples(step, grid.sampling_ratio, "yx"[axis]), sizes[:, axis], bins))
    samples = np.maximum(axes[0][2], axes[1][2])  # (R,)
    order = np.argsort(samples, kind="stable")
    planned, done = [], 0
    while done < len(order):
        # Every RoI of a chunk gets room for as many samples as its last one, which has the most.
        fits = (np.arange(1, len(order) - done + 1) * samples[order[done:]]) * max(grid.output_size) <= _SAMPLES
        members = order[done : done + max(1, int(fits.sum()))]
        y, x = (
            _read(start[members], step[members], num[members], size[members], bins)
            for start, step, num, size, bins in axes
        )
        planned.append(Chunk(members, y, x))
        done += len(members)
    return planned


def _num_samples(step: np.ndarray, sampling_ratio: int, axis: str) -> np.ndarray:
    if sampling_ratio > 0:
        return np.full(len(step), sampling_ratio)
    num = np.ceil(np.where(np.isnan(step), 1, step))  # NaN stays NaN in the positions
    if num.max(initial=0) > MAX_CELLS:
        worst = int(num.argmax())
        raise ValueError(
            f"rois[{worst}] has bins of {num[worst]:.3g} cells along {axis}: with sampling_ratio=0 an RoI is sampled "
            "once for each cell, so clip the boxes to the image first."
        )
    return np.maximum(num, 0).astype(np.int64)


def _read(start: np.ndarray, step: np.ndarray, num: np.ndarray, size: np.ndarray, bins: int) -> Axis:
    """Turn the samples of some RoIs along one axis into rows of the map and their weights."""
    start, step, size = start[:, None, None], step[:, None, None], size[:, None, None]
    n = np.maximum(num, 1)[:, None, None]
    sample = np.arange(max(1, num.max()))
    bin_start = start + np.arange(bins)[:, None].astype(start.dtype) * step
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinite RoIs give NaN and zero
        position = bin_start + (sample + start.dtype.type(0.5)) * step / n.astype(start.dtype)  # (R, P, S)
        outside = (position < -1) | (position > size) | (sample >= num[:, None, None])
        position = np.maximum(position, 0)
        cell = np.floor(position)
        offset = np.where(position >= size - 1, 0, position - cell)  # 0 … 1 from that cell to the next
    low = np.fmin(np.fmax(cell, 0), size - 1).astype(np.int64)
    of_mean = np.where(outside, 0, 1 / n).astype(start.dtype)  # weight of a sample in its bin's mean
    index = np.stack([low, np.minimum(low + 1, size - 1)], axis=-1)  # (R, P, S, 2)
    weight = np.stack([(1 - offset) * of_mean, offset * of_mean], axis=-1)
    return _compact(index.reshape(len(num), bins, -1), weight.reshape(len(num), bins, -1))


def _compact(index: np.ndarray, weight: np.ndarray) -> Axis:
    """Give each row of the map that an RoI reads one column of its weights."""
    count, bins, _ = index.shape
    first = index.min(axis=(1, 2))
    span = index.max(axis=(1, 2)) - first + 1
    offset = (index - first[:, None, None]).reshape(count, -1)
    touched = np.zeros((count, span.max()), bool)
    touched[np.arange(count)[:, None], offset] = True
    rank = touched.cumsum(axis=1) - 1  # of a row among those touched
    needed = rank[:, -1] + 1
    solid = span <= _SLACK * needed
    column = np.where(solid[:, None], offset, np.take_along_axis(rank, offset, axis=1))
    num = np.where(solid, span, needed)
    width = int(num.max())
    rows = first[:, None] + np.minimum(np.arange(width), span[:, None] - 1)
    roi, row = np.nonzero(touched & ~solid[:, None])
    rows[roi, rank[roi, row]] = first[roi] + row
    place = (np.arange(count * bins).reshape(count, bins, 1) * width) + column.reshape(index.shape)
    weights = np.bincount(place.ravel(), weight.ravel(), count * bins * width)
    return Axis(rows, num, solid, weights.reshape(count, bins, width).astype(weight.dtype), index, weight)


def num_cells(chunk: Chunk) -> np.ndarray:
    """Return how many cells each RoI reads, (R,)."""
    return chunk.y.num * chunk.x.num


def some_rows(planned: Sequence[Chunk], rows: Sequence[np.ndarray]) -> list[Chunk]:
    """Return those RoIs of each chunk whose row is True; no chunk is empty."""
    return [
        chunk if own.all() else Chunk(chunk.members[own], *(Axis(*(a[own] for a in axis)) for axis in chunk[1:]))
        for chunk, own in zip(planned, rows, strict=True)
        if own.any()
    ]


class Region(NamedTuple):
    """What one RoI reads of its map."""

    roi: int
    solid: bool  # or else rows or columns have gaps
    rows: np.ndarray  # (Ky,)
    columns: np.ndarray  # (Kx,)
    weights_y: np.ndarray  # (P, Ky)
    weights_x: np.ndarray  # (P, Kx)
    taps: tuple[np.ndarray, ...]  # rows and columns again, (P, 2 · S) each, and the weights of both

    def slices(self) -> tuple[slice, slice]:
        """Return rows and columns of a solid region as slices, for views instead of copies."""
        y, x = int(self.rows[0]), int(self.columns[0])
        return slice(y, y + len(self.rows)), slice(x, x + len(self.columns))


def regions(planned: list[Chunk]) -> list[Region]:
    """Return what each RoI reads of its map, one by one."""
    read = []
    for members, y, x in planned:
        solid = (y.solid & x.solid).tolist()
        for i, (roi, ky, kx) in enumerate(zip(members.tolist(), y.num.tolist(), x.num.tolist(), strict=True)):
            taps = (y.taps[i], x.taps[i], y.tap_weights[i], x.tap_weights[i])
            rows, columns = y.rows[i, :ky], x.rows[i, :kx]
            read.append(Region(roi, solid[i], rows, columns, y.weights[i, :, :ky], x.weights[i, :, :kx], taps))
    return read
