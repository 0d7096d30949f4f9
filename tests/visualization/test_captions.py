"""Captions: beside their objects, over none of them and over no other caption, in sizes that fit."""

import time

import numpy as np
import pytest

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.visualization.captions import caption_texts, place_captions, text_size
from lucid_maskrcnn.visualization.fonts import Lettering

LETTERING = Lettering()


def ellipses(size, boxes):
    masks = np.zeros((len(boxes), *size), bool)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    for mask, (x1, y1, x2, y2) in zip(masks, np.asarray(boxes, float), strict=True):
        mask |= ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
    return masks


def scattered(num, size, side, seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-side / 4, np.array(size[::-1]) - side / 2, (num, 2))
    return np.concatenate([corners, corners + rng.uniform(side / 2, 3 * side / 2, (num, 2))], axis=1)


def placed(boxes, masks, size, texts=("nucleus 0.98", "0.98"), letters=None):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    compressed = None if masks is None else CompressedMasks.from_dense(masks)
    letters = text_size(size, boxes) if letters is None else letters
    return place_captions([list(texts)] * len(boxes), boxes, compressed, size, LETTERING, letters)


def check(captions, size):
    """Assert that captions lie in the image and over no other, and return which pixels they cover."""
    count = np.zeros(size, int)
    for caption in captions:
        x1, y1, x2, y2 = caption.box
        assert 0 <= x1 < x2 <= size[1]
        assert 0 <= y1 < y2 <= size[0]
        count[y1:y2, x1:x2] += 1
    assert count.max(initial=0) <= 1
    return count > 0


@pytest.mark.parametrize(("num", "side"), [(1, 60), (5, 90), (39, 30), (120, 24), (500, 18)])
@pytest.mark.parametrize("seed", [0, 1])
def test_captions_cover_no_mask_and_no_other_caption(num, side, seed):
    size = (400, 520)
    boxes = scattered(num, size, side, seed)
    masks = ellipses(size, boxes)
    captions = placed(boxes, masks, size)
    covered = check(captions, size)
    large = masks.sum(axis=(1, 2)) > 40 * 60 * 20
    assert not large.any()  # none may bear its caption
    assert not (covered & masks.any(axis=0)).any()
    if num <= 39:
        assert len(captions) >= 0.7 * num


def test_few_objects_all_have_captions_beside_them():
    boxes = [[100, 100, 180, 160], [300, 50, 380, 140], [200, 250, 300, 330]]
    captions = placed(boxes, ellipses((400, 500), boxes), (400, 500))
    assert [c.text for c in captions] == ["nucleus 0.98"] * 3
    assert all(c.leader is None for c in captions)
    for caption, (x1, y1, x2, y2) in zip(captions, boxes, strict=True):
        left, top, right, bottom = caption.box
        gap = max(x1 - right, left - x2, y1 - bottom, top - y2)
        assert 0 <= gap <= 6


def test_a_caption_without_room_moves_away_with_a_line_to_its_object():
    size = (300, 300)
    boxes = [[135, 135, 165, 165], [80, 80, 220, 134], [80, 166, 220, 220], [80, 134, 134, 166], [166, 134, 220, 166]]
    masks = np.zeros((5, *size), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    captions = {c.row: c for c in placed(boxes, masks, size, letters=12)}
    covered = check(captions.values(), size)
    assert not (covered & masks.any(axis=0)).any()
    assert len(captions) == 5 or 0 not in captions
    moved = [[10, 140, 40, 160], [0, 110, 90, 139], [0, 161, 90, 190], [41, 140, 90, 160]]
    masks = np.zeros((4, *size), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, moved, strict=True):
        mask[y1:y2, x1:x2] = True
    first = placed(moved, masks, size, letters=12)[0]
    assert first.row == 0
    assert first.leader is not None
    x, y = first.leader[2:]
    assert 9 <= x <= 41
    assert 139 <= y <= 161


def test_an_object_that_fills_the_image_has_its_caption_on_its_edge():
    captions = placed([[0, 0, 500, 400]], np.ones((1, 400, 500), bool), (400, 500))
    assert len(captions) == 1
    x1, y1, x2, y2 = captions[0].box
    assert (x2 - x1) * (y2 - y1) <= 400 * 500 / 50
    assert min(x1, y1, 500 - x2, 400 - y2) == 0


def test_captions_of_boxes_keep_off_other_boxes():
    boxes = scattered(30, (400, 500), 40)
    covered = check(placed(boxes, None, (400, 500)), (400, 500))
    for x1, y1, x2, y2 in boxes.round().astype(int).clip(0).tolist():
        assert not covered[y1:y2, x1:x2].any()


def test_masks_of_the_image_and_captions_of_the_enlarged_one():
    boxes = np.array([[20, 20, 50, 50], [60, 15, 90, 45]], float)
    masks = CompressedMasks.from_dense(ellipses((80, 110), boxes))
    captions = place_captions([["0.98"]] * 2, boxes * 4, masks, (320, 440), LETTERING, 14)
    covered = check(captions, (320, 440))
    assert len(captions) == 2
    assert not (covered & masks.to_dense().any(axis=0).repeat(4, 0).repeat(4, 1)).any()


@pytest.mark.parametrize("size", [(64, 64), (256, 320), (800, 1200), (4000, 6000), (8000, 8000)])
def test_letters_follow_the_size_of_the_image(size):
    one = np.array([[0, 0, *np.array(size[::-1]) / 3]], float)
    letters = text_size(size, one)
    assert letters == max(9, round(min(size) / 45))
    small = np.array([[0, 0, 10, 10]], float)
    assert text_size(size, small) == max(9, round(min(size) / 200))
    assert text_size(size, np.zeros((0, 4))) == letters


def test_captions_of_many_small_objects_do_not_hide_the_image():
    boxes = scattered(600, (1000, 1000), 12)
    covered = check(placed(boxes, None, (1000, 1000)), (1000, 1000))
    assert covered.mean() < 0.06


def test_time_grows_with_the_number_of_objects():
    def seconds(num, side):
        boxes = scattered(num, (side, side), 25)
        start = time.process_time()
        placed(boxes, None, (side, side), texts=("0.98",))
        return time.process_time() - start

    seconds(100, 500)
    assert seconds(2400, 2000) < 40 * max(seconds(240, 632), 0.01)  # ten times as many objects


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [30, 30, 10, 10], [-90, -90, -20, -20], [900, 5, 950, 40]])
def test_boxes_without_area_in_the_image_have_no_captions(box):
    assert placed([box], None, (200, 200)) == []


def test_an_image_of_one_pixel_has_no_room():
    assert placed([[0, 0, 1, 1]], np.ones((1, 1, 1), bool), (1, 1)) == []


# ------------------------------------------------------------------ texts


@pytest.mark.parametrize(
    ("labels", "scores", "categories", "wanted"),
    [
        (None, None, None, []),
        ([7], None, None, ["class 7"]),
        (None, [0.5], None, ["0.50"]),
        ([1], [0.123], {1: "cat", 2: "dog"}, ["cat 0.12", "0.12"]),
        ([1], [0.5], {1: "cat"}, ["0.50"]),
        ([1], None, {1: "cat"}, []),
        ([2], None, {1: "cat", 2: " \n\t"}, ["class 2"]),
        ([2], None, {1: "cat", 2: "two\nlines\x1b[2J"}, ["two lines [2J"]),
        ([2], None, {1: "cat", 2: "\u202eevil"}, ["evil"]),
        ([2], None, {1: "cat", 2: "x" * 10_000}, ["x" * 39 + "…"]),
        ([2], None, {1: "cat", 2: "e\u0301le\u0300ve"}, ["élève"]),
    ],
)
def test_texts_of_captions(labels, scores, categories, wanted):
    assert caption_texts(1, labels, scores, categories) == [wanted]
