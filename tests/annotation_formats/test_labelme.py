"""LabelMe's files: read as LabelMe draws them, written so that every pixel comes back."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from lucid_maskrcnn.annotation_formats.labelme import make_labelme, parse_labelme
from lucid_maskrcnn.annotation_formats.records import AnnotationError
from lucid_maskrcnn.masks import CompressedMasks, trace_parts

SIZE = (40, 60)


def file_of(*shapes, **keys):
    return {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "a.jpg", "imageData": None,
            "imageHeight": SIZE[0], "imageWidth": SIZE[1], **keys}  # fmt: skip


def shape(points, kind="polygon", label="cat", group=None, **keys):
    return {"label": label, "points": points, "group_id": group, "description": "", "shape_type": kind, "flags": {},
            "mask": None, **keys}  # fmt: skip


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def masks_of(record):
    return np.asarray(CompressedMasks.from_coco([o.segmentation for o in record.objects], record.size))


@settings(max_examples=60, deadline=None)
@given(masks=arrays(bool, st.tuples(st.just(2), st.integers(1, 20), st.integers(1, 20))))
def test_any_masks_come_back_pixel_for_pixel(masks):
    size = masks.shape[1:]
    parts = trace_parts(CompressedMasks.from_dense(masks))
    content = json.loads(json.dumps(make_labelme(parts, ["cat", "dog"], size, file_name="b/a.jpg")))
    record = parse_labelme(content, "a.json")
    kept = masks.any(axis=(1, 2))
    assert (record.file_name, record.size) == ("b/a.jpg", size)
    assert [o.name for o in record.objects] == [n for n, k in zip(["cat", "dog"], kept, strict=True) if k]
    np.testing.assert_array_equal(masks_of(record), masks[kept])


def test_an_object_with_a_hole_is_a_mask_of_the_pixels_that_labelme_pastes():
    mask = np.zeros(SIZE, bool)
    mask[10:20, 5:25] = True
    mask[12:15, 8:12] = False
    (found,) = make_labelme(
        trace_parts(CompressedMasks.from_dense(mask[None])), ["cat"], SIZE, file_name="a.jpg", scores=[0.51237]
    )["shapes"]
    assert (found["shape_type"], found["group_id"], found["score"]) == ("mask", 1, 0.5124)
    (x1, y1), (x2, y2) = found["points"]
    pasted = np.zeros(SIZE, bool)  # as LabelMe's canvas does: the second point is a pixel of the mask
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask"]))))
    pasted[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = pixels.astype(bool)
    np.testing.assert_array_equal(pasted, mask)


def test_shapes_of_one_group_are_one_object_and_those_without_are_several():
    square = [[0, 0], [10, 0], [10, 10], [0, 10]]
    other = [[20, 20], [30, 20], [30, 30], [20, 30]]
    one = parse_labelme(file_of(shape(square, group=3), shape(other, group=3)), "a.json")
    assert [len(o.segmentation) for o in one.objects] == [2]
    assert len(parse_labelme(file_of(shape(square), shape(other)), "a.json").objects) == 2
    of_two_labels = file_of(shape(square, group=3), shape(other, group=3, label="dog"))
    assert [o.name for o in parse_labelme(of_two_labels, "a.json").objects] == ["cat", "dog"]


def test_a_mask_and_a_polygon_of_one_group_are_united():
    pixels = np.ones((4, 6), np.uint8)
    mask = shape([[50, 30], [55, 33]], "mask", group=1, mask=png(pixels))
    square = shape([[0, 0], [10, 0], [10, 10], [0, 10]], group=1)
    record = parse_labelme(file_of(square, mask), "a.json")
    assert masks_of(record).sum(axis=(1, 2)).tolist() == [124]


def test_circles_rectangles_and_points():
    content = file_of(
        shape([[30, 20], [40, 20]], "circle"), shape([[5, 25], [2, 20]], "rectangle"), shape([[1, 1]], "point"),
        shape([[1, 1], [2, 2]], "line"),
    )  # fmt: skip
    record = parse_labelme(content, "a.json")
    drawn = Image.new("L", SIZE[::-1])
    ImageDraw.Draw(drawn).ellipse([20, 10, 40, 30], fill=1)
    circle, box = record.objects
    mask = np.asarray(CompressedMasks.from_coco([circle.segmentation], SIZE))[0]
    assert abs(int(mask.sum()) - np.pi * 100) < 5
    assert (mask & ~(np.asarray(drawn) > 0)).sum() <= 2  # at its four ends
    assert (box.box, box.segmentation) == ((2, 20, 5, 25), None)
    assert record.skipped == ["point", "line"]


def test_windows_paths_have_slashes():
    assert parse_labelme(file_of(imagePath="..\\images\\a.jpg"), "a.json").file_name == "../images/a.jpg"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "no list of 'shapes'"),
        ({"shapes": 3}, "no list of 'shapes'"),
        (file_of(imagePath=None), "imagePath"),
        (file_of(imageHeight=0), "imageHeight"),
        (file_of(imageHeight="40"), "imageHeight"),
        (file_of(7), r"shapes\[0\] must be a mapping"),
        (file_of(shape([[0, 0], [1, 1], [2, 0]], label="")), r"shapes\[0\] must have a label"),
        (file_of(shape([[0, 0], [1, 1]])), r"shapes\[0\] is a polygon of 2 points"),
        (file_of(shape([[0, 0], [1]])), r"shapes\[0\] must have 'points'"),
        (file_of(shape(None)), r"shapes\[0\] must have 'points'"),
        (file_of(shape([["a", "b"]] * 3)), r"shapes\[0\] must have 'points'"),
        (file_of(shape([[0, 0], [1e9, 1], [2, 0]])), r"shapes\[0\] has a coordinate"),
        (file_of(shape([[0, 0]], "circle")), r"shapes\[0\] is a 'circle' of 1 points"),
        (file_of(shape([[0, 0], [1, 1]], "mask", mask="???")), r"shapes\[0\] has a mask that is no PNG"),
        (file_of(shape([[0, 0], [1, 1]], "mask")), r"shapes\[0\] has a mask that is no PNG"),
        (file_of(shape([[58, 0], [1, 1]], "mask", mask=png(np.ones((4, 6), np.uint8)))), "not inside the image"),
    ],
)
def test_what_labelme_would_not_write_is_named(content, says):
    with pytest.raises(AnnotationError, match=says):
        parse_labelme(content, "'a.json'")
