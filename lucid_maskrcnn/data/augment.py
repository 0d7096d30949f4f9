"""Random variations of an image and its objects, each a function of a generator that is passed in.

An augmentation is anything that is called as ``augment(image, target, rng)`` and returns another image and
target: :class:`Augmentation` has the usual ones, :func:`compose` strings several together. The target's
boxes and masks move with the image; nothing that is passed in is modified.

Shapes: G objects of an image of H × W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.images import Size
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.transforms import resize_boxes, resized_size

__all__ = ["Augmentation", "adjust", "blur", "compose", "crop", "flip", "noise", "resize", "rotate", "tint"]

type Target = dict[str, Any]
type Sample = tuple[np.ndarray, Target]

_FILL = (124, 116, 104)  # 255 times ImageNet's mean: next to nothing once it is normalised
_SLIVER = 3  # pixels; objects that a crop leaves less than this in width or height of are dropped


@dataclass(frozen=True)
class Augmentation:
    """Random variations, all of them off by default; :meth:`photographs` and :meth:`microscopy` are ready-made.

    Attributes
    ----------
    horizontal_flip, vertical_flip : float
        Probability of each.
    quarter_turns : bool
        Whether the image is turned by 0 to 3 quarters.
    zoom : (float, float)
        Range of the factor, drawn evenly on a logarithmic scale, by which objects are enlarged: a window as many
        times smaller than the image is cut out, at random, or the image put into one as many times larger.
    crop : int or (int, int), optional
        Side, or height and width, of a window of fixed size in pixels *of the network*. It is cut at random out of
        the image as a prediction resizes it, times ``zoom``: all images come out as ``crop``, at about the scale
        that they have in a prediction. Train with the sizes of :attr:`network`, so that they are not resized once
        more. Without, images keep about their size, and the model resizes them as usual.
    image : ImageConfig
        How a prediction resizes images, for ``crop``.
    min_visible : float
        Objects of which a window leaves a smaller share than this are dropped; so are those with less than 4
        pixels, or less than 3 in width or height.
    exposure, gamma, channels : float
        Standard deviation of the logarithms of a gain, of an exponent, and of a gain of each color by itself.
    brightness, contrast, saturation : float
        Each is multiplied by a factor up to so much above or below 1.
    blur, noise : float
        Largest standard deviations: of a Gaussian blur in pixels, of noise in values of 0 to 255.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    quarter_turns: bool = False
    zoom: tuple[float, float] = (1.0, 1.0)
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
        for name in ("horizontal_flip", "vertical_flip", "min_visible", "brightness", "contrast", "saturation"):
            self._require(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        for name in ("exposure", "gamma", "channels", "blur", "noise"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "a number from 0 on")
        self._require("zoom", len(self.zoom) == 2 and 0 < self.zoom[0] <= self.zoom[1] < math.inf, "a range above 0")
        self._require("crop", self.crop_size is None or min(self.crop_size) >= 1, "at least 1 pixel")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)}.")

    @classmethod
    def photographs(cls, **changes: Any) -> Augmentation:
        """Return what suits photographs: mirrored, a little larger or smaller, in other light.

        Parameters
        ----------
        **changes
            Attributes that are to be otherwise.
        """
        colors: dict[str, Any] = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
        return cls(**(colors | {"horizontal_flip": 0.5, "zoom": (0.8, 1.25), "min_visible": 0.02} | changes))

    @classmethod
    def microscopy(cls, **changes: Any) -> Augmentation:
        """Return what suits microscopy: turned and mirrored any way, exposed and stained otherwise.

        Parameters
        ----------
        **changes
            Attributes that are to be otherwise.
        """
        turns: dict[str, Any] = {"horizontal_flip": 0.5, "vertical_flip": 0.5, "quarter_turns": True}
        colors = {"exposure": 0.2, "gamma": 0.15, "channels": 0.05}  # laboratories differ in both
        return cls(**(turns | colors | {"zoom": (0.7, 1.3)} | changes))

    @property
    def crop_size(self) -> Size | None:
        """Height and width of what comes out, where that is fixed by ``crop``."""
        if self.crop is None:
            return None
        return (self.crop, self.crop) if isinstance(self.crop, int) else (self.crop[0], self.crop[1])

    @property
    def network(self) -> dict[str, int | None]:
        """What ``ImageConfig`` of a model that takes images as they come out of ``crop`` have; else empty."""
        if self.crop_size is None:
            return {}
        return {"min_size": min(self.crop_size), "max_size": max(self.crop_size), "scale": None}

    def __call__(self, image: np.ndarray, target: Target, rng: np.random.Generator) -> Sample:
        """Return a variation of an image (H, W, 3), uint8, and of its target.

        Masks come out as :class:`~lucid_maskrcnn.masks.CompressedMasks`, whatever they were.
        """
        target = target | {"masks": CompressedMasks.of(target["masks"], (image.shape[0], image.shape[1]))}
        turns = int(rng.integers(4)) if self.quarter_turns else 0
        image, target = self._cut(image, target, turns % 2 == 1, rng)
        image, target = rotate(image, target, turns)
        horizontal, vertical = (bool(rng.random() < p) for p in (self.horizontal_flip, self.vertical_flip))
        image, target = flip(image, target, horizontal=horizontal, vertical=vertical)
        return self._recolor(image, rng), target

    def _cut(self, image: np.ndarray, target: Target, sideways: bool, rng: np.random.Generator) -> Sample:
        """Cut out a window; ``sideways`` says that a quarter turn follows."""
        if self.crop_size is None and self.zoom == (1.0, 1.0):
            return image, target
        size = (image.shape[0], image.shape[1])
        zoom = math.exp(rng.uniform(math.log(self.zoom[0]), math.log(self.zoom[1])))
        if self.crop_size is None:
            height, width = (max(1, round(n / zoom)) for n in size)
            scale = 1.0
        else:
            scale = zoom * resized_size(size, self.image)[0] / size[0]
            height, width = (max(1, round(n / scale)) for n in (self.crop_size[::-1] if sideways else self.crop_size))
        # A window larger than the image has it somewhere inside.
        top, left = (
            int(rng.integers(min(0, n - of), max(0, n - of) + 1)) for n, of in zip(size, (height, width), strict=True)
        )
        image, target = crop(
            image, target, top, left, height, width, min_visible=self.min_visible, min_side=_SLIVER / scale
        )
        if self.crop_size is None:
            return image, target
        return resize(image, target, self.crop_size[::-1] if sideways else self.crop_size)

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
    """Return an augmentation that does several, one after the other.

    Parameters
    ----------
    *augmentations
        Each is called as ``augment(image, target, rng)``.
    """
    return _Composed(augmentations)


@dataclass(frozen=True)
class _Composed:
    augmentations: tuple[Callable[[np.ndarray, Target, np.random.Generator], Sample], ...]

    def __call__(self, image: np.ndarray, target: Target, rng: np.random.Generator) -> Sample:
        for augment in self.augmentations:
            image, target = augment(image, target, rng)
        return image, target


# ------------------------------------------------------------------ places


def flip(image: np.ndarray, target: Target, *, horizontal: bool = False, vertical: bool = False) -> Sample:
    """Mirror an image and its objects: left and right swapped, or top and bottom, or both."""
    if not horizontal and not vertical:
        return image, target
    height, width = image.shape[:2]
    x1, y1, x2, y2 = np.asarray(target["boxes"], np.float32).reshape(-1, 4).T
    if horizontal:
        image, x1, x2 = image[:, ::-1], width - x2, width - x1
    if vertical:
        image, y1, y2 = image[::-1], height - y2, height - y1
    masks = target["masks"].flipped(horizontal=horizontal, vertical=vertical)
    return np.ascontiguousarray(image), target | {"boxes": np.stack([x1, y1, x2, y2], axis=1), "masks": masks}


def rotate(image: np.ndarray, target: Target, turns: int) -> Sample:
    """Turn an image and its objects by quarters, counterclockwise."""
    if turns % 4 == 0:
        return image, target
    boxes = np.asarray(target["boxes"], np.float32).reshape(-1, 4)
    width = np.float32(image.shape[1])
    for _ in range(turns % 4):  # what was at x from the right is then at y from the top
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([y1, width - x2, y2, width - x1], axis=1)
        width = np.float32(sum(image.shape[:2])) - width
    pixels = np.ascontiguousarray(np.rot90(image, turns))
    return pixels, target | {"boxes": boxes, "masks": target["masks"].rotated(turns)}


def crop(
    image: np.ndarray,
    target: Target,
    top: int,
    left: int,
    height: int,
    width: int,
    *,
    min_visible: float = 0.1,
    min_pixels: int = 4,
    min_side: float = 0.0,
) -> Sample:
    """Cut a window out of an image, and drop the objects of which too little is left.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
    target : dict
        With ``CompressedMasks``.
    top, left, height, width : int
        The window; where it sticks out of the image it is filled with grey.
    min_visible, min_pixels, min_side : float, int, float
        An object stays if the window has this share of its pixels, as many pixels, and a box that is as wide and high.

    Returns
    -------
    image, target
        Boxes that the window cuts are those around what is left of the mask; others are the old ones, moved. What
        else the target has one of for each object is dropped likewise.
    """
    pixels = np.empty((height, width, 3), np.uint8)
    y, x = (slice(max(at, 0), max(at, 0, min(at + n, of))) for at, n, of in _spans(image, top, left, height, width))
    part = image[y, x]
    if part.shape[:2] != (height, width):
        pixels[...] = _FILL
    pixels[y.start - top : y.stop - top, x.start - left : x.stop - left] = part

    masks = target["masks"].cropped(top, left, height, width)
    boxes = np.asarray(target["boxes"], np.float32).reshape(-1, 4) - np.array([left, top, left, top], np.float32)
    cut = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] > (width, height)).any(axis=1)
    boxes[cut] = masks.boxes[cut]
    visible, all_of_it = masks.areas, target["masks"].areas
    keep = visible >= np.maximum(min_visible * all_of_it, min_pixels)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep &= ((sides > 0) & (sides >= min_side)).all(axis=1)
    return pixels, _selected(target | {"boxes": boxes, "masks": masks}, keep)


def _spans(image: np.ndarray, top: int, left: int, height: int, width: int) -> list[tuple[int, int, int]]:
    return [(top, height, image.shape[0]), (left, width, image.shape[1])]


def resize(image: np.ndarray, target: Target, size: Size) -> Sample:
    """Resize an image and its objects: pixels bilinear, masks to the nearest pixel."""
    from PIL import Image

    old = (image.shape[0], image.shape[1])
    if old == size:
        return image, target
    # Pillow's averages where it shrinks, unlike a prediction's; but it is quick, and lets other threads work.
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    boxes = resize_boxes(np.asarray(target["boxes"], np.float32).reshape(-1, 4), old, size)
    return np.asarray(resized), target | {"boxes": boxes, "masks": target["masks"].resized(size)}


def _selected(target: Target, keep: np.ndarray) -> Target:
    """Return the target with some of its objects, of whatever it has one of for each."""
    if keep.all():
        return target
    per_object = {
        key: value[keep]
        for key, value in target.items()
        if isinstance(value, CompressedMasks) or (isinstance(value, np.ndarray) and value.shape[:1] == keep.shape)
    }
    return target | per_object


# ------------------------------------------------------------------ colors


def tint(image: np.ndarray, gain: np.ndarray, gamma: float) -> np.ndarray:
    """Return an image (H, W, 3), uint8, with another gain of each color (3,) and another gamma."""
    from PIL import Image

    levels = np.arange(256) / 255
    table = np.clip(255 * np.reshape(gain, (3, 1)) * levels**gamma, 0, 255).round().astype(int)  # (3, 256)
    return np.asarray(Image.fromarray(image).point(table.ravel().tolist()))


def adjust(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Return an image (H, W, 3), uint8, with each multiplied by a factor; 1 leaves it."""
    from PIL import Image, ImageEnhance

    pil_image = Image.fromarray(image)
    steps = [(ImageEnhance.Brightness, brightness), (ImageEnhance.Contrast, contrast), (ImageEnhance.Color, saturation)]
    for kind, factor in steps:
        if factor != 1:
            pil_image = kind(pil_image).enhance(factor)
    return np.asarray(pil_image)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return an image (H, W, 3), uint8, blurred with a Gaussian of ``sigma`` pixels."""
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return an image (H, W, 3), uint8, with Gaussian noise of ``sigma`` values, of each color by itself."""
    noisy = image + np.float32(sigma) * rng.standard_normal(image.shape, np.float32)
    return np.clip(noisy, 0, 255, out=noisy).round().astype(np.uint8)
