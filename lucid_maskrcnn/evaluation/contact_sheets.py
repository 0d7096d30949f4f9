"""Contact sheets: images side by side, with what is there and what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.masks import CompressedMasks

from .accuracy import ImageMetrics, Overlap, overlaps
from .result import Evaluation

if TYPE_CHECKING:
    from PIL import Image, ImageFont

__all__ = ["contact_sheet"]

_TRUTH, _FOUND = (0, 235, 120), (255, 60, 200)  # apart on dark, grey, white and stained grounds alike
_PAPER, _INK = (250, 250, 250), (30, 30, 30)
_TILE, _GAP, _LINE = 480, 12, 20  # pixels
_FILL = 0.5  # how far mistakes are covered


def contact_sheet(
    dataset: Any, evaluation: Evaluation, images: Sequence[ImageMetrics], columns: int = 3
) -> Image.Image:
    """Draw images side by side, with objects and detections outlined in two colors; mistakes are filled.

    Parameters
    ----------
    dataset : sequence of (image, target)
        What was evaluated.
    evaluation : Evaluation
        What :func:`~lucid_maskrcnn.evaluation.evaluate` returned.
    images : sequence of ImageMetrics
        Which images, such as ``evaluation.worst(9)``.
    columns : int
        So many are in a row.

    Returns
    -------
    PIL.Image.Image
        RGB. A detection counts as an object from an IoU of 0.5 on.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(15)
    tiles = [_tile(dataset, evaluation, image, font) for image in images]
    columns = max(1, min(columns, len(tiles)))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + _GAP for row in rows]
    size = columns * (_TILE + _GAP) + _GAP, _LINE + 2 * _GAP + sum(heights)
    sheet = Image.new("RGB", size, _PAPER)
    _draw_legend(ImageDraw.Draw(sheet), font)
    y = _LINE + 2 * _GAP
    for row, height in zip(rows, heights, strict=True):
        for k, tile in enumerate(row):
            sheet.paste(tile, (_GAP + k * (_TILE + _GAP), y))
        y += height
    return sheet


def _draw_legend(pen: Any, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> None:
    x = _GAP
    for color, text in ((_TRUTH, "objects, filled: missed"), (_FOUND, "detections, filled: false")):
        pen.rectangle((x, _GAP, x + _LINE - 4, _GAP + _LINE - 4), fill=color)
        pen.text((x + _LINE + 2, _GAP - 1), text, font=font, fill=_INK)
        x += _TILE // 2


def _tile(
    dataset: Any,
    evaluation: Evaluation,
    image: ImageMetrics,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> Image.Image:
    from PIL import Image, ImageDraw

    drawn = _drawn(load_image(dataset[_index(dataset, image.image_id)][0]), _overlap(evaluation, image.image_id))
    tile = Image.new("RGB", (_TILE, drawn.height + 2 * _LINE), _PAPER)
    tile.paste(drawn, (0, 2 * _LINE))
    pen = ImageDraw.Draw(tile)
    group = f"{image.group}, " if image.group else ""
    score = "–" if math.isnan(image.score) else f"{image.score:.3f}"
    counts = f"{image.tp[0]} right, {image.fn[0]} missed, {image.fp[0]} false"
    for k, text in enumerate((image.file_name, f"{group}AP_0.5 {score}: {counts}")):
        pen.text((0, k * _LINE), _shortened(text, pen, font), font=font, fill=_INK)
    return tile


def _shortened(text: str, pen: Any, font: Any) -> str:
    """Take letters off the front of a text, until it fits: the ends of file names tell them apart."""
    if pen.textlength(text, font=font) <= _TILE:
        return text
    while pen.textlength("…" + text, font=font) > _TILE:
        text = text[1:]
    return "…" + text


def _index(dataset: Any, image_id: int) -> int:
    return list(getattr(dataset, "image_ids", range(1, len(dataset) + 1))).index(image_id)


def _overlap(evaluation: Evaluation, image_id: int) -> Overlap:
    image = next(i for i in evaluation.truth["images"] if i["id"] == image_id)
    objects = [a for a in evaluation.truth["annotations"] if a["image_id"] == image_id]
    found = [r for r in evaluation.results if r["image_id"] == image_id]
    return overlaps(image, objects, found, evaluation.options["object_score"])


def _drawn(pixels: Any, overlap: Overlap) -> Image.Image:
    """Return an image with its outlines, as large as a tile at most."""
    from PIL import Image

    from lucid_maskrcnn.visualization import draw_masks

    height, width = pixels.shape[:2]
    scale = min(_TILE / max(height, width), 4)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    drawn = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
    pairs = overlap.pairs(0.5)
    right = {d for d, _ in pairs} | set(overlap.in_crowd(pairs, 0.5))
    known = {g for _, g in pairs}
    for masks, done, color in ((overlap.objects, known, _TRUTH), (overlap.detections, right, _FOUND)):
        for fill, rows in ((_FILL, set(range(len(masks))) - done), (0.0, done)):
            drawn = draw_masks(drawn, _decoder(masks[sorted(rows)].resized(size)), [color] * len(rows), fill, 1)
    return drawn


def _decoder(masks: CompressedMasks) -> Callable[[int], np.ndarray]:
    height, width = masks.image_size
    return lambda i: masks.decode_region(i, slice(0, height), slice(0, width))
