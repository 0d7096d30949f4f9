"""Targets: what is accepted, and the sentence for what is not."""

from __future__ import annotations

from typing import Any

import lucid
import numpy as np
import pytest
from lucid import Tensor

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.rle import encode_rle
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.targets import Target

SIZE = (6, 8)


def masks(count: int, dtype: Any = bool) -> np.ndarray:
    return np.ones((count, *SIZE), dtype)


def masks_in(*rectangles: tuple[int, int, int, int]) -> np.ndarray:
    """Masks of rectangles (first row, row after the last, first column, column after the last)."""
    found = masks(len(rectangles)) & False
    for mask, (y1, y2, x1, x2) in zip(found, rectangles, strict=True):
        mask[y1:y2, x1:x2] = True
    return found


def good(**changes: Any) -> dict[str, Any]:
    return {"boxes": [[0, 0, 4, 3], [1.5, 2, 8, 6]], "labels": [1, 3], "masks": masks(2)} | changes


def build(target: Any) -> Target:
    return Target.from_mapping(target, index=1, image_size=SIZE, num_classes=3)


def tensor(values: Any, dtype: Any) -> Tensor:
    return Tensor(np.array(values, dtype))


@pytest.mark.parametrize(
    "target",
    [
        good(),
        good(boxes=np.array([[0, 0, 4, 3], [1.5, 2, 8, 6]])),
        good(boxes=tensor([[0, 0, 4, 3], [1.5, 2, 8, 6]], np.float32), labels=tensor([1, 3], np.int64)),
        good(labels=np.array([1, 3], np.uint8), masks=masks(2, np.uint8)),
        good(masks=tensor(masks(2), np.float32)),
        good(masks=masks(2).tolist()),
        good(image_id=7),
    ],
)
def test_tensors_arrays_and_lists_are_taken(target: dict[str, Any]) -> None:
    checked = build(target)
    assert len(checked) == 2
    assert checked.image_size == SIZE
    assert {t.device for t in (checked.boxes, checked.labels, checked.masks)} == {"cpu"}
    boxes, labels, pixels = map(host, (checked.boxes, checked.labels, checked.masks))
    assert (boxes.dtype, labels.dtype, pixels.dtype) == (np.float32, np.int32, bool)
    np.testing.assert_array_equal(boxes, [[0, 0, 4, 3], [1.5, 2, 8, 6]])
    np.testing.assert_array_equal(labels, [1, 3])
    np.testing.assert_array_equal(pixels, masks(2))


@pytest.mark.parametrize(
    "target",
    [
        {"boxes": [], "labels": [], "masks": []},
        {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "masks": masks(0)},
        {"boxes": lucid.zeros((0, 4)), "labels": lucid.zeros((0,)), "masks": lucid.zeros((0, *SIZE))},
    ],
)
def test_image_without_objects_is_a_target(target: dict[str, Any]) -> None:
    checked = build(target)
    assert len(checked) == 0
    assert checked.boxes.shape == (0, 4)
    assert checked.labels.shape == (0,)
    assert checked.masks.shape == (0, *SIZE)
    smaller = checked.resized((3, 4))
    assert smaller.masks.shape == (0, 3, 4)
    assert smaller.image_size == (3, 4)


WHOLE = [[0, 0, 8, 0, 8, 6, 0, 6]]  # a polygon around the image


@pytest.mark.parametrize(
    "given",
    [
        CompressedMasks.from_dense(masks(2)),
        [encode_rle(mask) for mask in masks(2)],
        [{"size": SIZE, "counts": [0, 48]}, encode_rle(masks(1)[0])],
        [WHOLE, [np.array(WHOLE[0], float)]],
        (WHOLE, encode_rle(masks(1)[0])),
    ],
)
def test_masks_stay_compressed(given: Any) -> None:
    checked = build(good(masks=given))
    assert isinstance(checked.masks, CompressedMasks)
    assert {t.device for t in (checked.boxes, checked.labels)} == {"cpu"}
    np.testing.assert_array_equal(checked.masks.to_dense(), masks(2))
    larger = checked.resized((12, 24))
    assert larger.image_size == larger.masks.image_size == (12, 24)
    assert isinstance(larger.masks, CompressedMasks)


REFUSED = [
    (good(masks=CompressedMasks.from_dense(masks(3))), ValueError, "got 2 boxes, 2 labels and 3 masks"),
    (
        good(masks=CompressedMasks.from_dense(np.ones((2, 8, 6), bool))),
        ValueError,
        r"targets\[1\]\['masks'\] must be of the image's size, 6 × 8 .* got 8 × 6",
    ),
    (
        good(masks=[encode_rle(masks(1)[0]), encode_rle(np.ones((8, 6), bool))]),
        ValueError,
        r"targets\[1\]\['masks'\]\[1\] is of 8 × 6 pixels, but the image has 6 × 8",
    ),
    (
        good(masks=[{"size": SIZE, "counts": "zz"}, WHOLE]),
        ValueError,
        r"targets\[1\]\['masks'\]\[0\] is malformed: rle\['counts'\]",
    ),
    (good(masks=[WHOLE, [[0, 0, 8, 6]]]), ValueError, r"\['masks'\]\[1\] is malformed: its polygon 0 has 2 points"),
    (good(masks=[WHOLE, []]), ValueError, r"\['masks'\]\[1\] must be a run-length encoding or a list of polygons"),
    ({"boxes": [], "masks": []}, ValueError, r"targets\[1\] has no 'labels': it has \['boxes', 'masks'\]"),
    ({}, ValueError, "has no 'boxes' and no 'labels' and no 'masks'"),
    ([1, 2], TypeError, r"targets\[1\] must be a mapping .* got list"),
    (good(boxes=[[0, 0, 4], [1, 2, 8]]), ValueError, r"\(n, 4\), got int64 of shape \(2, 3\)"),
    (good(boxes=[0, 0, 4, 3]), ValueError, r"of shape \(4,\)"),
    (good(boxes=[[0, 0, 4, 3], [1]]), ValueError, r"targets\[1\]\['boxes'\] must be numbers .* got rows"),
    (good(boxes=np.array([["a"] * 4] * 2)), TypeError, "must be numbers"),
    (good(boxes=[[0, 0, 4, 3]]), ValueError, "got 1 boxes, 2 labels and 2 masks"),
    (good(labels=[1]), ValueError, "got 2 boxes, 1 labels and 2 masks"),
    (good(masks=masks(3)), ValueError, "got 2 boxes, 2 labels and 3 masks"),
    (
        good(boxes=[[0, 0, 4, 3], [1, 2, np.nan, 6]]),
        ValueError,
        r"targets\[1\]\['boxes'\]\[1\] = \(1, 2, nan, 6\) is not finite",
    ),
    (good(boxes=[[0, 0, 4, np.inf], [1, 2, 8, 6]]), ValueError, r"\[0\] = \(0, 0, 4, inf\) is not finite"),
    (good(boxes=[[0, 0, 1e300, 3], [1, 2, 8, 6]]), ValueError, "is not finite"),
    (
        good(boxes=[[0, 0, 4, 3], [5, 2, 3, 2]]),
        ValueError,
        r"\[1\] = \(5, 2, 3, 2\) has no area: x2 must be greater than x1 .* \(x, y, width, height\)\.",
    ),
    (good(boxes=[[0, 0, 4, 0], [1, 2, 8, 6]]), ValueError, r"\[0\] = \(0, 0, 4, 0\) has no area"),
    (good(boxes=[[1, 0, 1 + 1e-9, 3], [1, 2, 8, 6]]), ValueError, "has no area"),
    (good(boxes=[[0, 0, 4, 3], [8, 2, 9, 6]]), ValueError, "is outside its image of 6 × 8"),
    (good(boxes=[[-5, 0, 0, 3], [1, 2, 8, 6]]), ValueError, "is outside its image"),
    (good(labels=[1, 4]), ValueError, r"targets\[1\]\['labels'\]\[1\] = 4 must be 1 to 3"),
    (good(labels=[0, 1]), ValueError, r"\['labels'\]\[0\] = 0 must be 1 to 3.*background"),
    (good(labels=[1.0, 2.0]), TypeError, r"must be integers of shape \(G,\), 1 to 3, got float64"),
    (good(labels=[True, True]), TypeError, "got bool"),
    (good(labels=[[1], [2]]), ValueError, r"shape \(G,\), 1 to 3, got int64 of shape \(2, 1\)"),
    (good(masks=np.ones((2, 8, 6), bool)), ValueError, r"shape \(G, 6, 8\), got bool of shape \(2, 8, 6\)"),
    (good(masks=masks(1)[0]), ValueError, r"of shape \(6, 8\)"),
    (
        good(masks=(masks(2, np.uint8) * 255).tolist()),
        ValueError,
        r"\['masks'\]\[0\] must be .* got 255: pass masks > 0",
    ),
    (
        good(masks=masks(2, np.uint8) * 255),
        ValueError,
        r"\['masks'\]\[0\] must be .* got 255: pass masks > 0",
    ),
    (good(masks=masks(2, np.float32) * 0.5), ValueError, "got 0.5"),
    (good(masks=masks(2, np.float32) * np.nan), ValueError, "got nan"),
    (good(masks=None), TypeError, r"\['masks'\] must be zeros and ones .* got None"),
    (good(masks="a.png"), TypeError, "got 'a.png'"),
    (good(boxes=None), TypeError, r"\['boxes'\] must be numbers .* got None"),
    (good(boxes=[[True] * 4] * 2), TypeError, "got bool of shape"),
    (good(labels=None), TypeError, r"\['labels'\] must be integers .* got None"),
    (good(labels=["a", "b"]), TypeError, r"\['labels'\] must be integers"),
    (None, TypeError, r"targets\[1\] must be a mapping .* got NoneType"),
    (good(masks=masks_in((0, 1, 0, 1), (0, 1, 5, 8))), ValueError, r"\['masks'\]\[1\] has no pixel in its box"),
    (
        good(masks=CompressedMasks.from_dense(masks_in((5, 6, 7, 8), (2, 6, 2, 8)))),
        ValueError,
        r"targets\[1\]\['masks'\]\[0\] has no pixel in its box \(0, 0, 4, 3\), and the box",
    ),
]


@pytest.mark.parametrize(("target", "error", "message"), REFUSED)
def test_mistake_gets_a_sentence(target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        build(target)
    assert "\n" not in str(caught.value)


def test_box_that_sticks_out_is_accepted() -> None:
    boxes = [[-4, -4, 2, 2], [5, 5, 12, 10], [-8, 0, 8, 6]]  # by little, by little, and by half of it
    found = CompressedMasks.from_dense(masks_in((0, 2, 0, 2), (5, 6, 5, 8), (0, 6, 0, 8)))
    assert len(build({"boxes": boxes, "labels": [1, 1, 1], "masks": found})) == 3


@pytest.mark.parametrize("box", [[-60, 0, 8, 6], [0, 0, 8, 5000], [5, 5, 20, 20], [-3, -99, 1, 1]])
def test_box_that_lies_for_the_most_part_outside_of_its_image_is_refused(box: list[float]) -> None:
    with pytest.raises(
        ValueError, match=r"targets\[1\]\['boxes'\]\[1\] = \(.*\) lies for the most part outside its image"
    ):
        build(good(boxes=[[0, 0, 8, 6], box]))


def test_resized_target_has_boxes_by_axis_and_nearest_masks() -> None:
    pixels = np.zeros((1, *SIZE), bool)
    pixels[0, 2:4, 1:3] = True
    target = build({"boxes": [[1, 2, 3, 4]], "labels": [2], "masks": pixels}).resized((12, 24))
    assert target.image_size == (12, 24)
    assert target.masks.device == target.boxes.device == "cpu"
    np.testing.assert_array_equal(host(target.boxes), [[3, 4, 9, 8]])
    np.testing.assert_array_equal(host(target.labels), [2])
    np.testing.assert_array_equal(host(target.masks), pixels.repeat(2, 1).repeat(3, 2))


def object_of(box: Any, mask: tuple[int, int, int, int], form: str, size: tuple[int, int] = (96, 128)) -> dict:
    """A sound object, and one of a box and a mask (y1, y2, x1, x2) of an image of ``size``."""
    pixels = np.zeros((2, *size), bool)
    pixels[0, 10:20, 10:30] = True
    y1, y2, x1, x2 = mask
    pixels[1, y1:y2, x1:x2] = True
    forms = {
        "dense": lambda: pixels,
        "float": lambda: pixels.astype(np.float32),
        "rle": lambda: [encode_rle(m) for m in pixels],
        "compressed": lambda: CompressedMasks.from_dense(pixels),
    }
    return {"boxes": [[10, 10, 30, 20], box], "labels": [1, 1], "masks": forms[form]()}


def check(target: dict, size: tuple[int, int] = (96, 128)) -> Target:
    return Target.from_mapping(target, index=2, image_size=size, num_classes=1)


@pytest.mark.parametrize("form", ["dense", "float", "rle", "compressed"])
@pytest.mark.parametrize(
    ("box", "mask", "message"),
    [
        ([40, 50, 60, 90], (0, 0, 0, 0), r"\['masks'\]\[1\] has no pixel: leave an object without pixels out"),
        (
            [40, 50, 60, 90],
            (10, 20, 40, 60),
            r"\['masks'\]\[1\] has no pixel in its box \(40, 50, 60, 90\), and the box",
        ),
        (
            [40, 50, 60, 90],
            (20, 60, 40, 60),
            r"has 240 of its 800 pixels in its box .*around it is \(40, 20, 60, 60\): b",
        ),
        ([0.25, 0.5, 0.75, 0.8], (48, 77, 32, 96), "seem to be fractions of the image's sides"),
        ([0, 0, 1, 1], (0, 96, 0, 128), "seem to be fractions of the image's sides"),
        ([0, 0, 0.05, 0.05], (0, 5, 0, 5), "seem to be fractions of the image's sides"),
        ([20, 30, 60, 50], (30, 80, 20, 80), r"seems to be \(x, y, width, height\)"),
        ([6, 6, 60, 50], (6, 56, 6, 66), r"has 2576 of .*seems to be \(x, y, width, height\)"),
        ([50, 55, 60, 70], (20, 90, 20, 80), r"seems to be \(center x, center y, width, height\)"),
        ([30, 10, 80, 50], (30, 80, 10, 50), r"seems to be \(y1, x1, y2, x2\)"),
    ],
)
def test_mask_that_cannot_be_that_of_its_box_is_refused(box: Any, mask: Any, message: str, form: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check(object_of(box, mask, form))
    assert str(caught.value).startswith("targets[2]['masks'][1] has ")


@pytest.mark.parametrize("form", ["dense", "compressed"])
@pytest.mark.parametrize(
    ("box", "mask"),
    [
        ([40, 50, 60, 90], (50, 90, 40, 60)),
        ([40.4, 50.6, 59.5, 89.3], (50, 90, 40, 60)),
        ([40, 50, 59, 89], (50, 90, 40, 60)),  # x2 and y2 are the last pixel
        ([44, 54, 56, 86], (50, 90, 40, 60)),  # tight, and then some
        ([10, 20, 100, 90], (50, 60, 40, 50)),  # of the whole object, of which little is visible
        ([40, 50, 60, 51], (51, 52, 40, 60)),  # one pixel below its box
        ([0, 0, 1, 1], (0, 1, 0, 1)),
        ([0, 0, 1, 1], (0, 2, 0, 2)),
        ([0.2, 0.2, 1, 1], (0, 1, 0, 1)),
        ([-3, -2, 40, 50], (0, 50, 0, 40)),
        ([0, 0, 128, 96], (0, 96, 0, 128)),
        ([40, 50, 42, 52], (51, 53, 41, 43)),  # two pixels each, rounded differently
    ],
)
def test_boxes_that_are_rounded_or_loose_are_accepted(box: Any, mask: Any, form: str) -> None:
    assert len(check(object_of(box, mask, form))) == 2


def test_xywh_that_happens_to_be_a_valid_box_is_told_by_its_mask() -> None:
    rng, size, told = np.random.default_rng(0), (300, 400), 0
    for _ in range(300):
        x, y = rng.integers(4, 150, 2)
        w, h = rng.integers(4, 250), rng.integers(4, 150)
        mask = (y, y + h, x, x + w)
        check(object_of([x, y, x + w, y + h], mask, "compressed", size), size)
        if w > x and h > y:  # else it has no area
            with pytest.raises(ValueError, match=r"\['masks'\]\[1\] has .*seems to be \(x, y, width, height\)"):
                check(object_of([x, y, w, h], mask, "compressed", size), size)
            told += 1
    assert told > 50


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"index": -1}, ValueError, "index must be a non-negative integer, got -1"),
        ({"index": "0"}, TypeError, "index must be a non-negative integer, got '0'"),
        ({"image_size": (6, 0)}, ValueError, r"image_size\[1\] must be a positive integer, got 0"),
        ({"image_size": "68"}, TypeError, "image_size must be a sequence of 2 values"),
        ({"num_classes": 0}, ValueError, "num_classes must be a positive integer, got 0"),
        ({"num_classes": "3"}, TypeError, "num_classes must be a positive integer, got '3'"),
        ({"num_classes": True}, TypeError, "num_classes must be a positive integer, got True"),
    ],
)
def test_wrong_arguments_of_from_mapping_are_named(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Target.from_mapping(good(), **{"index": 1, "image_size": SIZE, "num_classes": 3} | change)


def test_numpy_integers_are_integers() -> None:
    sizes = {"image_size": (np.int64(6), np.int32(8)), "num_classes": np.int64(3), "index": np.int64(0)}
    assert len(Target.from_mapping(good(), **sizes)) == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"boxes": np.zeros((2, 4), np.float32)}, TypeError, r"boxes must be a tensor of shape \(G, 4\)"),
        ({"labels": None}, TypeError, "labels must be a tensor"),
        ({"masks": masks(2)}, TypeError, "masks must be CompressedMasks or a tensor"),
        ({"masks": Tensor(masks(3))}, ValueError, r"boxes of shape \(2, 4\), labels of shape \(2,\) and 3 masks"),
        ({"boxes": Tensor(np.zeros((2, 5), np.float32))}, ValueError, r"got boxes of shape \(2, 5\)"),
    ],
)
def test_target_is_made_of_tensors_that_fit(change: dict, error: type[Exception], message: str) -> None:
    checked = build(good())
    with pytest.raises(error, match=message):
        Target(**{"boxes": checked.boxes, "labels": checked.labels, "masks": checked.masks} | change)


@pytest.mark.parametrize(("size", "error"), [((0, 3), ValueError), (None, TypeError), ((2.5, 3), TypeError)])
def test_size_of_a_resized_target_is_checked(size: Any, error: type[Exception]) -> None:
    for target in (good(), good(masks=CompressedMasks.from_dense(masks(2)))):
        with pytest.raises(error, match="to_size"):
            build(target).resized(size)
