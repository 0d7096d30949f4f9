"""Connected parts of masks, against a flood fill."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shapely import MultiPolygon, Polygon

from lucid_maskrcnn.masks import CompressedMasks, trace_parts
from lucid_maskrcnn.masks.parts import count_large_parts


def areas_by_flood(mask):
    """Return the areas of the parts of a mask, pixel by pixel."""
    left, areas = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    while left:
        stack, area = [left.pop()], 0
        while stack:
            y, x = stack.pop()
            area += 1
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
        areas.append(area)
    return areas


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_those_of_a_flood_fill(seed):
    rng = np.random.default_rng(seed)
    dense = rng.random((4, *rng.integers(1, 25, 2))) < rng.uniform(0, 0.6)
    for fraction in (0, 0.25):
        counts = [[a for a in areas if a >= fraction * max(areas)] for areas in map(areas_by_flood, dense)]
        found = count_large_parts(CompressedMasks.from_dense(dense), fraction)
        assert found.tolist() == [len(areas) for areas in counts]


def test_no_masks_have_no_parts():
    assert count_large_parts(CompressedMasks.from_dense(np.zeros((0, 3, 4), bool))).shape == (0,)
    assert count_large_parts(CompressedMasks.from_dense(np.zeros((2, 3, 4), bool))).tolist() == [0, 0]


shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)


@given(hnp.arrays(bool, shapes, elements=st.booleans()))
@settings(max_examples=100, deadline=None)
def test_traced_parts_are_valid_and_cover_the_pixels(dense):
    """Also where holes, or a part and itself, touch at a corner."""
    for mask, parts in zip(dense, trace_parts(CompressedMasks.from_dense(dense)), strict=True):
        polygons = [Polygon(outer, holes) for outer, *holes in parts]
        assert all(polygon.is_valid for polygon in polygons)
        whole = MultiPolygon(polygons)
        assert whole.is_valid
        assert whole.area == mask.sum()
        assert all(Polygon(outer).exterior.is_ccw for outer, *_ in parts)  # with y down, that is clockwise
        assert not any(Polygon(hole).exterior.is_ccw for _, *holes in parts for hole in holes)
        cells = [[Polygon([(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)]) for x in range(9)] for y in range(9)]
        for y, x in np.argwhere(mask):
            assert whole.covers(cells[y][x])


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (["#"], [[[(0, 0), (1, 0), (1, 1), (0, 1)]]]),
        (["#.", ".#"], [[[(0, 0), (1, 0), (1, 1), (0, 1)]], [[(1, 1), (2, 1), (2, 2), (1, 2)]]]),
        (["###", "#.#", "###"], [[[(0, 0), (3, 0), (3, 3), (0, 3)], [(1, 1), (1, 2), (2, 2), (2, 1)]]]),
        (
            [".##", "#.#", "###"],  # its ends meet at a corner: the hole touches the outline there
            [[[(1, 0), (3, 0), (3, 3), (0, 3), (0, 1), (1, 1)], [(1, 1), (1, 2), (2, 2), (2, 1)]]],
        ),
        ([".."], []),
    ],
)
def test_trace_parts_by_hand(rows, parts):
    def turned(ring):
        first = ring.index(min(ring))
        return ring[first:] + ring[:first]

    found = trace_parts(CompressedMasks.from_dense([[[c == "#" for c in row] for row in rows]]))
    assert [[turned(ring) for ring in part] for part in found[0]] == [[turned(r) for r in part] for part in parts]


def test_parts_are_those_of_each_mask_alone():
    dense = np.random.default_rng(1).random((5, 20, 30)) < 0.6
    alone = [trace_parts(CompressedMasks.from_dense(mask[None]))[0] for mask in dense]
    assert trace_parts(CompressedMasks.from_dense(dense)) == alone
    assert trace_parts(CompressedMasks.from_dense(dense[:0])) == []


def test_parts_are_traced_without_the_pixels_of_a_huge_image():
    square = [[100.0, 19000.0, 140.0, 19000.0, 140.0, 19040.0, 100.0, 19040.0]]
    tracemalloc.start()
    (part,) = trace_parts(CompressedMasks.from_coco([square], (20000, 20000)))[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Polygon(part[0]).bounds == (100, 19000, 140, 19040)
    assert peak < 1e6


@pytest.mark.parametrize("masks", [None, np.zeros((1, 3, 3), bool)])
def test_masks_of_another_kind_are_refused(masks):
    with pytest.raises(TypeError, match="masks must be CompressedMasks"):
        trace_parts(masks)
