"""Drawings: of the right size, where things are, in stable colors, at any size of picture."""

import lucid
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.visualization import _color, draw_detections, draw_target, viewing_scale

GREY = 90


def make(boxes, size, device="cpu", labels=None, categories=None):
    n = len(boxes)
    arrays = (
        np.array(boxes, np.float32).reshape(n, 4),
        np.linspace(0.95, 0.4, n).astype(np.float32),
        np.ones(n, np.int32) if labels is None else np.array(labels, np.int32),
        np.ones((n, 14, 14), np.float32),
    )
    return Detections(*(lucid.Tensor(a).to(device) for a in arrays), size, categories=categories)


def grey(size):
    return np.full((*size, 3), GREY, np.uint8)


def changed(picture):
    return (np.asarray(picture) != GREY).any(axis=-1)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (40, 300), (256, 256), (600, 900)])
@pytest.mark.parametrize("share", [None, 0.02, 0.5, 1])
def test_any_size_of_picture_and_object(size, share):
    height, width = size
    boxes = [] if share is None else [[0, 0, width * share, height * share]]
    picture = draw_detections(grey(size), make(boxes, size))
    assert (picture.mode, picture.size) == ("RGB", (width, height))


def test_each_part_is_drawn_where_it_is(device):
    found = make([[20, 30, 60, 70]], (100, 120), device)
    inner, outer = np.zeros((2, 100, 120), bool)
    inner[33:67, 23:57] = True
    outer[27:73, 17:63] = True  # a pasted mask may reach a pixel beyond its box
    nothing = {"masks": False, "boxes": False, "labels": False}
    assert not changed(draw_detections(grey((100, 120)), found, **nothing)).any()
    mask = changed(draw_detections(grey((100, 120)), found, **{**nothing, "masks": True}))
    assert mask[inner].all()
    assert not mask[~outer].any()
    box = changed(draw_detections(grey((100, 120)), found, **{**nothing, "boxes": True}))
    assert np.argwhere(box).min(axis=0).tolist() == [30, 20]
    assert np.argwhere(box).max(axis=0).tolist() == [69, 59]
    assert not box[inner].any()
    label = changed(draw_detections(grey((100, 120)), found, **{**nothing, "labels": True}))
    assert label.any()
    assert not label[30:70].any()  # there is room above


def test_alpha_goes_from_the_picture_to_the_color():
    found = make([[0, 0, 100, 100]], (100, 100))
    pixels = [
        np.asarray(draw_detections(grey((100, 100)), found, boxes=False, labels=False, alpha=alpha))[50, 50]
        for alpha in (0, 0.5, 1)
    ]
    assert pixels[0].tolist() == [GREY] * 3
    assert pixels[2].tolist() == list(_color(0))
    np.testing.assert_allclose(pixels[1], (pixels[0].astype(float) + pixels[2]) / 2, atol=1)


def test_the_first_detection_lies_on_top():
    found = make([[10, 10, 60, 60], [0, 0, 100, 100]], (100, 100))
    picture = draw_detections(grey((100, 100)), found, boxes=False, labels=False, alpha=1)
    assert picture.getpixel((35, 35)) == _color(0)
    assert picture.getpixel((80, 80)) == _color(1)


def test_colors_follow_the_instance_or_the_class():
    found = make([[0, 0, 30, 30], [40, 0, 70, 30], [0, 40, 30, 70]], (80, 80), labels=[5, 2, 5])
    options = {"boxes": False, "labels": False, "alpha": 1}
    centres = [(15, 15), (55, 15), (15, 55)]
    by_instance = draw_detections(grey((80, 80)), found, **options)
    assert [by_instance.getpixel(c) for c in centres] == [_color(0), _color(1), _color(2)]
    by_class = draw_detections(grey((80, 80)), found, color_by="class", **options)
    assert [by_class.getpixel(c) for c in centres] == [_color(5), _color(2), _color(5)]


def test_the_threshold_hides_detections_and_keeps_the_colors_of_others():
    found = make([[0, 0, 30, 30], [40, 0, 70, 30]], (80, 80))[[1, 0]]  # the weaker first
    picture = draw_detections(grey((80, 80)), found, score_thresh=0.5, labels=False, alpha=1)
    assert picture.getpixel((55, 15)) == (GREY,) * 3
    assert picture.getpixel((15, 15)) == _color(1)


def test_neighbouring_colors_differ():
    colors = np.array([_color(i) for i in range(60)], int)
    distance = np.abs(colors[:, None] - colors).sum(axis=-1)
    near = np.abs(np.arange(60)[:, None] - np.arange(60))
    assert distance[near > 0].min() >= 8
    assert distance[(near > 0) & (near < 5)].min() >= 90
    assert _color(0) == (249, 139, 36)  # the same in every run


def test_scale_enlarges_the_picture_with_finer_contours():
    found = make([[5, 5, 20, 20]], (32, 40))
    picture = draw_detections(grey((32, 40)), found, scale=4, labels=False)
    assert picture.size == (160, 128)
    rows, columns = np.nonzero(changed(picture))
    assert abs(rows.min() - 20) <= 3
    assert abs(columns.max() - 80) <= 3


@pytest.mark.parametrize(
    ("size", "scale"), [((1, 1), 4), ((256, 256), 3), ((256, 320), 2), ((401, 9), 1), ((2000, 3000), 1)]
)
def test_small_pictures_are_enlarged_to_be_looked_at(size, scale):
    assert viewing_scale(size) == scale


def test_labels_do_not_cover_each_other_and_stay_in_the_picture():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 240, (60, 2))
    found = make(np.concatenate([corners, corners + 16], axis=1), (256, 256), categories={1: "nucleus"})
    picture = draw_detections(grey((256, 256)), found, masks=False, boxes=False)
    # Labels never overlap, so every one that is drawn keeps its own four corners.
    assert 10 < sum(changed(picture).ravel()) / (9 * 20) < 60


def test_the_picture_given_is_not_modified(tmp_path):
    found = make([[5, 5, 20, 20]], (32, 40))
    pixels = grey((32, 40))
    picture = Image.fromarray(pixels.copy())
    picture.save(tmp_path / "a.png")
    drawn = [draw_detections(source, found) for source in (pixels, picture, tmp_path / "a.png")]
    assert (pixels == GREY).all()
    assert (np.asarray(picture) == GREY).all()
    assert drawn[0].tobytes() == drawn[1].tobytes() == drawn[2].tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_by": "score"}, "'instance' or 'class', got 'score'"),
        ({"alpha": 2}, "alpha must be between 0 and 1, got 2"),
        ({"scale": 0}, "scale must be a whole number"),
        ({"scale": 1.5}, "scale must be a whole number"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        draw_detections(grey((32, 40)), make([], (32, 40)), **options)


# ------------------------------------------------------------------ annotations


@pytest.mark.parametrize("scale", [1, 3])
def test_annotations_are_drawn_where_they_are(scale):
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 20:40, 30:50] = True
    target = {"boxes": [[25, 15, 55, 45]], "labels": [2], "masks": mask}
    picture = draw_target(grey((60, 80)), target, categories={2: "cat"}, scale=scale)
    assert picture.size == (80 * scale, 60 * scale)
    drawn = changed(picture)
    assert drawn[mask[0].repeat(scale, 0).repeat(scale, 1)].all()
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == tuple(scale * n for n in (15, 45, 25, 55))
    named = changed(draw_target(grey((60, 80)), target, categories={1: "dog", 2: "cat"}, scale=scale))
    assert named.sum() > drawn.sum()


def test_annotations_without_objects_leave_the_picture():
    nothing = {"boxes": np.zeros((0, 4)), "labels": [], "masks": []}
    assert not changed(draw_target(grey((20, 30)), nothing)).any()


def test_annotations_of_another_size_are_refused():
    with pytest.raises(ValueError, match="image's size, 20 × 30"):
        draw_target(grey((20, 30)), {"boxes": [], "labels": [], "masks": np.zeros((1, 30, 20), bool)})
