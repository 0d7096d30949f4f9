"""A picture of the first batches of a run, as they are augmented, with their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .. import validators
from ..array_arguments import finite_boxes
from ..atomic import replacing
from ..images import load_image
from ..masks import CompressedMasks
from ..validators import shown
from ..visualization import draw_target
from ..visualization.sheets import INK, LINE, PAPER, TILE, make_sheet

__all__ = ["MOST_IMAGES", "draw_batches"]

MOST_IMAGES, _MOST_COLUMNS = 12, 4


def draw_batches(batches: Sequence[Any], path: str | Path, *, categories: Mapping[int, str] | None = None) -> None:
    """Draw the images of batches side by side, at most 12, with boxes, masks and names of their objects.

    Parameters
    ----------
    batches : sequence of batches
        With ``images``, ``targets`` and ``image_ids``, such as those of :meth:`lucid_maskrcnn.data.Loader.iterate`.
    path : str or Path
        The picture, a ``.png`` file; written whole or not at all.
    categories : mapping of int to str, optional
        Names of the labels.

    Raises
    ------
    TypeError, ValueError
        If an image is a tensor or cannot be read, or a target has no boxes, labels and masks.
    """
    path = validators.path("path", path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in '.png', got {str(path)!r}.")
    samples = chain.from_iterable(zip(b.images, b.targets, b.image_ids, strict=True) for b in batches)
    tiles = [_tile(*sample, categories) for sample in islice(samples, MOST_IMAGES)]
    if not tiles:
        raise ValueError("batches must have at least one image, got none.")
    sheet = make_sheet(tiles, _MOST_COLUMNS)
    with replacing(path) as file:
        sheet.save(file, format="PNG")


def _tile(image: Any, target: Any, image_id: Any, categories: Mapping[int, str] | None) -> Image.Image:
    """Return an image with its target, as large as a tile, and a line of text above."""
    pixels = load_image(image)
    size = pixels.shape[:2]
    scale = TILE / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    drawn = draw_target(small, _scaled(target, size, (height, width)), categories=categories)
    tile = Image.new("RGB", (TILE, height + LINE), PAPER)
    tile.paste(drawn, (0, LINE))
    count = len(target["boxes"])
    text = f"image {image_id}, {size[0]} x {size[1]}, {count} {'object' if count == 1 else 'objects'}"
    ImageDraw.Draw(tile).text((0, 0), text, font=ImageFont.load_default(15), fill=INK)
    return tile


def _scaled(target: Any, size: tuple[int, int], new: tuple[int, int]) -> dict[str, Any]:
    """Return a target for its image at another size."""
    missing = [key for key in ("boxes", "labels", "masks") if target.get(key) is None]
    if missing:
        raise ValueError(f"a target has no {' and no '.join(map(repr, missing))}: it has {shown(list(target))}.")
    factors = np.array([new[1] / size[1], new[0] / size[0]] * 2, np.float32)
    return {
        "boxes": finite_boxes("boxes", target["boxes"]) * factors,
        "labels": target["labels"],
        "masks": CompressedMasks.of(target["masks"], size).resized(new),
    }
