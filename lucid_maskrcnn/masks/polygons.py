"""Polygons to pixels, by the rule of pycocotools: the same annotation covers the same pixels; and masks to polygons.

A pixel belongs to a polygon if its center's column crosses the outline above it an odd number of times.
pycocotools rounds the points to a grid five times as fine as the pixels and walks along the outline on it, and so
does this: other rules give other pixels along the outline.

Shapes: P points of a polygon, E edges of all polygons, R runs of pixels.

Names: *fine* coordinates are those of pycocotools' grid; *crossings* are where an edge crosses the middle of a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lucid_maskrcnn.array_arguments import numeric_array, zeros_and_ones
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.masks.rings import boundary_rings
from lucid_maskrcnn.masks.runs import runs_of_mask
from lucid_maskrcnn.validators import image_size as checked_size
from lucid_maskrcnn.validators import sequence

__all__ = ["MAX_COORDINATE", "PolygonError", "check_polygon", "fill_polygons", "trace_polygons"]

MAX_COORDINATE = 2**20  # pixels; larger than any image
_FINE = 5  # steps of the walk for each pixel
_MIDDLE = 2  # the step at a pixel's center
# Crossings. The outline of a region in an image of 100,000² pixels has less than a million.
_MAX_OF_POLYGON = 2**22
_MAX_OF_IMAGE = 2**26
_AT_ONCE = 2**20  # computed together: each takes some 200 bytes until it is done


class PolygonError(ValueError):
    """A polygon of a list cannot be filled; the message has no subject: the caller names the polygon.

    Attributes
    ----------
    index : int
        Which of them.
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index


def check_polygon(values: object) -> np.ndarray:
    """Return the coordinates ``x, y, x, y, …`` of a polygon as an array.

    Parameters
    ----------
    values : sequence of numbers
        At least three points, in pixels; the last is joined to the first. They may lie outside the image.

    Returns
    -------
    ndarray of shape (2 · P,), float64

    Raises
    ------
    ValueError
        If they are no such numbers. The message has no subject: the caller names the polygon.
    """
    try:
        points = np.asarray(values)
    except (ValueError, TypeError, IndexError):  # lists of different lengths, or something NumPy cannot read
        points = np.asarray(None)
    if points.ndim != 1 or (points.size and points.dtype.kind not in "iuf"):
        raise ValueError("must be a flat list of numbers x, y, x, y, …")
    if points.size % 2:
        raise ValueError(f"has an odd number of coordinates, {points.size}")
    if points.size < 6:
        raise ValueError(f"has {points.size // 2} points, but a polygon needs at least three")
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError("has a coordinate that is not finite")
    if np.abs(points).max() > MAX_COORDINATE:
        raise ValueError(f"has a coordinate beyond {MAX_COORDINATE} pixels")
    return points


@answers_wrong_calls
def fill_polygons(
    polygons: Sequence[np.ndarray], image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the runs of pixels inside each of some polygons.

    Parameters
    ----------
    polygons : sequence of ndarrays of shape (2 · P,), float64
        Corners ``x1, y1, x2, y2, …`` in pixels, at least three.
    image_size : (height, width)
        Of the image, in pixels.

    Returns
    -------
    owner, starts, stops : ndarrays of shape (R,), int64
        The polygon of each run, ascending, and its pixels: from start to before stop, counted down the columns
        of the image, ascending. A run may go on over several columns.

    Raises
    ------
    ValueError
        If a polygon crosses the columns of the image more often than any outline does. A few numbers could ask for
        any amount of time and memory.
    """
    height, width = checked_size("image_size", image_size, 0)
    polygons = sequence("polygons", polygons, _flat_points)
    fine = np.concatenate([np.zeros(0), *polygons])
    fine = np.trunc(_FINE * fine + 0.5).astype(np.int64).reshape(-1, 2)
    num_points = np.array([len(p) // 2 for p in polygons], np.int64)
    owner = np.repeat(np.arange(len(polygons)), num_points)
    following = np.arange(1, len(fine) + 1)
    following[np.cumsum(num_points) - 1] -= num_points  # the last point is joined to the first
    other = fine[following]
    first, count = _crossed_columns(fine, other, width)
    _check_crossings(count, num_points)
    area = height * width + 1  # one more than the pixels: a run may end with the last
    found = [np.zeros(0, np.int64)]
    for part in _parts(count):
        edge, column, row = _crossings(fine[part], other[part], first[part], count[part])
        row = np.ceil((row + 0.5) / _FINE - 0.5).clip(0, height).astype(np.int64)
        found.append(owner[part][edge] * area + column * height + row)
    toggles, times = np.unique(np.concatenate(found), return_counts=True)
    toggles = toggles[times % 2 == 1]  # a pixel that is toggled twice stays as it was
    owner, starts = np.divmod(toggles[0::2], area)
    return owner, starts, toggles[1::2] - owner * area


def _flat_points(name: str, value: Any) -> np.ndarray:
    array = numeric_array(name, value, "numbers x1, y1, x2, y2, … of shape (2 · P,)", shape=(None,))
    if len(array) % 2:
        raise ValueError(f"{name} must have an x and a y for each point, got {len(array)} numbers.")
    return array


def _crossed_columns(a: np.ndarray, b: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first column whose middle each edge from a (E, 2) to b, fine points, crosses, and how many there are.

    A step of the walk crosses if it goes from the middle of a column to the next fine column, or back.
    """
    low, high = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
    first = np.maximum(-((_MIDDLE - low) // _FINE), 0)  # the least column with its middle at or after low
    last = np.minimum((high - _MIDDLE - 1) // _FINE, width - 1)
    return first, np.maximum(last - first + 1, 0)


def _check_crossings(count: np.ndarray, num_points: np.ndarray) -> None:
    """Refuse polygons that cross too many columns; ``count`` is that of each edge, polygon by polygon."""
    total = np.concatenate([[0], np.cumsum(count)])
    of_polygons = np.diff(total[np.concatenate([[0], np.cumsum(num_points)])])
    if of_polygons.max(initial=0) > _MAX_OF_POLYGON or total[-1] > _MAX_OF_IMAGE:
        worst = int(of_polygons.argmax())
        raise PolygonError(
            worst,
            f"crosses the columns of its image {of_polygons[worst]} times, of {total[-1]} times in all, with "
            f"{num_points[worst]} points: no outline does, so leave it out or make it simpler",
        )


def _parts(count: np.ndarray) -> Iterator[slice]:
    """Yield consecutive edges with about as many crossings as are computed at once."""
    total = np.cumsum(count)
    start = 0
    while start < len(count):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + _AT_ONCE, side="right")))
        yield slice(start, stop)
        start = stop


def _crossings(
    a: np.ndarray, b: np.ndarray, first: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where edges from a (E, 2) to b, fine points, cross the middle of a column: edges, columns, fine rows.

    ``first`` and ``count`` are those of :func:`_crossed_columns`; the row of a crossing is the lower number of the two
    that its step joins.
    """
    edge = np.repeat(np.arange(len(a)), count)
    column = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)

    (dx, dy), (ax, ay), (bx, by) = np.abs(b - a)[edge].T, a[edge].T, b[edge].T
    flat = dx >= dy  # the walk goes along the longer axis, in its positive direction
    swap = np.where(flat, ax > bx, ay > by)
    x, y, to_x, to_y = (np.where(swap, v, u) for u, v in ((ax, bx), (ay, by), (bx, ax), (by, ay)))
    middle = _FINE * column + _MIDDLE
    slope = np.where(flat, to_y - y, to_x - x) / np.maximum(dx, dy)
    lying = np.minimum(*(np.trunc(y + slope * (middle - x + i) + 0.5) for i in (0, 1)))
    return edge, column, np.where(flat, lying, y + _steps_before(middle, x, slope, flat))


def _steps_before(middle: np.ndarray, x: np.ndarray, slope: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Return how many steps down a steep edge are taken before it leaves the fine column before the crossing.

    That is the last step t at which ``x + slope · t``, rounded as pycocotools rounds it, is still in that column: the
    equation is solved, and the steps around the solution are tried, because the rounding decides.
    """
    slope = np.where(flat, 1.0, slope)  # flat edges, whose slope may be zero, are not used
    guess = np.floor((middle + 0.5 - x) / slope)
    around = guess + np.arange(-1, 3)[:, None]
    beyond = x + slope * around + 0.5 >= middle + 1
    still_there = np.where(slope > 0, ~beyond, beyond)
    return (guess - 2 + still_there.sum(axis=0)).astype(np.int64)


# ------------------------------------------------------------------ masks to polygons


@answers_wrong_calls
def trace_polygons(mask: Any) -> list[list[float]]:
    """Return the outer boundary of each 4-connected part of a mask, along the edges of its pixels.

    Parameters
    ----------
    mask : array or Tensor of shape (H, W), bool or zeros and ones
        One mask.

    Returns
    -------
    list of list of float
        One ring ``[x, y, x, y, …]`` a part, clockwise; holes are filled. ``[]`` for an empty mask.
    """
    wanted = "one mask of shape (H, W)"
    mask = zeros_and_ones("mask", numeric_array("mask", mask, wanted, kinds="biuf", shape=(None, None)))
    starts, stops = runs_of_mask(mask, mask.shape[0])
    column, top = np.divmod(starts, max(mask.shape[0], 1))
    rings = boundary_rings(np.zeros_like(column), column, top, top + stops - starts)
    return [[float(value) for point in ring.points for value in point] for ring in rings if ring.is_outer]
