"""Colors: the same in every run, far from each other, and clear on what they are drawn on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lucid_maskrcnn
from lucid_maskrcnn.visualization import color_of
from lucid_maskrcnn.visualization.colors import colors_of, contrast, lab, rgb

ASSETS = Path(lucid_maskrcnn.__file__).parent / "assets"
VIOLET, LILAC = (120, 70, 160), (185, 160, 205)


def test_neighbouring_colors_differ():
    colors = np.array([color_of(i) for i in range(60)], int)
    distance = np.abs(colors[:, None] - colors).sum(axis=-1)
    near = np.abs(np.arange(60)[:, None] - np.arange(60))
    assert distance[near > 0].min() >= 8
    assert distance[(near > 0) & (near < 5)].min() >= 90
    assert color_of(0) == (249, 139, 36)  # the same in every run


@pytest.mark.parametrize("number", [None, "1", 1.5, True, [1]])
def test_color_of_takes_an_integer(number):
    assert color_of(np.int64(0)) == color_of(0)
    with pytest.raises(TypeError, match="number must be an integer"):
        color_of(number)


def test_lab_of_known_colors():
    given = np.array([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)])
    wanted = [(100, 0, 0), (0, 0, 0), (53.2, 80.1, 67.2), (32.3, 79.2, -107.9)]
    np.testing.assert_allclose(lab(given), wanted, atol=0.3)


def squares(ground, objects):
    """Return an image of 100 squares on a background, and their boxes."""
    pixels = np.full((220, 220, 3), ground, np.uint8)
    corners = np.stack(np.meshgrid(np.arange(10, 210, 20), np.arange(10, 210, 20)), axis=-1).reshape(-1, 2)
    for x, y in corners.tolist():
        pixels[y : y + 12, x : x + 12] = objects
    return pixels, np.concatenate([corners, corners + 12], axis=1).astype(np.float32)


GROUNDS = {
    "lilac histology": (LILAC, VIOLET),
    "dark fluorescence": ((8, 8, 8), (90, 90, 90)),
    "bright nuclei": ((8, 8, 8), (230, 230, 230)),
    "gray": ((128, 128, 128), (128, 128, 128)),
    "white": ((255, 255, 255), (240, 240, 240)),
    "grass": ((70, 120, 50), (200, 30, 30)),
    "blue sky": ((90, 150, 220), (250, 250, 250)),
}


@pytest.mark.parametrize("name", GROUNDS)
def test_colors_stand_out_from_the_object_and_from_what_is_around_it(name):
    ground, objects = GROUNDS[name]
    pixels, boxes = squares(ground, objects)
    colors = lab(np.array(colors_of(pixels, boxes, np.arange(100))))
    both = lab(np.array([ground, objects]))
    assert contrast(colors[:, None], both).min() >= 30
    distance = np.sqrt(((colors[:, None] - both) ** 2).sum(axis=-1))  # ΔE of 1976
    assert distance.min() >= 30


def test_the_colors_of_numbers_alone_would_vanish_on_lilac():
    grounds = lab(np.array([VIOLET, LILAC]))
    plain = lab(np.array([color_of(i) for i in range(100)]))
    assert contrast(plain[:, None], grounds).min() < 15


def test_objects_of_a_histology_image_have_clear_colors():
    pixels = np.asarray(Image.open(ASSETS / "nuclei_histology_lilac.png").convert("RGB"))
    corners = np.stack(np.meshgrid(np.arange(0, 300, 30), np.arange(0, 240, 30)), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + 20], axis=1).astype(np.float32)
    colors = lab(np.array(colors_of(pixels, boxes, np.arange(len(boxes)))))
    for color, (x1, y1, x2, y2) in zip(colors, boxes.astype(int).tolist(), strict=True):
        inside = lab(pixels[y1:y2, x1:x2]).reshape(-1, 3).mean(axis=0)
        assert contrast(color, inside) > 28


def test_colors_that_are_clear_stay_those_of_their_numbers():
    pixels, boxes = squares((8, 8, 8), (90, 90, 90))
    colors = colors_of(pixels, boxes, np.arange(100))
    assert sum(color == color_of(i) for i, color in enumerate(colors)) > 60
    assert len(set(colors[:12])) == 12


def test_a_color_does_not_depend_on_the_other_objects():
    pixels, boxes = squares(LILAC, VIOLET)
    all_of_them = colors_of(pixels, boxes, np.arange(100))
    assert colors_of(pixels, boxes[40:43], np.arange(40, 43)) == all_of_them[40:43]


@pytest.mark.parametrize("name", GROUNDS)
def test_classes_have_colors_that_are_told_apart(name):
    pixels, boxes = squares(*GROUNDS[name])
    colors = lab(np.array(colors_of(pixels, boxes[:7], np.arange(1, 8))))
    distance = np.sqrt(((colors[:, None] - colors) ** 2).sum(axis=-1))
    assert distance[~np.eye(7, dtype=bool)].min() >= 15
    assert distance[:4, :4][~np.eye(4, dtype=bool)].min() >= 25


def test_objects_of_one_number_have_one_color():
    pixels, boxes = squares(LILAC, VIOLET)
    assert len(set(colors_of(pixels, boxes, np.full(100, 4)))) == 1


@pytest.mark.parametrize(
    "box", [[-50, -50, -10, -10], [900, 900, 950, 950], [0, 0, 220, 220], [5, 5, 5, 5], [9, 9, 1, 1]]
)
def test_any_box_has_a_color(box):
    pixels, _ = squares(LILAC, VIOLET)
    assert len(colors_of(pixels, np.array([box], np.float32), np.arange(1))) == 1
    assert colors_of(pixels, np.zeros((0, 4), np.float32), np.arange(0)) == []


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("orange", (255, 165, 0)), ("#ff8800", (255, 136, 0)), ("#f80", (255, 136, 0)), ([1, np.int64(2), 3], (1, 2, 3))],
)
def test_colors_are_given_in_several_ways(value, wanted):
    assert rgb("palette", value) == wanted
