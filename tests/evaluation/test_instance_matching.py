"""Instance matching: IoU of masks, and one-to-one matchings of detections and objects."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from data_sets import box_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lucid_maskrcnn.evaluation import mask_iou, match_objects
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.rle import encode_rle

# ------------------------------------------------------------------ IoU of masks


masks_of = st.integers(0, 4).flatmap(lambda n: hnp.arrays(bool, (n, 6, 5)))


@settings(deadline=None, max_examples=60)
@given(masks_of, masks_of, st.randoms(use_true_random=False))
def test_mask_iou_is_that_of_the_pixels(found: np.ndarray, objects: np.ndarray, random: Any) -> None:
    crowd = np.array([random.random() < 0.3 for _ in objects], bool)
    shared = (found[:, None] & objects).sum((2, 3))
    union = np.where(crowd, found.sum((1, 2))[:, None], (found[:, None] | objects).sum((2, 3)))
    expected = np.where(shared > 0, shared / np.maximum(union, 1), 0)
    iou = mask_iou(CompressedMasks.from_dense(found), CompressedMasks.from_dense(objects), crowd)
    np.testing.assert_array_equal(iou, expected.reshape(iou.shape))


def test_mask_iou_equals_that_of_pycocotools() -> None:
    mask_utils = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    boxes = rng.integers(0, 30, (30, 2)), rng.integers(2, 12, 30)
    shapes = [encode_rle(box_mask((40, 40), x, y, side, side)) for (x, y), side in zip(*boxes, strict=True)]
    crowd = rng.random(12) < 0.3
    found, objects = (CompressedMasks.from_coco(some, (40, 40)) for some in (shapes[12:], shapes[:12]))
    theirs = mask_utils.iou(shapes[12:], shapes[:12], crowd.astype(int).tolist())
    np.testing.assert_array_equal(mask_iou(found, objects, crowd), theirs)


def test_mask_iou_refuses_masks_of_different_sizes() -> None:
    with pytest.raises(ValueError, match=r"masks of the same image, got sizes \(4, 5\) and \(5, 4\)"):
        mask_iou(CompressedMasks.from_dense(np.zeros((1, 4, 5))), CompressedMasks.from_dense(np.zeros((1, 5, 4))))


# ------------------------------------------------------------------ matchings


def most_pairs(iou: np.ndarray, thresh: float) -> int:
    """Try all ways to give each detection an object or none."""
    found, objects = iou.shape
    slots = [*range(objects), *[None] * found]
    return max(
        sum(g is not None and iou[d, g] >= thresh and iou[d, g] > 0 for d, g in enumerate(some))
        for some in itertools.permutations(slots, found)
    )


@settings(deadline=None, max_examples=80)
@given(
    hnp.arrays(float, st.tuples(st.integers(0, 4), st.integers(0, 4)), elements=st.sampled_from([0, 0.4, 0.5, 0.7, 1]))
)
def test_matching_has_as_many_pairs_as_possible(iou: np.ndarray) -> None:
    for thresh in (0.5, 0.7):
        pairs = match_objects(iou, thresh)
        assert len({d for d, _ in pairs}) == len({g for _, g in pairs}) == len(pairs) == most_pairs(iou, thresh)
        assert all(iou[d, g] >= thresh for d, g in pairs)


def test_matching_finds_a_pair_that_a_greedy_one_misses() -> None:
    iou = np.array([[0.9, 0.6], [0.7, 0.0]])
    assert match_objects(iou, 0.5) == [(0, 1), (1, 0)]
    assert match_objects(iou, 0.65) == [(0, 0)]


def test_matching_of_a_long_augmenting_path() -> None:
    """Each detection prefers what the next one needs; the last has one choice only."""
    n = 3000
    iou = np.zeros((n, n))
    i = np.arange(n - 1)
    iou[i, i + 1], iou[i, i] = 0.6, 0.9
    iou[n - 1, 0] = 0.5
    assert len(match_objects(iou, 0.5)) == n


def test_matching_prefers_pairs_of_larger_iou() -> None:
    assert match_objects(np.array([[0.6], [0.8]]), 0.5) == [(1, 0)]
    assert match_objects(np.zeros((2, 3)), 0.0) == []
    assert match_objects(np.zeros((0, 3)), 0.5) == match_objects(np.zeros((3, 0)), 0.5) == []


# ------------------------------------------------------------------ arguments

MASKS = CompressedMasks.from_dense(np.ones((2, 4, 5), bool))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((2, 4, 5)), MASKS), TypeError, "detections must be CompressedMasks, got array("),
        ((MASKS, None), TypeError, "objects must be CompressedMasks, got None."),
        ((MASKS, MASKS, [True]), ValueError, "crowd must be one bool for each of 2 objects, got bool of shape (1,)."),
        ((MASKS, MASKS, ["a", "b"]), ValueError, "crowd must be one bool for each of 2 objects, got <U1"),
    ],
)
def test_arguments_of_mask_iou_are_checked(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        mask_iou(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.5], 0.5), ValueError, "iou must be numbers of shape (D, G), got float64 of shape (1,)."),
        (([[1], [1, 2]], 0.5), ValueError, "iou must be numbers of shape (D, G), got object of shape (2,)."),
        (("abc", 0.5), ValueError, "iou must be numbers of shape (D, G), got <U3 of shape ()."),
        (([[0.5]], "0.5"), TypeError, "thresh must be a number between 0 and 1, got '0.5'."),
        (([[0.5]], float("nan")), ValueError, "thresh must be a number between 0 and 1, got nan."),
    ],
)
def test_arguments_of_match_objects_are_checked(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        match_objects(*arguments)
