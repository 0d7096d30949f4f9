"""Sizes far beyond any image, and runs that are none: refused with a sentence, before memory is asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lucid import Tensor

from lucid_maskrcnn import CompressedMasks, Detections, ops
from lucid_maskrcnn.masks import are_segmentations, decode_rle
from lucid_maskrcnn.transforms import pad, resize_masks
from lucid_maskrcnn.visualization import draw_detections

HUGE = 10**30
NO_BOXES = np.zeros((0, 4), np.float32)
PIXELS = np.zeros((2, 2, 3), np.uint8)


def of(*shape: int) -> Tensor:
    return Tensor(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: decode_rle({"size": [100_000, 100_000], "counts": [10**10]}), r"rle\['size'\] must be below 2³¹"),
        (lambda: decode_rle({"size": [40_000, 40_000], "counts": [16 * 10**8]}), "at most 2²⁸ pixels .*from_coco"),
        (lambda: decode_rle({"size": [0, HUGE], "counts": []}), r"rle\['size'\] must be below 2³¹"),
        (lambda: resize_masks(np.zeros((1, 2, 2), bool), (10**9, 10**9)), "to_size must be below 2³¹ pixels"),
        (lambda: ops.grid_anchors([(0, 0, 1, 1)], (10**9, 10**9), (1, 1), of(1)), "grid must be below 2³¹"),
        (lambda: ops.paste_masks(of(1, 2, 2), of(1, 4), 10**9), "image_size must be below 2³¹ pixels"),
        (
            lambda: Detections(NO_BOXES, [], [], np.zeros((0, 2, 2)), (10**6, 10**6)),
            "image_size must be below 2³¹ pixels in all, got 1000000 × 1000000",
        ),
        (lambda: ops.conv2d(of(1, 1, 4, 4), of(1, 1, 1, 1), stride=HUGE), "stride must be an integer from 1 to 1024"),
        (lambda: ops.conv2d(of(1, 1, 4, 4), of(1, 1, 1, 1), padding=HUGE), "padding must be an integer from 0 to 1024"),
        (lambda: ops.conv_transpose2d(of(1, 1, 4, 4), of(1, 1, 2, 2), stride=HUGE), "stride must be an integer from"),
        (lambda: ops.permutation(HUGE), "count must be an integer from 0"),
        (lambda: ops.zeros(HUGE), "shape must have at most 2⁴⁰ elements"),
        (lambda: ops.zeros(0, HUGE), "shape must have at most 2⁴⁰ elements"),
        (lambda: ops.shape_only(10**7, 10**7), "shape must have at most 2⁴⁰ elements"),
        (lambda: pad(of(1, 3, 4, 4), HUGE), "divisor must be an integer from 1 to 4096"),
        (lambda: draw_detections(PIXELS, boxes=NO_BOXES, scale=HUGE), "scale must be an integer from 1 to 64"),
    ],
)
def test_sizes_beyond_any_image_are_refused(run: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()


def runs(starts: list[int], stops: list[int], offsets: list[int], size: Any = (5, 5)) -> CompressedMasks:
    return CompressedMasks(*(np.array(n, np.int64) for n in (starts, stops, offsets)), size)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([5], [2], [0, 1]), ValueError, r"starts\[0\] to stops\[0\] must be at least one pixel .* got 5 to 2"),
        (([0], [2000], [0, 1]), ValueError, "of the image, which has 25, got 0 to 2000"),
        (([-1], [2], [0, 1]), ValueError, "got -1 to 2"),
        (([3], [7], [0, 1]), ValueError, "must lie within one column, of 5 pixels, got 3 to 7"),
        (([0, 2], [2, 4], [0, 2]), ValueError, r"starts\[1\] .* not touch it, got 2 to 4"),
        (([5, 0], [7, 2], [0, 2]), ValueError, r"starts\[1\] .* must come after the run before it"),
        (([0, 2], [1, 3], [0, 2, 1, 2]), ValueError, "offsets must ascend"),
        (([0, 2], [1, 3], [1, 2]), ValueError, "offsets must begin with 0"),
        (([0], [1], [0, 1], None), TypeError, "image_size must be a sequence of 2 values, got None"),
        (([0], [1], [0, 1], "abc"), TypeError, "image_size must be a sequence of 2 values, got 'abc'"),
        (([0], [1], [0, 1], object()), TypeError, "image_size must be a sequence of 2 values"),
    ],
)
def test_runs_that_are_not_in_the_image_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        runs(*arguments)


def test_valid_runs_of_any_integer_type_are_taken() -> None:
    masks = runs([3, 5, 0], [5, 6, 2], [0, 2, 2, 3], [5, 5])  # the first mask goes on in the next column
    assert masks.areas.tolist() == [3, 0, 2]
    assert masks.image_size == (5, 5)
    assert masks.starts.dtype == np.int32


def test_a_region_with_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="rows must be a slice without a step, got slice"):
        runs([0], [2], [0, 1]).decode_region(0, slice(0, 5, 2), slice(0, 5))


def test_are_segmentations_needs_an_image_size() -> None:
    with pytest.raises(TypeError, match="image_size must be a sequence of 2 values, got None"):
        are_segmentations([[[0, 1]]], None)  # type: ignore[arg-type]


@pytest.mark.parametrize("low_quality", [False, True])
def test_an_iou_of_nan_is_no_match(low_quality: bool) -> None:
    nan = float("nan")
    iou = Tensor(np.float32([[nan, 0.9, nan, 0.1], [nan, nan, nan, 0.8], [nan] * 4]))
    assert ops.match(iou, 0.7, 0.3, allow_low_quality_matches=low_quality).data.tolist() == [-1, 0, -1, 1]
