"""Colors of objects: the same in every picture, unless they would vanish in it.

Shapes: n objects, H × W the image, K colors to choose from.

Names: *Lab* is CIE L*a*b* (D65): lightness from 0 to 100, green to red, blue to yellow.
"""

from __future__ import annotations

import colorsys
from functools import cache, partial
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.validators import integer, non_negative_int, sequence, shown

__all__ = ["Color", "color_of", "colors_of", "contrast", "rgb", "text_color"]

type Color = tuple[int, int, int]

_CLEAR = 32.0  # contrast that a color must have with what it is drawn on
_VERY_CLEAR = 36.0  # that of a color in place of another
_FEW, _MANY = 8, 24  # numbers whose colors are kept apart, the first ones most; later ones begin again
_DARK, _LIGHT = 50.0, 65.0  # lightness of what is darker, and lighter, than middle gray
_HUE_WEIGHT = 0.35  # thin lines are seen by lightness more than by hue
_SMALL = 1024  # pixels: an image is looked at no larger than this
_GOLDEN = 0.6180339887


@answers_wrong_calls
def color_of(number: int) -> Color:
    """Return the color (red, green, blue) of a number: bright, and far in hue from those of the numbers near it."""
    number = integer("number", number)
    hue = (0.08 + number * _GOLDEN) % 1  # steps of the golden ratio come near an old hue as late as can be
    return _bright(hue, (0.56, 0.68, 0.48)[number % 3])


def _bright(hue: float, lightness: float) -> Color:
    red, green, blue = (255 * part for part in colorsys.hls_to_rgb(hue, lightness, 0.95))
    dim = max(0.0, 100 - _luma((red, green, blue)))  # pure blue would be invisible on a dark image
    red, green, blue = (part + (255 - part) * dim / 255 for part in (red, green, blue))
    return round(red), round(green), round(blue)


def rgb(name: str, value: Any) -> Color:
    """Return a color given as (red, green, blue) from 0 to 255, as ``"#ff8800"`` or by its name in CSS."""
    if isinstance(value, str):
        try:
            return ImageColor.getrgb(value)[:3]
        except ValueError:
            raise ValueError(
                f"{name} must be a color such as 'orange', '#ff8800' or (255, 136, 0), got {shown(value)}."
            ) from None
    red, green, blue = sequence(name, value, partial(non_negative_int, maximum=255), length=3)
    return red, green, blue


def palette_of(palette: Any) -> tuple[Color, ...] | None:
    """Return the colors of a user's palette, a single color or a sequence of them; None if there is none."""
    if palette is None:
        return None
    if isinstance(palette, str):
        return (rgb("palette", palette),)
    colors = sequence("palette", palette, rgb, minimum=1)
    return colors


def _luma(color: tuple[float, float, float]) -> float:
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue


def text_color(background: Color) -> Color:
    """Return black or white, whichever is easier to read on ``background``."""
    return (0, 0, 0) if _luma(background) > 130 else (255, 255, 255)


# ------------------------------------------------------------------ colors for an image


def colors_of(pixels: np.ndarray, boxes: np.ndarray, ids: np.ndarray) -> list[Color]:
    """Return the color of each object: that of its number, or another if that would vanish in this image.

    Parameters
    ----------
    pixels : uint8 array of shape (H, W, 3)
    boxes : array of shape (n, 4)
        (x1, y1, x2, y2) in pixels.
    ids : array of shape (n,), integers
        Objects of one number have one color.

    Returns
    -------
    list of (red, green, blue), of length n
    """
    numbers, owner = np.unique(ids, return_inverse=True)
    grounds = _grounds(pixels, boxes)  # (n, 2, 3)
    own = [color_of(number) for number in numbers.tolist()]
    clearness = contrast(lab(np.array(own).reshape(-1, 3))[owner][:, None], grounds).min(axis=1)  # (n,)
    for k in np.flatnonzero(_in_groups(clearness, owner) < _CLEAR).tolist():
        own[k] = _clear_color(int(numbers[k]), grounds[owner == k])
    return [own[k] for k in owner.tolist()]


def contrast(colors: Any, grounds: Any) -> np.ndarray:
    """Return how clearly colors stand out, from 0 for equal ones; lightness counts more than hue.

    Parameters
    ----------
    colors, grounds : arrays of shape (..., 3)
        Lab, broadcast against each other.
    """
    lightness, red, yellow = np.moveaxis(np.asarray(colors) - np.asarray(grounds), -1, 0)
    return np.sqrt(lightness**2 + _HUE_WEIGHT**2 * (red**2 + yellow**2))


def _in_groups(clearness: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return the contrast that nine tenths of each group's objects have at least."""
    order = np.lexsort((clearness, owner))
    counts = np.bincount(owner)
    return clearness[order][np.cumsum(counts) - counts + counts // 10]


def _clear_color(number: int, grounds: np.ndarray) -> Color:
    """Return a color for a number that is clear on the backgrounds of its objects, (m, 2, 3).

    It is found as if all numbers had objects on the same backgrounds: those whose colors are clear keep them, and each
    of the others gets the clear one that is farthest from all before. So similar backgrounds give different numbers
    different colors, whichever of the numbers are in the image.
    """
    candidates, of_lab = _candidates()
    clearness = _clearness(of_lab, grounds)
    if np.median(grounds[..., 0]) < _LIGHT:  # dark lines are seen on light backgrounds only
        clearness[of_lab[:, 0] < _DARK] = 0
    clear = np.flatnonzero(clearness >= min(_VERY_CLEAR, clearness.max() * 0.9))
    number %= _MANY
    own = lab(np.array([color_of(j) for j in range(_FEW if number < _FEW else _MANY)]))
    own_clearness = _clearness(own, grounds)
    kept = own[(own_clearness >= 0.7 * _CLEAR) & (np.arange(len(own)) != number)]  # maybe, on similar backgrounds
    farness = _distances(of_lab[clear], kept).min(axis=1, initial=np.inf)
    best = 0
    for _ in range(1 + int((own_clearness[:number] < _CLEAR).sum())):
        best = int(farness.argmax())
        farness = np.minimum(farness, _distances(of_lab[clear], of_lab[clear[best]][None])[:, 0])
    return candidates[clear[best]]


def _distances(colors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how much colors of (K, 3) differ from those of (m, 3), all Lab: (K, m)."""
    return np.sqrt(((colors[:, None] - others) ** 2).sum(axis=2))


def _clearness(colors: np.ndarray, grounds: np.ndarray) -> np.ndarray:
    """Return the contrast of each color of (K, 3) that nine tenths of the objects of (m, 2, 3) have at least."""
    return np.sort(contrast(colors[:, None, None], grounds).min(axis=2), axis=1)[:, len(grounds) // 10]


@cache
def _candidates() -> tuple[list[Color], np.ndarray]:
    """Return colors in the order of their hue, light and dark ones, and their Lab."""
    steps = [(hue / 36, lightness) for hue in range(36) for lightness in (0.3, 0.5, 0.7)]
    colors = [_plain(hue, lightness) for hue, lightness in steps]
    return colors, lab(np.array(colors))


def _plain(hue: float, lightness: float) -> Color:
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.95))
    return red, green, blue


def _grounds(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the mean Lab in the middle of each box, and around it: (n, 2, 3)."""
    height, width = pixels.shape[:2]
    shrink = min(1.0, _SMALL / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = lab(np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX)))
    sums = np.zeros((size[1] + 1, size[0] + 1, 4))
    sums[1:, 1:, :3], sums[1:, 1:, 3] = small, 1
    sums = sums.cumsum(axis=0).cumsum(axis=1)
    corners = boxes * (np.array([*size, *size]) / (width, height, width, height))
    center, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]).clip(0) / 2
    inner, box, outer = (_sum_in(sums, center, half * grown + more) for grown, more in ((0.6, 0), (1, 0), (1.3, 1)))
    around = outer - box
    some = around[:, 3:] > 0.5  # nothing is around an object that fills the image
    means = np.stack([inner, np.where(some, around, inner)], axis=1)
    return means[..., :3] / means[..., 3:]


def _sum_in(sums: np.ndarray, center: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return the sums over boxes, each of at least one pixel of the image."""
    limit = np.array(sums.shape[1::-1]) - 1
    low = np.floor(center - half).clip(0, limit - 1).astype(int)
    high = np.ceil(center + half).clip(low + 1, limit).astype(int)
    (x1, y1), (x2, y2) = low.T, high.T
    return sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]


def lab(colors: np.ndarray) -> np.ndarray:
    """Return the Lab of sRGB colors (..., 3) from 0 to 255."""
    table = np.arange(256) / 255
    table = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    linear = table[np.asarray(colors, int)]
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / (0.9505, 1.0, 1.089)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
