"""From pictures to the network's batch and back: the only place that resizes, normalises and pads.

Shapes: N images, C = 3 channels, H × W an image's own size, h × w its size after
resizing, G objects. Sizes are (height, width); boxes are (x1, y1, x2, y2) in pixels.

The arithmetic is that of torchvision's ``GeneralizedRCNNTransform``, rounding included, so that the
same file gives the same batch to 5e-6. It normalises before it resizes; interpolation weights sum
to one, so the order does not matter, and here the uint8 rows are interpolated and the result is
normalised: a photo is never held in float32 at its own size. With ``antialias`` the resizing is Pillow's,
as in detectron2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.images import Size
from lucid_maskrcnn.ops import chunks, host_zeros, nearest_cells, parallel_for

__all__ = [
    "ImageBatch",
    "pad",
    "prepare",
    "resize_boxes",
    "resize_masks",
    "resized_size",
]

type Array = Any  # Tensor or np.ndarray

_ROWS = 32  # output rows interpolated at a time: the temporaries stay in the cache


# ------------------------------------------------------------------ the network's batch


class ImageBatch(NamedTuple):
    """Images as the network takes them.

    Attributes
    ----------
    tensor : Tensor of shape (N, 3, H, W), float32
        Normalised images, each at the top left, zeros elsewhere; H and W are multiples of
        ``size_divisor``. The memory is contiguous as (N, H, W, 3).
    sizes : list of (height, width)
        Of each image within the tensor.
    original_sizes : list of (height, width)
        Of each image before resizing.
    """

    tensor: Tensor
    sizes: list[Size]
    original_sizes: list[Size]


def prepare(images: Sequence[np.ndarray], settings: ImageConfig, device: str = "cpu") -> ImageBatch:
    """Resize, normalise and pad images into one batch.

    Parameters
    ----------
    images : sequence of np.ndarray of shape (H, W, 3), uint8
        RGB, of any sizes; there may be none.
    settings : ImageConfig
        Size rule, pixel mean and deviation, divisor.
    device : {"cpu", "gpu"}
        Where the tensor is to be.

    Returns
    -------
    ImageBatch

    Notes
    -----
    Bilinear, half-pixel centres, no antialiasing, as ``torch.nn.functional.interpolate`` on a
    machine with fused multiply-add; agrees with it to 5e-6. With ``antialias`` Pillow resizes the
    uint8 picture, and nothing is left but to normalise it.
    """
    original_sizes = [(image.shape[0], image.shape[1]) for image in images]
    sizes = [resized_size(size, settings) for size in original_sizes]
    height, width = _padded_size(sizes, settings.size_divisor)
    std = 255.0 * np.asarray(settings.pixel_std)
    scale = 1.0 / std
    shift = 255.0 * np.asarray(settings.pixel_mean) / std
    batch = host_zeros((len(images), height, width, 3), np.float32)
    for canvas, image, (h, w) in zip(batch, images, sizes, strict=True):
        if settings.antialias and image.shape[:2] != (h, w):
            image = _resize_antialiased(image, (h, w))
        order = slice(None, None, -1) if settings.bgr else slice(None)  # a view: what is written is in the other order
        _resize_and_normalise(image, canvas[:h, :w, order], scale, shift)
    data = batch.transpose(0, 3, 1, 2) if device == "cpu" else mx.transpose(mx.array(batch), (0, 3, 1, 2))
    return ImageBatch(Tensor(data), sizes, original_sizes)


def pad(images: Tensor | Sequence[Tensor], divisor: int) -> ImageBatch:
    """Make one batch of tensors that are ready for the network: pad with zeros, no more.

    Parameters
    ----------
    images : Tensor of shape (N, C, H, W) or (C, H, W), or sequence of Tensor of shape (C, H, W)
        Floating point, on one device; in a sequence of any H and W.
    divisor : int
        The batch's height and width become multiples of it.

    Returns
    -------
    ImageBatch
        A float32 tensor (N, C, H, W) that needs no padding is passed on as it is, else memory is as
        :func:`prepare` has it. ``original_sizes`` are ``sizes``.

    Raises
    ------
    ValueError
        If there are none, or they are not of these shapes, or on different devices.
    TypeError
        If they hold integers: such are pictures, and need normalising.
    """
    ranks = (3, 4) if isinstance(images, Tensor) else (3,)
    given = [images] if isinstance(images, Tensor) else list(images)
    if not given:
        raise ValueError("images must be at least one, got an empty list.")
    for i, image in enumerate(given):
        _check_network_ready(image, given[0], f"images[{i}]" if len(ranks) == 1 else "images", ranks)
    xp = mx if given[0].is_gpu() else np
    blocks = [image.data if image.ndim == 4 else image.data[None] for image in given]  # (n, C, h, w)
    height, width = _padded_size([(b.shape[2], b.shape[3]) for b in blocks], divisor)
    sizes = [(b.shape[2], b.shape[3]) for b in blocks for _ in range(b.shape[0])]
    if given[0].shape[-2:] == (height, width) and given[0].ndim == 4 and blocks[0].dtype == xp.float32:
        return ImageBatch(given[0], sizes, list(sizes))
    padded = [
        xp.pad(b.transpose(0, 2, 3, 1), [(0, 0), (0, height - b.shape[2]), (0, width - b.shape[3]), (0, 0)])
        for b in blocks
    ]
    batch = xp.concatenate(padded).astype(xp.float32)
    return ImageBatch(Tensor(batch.transpose(0, 3, 1, 2)), sizes, list(sizes))


def _check_network_ready(image: Tensor, first: Tensor, place: str, ranks: tuple[int, ...]) -> None:
    if image.ndim not in ranks or 0 in image.shape[-3:] or image.shape[-3] != first.shape[-3]:
        wanted = "(N, 3, H, W) or (3, H, W)" if 4 in ranks else "(3, H, W)"
        raise ValueError(
            f"{place} must be a tensor of shape {wanted}, normalised, got shape {tuple(image.shape)}; "
            "pictures are passed as uint8 arrays (H, W, 3)."
        )
    if image.device != first.device:
        raise ValueError(f"{place} is on {image.device}, images[0] on {first.device}: move them together.")
    if "float" not in str(image.data.dtype):
        raise TypeError(
            f"{place} must hold normalised floats, got {image.data.dtype}; pictures are passed as uint8 "
            "arrays (H, W, 3)."
        )


def _padded_size(sizes: Sequence[Size], divisor: int) -> Size:
    """Return the least height and width that hold all sizes and are multiples of ``divisor``."""
    height, width = (-(-max((size[i] for size in sizes), default=1) // divisor) * divisor for i in (0, 1))
    return height, width


def _resize_antialiased(image: np.ndarray, size: Size) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _resize_and_normalise(image: np.ndarray, out: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> None:
    """Write ``image`` (H, W, 3) at the size of ``out`` (h, w, 3) into it, times scale, minus shift."""
    (height, width), (h, w) = image.shape[:2], out.shape[:2]
    above, below, fraction_y = _neighbours(height, h)
    left, right, fraction_x = _neighbours(width, w)
    # Channels repeat along a row, so that the inner loops run over whole rows instead of three values.
    fraction_y = fraction_y[:, None, None]
    fraction_row = np.repeat(fraction_x, 3).reshape(w, 3)
    scale_row, shift_row = (np.tile(v.astype(np.float32), w).reshape(w, 3) for v in (scale, shift))

    def run(rows: slice) -> None:
        mixed = image[above[rows]].astype(np.float32)  # (rows, W, 3)
        mixed += (image[below[rows]] - mixed) * fraction_y[rows]
        value = mixed.take(left, axis=1)  # (rows, w, 3)
        other = mixed.take(right, axis=1)
        other -= value
        other *= fraction_row
        value += other
        value *= scale_row
        np.subtract(value, shift_row, out=out[rows])

    parallel_for(chunks(h, _ROWS), run)


def _neighbours(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output position: the source cells before and after it, and the float32 way between."""
    step = np.float32(n_in) / np.float32(n_out)
    # One rounding of the position, as by a fused multiply-add: float32 steps would be off by 5e-5.
    source = ((np.arange(n_out) + 0.5) * float(step) - 0.5).astype(np.float32)
    source = source.clip(0, n_in - 1)
    before = source.astype(np.intp)
    return before, np.minimum(before + 1, n_in - 1), source - before.astype(np.float32)


def resized_size(size: Size, settings: ImageConfig) -> Size:
    """Return the (height, width) an image of ``size`` is resized to.

    Both sides are multiplied by ``scale``, or else the short one becomes ``min_size``, unless the long one would pass
    ``max_size``; both are rounded down, or with ``antialias`` to the nearest, to one pixel at least.
    """
    if settings.antialias:
        return _rounded_size(size, settings)
    scale = min(settings.scale or settings.min_size / min(size), settings.max_size / max(size))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _rounded_size(size: Size, settings: ImageConfig) -> Size:
    """Return the size by detectron2's rule: the short side is exact, then both shrink if the long one is too long."""
    scale = settings.scale or settings.min_size / min(size)
    short = scale * min(size) if settings.scale else float(settings.min_size)
    height, width = (short if n == min(size) else scale * n for n in size)
    if max(height, width) > settings.max_size:
        scale = settings.max_size / max(height, width)
        height, width = height * scale, width * scale
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


# ------------------------------------------------------------------ boxes and masks


def resize_boxes(boxes: Array, from_size: Size, to_size: Size) -> Array:
    """Carry boxes from an image of one size to the same image at another.

    Parameters
    ----------
    boxes : Tensor or np.ndarray of shape (G, 4), float32
        Pixels of the image of ``from_size``.
    from_size, to_size : (height, width)
        Each axis has its own factor, ``to / from`` in float32, because sizes are rounded.

    Returns
    -------
    Tensor or np.ndarray of shape (G, 4), float32
        As given; a tensor stays on its device and carries no gradient.
    """
    ratio_y, ratio_x = (np.float32(to) / np.float32(of) for to, of in zip(to_size, from_size, strict=True))
    ratios = np.array([ratio_x, ratio_y, ratio_x, ratio_y], np.float32)
    if isinstance(boxes, Tensor):
        return Tensor(boxes.data * (mx.array(ratios) if boxes.is_gpu() else ratios))
    return np.asarray(boxes, np.float32) * ratios


def resize_masks(masks: Array, to_size: Size) -> Array:
    """Resize masks to the nearest source pixel, with torchvision's rounding.

    Parameters
    ----------
    masks : Tensor or np.ndarray of shape (G, H, W)
        Of any dtype; ``G = 0`` is allowed.
    to_size : (height, width)
        The size wanted.

    Returns
    -------
    Tensor or np.ndarray of shape (G, height, width)
        As given in kind, dtype and device.
    """
    rows, columns = (nearest_cells(n, to) for n, to in zip(masks.shape[1:], to_size, strict=True))
    if isinstance(masks, Tensor):
        if masks.is_gpu():
            return Tensor(masks.data[:, mx.array(rows)][:, :, mx.array(columns)])
        return Tensor(resize_masks(masks.data, to_size))
    return masks.take(rows, axis=1).take(columns, axis=2)
