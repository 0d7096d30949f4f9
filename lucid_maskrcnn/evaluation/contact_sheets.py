"""Contact sheets: images side by side, with their objects and detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.data.dataset import check_dataset, load_pair
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.validators import instance, positive_int, sequence
from lucid_maskrcnn.visualization.fonts import Lettering, plain_text
from lucid_maskrcnn.visualization.outlines import paint_masks
from lucid_maskrcnn.visualization.sheets import GAP, INK, LINE, PAPER, TILE, make_sheet

from .accuracy import ImageMetrics, Overlap, overlaps
from .result import Evaluation

__all__ = ["contact_sheet"]

_TRUTH, _FOUND = (0, 235, 120), (255, 60, 200)  # both visible on dark, grey, white and stained images
_LETTERS, _BASELINE = 14, 15  # pixels: their height, and where they stand in a line
_FILL = 0.5  # opacity of mistakes


@answers_wrong_calls
def contact_sheet(
    dataset: Any, evaluation: Evaluation, images: Sequence[ImageMetrics], columns: int = 3
) -> Image.Image:
    """Draw images side by side, with objects and detections outlined in two colors; mistakes are filled.

    Parameters
    ----------
    dataset : sequence of (image, target)
        The data set that was evaluated.
    evaluation : Evaluation
        What :func:`~lucid_maskrcnn.evaluation.evaluate` returned for it.
    images : sequence of ImageMetrics
        The images to draw, such as ``evaluation.worst(9)``.
    columns : int
        Number of images in a row.

    Returns
    -------
    PIL.Image.Image
        RGB. Detections and objects are matched at an IoU of 0.5.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the data set does not have an image.
    """
    check_dataset("dataset", dataset)
    instance("evaluation", evaluation, Evaluation, "an Evaluation")
    columns = positive_int("columns", columns)
    chosen = sequence(
        "images", images, lambda name, value: instance(name, value, ImageMetrics, "an ImageMetrics of evaluation")
    )
    letters = Lettering()
    tiles = [_tile(dataset, evaluation, image, letters) for image in chosen]
    sheet = make_sheet(tiles, columns, LINE + GAP)
    _draw_legend(ImageDraw.Draw(sheet), letters)
    letters.warn_of_missing()
    return sheet


def _draw_legend(pen: Any, letters: Lettering) -> None:
    x = GAP
    for color, text in ((_TRUTH, "objects, filled: missed"), (_FOUND, "detections, filled: false")):
        pen.rectangle((x, GAP, x + LINE - 4, GAP + LINE - 4), fill=color)
        letters.write(pen, (x + LINE + 2, GAP + _BASELINE), text, _LETTERS, INK)
        x += TILE // 2


def _tile(dataset: Any, evaluation: Evaluation, image: ImageMetrics, letters: Lettering) -> Image.Image:
    pixels, _ = load_pair(dataset, _index(dataset, image.image_id))
    drawn = _drawn(load_image(pixels), _overlap(evaluation, image.image_id))
    tile = Image.new("RGB", (TILE, drawn.height + 2 * LINE), PAPER)
    tile.paste(drawn, (0, 2 * LINE))
    pen = ImageDraw.Draw(tile)
    group = f"{image.group}, " if image.group else ""
    score = "–" if math.isnan(image.score) else f"{image.score:.3f}"
    counts = f"{image.tp[0]} right, {image.fn[0]} missed, {image.fp[0]} false"
    for k, text in enumerate((image.file_name, f"{group}AP_0.5 {score}: {counts}")):
        letters.write(pen, (0, k * LINE + _BASELINE), _shortened(text, letters), _LETTERS, INK)
    return tile


def _shortened(text: str, letters: Lettering) -> str:
    """Return a text that fits, without its beginning if need be: file names differ at the end."""
    whole = text = plain_text(text, longest=1000)
    while letters.box(text, _LETTERS)[2] > TILE:
        whole = whole[1:]
        text = "…" + whole
    return text


def _index(dataset: Any, image_id: int) -> int:
    image_ids = list(getattr(dataset, "image_ids", range(1, len(dataset) + 1)))
    if image_id not in image_ids:
        raise ValueError(f"dataset must have the images that were evaluated, but has no image {image_id}.")
    return image_ids.index(image_id)


def _overlap(evaluation: Evaluation, image_id: int) -> Overlap:
    image = next(i for i in evaluation.truth["images"] if i["id"] == image_id)
    objects = [a for a in evaluation.truth["annotations"] if a["image_id"] == image_id]
    found = [r for r in evaluation.results if r["image_id"] == image_id]
    return overlaps(image, objects, found, evaluation.options["object_score"])


def _drawn(pixels: Any, overlap: Overlap) -> Image.Image:
    """Return an image with its outlines, at most as large as a tile."""
    height, width = pixels.shape[:2]
    scale = min(TILE / max(height, width), 4)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    drawn = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
    pairs = overlap.pairs(0.5)
    right = {d for d, _ in pairs} | set(overlap.in_crowd(pairs, 0.5))
    known = {g for _, g in pairs}
    for masks, done, color in ((overlap.objects, known, _TRUTH), (overlap.detections, right, _FOUND)):
        for fill, rows in ((_FILL, set(range(len(masks))) - done), (0.0, done)):
            paint_masks(drawn, masks[sorted(rows)], [color] * len(rows), fill, 1.5)
    return drawn
