"""Connected parts of masks, against a flood fill."""

import numpy as np
import pytest

from lucid_maskrcnn.masks import CompressedMasks
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
