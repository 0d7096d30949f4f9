"""Selection of rows: top-k, filters, matching and sampling. None of these has a gradient.

Shapes: A boxes (anchors, proposals or RoIs), G ground-truth objects, R RoIs, K classes, n rows selected.

Names: ``rows``, ``i`` and ``j`` are indices, int32. ``matches`` holds the object of each box, or a negative number:
detectron2's labels 0 (background, below the thresholds) and -1 (ignored, between them) are -1 and -2 here, as in
torchvision's matcher.

Results whose size depends on the data are computed on the host; everything else stays on the device. Indices are
checked on cpu; on gpu they may not be computed yet: there one that is out of range gives NaN, in integers the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import lucid
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import (
    flag,
    fraction,
    image_size,
    instance,
    integer,
    non_negative_int,
    non_negative_number,
    number,
    pair,
    positive_int,
    positive_number,
    sequence,
    shown,
)

from ._checks import box_tensor, check_range_on_cpu, check_tensor, index_tensor, tensors, within
from ._operation import array_module, as_tensor, device_array, on_arrays, on_host, zeros
from ._parallel import chunks
from .boxes import iou_matrix
from .nms import descending

__all__ = [
    "AnchorLevel",
    "arange",
    "cell_anchors",
    "concat",
    "finite_rows",
    "full",
    "grid_anchors",
    "joined_anchors",
    "match",
    "match_boxes",
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

_MAX_INT = 2**31 - 1  # of int32
_PAIRS = 1 << 24  # of objects and boxes whose IoU is held at a time: 64 MiB


# ------------------------------------------------------------------ plain arithmetic without a graph


def take(x: Tensor, rows: Tensor | int) -> Tensor:
    """Return ``x[rows]`` without a gradient.

    Parameters
    ----------
    x : Tensor of shape (A, …)
        Values; rows are along its first axis.
    rows : Tensor of shape (n,), int32, or int
        Each from 0 to A - 1.

    Returns
    -------
    Tensor of shape (n, …), or (…) for an int
    """
    check_tensor("x", x, ("A", ...), "fib")
    if isinstance(rows, Tensor):
        check_tensor("rows", rows, (...,), "i")
        check_range_on_cpu("rows", rows, x.shape[0], "rows")
    else:
        rows = non_negative_int("rows", rows, x.shape[0] - 1)
    return _take(x, rows)


@on_arrays
def _take(x: Any, rows: Any) -> Any:
    if isinstance(x, np.ndarray) or not isinstance(rows, type(x)):
        return x[rows]
    inside, rows = within(rows, x.shape[0])
    return _or_nan(x[rows], inside)


def _or_nan(values: Any, inside: Any) -> Any:
    """Return floats on gpu, with NaN in the rows that are not inside; other types stay as they are."""
    xp = array_module(values)
    if not xp.issubdtype(values.dtype, xp.floating):
        return values
    return xp.where(inside.reshape(*inside.shape, *(1,) * (values.ndim - inside.ndim)), values, xp.nan).astype(
        values.dtype
    )


def sigmoid(x: Tensor) -> Tensor:
    """Return the logistic function of ``x``, float of any shape, without a gradient."""
    check_tensor("x", x, (...,))
    return _sigmoid(x)


@on_arrays
def _sigmoid(x: Any) -> Any:
    xp = array_module(x)
    decay = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, decay) / (1 + decay)


def softmax(logits: Tensor) -> Tensor:
    """Return the probabilities of each row of ``logits`` (R, K), K positive, without a gradient."""
    check_tensor("logits", logits, ("R", "K"))
    if logits.shape[1] == 0:
        raise ValueError(f"logits must have at least one column, got shape {tuple(logits.shape)}.")
    return _softmax(logits)


@on_arrays
def _softmax(logits: Any) -> Any:
    xp = array_module(logits)
    exponents = xp.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def pick(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Return ``x[i, j]`` of ``x`` (R, K, …) for int32 ``i`` and ``j``, both (n,), without a gradient."""
    check_tensor("x", x, ("R", "K", ...), "fib")
    index_tensor("i", i, "n")
    index_tensor("j", j, i.shape[0])
    check_range_on_cpu("i", i, x.shape[0], "rows")
    check_range_on_cpu("j", j, x.shape[1], "columns")
    return _pick(x, i, j)


@on_arrays
def _pick(x: Any, i: Any, j: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x[i, j]
    (i_inside, i), (j_inside, j) = within(i, x.shape[0]), within(j, x.shape[1])
    return _or_nan(x[i, j], i_inside & j_inside)


def concat(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate one or more tensors along their first axis, the only one that may differ, without a gradient."""
    parts = tensors("parts", parts)
    first = tuple(parts[0].shape)
    for i, part in enumerate(parts):
        if part.ndim < 1 or tuple(part.shape[1:]) != first[1:]:
            raise ValueError(
                f"parts must have the same shape but for their first axis, got parts[0] of {first} and parts[{i}] of "
                f"{tuple(part.shape)}."
            )
    return _concat(*parts)


@on_arrays
def _concat(*parts: Any) -> Any:
    return array_module(parts[0]).concatenate(parts, axis=0)


def arange(count: int, like: Tensor) -> Tensor:
    """Return the numbers below ``count`` as int32, on the device of ``like``."""
    return as_tensor(np.arange(non_negative_int("count", count, _MAX_INT), dtype=np.int32), like)


def full(count: int, value: int, like: Tensor) -> Tensor:
    """Return ``count`` times ``value`` as int32, on the device of ``like``."""
    value = integer("value", value, -_MAX_INT - 1, _MAX_INT)
    return as_tensor(np.full(non_negative_int("count", count, _MAX_INT), value, np.int32), like)


# ------------------------------------------------------------------ anchors


def cell_anchors(
    sizes: Sequence[float], aspect_ratios: Sequence[float], *, whole_pixels: bool = True, sizes_first: bool = False
) -> list[tuple[float, float, float, float]]:
    """Return the anchors of one position, around the origin.

    Parameters
    ----------
    sizes : sequence of float
        Square roots of the areas, in pixels.
    aspect_ratios : sequence of float
        Height divided by width.
    whole_pixels : bool
        Whether corners are rounded to whole pixels, as in torchvision.
    sizes_first : bool
        Whether they are ordered by size and then by ratio, as in detectron2, or by ratio and then by size, as in
        torchvision. The channels of a trained head have that order.

    Returns
    -------
    list of (x1, y1, x2, y2)
    """
    sizes = sequence("sizes", sizes, positive_number)
    aspect_ratios = sequence("aspect_ratios", aspect_ratios, positive_number)
    flag("whole_pixels", whole_pixels)
    root = np.sqrt(np.asarray(aspect_ratios, np.float32))[:, None]
    scale = np.asarray(sizes, np.float32)[None]
    w, h = scale / root, scale * root  # (ratios, sizes)
    if flag("sizes_first", sizes_first):
        w, h = w.T, h.T
    half_w, half_h = w.ravel() / 2, h.ravel() / 2
    corners = np.stack([-half_w, -half_h, half_w, half_h], axis=1)
    corners = corners.round() if whole_pixels else corners
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in corners]


def grid_anchors(
    cells: Sequence[tuple[float, float, float, float]],
    grid: tuple[int, int],
    stride: tuple[float, float],
    like: Tensor,
) -> Tensor:
    """Return the anchors ``cells`` moved to each position of a feature map.

    Parameters
    ----------
    cells : sequence of (x1, y1, x2, y2)
        See :func:`cell_anchors`.
    grid : (rows, columns)
        Size of the map.
    stride : (y, x)
        Distance of two positions, in pixels.
    like : Tensor
        A tensor on the device wanted.

    Returns
    -------
    Tensor of shape (rows · columns · cells, 4), float32
        In the order row, column, cell.
    """
    grid = image_size("grid", grid, minimum=0)
    stride = pair("stride", stride, positive_number)
    corners = sequence("cells", cells, partial(sequence, check=number, length=4))
    y = np.arange(grid[0], dtype=np.float32) * np.float32(stride[0])
    x = np.arange(grid[1], dtype=np.float32) * np.float32(stride[1])
    shifts = np.stack([*np.meshgrid(x, y)] * 2, axis=-1)  # (rows, columns, 4)
    anchors = shifts[:, :, None] + np.asarray(corners, np.float32).reshape(-1, 4)
    return as_tensor(anchors.reshape(-1, 4), like)


type AnchorLevel = tuple[tuple[tuple[float, float, float, float], ...], tuple[int, int], tuple[float, float]]
"""Cells, grid and stride of :func:`grid_anchors`."""

_KEPT_ANCHORS = 8  # image sizes; 4 MB each at 800 × 1333


def joined_anchors(levels: Sequence[AnchorLevel], like: Tensor) -> Tensor:
    """Return the anchors of several feature maps, one after the other: those of the last sizes are kept.

    Parameters
    ----------
    levels : sequence of (cells, grid, stride)
        As for :func:`grid_anchors`; ``cells`` are tuples.
    like : Tensor
        A tensor on the device wanted.

    Returns
    -------
    Tensor of shape (A, 4), float32
        Not to be written to.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    instance("like", like, Tensor, "a Lucid tensor")
    return Tensor(_joined(sequence("levels", levels, _level, minimum=1), like.device))


def _level(name: str, level: Any) -> Any:
    if not isinstance(level, tuple) or len(level) != 3 or not all(isinstance(part, tuple) for part in level):
        raise TypeError(f"{name} must be (cells, grid, stride), all tuples, got {shown(level)}.")
    return level


@lru_cache(maxsize=_KEPT_ANCHORS)
def _joined(levels: tuple[AnchorLevel, ...], device: str) -> Any:
    on_cpu = zeros(0)
    array = np.concatenate([grid_anchors(*level, on_cpu).data for level in levels])
    array.flags.writeable = False
    return device_array(array, device)


# ------------------------------------------------------------------ filtering


def top_k_per_level(scores: Tensor, level_sizes: Sequence[int], k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` best rows of each level, best first, and the level of each.

    Parameters
    ----------
    scores : Tensor of shape (A,), float
        The levels one after the other.
    level_sizes : sequence of int
        Their sizes, which add up to A.
    k : int
        At most so many of each, at least 1; equal scores keep their order, NaN comes first as in torch.

    Returns
    -------
    rows, levels : Tensor of shape (n,), int32
    """
    check_tensor("scores", scores, ("A",))
    sizes = sequence("level_sizes", level_sizes, non_negative_int)
    if sum(sizes) != scores.shape[0]:
        raise ValueError(f"level_sizes must add up to the {scores.shape[0]} scores, got {sizes}.")
    return _top_k_per_level(scores, level_sizes=sizes, k=positive_int("k", k))


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


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Return the rows of ``boxes`` (A, 4) whose width and height are both at least ``min_size``: (n,), int32."""
    return _remove_small_boxes(box_tensor("boxes", boxes), min_size=non_negative_number("min_size", min_size))


@on_host
def _remove_small_boxes(boxes: np.ndarray, *, min_size: float) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.flatnonzero((sides >= boxes.dtype.type(min_size)).all(axis=1)).astype(np.int32)


def finite_rows(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return the rows in which all of ``boxes`` (A, …) and of ``scores`` (A, …) is finite: (n,), int32."""
    check_tensor("boxes", boxes, ("A", ...))
    check_tensor("scores", scores, (boxes.shape[0], ...))
    return _finite_rows(boxes, scores)


@on_host
def _finite_rows(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    good = [np.isfinite(x).all(axis=tuple(range(1, x.ndim))) for x in (boxes, scores)]
    return np.flatnonzero(good[0] & good[1]).astype(np.int32)


def nonzero_above(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of the ``scores`` (R, K) above ``threshold``, row by row: (n,), (n,), int32."""
    check_tensor("scores", scores, ("R", "K"))
    return _nonzero_above(scores, threshold=number("threshold", threshold))


@on_host
def _nonzero_above(scores: np.ndarray, *, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(scores > scores.dtype.type(threshold))
    return rows.astype(np.int32), columns.astype(np.int32)


# ------------------------------------------------------------------ matching and sampling


def match(iou: Tensor, foreground: float, background: float, *, allow_low_quality_matches: bool) -> Tensor:
    """Assign an object to each box (Ren et al. 2015, section 3.1.2).

    Parameters
    ----------
    iou : Tensor of shape (G, A), float
        IoU of each object with each box; NaN is no overlap. With ``G = 0`` every box is background.
    foreground, background : float
        A box is matched with the object of its largest IoU if that is at least ``foreground``, and is background if
        it is below ``background``, which is not greater; between the two it is ignored.
    allow_low_quality_matches : bool
        Whether the best boxes of an object, ties included, are matched whatever their IoU. Such a box is matched with
        the object of *its own* largest IoU, as in torchvision.

    Returns
    -------
    Tensor of shape (A,), int32
        Index of the object, -1 for background, -2 for boxes to ignore.
    """
    check_tensor("iou", iou, ("G", "A"))
    return _match(iou, **_rules(foreground, background, allow_low_quality_matches))


def match_boxes(
    gt_boxes: Tensor, boxes: Tensor, foreground: float, background: float, *, allow_low_quality_matches: bool
) -> Tensor:
    """Return :func:`match` of the objects' boxes and others, without a matrix of all their IoUs.

    Parameters
    ----------
    gt_boxes : Tensor of shape (G, 4), float
        ``(x1, y1, x2, y2)`` in pixels.
    boxes : Tensor of shape (A, 4), float
        Of the same image.
    foreground, background, allow_low_quality_matches
        As for :func:`match`.

    Returns
    -------
    Tensor of shape (A,), int32
        Index of the object, -1 for background, -2 for boxes to ignore.
    """
    gt_boxes, boxes = box_tensor("gt_boxes", gt_boxes, ("G", 4)), box_tensor("boxes", boxes, ("A", 4))
    return _match_boxes(gt_boxes, boxes, **_rules(foreground, background, allow_low_quality_matches))


def _rules(foreground: float, background: float, allow_low_quality_matches: bool) -> dict[str, Any]:
    fraction("foreground", foreground)
    fraction("background", background)
    if background > foreground:
        raise ValueError(f"background must not be greater than foreground, got {background} and {foreground}.")
    low_quality = flag("allow_low_quality_matches", allow_low_quality_matches)
    return {"foreground": foreground, "background": background, "allow_low_quality_matches": low_quality}


@on_host
def _match(iou: np.ndarray, **rules: Any) -> np.ndarray:
    return _matches(lambda boxes: iou[:, boxes], iou.shape, iou.dtype, **rules)


@on_host
def _match_boxes(gt_boxes: np.ndarray, boxes: np.ndarray, **rules: Any) -> np.ndarray:
    dtype = np.result_type(gt_boxes, boxes)
    return _matches(lambda some: iou_matrix(gt_boxes, boxes[some]), (len(gt_boxes), len(boxes)), dtype, **rules)


def _matches(
    iou_of: Callable[[slice], np.ndarray],
    shape: tuple[int, ...],
    dtype: Any,
    *,
    foreground: float,
    background: float,
    allow_low_quality_matches: bool,
) -> np.ndarray:
    """Return the matches (A,); ``iou_of`` returns the IoU (G, a) of some of the boxes."""
    num_objects, num_boxes = shape
    if 0 in shape:
        return np.full(num_boxes, BELOW_THRESHOLD, np.int32)
    best, own = np.empty(num_boxes, dtype), np.empty(num_boxes, np.int32)
    best_of_object = np.full((num_objects, 1), -1, dtype)
    parts = chunks(num_boxes, max(_PAIRS // num_objects, 1))
    for some in parts:
        iou = _without_nan(iou_of(some))
        iou.max(axis=0, out=best[some])
        own[some] = iou.argmax(axis=0)
        np.maximum(best_of_object, iou.max(axis=1, keepdims=True), out=best_of_object)
    matches = own.copy()
    matches[best < np.float32(foreground)] = BETWEEN_THRESHOLDS
    matches[best < np.float32(background)] = BELOW_THRESHOLD
    if allow_low_quality_matches:
        best_of_object[best_of_object < 0] = np.nan  # of an object whose row was all NaN, which equals nothing
        for some in parts:
            if len(parts) > 1:  # computed again rather than kept
                iou = _without_nan(iou_of(some))
            low_quality = (iou == best_of_object).any(axis=0)
            matches[some][low_quality] = own[some][low_quality]
    return matches


def _without_nan(iou: np.ndarray) -> np.ndarray:
    """Replace NaN by -1: it is no overlap, below every threshold, and no object's best."""
    missing = np.isnan(iou.max(axis=0)).any()
    return np.where(np.isnan(iou), iou.dtype.type(-1), iou) if missing else iou


def permutation(count: int) -> Any:
    """Return the numbers below ``count`` in random order, drawn from Lucid's generator."""
    return np.asarray(lucid.random.permutation(non_negative_int("count", count, _MAX_INT)).data)


def sample_balanced(
    matches: Tensor, batch_size: int, positive_fraction: float, order: Any = permutation
) -> tuple[Tensor, Tensor]:
    """Draw boxes for the loss, at most a given fraction of them positive.

    Parameters
    ----------
    matches : Tensor of shape (A,), int32
        What :func:`match` returned.
    batch_size : int
        Boxes to draw; fewer if there are not as many.
    positive_fraction : float
        Largest fraction of positive ones. Background makes up the rest.
    order : callable
        Takes a count and returns a permutation; the first ones are taken.

    Returns
    -------
    positive, negative : Tensor of shape (n,), int32
        Rows, ascending.
    """
    index_tensor("matches", matches, "A")
    non_negative_int("batch_size", batch_size)
    fraction("positive_fraction", positive_fraction)
    if not callable(order) or isinstance(order, type):
        raise TypeError(f"order must be a function that returns a permutation, got {shown(order)}.")
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
