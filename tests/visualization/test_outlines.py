"""Outlines: on the mask's border, thin, smooth, and there for the smallest objects."""

import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.visualization import draw_masks
from lucid_maskrcnn.visualization.outlines import paint_masks

RED = (255, 0, 0)


def black(height, width):
    return Image.new("RGB", (width, height))


def disk(side, radius):
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    return np.hypot(x, y) <= radius


def painted(mask, *, alpha=0.0, thickness=2.0, zoom=1):
    image = black(mask.shape[0] * zoom, mask.shape[1] * zoom)
    paint_masks(image, CompressedMasks.from_dense(mask[None]), [RED], alpha, thickness)
    return np.asarray(image)[..., 0].astype(float) / 255


@pytest.mark.parametrize(("size", "count"), [((20, 31), 1), ((20, 30), 2)])
def test_draw_masks_needs_masks_of_the_image_and_a_color_each(size, count):
    masks = CompressedMasks.from_dense(np.ones((1, *size), bool))
    with pytest.raises(ValueError, match=r"image's size \(20, 30\) and have one color each"):
        draw_masks(black(20, 30), masks, [(1, 2, 3)] * count, 0.5, 1)


@pytest.mark.parametrize("thickness", [1, 2, 3.5, 6])
@pytest.mark.parametrize(("radius", "zoom"), [(30, 1), (60, 1), (20, 3)])
def test_an_outline_follows_the_border_and_has_its_width(thickness, radius, zoom):
    side = 2 * radius + 16
    line = painted(disk(side, radius), thickness=thickness, zoom=zoom)
    y, x = np.mgrid[: side * zoom, : side * zoom] + 0.5 - side * zoom / 2
    inward = radius * zoom - np.hypot(x, y)
    assert line[(inward > thickness + 1.5) | (inward < -2)].max() == 0
    # Its area, spread over the length of the middle of the line, is its width.
    length = 2 * np.pi * (radius * zoom - thickness / 2 + 0.5)
    assert line.sum() / length == pytest.approx(thickness, rel=0.12)


@pytest.mark.parametrize(("radius", "zoom", "most"), [(40, 1, 0.35), (12, 4, 0.6)])
def test_an_outline_has_no_steps(radius, zoom, most):
    """Along a circle, the line's middle keeps its distance, where the mask's own border has steps of its pixels."""
    side = 2 * radius + 12
    mask = disk(side, radius)
    line = painted(mask, thickness=2, zoom=zoom)
    y, x = np.mgrid[: side * zoom, : side * zoom] + 0.5 - side * zoom / 2
    distance, angle = np.hypot(x, y), np.floor((np.arctan2(y, x) / np.pi + 1) * 60).astype(int)
    smooth = [np.average(distance[angle == k], weights=line[angle == k]) for k in range(120)]
    steps = mask.repeat(zoom, 0).repeat(zoom, 1)
    rough = [distance[(angle == k) & steps].max() for k in range(120)]
    assert np.std(smooth) < most
    assert np.std(smooth) < np.std(rough) / 1.5


def test_holes_have_outlines():
    ring = disk(80, 36) & ~disk(80, 18)
    line = painted(ring)
    y, x = np.mgrid[:80, :80] + 0.5 - 40
    distance = np.hypot(x, y)
    assert line[np.abs(distance - 19) < 0.5].min() > 0.4
    assert line[distance < 15].max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3)])
def test_the_smallest_objects_are_seen(shape):
    mask = np.zeros((15, 15), bool)
    mask[3 : 3 + shape[0], 3 : 3 + shape[1]] = True
    for thickness in (1, 3):
        assert painted(mask, thickness=thickness)[mask].mean() > 0.5
    assert painted(mask, alpha=1.0, thickness=0)[mask].min() == 1


def test_a_thin_diagonal_line_is_seen():
    line = painted(np.eye(40, dtype=bool))
    assert line[np.eye(40, dtype=bool)].min() > 0.4


def test_masks_at_the_edge_and_empty_ones_are_drawn():
    assert painted(np.ones((20, 30), bool))[[0, -1]].min() > 0.5
    assert painted(np.zeros((20, 30), bool)).max() == 0


def test_areas_are_as_opaque_as_asked():
    inside = disk(60, 15)
    for alpha in (0, 0.25, 1):
        np.testing.assert_allclose(painted(disk(60, 26), alpha=alpha)[inside], alpha, atol=0.005)


def test_no_width_draws_no_outline():
    assert painted(disk(60, 26), thickness=0).max() == 0
