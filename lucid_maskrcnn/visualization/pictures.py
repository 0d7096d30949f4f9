"""Pictures of objects on an image: detections, or the annotations of a data set.

Shapes: n objects, H × W the image, s the scale that it is enlarged by before anything is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from lucid_maskrcnn.array_arguments import finite_boxes, numeric_array, refuse_rows
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.validators import (
    choice,
    flag,
    fraction,
    image_size,
    instance,
    label_names,
    pair,
    positive_int,
)
from lucid_maskrcnn.visualization.captions import caption_texts, draw_captions, place_captions, text_size
from lucid_maskrcnn.visualization.colors import Color, colors_of, palette_of
from lucid_maskrcnn.visualization.fonts import Lettering
from lucid_maskrcnn.visualization.outlines import line_width as checked_width
from lucid_maskrcnn.visualization.outlines import paint_masks

__all__ = ["draw_detections", "draw_target", "viewing_scale"]

_MAX_SCALE = 64
_MAX_FONT_SIZE = 4096
_FAINT = 110  # opacity of boxes around masks, of 255
_FAR = 1e6  # pixels: farther outside than any image is wide, and no problem for Pillow's integers


@answers_wrong_calls
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
    scale: int | None = None,
    palette: Any = None,
    line_width: float | None = None,
    font: Any = None,
    font_size: int | None = None,
) -> Image.Image:
    """Draw masks, boxes and captions on an image.

    A caption is name and score. It covers no object and no other caption: where there is no room for it beside its
    object it is shortened to the score, made smaller, moved a little away with a line to its object, or left
    out. Only a large object without free room near it has its caption on its edge. Where all categories
    have one name, it is not written.

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
        n masks of the size of ``image``, or of ``scale`` times that size, which gives finer outlines. By default none
        are drawn.
    categories : mapping of int to str, optional
        Names of the labels; ``"class 7"`` stands for a label without one.
    color_ids : sequence of int of length n, optional
        Objects of the same number have the same color, in every image and every run; by default 0, 1, 2, …
    show_boxes, show_labels : bool
        Whether to draw boxes and captions.
    alpha : float
        Opacity of the masks, from 0 (outlines only) to 1.
    scale : int, optional
        Enlarge the image so many times first, at most 64: masks, lines and text are drawn in the finer pixels. By
        default :func:`viewing_scale` of the image; 1 keeps its own size.
    palette : color, or sequence of colors, optional
        Color ``i % len(palette)`` is that of number i: names of CSS, ``"#ff8800"``, or (red, green, blue) from 0
        to 255. By default each number has a color of its own, and another where that would vanish in the image.
    line_width : float, optional
        Width of outlines in pixels of the result, 0 for none; by default it follows the size of image and objects.
    font : str or Path, optional
        A TrueType or OpenType file for the captions. By default, and for letters that it lacks, DejaVu Sans, which
        comes with the package, and then the fonts of this computer.
    font_size : int, optional
        Height of letters in pixels of the result; by default it follows the size of image and objects.

    Returns
    -------
    PIL.Image.Image
        RGB, ``scale`` times the size of ``image``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or their numbers of objects or sizes differ.

    Warns
    -----
    UserWarning
        Once for each letter of a caption that no font has.
    """
    pixels = load_image(image)
    show_boxes, show_labels = flag("show_boxes", show_boxes), flag("show_labels", show_labels)
    alpha, scale = fraction("alpha", alpha), _checked_scale(scale, pixels)
    corners = finite_boxes("boxes", boxes).clip(-_FAR, _FAR)
    num = len(corners)
    colors = _colors(pixels, corners, color_ids, palette)
    texts = caption_texts(
        num,
        None if labels is None else _labels(labels, num),
        None if scores is None else _scores(scores, num),
        label_names("categories", categories),
    )
    fitting = None if masks is None else _fitting_masks(masks, num, pixels, scale)
    lettering, font_size = Lettering(font), _font_size(font_size)

    drawn = _enlarged(pixels, scale)
    corners = corners * np.float32(scale)
    size = drawn.height, drawn.width
    width = _width_of_lines(size, corners) if line_width is None else checked_width("line_width", line_width)
    if show_boxes:
        faint = _FAINT if fitting is not None else 255  # the outlines say more
        _draw_boxes(drawn, corners, [(*color, faint) for color in colors], max(1, round(0.6 * width)))
    if fitting is not None:
        paint_masks(drawn, fitting, colors, alpha, width)
    if show_labels:
        captions = place_captions(texts, corners, fitting, size, lettering, font_size or text_size(size, corners))
        draw_captions(drawn, captions, colors, lettering)
        lettering.warn_of_missing()
    return drawn


@answers_wrong_calls
def draw_target(
    image: Any,
    target: Mapping[str, Any],
    *,
    categories: Mapping[int, str] | None = None,
    color_by: Literal["instance", "class"] = "instance",
    boxes: bool = True,
    labels: bool = True,
    alpha: float = 0.35,
    scale: int | None = None,
    palette: Any = None,
    line_width: float | None = None,
    font: Any = None,
    font_size: int | None = None,
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
    alpha, scale, palette, line_width, font, font_size
        As for :func:`draw_detections`; with ``color_by="class"``, the palette's first color is that of label 1.

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
        color_ids=class_colors(target["labels"], palette) if color_by == "class" else None,
        show_boxes=flag("boxes", boxes),
        show_labels=flag("labels", labels),
        alpha=alpha,
        scale=scale,
        palette=palette,
        line_width=line_width,
        font=font,
        font_size=font_size,
    )


@answers_wrong_calls
def viewing_scale(size: tuple[int, int]) -> int:
    """Return how many times to enlarge an image of (height, width) to look at it on a screen: from 1 to 4."""
    return min(max(1, 800 // max(pair("size", size, positive_int))), 4)


@answers_wrong_calls
def class_colors(labels: Any, palette: Any) -> Any:
    """Return the numbers of colors of labels: the first color of a user's palette is that of label 1."""
    if palette is None:
        return labels
    return numeric_array("labels", labels, "integers of shape (n,)", kinds="iu", shape=(None,)) - 1


# ------------------------------------------------------------------ arguments


def _checked_scale(scale: int | None, pixels: np.ndarray) -> int:
    size = pixels.shape[:2]
    factor = viewing_scale((size[0], size[1])) if scale is None else positive_int("scale", scale, _MAX_SCALE)
    image_size("the enlarged image", (size[0] * factor, size[1] * factor))
    return factor


def _colors(pixels: np.ndarray, corners: np.ndarray, color_ids: Any, palette: Any) -> list[Color]:
    num, own = len(corners), palette_of(palette)
    ids = np.arange(num) if color_ids is None else _column("color_ids", color_ids, num, "iu")
    return colors_of(pixels, corners, ids) if own is None else [own[i % len(own)] for i in ids.tolist()]


def _font_size(value: Any) -> int | None:
    return None if value is None else positive_int("font_size", value, _MAX_FONT_SIZE)


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
    """Return ``num`` masks of the size of the image or of the enlarged image."""
    height, width = pixels.shape[:2]
    finer = isinstance(masks, CompressedMasks) and masks.image_size == (height * scale, width * scale)
    fitting = masks if finer else CompressedMasks.of(masks, (height, width))
    if len(fitting) != num:
        raise ValueError(f"masks must be one for each box, got {len(fitting)} masks for {num} boxes.")
    return fitting


def _enlarged(pixels: np.ndarray, scale: int) -> Image.Image:
    size = pixels.shape[1] * scale, pixels.shape[0] * scale
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


# ------------------------------------------------------------------ lines


def _width_of_lines(size: tuple[int, int], boxes: np.ndarray) -> float:
    """Return the width of outlines in pixels: a four hundredth of the image's shorter side, less on small objects."""
    side = min(size)
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1))
    usual = float(np.median(sides)) / 16 if len(sides) else math.inf
    return max(1.0, side / 3000, min(side / 400, usual))


def _draw_boxes(image: Image.Image, boxes: np.ndarray, colors: Sequence[tuple[int, ...]], thickness: int) -> None:
    pen = ImageDraw.Draw(image, "RGBA")  # which blends
    for (x1, y1, x2, y2), color in zip(boxes.round().astype(int).tolist()[::-1], colors[::-1], strict=True):
        # Pillow draws the last pixel too: a box up to x2 ends with the pixel before it.
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=thickness)
