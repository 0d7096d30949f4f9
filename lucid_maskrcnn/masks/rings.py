"""The boundaries of masks as rings along the edges of their pixels, for all masks at once and without their pixels.

Shapes: R runs of pixels, C corners of the boundaries, P points of a ring.

Names: a *run* is a column and two rows, from *top* to before *bottom*; its *owner* is the mask that it belongs to. The
columns to the *west* and the *east* of a corner are those that meet at it. Points of pixels that meet at a corner only
are apart: rings follow parts that are 4-connected, and holes that are 8-connected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lucid_maskrcnn.array_arguments import numeric_array
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.validators import sequence

__all__ = ["Ring", "boundary_rings", "join_rings", "signed_area", "simple_rings"]


class Ring(NamedTuple):
    """A closed boundary, with the mask's pixels on its right hand as seen on a screen.

    Attributes
    ----------
    points : list of (x, y)
        Corners of pixels, where the ring turns; it begins at the leftmost of its topmost, which is not repeated.
    run : int
        A run of the part that it is a boundary of.
    is_outer : bool
        Whether it goes around that part, clockwise on a screen; the others go around a hole, counterclockwise.
    """

    points: list[tuple[int, int]]
    run: int
    is_outer: bool


class _Corners(NamedTuple):
    """Corners of the boundaries, by owner, row and column, (C,) each; two where two pixels meet at one."""

    owner: np.ndarray
    x: np.ndarray
    y: np.ndarray
    run: np.ndarray  # of the east column that ends there, -1 if none does
    begins: np.ndarray  # whether that run begins there, and so lies below the corner
    touching: np.ndarray  # whether two pixels meet there


def boundary_rings(owner: np.ndarray, column: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> Iterator[Ring]:
    """Yield the rings of some masks.

    Parameters
    ----------
    owner, column, top, bottom : ndarrays of shape (R,), integers
        The runs, by owner, column and row; those of a column do not touch.

    Yields
    ------
    Ring
        By owner, and then by the row and the column of their first points.
    """
    # A corner joins one horizontal and one vertical side. In every row of corners the horizontal sides connect the
    # first with the second, the third with the fourth, and so on; in every column likewise the vertical sides. A ring
    # is followed by taking a horizontal and a vertical side in turn.
    at = _corners(owner, column, top, bottom)
    # Of two corners at one place the first has its horizontal side to the left. If that belongs to
    # the south-west pixel, its vertical side goes down, and the corner comes second in its column.
    second = np.append(False, at.touching[1:] & (at.x[1:] == at.x[:-1]) & (at.y[1:] == at.y[:-1]))[: len(at.x)]
    second[1:] &= at.owner[1:] == at.owner[:-1]
    by_column = np.lexsort((second ^ (at.touching & ~at.begins), at.y, at.x, at.owner))
    other_in_row = np.arange(len(at.x)) ^ 1
    other_in_column = np.empty_like(by_column)
    other_in_column[by_column] = by_column[other_in_row]

    points = list(zip(at.x.tolist(), at.y.tolist(), strict=True))
    neighbours = (other_in_row.tolist(), other_in_column.tolist())
    runs, begins = at.run.tolist(), at.begins.tolist()
    seen = [False] * len(points)
    for start in range(len(points)):
        if seen[start]:
            continue
        ring = []
        corner, turn = start, 0
        while not seen[corner]:
            seen[corner] = True
            ring.append(points[corner])
            corner, turn = neighbours[turn][corner], 1 - turn
        # It was followed to the east from its top left point, around a part or around a hole.
        yield Ring(ring if begins[start] else ring[:1] + ring[:0:-1], runs[start], begins[start])


def _corners(owner: np.ndarray, column: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> _Corners:
    num = len(owner)
    # Each run ends in four corners: its top and its bottom, on its left side and on its right.
    run = np.tile(np.arange(num), 4)
    east = np.repeat([True, False], 2 * num)  # of its left side it is the east column
    begins = np.tile(np.repeat([True, False], num), 2)
    x = column[run] + ~east
    y = np.where(begins, top[run], bottom[run])
    order = np.lexsort((~east, x, y, owner[run]))
    run, east, begins, x, y = (values[order] for values in (run, east, begins, x, y))
    of = owner[run]
    pair = np.flatnonzero((x[1:] == x[:-1]) & (y[1:] == y[:-1]) & (of[1:] == of[:-1]))  # the first, east one of two
    touches = begins[pair] != begins[pair + 1]
    straight, meeting = pair[~touches], pair[touches]
    touching = np.zeros(len(x), bool)
    touching[meeting], touching[meeting + 1] = True, True
    begins[meeting + 1] = begins[meeting]
    run = np.where(east, run, -1)
    run[meeting + 1] = run[meeting]
    kept = np.ones(len(x), bool)  # a side that goes straight on has no corner
    kept[straight], kept[straight + 1] = False, False
    return _Corners(*(values[kept] for values in (of, x, y, run, begins, touching)))


def simple_rings(points: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Split a ring where it comes back to a point, so that no part of it touches itself.

    A part that surrounds a hole and meets itself at a corner has one ring, which goes around both; as polygons want
    it, the hole is a ring of its own that touches the outer one there.
    """
    if len(set(points)) == len(points):
        yield points
        return
    place: dict[tuple[int, int], int] = {}
    path: list[tuple[int, int]] = []
    for point in points:
        first = place.get(point)
        if first is not None:
            yield path[first:]
            for left in path[first:]:
                del place[left]
            del path[first:]
        place[point] = len(path)
        path.append(point)
    yield path


def signed_area(points: list[tuple[int, int]]) -> int:
    """Return the number of pixels inside a simple ring, negative if it goes around a hole."""
    x, y = np.array(points, np.int64).T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


def _points(name: str, ring: Any) -> Any:
    numeric_array(name, ring, "points (x, y) of shape (P, 2)", shape=(None, 2))
    return ring


@answers_wrong_calls
def join_rings(rings: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return one ring that runs along all of some rings: there and back over bridges between their nearest points.

    A bridge has no area, and a filling that counts crossings toggles its pixels twice. So the ring covers what lies
    within an odd number of the rings: parts that are apart stay apart, and holes stay holes.

    Parameters
    ----------
    rings : sequence of sequence of (x, y)
        At least one; the first point of a ring is not repeated at its end.
    """
    rings = sequence("rings", rings, _points, minimum=1)
    path = list(rings[0])
    for ring in rings[1:]:
        here, there = np.array(path, float), np.array(ring, float)
        step = max(1, 2**22 // len(there))  # distances computed at once
        best = (np.inf, 0, 0)
        for start in range(0, len(here), step):
            apart = np.square(here[start : start + step, None] - there[None]).sum(axis=-1)
            nearest = int(apart.argmin())
            i, j = divmod(nearest, len(there))
            best = min(best, (float(apart[i, j]), start + i, j))
        _, i, j = best
        path = [*path[: i + 1], *ring[j:], *ring[: j + 1], *path[i:]]
    return path
