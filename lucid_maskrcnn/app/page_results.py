"""What a prediction gives the page: a picture, the objects as outlines, and the files that can be saved.

Objects have one number everywhere, on the page and in each file: that of their row in all detections, the best first.
"""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.visualization.colors import colors_of

from .mask_outlines import outline_paths

__all__ = ["PageResult", "make_result"]

_PNG_UP_TO = 2_000_000  # pixels; a larger picture is sent as JPEG
_LONGEST_SIDE = 4096  # of the picture that is sent


@dataclass
class PageResult:
    """The result of a prediction.

    Attributes
    ----------
    found : Detections
        All, from the lowest score on that the page shows.
    colors, class_colors : list of (red, green, blue)
        Of the objects: one each, or one for each class.
    objects : bytes
        JSON for the page, compressed by gzip.
    picture : bytes
        What the network saw, at most 4096 pixels wide and high.
    picture_type : str
        Of its encoding.
    warnings : list of str
    """

    found: Detections
    colors: list[tuple[int, int, int]]
    class_colors: list[tuple[int, int, int]]
    objects: bytes
    picture: bytes
    picture_type: str
    warnings: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        found = self.found
        probs = 0 if found.mask_probs is None else 4 * int(np.prod(found.mask_probs.shape))
        return len(self.objects) + len(self.picture) + found.compressed_masks.nbytes + probs + 200 * len(found)


def make_result(found: Detections, pixels: np.ndarray, about: dict[str, Any]) -> PageResult:
    """Make the result of detections.

    Parameters
    ----------
    found : Detections
    pixels : uint8 array of shape (H, W, 3)
        The image as the network saw it.
    about : dict
        More for the page, in JSON's types.
    """
    boxes, labels = host(found.boxes), host(found.labels)
    colors = colors_of(pixels, boxes, np.arange(len(found)))
    by_class = colors_of(pixels, boxes, labels)
    masks = found.compressed_masks
    rows = zip(
        found.names,
        host(found.scores).tolist(),
        masks.areas.tolist(),
        boxes.round(1).tolist(),
        outline_paths(masks),
        map(_css, colors),
        map(_css, by_class),
        strict=True,
    )
    keys = ("name", "score", "area", "box", "path", "color", "class_color")
    height, width = found.image_size
    content = {
        **about,
        "width": width,
        "height": height,
        "objects": [{"id": i + 1, **dict(zip(keys, row, strict=True))} for i, row in enumerate(rows)],
    }
    picture, kind = _encoded(pixels)
    return PageResult(found, colors, by_class, gzip.compress(json.dumps(content).encode(), 5), picture, kind)


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _encoded(pixels: np.ndarray) -> tuple[bytes, str]:
    image = Image.fromarray(pixels)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    if image.width * image.height <= _PNG_UP_TO:
        image.save(file, "PNG", compress_level=3)
        return file.getvalue(), "image/png"
    image.save(file, "JPEG", quality=90)
    return file.getvalue(), "image/jpeg"
