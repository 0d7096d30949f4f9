"""Where the tiles of a large image lie.

Sizes are (height, width) in pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.images import Size

__all__ = ["TileGrid", "default_overlap", "default_tile_size"]


def default_tile_size(config: ImageConfig) -> int:
    """Return the side of tiles at which a network sees an image at the scale that its weights were trained at.

    With a fixed ``scale`` every size is seen at that scale, up to ``max_size``: half of it, as a tile has a quarter of
    the objects then, far from ``top_k``. Without one a tile of ``min_size`` is not resized.
    """
    return config.min_size if config.scale is None else max(1, round(config.max_size / config.scale / 2))


def default_overlap(tile_size: int) -> int:
    """Return a quarter of the side of the tiles: the largest objects that are usual are smaller."""
    return max(1, tile_size // 4)


@dataclass(frozen=True)
class TileGrid:
    """Overlapping tiles of one size that cover an image; those at the right and at the bottom are moved inwards.

    A tile's number counts along the rows.

    Attributes
    ----------
    image_size : (height, width)
    tile_size : (height, width)
        At most the image's.
    tops, lefts : tuple of int
        The first row of each row of tiles, and the first column of each column of them.
    """

    image_size: Size
    tile_size: Size
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def of(cls, image_size: Size, tile_size: int, overlap: int) -> TileGrid:
        """Return the tiles of an image.

        Parameters
        ----------
        image_size : (height, width)
        tile_size : int
            Side of the tiles; where the image is smaller, so are they.
        overlap : int
            Pixels that neighbors share at least, less than ``tile_size``.
        """
        height, width = image_size
        size = min(tile_size, height), min(tile_size, width)
        step = tile_size - overlap
        return cls(image_size, size, _starts(height, size[0], step), _starts(width, size[1], step))

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def boxes(self) -> np.ndarray:
        """The box (x1, y1, x2, y2) of each tile: (T, 4), int64."""
        tops, lefts = np.meshgrid(self.tops, self.lefts, indexing="ij")
        corners = np.stack([lefts.ravel(), tops.ravel()], axis=1)
        return np.concatenate([corners, corners + self.tile_size[::-1]], axis=1).astype(np.int64)

    @property
    def inner_sides(self) -> np.ndarray:
        """Whether the left, top, right and bottom side of each tile is inside the image: (T, 4), bool."""
        height, width = self.image_size
        return (self.boxes > 0) & (self.boxes < (width + 1, height + 1, width, height))

    def overlapping(self) -> Iterator[tuple[int, int]]:
        """Yield the numbers of each two tiles that share pixels."""
        columns = len(self.lefts)
        near_columns = [_near(self.lefts, column, self.tile_size[1]) for column in range(columns)]
        for row in range(len(self.tops)):
            rows = _near(self.tops, row, self.tile_size[0])
            for column in range(columns):
                for other_row in rows:
                    for other in near_columns[column]:
                        if (row, column) < (other_row, other):
                            yield row * columns + column, other_row * columns + other


def _starts(length: int, size: int, step: int) -> tuple[int, ...]:
    return (*range(0, length - size, step), length - size)


def _near(starts: tuple[int, ...], index: int, size: int) -> list[int]:
    """Return the numbers of those that begin less than ``size`` from one of them."""
    return [i for i, start in enumerate(starts) if abs(start - starts[index]) < size]
