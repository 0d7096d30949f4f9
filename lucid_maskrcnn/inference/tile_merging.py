"""What overlapping tiles have found becomes what the whole image has: each object once, and none of them cut.

Two detections of different tiles are the same object if they cover the same pixels of what *both* tiles see: a part of
an object at a tile's border agrees with all of it in the other tile, however small the part is, and objects that only
touch each other do not. Where one of the two has no pixels, as with a high ``mask_thresh``, their boxes decide.

1. Of detections that lie inside their tiles, the one with the best score is kept.
2. A detection that touches a border of its tile which is inside the image is a part of an object, as is one that goes
   on in another tile, as objects do that are hidden in between. It yields to one that lies inside another tile.
3. A narrow part that has no counterpart, although another tile sees all of it, is left out.
4. What is left of the parts is of objects that no tile sees whole, those larger than the overlap: they are united.

Shapes: n detections, T tiles, P pairs of detections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.overlaps import best_of_pairs, outer_boxes
from lucid_maskrcnn.masks.parts import connected

from .tile_grid import TileGrid

__all__ = ["TiledObjects", "merge_tiles"]

_NEAR = 2.0  # pixels from a border at which an object touches it: a predicted outline is not exact
_PAIRS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class TiledObjects:
    """Detections in pixels of the whole image.

    Attributes
    ----------
    boxes : ndarray of shape (n, 4), float32
    scores : ndarray of shape (n,), float32
    labels : ndarray of shape (n,), int32
    masks : CompressedMasks
    tiles : ndarray of shape (n,), int64
        The number of the tile that each was found in, ascending.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: CompressedMasks
    tiles: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def merge_tiles(found: TiledObjects, grid: TileGrid, merge_thresh: float, *, class_agnostic: bool) -> TiledObjects:
    """Return each object once, the best score first.

    Parameters
    ----------
    found : TiledObjects
        What the tiles of ``grid`` have.
    grid : TileGrid
    merge_thresh : float
        Two detections are the same object from this IoU on, of what both tiles see.
    class_agnostic : bool
        Whether objects of different labels can be the same.

    Returns
    -------
    TiledObjects
        ``tiles`` are those of the best part of each.
    """
    extents = outer_boxes(found.boxes, found.masks)
    pairs = _pairs(found, grid, extents, class_agnostic=class_agnostic)
    first, second = pairs.first, pairs.second
    touched = _touched_sides(extents, found.tiles, grid)
    is_part = touched.any(axis=1)
    same = pairs.iou >= merge_thresh
    for one, other in ((first, second), (second, first)):  # objects of several pieces, of which a tile sees one
        is_part[one[same & _reaches_out(extents[other], grid.boxes[found.tiles[one]])]] = True
    order = np.argsort(-found.scores, kind="stable")
    both_whole = same & ~is_part[first] & ~is_part[second]
    kept = best_of_pairs(first[both_whole], second[both_whole], order, ~is_part)
    parts = is_part & ~_yielding(pairs, same, is_part, found.masks.areas, merge_thresh)
    united = same & parts[first] & parts[second]
    group = connected(first[united], second[united], len(found))
    alone = np.bincount(group, minlength=len(found))[group] == 1
    parts &= ~(alone & _is_narrow(extents, touched) & _lies_inside_a_tile(extents, grid))
    return _united(found, group, order[(kept | parts)[order]])


def _yielding(
    pairs: _Pairs, same: np.ndarray, is_part: np.ndarray, areas: np.ndarray, merge_thresh: float
) -> np.ndarray:
    """Return which parts yield to another detection: (n,), bool.

    To the same object, if that is whole. Also to any larger detection that has most of their pixels: the outline of a
    narrow part is not exact.
    """
    yields = np.zeros(len(is_part), bool)
    sides = ((pairs.first, pairs.second, pairs.of_first), (pairs.second, pairs.first, pairs.of_second))
    for one, other, share in sides:
        inside = (share >= merge_thresh) & ~same & (~is_part[other] | (areas[other] > areas[one]))
        yields[one[is_part[one] & (inside | (same & ~is_part[other]))]] = True
    return yields


# ------------------------------------------------------------------ pairs


class _Pairs(NamedTuple):
    """Detections of two tiles whose boxes overlap.

    Attributes
    ----------
    first, second : ndarray of shape (P,), int64
        Rows of the two.
    iou : ndarray of shape (P,), float64
        IoU of their pixels in what both tiles see, or of their boxes if one has no pixels.
    of_first, of_second : ndarray of shape (P,), float64
        The share of the pixels of either that are in both.
    """

    first: np.ndarray
    second: np.ndarray
    iou: np.ndarray
    of_first: np.ndarray
    of_second: np.ndarray


def _pairs(found: TiledObjects, grid: TileGrid, extents: np.ndarray, *, class_agnostic: bool) -> _Pairs:
    firsts, seconds, seen = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros((0, 4), np.int64)]
    for rows, others, both in _neighbors(found.tiles, grid, extents):
        low = np.maximum(extents[rows, None, :2], extents[others, :2])  # (a, b, 2)
        high = np.minimum(extents[rows, None, 2:], extents[others, 2:])
        near = (low < high).all(axis=2)
        if not class_agnostic:
            near &= found.labels[rows, None] == found.labels[others]
        one, other = np.nonzero(near)
        firsts.append(rows[one])
        seconds.append(others[other])
        seen.append(np.repeat(both[None], len(one), axis=0))
    columns = [np.concatenate(parts) for parts in (firsts, seconds, seen)]
    chunks = [slice(i, i + _PAIRS_AT_ONCE) for i in range(0, max(len(columns[0]), 1), _PAIRS_AT_ONCE)]
    measured = [_overlaps(found, *(column[some] for column in columns)) for some in chunks]
    return _Pairs(*columns[:2], *(np.concatenate(parts) for parts in zip(*measured, strict=True)))


def _overlaps(found: TiledObjects, first: np.ndarray, second: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return ``iou``, ``of_first`` and ``of_second`` of pairs, of which both tiles see the boxes ``seen`` (P, 4)."""
    areas = found.masks.areas
    shared = found.masks.intersections(first, second).astype(np.float64)
    one, other = (found.masks[rows].areas_within(seen) for rows in (first, second))
    by_pixels = shared / np.maximum(one + other - shared, 1)
    by_boxes = _box_iou(found.boxes[first], found.boxes[second], seen)
    iou = np.where((areas[first] > 0) & (areas[second] > 0), by_pixels, by_boxes)
    return iou, *(shared / np.maximum(areas[rows], 1) for rows in (first, second))


def _neighbors(
    tiles: np.ndarray, grid: TileGrid, extents: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield of each two tiles the detections of either that reach into what both see, and that box."""
    boxes = grid.boxes
    ends = np.searchsorted(tiles, np.arange(len(grid) + 1))
    for one, other in grid.overlapping():
        both = np.concatenate(
            [np.maximum(boxes[one, :2], boxes[other, :2]), np.minimum(boxes[one, 2:], boxes[other, 2:])]
        )
        reaching = []
        for tile in (one, other):
            rows = np.arange(ends[tile], ends[tile + 1])
            inside = (extents[rows, :2] < both[2:]).all(axis=1) & (extents[rows, 2:] > both[:2]).all(axis=1)
            reaching.append(rows[inside])
        if len(reaching[0]) and len(reaching[1]):
            yield reaching[0], reaching[1], both


def _box_iou(first: np.ndarray, second: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the IoU of pairs of boxes, of what lies in ``seen``: (P,)."""

    def clipped(boxes: np.ndarray) -> np.ndarray:
        low, high = np.maximum(boxes[:, :2], seen[:, :2]), np.minimum(boxes[:, 2:], seen[:, 2:])
        return np.concatenate([low, high], axis=1)

    def areas(boxes: np.ndarray) -> np.ndarray:
        return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)

    one, other = clipped(first), clipped(second)
    both = np.concatenate([np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])], axis=1)
    shared = areas(both)
    return shared / np.maximum(areas(one) + areas(other) - shared, 1e-9)


# ------------------------------------------------------------------ what is kept


def _touched_sides(extents: np.ndarray, tiles: np.ndarray, grid: TileGrid) -> np.ndarray:
    """Return whether each touches the left, top, right and bottom side of its tile, inside the image: (n, 4), bool."""
    borders = grid.boxes[tiles]
    near = np.concatenate([extents[:, :2] <= borders[:, :2] + _NEAR, extents[:, 2:] >= borders[:, 2:] - _NEAR], axis=1)
    return near & grid.inner_sides[tiles]


def _is_narrow(extents: np.ndarray, touched: np.ndarray) -> np.ndarray:
    """Return whether each reaches less far into its tile than half of what it has of the border: (n,), bool."""
    width, height = (extents[:, 2:] - extents[:, :2]).T
    left_or_right, top_or_bottom = touched[:, [0, 2]].any(axis=1), touched[:, [1, 3]].any(axis=1)
    return (left_or_right & (2 * width < height)) | (top_or_bottom & (2 * height < width))


def _lies_inside_a_tile(extents: np.ndarray, grid: TileGrid) -> np.ndarray:
    """Return whether some tile sees each of them whole: (n,), bool."""
    inside = np.ones(len(extents), bool)
    for axis, starts in ((0, grid.lefts), (1, grid.tops)):
        size, length = grid.tile_size[1 - axis], grid.image_size[1 - axis]
        begin = np.array(starts)
        end = begin + size
        after = (extents[:, axis, None] > begin + _NEAR) | (begin == 0)
        before = (extents[:, axis + 2, None] < end - _NEAR) | (end == length)
        inside &= (after & before).any(axis=1)
    return inside


def _reaches_out(extents: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return whether each reaches beyond its box: (P,), bool."""
    return (extents[:, :2] < boxes[:, :2]).any(axis=1) | (extents[:, 2:] > boxes[:, 2:]).any(axis=1)


def _united(found: TiledObjects, group: np.ndarray, rows: np.ndarray) -> TiledObjects:
    """Return the rows, each group of them as one: the first has its score and label.

    Parameters
    ----------
    found : TiledObjects
    group : ndarray of shape (n,), int64
    rows : ndarray of shape (m,), int64
        The best first.
    """
    _, leaders, number = np.unique(group[rows], return_index=True, return_inverse=True)
    order = np.argsort(leaders)  # groups by their first row
    number, first = np.argsort(order)[number], rows[leaders[order]]
    boxes = found.boxes[first]
    np.minimum.at(boxes[:, :2], number, found.boxes[rows, :2])
    np.maximum.at(boxes[:, 2:], number, found.boxes[rows, 2:])
    masks = found.masks[rows].united(number)
    return TiledObjects(boxes, found.scores[first], found.labels[first], masks, found.tiles[first])
