"""Drawings: of the right size, where things are, in stable colors, at any size of image."""

import lucid
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.visualization import color_of, draw_detections, draw_target, viewing_scale

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


def draw(image, found, **options):
    return found.draw(image, **{"score_thresh": 0, "scale": 1, **options})


def grey(size):
    return np.full((*size, 3), GREY, np.uint8)


def changed(drawn):
    return (np.asarray(drawn) != GREY).any(axis=-1)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (40, 300), (256, 256), (600, 900)])
@pytest.mark.parametrize("fraction", [None, 0.02, 0.5, 1])
def test_any_size_of_image_and_object(size, fraction):
    height, width = size
    boxes = [] if fraction is None else [[0, 0, width * fraction, height * fraction]]
    drawn = draw(grey(size), make(boxes, size))
    assert (drawn.mode, drawn.size) == ("RGB", (width, height))


def test_each_part_is_drawn_where_it_is(device):
    found = make([[20, 30, 60, 70]], (100, 120), device)
    inner, outer = np.zeros((2, 100, 120), bool)
    inner[33:67, 23:57] = True
    outer[27:73, 17:63] = True  # a pasted mask may reach a pixel beyond its box
    nothing = {"masks": False, "boxes": False, "labels": False}
    assert not changed(draw(grey((100, 120)), found, **nothing)).any()
    mask = changed(draw(grey((100, 120)), found, **{**nothing, "masks": True}))
    assert mask[inner].all()
    assert not mask[~outer].any()
    box = changed(draw(grey((100, 120)), found, **{**nothing, "boxes": True}))
    assert np.argwhere(box).min(axis=0).tolist() == [30, 20]
    assert np.argwhere(box).max(axis=0).tolist() == [69, 59]
    assert not box[inner].any()
    label = changed(draw(grey((100, 120)), found, **{**nothing, "labels": True}))
    assert label.any()
    assert not label[30:70].any()  # there is room above


def test_alpha_goes_from_the_image_to_thecolor_of():
    found = make([[0, 0, 100, 100]], (100, 100))
    pixels = [
        np.asarray(draw(grey((100, 100)), found, boxes=False, labels=False, alpha=alpha))[50, 50]
        for alpha in (0, 0.5, 1)
    ]
    assert pixels[0].tolist() == [GREY] * 3
    assert pixels[2].tolist() == list(color_of(0))
    np.testing.assert_allclose(pixels[1], (pixels[0].astype(float) + pixels[2]) / 2, atol=1)


def test_the_first_detection_lies_on_top():
    found = make([[10, 10, 60, 60], [0, 0, 100, 100]], (100, 100))
    drawn = draw(grey((100, 100)), found, boxes=False, labels=False, alpha=1)
    assert drawn.getpixel((35, 35)) == color_of(0)
    assert drawn.getpixel((80, 80)) == color_of(1)


def test_colors_follow_the_instance_or_the_class():
    found = make([[0, 0, 30, 30], [40, 0, 70, 30], [0, 40, 30, 70]], (80, 80), labels=[5, 2, 5])
    options = {"boxes": False, "labels": False, "alpha": 1}
    centers = [(15, 15), (55, 15), (15, 55)]
    by_instance = draw(grey((80, 80)), found, **options)
    assert [by_instance.getpixel(c) for c in centers] == [color_of(0), color_of(1), color_of(2)]
    by_class = draw(grey((80, 80)), found, color_by="class", **options)
    assert [by_class.getpixel(c) for c in centers] == [color_of(5), color_of(2), color_of(5)]


def test_the_threshold_hides_detections_and_keeps_the_colors_of_others():
    found = make([[0, 0, 30, 30], [40, 0, 70, 30]], (80, 80))[[1, 0]]  # the weaker first
    drawn = draw(grey((80, 80)), found, score_thresh=0.5, labels=False, alpha=1)
    assert drawn.getpixel((55, 15)) == (GREY,) * 3
    assert drawn.getpixel((15, 15)) == color_of(1)


def test_scale_enlarges_the_image_with_finer_contours():
    found = make([[5, 5, 20, 20]], (32, 40))
    drawn = draw(grey((32, 40)), found, scale=4, labels=False)
    assert drawn.size == (160, 128)
    rows, columns = np.nonzero(changed(drawn))
    assert abs(rows.min() - 20) <= 3
    assert abs(columns.max() - 80) <= 3


@pytest.mark.parametrize(
    ("size", "scale"), [((1, 1), 4), ((64, 64), 4), ((256, 256), 3), ((256, 320), 2), ((401, 9), 1), ((2000, 3000), 1)]
)
def test_small_images_are_enlarged_to_be_looked_at(size, scale):
    assert viewing_scale(size) == scale


@pytest.mark.parametrize(
    ("size", "error"), [(None, TypeError), ("ab", TypeError), ((0, 5), ValueError), ((5, 5, 3), ValueError)]
)
def test_viewing_scale_needs_a_size(size, error):
    with pytest.raises(error, match="size"):
        viewing_scale(size)


def test_the_image_given_is_not_modified(tmp_path):
    found = make([[5, 5, 20, 20]], (32, 40))
    pixels = grey((32, 40))
    image = Image.fromarray(pixels.copy())
    image.save(tmp_path / "a.png")
    drawn = [draw(source, found) for source in (pixels, image, tmp_path / "a.png")]
    assert (pixels == GREY).all()
    assert (np.asarray(image) == GREY).all()
    assert drawn[0].tobytes() == drawn[1].tobytes() == drawn[2].tobytes()


# ------------------------------------------------------------------ arrays

BOXES = [[5, 5, 20, 20], [8, 8, 30, 30]]


def test_arrays_are_drawn_as_their_detections_are(device):
    found = make(BOXES, (32, 40), device, categories={1: "cell", 2: "dog"}, labels=[2, 1])
    arrays = {"boxes": found.boxes, "labels": found.labels, "scores": found.scores, "masks": found.masks}
    for options in ({}, {"alpha": 0.9, "show_boxes": False}, {"show_labels": False, "palette": "red", "line_width": 2}):
        theirs = {name.removeprefix("show_"): value for name, value in options.items()}
        drawn = draw_detections(grey((32, 40)), **arrays, categories=found.categories, scale=1, **options)
        assert drawn.tobytes() == draw(grey((32, 40)), found, **theirs).tobytes()


def test_boxes_alone_are_drawn_without_captions_and_masks():
    drawn = changed(draw_detections(grey((32, 40)), boxes=BOXES[:1], scale=1))
    assert np.argwhere(drawn).min(axis=0).tolist() == [5, 5]
    assert np.argwhere(drawn).max(axis=0).tolist() == [19, 19]
    assert not drawn[6:19, 6:19].any()


def test_equal_color_ids_give_equal_colors():
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:20, 5:20] = masks[1, 5:20, 40:55] = True
    drawn = draw_detections(
        grey((40, 60)), boxes=[[5, 5, 20, 20], [40, 5, 55, 20]], masks=masks, color_ids=[3, 3], alpha=1, scale=1
    )
    assert drawn.getpixel((12, 12)) == drawn.getpixel((48, 12)) == color_of(3)


def test_masks_of_the_enlarged_size_are_drawn_as_they_are():
    fine = np.zeros((1, 40, 60), bool)
    fine[0, 11, 13] = True
    masks = CompressedMasks.from_dense(fine)
    drawn = changed(draw_detections(grey((20, 30)), boxes=[[0, 0, 1, 1]], masks=masks, show_boxes=False, scale=2))
    assert drawn[11, 13]
    assert not drawn[np.abs(np.mgrid[:40, :60] - np.array([11, 13])[:, None, None]).max(axis=0) > 1].any()


def test_boxes_far_outside_are_drawn_without_warnings():
    drawn = draw_detections(grey((20, 30)), boxes=[[-1e30, -1e30, 1e30, 10]], labels=[1], scale=1)
    assert changed(drawn)[9].all()


@pytest.mark.parametrize("size", [(20, 30), (40, 60)])
def test_masks_of_another_size_are_refused(size):
    with pytest.raises(ValueError, match=r"masks must be of the image's size, 30 × 20"):
        draw_detections(grey((30, 20)), boxes=[[0, 0, 1, 1]], masks=np.ones((1, *size), bool))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"boxes": None}, TypeError, r"boxes must be numbers of shape \(n, 4\), got None"),
        ({"boxes": [[1, 2, 3]]}, ValueError, r"boxes .* got int64 of shape \(1, 3\)"),
        ({"boxes": [["1", "2", "3", "4"]]}, TypeError, "boxes must be numbers"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, np.nan, 1]]}, ValueError, r"boxes\[1\] = \(0, 0, nan, 1\) is not finite"),
        ({"boxes": [[0, 0, np.inf, 1], [0, 0, 1, 1]]}, ValueError, r"boxes\[0\] = .* is not finite"),
        ({"labels": [1]}, ValueError, r"labels must be integers of shape \(2,\), one for each box"),
        ({"labels": [1.0, 2.0]}, TypeError, "labels must be integers"),
        ({"labels": ["a", "b"]}, TypeError, "labels must be integers"),
        ({"scores": [0.5]}, ValueError, r"scores must be numbers of shape \(2,\)"),
        ({"scores": "high"}, TypeError, "scores must be numbers"),
        ({"masks": np.ones((1, 32, 40), bool)}, ValueError, "masks must be one for each box, got 1 masks for 2 boxes"),
        ({"masks": "a.png"}, TypeError, "masks must be CompressedMasks"),
        ({"color_ids": [1]}, ValueError, r"color_ids must be integers of shape \(2,\)"),
        ({"color_ids": ["red", "blue"]}, TypeError, "color_ids must be integers"),
        ({"categories": ["a"]}, TypeError, "categories must map labels to names"),
        ({"categories": {0: "a"}}, ValueError, "label of categories must be a positive integer, got 0"),
        ({"categories": {"1": "a"}}, TypeError, "label of categories must be a positive integer, got '1'"),
        ({"categories": {1: 2}}, TypeError, "name of label 1 in categories must be a string"),
        ({"show_boxes": 1}, TypeError, "show_boxes must be True or False"),
        ({"show_labels": None}, TypeError, "show_labels must be True or False"),
        ({"alpha": 2}, ValueError, "alpha must be a number between 0 and 1, got 2"),
        ({"alpha": "0.5"}, TypeError, "alpha must be a number between 0 and 1, got '0.5'"),
        ({"alpha": True}, TypeError, "alpha must be a number"),
        ({"scale": 0}, ValueError, "scale must be an integer from 1 to 64, got 0"),
        ({"scale": 1.5}, TypeError, "scale must be an integer from 1 to 64, got 1.5"),
        ({"scale": "2"}, TypeError, "scale must be an integer from 1 to 64, got '2'"),
        ({"palette": 7}, TypeError, "palette must be a sequence, got 7"),
        ({"palette": []}, ValueError, "palette must have at least one value"),
        ({"palette": ["ocher"]}, ValueError, r"palette\[0\] must be a color such as 'orange', .* got 'ocher'"),
        ({"palette": [(300, 0, 0)]}, ValueError, r"palette\[0\]\[0\] must be an integer from 0 to 255, got 300"),
        ({"palette": "ocher"}, ValueError, "palette must be a color such as 'orange', .* got 'ocher'"),
        ({"line_width": -1}, ValueError, "line_width must be a number from 0 to 65536, got -1"),
        ({"line_width": "thin"}, TypeError, "line_width must be a number from 0"),
        ({"font": 7}, TypeError, "font must be a path as str or Path, got 7"),
        ({"font": "none.ttf"}, ValueError, "font must be a TrueType or OpenType file, but 'none.ttf' is none"),
        ({"font_size": 0}, ValueError, "font_size must be an integer from 1 to 4096, got 0"),
        ({"font_size": "big"}, TypeError, "font_size must be an integer from 1"),
    ],
)
def test_wrong_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        draw_detections(grey((32, 40)), **{"boxes": BOXES, **options})


@pytest.mark.parametrize("numpy_scalars", [{"scale": np.int64(2)}, {"alpha": np.float32(0.5)}])
def test_numpy_scalars_are_numbers(numpy_scalars):
    assert draw_detections(grey((32, 40)), boxes=BOXES, **numpy_scalars).mode == "RGB"


# ------------------------------------------------------------------ annotations


@pytest.mark.parametrize("scale", [1, 3])
def test_annotations_are_drawn_where_they_are(scale):
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 20:40, 30:50] = True
    target = {"boxes": [[25, 15, 55, 45]], "labels": [2], "masks": mask}
    drawn = draw_target(grey((60, 80)), target, categories={2: "cat"}, scale=scale)
    assert drawn.size == (80 * scale, 60 * scale)
    pixels = changed(drawn)
    assert pixels[mask[0].repeat(scale, 0).repeat(scale, 1)].all()
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == tuple(scale * n for n in (15, 45, 25, 55))
    named = changed(draw_target(grey((60, 80)), target, categories={1: "dog", 2: "cat"}, scale=scale))
    assert named.sum() > pixels.sum()


def test_annotations_without_objects_leave_the_image():
    nothing = {"boxes": np.zeros((0, 4)), "labels": [], "masks": []}
    assert not changed(draw_target(grey((20, 30)), nothing)).any()


def test_annotations_of_another_size_are_refused():
    with pytest.raises(ValueError, match="image's size, 20 × 30"):
        draw_target(grey((20, 30)), {"boxes": [], "labels": [], "masks": np.zeros((1, 30, 20), bool)})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": np.ones((2, 20, 30), bool)}, ValueError, "masks must be one for each box, got 2 masks for 1 boxes"),
        ({"labels": [1, 2]}, ValueError, r"labels must be integers of shape \(1,\)"),
        ({"boxes": [[0, 0, np.nan, 5]]}, ValueError, r"boxes\[0\] = .* is not finite"),
        ({"masks": None}, ValueError, "target has no 'masks'"),
        ({"labels": None}, ValueError, "target has no 'labels'"),
        ({"labels": "a"}, TypeError, "labels must be integers"),
    ],
)
def test_wrong_targets_are_named(change, error, message):
    target = {"boxes": [[0, 0, 5, 5]], "labels": [1], "masks": np.ones((1, 20, 30), bool)}
    with pytest.raises(error, match=message):
        draw_target(grey((20, 30)), target | change)


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        ({"boxes": [], "labels": []}, {}, ValueError, r"target has no 'masks': it has \['boxes', 'labels'\]"),
        ({}, {}, ValueError, "target has no 'boxes' and no 'labels' and no 'masks'"),
        (None, {}, TypeError, "target must be a mapping .* got None"),
        ([1], {}, TypeError, "target must be a mapping"),
        (
            {"boxes": [], "labels": [], "masks": []},
            {"color_by": "score"},
            ValueError,
            "'instance', 'class', got 'score'",
        ),
        ({"boxes": [], "labels": [], "masks": []}, {"boxes": 0}, TypeError, "boxes must be True or False"),
        ({"boxes": [], "labels": [], "masks": []}, {"labels": "no"}, TypeError, "labels must be True or False"),
        ({"boxes": [], "labels": [], "masks": []}, {"alpha": -1}, ValueError, "alpha must be"),
    ],
)
def test_wrong_arguments_of_draw_target_are_named(target, options, error, message):
    with pytest.raises(error, match=message):
        draw_target(grey((20, 30)), target, **options)
