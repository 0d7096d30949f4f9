"""YOLO's labels keep every pixel, with parts and holes on one outline; what others would draw of it is measured."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from lucid_maskrcnn.annotation_formats.records import AnnotationError, parts_of
from lucid_maskrcnn.annotation_formats.yolo import make_data_yaml, make_yolo, parse_data_yaml, parse_yolo
from lucid_maskrcnn.masks import CompressedMasks, trace_parts

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

RING = np.ones((9, 9), bool)
RING[3:6, 3:6] = False


def masks_of(objects, size):
    return np.asarray(CompressedMasks.from_coco([o.segmentation for o in objects], size))


@settings(max_examples=60, deadline=None)
@given(mask=arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))))
def test_any_mask_comes_back_with_the_pixels_that_pycocotools_fills(mask):
    text = make_yolo(trace_parts(CompressedMasks.from_dense(mask[None])), [4], mask.shape)
    objects = parse_yolo(text, mask.shape, "labels")
    assert len(objects) == mask.any()
    for found in objects:
        assert found.name == "4"
        filled = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(found.segmentation, *mask.shape)))
        np.testing.assert_array_equal(filled, mask)


@pytest.mark.parametrize("scale", [1, 37.3])
@given(points=st.lists(st.tuples(st.integers(0, 640), st.integers(0, 480)), min_size=3, max_size=12))
def test_polygons_of_annotators_keep_their_points(scale, points):
    polygon = [value / scale for point in points for value in point]
    (found,) = parse_yolo(make_yolo([parts_of([polygon], (480, 640))], [0], (480, 640)), (480, 640), "labels")
    np.testing.assert_allclose(found.segmentation[0], polygon, atol=1e-5)


def test_a_hole_and_a_second_part_are_joined_as_opencv_fills_them():
    mask = np.zeros((40, 60), bool)
    mask[4:13, 5:14] = RING
    mask[30:36, 40:50] = True
    text = make_yolo(trace_parts(CompressedMasks.from_dense(mask[None])), [0], mask.shape)
    points = np.array(text.split()[1:], float).reshape(-1, 2) * (600, 400)  # finer, so that bridges are thin
    drawn = cv2.fillPoly(np.zeros((400, 600), np.uint8), [np.round(points).astype(np.int32)], 1)
    share = drawn.reshape(40, 10, 60, 10).mean((1, 3)) > 0.5
    np.testing.assert_array_equal(share, mask)


def test_outlines_beyond_the_image_are_cut_off_and_polygons_that_overlap_are_united():
    outside = parts_of([[-5, -5, 20, -5, 20, 10, -5, 10]], (30, 40))
    (found,) = parse_yolo(make_yolo([outside], [0], (30, 40)), (30, 40), "labels")
    assert masks_of([found], (30, 40)).sum() == 200
    both = parts_of([[0, 0, 10, 0, 10, 10, 0, 10], [5, 5, 15, 5, 15, 15, 5, 15]], (30, 40))
    (found,) = parse_yolo(make_yolo([both], [0], (30, 40)), (30, 40), "labels")
    assert masks_of([found], (30, 40)).sum() == 175


def test_boxes_confidences_and_empty_lines_are_read():
    text = "3 0.5 0.5 0.2 0.4\n\n0 0.5 0.5 1 1 0.93\n1 0 0 1 0 1 1 0.5\n"
    box, scored, outline = parse_yolo(text, (50, 100), "labels")
    assert (box.name, box.box, box.segmentation) == ("3", (40, 15, 60, 35), None)
    assert scored.box == (0, 0, 100, 50)
    assert outline.segmentation == [[0, 0, 100, 0, 100, 50]]
    assert parse_yolo("", (50, 100), "labels") == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("cat 0.1 0.1 0.2 0.2", "line 1: 'cat' is no number"),
        ("0 0.1 0.1", "line 1: has 2 numbers after the class"),
        ("1.5 0.1 0.1 0.2 0.2", "line 1: begins with 1.5"),
        ("-1 0.1 0.1 0.2 0.2", "line 1: begins with -1"),
        ("0 10 20 30 20 30 40", "line 1: has the coordinate 40, but YOLO's are fractions"),
        ("0 nan 0.1 0.2 0.2", "line 1: has a number that is not finite"),
    ],
)
def test_a_line_that_is_no_object_is_named(line, says):
    with pytest.raises(AnnotationError, match=says):
        parse_yolo(line, (10, 10), "'a.txt'")


def test_names_come_back_from_the_yaml_that_pyyaml_reads():
    names = ["cat", "yes", "7", 'a "b": #c', "ñandú"]
    text = make_data_yaml(names)
    assert yaml.safe_load(text)["train"] == "images"
    assert parse_data_yaml(text, "data.yaml") == dict(enumerate(names))
    assert parse_data_yaml("names: [a, b]", "data.yaml") == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    "text", ["", "names:", "names: [", "a: b", "names: {a: b}", "!!python/object:os.system {}", "x"]
)
def test_yaml_without_names_is_refused(text):
    with pytest.raises(AnnotationError, match=r"data\.yaml"):
        parse_data_yaml(text, "data.yaml")
