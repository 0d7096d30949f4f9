"""Draw objects on an image: detections, or the annotations of a data set. Needs Pillow and NumPy only.

Lines and text are sized by the image, and captions do not cover each other: forty nuclei in
256 × 256 pixels stay as readable as three people in a photograph.

Shapes: n objects, H × W the image, s the scale that it is enlarged by before anything is drawn.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lucid_maskrcnn.array_arguments import finite_boxes, numeric_array, refuse_rows
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.validators import (
    choice,
    flag,
    fraction,
    image_size,
    instance,
    integer,
    label_names,
    non_negative_int,
    pair,
    positive_int,
    sequence,
)

__all__ = ["color_of", "draw_detections", "draw_masks", "draw_target", "viewing_scale"]

type Color = tuple[int, int, int]

_MAX_SCALE = 64
_MAX_THICKNESS = 1 << 16
_FAR = 1e6  # pixels: farther outside than any image is wide, and no problem for Pillow's integers


def draw_detections(
    image: Any,
    *,
    boxes: Any,
    labels: Any = None,
    scores: Any = None,
    masks: Any = None,
    categories: Mapping[int, str] | None = None,
    color_ids: Any = None,
    show_boxes: bool = True,
    show_labels: bool = True,
    alpha: float = 0.35,
    scale: int = 1,
) -> Image.Image:
    """Draw masks, boxes and captions on an image.

    A caption is name and score, the score alone where there is no room for both, and is left out where it
    would cover another. Where all categories have one name, it is not written.

    Parameters
    ----------
    image : path, PIL image or uint8 array of shape (H, W, 3)
        Not modified.
    boxes : Tensor, array or list of shape (n, 4)
        Corners (x1, y1, x2, y2) in pixels of ``image``. The first objects lie on top.
    labels : Tensor, array or list of shape (n,), integers, optional
        From 1 on.
    scores : Tensor, array or list of shape (n,), optional
        From 0 to 1.
    masks : CompressedMasks, or what :meth:`CompressedMasks.of` takes, optional
        n masks of the size of ``image``, or of ``scale`` times that size, which gives finer contours. By default none
        are drawn.
    categories : mapping of int to str, optional
        Names of the labels; ``"class 7"`` stands for a label without one.
    color_ids : sequence of int of length n, optional
        Objects of the same number have the same color, in every image and every run; by default 0, 1, 2, …
    show_boxes, show_labels : bool
        Whether to draw boxes and captions.
    alpha : float
        Opacity of the masks, from 0 (contours only) to 1.
    scale : int
        Enlarge the image so many times first, at most 64: masks, lines and text are drawn in the finer pixels.

    Returns
    -------
    PIL.Image.Image
        RGB, ``scale`` times the size of ``image``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or their numbers of objects or sizes differ.
    """
    pixels = load_image(image)
    show_boxes, show_labels = flag("show_boxes", show_boxes), flag("show_labels", show_labels)
    alpha, scale = fraction("alpha", alpha), positive_int("scale", scale, _MAX_SCALE)
    image_size("the enlarged image", (len(pixels) * scale, pixels.shape[1] * scale))
    corners = finite_boxes("boxes", boxes).clip(-_FAR, _FAR)
    num = len(corners)
    ids = np.arange(num) if color_ids is None else _column("color_ids", color_ids, num, "iu")
    colors = [color_of(int(i)) for i in ids]
    captions = _captions(
        num,
        None if labels is None else _labels(labels, num),
        None if scores is None else _scores(scores, num),
        label_names("categories", categories),
    )

    drawn = _enlarged(pixels, scale)
    corners = corners * np.float32(scale)
    thickness = max(1, round(min(drawn.size) / 400))
    if masks is not None:
        drawn = draw_masks(drawn, _fitting_masks(masks, num, pixels, scale), colors, alpha, thickness)
    if show_boxes:
        _draw_boxes(drawn, corners, colors, max(1, thickness // 2))
    if show_labels:
        _draw_captions(drawn, corners, captions, colors)
    return drawn


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
    """Draw the annotations of an image: an item of a data set, or the result of an augmentation.

    Parameters
    ----------
    image : path, PIL image or uint8 array of shape (H, W, 3)
        Not modified.
    target : mapping
        With ``"boxes"`` (G, 4), ``"labels"`` (G,) and ``"masks"``, as for :meth:`MaskRCNN.get_loss`.
    categories : mapping of int to str, optional
        Names of the labels. Where all have one name, it is not written.
    color_by : {"instance", "class"}
        Whether each object has its own color or each label.
    boxes, labels : bool
        Whether to draw them.
    alpha, scale
        As for :func:`draw_detections`.

    Returns
    -------
    PIL.Image.Image
        RGB, ``scale`` times the size of ``image``.

    Raises
    ------
    TypeError, ValueError
        If ``target`` has no such arrays of the same length and of the image's size, or an option is not one of the
        above.
    """
    choice("color_by", color_by, ("instance", "class"))
    instance("target", target, Mapping, "a mapping with 'boxes', 'labels' and 'masks'")
    missing = [key for key in ("boxes", "labels", "masks") if target.get(key) is None]
    if missing:
        raise ValueError(f"target has no {' and no '.join(map(repr, missing))}: it has {list(target)}.")
    return draw_detections(
        image,
        boxes=target["boxes"],
        labels=target["labels"],
        masks=target["masks"],
        categories=categories,
        color_ids=target["labels"] if color_by == "class" else None,
        show_boxes=flag("boxes", boxes),
        show_labels=flag("labels", labels),
        alpha=alpha,
        scale=scale,
    )


def viewing_scale(size: tuple[int, int]) -> int:
    """Return how many times to enlarge an image of (height, width) to look at it on a screen."""
    return min(
        max(1, 800 // max(pair("size", size, positive_int))), 4
    )  # forty nuclei in 256 × 256 pixels need a closer look


# ------------------------------------------------------------------ arguments


def _column(name: str, values: Any, num: int, kinds: str) -> np.ndarray:
    wanted = f"{'numbers' if 'f' in kinds else 'integers'} of shape ({num},), one for each box"
    return numeric_array(name, values, wanted, kinds=kinds, shape=(num,))


def _labels(labels: Any, num: int) -> list[int]:
    values = _column("labels", labels, num, "iu")
    refuse_rows("labels", values, values < 1, "must be a label from 1 on")
    return values.tolist()


def _scores(scores: Any, num: int) -> list[float]:
    values = _column("scores", scores, num, "iuf")
    refuse_rows("scores", values, ~((values >= 0) & (values <= 1)), "is not between 0 and 1")
    return values.tolist()


def _fitting_masks(masks: Any, num: int, pixels: np.ndarray, scale: int) -> CompressedMasks:
    """Return ``num`` masks of the size of the enlarged image."""
    height, width = pixels.shape[:2]
    size = height * scale, width * scale
    finer = isinstance(masks, CompressedMasks) and masks.image_size == size
    fitting = masks if finer else CompressedMasks.of(masks, (height, width)).resized(size)
    if len(fitting) != num:
        raise ValueError(f"masks must be one for each box, got {len(fitting)} masks for {num} boxes.")
    return fitting


def _enlarged(pixels: np.ndarray, scale: int) -> Image.Image:
    size = pixels.shape[1] * scale, pixels.shape[0] * scale
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


# ------------------------------------------------------------------ colors


def color_of(number: int) -> Color:
    """Return the color (red, green, blue) of a number: bright, and far in hue from those of the numbers near it."""
    number = integer("number", number)
    hue = (0.08 + number * 0.6180339887) % 1  # steps of the golden ratio come near an old hue as late as can be
    lightness = (0.56, 0.68, 0.48)[number % 3]
    red, green, blue = (255 * part for part in colorsys.hls_to_rgb(hue, lightness, 0.95))
    dim = max(0.0, 100 - _luma((red, green, blue)))  # pure blue would be invisible on a dark image
    red, green, blue = (part + (255 - part) * dim / 255 for part in (red, green, blue))
    return round(red), round(green), round(blue)


def _color(name: str, value: Any) -> Color:
    red, green, blue = sequence(name, value, partial(non_negative_int, maximum=255), length=3)
    return red, green, blue


def _luma(color: tuple[float, float, float]) -> float:
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _text_color(background: Color) -> Color:
    """Return black or white, whichever is easier to read on ``background``."""
    return (0, 0, 0) if _luma(background) > 130 else (255, 255, 255)


# ------------------------------------------------------------------ masks and boxes


def draw_masks(
    image: Image.Image, masks: CompressedMasks, colors: Sequence[Color], alpha: float, thickness: int
) -> Image.Image:
    """Return an image with masks drawn on it, as filled areas with contours.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB; not modified.
    masks : CompressedMasks
        n masks of the image's size; the first lie on top.
    colors : sequence of (red, green, blue), n of them
    alpha : float
        Opacity of the areas, from 0 to 1.
    thickness : int
        Width of the contours in pixels; they are inside the masks.

    Raises
    ------
    ValueError
        If the masks are of another size or not as many as the colors.
    """
    instance("image", image, Image.Image, "a PIL image")
    instance("masks", masks, CompressedMasks, "CompressedMasks")
    colors = sequence("colors", colors, _color)
    alpha, thickness = fraction("alpha", alpha), non_negative_int("thickness", thickness, _MAX_THICKNESS)
    if image.mode != "RGB":
        raise ValueError(f"image must be of mode RGB, got {image.mode}: convert it with image.convert('RGB').")
    size = image.height, image.width
    if masks.image_size != size or len(colors) != len(masks):
        raise ValueError(
            f"masks must be of the image's size {size} and have one color each, got {masks!r} and {len(colors)} colors."
        )
    canvas = np.array(image)
    for i, (x1, y1, x2, y2) in reversed(list(enumerate(masks.boxes.astype(int).tolist()))):
        region = slice(y1, y2), slice(x1, x2)
        inside = masks.decode_region(i, *region)
        contour = inside & ~_eroded(inside, thickness)
        part = canvas[region]
        part[inside] = (part[inside] * (1 - alpha) + np.array(colors[i], np.float32) * alpha).round().astype(np.uint8)
        part[contour] = colors[i]
    return Image.fromarray(canvas)


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """Take ``steps`` pixels off the border of a mask; every second step spares the diagonals, to keep it round."""
    for step in range(steps):
        m = np.pad(mask, 1)
        across, down = m[:, :-2] & m[:, 1:-1] & m[:, 2:], m[:-2] & m[1:-1] & m[2:]
        if step % 2:
            mask = across[:-2] & across[1:-1] & across[2:]
        else:
            mask = across[1:-1] & down[:, 1:-1]
    return mask


def _draw_boxes(image: Image.Image, boxes: np.ndarray, colors: Sequence[Color], thickness: int) -> None:
    pen = ImageDraw.Draw(image)
    for (x1, y1, x2, y2), color in zip(boxes.round().astype(int).tolist()[::-1], colors[::-1], strict=True):
        # Pillow draws the last pixel too: a box up to x2 ends with the pixel before it.
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=thickness)


# ------------------------------------------------------------------ captions


def _captions(
    num: int, labels: list[int] | None, scores: list[float] | None, categories: Mapping[int, str] | None
) -> list[list[str]]:
    """Return the captions that each object may have, the best first."""
    one_name = categories is not None and len(set(categories.values())) == 1
    known = categories or {}
    names = [""] * num if labels is None or one_name else [known.get(n, f"class {n}") for n in labels]
    numbers = [""] * num if scores is None else [f"{score:.2f}" for score in scores]
    choices = ((f"{name} {number}".strip(), number) for name, number in zip(names, numbers, strict=True))
    return [[text for text in dict.fromkeys(texts) if text] for texts in choices]


def _draw_captions(
    image: Image.Image, boxes: np.ndarray, captions: Sequence[Sequence[str]], colors: Sequence[Color]
) -> None:
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(min(max(9, round(min(image.size) / 42)), 28))
    height, width = image.height, image.width
    taken, objects = np.zeros((height, width), bool), np.zeros((height, width), bool)
    for x1, y1, x2, y2 in boxes.round().astype(int).clip(0).tolist():
        objects[y1:y2, x1:x2] = True
    for texts, box, color in zip(captions, boxes.tolist(), colors, strict=True):
        for text in texts:
            left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
            size = round(right - left) + 4, round(bottom - top) + 4
            corner = _free_corner(size, box, taken, objects)
            if corner is not None:
                x, y = corner
                taken[y : y + size[1], x : x + size[0]] = True
                pen.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=color)
                pen.text((x + 2 - left, y + 2 - top), text, font=font, fill=_text_color(color))
                break


def _free_corner(
    size: tuple[int, int], box: list[float], taken: np.ndarray, objects: np.ndarray
) -> tuple[int, int] | None:
    """Return the top left corner of the place for a caption (width, height) that hides least of the objects, if any.

    The places are above the box, below and inside, at its left and at its right; each must be inside
    the image, and must not cover another caption.
    """
    (width, height), (x1, y1, x2, y2) = size, (round(v) for v in box)
    # A caption that is wider than its object must hide nothing, others may hide a little.
    best, best_hidden = None, 0.5 * width * height if width <= 1.5 * (x2 - x1) else 1
    for y in (y1 - height, y2, y1, y2 - height):
        for x in (x1, x2 - width):
            place = slice(max(y, 0), y + height), slice(max(x, 0), x + width)
            if taken[place].shape != (height, width) or taken[place].any():
                continue
            if y1 <= y < y2:  # inside its own box: that hides little of a large object, but much of a small one
                hidden = 5 * (width * height) ** 2 / max((x2 - x1) * (y2 - y1), 1)
            else:
                hidden = objects[place].sum()
            if hidden < best_hidden:
                best, best_hidden = (x, y), hidden
    return best
