"""Captions of objects: where they go, so that they cover neither objects nor each other.

Shapes: n objects, k places for a caption, cells of a few pixels that the image is divided into.

Names: *ink* is what captions must not cover, the masks or boxes of all objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.visualization.colors import Color, text_color
from lucid_maskrcnn.visualization.fonts import Lettering, plain_text

__all__ = ["Caption", "caption_texts", "draw_captions", "place_captions", "text_size"]

_CELLS = 2000  # along the longer side of an image, at most
_LARGE = 50  # an object that is so many times as large as its caption can bear it on its edge
_SHARE = 0.05  # of the image, for the captions of all objects
_LEADERS = 150  # objects: lines to the captions of more than these would hide the image
# Where a caption is, in widths and heights of its box and of itself: left = x1 + a · box - b · caption.
_NEAR = np.array(
    [
        *((a, a, 0, 1) for a in (0, 1, 0.5)),  # above, at its left, right and center
        *((a, a, 1, 0) for a in (0, 1, 0.5)),  # below
        *((1, 0, b, b) for b in (0.5, 0, 1)),  # at the right
        *((0, 1, b, b) for b in (0.5, 0, 1)),  # at the left
        *((a, a, b, b) for b in (0, 1) for a in (0, 1)),  # in the box's corners
    ]
)
_AROUND = np.array([(a, b) for b in (-1, 1, 0) for a in (1, -1, 0) if a or b])  # directions of farther places
_STEPS = (0.8, 1.8, 3.0)  # how far they are, in heights of the caption


@dataclass(frozen=True)
class Caption:
    """A text in its place.

    Attributes
    ----------
    row : int
        Which object's it is.
    text : str
    size : int
        Of the letters, in pixels.
    box : (x1, y1, x2, y2)
        The rectangle that it fills, in pixels.
    leader : (x1, y1, x2, y2) or None
        A line from the rectangle to the object, if it is not beside it.
    """

    row: int
    text: str
    size: int
    box: tuple[int, int, int, int]
    leader: tuple[float, float, float, float] | None = None


def caption_texts(
    num: int, labels: list[int] | None, scores: list[float] | None, categories: Mapping[int, str] | None
) -> list[list[str]]:
    """Return the captions that each object may have, the best first; names of one category only are not written."""
    known = {label: plain_text(name) for label, name in (categories or {}).items()}
    one_name = len(set(known.values())) == 1
    names = [""] * num if labels is None or one_name else [known.get(n) or f"class {n}" for n in labels]
    numbers = [""] * num if scores is None else [f"{score:.2f}" for score in scores]
    choices = ((f"{name} {number}".strip(), number) for name, number in zip(names, numbers, strict=True))
    return [[text for text in dict.fromkeys(texts) if text] for texts in choices]


def text_size(image_size: tuple[int, int], boxes: np.ndarray) -> int:
    """Return the height of letters in pixels, for an image of (height, width): less where objects are small.

    It is from a two hundredth to a forty-fifth of the image's shorter side.
    """
    side = min(image_size)
    largest, smallest = max(9.0, side / 45), max(9.0, side / 200)
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1))
    usual = float(np.median(sides)) if len(sides) else np.inf
    return round(min(max(0.45 * usual, smallest), largest))


def draw_captions(
    image: Image.Image, captions: Sequence[Caption], colors: Sequence[Color], lettering: Lettering
) -> None:
    """Draw captions on an image, which is modified; ``colors`` are those of all objects."""
    pen = ImageDraw.Draw(image)
    for caption in captions:
        if caption.leader is not None:
            pen.line(caption.leader, fill=colors[caption.row], width=max(1, round(caption.size / 12)))
    for caption in captions:
        color = colors[caption.row]
        x1, y1, x2, y2 = caption.box
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
        left, top, _, _ = lettering.box(caption.text, caption.size)
        margin = _margin(caption.size)
        start = x1 + margin - left, y1 + margin - top
        lettering.write(pen, start, caption.text, caption.size, text_color(color))


def place_captions(
    texts: Sequence[Sequence[str]],
    boxes: np.ndarray,
    masks: CompressedMasks | None,
    image_size: tuple[int, int],
    lettering: Lettering,
    size: int,
) -> list[Caption]:
    """Choose each caption's text, size and place, or leave it out.

    A caption lies beside its object, in a corner of its box that the object leaves free, or a little away with a line
    to it. It is shortened or made smaller where that helps. It hides no object and no other caption; only where there
    is no free place near a large object, it lies on its edge. And it is no larger than its object, unless there are
    few: captions are not to be all that one sees of five hundred nuclei.

    Parameters
    ----------
    texts : for each object, the texts that it may have, the best first
    boxes : array of shape (n, 4)
        (x1, y1, x2, y2) in pixels of the image.
    masks : CompressedMasks, optional
        Of the image's size or of one that it is a multiple of; by default captions keep off the boxes.
    image_size : (height, width)
    lettering : Lettering
    size : int
        Usual height of letters in pixels.

    Returns
    -------
    list of Caption
        In the order of the objects.
    """
    placing = _Placing(boxes, masks, image_size, size)
    smaller = max(8, round(0.75 * size))
    placed = []
    for row, choices in enumerate(texts):
        tried = [(text, height) for height in dict.fromkeys((size, smaller)) for text in choices]
        sizes = {(text, height): _size_of(lettering, text, height) for text, height in tried}
        tried = [key for key in tried if placing.may_take(row, sizes[key])]
        found = placing.find(row, [sizes[key] for key in tried])
        if found is not None:
            which, box, leader = found
            placed.append(Caption(row, *tried[which], box, leader))
    return placed


def _margin(size: int) -> int:
    return max(1, round(size / 9))


def _size_of(lettering: Lettering, text: str, size: int) -> tuple[int, int]:
    left, top, right, bottom = lettering.box(text, size)
    return right - left + 2 * _margin(size), bottom - top + 2 * _margin(size)


type _Place = tuple[int, tuple[int, int, int, int], tuple[float, float, float, float] | None]


class _Placing:
    """Keeps what captions must not cover, in cells."""

    def __init__(
        self, boxes: np.ndarray, masks: CompressedMasks | None, image_size: tuple[int, int], size: int
    ) -> None:
        self.height, self.width = image_size
        self.cell = max(1, size // 8, -(-max(image_size) // _CELLS))
        self.gap = max(1, round(size / 8))
        limit = np.array([self.width, self.height] * 2, np.float64)
        self.boxes = boxes.clip(0, limit)
        shape = -(-self.height // self.cell), -(-self.width // self.cell)
        self.depth = _covered(self.boxes, shape, self.cell) if masks is None else self._covered_by(masks, shape)
        self.sums = np.zeros((shape[0] + 1, shape[1] + 1), np.int32)
        self.sums[1:, 1:] = (self.depth > 0).cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
        self.taken = np.zeros(shape, bool)
        self.areas = self._areas(masks)

    def _covered_by(self, masks: CompressedMasks, shape: tuple[int, int]) -> np.ndarray:
        zoom, height = self.width // masks.image_size[1], masks.image_size[0]
        column = masks.starts // height
        runs = np.stack([column, masks.starts - column * height, column + 1, masks.stops - column * height], axis=1)
        return _covered(runs * zoom, shape, self.cell)

    def _areas(self, masks: CompressedMasks | None) -> np.ndarray:
        if masks is None:
            return (self.boxes[:, 2:] - self.boxes[:, :2]).clip(0).prod(axis=1)
        return masks.areas * (self.width // masks.image_size[1]) ** 2

    def may_take(self, row: int, size: tuple[int, int]) -> bool:
        """Whether a caption is not too large for its object, or for so many objects."""
        x1, y1, x2, y2 = self.boxes[row]
        share = _SHARE * self.width * self.height / len(self.boxes)
        return bool(size[0] * size[1] <= max((x2 - x1) * (y2 - y1), share))

    def find(self, row: int, sizes: Sequence[tuple[int, int]]) -> _Place | None:
        """Return which of the sizes fits, its box and its line to the object, and take the place."""
        x1, y1, x2, y2 = self.boxes[row]
        if not sizes or x2 <= x1 or y2 <= y1:
            return None
        found = self._near(row, sizes)
        if found is None and len(self.boxes) <= _LEADERS:
            found = self._away(row, sizes)
        if found is None:
            found = self._on_edge(row, sizes)
        if found is not None:
            rows, columns = self._cells(np.array([found[1]]))
            self.taken[slice(*rows[0]), slice(*columns[0])] = True
        return found

    def _near(self, row: int, sizes: Sequence[tuple[int, int]]) -> _Place | None:
        x1, y1, x2, y2 = self.boxes[row]
        for which, (width, height) in enumerate(sizes):
            grown = np.array([x1, y1, x2, y2]) + np.array([-1, -1, 1, 1]) * self.gap
            left = grown[0] + _NEAR[:, 0] * (grown[2] - grown[0]) - _NEAR[:, 1] * width
            top = grown[1] + _NEAR[:, 2] * (grown[3] - grown[1]) - _NEAR[:, 3] * height
            # Above and below, captions are in line with the box, not with what surrounds it.
            left[:6] = x1 + _NEAR[:6, 0] * (x2 - x1) - _NEAR[:6, 1] * width
            box = self._first_free(left, top, width, height)
            if box is not None:
                return which, box, None
        return None

    def _away(self, row: int, sizes: Sequence[tuple[int, int]]) -> _Place | None:
        x1, y1, x2, y2 = self.boxes[row]
        center, half = np.array([x1 + x2, y1 + y2]) / 2, np.array([x2 - x1, y2 - y1]) / 2
        for which, (width, height) in enumerate(sizes):
            own = np.array([width, height]) / 2
            middles = [center + _AROUND * (half + own + step * height) for step in _STEPS]
            left, top = (np.concatenate(middles) - own).T
            box = self._first_free(left, top, width, height)
            if box is not None:
                return which, box, _leader(center, half, box)
        return None

    def _on_edge(self, row: int, sizes: Sequence[tuple[int, int]]) -> _Place | None:
        """Return the place within a large object's box that hides least, of other objects above all."""
        x1, y1, x2, y2 = self.boxes[row]
        for which, (width, height) in enumerate(sizes):
            if self.areas[row] < _LARGE * width * height or x2 - x1 < width or y2 - y1 < height:
                continue
            left, top = (
                grid.ravel() for grid in np.meshgrid(np.linspace(x1, x2 - width, 9), np.linspace(y1, y2 - height, 9))
            )
            boxes, inside = self._rounded(left, top, width, height)
            hidden = [self._hidden(box) if ok else np.inf for box, ok in zip(boxes, inside, strict=True)]
            best = int(np.argmin(hidden))
            if np.isfinite(hidden[best]):
                return which, _ints(boxes[best]), None
        return None

    def _hidden(self, box: np.ndarray) -> float:
        rows, columns = self._cells(box[None])
        place = slice(*rows[0]), slice(*columns[0])
        if self.taken[place].any():
            return np.inf
        return float((self.depth[place].astype(float) ** 2).sum())

    def _first_free(
        self, left: np.ndarray, top: np.ndarray, width: int, height: int
    ) -> tuple[int, int, int, int] | None:
        boxes, inside = self._rounded(left, top, width, height)
        rows, columns = self._cells(boxes.clip(0, (self.width, self.height) * 2))
        (y1, y2), (x1, x2) = rows.T, columns.T
        ink = self.sums[y2, x2] - self.sums[y1, x2] - self.sums[y2, x1] + self.sums[y1, x1]
        for k in np.flatnonzero(inside & (ink == 0)).tolist():
            if not self.taken[y1[k] : y2[k], x1[k] : x2[k]].any():
                return _ints(boxes[k])
        return None

    def _rounded(self, left: np.ndarray, top: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes of whole pixels, moved into the image by up to half their size, and which are inside."""
        x = np.where(
            np.abs(left - left.clip(0, self.width - width)) <= width / 2, left.clip(0, self.width - width), left
        )
        y = np.where(
            np.abs(top - top.clip(0, self.height - height)) <= height / 2, top.clip(0, self.height - height), top
        )
        x, y = x.round().astype(int), y.round().astype(int)
        inside = (x >= 0) & (y >= 0) & (x + width <= self.width) & (y + height <= self.height)
        return np.stack([x, y, x + width, y + height], axis=1), inside

    def _cells(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return first and last + 1 of the rows and of the columns of cells that boxes touch: twice (k, 2)."""
        low, high = boxes[:, :2] // self.cell, -(-boxes[:, 2:] // self.cell)
        return np.stack([low[:, 1], high[:, 1]], axis=1), np.stack([low[:, 0], high[:, 0]], axis=1)


def _ints(box: np.ndarray) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def _leader(center: np.ndarray, half: np.ndarray, box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Return a line from the nearest point of a caption's box to the object, taken for an ellipse."""
    near = center.clip(box[:2], box[2:])
    way = near - center
    length = float(np.sqrt(((way / half.clip(0.5)) ** 2).sum()))
    end = center + way / max(length, 1.0)
    return float(near[0]), float(near[1]), float(end[0]), float(end[1])


def _covered(boxes: np.ndarray, shape: tuple[int, int], cell: int) -> np.ndarray:
    """Return how many of the boxes touch each cell; of masks, their runs."""
    rows, columns = shape
    low = np.floor(boxes[:, :2] / cell).clip(0).astype(int)
    high = np.ceil(boxes[:, 2:] / cell).astype(int)
    some = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    (x1, y1), (x2, y2) = low[some].T, high[some].T
    x2, y2 = x2.clip(0, columns), y2.clip(0, rows)
    steps = np.zeros((rows + 1) * (columns + 1), np.int32)
    for sign, y, x in ((1, y1, x1), (-1, y1, x2), (-1, y2, x1), (1, y2, x2)):
        np.add.at(steps, y * (columns + 1) + x, sign)
    grid = steps.reshape(rows + 1, columns + 1)
    return grid.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)[:rows, :columns]
