"""Choosing rows: top-k, matching, sampling. None of these has a gradient.

Shapes: A boxes (anchors, proposals or RoIs), G ground-truth objects, R RoIs, K classes, L levels.
Results whose size depends on the data are computed on the host; everything else stays on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lucid
import numpy as np
from lucid import Tensor

from ._operation import array_module, as_tensor, on_arrays, on_host
from .nms import descending

__all__ = [
    "arange",
    "cell_anchors",
    "concat",
    "finite_rows",
    "full",
    "grid_anchors",
    "match",
    "nonzero_above",
    "permutation",
    "pick",
    "remove_small_boxes",
    "sample_balanced",
    "sigmoid",
    "softmax",
    "take",
    "top_k_per_level",
]

BELOW_THRESHOLD, BETWEEN_THRESHOLDS = -1, -2  # what `match` says of a box that matches no object


# ------------------------------------------------------------------ plain arithmetic without a graph


@on_arrays
def take(x: Any, rows: Any) -> Any:
    """Return ``x[rows]`` for int ``rows``, without a gradient."""
    return x[rows]


@on_arrays
def sigmoid(x: Any) -> Any:
    """Return the logistic function of ``x``, without a gradient."""
    xp = array_module(x)
    decay = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, decay) / (1 + decay)


@on_arrays
def softmax(logits: Any) -> Any:
    """Return the probabilities of each row of ``logits`` (R, K), without a gradient."""
    xp = array_module(logits)
    exponents = xp.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@on_arrays
def pick(x: Any, i: Any, j: Any) -> Any:
    """Return ``x[i, j]`` for int ``i`` and ``j`` of the same length, without a gradient."""
    return x[i, j]


def concat(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts joined along their first axis, without a gradient."""
    return _concat(*parts)


@on_arrays
def _concat(*parts: Any) -> Any:
    return array_module(parts[0]).concatenate(parts, axis=0)


def arange(count: int, like: Tensor) -> Tensor:
    """Return the numbers below ``count`` as int32, on the device of ``like``."""
    return as_tensor(np.arange(count, dtype=np.int32), like)


def full(count: int, value: int, like: Tensor) -> Tensor:
    """Return ``count`` times ``value`` as int32, on the device of ``like``."""
    return as_tensor(np.full(count, value, np.int32), like)


# ------------------------------------------------------------------ anchors


def cell_anchors(
    sizes: Sequence[float], aspect_ratios: Sequence[float], *, whole_pixels: bool = True
) -> list[tuple[float, float, float, float]]:
    """Return the anchors around the origin, ratio by ratio, each size.

    Corners are rounded to whole pixels as torchvision's, or left as they are.
    """
    root = np.sqrt(np.asarray(aspect_ratios, np.float32))[:, None]
    scale = np.asarray(sizes, np.float32)[None]
    half_w, half_h = (scale / root).ravel() / 2, (scale * root).ravel() / 2
    corners = np.stack([-half_w, -half_h, half_w, half_h], axis=1)
    corners = corners.round() if whole_pixels else corners
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in corners]


def grid_anchors(
    cells: Sequence[tuple[float, float, float, float]],
    grid: tuple[int, int],
    stride: tuple[float, float],
    like: Tensor,
) -> Tensor:
    """Return the anchors ``cells`` around each position of a ``grid`` (rows, columns): (positions · cells, 4).

    ``stride`` is the step in pixels along y and x; the order is row, column, cell.
    """
    y = np.arange(grid[0], dtype=np.float32) * np.float32(stride[0])
    x = np.arange(grid[1], dtype=np.float32) * np.float32(stride[1])
    shifts = np.stack([*np.meshgrid(x, y)] * 2, axis=-1)  # (rows, columns, 4)
    anchors = shifts[:, :, None] + np.asarray(cells, np.float32)
    return as_tensor(anchors.reshape(-1, 4), like)


# ------------------------------------------------------------------ filtering


def top_k_per_level(scores: Tensor, level_sizes: Sequence[int], k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` best rows of each level, best first, and the level of each.

    Parameters
    ----------
    scores : Tensor of shape (A,)
        The levels one after the other.
    level_sizes : sequence of int
        Their sizes, which add up to A.
    k : int
        At most so many of each; equal scores keep their order, NaN comes first as in torch.

    Returns
    -------
    rows, levels : Tensor of shape (n,), int32
    """
    return _top_k_per_level(scores, level_sizes=tuple(level_sizes), k=k)


@on_host
def _top_k_per_level(scores: np.ndarray, *, level_sizes: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
    rows, levels, start = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
    for level, size in enumerate(level_sizes):
        best = _best(scores[start : start + size], k)
        rows.append((best + start).astype(np.int32))
        levels.append(np.full(len(best), level, np.int32))
        start += size
    return np.concatenate(rows), np.concatenate(levels)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the ``k`` largest's indices, descending and stable: only those that can be among them are sorted."""
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(~(scores < least))  # NaN stays in
    else:
        candidates = np.arange(len(scores))
    return candidates[descending(scores[candidates])][:k]


@on_host
def remove_small_boxes(boxes: np.ndarray, min_size: float) -> np.ndarray:
    """Return the rows of ``boxes`` (A, 4) whose width and height are both at least ``min_size``: (n,), int32."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.flatnonzero((sides >= boxes.dtype.type(min_size)).all(axis=1)).astype(np.int32)


@on_host
def finite_rows(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the rows in which all of ``boxes`` (A, ...) and of ``scores`` (A, ...) is finite: (n,), int32."""
    good = [np.isfinite(x).all(axis=tuple(range(1, x.ndim))) for x in (boxes, scores)]
    return np.flatnonzero(good[0] & good[1]).astype(np.int32)


@on_host
def nonzero_above(scores: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the ``scores`` (R, K) over ``threshold``, row by row: (n,), (n,), int32."""
    rows, columns = np.nonzero(scores > scores.dtype.type(threshold))
    return rows.astype(np.int32), columns.astype(np.int32)


# ------------------------------------------------------------------ matching and sampling


def match(iou: Tensor, foreground: float, background: float, *, allow_low_quality_matches: bool) -> Tensor:
    """Assign an object to each box (Ren et al. 2015, section 3.1.2).

    Parameters
    ----------
    iou : Tensor of shape (G, A)
        Overlaps. With ``G = 0`` every box is background.
    foreground, background : float
        A box belongs to the object of its largest IoU if that is at least ``foreground``, to the
        background if it is under ``background``, and to neither between.
    allow_low_quality_matches : bool
        Whether the best boxes of an object, ties included, are matched whatever their IoU. Such a box
        gets the object of *its own* largest IoU, as in torchvision.

    Returns
    -------
    Tensor of shape (A,), int32
        Index of the object, -1 for background, -2 for boxes to ignore.
    """
    return _match(
        iou, foreground=foreground, background=background, allow_low_quality_matches=allow_low_quality_matches
    )


@on_host
def _match(iou: np.ndarray, *, foreground: float, background: float, allow_low_quality_matches: bool) -> np.ndarray:
    if not iou.size:
        return np.full(iou.shape[1], BELOW_THRESHOLD, np.int32)
    own = iou.argmax(axis=0).astype(np.int32)
    best = iou.max(axis=0)
    matches = own.copy()
    matches[best < np.float32(foreground)] = BETWEEN_THRESHOLDS
    matches[best < np.float32(background)] = BELOW_THRESHOLD
    if allow_low_quality_matches:
        saved = (iou == iou.max(axis=1, keepdims=True)).any(axis=0)
        matches[saved] = own[saved]
    return matches


def permutation(count: int) -> Any:
    """Return the numbers below ``count`` in random order, drawn from Lucid's generator."""
    return np.asarray(lucid.random.permutation(count).data)


def sample_balanced(
    matches: Tensor, batch_size: int, positive_fraction: float, order: Any = permutation
) -> tuple[Tensor, Tensor]:
    """Draw boxes for the loss, at most a given share of them positive.

    Parameters
    ----------
    matches : Tensor of shape (A,)
        What :func:`match` gave.
    batch_size : int
        Boxes to draw; fewer if there are not as many.
    positive_fraction : float
        Largest share of positive ones. Background fills up.
    order : callable
        Takes a count and returns a permutation; the first ones are taken.

    Returns
    -------
    positive, negative : Tensor of shape (n,), int32
        Rows, ascending.
    """
    return _sample_balanced(matches, batch_size=batch_size, positive_fraction=positive_fraction, order=order)


@on_host
def _sample_balanced(
    matches: np.ndarray, *, batch_size: int, positive_fraction: float, order: Any
) -> tuple[np.ndarray, np.ndarray]:
    positive, negative = np.flatnonzero(matches >= 0), np.flatnonzero(matches == BELOW_THRESHOLD)
    num_positive = min(len(positive), int(batch_size * positive_fraction))
    num_negative = min(len(negative), batch_size - num_positive)

    def draw(rows: np.ndarray, count: int) -> np.ndarray:
        return np.sort(rows[order(len(rows))[:count]]).astype(np.int32)

    return draw(positive, num_positive), draw(negative, num_negative)
