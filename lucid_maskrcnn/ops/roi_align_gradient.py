"""RoIAlign's gradient on cpu.

A bin spreads its gradient over the cells that it was pooled from, with weights that are products of one along y and one
along x. There are two ways, and RoIs go the one that is less work for them:

- One RoI after the other: its bins become cells by two products, ``weights_yᵀ @ gradient @ weights_x`` for every
  channel, and these are added to the map. For RoIs of few cells, or few RoIs.
- One small tile of a map after the other: the gradient of its cells is one product, ``weights (cells, K) @ gradients
  of the bins (K, C)``, over all bins that reach into it. Everything stays in the cache, and each cell of the map is
  written once.

The order of the sums is that of the RoIs, for any number of threads.

Shapes: those of :mod:`~lucid_maskrcnn.ops.roi_align`; T cells of a tile along an axis, K or n pieces.

Names: a ``piece`` is the part of a bin that lies in a tile; along one axis it is a row or column of bins, in one row or
column of tiles. A ``strip`` is a row of tiles, a ``band`` are rows of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ._parallel import chunks, parallel_for, scratch
from .roi_align_plan import Axis, Chunk, Region, num_cells, regions, some_rows

__all__ = ["sum_gradients"]

_FEW_CELLS = 2  # for each bin: about as much work in both ways, with 64 to 256 channels
_FEW_VISITS = 3  # to each cell of the maps by such RoIs: fewer are not worth going through the tiles
_BAND = 64  # rows of a map whose gradient a thread sums up at a time
_TILE = (8, 12)  # rows and columns: larger ones multiply more zeros, smaller ones gather more pieces
_GATHERED = 1 << 17  # numbers gathered for one product,
_MOST_PIECES = 1 << 10  # of so many pieces at most


def sum_gradients(maps: Sequence[tuple[np.ndarray, np.ndarray]], planned: Sequence[Chunk], grad: np.ndarray) -> None:
    """Write the gradients of all maps, given that of the pooled RoIs.

    Parameters
    ----------
    maps : sequence of (ndarray of shape (H, W, C), ndarray of int)
        The gradient of each map, of arbitrary contents, and which RoIs are pooled from it; no RoI from two.
    planned : sequence of Chunk
        What the RoIs read, those of other maps too.
    grad : ndarray of shape (R, Py, Px, C)
    """
    map_of_roi = np.full(len(grad), -1)
    for number, (_, rois) in enumerate(maps):
        map_of_roi[rois] = number
    targets = [target for target, _ in maps]
    most = _FEW_CELLS * grad.shape[1] * grad.shape[2]
    wanted = [map_of_roi[chunk.members] >= 0 for chunk in planned]
    many = [rows & ~(c.y.solid & c.x.solid & (num_cells(c) <= most)) for c, rows in zip(planned, wanted, strict=True)]
    visits = sum(int(num_cells(chunk)[rows].sum()) for chunk, rows in zip(planned, many, strict=True))
    if visits < _FEW_VISITS * sum(target.shape[0] * target.shape[1] for target in targets):
        many = [np.zeros_like(rows) for rows in many]
    large = some_rows(planned, many)
    small = some_rows(planned, [rows & ~others for rows, others in zip(wanted, many, strict=True)])
    if large:
        _sum_by_tiles(targets, map_of_roi, large, grad)
    if small or not large:
        _sum_by_regions(targets, map_of_roi, small, grad, written=bool(large))


# ------------------------------------------------------------------ one RoI after the other


def _sum_by_regions(
    targets: Sequence[np.ndarray], map_of_roi: np.ndarray, planned: list[Chunk], grad: np.ndarray, *, written: bool
) -> None:
    """Add the RoIs' gradients to the maps, or to zero where these are not written yet."""
    of_map: list[list[Region]] = [[] for _ in targets]
    for region in regions(planned):
        of_map[map_of_roi[region.roi]].append(region)
    # No two tasks write to the same rows.
    tasks = [
        (target, own, band) for target, own in zip(targets, of_map, strict=True) for band in chunks(len(target), _BAND)
    ]

    def run(task: tuple[np.ndarray, list[Region], slice]) -> None:
        target, own, band = task
        if not written:
            target[band] = 0
        for region in own:
            _add_region(target, region, grad[region.roi], band)

    parallel_for(tasks, run)


def _add_region(target: np.ndarray, region: Region, grad: np.ndarray, band: slice) -> None:
    """Add the gradient ``grad`` (Py, Px, C) of one RoI to those rows of ``target`` (H, W, C) that are in ``band``."""
    some = slice(*np.searchsorted(region.rows, (band.start, band.stop)).tolist())
    ky, kx = some.stop - some.start, len(region.columns)
    if ky == 0:
        return
    bins_y, _, channels = grad.shape
    across = np.matmul(region.weights_x.T, grad).reshape(bins_y, kx * channels)
    pixels = np.matmul(region.weights_y[:, some].T, across).reshape(ky, kx, channels)
    if region.solid:
        rows, columns = region.slices()
        target[rows, columns][some] += pixels
    else:  # no cell is there twice, so that += misses none
        flat = target.reshape(target.shape[0] * target.shape[1], channels)
        cells = (region.rows[some, None] * target.shape[1] + region.columns).reshape(-1)
        flat[cells] = flat.take(cells, axis=0) + pixels.reshape(len(cells), channels)


# ------------------------------------------------------------------ one tile after the other


class _Pieces(NamedTuple):
    """The pieces of all RoIs along one axis, (n,) each."""

    roi: np.ndarray
    bin: np.ndarray
    tile: np.ndarray
    weights: np.ndarray  # (n, T)

    def take(self, rows: np.ndarray) -> _Pieces:
        return _Pieces(*(array[rows] for array in self))


def _sum_by_tiles(
    targets: Sequence[np.ndarray], map_of_roi: np.ndarray, planned: Sequence[Chunk], grad: np.ndarray
) -> None:
    """Write the maps: the RoIs' gradients, and zero elsewhere."""
    _, bins_y, bins_x, channels = grad.shape
    first_strip = np.cumsum([0, *(-(-len(target) // _TILE[0]) for target in targets)])
    y = _pieces([(c.members, c.y) for c in planned], _TILE[0])
    x = _pieces([(c.members, c.x) for c in planned], _TILE[1])
    strip = first_strip[map_of_roi[y.roi]] + y.tile
    order = np.argsort(strip, kind="stable")
    y, starts_y = y.take(order), np.searchsorted(strip[order], np.arange(first_strip[-1] + 1))
    x = x.take(np.argsort(x.roi, kind="stable"))
    starts_x = np.searchsorted(x.roi, np.arange(len(grad) + 1))
    num_x = np.diff(starts_x)
    weights_y, weights_x = (np.ascontiguousarray(axis.weights.T) for axis in (y, x))
    flat = np.ascontiguousarray(grad, weights_y.dtype).reshape(-1, channels)
    strips = [target[some] for target in targets for some in chunks(len(target), _TILE[0])]

    def run(number: int) -> None:
        target = strips[number]
        own = np.arange(starts_y[number], starts_y[number + 1])
        rois = y.roi[own]
        num = num_x[rois]
        in_y = np.repeat(own, num)  # each piece along y with all those of its RoI along x
        in_x = np.arange(len(in_y)) + np.repeat(starts_x[rois] - (np.cumsum(num) - num), num)
        tile = x.tile[in_x]
        order = np.argsort(tile.astype(np.min_scalar_type(target.shape[1])), kind="stable")  # of few bits: much faster
        in_y, in_x = in_y[order], in_x[order]
        rows = (y.roi[in_y] * bins_y + y.bin[in_y]) * bins_x + x.bin[in_x]
        ends = np.cumsum(np.bincount(tile, minlength=-(-target.shape[1] // _TILE[1]))).tolist()
        _sum_strip(target, flat, rows, weights_y.take(in_y, axis=1), weights_x.take(in_x, axis=1), ends)

    # The longest first, so that no thread waits long for the last one.
    parallel_for(np.argsort(-np.diff(starts_y), kind="stable").tolist(), run)


def _sum_strip(
    target: np.ndarray, flat: np.ndarray, rows: np.ndarray, along_y: np.ndarray, along_x: np.ndarray, ends: list[int]
) -> None:
    """Write one strip.

    Parameters
    ----------
    target : ndarray of shape (T or less, W, C)
    flat : ndarray of shape (R · Py · Px, C)
        The gradients of all bins.
    rows : ndarray of shape (n,), int
        Which of them each piece belongs to, tile by tile.
    along_y, along_x : ndarray of shape (T, n)
        The pieces' weights.
    ends : list of int
        Where the pieces of each tile end.
    """
    (height, width), channels, dtype = _TILE, flat.shape[1], flat.dtype
    step = max(1, min(_MOST_PIECES, _GATHERED // channels))
    gathered = scratch("gathered bins", step * channels, dtype).reshape(step, channels)
    products = scratch("weights of bins", step * height * width, dtype)
    cells = scratch("tile", height * width * channels, dtype).reshape(height * width, channels)
    tile = cells.reshape(height, width, channels)[: len(target)]
    along_y, along_x = along_y[:, None], along_x[None]
    start = 0
    for number, end in enumerate(ends):
        place = target[:, number * width : (number + 1) * width]
        if start == end:
            place[...] = 0
            continue
        for some in range(start, end, step):
            part = slice(some, min(some + step, end))
            num = part.stop - some
            bins = flat.take(rows[part], axis=0, out=gathered[:num], mode="clip")  # all are inside; it need not check
            weights = products[: num * height * width].reshape(height, width, num)
            np.multiply(along_y[:, :, part], along_x[:, :, part], out=weights)
            if some == start:
                np.matmul(weights.reshape(-1, num), bins, out=cells)
            else:
                cells += weights.reshape(-1, num) @ bins
        place[...] = tile[:, : place.shape[1]]
        start = end


def _pieces(planned: Sequence[tuple[np.ndarray, Axis]], size: int) -> _Pieces:
    """Cut what each bin reads along an axis by tiles of ``size`` cells, and leave out what weighs nothing."""
    found = []
    for members, axis in planned:
        _, bins, num = axis.taps.shape
        tile, cell = np.divmod(axis.taps.reshape(-1, num), size)
        begins = np.ones(tile.shape, bool)
        np.not_equal(tile[:, 1:], tile[:, :-1], out=begins[:, 1:])
        piece = np.cumsum(begins).reshape(tile.shape) - 1
        row, tap = np.nonzero(begins)
        place = (piece * size + cell).ravel()
        sums = np.bincount(place, axis.tap_weights.ravel(), len(row) * size).reshape(-1, size)
        roi, bin_ = np.divmod(row, bins)
        pieces = _Pieces(members[roi], bin_, tile[row, tap], sums.astype(axis.tap_weights.dtype))
        found.append(pieces.take(np.flatnonzero(sums.any(axis=1))))  # NaN is not nothing
    return _Pieces(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
