"""Compressed masks: each operation against the same on dense ones, and the targets cut out of them."""

import tracemalloc

import lucid
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lucid import Tensor

from lucid_maskrcnn import CompressedMasks, HeadConfig, Target, mask_rcnn_resnet_18_fpn, ops
from lucid_maskrcnn.masks.rle import decode_counts, decode_rle, encode_rle, parse_rle
from lucid_maskrcnn.models.heads import RoISampler
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.transforms import resize_masks

stacks = hnp.arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 18), st.integers(1, 18)))
small = st.tuples(st.integers(1, 30), st.integers(1, 30))
FIELDS = ("starts", "stops", "offsets")


def ellipses(count, size, radius, seed=0):
    """Return blobs (G, H, W), some of them cut by the border, some with a hole."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: size[0], : size[1]]
    masks = np.zeros((count, *size), bool)
    for i, mask in enumerate(masks):
        cy, cx = rng.uniform(0, size)
        ry, rx = rng.uniform(*radius, 2)
        distance = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
        mask[...] = (distance < 1) & ((distance > 0.2) | (i % 3 > 0))
    return masks


def assert_is(masks, dense):
    """Assert that the runs are those that the dense masks have: there is one way only to write a mask."""
    expected = CompressedMasks.from_dense(dense)
    assert masks.image_size == dense.shape[1:]
    assert len(masks) == len(dense)
    np.testing.assert_array_equal(masks.to_dense(), dense)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(masks, name), getattr(expected, name), name)
    assert masks.starts.dtype == masks.stops.dtype == np.int32


# ------------------------------------------------------------------ forms


@settings(max_examples=40, deadline=None)
@given(stacks)
def test_dense_masks_and_rle_convert_back(dense):
    masks = CompressedMasks.from_dense(dense)
    np.testing.assert_array_equal(masks.to_dense(), dense)
    rles = [encode_rle(mask) for mask in dense]
    assert masks.to_rle() == rles
    lists = [{"size": rle["size"], "counts": parse_rle(rle)[0].tolist()} for rle in rles]
    in_bytes = [{"size": tuple(rle["size"]), "counts": rle["counts"].encode()} for rle in rles]
    for some in (rles, lists, in_bytes, [*rles[:1], *lists[1:]]):
        assert_is(CompressedMasks.from_coco(some, dense.shape[1:]), dense)


@settings(max_examples=40, deadline=None)
@given(stacks)
def test_areas_and_boxes_are_those_of_the_pixels(dense):
    masks = CompressedMasks.from_dense(dense)
    np.testing.assert_array_equal(masks.areas, dense.sum((1, 2)))
    assert masks.boxes.dtype == np.float32
    for mask, box in zip(dense, masks.boxes.tolist(), strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0] * 4
        assert box == edges


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(st.sampled_from([np.uint8, np.int32, np.uint16]), small, elements=st.integers(0, 5)))
def test_from_labels_makes_a_mask_of_each_number(labels):
    numbers = np.unique(labels[labels > 0])
    assert_is(CompressedMasks.from_labels(labels), labels == numbers[:, None, None])


def test_from_labels_takes_large_and_negative_numbers():
    labels = np.array([[0, 2**40, 7], [-3, 7, 7]])
    expected = [labels == n for n in (-3, 7, 2**40)]
    assert_is(CompressedMasks.from_labels(labels), np.stack(expected))


def test_polygons_of_an_object_are_joined():
    parts = [[[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]], [[1, 1, 3, 1, 3, 3, 1, 3]]]
    dense = np.zeros((2, 7, 8), bool)
    dense[0, :4, :4] = dense[0, 2:6, 2:6] = dense[1, 1:3, 1:3] = True
    assert_is(CompressedMasks.from_coco(parts, (7, 8)), dense)
    mixed = [parts[0], encode_rle(dense[1])]
    assert_is(CompressedMasks.from_coco(mixed, (7, 8)), dense)


def test_empty_and_touching_runs_are_merged():
    rle = {"size": [4, 3], "counts": [1, 0, 1, 1, 0, 3, 2, 4]}
    assert_is(CompressedMasks.from_coco([rle], (4, 3)), decode_rle(rle)[None])


@pytest.mark.parametrize("kind", [np.uint8, np.float32, bool])
def test_from_dense_takes_bools_and_numbers(kind, device):
    dense = ellipses(3, (20, 30), (2, 9))
    assert_is(CompressedMasks.from_dense(dense.astype(kind)), dense)
    if kind is not np.uint8:  # which Lucid has no tensors of
        assert_is(CompressedMasks.from_dense(as_tensor(dense.astype(kind), device)), dense)


def test_of_takes_every_form_of_masks():
    dense = ellipses(2, (20, 30), (2, 9))
    masks = CompressedMasks.from_dense(dense)
    for given_masks in (masks, dense, dense.tolist(), list(dense), masks.to_rle(), lucid.Tensor(dense)):
        assert_is(CompressedMasks.of(given_masks, (20, 30)), dense)
    for none in ([], np.zeros((0, 20, 30)), np.zeros(0)):
        assert_is(CompressedMasks.of(none, (20, 30)), dense[:0])


def test_no_masks_and_no_pixels():
    for shape in ((0, 5, 6), (2, 0, 6), (2, 5, 0), (1, 0, 0)):
        masks = CompressedMasks.from_dense(np.zeros(shape, bool))
        assert masks.to_dense().shape == shape
        assert masks.areas.tolist() == [0] * shape[0]
        assert masks.boxes.shape == (shape[0], 4)
        assert masks.flipped(horizontal=True).rotated(1).to_dense().shape == (shape[0], shape[2], shape[1])
        assert [rle["size"] for rle in masks.to_rle()] == [[*shape[1:]]] * shape[0]


def test_decode_counts_of_many_strings_is_that_of_each():
    strings = [encode_rle(mask)["counts"] for mask in ellipses(30, (90, 70), (1, 40))] + ["0", b"6", ""]
    lengths, num = decode_counts(strings)
    sizes = [(90, 70)] * 30 + [(0, 0), (2, 3)]
    parts = np.split(lengths, np.cumsum(num)[:-1])
    assert len(parts.pop()) == 0
    for part, string, size in zip(parts, strings, sizes, strict=False):
        np.testing.assert_array_equal(part, parse_rle({"size": size, "counts": string})[0])
    for bad, words in (("6P", "unfinished"), ("6 ", "characters"), ("6é", "characters"), ("P" * 30 + "0", "too large")):
        with pytest.raises(ValueError, match=f"{words}.*{bad[:3]}"):
            decode_counts([*strings, bad, *strings])


# ------------------------------------------------------------------ moved


@settings(max_examples=30, deadline=None)
@given(stacks, st.integers(-5, 5))
def test_flipped_and_rotated_are_those_of_dense_masks(dense, turns):
    masks = CompressedMasks.from_dense(dense)
    assert_is(masks.flipped(horizontal=True), dense[:, :, ::-1])
    assert_is(masks.flipped(vertical=True), dense[:, ::-1])
    assert_is(masks.flipped(horizontal=True, vertical=True), dense[:, ::-1, ::-1])
    assert_is(masks.rotated(turns), np.rot90(dense, turns, (1, 2)))


@settings(max_examples=40, deadline=None)
@given(stacks, st.integers(-20, 20), st.integers(-20, 20), small)
def test_cropped_is_a_slice_inside_and_outside_the_image(dense, top, left, size):
    wide = np.pad(dense, ((0, 0), (60, 60), (60, 60)))
    expected = wide[:, 60 + top : 60 + top + size[0], 60 + left : 60 + left + size[1]]
    assert_is(CompressedMasks.from_dense(dense).cropped(top, left, *size), expected)


@settings(max_examples=40, deadline=None)
@given(stacks, small)
def test_resized_is_that_of_dense_masks(dense, size):
    assert_is(CompressedMasks.from_dense(dense).resized(size), resize_masks(dense, size))


@settings(max_examples=40, deadline=None)
@given(stacks, small)
def test_resized_keeps_all_objects_if_told(dense, size):
    masks = CompressedMasks.from_dense(dense)
    expected = resize_masks(dense, size)
    for mask, (x1, y1, x2, y2) in zip(expected, masks.boxes.tolist(), strict=True):
        if not mask.any() and x2 > x1:
            row, column = int((y1 + y2) / 2 * size[0] / dense.shape[1]), int((x1 + x2) / 2 * size[1] / dense.shape[2])
            mask[min(row, size[0] - 1), min(column, size[1] - 1)] = True
    assert_is(masks.resized(size, keep_all=True), expected)


@settings(max_examples=40, deadline=None)
@given(stacks, st.integers(0, 2**31))
def test_areas_within_boxes_are_those_of_slices(dense, seed):
    rng, (height, width) = np.random.default_rng(seed), dense.shape[1:]
    x, y = rng.uniform(-5, width + 5, (len(dense), 2)), rng.uniform(-5, height + 5, (len(dense), 2))
    boxes = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)
    low, high = np.floor(boxes.astype(np.float32)).clip(0), np.ceil(boxes.astype(np.float32)).clip(0)
    expected = [
        mask[int(y1) : int(y2), int(x1) : int(x2)].sum()
        for mask, (x1, y1), (x2, y2) in zip(dense, low[:, :2], high[:, 2:], strict=True)
    ]
    assert CompressedMasks.from_dense(dense).areas_within(boxes).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(stacks.filter(len), st.data())
def test_decode_region_is_a_slice_of_the_dense_mask(dense, data):
    masks = CompressedMasks.from_dense(dense)
    y0, y1, x0, x1 = (data.draw(st.integers(0, n)) for n in np.repeat(dense.shape[1:], 2).tolist())
    rows, columns = slice(min(y0, y1), max(y0, y1)), slice(min(x0, x1), max(x0, x1))
    i = data.draw(st.integers(0, len(dense) - 1))
    found = masks.decode_region(i, rows, columns)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, dense[i, rows, columns])


@pytest.mark.parametrize("rows", [2, -1, slice(1, 3), [3, 0, 0], [], np.array([True, False, True, False])])
def test_index_selects_rows(rows):
    dense = ellipses(4, (20, 30), (2, 9))
    assert_is(CompressedMasks.from_dense(dense)[rows], dense[rows].reshape(-1, 20, 30))


# ------------------------------------------------------------------ mistakes

from_dense = CompressedMasks.from_dense
SOME = from_dense(np.ones((2, 4, 5), bool))


def from_coco(segmentations, size=(4, 5)):
    return CompressedMasks.from_coco(segmentations, size)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: from_dense(np.zeros((4, 5), bool)),
            ValueError,
            r"masks must be .*\(G, H, W\), got bool of shape \(4, 5\)",
        ),
        (lambda: from_dense(np.full((1, 4, 5), 255)), ValueError, r"masks\[0\] must be of zeros and ones, got 255"),
        (lambda: from_dense(None), TypeError, "masks must be .* got None"),
        (lambda: from_dense("a"), TypeError, "got 'a'"),
        (lambda: from_dense([[[0, 1], [1]]]), ValueError, "rows of different lengths"),
        (lambda: CompressedMasks.from_labels(np.zeros((4, 5))), TypeError, "integers of shape"),
        (lambda: CompressedMasks.from_labels(np.zeros((4, 5, 3), int)), ValueError, "integers of shape"),
        (lambda: CompressedMasks.from_labels(np.zeros((4, 5), bool)), TypeError, "got bool of shape"),
        (lambda: CompressedMasks.from_labels(None), TypeError, "labels must be integers .* got None"),
        (lambda: from_coco([{"size": [4, 5], "counts": "5"}]), ValueError, r"masks\[0\] is malformed"),
        (lambda: from_coco([{"counts": "5"}]), ValueError, r"masks\[0\] is malformed: .*'size'"),
        (lambda: from_coco([{"size": "45", "counts": "5"}]), ValueError, r"masks\[0\] is malformed: .*'size'"),
        (
            lambda: from_coco([{"size": [4, 5], "counts": [20]}, {"size": [5, 4], "counts": "d0"}]),
            ValueError,
            r"masks\[1\] is of 5 × 4 pixels, but the image has 4 × 5",
        ),
        (lambda: from_coco([[[0, 0, 1]]]), ValueError, r"masks\[0\] .*polygon 0 has an odd"),
        (lambda: from_coco([[]]), ValueError, r"masks\[0\] must be .* got \[\]"),
        (lambda: from_coco(["abc"]), ValueError, r"masks\[0\] must be .* got 'abc'"),
        (lambda: from_coco([None]), ValueError, r"masks\[0\] must be .* got None"),
        (lambda: from_coco({"size": [4, 5], "counts": [20]}), TypeError, "one for each object, in a list"),
        (lambda: from_coco(None), TypeError, "one for each object, in a list, got None"),
        (lambda: from_coco([], (70_000, 70_000)), ValueError, "up to 2³¹ pixels"),
        (lambda: from_coco([], "ab"), TypeError, "image_size must be a sequence of 2"),
        (lambda: from_coco([], (4, "5")), TypeError, r"image_size\[1\] must be a non-negative integer, got '5'"),
        (lambda: from_coco([], (4, -5)), ValueError, "non-negative integer, got -5"),
        (lambda: from_coco([], (4, 5, 3)), ValueError, "sequence of 2 values, got 3"),
        (lambda: CompressedMasks.of(np.zeros((1, 5, 4)), (4, 5)), ValueError, "image's size, 4 × 5 .* got 5 × 4"),
        (lambda: CompressedMasks.of(None, (4, 5)), TypeError, "masks must be CompressedMasks, COCO .* got None"),
        (lambda: CompressedMasks.of("mask.png", (4, 5)), TypeError, "got 'mask.png'"),
        (lambda: CompressedMasks.of(7, (4, 5)), TypeError, "got 7"),
        (lambda: CompressedMasks([0], [1], [0, 1], (4, 5)), TypeError, "starts must be .* from_dense, from_coco"),
        (lambda: CompressedMasks(*np.array([[0], [1], [0]]), (4, 5)), ValueError, "offsets must .* 1 starts"),
        (lambda: SOME[9], IndexError, "Index 9 is out of range: there are 2 masks"),
        (lambda: SOME["a"], TypeError, "masks are selected by .* got 'a'"),
        (lambda: SOME[None], TypeError, "got None"),
        (lambda: SOME[0.5], TypeError, "got 0.5"),
        (lambda: SOME[[True]], ValueError, r"one value for each of the 2, shape \(2,\), got \(1,\)"),
        (lambda: SOME.decode(2), IndexError, "from 0 to 1, as there are 2 masks, got 2"),
        (lambda: SOME.decode(-1), IndexError, "got -1"),
        (lambda: SOME.decode("0"), TypeError, "index must be an integer, got '0'"),
        (
            lambda: SOME.decode_region(0, slice(0, 5), slice(0, 5)),
            ValueError,
            "rows must be inside the image, from 0 to 4",
        ),
        (lambda: SOME.decode_region(0, slice(0, 4), slice(-1, 5)), ValueError, "columns must be inside the image"),
        (lambda: SOME.decode_region(0, slice(3, 1), slice(0, 5)), ValueError, "rows must be inside the image"),
        (lambda: SOME.decode_region(0, slice(None), slice(0, 5)), TypeError, "rows must be a slice with integers"),
        (lambda: SOME.decode_region(0, 3, slice(0, 5)), TypeError, "rows must be a slice with integers .* got 3"),
        (lambda: SOME.flipped(horizontal="no"), TypeError, "horizontal must be True or False, got 'no'"),
        (lambda: SOME.rotated(0.5), TypeError, "turns must be an integer, got 0.5"),
        (lambda: SOME.cropped(0, 0, 0, 5), ValueError, "height must be a positive integer, got 0"),
        (lambda: SOME.cropped("0", 0, 2, 5), TypeError, "top must be an integer from .* got '0'"),
        (lambda: SOME.cropped(10**30, 0, 2, 5), ValueError, "top must be an integer from"),
        (lambda: SOME.decode(True), TypeError, "index must be an integer, got True"),
        (lambda: from_coco(np.array("a")), TypeError, "one for each object, in a list"),
        (lambda: SOME.resized((0, 5)), ValueError, r"to_size\[0\] must be a positive integer, got 0"),
        (lambda: SOME.resized(None), TypeError, "to_size must be"),
        (lambda: SOME.resized((2, 3), keep_all="no"), TypeError, "keep_all must be"),
        (lambda: SOME.areas_within([]), ValueError, "boxes must be one for each mask, got 0 for"),
        (lambda: SOME.areas_within("a"), TypeError, "boxes must be numbers of shape"),
        (lambda: SOME.resized((2.5, 3)), TypeError, r"to_size\[0\] must be a positive integer, got 2.5"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert str(caught.value).endswith(".")


def test_one_number_is_both_sides_and_may_be_numpys():
    assert SOME.resized(np.int64(3)).image_size == (3, 3)
    assert SOME.cropped(np.int32(0), 0, np.uint8(2), 2).image_size == (2, 2)


# ------------------------------------------------------------------ as targets


def targets_of(masks, boxes, image_size, to_size, device="cpu"):
    """Return what each of some regions around the objects should predict, and the regions' objects."""
    target = Target.from_mapping(
        {"boxes": boxes, "labels": [1] * len(boxes), "masks": masks},
        index=0,
        image_size=image_size,
        num_classes=1,
    ).resized(to_size)
    rng = np.random.default_rng(0)
    index = np.repeat(np.arange(len(boxes)), 4).astype(np.int32)
    around = host(target.boxes)[index]
    around = around + np.tile(around[:, 2:] - around[:, :2], 2) * rng.uniform(-0.4, 0.4, around.shape)
    around = np.sort(around.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    rois = around.clip(0, np.tile(to_size[::-1], 2)).astype(np.float32)
    held = target.masks if isinstance(target.masks, CompressedMasks) else as_tensor(target.masks, device)
    return host(ops.mask_targets(held, as_tensor(rois, device), as_tensor(index, device), 28))


@pytest.mark.parametrize("to_size", [(96, 130), (150, 203), (61, 47), (800, 1083)])
def test_mask_targets_are_those_of_dense_masks_bit_for_bit(to_size):
    dense = ellipses(12, (96, 130), (3, 60))
    masks = CompressedMasks.from_dense(dense)
    expected = targets_of(dense, masks.boxes, (96, 130), to_size)
    assert expected.any()
    for some in (masks, masks.to_rle()):
        found = targets_of(some, masks.boxes, (96, 130), to_size)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


def test_mask_targets_on_gpu_are_those_on_cpu():
    dense = ellipses(5, (40, 50), (3, 20))
    masks = CompressedMasks.from_dense(dense)
    on_cpu = targets_of(masks, masks.boxes, (40, 50), (60, 75))
    np.testing.assert_array_equal(targets_of(masks, masks.boxes, (40, 50), (60, 75), "gpu"), on_cpu)
    np.testing.assert_allclose(targets_of(dense, masks.boxes, (40, 50), (60, 75), "gpu"), on_cpu, atol=1e-5)


def test_rois_are_sampled_with_compressed_masks():
    dense = ellipses(6, (64, 80), (4, 20))
    boxes = CompressedMasks.from_dense(dense).boxes
    samples = []
    for masks in (dense, CompressedMasks.from_dense(dense)):
        target = Target.from_mapping(
            {"boxes": boxes, "labels": [1] * 6, "masks": masks},
            index=0,
            image_size=(64, 80),
            num_classes=1,
        )
        lucid.random.seed(0)
        sampler = RoISampler(HeadConfig(), 28)
        samples.append(sampler.select_training_samples([as_tensor(boxes + np.float32(1))], [target]))
    assert samples[1].gt_masks.shape == (samples[0].positive.shape[0], 28, 28)
    np.testing.assert_allclose(host(samples[1].gt_masks), host(samples[0].gt_masks), atol=1e-5)


def test_no_rois_give_no_mask_targets(device):
    masks = CompressedMasks.from_dense(ellipses(2, (20, 30), (2, 9)))
    none = as_tensor(np.zeros((0, 4), np.float32), device), as_tensor(np.zeros(0, np.int32), device)
    assert ops.mask_targets(masks, *none, 28).shape == (0, 28, 28)


def test_an_index_beyond_the_masks_is_refused():
    masks = CompressedMasks.from_dense(ellipses(2, (20, 30), (2, 9)))
    with pytest.raises(ValueError, match=r"gt_idx\[0\] must be an index of one of 2 masks, got 2"):
        ops.mask_targets(masks, Tensor(np.float32([[0, 0, 9, 9]])), Tensor(np.int32([2])), 28)


def test_memory_does_not_grow_with_the_image():
    """Three hundred objects in 4000 × 4000 pixels would be 4.8 GB."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 3800, (300, 2))
    sides = rng.uniform(40, 200, (300, 2))
    x1, y1, x2, y2 = np.concatenate([corners, corners + sides], 1).T
    polygons = [[p] for p in np.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1).tolist()]
    boxes = np.stack([x1, y1, x2, y2], 1)
    tracemalloc.start()
    masks = CompressedMasks.from_coco(polygons, (4000, 4000))
    targets_of(masks, boxes, (4000, 4000), (800, 800))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert masks.nbytes < 1e6
    assert peak < 100e6


def test_losses_are_those_of_dense_masks():
    model = mask_rcnn_resnet_18_fpn(
        1, width=4, fpn_channels=8, hidden_dim=8, mask_hidden_channels=4, min_size=64, max_size=100, norm="batch"
    )
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    polygons = [[[3, 3, 30, 4, 18, 36]], [[30, 10, 58, 12, 50, 38, 33, 30], [5, 30, 12, 30, 9, 38]]]
    masks = CompressedMasks.from_coco(polygons, (40, 60))
    totals = []
    for some in (masks.to_dense(), masks, masks.to_rle(), polygons):
        lucid.random.seed(0)
        losses = model.get_loss(image, [{"boxes": masks.boxes, "labels": [1, 1], "masks": some}])
        totals.append({name: value.item() for name, value in losses.items()})
    assert totals[0]["mask_loss"] > 0
    assert all(total == totals[0] for total in totals)


def test_compressed_masks_become_an_array_in_numpy() -> None:
    dense = np.random.default_rng(0).random((3, 7, 9)) > 0.5
    masks = CompressedMasks.from_dense(dense)
    np.testing.assert_array_equal(np.asarray(masks), dense)
    assert np.asarray(masks[1], np.uint8).dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(masks).sum(axis=(1, 2)), masks.areas)
    with pytest.raises(ValueError, match="without a copy"):
        np.array(masks, copy=False)


def test_patches_are_parts_of_the_image() -> None:
    dense = np.zeros((3, 7, 9), bool)
    dense[0, 2:5, 3:6] = np.eye(3)
    dense[1, 0:7, 0:9] = True
    masks = CompressedMasks.from_patches(
        [
            (slice(2, 5), slice(3, 6), np.eye(3)),
            (slice(0, 7), slice(0, 9), np.ones((7, 9), bool)),
            (slice(7, 7), slice(0, 4), np.zeros((0, 4), bool)),
        ],
        (7, 9),
    )
    np.testing.assert_array_equal(masks.to_dense(), dense)
    with pytest.raises(ValueError, match=r"rows of patches\[0\] must be inside the image, from 0 to 7, got"):
        CompressedMasks.from_patches([(slice(0, 8), slice(0, 1), np.ones((8, 1)))], (7, 9))
    with pytest.raises(ValueError, match=r"patches\[0\] must be a mask of shape \(2, 1\), got"):
        CompressedMasks.from_patches([(slice(0, 2), slice(0, 1), np.ones((1, 2)))], (7, 9))


def test_masks_of_several_are_concatenated() -> None:
    first, second = np.zeros((2, 4, 5), bool), np.ones((1, 4, 5), bool)
    first[1, 1:3, 2] = True
    parts = [CompressedMasks.from_dense(part) for part in (first, second, first[:0])]
    np.testing.assert_array_equal(CompressedMasks.concatenated(parts).to_dense(), np.concatenate([first, second]))
    with pytest.raises(ValueError, match="parts must be of one image size"):
        CompressedMasks.concatenated([*parts, CompressedMasks.from_dense(np.ones((1, 4, 4)))])
    with pytest.raises(ValueError, match="parts must be at least one CompressedMasks"):
        CompressedMasks.concatenated([])


def test_united_is_the_union_of_each_group() -> None:
    dense = np.random.default_rng(0).random((5, 12, 9)) > 0.6
    masks = CompressedMasks.from_dense(dense)
    united = masks.united([1, 0, 1, 3, 0])
    expected = np.stack([dense[1] | dense[4], dense[0] | dense[2], np.zeros((12, 9), bool), dense[3]])
    np.testing.assert_array_equal(united.to_dense(), expected)
    assert united.image_size == masks.image_size
    assert len(masks[[]].united([])) == 0
    CompressedMasks(united.starts, united.stops, united.offsets, united.image_size)  # whose runs are checked
    with pytest.raises(ValueError, match=r"^groups must be counted from 0, got -1\.$"):
        masks.united([0, 0, -1, 0, 0])
    with pytest.raises(ValueError, match=r"^groups must be integers of shape \(5,\)"):
        masks.united([0])
