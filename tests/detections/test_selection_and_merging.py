"""Detections made of masks and of COCO results, chosen, suppressed and merged."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from lucid import Tensor

from lucid_maskrcnn import CompressedMasks, Detections
from lucid_maskrcnn.ops import host

SIZE = (30, 40)
NAMES = {1: "cell", 2: "nucleus"}


def disc(n: int, side: int = 14) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return np.broadcast_to(1 / (1 + np.exp(8 * (np.hypot(x, y) - 0.9))), (n, side, side)).astype(np.float32)


def make(boxes, scores=None, labels=None, **options) -> Detections:
    n = len(boxes)
    scores = np.linspace(0.9, 0.3, n) if scores is None else scores
    labels = np.ones(n, np.int32) if labels is None else labels
    return Detections(np.float32(boxes), scores, labels, disc(n), SIZE, **{"categories": NAMES, **options})


THREE = [(2, 3, 14, 12), (20, 5, 33, 21), (27, 20, 44, 34)]


def dense(found: Detections) -> np.ndarray:
    return host(found.masks)


# ------------------------------------------------------------------ storage


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("snap_masks", [True, False])
def test_compressed_masks_are_the_pasted_ones(device: str, snap_masks: bool) -> None:
    found = make([*THREE, (-5, -4, 8, 50)], snap_masks=snap_masks, mask_thresh=0.4)
    moved = Detections(*(getattr(found, n).to(device) for n in ("boxes", "scores", "labels", "mask_probs")), SIZE,
                       snap_masks=snap_masks, mask_thresh=0.4)  # fmt: skip
    np.testing.assert_array_equal(moved.compressed_masks.to_dense(), dense(moved))
    assert moved.areas.tolist() == dense(moved).sum(axis=(1, 2)).tolist()
    assert moved[1:].compressed_masks.areas.tolist() == moved.areas[1:].tolist()


def test_detections_of_masks_behave_as_those_of_probabilities() -> None:
    probs = make(THREE)
    made = Detections(probs.boxes, probs.scores, probs.labels, masks=probs.compressed_masks, categories=NAMES)
    assert made.image_size == SIZE
    assert made.mask_probs is None
    np.testing.assert_array_equal(dense(made), dense(probs))
    assert made.to_rle() == probs.to_rle()
    assert made.to_coco(3) == probs.to_coco(3)
    assert made.to_polygons() == probs.to_polygons()
    some = made[[2, 0]]
    np.testing.assert_array_equal(dense(some), dense(probs)[[2, 0]])
    np.testing.assert_array_equal(some.numpy()["masks"], dense(probs)[[2, 0]])
    again = pickle.loads(pickle.dumps(some))
    np.testing.assert_array_equal(dense(again), dense(some))
    assert np.asarray(made.draw(np.zeros((*SIZE, 3), np.uint8), scale=2)).shape == (60, 80, 3)
    assert "Detections(3 in 30 × 40 pixels, on cpu)" in repr(made)


@pytest.mark.parametrize(
    "given", [lambda m: m, lambda m: m.to_dense(), lambda m: m.to_rle(), lambda m: Tensor(m.to_dense())]
)
def test_masks_may_be_of_any_form(given) -> None:
    masks = make(THREE).compressed_masks
    found = Detections(THREE, [0.5] * 3, [1] * 3, masks=given(masks), image_size=SIZE)
    np.testing.assert_array_equal(dense(found), masks.to_dense())


def test_huge_dense_masks_are_refused_and_the_rest_works() -> None:
    size = (40_000, 40_000)
    patch = (slice(39_000, 39_010), slice(5, 25), np.ones((10, 20), bool))
    found = Detections.from_masks(CompressedMasks.from_patches([patch] * 3, size))
    with pytest.raises(ValueError, match=r"masks of 3 objects in 40000 × 40000 pixels would take 4\.8 GB: .*to_rle"):
        found.masks  # noqa: B018
    assert found.areas.tolist() == [200] * 3
    assert found.to_coco(1)[0]["bbox"] == [5, 39_000, 20, 10]
    assert found.to_polygons()[0] == [[5, 39_000, 25, 39_000, 25, 39_010, 5, 39_010]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": np.ones((2, 30, 40)), "mask_probs": disc(3)}, ValueError, "mask_probs and masks exclude each other"),
        ({"masks": np.ones((2, 30, 40))}, ValueError, "masks must be one for each box, got 2 masks for 3 boxes"),
        ({"masks": np.ones((3, 9, 40))}, ValueError, "masks must be of the image's size, 30 × 40"),
        ({"masks": np.ones((30, 40)), "image_size": None}, ValueError, r"masks must be of shape \(3, H, W\)"),
        ({"masks": "x", "image_size": None}, TypeError, "masks must be CompressedMasks, or"),
        ({"mask_probs": disc(3), "image_size": None}, TypeError, "image_size must be"),
    ],
)
def test_wrong_masks_are_refused(change, error, message) -> None:
    with pytest.raises(error, match=message):
        Detections(THREE, [0.5] * 3, [1] * 3, **{"image_size": SIZE, **change})


def test_what_masks_are_made_of_cannot_be_assigned() -> None:
    found = make(THREE)
    for name in ("boxes", "scores", "labels", "mask_probs", "image_size", "mask_thresh", "masks"):
        with pytest.raises(AttributeError, match=f"Detections do not change, and {name} cannot be assigned"):
            setattr(found, name, getattr(found, name))
    found.image = np.ones((*SIZE, 3), np.uint8)
    assert found.image.sum() == 3 * 30 * 40
    with pytest.raises(ValueError, match=r"image must be a uint8 array of shape \(30, 40, 3\)"):
        found.image = np.ones((5, 5, 3), np.uint8)
    found.image = None
    assert pickle.loads(pickle.dumps(found)).image is None


# ------------------------------------------------------------------ made of other forms


def test_coco_results_come_back() -> None:
    found = make(THREE, labels=[2, 1, 2], categories=[(1, "cell", 7), (2, "nucleus", 3)])
    again = Detections.from_coco(found.to_coco(4), SIZE, categories=found.categories)
    assert again.to_coco(4) == found.to_coco(4)
    assert again.names == found.names
    np.testing.assert_array_equal(host(again.labels), [2, 1, 2])
    np.testing.assert_array_equal(dense(again), dense(found))


def test_annotations_are_detections_of_score_1() -> None:
    annotations = [{"category_id": 5, "segmentation": [[2, 2, 9, 2, 9, 9, 2, 9]], "area": 49, "iscrowd": 0}]
    found = Detections.from_coco(annotations, SIZE, categories=[{"id": 9, "name": "b"}, {"id": 5, "name": "a"}])
    assert found.names == ["a"]
    assert host(found.labels).tolist() == [1]
    assert host(found.scores).tolist() == [1]
    assert host(found.boxes).tolist() == [[2, 2, 9, 9]]
    assert found.category_ids.tolist() == [5]
    assert len(Detections.from_coco([], SIZE)) == 0


@pytest.mark.parametrize(
    ("results", "options", "error", "message"),
    [
        ([{"segmentation": [[0, 0, 1, 0, 1, 1]]}], {}, ValueError, r"results\[0\] has no 'category_id'"),
        ([{"category_id": 1}], {}, ValueError, r"results\[0\] has no 'segmentation'"),
        ({"category_id": 1}, {}, TypeError, "results must be a list of COCO results"),
        ([{"category_id": 1, "segmentation": [[0, 0]]}], {}, ValueError, r"segmentation of results\[0\] is malformed"),
        (
            [{"category_id": 0, "segmentation": [[0, 0, 1, 0, 1, 1]]}],
            {},
            ValueError,
            r"results\[0\]\['category_id'\] must",
        ),
        (
            [{"category_id": 4, "segmentation": [[0, 0, 1, 0, 1, 1]]}],
            {"categories": NAMES},
            ValueError,
            "id of one of the",
        ),
        (
            [{"category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 1]], "image_id": i} for i in (1, 2)],
            {},
            ValueError,
            "of one image, got those of 1, 2",
        ),
        (
            [{"category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 1]], "score": 7}],
            {},
            ValueError,
            r"results\[0\]\['score'\] must be a number between 0 and 1",
        ),
        (
            [{"category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 1]], "bbox": [1, 2, 3]}],
            {},
            ValueError,
            r"results\[0\]\['bbox'\] must be a sequence of 4",
        ),
        ([], {"categories": [{"name": "a"}]}, ValueError, r"categories\[0\] must be a mapping with 'id' and 'name'"),
    ],
)
def test_wrong_results_are_named(results, options, error, message) -> None:
    with pytest.raises(error, match=message):
        Detections.from_coco(results, SIZE, **options)


def test_label_images_stacks_and_compressed_masks_are_the_same_detections() -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[2:5, 3:9], labels[10:20, 30:40] = 7, 300
    stack = np.stack([labels == 7, labels == 300])
    for masks in (labels, stack, CompressedMasks.from_dense(stack)):
        found = Detections.from_masks(masks, categories=NAMES)
        np.testing.assert_array_equal(dense(found), stack)
        assert host(found.boxes).tolist() == [[3, 2, 9, 5], [30, 10, 40, 20]]
        assert host(found.scores).tolist() == [1, 1]
        assert found.names == ["cell", "cell"]
    with pytest.raises(ValueError, match=r"masks must be .* got bool of shape \(30, 40\)"):
        Detections.from_masks(labels > 0)


# ------------------------------------------------------------------ chosen


def test_filters_choose_what_passes_all() -> None:
    found = make([*THREE, (-4, 10, 9, 18)], labels=[1, 2, 1, 2])
    areas = found.areas
    assert [*found.filter(score_thresh=0.5).ids] == [1, 2]
    assert host(found.filter(score_thresh=0.7).scores).tolist() == [np.float32(0.9)]  # 0.7 itself is not above it
    assert found.filter(classes="nucleus").names == ["nucleus"] * 2
    assert found.filter(classes=["cell", 2]).names == found.names
    assert found.filter(min_area=areas[1], max_area=areas[1]).areas.tolist() == [areas[1]]
    np.testing.assert_array_equal(host(found.filter(exclude_edge=True).boxes), np.float32(THREE[:2]))
    assert len(found.filter(classes=2, score_thresh=0.6)) == 1
    assert len(found.filter()) == 4
    assert len(make([]).filter(score_thresh=0.5, classes=1, min_area=1, max_area=5, exclude_edge=True)) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classes": "nucelus"}, ValueError, "there is no class 'nucelus'; did you mean 'nucleus'"),
        ({"classes": 3}, ValueError, "classes.*: there is no class 3; there are"),
        ({"classes": []}, ValueError, "classes must have at least one value"),
        ({"classes": 1.5}, TypeError, r"classes\[0\] must be a positive integer, got 1.5"),
        ({"score_thresh": 5}, ValueError, "score_thresh must be a number between 0 and 1"),
        ({"min_area": -1}, ValueError, "min_area must be a number of at least 0"),
        ({"min_area": 9, "max_area": 3}, ValueError, "min_area must not be greater than max_area, got 9 and 3"),
        ({"exclude_edge": "no"}, TypeError, "exclude_edge must be True or False"),
    ],
)
def test_wrong_filters_are_named(options, error, message) -> None:
    with pytest.raises(error, match=message):
        make(THREE).filter(**options)


def test_edge_is_the_edge_of_the_image() -> None:
    masks = np.zeros((5, *SIZE), bool)
    masks[0, 0, 5], masks[1, 29, 5], masks[2, 5, 0], masks[3, 5, 39] = True, True, True, True
    masks[4, 1:29, 1:39] = True
    assert Detections.from_masks(masks).filter(exclude_edge=True).areas.tolist() == [28 * 38]


def test_suppression_by_boxes_and_by_masks() -> None:
    crossing = np.zeros((3, *SIZE), bool)
    crossing[0, np.arange(20), np.arange(20)] = True  # two diagonals in one box, and a third object like the first
    crossing[1, np.arange(20), 19 - np.arange(20)] = True
    crossing[2, np.arange(19), np.arange(19)] = True
    found = Detections.from_masks(crossing, scores=[0.5, 0.6, 0.7], labels=[1, 1, 2])
    assert [*host(found.nms(0.5, class_agnostic=True).scores)] == [np.float32(0.7)]
    assert len(found.nms(0.5)) == 2
    assert host(found.nms(0.5, class_agnostic=True, masks=True).scores).tolist() == np.float32([0.6, 0.7]).tolist()
    assert len(found.nms(0.5, masks=True)) == 3
    assert len(found[:0].nms(0.5, masks=True)) == len(found[:0].nms(0.5)) == 0
    with pytest.raises(ValueError, match="nms_thresh must be a number between 0 and 1, got 2"):
        found.nms(2)


# ------------------------------------------------------------------ merged


@pytest.mark.parametrize("kind", ["probs", "masks", "mixed"])
def test_merged_detections_are_all_of_them_by_score(kind: str) -> None:
    a, b = make(THREE[:2], [0.9, 0.2]), make(THREE[2:], [0.5], [2])
    as_masks = [Detections(d.boxes, d.scores, d.labels, masks=d.compressed_masks, categories=NAMES) for d in (a, b)]
    parts = {"probs": [a, b], "masks": as_masks, "mixed": [a, as_masks[1]]}[kind]
    merged = Detections.merge(parts)
    assert host(merged.scores).tolist() == np.float32([0.9, 0.5, 0.2]).tolist()
    np.testing.assert_array_equal(dense(merged), np.concatenate([dense(a), dense(b)])[[0, 2, 1]])
    assert merged.names == ["cell", "nucleus", "cell"]
    assert (merged.mask_probs is None) == (kind != "probs")


def test_merged_detections_must_fit() -> None:
    found = make(THREE)
    other = Detections(np.float32(THREE), [0.5] * 3, [1] * 3, disc(3), (50, 50))
    with pytest.raises(
        ValueError, match=r"one image size, got parts\[0\] with \(30, 40\) and parts\[1\] with \(50, 50\)"
    ):
        Detections.merge([found, other])
    with pytest.raises(ValueError, match="parts must have the same categories, got label 1"):
        Detections.merge([found, make(THREE, categories={1: "dog"})])
    with pytest.raises(ValueError, match="parts must have at least one value"):
        Detections.merge([])
    with pytest.raises(TypeError, match=r"parts\[1\] must be Detections, got 5"):
        Detections.merge([found, 5])
    more = make(THREE, [0.1, 0.1, 0.1], categories={3: "dog"})
    assert Detections.merge([found, more]).categories == {**NAMES, 3: "dog"}
