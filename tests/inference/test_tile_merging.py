"""How detections of overlapping tiles are merged: cases worked by hand, in two tiles side by side."""

from __future__ import annotations

import numpy as np
import pytest

from lucid_maskrcnn.inference.tile_grid import TileGrid
from lucid_maskrcnn.inference.tile_merging import TiledObjects, merge_tiles
from lucid_maskrcnn.masks import CompressedMasks

GRID = TileGrid.of((40, 100), 60, 20)  # columns 0 to 60 and 40 to 100

type Case = tuple[int, float, tuple[int, int, int, int]]  # tile, score, and x1, y1, x2, y2 of a rectangle


def merged(*cases: Case, labels: list[int] | None = None, thresh: float = 0.5) -> list[tuple[float, list[int], int]]:
    """Score, box and area of what is left."""
    masks = np.zeros((len(cases), 40, 100), bool)
    for mask, (_, _, (x1, y1, x2, y2)) in zip(masks, cases, strict=True):
        mask[y1:y2, x1:x2] = True
    boxes = np.array([box for *_, box in cases], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in cases], np.float32)
    tiles = np.array([tile for tile, *_ in cases], np.int64)
    given = np.ones(len(cases), np.int32) if labels is None else np.array(labels, np.int32)
    found = TiledObjects(boxes, scores, given, CompressedMasks.from_dense(masks), tiles)
    left = merge_tiles(found, GRID, thresh, class_agnostic=False)
    rows = zip(left.scores.tolist(), left.boxes.astype(int).tolist(), left.masks.areas.tolist(), strict=True)
    return [(round(score, 3), box, area) for score, box, area in rows]


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_whole_ones_the_better_score_is_kept(order: int) -> None:
    scores = (0.8, 0.7)[::order]
    left = merged((0, scores[0], (44, 5, 54, 15)), (1, scores[1], (45, 5, 55, 15)))
    assert left == [(0.8, [44, 5, 54, 15] if order == 1 else [45, 5, 55, 15], 100)]


def test_a_part_yields_to_the_whole_whatever_its_score() -> None:
    assert merged((0, 0.99, (55, 5, 60, 15)), (1, 0.5, (55, 5, 70, 15))) == [(0.5, [55, 5, 70, 15], 150)]


def test_a_narrow_part_of_another_width_yields_too() -> None:
    assert merged((0, 0.99, (59, 5, 60, 10)), (1, 0.5, (56, 5, 70, 25))) == [(0.5, [56, 5, 70, 25], 280)]


def test_a_narrow_part_that_the_other_tile_sees_and_does_not_find_is_left_out() -> None:
    assert merged((0, 0.9, (55, 5, 60, 25))) == []
    assert len(merged((0, 0.9, (48, 5, 60, 25)))) == 1  # it may be most of an object
    assert len(merged((0, 0.9, (30, 5, 60, 95)))) == 1  # the other tile does not see all of it
    assert len(merged((1, 0.9, (95, 5, 100, 25)))) == 1  # no border inside the image


def test_a_part_that_only_touches_a_whole_one_stays() -> None:
    assert len(merged((0, 0.9, (50, 5, 60, 15)), (1, 0.5, (50, 15, 70, 25)))) == 2


def test_parts_of_an_object_larger_than_the_overlap_are_united_under_the_best_score() -> None:
    left = merged((0, 0.6, (20, 5, 60, 15)), (1, 0.7, (40, 6, 80, 15)))
    assert left == [(0.7, [20, 5, 80, 15], 600 - 20)]


def test_a_narrow_part_does_not_unite_its_object_with_a_neighbor() -> None:
    left = merged(
        (0, 0.9, (10, 0, 60, 10)), (0, 0.8, (10, 10, 60, 20)), (1, 0.7, (40, 0, 90, 10)), (1, 0.6, (40, 8, 46, 11))
    )
    assert left == [(0.9, [10, 0, 90, 10], 800), (0.8, [10, 10, 60, 20], 500)]


def test_detections_of_one_tile_are_not_compared() -> None:
    assert len(merged((0, 0.9, (5, 5, 15, 15)), (0, 0.8, (5, 5, 15, 15)))) == 2


def test_a_whole_one_that_goes_on_beyond_the_other_tile_shows_that_the_other_is_a_part() -> None:
    """As of an object that is hidden in between: the second tile does not see its left piece."""
    masks = np.zeros((2, 40, 100), bool)
    masks[:, 5:15, 45:55] = True
    masks[0, 5:15, 10:20] = True
    boxes = np.array([[10, 5, 55, 15], [45, 5, 55, 15]], np.float32)
    found = TiledObjects(
        boxes, np.array([0.6, 0.9]), np.ones(2, int), CompressedMasks.from_dense(masks), np.array([0, 1])
    )
    left = merge_tiles(found, GRID, 0.5, class_agnostic=False)
    assert (left.boxes.tolist(), left.scores.tolist()) == ([[10, 5, 55, 15]], [0.6])


def test_the_threshold_is_the_iou_of_what_both_see() -> None:
    cases: tuple[Case, Case] = (0, 0.9, (45, 5, 55, 15)), (1, 0.8, (45, 5, 55, 11))  # IoU 0.6
    assert len(merged(*cases, thresh=0.6)) == 1
    assert len(merged(*cases, thresh=0.61)) == 2


def test_labels_are_kept_apart() -> None:
    assert len(merged((0, 0.9, (45, 5, 55, 15)), (1, 0.8, (45, 5, 55, 15)), labels=[1, 2])) == 2


def test_nothing_is_nothing() -> None:
    assert merged() == []
