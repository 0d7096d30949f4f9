"""From images to the network's batch and back: the only place that resizes, normalizes and pads.

Shapes: N images, C = 3 channels, H × W an image's own size, h × w its size after
resizing, G objects. Sizes are (height, width); boxes are (x1, y1, x2, y2) in pixels.

The arithmetic is that of torchvision's ``GeneralizedRCNNTransform``, rounding included: the
same file gives the same batch to 5e-6. torchvision normalizes before it resizes; as interpolation weights sum
to one, the order does not matter, and here the uint8 rows are interpolated and the result is
normalized, so that a photograph is never held in float32 at its own size. With ``antialias`` Pillow resizes,
as in detectron2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.array_arguments import described, numeric_array
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.images import Size
from lucid_maskrcnn.ops import (
    array_module,
    as_tensor,
    begin,
    chunks,
    device_array,
    device_name,
    host,
    host_zeros,
    nearest_cells,
    parallel_for,
)
from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.validators import image_size, instance, pair, positive_int, shown

__all__ = [
    "ImageBatch",
    "InputCheck",
    "check_normalized",
    "pad",
    "prepare",
    "resize_boxes",
    "resize_masks",
    "resized_size",
]

type Array = Any  # Tensor or np.ndarray

_MAX_DIVISOR = 4096  # as that of ImageConfig
_ROWS = 32  # output rows interpolated at a time: the temporaries stay in the cache


# ------------------------------------------------------------------ the network's batch


class ImageBatch(NamedTuple):
    """Images as the network takes them.

    Attributes
    ----------
    tensor : Tensor of shape (N, 3, H, W), float32
        Normalized images, each at the top left, zeros elsewhere; H and W are multiples of
        ``size_divisor``. The memory is contiguous as (N, H, W, 3).
    sizes : list of (height, width)
        Of each image within the tensor.
    original_sizes : list of (height, width)
        Of each image before resizing.
    """

    tensor: Tensor
    sizes: list[Size]
    original_sizes: list[Size]

    def __repr__(self) -> str:
        return fields_repr(self)


@answers_wrong_calls
def prepare(images: Sequence[np.ndarray], config: ImageConfig, device: str = "cpu") -> ImageBatch:
    """Resize, normalize and pad images into one batch.

    Parameters
    ----------
    images : sequence of np.ndarray of shape (H, W, 3), uint8
        RGB, of any sizes; there may be none.
    config : ImageConfig
        Sizes, pixel mean and standard deviation, divisor.
    device : str
        The device of the batch: "cpu", "gpu" or one of its other names.

    Returns
    -------
    ImageBatch

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Notes
    -----
    Bilinear, half-pixel centers, no antialiasing, as ``torch.nn.functional.interpolate`` on a
    machine with fused multiply-add; agrees with it to 5e-6. With ``antialias`` Pillow resizes the
    uint8 image, which is then only normalized.
    """
    instance("config", config, ImageConfig, "an ImageConfig")
    device = device_name("device", device)
    _check_pixels(images)
    original_sizes = [(image.shape[0], image.shape[1]) for image in images]
    sizes = [resized_size(size, config) for size in original_sizes]
    height, width = _padded_size(sizes, config.size_divisor)
    std = 255.0 * np.asarray(config.pixel_std)
    scale = 1.0 / std
    shift = 255.0 * np.asarray(config.pixel_mean) / std
    batch = host_zeros((len(images), height, width, 3), np.float32)
    for canvas, image, (h, w) in zip(batch, images, sizes, strict=True):
        if config.antialias and image.shape[:2] != (h, w):
            image = _resize_antialiased(image, (h, w))
        order = slice(None, None, -1) if config.bgr else slice(None)  # written through a view of the other order
        _resize_and_normalize(image, canvas[:h, :w, order], scale, shift)
    data = device_array(batch, device).transpose(0, 3, 1, 2)  # (N, 3, H, W) over (N, H, W, 3) memory
    return ImageBatch(Tensor(data), sizes, original_sizes)


def _check_pixels(images: Sequence[np.ndarray]) -> None:
    if not isinstance(images, (list, tuple)):
        raise TypeError(f"images must be a list of uint8 arrays (H, W, 3), got {described(images)}.")
    for i, image in enumerate(images):
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            raise TypeError(f"images[{i}] must be a uint8 array (H, W, 3), got {described(image)}.")
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"images[{i}] must be a uint8 array (H, W, 3), got {described(image)}.")


@answers_wrong_calls
def pad(images: Tensor | Sequence[Tensor], divisor: int) -> ImageBatch:
    """Make one batch of tensors that are ready for the network: they are padded with zeros, and nothing else.

    Parameters
    ----------
    images : Tensor of shape (N, 3, H, W) or (3, H, W), or sequence of Tensor of shape (3, H, W)
        Floating point, on one device; in a sequence of any H and W.
    divisor : int
        The batch's height and width become multiples of it; at most 4096.

    Returns
    -------
    ImageBatch
        A float32 tensor (N, 3, H, W) that needs no padding is passed on as it is, else its memory is that of
        :func:`prepare`. ``original_sizes`` are ``sizes``.

    Raises
    ------
    ValueError
        If there are none, or they are not of these shapes, or on different devices.
    TypeError
        If they are no tensors of floats: integers need normalizing.
    """
    divisor = positive_int("divisor", divisor, _MAX_DIVISOR)
    given = _network_ready(images)
    xp = array_module(given[0].data)
    blocks = [image.data if image.ndim == 4 else image.data[None] for image in given]  # (n, 3, h, w)
    height, width = _padded_size([(b.shape[2], b.shape[3]) for b in blocks], divisor)
    sizes = [(b.shape[2], b.shape[3]) for b in blocks for _ in range(b.shape[0])]
    if given[0].shape[-2:] == (height, width) and given[0].ndim == 4 and blocks[0].dtype == xp.float32:
        return ImageBatch(given[0], sizes, list(sizes))
    padded = [
        xp.pad(b.transpose(0, 2, 3, 1), [(0, 0), (0, height - b.shape[2]), (0, width - b.shape[3]), (0, 0)])
        for b in blocks
    ]
    batch = xp.concatenate(padded).astype(xp.float32)  # (N, H, W, 3)
    return ImageBatch(Tensor(batch.transpose(0, 3, 1, 2)), sizes, list(sizes))


def _network_ready(images: Any) -> list[Tensor]:
    """Return checked tensors: one of shape (N, 3, H, W) or (3, H, W), or several of shape (3, H, W)."""
    if isinstance(images, Tensor):
        _check_network_ready(images, images, "images", (3, 4))
        return [images]
    if not isinstance(images, (list, tuple)):
        raise TypeError(f"images must be a tensor, or a list of tensors of shape (3, H, W), got {shown(images)}.")
    if not images:
        raise ValueError("images must be at least one, got an empty list.")
    for i, image in enumerate(images):
        _check_network_ready(image, images[0], f"images[{i}]", (3,))
    return list(images)


def _check_network_ready(image: Any, first: Tensor, place: str, ranks: tuple[int, ...]) -> None:
    wanted = "(N, 3, H, W) or (3, H, W)" if 4 in ranks else "(3, H, W)"
    if not isinstance(image, Tensor):
        raise TypeError(f"{place} must be a normalized tensor of shape {wanted}, got {described(image)}.")
    shape = tuple(image.shape)
    if len(shape) not in ranks or 0 in shape[-3:] or shape[-3] != 3:
        raise ValueError(
            f"{place} must be a normalized tensor of shape {wanted}, got shape {shape}{_shape_hint(shape)}; "
            "images that are not normalized are passed as uint8 arrays (H, W, 3)."
        )
    if image.device != first.device:
        raise ValueError(f"{place} is on {image.device}, images[0] on {first.device}: move them to one device.")
    if "float" not in str(image.data.dtype):
        raise TypeError(
            f"{place} must hold normalized floats, got {described(image)}; images that are not normalized are passed "
            "as uint8 arrays (H, W, 3)."
        )


@answers_wrong_calls
def check_normalized(images: Tensor | Sequence[Tensor], config: ImageConfig) -> None:
    """Refuse tensors that are not finite, and warn of those that cannot have been normalized.

    Parameters
    ----------
    images : Tensor or sequence of Tensor
        What :func:`pad` takes.
    config : ImageConfig
        Mean and deviation say which values normalized images have: -2.1 to 2.6 with torchvision's.

    Raises
    ------
    ValueError
        If a value is NaN or infinite; the message names the image.

    Warns
    -----
    UserWarning
        For the first image whose values are those of pixels from 0 to 255 or from 0 to 1, or far from any that
        normalized pixels have. On gpu all checks are one read.
    """
    InputCheck(images, config).finish()


@answers_wrong_calls
class InputCheck:
    """What :func:`check_normalized` does, in two steps: on gpu the values are looked at when they are there anyway.

    Parameters
    ----------
    images : Tensor or sequence of Tensor
        There may be none.
    config : ImageConfig
        As for :func:`check_normalized`. On cpu all is checked at once.
    """

    def __init__(self, images: Tensor | Sequence[Tensor], config: ImageConfig) -> None:
        instance("config", config, ImageConfig, "an ImageConfig")
        self._config, self._single = config, isinstance(images, Tensor) and images.ndim == 3
        self._statistics: Tensor | None = None
        none = isinstance(images, (list, tuple)) and not images
        given = [] if none else _network_ready(images)
        blocks = [image.data if image.ndim == 4 else image.data[None] for image in given]  # (n, 3, h, w)
        singles = [image for block in blocks for image in block]
        if not singles:  # which is refused where the network begins
            return
        self._statistics = Tensor(array_module(singles[0]).stack([_statistics(image) for image in singles]))  # (N, 4)
        if given[0].device == "cpu":
            self.finish()
        else:
            begin([self._statistics.data])

    def __repr__(self) -> str:
        return "InputCheck()"

    def finish(self) -> None:
        """Raise the error, or issue the warning, unless it has been done; on gpu this waits for the values."""
        if self._statistics is None:
            return
        stats, self._statistics = host(self._statistics).tolist(), None
        names = ["images" if self._single else f"images[{i}]" for i in range(len(stats))]
        for name, (finite, *_) in zip(names, stats, strict=True):
            if not finite:
                raise ValueError(f"{name} must be finite, got a tensor with NaN or infinity.")
        for name, (_, low, high, whole) in zip(names, stats, strict=True):
            if _is_not_normalized(low, high, bool(whole), self._config):
                lowest, highest = _normalized_range(self._config)
                warn_user(
                    f"{name} has values from {low:.4g} to {high:.4g}, and does not look normalized: tensors must be, "
                    f"with config.image.pixel_mean and pixel_std, to between {lowest:.4g} and {highest:.4g}; pass "
                    "images that are not as uint8 arrays (H, W, 3)."
                )
                return


def _statistics(image: Any) -> Any:
    """Return whether all of an image (3, H, W) is finite, its least and largest value, and whether all are integers."""
    xp = array_module(image)
    low, high = image.min(), image.max()
    finite = xp.isfinite(image).all() if xp is not np else np.isfinite(low) & np.isfinite(high)  # NumPy's carry NaN
    some = image[:, :: max(1, image.shape[1] // 64), :: max(1, image.shape[2] // 64)]
    whole = (some == xp.round(some)).all()
    return xp.stack([xp.array(v).astype(xp.float32) for v in (finite, low, high, whole)])


def _normalized_range(config: ImageConfig) -> tuple[float, float]:
    """Return the values that pixels of 0 and 1 have after normalization, the least and the largest of the channels."""
    channels = list(zip(config.pixel_mean, config.pixel_std, strict=True))
    return min(-mean / std for mean, std in channels), max((1 - mean) / std for mean, std in channels)


def _is_not_normalized(low: float, high: float, whole: bool, config: ImageConfig) -> bool:
    lowest, highest = _normalized_range(config)
    width = highest - lowest
    if low < lowest - 2 * width or high > highest + 2 * width:  # noise on an image may exceed it, but not by as much
        return True
    if low < 0 or lowest > -0.1:  # no pixels; or these are the values of normalized ones, too
        return False
    # Pixels from 0 to 255: larger than normalized ones can be, or integers, which those are not.
    of_bytes = high > 1 and (high > 1.02 * highest or whole)
    # From 0 to 1: a normalized image with such values would have next to no contrast, and nothing below its mean.
    of_fractions = low <= 0.05 and 0.02 <= high <= 1 and width > 3
    return of_bytes or of_fractions


def _shape_hint(shape: tuple[int, ...]) -> str:
    """Return what is probably wrong with a shape."""
    if len(shape) in (3, 4) and shape[-1] == 3:
        return ", whose channels come last: transpose it"
    if len(shape) in (3, 4) and shape[-3] == 1:
        return ", of one channel: repeat it three times"
    if len(shape) in (3, 4) and shape[-3] == 4:
        return ", of four channels: leave out alpha"
    return ""


def _padded_size(sizes: Sequence[Size], divisor: int) -> Size:
    """Return the least height and width that hold all sizes and are multiples of ``divisor``."""
    height, width = (-(-max((size[i] for size in sizes), default=1) // divisor) * divisor for i in (0, 1))
    return height, width


def _resize_antialiased(image: np.ndarray, size: Size) -> np.ndarray:
    from PIL import Image

    # Along the rows first, as every Pillow did before 13, which begins with the columns where they shrink more: what is
    # rounded in between differs, and images must not depend on the version.
    rows = Image.fromarray(np.ascontiguousarray(image)).resize((size[1], image.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(rows.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _resize_and_normalize(image: np.ndarray, out: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> None:
    """Write ``image`` (H, W, 3) at the size of ``out`` (h, w, 3) into it, times scale, minus shift."""
    (height, width), (h, w) = image.shape[:2], out.shape[:2]
    above, below, fraction_y = _neighbours(height, h)
    left, right, fraction_x = _neighbours(width, w)
    # Channels repeat along a row, so that the inner loops run over whole rows instead of three values.
    fraction_y = fraction_y[:, None, None]
    fraction_row = np.repeat(fraction_x, 3).reshape(w, 3)
    scale_row, shift_row = (np.tile(v.astype(np.float32), w).reshape(w, 3) for v in (scale, shift))

    def resize_rows(rows: slice) -> None:
        mixed = image[above[rows]].astype(np.float32)  # (rows, W, 3)
        mixed += (image[below[rows]] - mixed) * fraction_y[rows]
        value = mixed.take(left, axis=1)  # (rows, w, 3)
        other = mixed.take(right, axis=1)
        other -= value
        other *= fraction_row
        value += other
        value *= scale_row
        np.subtract(value, shift_row, out=out[rows])

    parallel_for(chunks(h, _ROWS), resize_rows)


def _neighbours(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the source cells before and after each output position, and its float32 fraction of the way between."""
    step = np.float32(n_in) / np.float32(n_out)
    # One rounding of the position, as by a fused multiply-add: float32 steps would be off by 5e-5.
    source = ((np.arange(n_out) + 0.5) * float(step) - 0.5).astype(np.float32)
    source = source.clip(0, n_in - 1)
    before = source.astype(np.intp)
    return before, np.minimum(before + 1, n_in - 1), source - before.astype(np.float32)


@answers_wrong_calls
def resized_size(size: Size, config: ImageConfig) -> Size:
    """Return the (height, width) that an image of ``size`` is resized to.

    Both sides are multiplied by ``scale``, or else the short one becomes ``min_size``, unless the long one would exceed
    ``max_size``; both are rounded down, or with ``antialias`` to the nearest integer, and at least one pixel.
    """
    size = pair("size", size, positive_int)
    instance("config", config, ImageConfig, "an ImageConfig")
    if config.antialias:
        return _rounded_size(size, config)
    scale = min(config.scale or config.min_size / min(size), config.max_size / max(size))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _rounded_size(size: Size, config: ImageConfig) -> Size:
    """Return the size by detectron2's rule: the short side is exact, then both shrink if the long one is too long."""
    scale = config.scale or config.min_size / min(size)
    short = scale * min(size) if config.scale else float(config.min_size)
    height, width = (short if n == min(size) else scale * n for n in size)
    if max(height, width) > config.max_size:
        scale = config.max_size / max(height, width)
        height, width = height * scale, width * scale
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


# ------------------------------------------------------------------ boxes and masks


@answers_wrong_calls
def resize_boxes(boxes: Array, from_size: Size, to_size: Size) -> Array:
    """Transform boxes of an image of one size to the same image at another size.

    Parameters
    ----------
    boxes : Tensor or np.ndarray of shape (G, 4), float32
        In pixels of the image of ``from_size``.
    from_size, to_size : (height, width)
        Each axis has its own factor, ``to / from`` in float32, because sizes are rounded.

    Returns
    -------
    Tensor or np.ndarray of shape (G, 4), float32
        As given; a tensor stays on its device and carries no gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    from_size, to_size = pair("from_size", from_size, positive_int), pair("to_size", to_size, positive_int)
    ratio_y, ratio_x = (np.float32(to) / np.float32(of) for to, of in zip(to_size, from_size, strict=True))
    ratios = np.array([ratio_x, ratio_y, ratio_x, ratio_y], np.float32)
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes must be numbers of shape (G, 4), got {described(boxes)}.")
        return Tensor(as_tensor(boxes, boxes, np.float32).data * device_array(ratios, boxes.device))
    array = numeric_array("boxes", boxes, "numbers of shape (G, 4)", shape=(None, 4))
    return array.astype(np.float32, copy=False) * ratios


@answers_wrong_calls
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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    if not isinstance(masks, (Tensor, np.ndarray)):
        raise TypeError(f"masks must be a tensor or array of shape (G, H, W), got {shown(masks)}.")
    if masks.ndim != 3:
        raise ValueError(f"masks must be a tensor or array of shape (G, H, W), got {described(masks)}.")
    if 0 in masks.shape[1:]:
        raise ValueError(f"masks must have at least one pixel to be resized, got {described(masks)}.")
    to_size = image_size("to_size", to_size)
    array = masks.data if isinstance(masks, Tensor) else masks
    device = masks.device if isinstance(masks, Tensor) else "cpu"
    for axis, to in enumerate(to_size, start=1):
        cells = device_array(nearest_cells(array.shape[axis], to), device)
        array = array_module(array).take(array, cells, axis=axis)
    return Tensor(array) if isinstance(masks, Tensor) else array
