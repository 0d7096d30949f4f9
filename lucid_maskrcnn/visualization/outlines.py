"""Masks as smooth areas with outlines, in an image of any scale.

A mask is blurred a little, and what is drawn follows from the blurred value v alone: near an edge that is straight over
the blur's width σ, v = Φ(d / σ) is the normal distribution of the distance d from the edge, positive inside. So the
outline, the pixels with 0 < d < width, and the smooth rim of the area are two tables of 256 values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.validators import fraction, instance, number, sequence
from lucid_maskrcnn.visualization.colors import Color, rgb

__all__ = ["draw_masks", "paint_masks"]

_WIDEST = 1 << 16
_STEPS = 0.75  # blur, in pixels of the mask, that makes a smooth line of its steps
_REACH = 2.4  # the blur knows distances up to so many σ


@answers_wrong_calls
def draw_masks(
    image: Image.Image, masks: CompressedMasks, colors: Sequence[Color], alpha: float, thickness: float
) -> Image.Image:
    """Return an image with masks drawn on it, as filled areas with outlines.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB; not modified.
    masks : CompressedMasks
        n masks of the image's size; the first lie on top.
    colors : sequence of (red, green, blue), n of them
        Color of each mask, 0 … 255.
    alpha : float
        Opacity of the areas, from 0 to 1.
    thickness : float
        Width of the outlines in pixels; they are inside the masks, but for half a pixel. 0 draws none.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the masks are of another size or not as many as the colors.
    """
    instance("image", image, Image.Image, "a PIL image")
    instance("masks", masks, CompressedMasks, "CompressedMasks")
    colors = sequence("colors", colors, rgb)
    alpha, thickness = fraction("alpha", alpha), line_width("thickness", thickness)
    if image.mode != "RGB":
        raise ValueError(f"image must be of mode RGB, got {image.mode}: convert it with image.convert('RGB').")
    size = image.height, image.width
    if masks.image_size != size or len(colors) != len(masks):
        raise ValueError(
            f"masks must be of the image's size {size} and have one color each, got {masks!r} and {len(colors)} colors."
        )
    drawn = image.copy()
    paint_masks(drawn, masks, colors, alpha, thickness)
    return drawn


def line_width(name: str, value: Any) -> float:
    """Return a width of lines in pixels, from 0 on."""
    width = number(name, value, f"a number from 0 to {_WIDEST}")
    if not 0 <= width <= _WIDEST:
        raise ValueError(f"{name} must be a number from 0 to {_WIDEST}, got {width:g}.")
    return width


def paint_masks(
    image: Image.Image, masks: CompressedMasks, colors: Sequence[Color], alpha: float, thickness: float
) -> None:
    """Draw masks on an image, which is modified, and may be larger or smaller than they are by one factor."""
    zoom = image.width / max(masks.image_size[1], 1)
    boxes, areas = masks.boxes.astype(int), masks.areas.tolist()
    places = np.stack([np.floor(boxes[:, :2] * zoom), np.ceil(boxes[:, 2:] * zoom)], axis=1).astype(int).tolist()
    for i, (x1, y1, x2, y2) in reversed(list(enumerate(boxes.tolist()))):
        if not areas[i]:
            continue
        pixels = Image.fromarray(masks.decode_region(i, slice(y1, y2), slice(x1, x2)).view(np.uint8) * 255)
        # How thick the object is: a line of one pixel must not be blurred away.
        narrow = areas[i] / max(x2 - x1, y2 - y1) * zoom
        sigma = min(max(_STEPS * zoom, thickness / _REACH, 0.8), 0.3 * narrow)
        width = min(thickness, max(1.0, _REACH * sigma)) if thickness else 0.0
        _paint(image, pixels, places[i], colors[i], (alpha, round(sigma, 1), round(width, 1)))


def _paint(
    image: Image.Image,
    pixels: Image.Image,
    place: list[list[int]],
    color: Color,
    look: tuple[float, float, float],
) -> None:
    (x1, y1), (x2, y2) = place
    alpha, sigma, width = look
    rim = math.ceil(3 * sigma) + 1
    larger = x2 - x1 >= pixels.width
    mask = Image.new("L", (x2 - x1 + 2 * rim, y2 - y1 + 2 * rim))
    mask.paste(pixels.resize((x2 - x1, y2 - y1), Resampling.NEAREST if larger else Resampling.BOX), (rim, rim))
    blurred = np.asarray(mask.filter(ImageFilter.GaussianBlur(sigma)))
    area, line = _tables(sigma, width, alpha)
    corner = x1 - rim, y1 - rim
    if alpha:
        # The mask's own pixels belong to the area where they are too narrow for the blur.
        filled = np.maximum(area[blurred], area[np.asarray(mask)])
        image.paste(color, corner, Image.fromarray(filled))
    if width:
        image.paste(color, corner, Image.fromarray(line[blurred]))


@lru_cache(maxsize=512)
def _tables(sigma: float, width: float, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how opaque the area and the outline are, from 0 to 255, for each of 256 blurred values."""
    normal = NormalDist()
    distance = np.array([-math.inf, *(sigma * normal.inv_cdf(v / 255) for v in range(1, 255)), math.inf])
    area = (distance + 0.5).clip(0, 1) * alpha
    line = (distance + 1).clip(0, 1) * (width - distance).clip(0, 1)  # from half a pixel outside
    return (area * 255).round().astype(np.uint8), (line * 255).round().astype(np.uint8)
