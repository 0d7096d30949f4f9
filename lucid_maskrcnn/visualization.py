"""Draw detections, or what a picture is annotated with, with Pillow and NumPy alone.

Lines and letters are sized by the picture, and labels give way to each other: forty nuclei in
256 × 256 pixels stay as readable as three people in a photograph.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.runs import bounding_slices
from lucid_maskrcnn.ops import host

if TYPE_CHECKING:
    from lucid_maskrcnn.detections import Detections

__all__ = ["draw_detections", "draw_target"]

type Color = tuple[int, int, int]


def draw_detections(
    image: Any,
    detections: Detections,
    *,
    score_thresh: float = 0.0,
    color_by: Literal["instance", "class"] = "instance",
    masks: bool = True,
    boxes: bool = True,
    labels: bool = True,
    alpha: float = 0.35,
    scale: int = 1,
) -> Image.Image:
    """Draw masks, boxes and labels on a picture.

    A label says name and score, where there is no room the score alone, and is left out where it
    would cover another. Where all categories have one name, labels say the score only.

    Parameters
    ----------
    image : path, PIL image or uint8 array of shape (H, W, 3)
        Not modified.
    detections : Detections
        In the pixels of ``image``; the first of them lie on top.
    score_thresh : float
        Detections with a lower score are not drawn.
    color_by : {"instance", "class"}
        Whether each object has its own color or each label. The n-th detection, or label n, has
        the same color in every picture and every run.
    masks, boxes, labels : bool
        What to draw.
    alpha : float
        How far the masks cover the picture, from 0 (contours only) to 1.
    scale : int
        Enlarge the picture so many times first: masks, lines and letters are drawn in the finer pixels.

    Returns
    -------
    PIL.Image.Image
        RGB, ``scale`` times the size of ``image``.

    Raises
    ------
    ValueError
        If the picture's size is not the detections', or an option is not one of the above.
    """
    pixels = load_image(image)
    _check(pixels, detections.image_size, color_by, alpha, scale)
    picture = _resized(pixels, scale)
    keep = np.flatnonzero(host(detections.scores) >= score_thresh)
    found = detections[keep].enlarged(scale)
    numbers = host(found.labels) if color_by == "class" else keep
    colors = [_color(int(i)) for i in numbers]
    thickness = max(1, round(min(picture.size) / 400))
    if masks:
        picture = draw_masks(picture, found._mask, colors, alpha, thickness)
    if boxes:
        _draw_boxes(picture, host(found.boxes), colors, max(1, thickness // 2))
    if labels:
        _draw_labels(picture, host(found.boxes), _captions(found), colors)
    return picture


def draw_target(
    image: Any,
    target: Mapping[str, Any],
    *,
    categories: Mapping[int, str] | None = None,
    color_by: Literal["instance", "class"] = "instance",
    boxes: bool = True,
    labels: bool = True,
    alpha: float = 0.35,
    scale: int = 1,
) -> Image.Image:
    """Draw what a picture is annotated with: the items of a data set, or what an augmentation made of them.

    Parameters
    ----------
    image : path, PIL image or uint8 array of shape (H, W, 3)
        Not modified.
    target : mapping
        With ``"boxes"`` (G, 4), ``"labels"`` (G,) and ``"masks"``, as for :meth:`MaskRCNN.get_loss`.
    categories : mapping of int to str, optional
        Names of the labels. Where all have one name, it is not written.
    color_by, boxes, labels, alpha, scale
        As for :func:`draw_detections`.

    Returns
    -------
    PIL.Image.Image
        RGB, ``scale`` times the size of ``image``.

    Raises
    ------
    ValueError
        If the masks are not of the picture's size, or an option is not one of the above.
    """
    pixels = load_image(image)
    compressed = CompressedMasks.of(target["masks"], (pixels.shape[0], pixels.shape[1]))
    _check(pixels, compressed.image_size, color_by, alpha, scale)
    picture = _resized(pixels, scale)
    height, width = picture.height, picture.width
    numbers = np.asarray(target["labels"]).tolist()
    colors = [_color(n) for n in (numbers if color_by == "class" else range(len(numbers)))]
    masks = compressed.resized((height, width))
    corners = np.asarray(target["boxes"], np.float32).reshape(-1, 4) * scale
    thickness = max(1, round(min(picture.size) / 400))

    def mask(i: int) -> np.ndarray:
        return masks.decode_region(i, slice(0, height), slice(0, width))

    picture = draw_masks(picture, mask, colors, alpha, thickness)
    if boxes:
        _draw_boxes(picture, corners, colors, max(1, thickness // 2))
    names = categories or {}
    if labels and len(set(names.values())) != 1:
        _draw_labels(picture, corners, [[names.get(n, f"class {n}")] for n in numbers], colors)
    return picture


def viewing_scale(size: tuple[int, int]) -> int:
    """Return how many times to enlarge a picture (height, width) to look at it on a screen."""
    return min(max(1, 800 // max(size)), 4)  # forty nuclei in 256 × 256 pixels want a closer look


def _resized(pixels: np.ndarray, scale: int) -> Image.Image:
    size = pixels.shape[1] * scale, pixels.shape[0] * scale
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _check(pixels: np.ndarray, size: tuple[int, int], color_by: str, alpha: float, scale: int) -> None:
    if pixels.shape[:2] != size:
        raise ValueError(
            f"image is {pixels.shape[0]} × {pixels.shape[1]} pixels, but the masks are of one of {size[0]} × {size[1]}."
        )
    if color_by not in ("instance", "class"):
        raise ValueError(f"color_by must be 'instance' or 'class', got {color_by!r}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha!r}.")
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale must be a whole number from 1 on, got {scale!r}.")


def _color(number: int) -> Color:
    """Return a bright color; numbers that are close together are far apart in hue."""
    hue = (0.08 + number * 0.6180339887) % 1  # steps of the golden ratio come near an old hue as late as can be
    lightness = (0.56, 0.68, 0.48)[number % 3]
    red, green, blue = (255 * part for part in colorsys.hls_to_rgb(hue, lightness, 0.95))
    dim = max(0.0, 100 - _luma((red, green, blue)))  # pure blue would be lost on a dark picture
    red, green, blue = (part + (255 - part) * dim / 255 for part in (red, green, blue))
    return round(red), round(green), round(blue)


def _luma(color: tuple[float, float, float]) -> float:
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue


# ------------------------------------------------------------------ masks and boxes


def draw_masks(
    picture: Image.Image, mask_of: Callable[[int], np.ndarray], colors: list[Color], alpha: float, thickness: int
) -> Image.Image:
    canvas = np.array(picture)
    for i in reversed(range(len(colors))):
        mask = mask_of(i)
        area = bounding_slices(mask)
        inside = mask[area]
        contour = inside & ~_eroded(inside, thickness)
        color = np.array(colors[i], np.float32)
        part = canvas[area]
        part[inside] = (part[inside] * (1 - alpha) + color * alpha).round().astype(np.uint8)
        part[contour] = colors[i]
    return Image.fromarray(canvas)


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """Take ``steps`` pixels off the rim; every second step spares the diagonals, so that it stays round."""
    for step in range(steps):
        m = np.pad(mask, 1)
        across, down = m[:, :-2] & m[:, 1:-1] & m[:, 2:], m[:-2] & m[1:-1] & m[2:]
        if step % 2:
            mask = across[:-2] & across[1:-1] & across[2:]
        else:
            mask = across[1:-1] & down[:, 1:-1]
    return mask


def _draw_boxes(picture: Image.Image, boxes: np.ndarray, colors: list[Color], thickness: int) -> None:
    pen = ImageDraw.Draw(picture)
    for (x1, y1, x2, y2), color in zip(boxes.round().astype(int).tolist()[::-1], colors[::-1], strict=True):
        # Pillow draws the last pixel too: a box up to x2 ends with the pixel before it.
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=thickness)


# ------------------------------------------------------------------ labels


def _captions(found: Detections) -> list[list[str]]:
    """Return what may be written beside each detection, the best first."""
    one_name = found.categories is not None and len(set(found.categories.values())) == 1
    pairs = zip(found.names, host(found.scores).tolist(), strict=True)
    return [[f"{score:.2f}"] if one_name else [f"{name} {score:.2f}", f"{score:.2f}"] for name, score in pairs]


def _draw_labels(
    picture: Image.Image, boxes: np.ndarray, captions: Sequence[Sequence[str]], colors: list[Color]
) -> None:
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(min(max(9, round(min(picture.size) / 42)), 28))
    height, width = picture.height, picture.width
    taken, objects = np.zeros((height, width), bool), np.zeros((height, width), bool)
    for x1, y1, x2, y2 in boxes.round().astype(int).clip(0).tolist():
        objects[y1:y2, x1:x2] = True
    for texts, box, color in zip(captions, boxes.tolist(), colors, strict=True):
        for text in texts:
            left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
            size = round(right - left) + 4, round(bottom - top) + 4
            spot = _free_spot(size, box, taken, objects)
            if spot is not None:
                x, y = spot
                taken[y : y + size[1], x : x + size[0]] = True
                pen.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=color)
                pen.text((x + 2 - left, y + 2 - top), text, font=font, fill=_ink(color))
                break


def _free_spot(
    size: tuple[int, int], box: list[float], taken: np.ndarray, objects: np.ndarray
) -> tuple[int, int] | None:
    """Return the corner of the place for a label (width, height) that hides least of the objects, if any.

    The places are above the box, below and inside, at its left and at its right; each must be in
    the picture, and over no label that is there already.
    """
    (width, height), (x1, y1, x2, y2) = size, (round(v) for v in box)
    # A label that is wider than its object must hide nothing, others may cover a little.
    best, best_hidden = None, 0.5 * width * height if width <= 1.5 * (x2 - x1) else 1
    for y in (y1 - height, y2, y1, y2 - height):
        for x in (x1, x2 - width):
            place = slice(max(y, 0), y + height), slice(max(x, 0), x + width)
            if taken[place].shape != (height, width) or taken[place].any():
                continue
            if y1 <= y < y2:  # inside its own box: a large object can spare the room, a small one cannot
                hidden = 5 * (width * height) ** 2 / max((x2 - x1) * (y2 - y1), 1)
            else:
                hidden = objects[place].sum()
            if hidden < best_hidden:
                best, best_hidden = (x, y), hidden
    return best


def _ink(color: Color) -> Color:
    """Return black or white, whichever is easier to read on ``color``."""
    return (0, 0, 0) if _luma(color) > 130 else (255, 255, 255)
