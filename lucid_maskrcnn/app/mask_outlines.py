"""Outlines of masks for the page: smooth closed curves, as the paths of an SVG drawing.

The boundary of a mask runs along the edges of its pixels, in stairs. On the screen, where a pixel may be many points
wide, the curve through the middles of those edges is shown, averaged along the boundary: it is nowhere further than a
pixel from it. What is measured and written to files is the mask itself.
"""

from __future__ import annotations

import numpy as np

from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.parts import placed_runs
from lucid_maskrcnn.masks.rings import boundary_rings

__all__ = ["outline_paths"]

_SHORTEST = 12  # edges of a ring that is averaged; a smaller one would vanish
_FLAT = 0.02  # square pixels by which three points may miss a line, for the middle one to be left out


def outline_paths(masks: CompressedMasks) -> list[str]:
    """Return the ``d`` of an SVG path for each mask, in pixels of the image, for ``fill-rule="evenodd"``.

    An empty mask has an empty path. Holes are rings of their own.
    """
    paths: list[list[str]] = [[] for _ in range(len(masks))]
    owner, column, top, bottom = placed_runs(masks)
    for ring in boundary_rings(owner, column, top, bottom):
        paths[owner[ring.run]].append(_path(_smoothed(np.array(ring.points, np.float64))))
    return ["".join(path) for path in paths]


def _smoothed(corners: np.ndarray) -> np.ndarray:
    """Return the points (P, 2) of the curve of a ring with corners (C, 2)."""
    step = np.roll(corners, -1, axis=0) - corners
    length = np.abs(step).sum(axis=1).astype(np.int64)
    edge = np.repeat(np.arange(len(corners)), length)
    along = np.arange(len(edge)) - np.repeat(np.cumsum(length) - length, length) + 0.5
    middles = corners[edge] + (step / length[:, None])[edge] * along[:, None]
    if len(middles) < _SHORTEST:
        return middles
    near = np.roll(middles, 1, axis=0) + np.roll(middles, -1, axis=0)
    far = np.roll(middles, 2, axis=0) + np.roll(middles, -2, axis=0)
    points = (6 * middles + 4 * near + far) / 16
    before, after = np.roll(points, 1, axis=0) - points, np.roll(points, -1, axis=0) - points
    bent = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > _FLAT
    bent[::4] = True  # a wide curve is bent nowhere much
    return points[bent]


def _path(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points.tolist()) + "Z"
