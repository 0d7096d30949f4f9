"""COCO's dicts: what is made of masks, and what incomplete annotations get."""

import json

import numpy as np
import pytest

from lucid_maskrcnn.annotation_formats.coco import bboxes_of, complete_annotation, make_annotations, make_results
from lucid_maskrcnn.masks import CompressedMasks, encode_rle

MASK = np.zeros((5, 6), bool)
MASK[1:4, 2:6] = True
MASK[1, 2] = False
POLYGON = [2, 1, 5, 1, 5, 4, 2, 4]


def test_bboxes_are_x_y_width_height():
    assert bboxes_of(np.float32([[1, 2, 4, 8]])) == [[1, 2, 3, 6]]
    assert bboxes_of(np.zeros((0, 4))) == []


def test_bbox_gives_the_float32_corner_back():
    boxes = np.random.default_rng(0).uniform(0, 1000, (100, 4)).astype(np.float32)
    x, y, w, h = np.array(bboxes_of(boxes)).T
    np.testing.assert_array_equal(np.float32([x, y, x + w, y + h]).T, boxes)


def test_annotations_of_masks_are_plain_and_complete():
    masks = CompressedMasks.from_dense(np.stack([MASK, ~MASK]))
    made = make_annotations(masks, image_id=7, category_ids=[3, 5], first_id=11)
    assert made == [
        {
            "id": 11,
            "image_id": 7,
            "category_id": 3,
            "bbox": [2.0, 1.0, 4.0, 3.0],
            "area": 11,
            "iscrowd": 0,
            "segmentation": encode_rle(MASK),
        },
        {
            "id": 12,
            "image_id": 7,
            "category_id": 5,
            "bbox": [0.0, 0.0, 6.0, 5.0],
            "area": 19,
            "iscrowd": 0,
            "segmentation": encode_rle(~MASK),
        },
    ]
    assert json.loads(json.dumps(made)) == made
    assert [complete_annotation(a) for a in made] == made
    assert make_annotations(masks[:0], image_id=7, category_ids=[], first_id=1) == []


def test_own_boxes_and_crowds_are_kept():
    (made,) = make_annotations(
        CompressedMasks.from_dense(MASK[None]),
        image_id=1,
        category_ids=[1],
        first_id=1,
        boxes=np.float32([[0.5, 0, 3, 4]]),
        iscrowd=[True],
    )
    assert (made["bbox"], made["iscrowd"]) == ([0.5, 0, 2.5, 4], 1)


def test_results_have_a_score_and_no_id():
    (made,) = make_results(
        image_id=1, category_ids=[2], boxes=np.float32([[0, 0, 3, 4]]), scores=[0.5], segmentations=[encode_rle(MASK)]
    )
    assert made == {
        "image_id": 1,
        "category_id": 2,
        "bbox": [0, 0, 3, 4],
        "score": 0.5,
        "segmentation": encode_rle(MASK),
    }


@pytest.mark.parametrize(
    ("annotation", "size", "added"),
    [
        ({"segmentation": encode_rle(MASK)}, (5, 6), {"iscrowd": 0, "bbox": [2, 1, 4, 3], "area": 11}),
        ({"segmentation": [POLYGON]}, (5, 6), {"iscrowd": 0, "bbox": [2, 1, 3, 3], "area": 9}),
        ({"segmentation": [POLYGON], "bbox": [0, 0, 5, 5]}, (5, 6), {"iscrowd": 0, "area": 9}),
        ({"segmentation": [POLYGON], "area": 7, "iscrowd": 1}, (5, 6), {"bbox": [2, 1, 3, 3]}),
        ({"bbox": [1, 2, 3, 4]}, None, {"iscrowd": 0, "area": 12}),
        ({"segmentation": [POLYGON], "bbox": [1, 2, 3, 4]}, None, {"iscrowd": 0, "area": 12}),
        ({"segmentation": [], "bbox": [1, 2, 3, 4]}, (5, 6), {"iscrowd": 0, "area": 12}),
        ({"bbox": [1, 2, 3, 4], "area": 5}, None, {"iscrowd": 0}),
    ],
)
def test_missing_keys_are_added(annotation, size, added):
    before = dict(annotation)
    assert complete_annotation(annotation, size) == {**annotation, **added}
    assert annotation == before


@pytest.mark.parametrize("annotation", [{"id": 9}, {"id": 9, "segmentation": [POLYGON]}, {"id": 9, "area": 5}])
def test_annotation_without_mask_and_box_is_refused(annotation):
    with pytest.raises(ValueError, match="annotation 9 must have a segmentation or a bbox and an area"):
        complete_annotation(annotation)


@pytest.mark.parametrize("annotation", [None, "a", 7, [1]])
def test_annotation_must_be_a_mapping(annotation):
    with pytest.raises(TypeError, match="annotation must be a mapping, got"):
        complete_annotation(annotation)
