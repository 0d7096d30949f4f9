"""Random augmentations of an image and its objects. Random numbers come from a NumPy generator that is passed in.

An augmentation is anything that is called as ``augment(image, target, rng)`` and returns another image and
target: :class:`Augmentation` has the usual ones, :func:`compose` applies several in a row. The target's
boxes and masks move with the image; nothing that is passed in is modified. Those here take images as
:func:`~lucid_maskrcnn.images.load_image` does and targets as ``get_loss`` does, with any further keys.

Shapes: G objects of an image of H × W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.array_arguments import described
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.images import Size, load_image
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.transforms import resize_boxes, resized_size
from lucid_maskrcnn.validators import (
    check_keywords,
    flag,
    fraction,
    function,
    instance,
    integer,
    non_negative_int,
    non_negative_number,
    pair,
    positive_int,
    positive_number,
    sequence,
    shown,
)

__all__ = ["Augmentation", "adjust", "blur", "compose", "crop", "flip", "noise", "resize", "rotate", "tint"]

type Target = dict[str, Any]
type Sample = tuple[np.ndarray, Target]

_FILL = (124, 116, 104)  # 255 times ImageNet's mean: about 0 once it is normalized
_MIN_SIDE = 3  # pixels; objects that a crop cuts to less than this in width or height are dropped
_OF_THE_IMAGE = frozenset({"image_id", "file_name", "size", "orig_size", "image_size"})  # never a row for each object
_FRACTIONS = ("horizontal_flip", "vertical_flip", "min_visible", "brightness", "contrast", "saturation")
_LOGARITHMS = ("exposure", "gamma", "channels")
_GENTLE = {"zoom": (0.9, 1.1), "exposure": 0.1, "gamma": 0.05, "channels": 0.02}
_MAX_LOGARITHM = 10  # exp(10) is a factor of 22,000; what overflows float64 is far away
_MAX_ZOOM = 100
_MAX_SIGMA = 1000  # pixels or values
_MAX_SIDE = 2**15  # pixels; masks are of at most 2³¹


@answers_wrong_calls
@dataclass(frozen=True)
class Augmentation:
    """Random augmentations, all of them off by default; :meth:`photographs` and :meth:`microscopy` are ready-made.

    :meth:`suited_to` chooses one of the two for a model.

    Attributes
    ----------
    horizontal_flip, vertical_flip : float
        Probability of each.
    quarter_turns : bool
        Whether the image is rotated by a random multiple of 90°.
    zoom : float or (float, float)
        Range of the factor by which objects are enlarged, drawn uniformly on a logarithmic scale; one number is a
        fixed factor. For a factor above 1 a random crop, smaller than the image by that factor, is taken; for one
        below 1 the image is padded to a canvas that is larger by its inverse.
    crop : int or (int, int), optional
        Side, or height and width, of a random crop of fixed size in pixels *of the network's input*. It is taken
        from the image as a prediction resizes it, times ``zoom``: all images come out with the size ``crop``, at
        about the scale that they have in a prediction. Train with the sizes of :attr:`network`, so that crops are
        not resized again. By default images keep about their size, and the model resizes them as usual.
    image : ImageConfig
        How a prediction resizes images; used by ``crop``.
    min_visible : float
        Objects of which a crop leaves a smaller fraction than this are dropped; so are those that it cuts to less
        than 4 pixels, or less than 3 in width or height. An object that no crop cuts stays, however small it is.
    exposure, gamma, channels : float
        Standard deviations of the logarithms of a gain, of an exponent, and of a separate gain of each color.
    brightness, contrast, saturation : float
        Each is multiplied by a random factor up to this much above or below 1.
    blur, noise : float
        Largest standard deviations: of a Gaussian blur in pixels, of noise in values of 0 to 255.

    Raises
    ------
    TypeError, ValueError
        If a setting is of another kind or out of range.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    quarter_turns: bool = False
    zoom: float | tuple[float, float] = (1.0, 1.0)
    crop: int | tuple[int, int] | None = None
    image: ImageConfig = ImageConfig()  # noqa: RUF009 - frozen
    min_visible: float = 0.1
    exposure: float = 0.0
    gamma: float = 0.0
    channels: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {name: fraction(name, getattr(self, name)) for name in _FRACTIONS}
        checked |= {name: _amount(name, getattr(self, name), _MAX_LOGARITHM) for name in _LOGARITHMS}
        checked |= {name: _amount(name, getattr(self, name), _MAX_SIGMA) for name in ("blur", "noise")}
        checked["quarter_turns"] = flag("quarter_turns", self.quarter_turns)
        checked["zoom"] = pair("zoom", self.zoom, positive_number)
        if checked["zoom"][0] > checked["zoom"][1]:
            raise ValueError(f"zoom must be a range (smallest, largest), got {shown(self.zoom)}.")
        if checked["zoom"][0] < 1 / _MAX_ZOOM or checked["zoom"][1] > _MAX_ZOOM:
            raise ValueError(f"zoom must be between {1 / _MAX_ZOOM:g} and {_MAX_ZOOM}, got {shown(self.zoom)}.")
        if self.crop is not None:
            checked["crop"] = pair("crop", self.crop, _side)
        instance("image", self.image, ImageConfig, "an ImageConfig")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def photographs(cls, **changes: Any) -> Augmentation:
        """Return augmentations for photographs: flips, zoom and color.

        Parameters
        ----------
        **changes
            Attributes that are to have other values.
        """
        preset: dict[str, Any] = {"horizontal_flip": 0.5, "zoom": (0.8, 1.25), "min_visible": 0.02}
        preset |= {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
        return cls._changed("Augmentation.photographs()", preset, changes)

    @classmethod
    def microscopy(cls, **changes: Any) -> Augmentation:
        """Return augmentations for microscopy: flips, quarter turns, zoom, exposure and stain.

        Parameters
        ----------
        **changes
            Attributes that are to have other values.
        """
        preset: dict[str, Any] = {"horizontal_flip": 0.5, "vertical_flip": 0.5, "quarter_turns": True}
        preset |= {"zoom": (0.7, 1.3), "exposure": 0.2, "gamma": 0.15, "channels": 0.05}
        return cls._changed("Augmentation.microscopy()", preset, changes)

    @classmethod
    def suited_to(cls, image: ImageConfig, *, fine_tuning: bool = False, **changes: Any) -> Augmentation:
        """Return the ready-made augmentations for the kind of images that a model takes.

        Parameters
        ----------
        image : ImageConfig
            ``model.config.image``. A model that enlarges all images by one factor (``image.scale``) is of microscopy,
            where pixels have a fixed size: :meth:`microscopy`; others: :meth:`photographs`.
        fine_tuning : bool
            Whether the model knows such objects already, as ``model.pretrained`` says: then microscopy varies scale and
            stain little, since the images themselves say which they have.
        **changes
            Attributes that are to have other values; with ``crop`` the crops are of images as ``image`` says.
        """
        instance("image", image, ImageConfig, "an ImageConfig, such as model.config.image")
        own: dict[str, Any] = {"image": image} if "crop" in changes else {}
        if flag("fine_tuning", fine_tuning) and image.scale is not None:
            own |= _GENTLE
        return (cls.photographs if image.scale is None else cls.microscopy)(**(own | changes))

    @classmethod
    def _changed(cls, owner: str, preset: dict[str, Any], changes: dict[str, Any]) -> Augmentation:
        check_keywords(owner, changes, [field.name for field in fields(cls)])
        return cls(**(preset | changes))

    @property
    def crop_size(self) -> Size | None:
        """Height and width of what comes out if ``crop`` fixes them, else None."""
        return self.crop  # type: ignore[return-value]  # a pair, once it is checked

    @property
    def network(self) -> dict[str, int | None]:
        """Fields of an ``ImageConfig`` with which a model takes crops as they are; empty without ``crop``."""
        if self.crop_size is None:
            return {}
        return {"min_size": min(self.crop_size), "max_size": max(self.crop_size), "scale": None}

    def __call__(self, image: np.ndarray, target: Mapping[str, Any], rng: np.random.Generator) -> Sample:
        """Return an augmented image (H, W, 3), uint8, and its target; the image may be a path or a PIL image too.

        Masks come out as :class:`~lucid_maskrcnn.masks.CompressedMasks`, whatever they were.
        """
        instance("rng", rng, np.random.Generator, "a NumPy generator such as np.random.default_rng(0)")
        image, sample = _check_sample(image, target)
        turns = int(rng.integers(4)) if self.quarter_turns else 0
        image, sample = self._crop(image, sample, turns % 2 == 1, rng)
        image, sample = rotate(image, sample, turns)
        horizontal, vertical = (bool(rng.random() < p) for p in (self.horizontal_flip, self.vertical_flip))
        image, sample = flip(image, sample, horizontal=horizontal, vertical=vertical)
        return self._recolor(image, rng), sample

    def _crop(self, image: np.ndarray, target: Target, sideways: bool, rng: np.random.Generator) -> Sample:
        """Zoom, and take the crop of fixed size; ``sideways`` says that an odd number of quarter turns follows."""
        if self.crop_size is None and self.zoom == (1, 1):
            return image, target
        size = (image.shape[0], image.shape[1])
        low, high = self.zoom  # type: ignore[misc]  # a pair, once it is checked
        zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
        if self.crop_size is None:
            scale, out = 1.0, None
            height, width = (max(1, round(n / zoom)) for n in size)
        else:
            scale = zoom * resized_size(size, self.image)[0] / size[0]
            out = self.crop_size[::-1] if sideways else self.crop_size
            height, width = (max(1, round(n / scale)) for n in out)
        # A crop that is larger than the image has it somewhere inside.
        top, left = (
            int(rng.integers(min(0, n - of), max(0, n - of) + 1)) for n, of in zip(size, (height, width), strict=True)
        )
        image, target = crop(
            image, target, top, left, height, width, min_visible=self.min_visible, min_side=_MIN_SIDE / scale
        )
        return (image, target) if out is None else resize(image, target, out)

    def _recolor(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.exposure or self.gamma or self.channels:
            gain = np.exp(rng.normal(0, self.exposure) + rng.normal(0, self.channels, 3))
            image = tint(image, gain, float(np.exp(rng.normal(0, self.gamma))))
        if self.brightness or self.contrast or self.saturation:
            amounts = (self.brightness, self.contrast, self.saturation)
            image = adjust(image, *(float(rng.uniform(1 - a, 1 + a)) for a in amounts))
        if self.blur:
            image = blur(image, float(rng.uniform(0, self.blur)))
        if self.noise:
            image = noise(image, float(rng.uniform(0, self.noise)), rng)
        return image


def compose(*augmentations: Callable[[np.ndarray, Target, np.random.Generator], Sample]) -> _Composed:
    """Return an augmentation that applies several in a row.

    Parameters
    ----------
    *augmentations
        Each is called as ``augment(image, target, rng)``.

    Raises
    ------
    TypeError
        If one cannot be called so.
    """
    for i, augment in enumerate(augmentations):
        function(f"augmentations[{i}]", augment, "augment(image, target, rng)")
    return _Composed(augmentations)


@dataclass(frozen=True)
class _Composed:
    augmentations: tuple[Callable[[np.ndarray, Target, np.random.Generator], Sample], ...]

    @property
    def crop_size(self) -> Size | None:
        """Height and width of what comes out, if the last augmentation fixes them."""
        return getattr(self.augmentations[-1], "crop_size", None) if self.augmentations else None

    def __call__(self, image: np.ndarray, target: Target, rng: np.random.Generator) -> Sample:
        for augment in self.augmentations:
            image, target = augment(image, target, rng)
        return image, target


# ------------------------------------------------------------------ arguments


def _amount(name: str, value: Any, maximum: float) -> float:
    amount = non_negative_number(name, value)
    if amount > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {shown(value)}.")
    return amount


def _side(name: str, value: Any) -> int:
    return positive_int(name, value, _MAX_SIDE)


def _offset(name: str, value: Any) -> int:
    return integer(name, value, -_MAX_SIDE, _MAX_SIDE)


def _check_image(image: Any) -> np.ndarray:
    """Return the pixels (H, W, 3), uint8, of whatever an image may be."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        pixels = image
    elif isinstance(image, Tensor):
        raise TypeError(
            f"image must have pixels to be augmented, an array, a PIL image or a path, got a tensor of "
            f"{described(image)}: augment the image that it was made of."
        )
    else:
        pixels = load_image(image)
    if pixels.size == 0:
        raise ValueError(f"image must have at least one pixel, got an array of shape {pixels.shape}.")
    return np.ascontiguousarray(pixels)


def _check_sample(image: Any, target: Any) -> Sample:
    """Return an image, and a copy of its target with arrays as boxes and labels and with compressed masks."""
    image = _check_image(image)
    instance("target", target, Mapping, "a mapping with 'boxes', 'labels' and 'masks'")
    missing = [key for key in ("boxes", "labels", "masks") if key not in target]
    if missing:
        raise ValueError(f"target has no {' and no '.join(map(repr, missing))}: it has {list(target)}.")
    boxes, labels = (_target_array(key, target[key]) for key in ("boxes", "labels"))
    masks = CompressedMasks.of(target["masks"], (image.shape[0], image.shape[1]))
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        raise ValueError(f"target['boxes'] must be numbers of shape (G, 4), got {boxes.dtype} of shape {boxes.shape}.")
    if not np.isfinite(boxes).all():
        raise ValueError(f"target['boxes'] must be finite, got {shown(boxes[~np.isfinite(boxes).all(axis=1)][0])}.")
    if labels.size and labels.dtype.kind not in "iu":
        raise TypeError(f"target['labels'] must be integers, got {labels.dtype}.")
    if labels.ndim != 1 or not len(boxes) == len(labels) == len(masks):
        raise ValueError(
            f"target must have one label and one mask for each box, got {len(boxes)} boxes, labels of shape "
            f"{labels.shape} and {len(masks)} masks."
        )
    return image, {**target, "boxes": boxes.astype(np.float32, copy=False), "labels": labels, "masks": masks}


def _target_array(key: str, values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        return host(values)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"target[{key!r}] must be an array, got rows of different lengths.") from error


# ------------------------------------------------------------------ geometry


def flip(image: np.ndarray, target: Mapping[str, Any], *, horizontal: bool = False, vertical: bool = False) -> Sample:
    """Flip an image and its objects: left and right swapped, top and bottom swapped, or both."""
    horizontal, vertical = flag("horizontal", horizontal), flag("vertical", vertical)
    image, sample = _check_sample(image, target)
    if not horizontal and not vertical:
        return image, sample
    height, width = image.shape[:2]
    x1, y1, x2, y2 = sample["boxes"].T
    if horizontal:
        image, x1, x2 = image[:, ::-1], width - x2, width - x1
    if vertical:
        image, y1, y2 = image[::-1], height - y2, height - y1
    masks = sample["masks"].flipped(horizontal=horizontal, vertical=vertical)
    return np.ascontiguousarray(image), sample | {"boxes": np.stack([x1, y1, x2, y2], axis=1), "masks": masks}


def rotate(image: np.ndarray, target: Mapping[str, Any], turns: int) -> Sample:
    """Rotate an image and its objects by quarter turns, counterclockwise."""
    turns = integer("turns", turns) % 4
    image, sample = _check_sample(image, target)
    if turns == 0:
        return image, sample
    boxes = sample["boxes"]
    width = np.float32(image.shape[1])
    for _ in range(turns):  # what was at x from the right is then at y from the top
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([y1, width - x2, y2, width - x1], axis=1)
        width = np.float32(sum(image.shape[:2])) - width
    pixels = np.ascontiguousarray(np.rot90(image, turns))
    return pixels, sample | {"boxes": boxes, "masks": sample["masks"].rotated(turns)}


def crop(
    image: np.ndarray,
    target: Mapping[str, Any],
    top: int,
    left: int,
    height: int,
    width: int,
    *,
    min_visible: float = 0.1,
    min_pixels: int = 4,
    min_side: float = 0.0,
) -> Sample:
    """Crop an image, and drop the objects of which too little is left.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
        Or another image that :func:`~lucid_maskrcnn.images.load_image` reads.
    target : mapping
        With ``"boxes"``, ``"labels"`` and ``"masks"``, each as ``get_loss`` takes it.
    top, left, height, width : int
        The region; where it extends beyond the image it is filled with grey.
    min_visible, min_pixels, min_side : float, int, float
        An object that the crop cuts stays if this fraction of its pixels is left, this many pixels, and a box at least
        this wide and high. One that is not cut stays, however small it is.

    Returns
    -------
    image, target
        Boxes that the crop cuts become those around what is left of the mask; others are only moved. What has one row
        for each object, an array, a tensor, a list or a tuple, loses the rows of dropped objects, except entries of the
        image: ``"image_id"``, ``"file_name"``, ``"size"``, ``"orig_size"`` and ``"image_size"``. All others stay.
    """
    top, left = _offset("top", top), _offset("left", left)
    height, width = _side("height", height), _side("width", width)
    min_visible, min_side = fraction("min_visible", min_visible), non_negative_number("min_side", min_side)
    min_pixels = non_negative_int("min_pixels", min_pixels)
    image, sample = _check_sample(image, target)
    old = sample["masks"]
    masks = old.cropped(top, left, height, width)
    boxes = sample["boxes"] - np.array([left, top, left, top], np.float32)
    cut = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] > (width, height)).any(axis=1)
    boxes[cut] = masks.boxes[cut]
    visible, sides = masks.areas, boxes[:, 2:] - boxes[:, :2]
    large = visible >= np.maximum(min_visible * old.areas, min_pixels)
    large &= (sides >= np.float64(min_side)).all(axis=1)
    keep = (visible > 0) & (sides > 0).all(axis=1) & (large | (visible == old.areas))
    pixels = _crop_pixels(image, top, left, height, width)
    return pixels, _selected(sample | {"boxes": boxes, "masks": masks}, keep)


def _crop_pixels(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    pixels = np.empty((height, width, 3), np.uint8)
    spans = (top, height, image.shape[0]), (left, width, image.shape[1])
    y, x = (slice(max(at, 0), max(at, 0, min(at + n, of))) for at, n, of in spans)  # what the region has of the image
    part = image[y, x]
    if part.shape[:2] != (height, width):
        pixels[...] = _FILL
    pixels[y.start - top : y.stop - top, x.start - left : x.stop - left] = part
    return pixels


def resize(image: np.ndarray, target: Mapping[str, Any], size: Size) -> Sample:
    """Resize an image and its objects: pixels bilinear, masks to the nearest pixel.

    A mask that would lose its last pixel gets the one at its center: no object goes.
    """
    from PIL import Image

    size = pair("size", size, _side)
    image, sample = _check_sample(image, target)
    old = (image.shape[0], image.shape[1])
    if old == size:
        return image, sample
    # Pillow's resizing averages where it shrinks, unlike a prediction's; but it is fast and releases the GIL.
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    boxes = resize_boxes(sample["boxes"], old, size)
    return np.asarray(resized), sample | {"boxes": boxes, "masks": sample["masks"].resized(size, keep_all=True)}


def _selected(target: Target, keep: np.ndarray) -> Target:
    """Return the target with some of its objects: rows of all that has one row for each, unless it is of the image."""
    if keep.all():
        return target
    return {key: value if key in _OF_THE_IMAGE else _selected_rows(value, keep) for key, value in target.items()}


def _selected_rows(value: Any, keep: np.ndarray) -> Any:
    """Return the rows to keep of an array, a tensor or a list, as the same kind; other values as they are."""
    if isinstance(value, CompressedMasks):
        return value[keep]
    if isinstance(value, (list, tuple)) and len(value) == len(keep):
        rows = [row for row, kept in zip(value, keep, strict=True) if kept]
        return rows if isinstance(value, list) else tuple(rows)
    if isinstance(value, (np.ndarray, Tensor)) and tuple(value.shape[:1]) == keep.shape:
        return value[keep] if isinstance(value, np.ndarray) else as_tensor(host(value)[keep], value.device)
    return value


# ------------------------------------------------------------------ colors


def tint(image: np.ndarray, gain: np.ndarray, gamma: float) -> np.ndarray:
    """Return an image (H, W, 3), uint8, with a gain for each color (3,) and a gamma."""
    from PIL import Image

    factors = np.array(sequence("gain", gain, non_negative_number, length=3)).reshape(3, 1)
    gamma = positive_number("gamma", gamma)
    levels = np.arange(256) / 255
    table = np.clip(255 * factors * levels**gamma, 0, 255).round().astype(int)  # (3, 256)
    return np.asarray(Image.fromarray(_check_image(image)).point(table.ravel().tolist()))


def adjust(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Return an image (H, W, 3), uint8, with each of the three multiplied by a factor; 1 is no change."""
    from PIL import Image, ImageEnhance

    adjusted = Image.fromarray(_check_image(image))
    for name, enhance, factor in (
        ("brightness", ImageEnhance.Brightness, brightness),
        ("contrast", ImageEnhance.Contrast, contrast),
        ("saturation", ImageEnhance.Color, saturation),
    ):
        factor = non_negative_number(name, factor)
        if factor != 1:
            adjusted = enhance(adjusted).enhance(factor)
    return np.asarray(adjusted)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return an image (H, W, 3), uint8, blurred with a Gaussian of ``sigma`` pixels."""
    from PIL import Image, ImageFilter

    radius = _amount("sigma", sigma, _MAX_SIGMA)
    return np.asarray(Image.fromarray(_check_image(image)).filter(ImageFilter.GaussianBlur(radius)))


def noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return an image (H, W, 3), uint8, with Gaussian noise of ``sigma`` values, independent for each color."""
    instance("rng", rng, np.random.Generator, "a NumPy generator such as np.random.default_rng(0)")
    sigma = _amount("sigma", sigma, _MAX_SIGMA)
    pixels = _check_image(image)
    noisy = pixels + np.float32(sigma) * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(noisy, 0, 255, out=noisy).round().astype(np.uint8)
