"""RoIAlign on one feature map or on a pyramid: torchvision's sampling as two small matrix products.

Bilinear sampling and the mean over a bin's samples are linear and separable: along each axis a bin is a
weighted sum of a few rows of the map, so that pooling an RoI is ``weights_y @ pixels @ weights_xᵀ`` for
every channel. The gradient has the same weights, transposed: see :mod:`~lucid_maskrcnn.ops.roi_align_gradient`.

Shapes: N images, C channels, H × W cells of a map, R RoIs, L levels, P bins along an axis, S samples of a bin along an
axis, K rows (or columns) of the map that an RoI reads.

Names: ``features`` or ``maps`` are the feature maps, ``rois`` are ``(x1, y1, x2, y2)`` in pixels of the image,
``roi_idx`` is the image of each and ``levels`` its map. A ``bin`` is a cell of the result, a ``tap`` one of the four
cells of the map that a sample is interpolated from. A ``Region`` is what one RoI reads of its map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import (
    flag,
    fraction,
    integer,
    pair,
    positive_int,
    positive_number,
    sequence,
    shown,
)

from ._checks import box_tensor, check_range, check_range_on_cpu, check_tensor, index_tensor, tensors
from ._memory import empty
from ._operation import Backward, Op, as_tensor
from .layout import nchw, nhwc
from .roi_align_gpu import Grid, Pyramid, Reads, add_gradients, fits, pool, pyramid, reads
from .roi_align_gradient import sum_gradients
from .roi_align_kernel import gradient as gradient_by_kernel
from .roi_align_kernel import inputs_of, kernel_for
from .roi_align_kernel import pooled as pooled_by_kernel
from .roi_align_plan import MAX_CELLS, Chunk, plan
from .roi_align_pooling import pool_rois

__all__ = ["multiscale_roi_align", "roi_align", "roi_levels"]

_GATHERED = 1 << 24  # numbers gathered at a time on gpu
_MAX_LEVEL = 64  # of a pyramid: its cells would be wider than any image
_MAX_SCALE = 1024  # cells of a map for each pixel of the image, where maps have fewer cells than images pixels


# ------------------------------------------------------------------ the operator


type _Pooled = tuple[mx.array, Callable[[mx.array], mx.array]]  # and what turns its gradient into that of the cells


class _RoIAlign(Op):
    """Inputs: RoIs, their image and their level, then the maps."""

    def __init__(self, scales: Sequence[tuple[float, float]], grid: Grid) -> None:
        super().__init__()
        self.scales = scales
        self.grid = grid

    def cpu(self, rois: Any, roi_idx: Any, levels: Any, *features: Any) -> tuple[np.ndarray, Backward]:
        maps = [nhwc(f) for f in features]
        dtype, channels = maps[0].dtype, maps[0].shape[-1]
        sizes = np.array([m.shape[1:3] for m in maps])[levels]
        planned = [_as_dtype(chunk, dtype) for chunk in plan(rois, sizes, np.array(self.scales)[levels], self.grid)]
        pooled = empty((len(rois), *self.grid.output_size, channels), dtype)
        pool_rois(maps, planned, levels, roi_idx, pooled)
        shapes = [m.shape for m in maps]

        def backward(grad: np.ndarray) -> list[np.ndarray | None]:
            grads = [empty(shape, dtype) if need else None for shape, need in zip(shapes, self.needs[3:], strict=True)]
            of_image = [
                (target, np.flatnonzero((levels == level) & (roi_idx == image)))
                for level, images in enumerate(grads)
                if images is not None
                for image, target in enumerate(images)
            ]
            sum_gradients(of_image, planned, nhwc(grad))
            return [None, None, None, *(None if g is None else nchw(g) for g in grads)]

        return nchw(pooled), backward

    def gpu(self, rois: Any, roi_idx: Any, levels: Any, *features: Any) -> tuple[mx.array, Backward]:
        maps = pyramid([nhwc(f) for f in features], self.scales)
        kind = kernel_for(maps, rois.shape[0], self.grid)
        if kind is not None:
            result = self._by_kernel(kind, inputs_of(rois, roi_idx, levels, maps), rois.shape[0], maps)
        elif fits(self.grid, maps.cells.shape[1]):
            result = self._gathered(reads(rois, roi_idx, levels, maps, self.grid), maps)
        else:
            result = self._planned(rois, roi_idx, levels, maps)
        pooled, gradient = result
        dtype, split = maps.cells.dtype, maps._replace(cells=mx.zeros(0)).split  # which does not keep the maps

        def backward(grad: mx.array) -> list[mx.array | None]:
            return [None, None, None, *(nchw(g) for g in split(gradient(nhwc(grad)).astype(dtype)))]

        return nchw(pooled), backward

    def _by_kernel(self, kind: str, inputs: list[mx.array], num_rois: int, maps: Pyramid) -> _Pooled:
        (num_cells, channels), grid = maps.cells.shape, self.grid
        pooled = pooled_by_kernel(kind, maps, inputs, num_rois, grid)
        return pooled, lambda grad: gradient_by_kernel(kind, grad, inputs, (num_cells, channels), grid)

    def _gathered(self, read: Reads, maps: Pyramid) -> _Pooled:
        shape = maps.cells.shape
        return pool(maps.cells, read), lambda grad: add_gradients(mx.zeros(shape), read, grad)

    def _planned(self, rois: Any, roi_idx: Any, levels: Any, maps: Pyramid) -> _Pooled:
        # How many cells an RoI reads depends on its size, and so do the shapes: that is computed on the host.
        mx.eval(rois, roi_idx, levels)  # at once: one wait
        rois, roi_idx, levels = np.asarray(rois), np.asarray(roi_idx), np.asarray(levels)
        check_range("roi_idx", roi_idx, maps.shapes[0][0], "images")
        check_range("levels", levels, len(maps.shapes), "levels")
        sizes = np.array([(h, w) for _, h, w, _ in maps.shapes])[levels]
        base = np.array(maps.starts)[levels] + roi_idx * sizes.prod(axis=1)
        chunks_read = plan(rois, sizes, np.array(self.scales)[levels], self.grid)
        shape, dtype = maps.cells.shape, maps.cells.dtype
        pieces = list(gathers(chunks_read, base, sizes[:, 1], shape[1]))

        def gradient(grad: mx.array) -> mx.array:
            total = mx.zeros(shape)
            for piece in pieces:
                total = _scatter_gpu(total, piece, mx.depends(grad, total)[mx.array(piece.members)])
            return total

        return pool_gpu(maps.cells, pieces, self.grid).astype(dtype), gradient


def _as_dtype(chunk: Chunk, dtype: Any) -> Chunk:
    y, x = (
        axis._replace(
            weights=axis.weights.astype(dtype, copy=False), tap_weights=axis.tap_weights.astype(dtype, copy=False)
        )
        for axis in (chunk.y, chunk.x)
    )
    return Chunk(chunk.members, y, x)


# ------------------------------------------------------------------ gathering on gpu


class Gather(NamedTuple):
    """Some RoIs of similar size: which cells they read and with which weights."""

    members: np.ndarray  # (R,)
    cells: mx.array  # (R, Ky, Kx) int32, all inside the maps: MLX does not check
    weights_y: mx.array  # (R, Py, Ky)
    weights_x: mx.array  # (R, 1, Px, Kx)


def gathers(planned: list[Chunk], base: np.ndarray, widths: np.ndarray, channels: int) -> Iterator[Gather]:
    """Cut the chunks so that no gather takes more than a bounded memory."""
    for members, y, x in planned:
        step = max(1, _GATHERED // max(1, y.rows.shape[1] * x.rows.shape[1] * channels))
        for start in range(0, len(members), step):
            part = slice(start, start + step)
            own = members[part]
            cells = base[own, None, None] + y.rows[part, :, None] * widths[own, None, None] + x.rows[part, None]
            yield Gather(
                own,
                mx.array(cells.astype(np.int32)),
                mx.array(y.weights[part].astype(np.float32)),
                mx.array(x.weights[part, None].astype(np.float32)),
            )


def pool_gpu(cells: mx.array, pieces: list[Gather], grid: Grid) -> mx.array:
    """Return all RoIs, pooled (R, Py, Px, C) from the flattened maps ``cells`` (…, C), in their order."""
    channels = cells.shape[-1]
    parts, order = [mx.zeros((0, *grid.output_size, channels))], [np.zeros(0, int)]
    for members, index, weights_y, weights_x in pieces:
        num, ky, kx = index.shape
        pixels = mx.depends(cells, parts[-1])[index].astype(mx.float32)  # (R, Ky, Kx, C), one piece after the other
        rows = weights_y @ pixels.reshape(num, ky, kx * channels)  # (R, Py, Kx · C)
        parts.append(weights_x @ rows.reshape(num, grid.output_size[0], kx, channels))
        order.append(members)
    place = np.argsort(np.concatenate(order)).astype(np.int32)
    return mx.take(mx.concatenate(parts), mx.array(place), axis=0)


def _scatter_gpu(total: mx.array, piece: Gather, grad: mx.array) -> mx.array:
    """Add the gradient of the pooled RoIs (R, Py, Px, C) to that of the flattened maps."""
    (num, ky, kx), (bins_y, channels) = piece.cells.shape, (grad.shape[1], grad.shape[3])
    rows = piece.weights_x.swapaxes(2, 3) @ grad  # (R, Py, Kx, C)
    pixels = piece.weights_y.swapaxes(1, 2) @ rows.reshape(num, bins_y, kx * channels)  # (R, Ky, Kx · C)
    return total.at[piece.cells.reshape(num * ky * kx)].add(pixels.reshape(num * ky * kx, channels))


# ------------------------------------------------------------------ public functions


def roi_align(
    features: Tensor,
    rois: Tensor,
    roi_idx: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float | tuple[float, float],
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Tensor:
    """Pool each RoI of a feature map into a grid of bins, by bilinear sampling.

    Parameters
    ----------
    features : Tensor of shape (N, C, H, W), float
        Fastest as a channels-last view; any layout works.
    rois : Tensor of shape (R, 4), float
        ``(x1, y1, x2, y2)`` in pixels of the image. ``R = 0`` gives ``(0, C, h, w)``.
    roi_idx : Tensor of shape (R,), int
        Which of the N images each RoI lies in.
    output_size : int or (height, width)
        Bins.
    spatial_scale : float or (scale_y, scale_x)
        Cells of the map for each pixel of the image: 1 / stride.
    sampling_ratio : int
        Samples of a bin along each axis; 0, or -1 as in torchvision, takes one for each cell that a bin spans, rounded
        up.
    aligned : bool
        Whether positions are shifted by half a cell, as in detectron2. Without, as in torchvision's
        models, an RoI counts as one cell wide at least.

    Returns
    -------
    Tensor of shape (R, C, h, w)
        With a gradient to ``features`` only. Samples more than a cell outside the map count as zero.

    Raises
    ------
    ValueError
        If shapes do not fit, or ``roi_idx`` names an image that is not there; on gpu the result of such an RoI is NaN
        instead, where nothing has to be waited for.

    Notes
    -----
    On gpu nothing is read back, and memory is bounded; only where the number of samples follows the size of the RoIs
    (``sampling_ratio=0``) and there is no kernel, they are waited for, once. Gradients of the kernels for Metal and
    CUDA are summed by atomic additions and so not the same bit for bit from run to run; ``LUCID_MASKRCNN_KERNELS=0``
    in the environment chooses the plain form.

    References
    ----------
    He et al., Mask R-CNN, 2017, section 3; torchvision 0.28 ``roi_align``.
    """
    _check_map("features", features, ("N", "C", "H", "W"))
    rois = box_tensor("rois", rois)
    levels = as_tensor(np.zeros(rois.shape[0], np.int32), rois)
    grid = _grid(output_size, sampling_ratio, aligned)
    return _pool([features], rois, roi_idx, levels, [_scale("spatial_scale", spatial_scale)], grid)


def multiscale_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    roi_idx: Tensor,
    levels: Tensor,
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float | tuple[float, float]],
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Tensor:
    """Pool each RoI of its level of a feature pyramid: :func:`roi_align` of many maps in one step.

    Parameters
    ----------
    features : sequence of L Tensors of shape (N, C, H, W), float
        H and W differ between levels.
    rois : Tensor of shape (R, 4), float
        ``(x1, y1, x2, y2)`` in pixels of the image.
    roi_idx : Tensor of shape (R,), int
        As in :func:`roi_align`.
    levels : Tensor of shape (R,), int
        Which of the L maps each RoI is pooled from, see :func:`roi_levels`.
    output_size : int or (height, width)
        Bins; an int for a square.
    spatial_scales : sequence of L floats or pairs (scale_y, scale_x)
        Cells for each pixel of the image, one entry for each level.
    sampling_ratio : int
        Samples of a bin along each axis, as in :func:`roi_align`.
    aligned : bool
        As in :func:`roi_align`.

    Returns
    -------
    Tensor of shape (R, C, h, w)
        In the order of the RoIs. The gradient of a map that no RoI fell on is zero.

    Raises
    ------
    ValueError
        If shapes do not fit, or ``roi_idx`` or ``levels`` name an image or a map that is not there; on gpu as for
        :func:`roi_align`.
    """
    features = tensors("features", features)
    for i, one in enumerate(features):
        _check_map(f"features[{i}]", one, (*features[0].shape[:2], "H", "W") if i else ("N", "C", "H", "W"))
    rois = box_tensor("rois", rois)
    index_tensor("levels", levels, rois.shape[0])
    scales = sequence("spatial_scales", spatial_scales, _scale, length=len(features))
    return _pool(features, rois, roi_idx, levels, scales, _grid(output_size, sampling_ratio, aligned))


def _check_map(name: str, features: Tensor, shape: tuple[int | str, ...]) -> None:
    check_tensor(name, features, shape)
    if 0 in features.shape[1:]:
        raise ValueError(f"{name} must have C, H and W of at least 1, got shape {tuple(features.shape)}.")


def _pool(
    features: Sequence[Tensor],
    rois: Tensor,
    roi_idx: Tensor,
    levels: Tensor,
    scales: Sequence[tuple[float, float]],
    grid: Grid,
) -> Tensor:
    index_tensor("roi_idx", roi_idx, rois.shape[0])
    if features[0].shape[0] == 0 < rois.shape[0]:
        raise ValueError(f"roi_idx must be empty for features of no images, got {rois.shape[0]} RoIs.")
    check_range_on_cpu("roi_idx", roi_idx, features[0].shape[0], "images")
    check_range_on_cpu("levels", levels, len(features), "levels")
    return _RoIAlign(scales, grid)(rois, roi_idx, levels, *features)


def _grid(output_size: int | tuple[int, int], sampling_ratio: int, aligned: bool) -> Grid:
    size = pair("output_size", output_size, partial(positive_int, maximum=MAX_CELLS))
    return Grid(size, integer("sampling_ratio", sampling_ratio, -1, MAX_CELLS), flag("aligned", aligned))


def _cells_per_pixel(name: str, value: float) -> float:
    if positive_number(name, value) > _MAX_SCALE:
        raise ValueError(f"{name} must be cells for each pixel, at most {_MAX_SCALE}, got {shown(value)}.")
    return value


def _scale(name: str, value: float | tuple[float, float]) -> tuple[float, float]:
    y, x = pair(name, value, _cells_per_pixel)
    return float(y), float(x)


class _Canonical(NamedTuple):
    """Which square goes to which level."""

    size: float
    level: int
    finest: int
    margin: tuple[float, float]


def _levels_of_areas(areas: np.ndarray, num_levels: int, canonical: _Canonical) -> np.ndarray:
    size, level, finest, margin = canonical
    before, after = (areas.dtype.type(m) for m in margin)
    with np.errstate(all="ignore"):  # no area: minus infinity, the finest level
        target = np.floor(level + np.log2(np.sqrt(areas) / size + before) + after) - finest
    return np.fmin(np.fmax(target, 0), num_levels - 1).astype(np.int32)


@lru_cache(maxsize=64)
def _smallest_areas(num_levels: int, canonical: _Canonical) -> np.ndarray:
    """Return the smallest float32 area that goes to each level but the first, NaN where none does.

    A level never falls with the area, and float32 numbers from 0 to infinity are ordered as their bits are: 31 steps
    of bisection find them.
    """
    wanted = np.arange(1, num_levels)
    low, high = np.full(num_levels - 1, -1), np.full(num_levels - 1, int(np.float32(np.inf).view(np.int32)) + 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        areas = np.clip(middle, 0, None).astype(np.int32).view(np.float32)
        reached = (_levels_of_areas(areas, num_levels, canonical) >= wanted) & (middle >= 0)
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high.astype(np.int32).view(np.float32)  # the bits after those of infinity are NaN


def smallest_areas(num_levels: int, margin: tuple[float, float]) -> np.ndarray:
    """Return the smallest area of the boxes that go to each level of a pyramid from 1 on, level 0 having stride 1."""
    return _smallest_areas(num_levels, _Canonical(224, 4, 0, margin))


class _RoILevels(Op):
    differentiable = False

    def __init__(self, num_levels: int, canonical: _Canonical) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.canonical = canonical

    def cpu(self, rois: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            areas = (rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])
        return _levels_of_areas(areas, self.num_levels, self.canonical)

    def gpu(self, rois: mx.array) -> mx.array:
        # A device's logarithm may be off by one bit, which would send a box of exactly 224 pixels to another level. So
        # the areas are compared with those at which the host's formula changes its answer; NaN reaches none of them.
        areas = (rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])
        smallest = mx.array(_smallest_areas(self.num_levels, self.canonical))
        return (areas[:, None] >= smallest).sum(axis=1).astype(mx.int32)


def roi_levels(
    rois: Tensor,
    num_levels: int,
    canonical_size: float = 224,
    canonical_level: int = 4,
    finest_level: int = 2,
    margin: tuple[float, float] = (0.0, 1e-6),
) -> Tensor:
    """Return the level of the pyramid that each RoI is pooled from: ``⌊4 + log2(√area / 224)⌋``.

    Parameters
    ----------
    rois : Tensor of shape (R, 4), float
        ``(x1, y1, x2, y2)`` in pixels of the network's input.
    num_levels : int
        Levels there are, at most 64; RoIs that would go beyond go to the last.
    canonical_size : float
        Side in pixels of the square that goes to ``canonical_level``, that of ImageNet's crops.
    canonical_level : int
        Number of the level, as in P4, that a RoI of ``canonical_size`` is pooled from.
    finest_level : int
        Number of the first level: 2 for P2, of stride 4.
    margin : (float, float)
        Added to the ratio and to its logarithm, so that rounding does not send exact powers of two down:
        (0, 1e-6) in torchvision, (1e-8, 0) in detectron2.

    Returns
    -------
    Tensor of shape (R,), int32
        0 … ``num_levels - 1``, 0 the finest; 0 for RoIs without area.

    References
    ----------
    Lin et al., Feature Pyramid Networks for Object Detection, 2017, equation 1; torchvision 0.28.
    """
    rois = box_tensor("rois", rois)
    canonical = _Canonical(
        positive_number("canonical_size", canonical_size),
        integer("canonical_level", canonical_level, -_MAX_LEVEL, _MAX_LEVEL),
        integer("finest_level", finest_level, -_MAX_LEVEL, _MAX_LEVEL),
        pair("margin", margin, fraction),
    )
    return _RoILevels(positive_int("num_levels", num_levels, _MAX_LEVEL), canonical)(rois)
