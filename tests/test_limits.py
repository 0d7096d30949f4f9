"""Sizes far beyond any image, and runs that are none: refused with a sentence, before memory is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lucid import Tensor
from PIL import Image

from lucid_maskrcnn import CompressedMasks, Detections, ops
from lucid_maskrcnn.evaluation.instance_matching import mask_iou, match_objects
from lucid_maskrcnn.images import load_checked, size_on_disk
from lucid_maskrcnn.inference import save_drawing
from lucid_maskrcnn.masks import are_segmentations, decode_rle
from lucid_maskrcnn.transforms import pad, resize_masks
from lucid_maskrcnn.visualization import draw_detections, draw_masks

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
        (lambda: ops.roi_levels(of(1, 4), 4, finest_level=HUGE), "finest_level must be an integer from -64 to 64"),
        (lambda: ops.roi_levels(of(1, 4), 4, canonical_level=-HUGE), "canonical_level must be an integer from -64"),
        (lambda: ops.roi_levels(of(1, 4), HUGE), "num_levels must be an integer from 1 to 64"),
        (lambda: ops.roi_levels(of(1, 4), 4, margin=1e300), "margin must be a number between 0 and 1"),
        (
            lambda: ops.roi_align(of(1, 1, 4, 4), of(1, 4), ops.arange(1, of(1)), 2, 1e300),
            "spatial_scale must be cells for each pixel, at most 1024",
        ),
        (lambda: ops.nearest_cells(5, HUGE), "n_out must be an integer from 0"),
        (lambda: ops.host_zeros((HUGE,), np.float32), "shape must have at most 2⁴⁰ elements"),
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


IMAGE = Image.new("RGB", (5, 5))
ONE = runs([0], [2], [0, 1])
RED = [(255, 0, 0)]


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: ops.nearest_cells(0, 5), ValueError, "n_in must be an integer from 1 to"),
        (lambda: ops.nearest_cells("5", 5), TypeError, "n_in must be an integer from 1 to"),
        (lambda: ops.nearest_cells(5, -1), ValueError, "n_out must be an integer from 0 to"),
        (lambda: ops.host_zeros((-1,), np.float32), ValueError, "shape must be a non-negative integer, got -1"),
        (lambda: ops.host_zeros("ab", np.float32), TypeError, "shape must be a tuple of integers, got 'ab'"),
        (lambda: ops.host_zeros((2,), "abc"), TypeError, "dtype must be a NumPy dtype .* got 'abc'"),
        (lambda: ops.sum_of_squares(None), TypeError, "arrays must be a list of NumPy or MLX arrays, got NoneType"),
        (lambda: ops.sum_of_squares([of(1)]), TypeError, "arrays must be a list of NumPy or MLX arrays"),
        (lambda: ops.device_array("abc", "cpu"), TypeError, "array must be a NumPy array, got 'abc'"),
        (lambda: load_checked(None, (4, 4), "it says"), TypeError, "path must be a path as str or Path, got None"),
        (lambda: load_checked("a.png", None, "it says"), TypeError, "size must be a sequence of 2 values, got None"),
        (lambda: size_on_disk(None), TypeError, "path must be a path as str or Path, got None"),
        (lambda: draw_masks("a.png", ONE, RED, 0.5, 1), TypeError, "image must be a PIL image, got 'a.png'"),
        (lambda: draw_masks(IMAGE.convert("L"), ONE, RED, 0.5, 1), ValueError, "image must be of mode RGB, got L"),
        (lambda: draw_masks(IMAGE, np.zeros((1, 5, 5)), RED, 0.5, 1), TypeError, "masks must be CompressedMasks"),
        (lambda: draw_masks(IMAGE, ONE, [7], 0.5, 1), TypeError, r"colors\[0\] must be a sequence of 3 values"),
        (
            lambda: draw_masks(IMAGE, ONE, [(256, 0, 0)], 0.5, 1),
            ValueError,
            r"\[0\]\[0\] must be an integer from 0",
        ),
        (lambda: draw_masks(IMAGE, ONE, RED, 2, 1), ValueError, "alpha must be a number between 0 and 1, got 2"),
        (lambda: draw_masks(IMAGE, ONE, RED, 0.5, -1), ValueError, "thickness must be a number from 0"),
        (lambda: save_drawing(None, PIXELS, None), TypeError, "path must be a path as str or Path, got None"),
        (lambda: save_drawing("a.txt", PIXELS, None), ValueError, "suffix of path must be one of .* got '.txt'"),
        (lambda: save_drawing("a.png", PIXELS, None), TypeError, "detections must be Detections, got None"),
        (lambda: mask_iou(ONE, ONE, [-1]), ValueError, r"crowd\[0\] = -1 is not a bool, 0 or 1"),
        (lambda: mask_iou(ONE, ONE, [7]), ValueError, r"crowd\[0\] = 7 is not a bool, 0 or 1"),
        (lambda: match_objects(np.ones((1, 1)), -1), ValueError, "thresh must be a number between 0 and 1, got -1"),
        (lambda: resize_masks(np.zeros((1, 0, 2)), 4), ValueError, "masks must have at least one pixel to be resized"),
        (
            lambda: draw_detections(PIXELS, boxes=[[0, 0, 1, 1]], scores=[float("nan")]),
            ValueError,
            r"scores\[0\] = nan is not between 0 and 1",
        ),
        (
            lambda: draw_detections(PIXELS, boxes=[[0, 0, 1, 1]], labels=[-1]),
            ValueError,
            r"labels\[0\] = -1 must be a label from 1 on",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(
    run: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run()


def test_a_drawing_is_written_to_a_path_given_as_text(tmp_path: Path) -> None:
    found = Detections(NO_BOXES, [], [], np.zeros((0, 2, 2)), (2, 2))
    save_drawing(str(tmp_path / "x.png"), PIXELS, found)
    assert (tmp_path / "x.png").exists()
