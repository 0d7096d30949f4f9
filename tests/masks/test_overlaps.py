"""Overlaps of compressed masks, against dense ones, and suppression, against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_maskrcnn.masks import CompressedMasks, iou_of_pairs, mask_nms, overlapping_pairs


def random_masks(rng: np.random.Generator, num: int, height: int, width: int) -> np.ndarray:
    """Blobs of random pixels in random boxes; some are empty."""
    masks = np.zeros((num, height, width), bool)
    for mask in masks:
        y, x = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
        mask[y[0] : y[1], x[0] : x[1]] = rng.random((y[1] - y[0], x[1] - x[0])) < 0.7
    return masks


@given(st.integers(0, 2**32 - 1), st.integers(0, 7), st.integers(1, 9), st.integers(1, 9))
def test_intersections_are_those_of_dense_masks(seed: int, num: int, height: int, width: int) -> None:
    dense = random_masks(np.random.default_rng(seed), num, height, width)
    first, second = (axis.ravel() for axis in np.indices((num, num)))
    shared = CompressedMasks.from_dense(dense).intersections(first, second)
    np.testing.assert_array_equal(shared, (dense[first] & dense[second]).sum(axis=(1, 2)))


def test_intersections_of_large_images_do_not_overflow() -> None:
    size = (40_000, 50_000)
    corner = (slice(39_990, 40_000), slice(49_990, 50_000), np.ones((10, 10), bool))
    masks = CompressedMasks.from_patches([corner] * 3, size)
    assert masks.intersections([0, 1, 2], [2, 0, 1]).tolist() == [100, 100, 100]


@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_pairs_are_all_that_share_an_area(seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 8, (num, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)  # some without area
    found = sorted(zip(*(rows.tolist() for rows in overlapping_pairs(boxes)), strict=True))
    low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    share = (high > low).all(axis=2)
    assert found == [(i, j) for i in range(num) for j in range(i + 1, num) if share[i, j]]


@given(st.integers(0, 2**32 - 1), st.integers(0, 10), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans())
def test_suppression_is_that_of_a_loop(seed: int, num: int, thresh: float, in_classes: bool) -> None:
    rng = np.random.default_rng(seed)
    dense = random_masks(rng, num, 6, 7)
    scores, labels = rng.integers(0, 4, num) / 4, rng.integers(1, 3, num)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        unions = [(dense[i] | dense[j]).sum() for j in kept]
        ious = [(dense[i] & dense[j]).sum() / max(union, 1) for j, union in zip(kept, unions, strict=True)]
        same = [not in_classes or labels[i] == labels[j] for j in kept]
        if not any(iou > thresh and alike for iou, alike in zip(ious, same, strict=True)):
            kept.append(i)
    masks = CompressedMasks.from_dense(dense)
    assert mask_nms(masks, scores, thresh, labels if in_classes else None).tolist() == kept


def test_iou_of_empty_masks_is_0() -> None:
    masks = CompressedMasks.from_dense(np.zeros((2, 4, 4), bool))
    assert iou_of_pairs(masks, [0, 1], [1, 1]).tolist() == [0, 0]


def test_arguments_are_checked() -> None:
    masks = CompressedMasks.from_dense(np.ones((2, 4, 4), bool))
    with pytest.raises(ValueError, match=r"scores must be numbers of shape \(2,\), one for each mask, got"):
        mask_nms(masks, [0.5], 0.5)
    with pytest.raises(ValueError, match="iou_thresh must be a number between 0 and 1, got 2"):
        mask_nms(masks, [0.5, 0.6], 2)
    with pytest.raises(ValueError, match="first and second must have the same length, got 1 and 2"):
        masks.intersections([0], [0, 1])
    with pytest.raises(IndexError, match="out of range: there are 2 masks"):
        masks.intersections([0], [2])
