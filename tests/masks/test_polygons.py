"""Polygons to pixels: by hand, and byte for byte against pycocotools."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.polygons import MAX_COORDINATE, check_polygon, fill_polygons, trace_polygons
from lucid_maskrcnn.ops import as_tensor

# pycocotools' arrays do not know the copy keyword of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
coordinates = st.one_of(
    st.floats(-15, 55, width=32),
    st.integers(-5, 45).map(float),
    st.integers(-20, 90).map(lambda n: n / 2),
    st.integers(-50, 450).map(lambda n: n / 10),
)
polygons = st.lists(coordinates, min_size=6, max_size=24).map(lambda p: p[: len(p) // 2 * 2])


def filled(polygon, size):
    """Return the pixels of one polygon as rows of # and dots."""
    _, starts, stops = fill_polygons([check_polygon(polygon)], size)
    pixels = np.zeros(size[0] * size[1], bool)
    for start, stop in zip(starts, stops, strict=True):
        pixels[start:stop] = True
    return ["".join(".#"[int(p)] for p in row) for row in pixels.reshape(size[::-1]).T]


def theirs(objects, size):
    coco = pytest.importorskip("pycocotools.mask")
    return [coco.merge(coco.frPyObjects(parts, *size)) for parts in objects]


def test_a_square_covers_its_pixels():
    assert filled([1, 1, 4, 1, 4, 3, 1, 3], (4, 6)) == ["......", ".###..", ".###..", "......"]


def test_where_the_outline_crosses_itself_pixels_are_toggled():
    assert filled([0, 0, 6, 0, 6, 6, 0, 6, 0, 0, 2, 2, 4, 2, 4, 4, 2, 4, 2, 2], (6, 6)) == [
        "######",
        "######",
        "##..##",
        "##..##",
        "######",
        "######",
    ]


@pytest.mark.parametrize(
    "polygon",
    [
        [-5, -5, 9, -5, 9, 9, -5, 9],
        [0, 0, 4, 0, 4, 3, 0, 3],
        [2, -1000, 1000, 2, -1000, 1000],
    ],
)
def test_parts_outside_the_image_are_cut_off(polygon):
    assert filled(polygon, (3, 4)) == ["####"] * 3


def test_a_polygon_beside_the_image_covers_nothing():
    assert filled([10, 0, 20, 0, 20, 3, 10, 3], (3, 4)) == ["...."] * 3
    assert filled([1, 1, 1, 1, 1, 1], (3, 4)) == ["...."] * 3


@settings(max_examples=60, deadline=None)
@given(st.lists(polygons, min_size=1, max_size=3), sizes)
def test_bytes_equal_pycocotools(parts, size):
    ours = CompressedMasks.from_coco([parts], size).to_rle()
    assert [rle["counts"].encode() for rle in ours] == [rle["counts"] for rle in theirs([parts], size)]


def test_round_objects_of_many_sizes_equal_pycocotools():
    rng = np.random.default_rng(0)
    objects = []
    for _ in range(150):
        count, radius = int(rng.integers(3, 60)), 10 ** rng.uniform(0, 2.7)
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        reach = radius * rng.uniform(0.5, 1, count)
        center = rng.uniform(0, (640, 480))
        points = center + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        objects.append([points.round(2).ravel().tolist()])
    ours = CompressedMasks.from_coco(objects, (480, 640))
    assert [rle["counts"].encode() for rle in ours.to_rle()] == [rle["counts"] for rle in theirs(objects, (480, 640))]


def test_several_polygons_at_once_are_those_one_by_one():
    shapes = [check_polygon(p) for p in ([0, 0, 5, 0, 5, 5], [2, 1, 7, 2, 3, 8, 1, 5], [0, 9, 9, 9, 9, 0, 0, 0])]
    owner, starts, stops = fill_polygons(shapes, (9, 9))
    assert owner.tolist() == sorted(owner.tolist())
    for i, shape in enumerate(shapes):
        _, first, last = fill_polygons([shape], (9, 9))
        np.testing.assert_array_equal(starts[owner == i], first)
        np.testing.assert_array_equal(stops[owner == i], last)


def test_no_polygons_have_no_runs():
    assert [len(a) for a in fill_polygons([], (5, 5))] == [0, 0, 0]


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([0, 0, 5, 0, 5], "odd number of coordinates, 5"),
        ([0, 0, 5, 0], "has 2 points"),
        ([], "has 0 points"),
        ([0, 0, 5, 0, np.nan, 5], "not finite"),
        ([0, 0, 5, 0, np.inf, 5], "not finite"),
        ([0, 0, 5, 0, 1e9, 5], "beyond 1048576"),
        ([[0, 0], [5, 0], [5, 5]], "flat list"),
        ([[0, 0], [5]], "flat list"),
        (["0", "0", "5", "0", "5", "5"], "flat list"),
        ([True] * 6, "flat list"),
        (None, "flat list"),
        (7, "flat list"),
    ],
)
def test_wrong_polygons_are_named(polygon, message):
    with pytest.raises(ValueError, match=message):
        check_polygon(polygon)


# ------------------------------------------------------------------ masks to polygons


@pytest.mark.parametrize(
    ("rows", "rings"),
    [
        (["00", "00"], []),
        (["1"], [[0, 0, 1, 0, 1, 1, 0, 1]]),
        (["011", "010"], [[1, 0, 3, 0, 3, 1, 2, 1, 2, 2, 1, 2]]),
        (["10", "01"], [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]),
        (["01", "10"], [[1, 0, 2, 0, 2, 1, 1, 1], [0, 1, 1, 1, 1, 2, 0, 2]]),
        (["111", "101", "111"], [[0, 0, 3, 0, 3, 3, 0, 3]]),
        # The hole touches the outside at a corner, so it is a bay, and the ring goes round it.
        (["1110", "1010", "1100"], [[0, 0, 3, 0, 3, 2, 2, 2, 2, 1, 1, 1, 1, 2, 2, 2, 2, 3, 0, 3]]),
    ],
)
def test_trace_polygons_by_hand(rows, rings):
    mask = np.array([[c == "1" for c in row] for row in rows])
    assert trace_polygons(mask) == rings


def _without_holes(mask):
    """Return the mask without holes: what the outside cannot reach, corners included."""
    outside = np.pad(np.zeros_like(mask), 1, constant_values=True)
    free = ~np.pad(mask, 1)
    while True:
        grown = np.pad(outside, 1)
        h, w = outside.shape
        grown = np.any([grown[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0) & free
        if (grown == outside).all():
            return ~outside[1:-1, 1:-1]
        outside = grown


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_traced_polygons_rasterize_to_the_mask_without_its_holes(mask):
    coco = pytest.importorskip("pycocotools.mask")
    rings = trace_polygons(mask)
    filled = _without_holes(mask)
    areas = []
    for ring in rings:
        x, y = np.array(ring).reshape(-1, 2).T
        areas.append((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)
    assert all(area > 0 for area in areas)  # clockwise, as y points down
    if not rings:
        assert not mask.any()
        return
    height, width = mask.shape
    np.testing.assert_array_equal(coco.decode(coco.merge(coco.frPyObjects(rings, height, width))), filled)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones((1, 2, 3), bool), ValueError, r"one mask of shape \(H, W\), got bool of shape \(1, 2, 3\)"),
        (np.full((2, 3), 255), ValueError, "zeros and ones, got 255"),
        (None, TypeError, "got None"),
        ("mask", TypeError, "got 'mask'"),
    ],
)
def test_trace_polygons_refuses(mask, error, message):
    with pytest.raises(error, match=message):
        trace_polygons(mask)


def test_zeros_and_ones_are_traced_as_bools(device):
    mask = np.array([[0, 1], [1, 1]])
    assert trace_polygons(as_tensor(mask, device)) == trace_polygons(mask) == trace_polygons(mask > 0)


# ------------------------------------------------------------------ bounds


def test_a_polygon_of_a_million_points_is_filled_or_refused_at_once():
    """It took 24 s and 3.9 GB: each of its edges crosses a third of the image."""
    wild = np.random.default_rng(0).uniform(0, 256, 2_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"masks\[1\] cannot be used: a polygon of it crosses the columns"):
        CompressedMasks.from_coco([[[0, 0, 9, 0, 9, 9]], [wild]], (256, 256))
    turn = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    circle = np.stack([500 + 400 * np.cos(turn), 500 + 400 * np.sin(turn)], axis=1).ravel()
    (area,) = CompressedMasks.from_coco([[circle]], (1000, 1000)).areas
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert area == pytest.approx(np.pi * 400**2, rel=0.001)
    assert peak < 400e6


def test_a_few_numbers_cannot_ask_for_any_amount_of_memory():
    wide = [[0, 0, MAX_COORDINATE, 0, MAX_COORDINATE, 1, 0, 1]] * 1000
    with pytest.raises(ValueError, match="of 2097152000 times in all, with 4 points: no outline does"):
        CompressedMasks.from_coco([wide], (1, 2**30))


def test_polygons_are_the_same_computed_in_parts(monkeypatch):
    rng = np.random.default_rng(1)
    shapes = [check_polygon(rng.uniform(-20, 120, 2 * n)) for n in (3, 7, 40, 400)]
    whole = fill_polygons(shapes, (90, 100))
    monkeypatch.setattr("lucid_maskrcnn.masks.polygons._AT_ONCE", 13)
    for one, other in zip(fill_polygons(shapes, (90, 100)), whole, strict=True):
        np.testing.assert_array_equal(one, other)
