"""Resampling of instance masks between an RoI's grid and the image: pasted predictions and training targets.

Both are bilinear and separable, so each mask is two small matrix products.

Shapes: n masks of M × M cells, G ground-truth masks of H × W pixels, R RoIs, h × w pixels of a patch.

Names: ``mask_probs`` are probabilities on the grid of each box, ``boxes`` and ``rois`` are ``(x1, y1, x2, y2)`` in
pixels, ``gt_idx`` is the ground-truth mask of each RoI. A ``patch`` is the part of the image that a mask covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import flag, fraction, optional, positive_int
from lucid_maskrcnn.validators import image_size as checked_size

from ._checks import box_tensor, check_range, check_tensor, index_tensor
from ._memory import empty
from ._operation import Op, as_tensor, evaluate, host
from ._parallel import chunks, parallel_for
from .roi_align import gathers, pool_gpu
from .roi_align_gpu import Grid
from .roi_align_plan import MAX_CELLS, plan, regions

__all__ = ["mask_patches", "mask_targets", "paste_masks"]

_GPU_PIXELS = 1 << 24  # pixels pasted at a time on gpu
_TASK = 8  # masks that a thread takes at a time
_FAR = 2.0**30  # where corners beyond the range of integers are clipped


# ------------------------------------------------------------------ pasting


class _Patch(NamedTuple):
    """The part of the image that one mask covers, and the weights of the mask's cells in its pixels."""

    y: slice
    x: slice
    weights_y: np.ndarray  # (h, M)
    weights_x: np.ndarray  # (w, M)

    def pixels(self, probs: np.ndarray) -> np.ndarray:
        """Return the probabilities in the patch's pixels, (h, w)."""
        return self.weights_y @ probs @ self.weights_x.T


class _PasteMasks(Op):
    differentiable = False

    def __init__(self, image_size: tuple[int, int], threshold: float | None, snap: bool) -> None:
        super().__init__()
        self.image_size = image_size
        self.threshold = threshold
        self.snap = snap
        self.patches = _snapped_patches if snap else _sampled_patches
        self.over = np.greater if snap else np.greater_equal

    def cpu(self, mask_probs: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        threshold = self.threshold
        image = empty((len(boxes), *self.image_size), bool if threshold is not None else np.float32)
        probs = mask_probs.astype(np.float32, copy=False)
        patches = list(self.patches(boxes, probs.shape[-1], self.image_size))

        def paste(some: slice) -> None:
            image[some] = 0
            for i, patch in enumerate(patches[some], some.start):
                pixels = patch.pixels(probs[i])
                into = image[i, patch.y, patch.x]
                if threshold is None:
                    into[...] = pixels
                else:
                    self.over(pixels, threshold, out=into)

        parallel_for(chunks(len(patches), _TASK), paste)
        return image

    def each(self, mask_probs: np.ndarray, boxes: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Yield rows, columns and pixels of each patch."""
        probs = mask_probs.astype(np.float32, copy=False)
        for i, patch in enumerate(self.patches(boxes, probs.shape[-1], self.image_size)):
            yield patch.y, patch.x, self.over(patch.pixels(probs[i]), np.float32(self.threshold))

    def gpu(self, mask_probs: mx.array, boxes: mx.array) -> mx.array:
        height, width = self.image_size
        parts = [mx.zeros((0, height, width), mx.bool_ if self.threshold is not None else mx.float32)]
        step = max(1, _GPU_PIXELS // max(1, height * width))
        for start in range(0, len(boxes), step):
            # One part after the other: side by side, their float images would be those of all masks.
            own = mx.depends(boxes, parts[-1])[start : start + step]
            parts.append(self._paste(mask_probs[start : start + step], own.astype(mx.float32)))
        return mx.concatenate(parts)

    def _paste(self, mask_probs: mx.array, boxes: mx.array) -> mx.array:
        """Paste masks (n, M, M) into images (n, H, W), with the host's arithmetic."""
        side, (height, width) = mask_probs.shape[-1], self.image_size
        weights = _snapped_weights if self.snap else _sampled_weights
        weights_y, inside_y = weights(boxes[:, 1::2], side, height)
        weights_x, inside_x = weights(boxes[:, ::2], side, width)
        pixels = weights_y @ mask_probs.astype(mx.float32) @ weights_x.swapaxes(1, 2)
        if self.threshold is not None:
            pixels = (mx.greater if self.snap else mx.greater_equal)(pixels, self.threshold)
        inside = inside_y[:, :, None] & inside_x[:, None, :]
        return mx.where(inside, pixels, mx.zeros((), pixels.dtype))  # NaN, and 0 ≥ 0, stay in the patch


def _sampled_weights(ends: mx.array, side: int, limit: int) -> tuple[mx.array, mx.array]:
    """Return what :func:`_sampled` does, for all boxes and the whole axis, on the device.

    Parameters
    ----------
    ends : mx.array of shape (n, 2), float32
        Where the boxes begin and end.
    side, limit : int
        Cells of the masks and pixels of the images.

    Returns
    -------
    weights : mx.array of shape (n, limit, side), float32
    inside : mx.array of shape (n, limit), bool
        Which pixels belong to the patch.
    """
    first, last = ends[:, :1], ends[:, 1:]
    length = last - first
    margin = length / (2 * side) + 1
    pixel = mx.arange(limit, dtype=mx.float32)
    inside = (length > 0) & mx.isfinite(length)
    inside &= (pixel >= mx.floor(first - margin)) & (pixel < mx.ceil(last + margin))
    position = (pixel + 0.5 - first) / length * side - 0.5
    return _bilinear_weights_gpu(position, inside, 0, side), inside


def _snapped_weights(ends: mx.array, side: int, limit: int) -> tuple[mx.array, mx.array]:
    """Return what :func:`_snapped_patches` does, as :func:`_sampled_weights`."""
    half = (ends[:, 1:] - ends[:, :1]) * 0.5 * ((side + 2) / side)  # one cell more around
    center = (ends[:, 1:] + ends[:, :1]) * 0.5
    corners = mx.concatenate([center - half, center + half], axis=1)
    corners = mx.clip(mx.where(mx.isnan(corners), -_FAR, corners), -_FAR, _FAR).astype(mx.int32)
    corners = mx.clip(corners, 1 - int(_FAR), int(_FAR) - 1)  # so that their distance is an int32, too
    first, last = corners[:, :1], corners[:, 1:]
    step = (side + 2) / mx.maximum(last - first + 1, 1).astype(mx.float32)
    pixel = mx.arange(limit, dtype=mx.int32)
    inside = (pixel >= first) & (pixel <= last)
    position = ((pixel - first).astype(mx.float32) + 0.5) * step - 0.5
    return _bilinear_weights_gpu(position, inside, 1, side), inside


def _bilinear_weights_gpu(position: mx.array, inside: mx.array, first: int, side: int) -> mx.array:
    cells = mx.arange(first, first + side, dtype=mx.float32)
    return mx.where(inside[..., None], mx.maximum(1 - mx.abs(position[..., None] - cells), 0), 0)


def _sampled_patches(boxes: np.ndarray, side: int, image_size: tuple[int, int]) -> Iterator[_Patch]:
    """Yield each mask's patch, sampled at the pixels' centers: detectron2's arithmetic."""
    for x1, y1, x2, y2 in boxes.astype(np.float32, copy=False):
        y, weights_y = _sampled(y1, y2, side, image_size[0])
        x, weights_x = _sampled(x1, x2, side, image_size[1])
        yield _Patch(y, x, weights_y, weights_x)


def _sampled(first: np.float32, last: np.float32, side: int, limit: int) -> tuple[slice, np.ndarray]:
    """Return which of ``limit`` pixels' centers see a cell of ``first … last``, and the weights of the cells."""
    with np.errstate(over="ignore", invalid="ignore"):
        length = last - first
    if not (length > 0 and np.isfinite(length)):
        return slice(0, 0), np.zeros((0, side), np.float32)
    margin = length / (2 * side) + 1  # half a cell beyond the box a mask fades out
    start = int(np.clip(np.floor(first - margin), 0, limit))
    stop = int(np.clip(np.ceil(last + margin), start, limit))
    center = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(over="ignore"):  # where a box has nearly no length, its centers are infinitely far
        position = (center - first) / length * np.float32(side) - np.float32(0.5)
    return slice(start, stop), _bilinear_weights(position, np.arange(side, dtype=np.float32))


def _bilinear_weights(position: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the bilinear weight of each of ``cells`` at each position; beyond the cells there are zeros."""
    weights = 1 - np.abs(position[:, None] - cells)
    return np.maximum(weights, 0, out=weights)


def _snapped_patches(boxes: np.ndarray, side: int, image_size: tuple[int, int]) -> Iterator[_Patch]:
    """Yield each mask's patch: torchvision's arithmetic, for the pixels inside the image only."""
    boxes = boxes.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32((side + 2) / side)  # one cell more around
        center = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
        corners = np.concatenate([center - half, center + half], axis=1)
    corners = np.clip(np.nan_to_num(corners, nan=-_FAR), -_FAR, _FAR).astype(np.int64)  # truncated toward zero
    for x1, y1, x2, y2 in corners.tolist():
        y, weights_y = _resize_weights(y1, y2, side, image_size[0])
        x, weights_x = _resize_weights(x1, x2, side, image_size[1])
        yield _Patch(y, x, weights_y, weights_x)


def _resize_weights(first: int, last: int, side: int, limit: int) -> tuple[slice, np.ndarray]:
    """Return which of ``limit`` pixels lie in ``first … last``, and the weights (pixels, side) of the cells.

    The mask has a ring of zero cells around it, whose weights are left out.
    """
    start, stop = max(first, 0), max(min(last + 1, limit), 0)
    start = min(start, stop)
    step = np.float32((side + 2) / max(last - first + 1, 1))
    position = (np.arange(start - first, stop - first, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5)
    # Cell c of the mask is c + 1 with the ring. Below cell 0 and above the last the ring's own value
    # counts, zero, so nothing needs clamping.
    return slice(start, stop), _bilinear_weights(position, np.arange(1, side + 1, dtype=np.float32))


def paste_masks(
    mask_probs: Tensor,
    boxes: Tensor,
    image_size: int | tuple[int, int],
    threshold: float | None = 0.5,
    *,
    snap: bool = True,
) -> Tensor:
    """Paste each mask into an image of zeros, where its box is.

    Parameters
    ----------
    mask_probs : Tensor of shape (n, M, M), float
        Probabilities on the grid of each box.
    boxes : Tensor of shape (n, 4), float
        ``(x1, y1, x2, y2)`` in pixels of the image; parts outside the image are cut off.
    image_size : (height, width) or int
        In pixels; one number is both.
    threshold : float or None
        Pixels with a probability above it are set; None leaves the probabilities.
    snap : bool
        Whether boxes are rounded to whole pixels, as in torchvision. Otherwise each pixel's center is
        looked up in the box as it is, as in detectron2, and the threshold itself is enough.

    Returns
    -------
    Tensor of shape (n, height, width)
        bool, or float32 without a threshold. ``n = 0`` gives ``(0, height, width)``. No gradient. On gpu nothing is
        read back; of a million pixels at most one, whose probability is the threshold, differs from those on cpu.

    Raises
    ------
    ValueError
        If shapes do not fit or the threshold is not between 0 and 1.

    References
    ----------
    torchvision 0.28, ``paste_masks_in_image``: the mask is padded by one cell and the box grown as
    much, its corners truncated to whole pixels, both of which belong to it. detectron2, function of the
    same name: bilinear, zeros around the mask.
    """
    boxes = _check_pasted(mask_probs, boxes)
    size = checked_size("image_size", image_size, minimum=0)
    optional(fraction)("threshold", threshold)
    return _PasteMasks(size, threshold, flag("snap", snap))(mask_probs, boxes)


def mask_patches(
    mask_probs: Tensor,
    boxes: Tensor,
    image_size: int | tuple[int, int],
    threshold: float = 0.5,
    *,
    snap: bool = True,
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yield of each mask the part of the image that it covers, on the host: no image is made.

    Parameters
    ----------
    mask_probs, boxes, image_size, threshold, snap
        As for :func:`paste_masks`, which gives the same pixels.

    Yields
    ------
    rows, columns : slice
        With start and stop, inside the image.
    mask : ndarray of shape (h, w), bool

    Raises
    ------
    ValueError
        As :func:`paste_masks`.
    """
    boxes = _check_pasted(mask_probs, boxes)
    pasting = _PasteMasks(
        checked_size("image_size", image_size, minimum=0), fraction("threshold", threshold), flag("snap", snap)
    )
    evaluate([mask_probs.data, boxes.data])
    return pasting.each(host(mask_probs), host(boxes))


def _check_pasted(mask_probs: Tensor, boxes: Tensor) -> Tensor:
    """Return boxes in float32."""
    boxes = box_tensor("boxes", boxes, ("n", 4))
    check_tensor("mask_probs", mask_probs, (boxes.shape[0], "M", "M"))
    if mask_probs.shape[1] != mask_probs.shape[2] or mask_probs.shape[1] == 0:
        raise ValueError(f"mask_probs must have shape (n, M, M) with M of at least 1, got {tuple(mask_probs.shape)}.")
    return boxes


# ------------------------------------------------------------------ targets


class MaskReader(Protocol):
    """Masks that are not an array, but can decode a region of one."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image."""

    def __len__(self) -> int:
        """Return how many there are."""

    def decode_region(self, index: int, rows: slice, columns: slice) -> np.ndarray:
        """Return the pixels (rows, columns) of one, bool."""


class _MaskTargets(Op):
    differentiable = False

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def cpu(self, gt_masks: np.ndarray, rois: np.ndarray, gt_idx: np.ndarray) -> np.ndarray:
        def read(index: int, rows: slice, columns: slice) -> np.ndarray:
            return gt_masks[index, rows, columns]

        return _resample(read, gt_masks.shape[1:], rois, gt_idx, self.grid)

    def gpu(self, gt_masks: mx.array, rois: mx.array, gt_idx: mx.array) -> mx.array:
        num, (height, width) = rois.shape[0], gt_masks.shape[1:]
        # Known already, see mask_targets: how many pixels are read depends on them.
        planned = plan(np.asarray(rois), np.tile([height, width], (num, 1)), np.ones((num, 2)), self.grid)
        base = np.asarray(gt_idx).astype(np.int64) * (height * width)
        return pool_gpu(
            gt_masks.reshape(gt_masks.size, 1), list(gathers(planned, base, np.full(num, width), 1)), self.grid
        )[..., 0]


def _resample(
    read: Callable[[int, slice, slice], np.ndarray],
    image_size: tuple[int, ...],
    rois: np.ndarray,
    gt_idx: np.ndarray,
    grid: Grid,
) -> np.ndarray:
    num = len(rois)
    planned = plan(rois, np.tile(image_size, (num, 1)), np.ones((num, 2)), grid)
    targets = np.zeros((num, *grid.output_size), np.float32)  # an aligned RoI without area reads nothing
    read_by_rois = regions(planned)

    def cut(some: slice) -> None:
        for region in read_by_rois[some]:  # no gaps: a sample for each pixel
            pixels = read(gt_idx[region.roi], *region.slices()).astype(np.float32)
            np.matmul(region.weights_y @ pixels, region.weights_x.T, out=targets[region.roi])

    parallel_for(chunks(num, _TASK), cut)
    return targets


def mask_targets(
    gt_masks: Tensor | MaskReader, rois: Tensor, gt_idx: Tensor, size: int, *, aligned: bool = False
) -> Tensor:
    """Return what the mask head should predict for each RoI: its part of a ground-truth mask, resampled.

    Parameters
    ----------
    gt_masks : Tensor of shape (G, H, W), bool, int or float; or CompressedMasks
        0 or 1 for each pixel of the network's input. Of compressed ones only the regions that the RoIs read are
        decoded, on the host; the numbers are the same.
    rois : Tensor of shape (R, 4), float
        ``(x1, y1, x2, y2)`` in pixels of the same.
    gt_idx : Tensor of shape (R,), int
        Which of the G masks each RoI is matched with.
    size : int
        Cells along a side of the result: ``mask_out_size``.
    aligned : bool
        As for :func:`roi_align`. Without, targets lie half a pixel to the left and above, as torchvision's do.

    Returns
    -------
    Tensor of shape (R, size, size), float32
        Covered fraction of each cell, 0 … 1, not rounded. ``R = 0`` gives ``(0, size, size)``. No gradient.

    Raises
    ------
    ValueError
        If shapes do not fit, or ``gt_idx`` names a mask that is not there.

    References
    ----------
    torchvision 0.28, ``project_masks_on_boxes``: RoIAlign with one sample for each pixel. Aligned: detectron2,
    ``BitMasks.crop_and_resize``, which also rounds.
    """
    rois = box_tensor("rois", rois)
    shape = _masks_shape(gt_masks)
    index_tensor("gt_idx", gt_idx, rois.shape[0])
    evaluate([rois.data, gt_idx.data])  # at once: one wait
    check_range("gt_idx", np.asarray(gt_idx.data), shape[0], "masks")
    size = positive_int("size", size, MAX_CELLS)
    grid = Grid((size, size), 0, flag("aligned", aligned))
    if isinstance(gt_masks, Tensor):
        return _MaskTargets(grid)(gt_masks, rois, gt_idx)
    return as_tensor(_resample(gt_masks.decode_region, gt_masks.image_size, host(rois), host(gt_idx), grid), rois)


def _masks_shape(gt_masks: Tensor | MaskReader) -> tuple[int, int, int]:
    if isinstance(gt_masks, Tensor):
        check_tensor("gt_masks", gt_masks, ("G", "H", "W"), "bif")
        num, height, width = gt_masks.shape
    elif hasattr(gt_masks, "decode_region"):
        num, (height, width) = len(gt_masks), gt_masks.image_size
    else:
        raise TypeError(
            f"gt_masks must be a Lucid tensor of shape (G, H, W) or CompressedMasks, got {type(gt_masks).__name__}."
        )
    if 0 in (height, width):
        raise ValueError(f"gt_masks must have H and W of at least 1, got shape {(num, height, width)}.")
    return num, height, width
