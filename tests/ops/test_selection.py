"""Anchors, matching, sampling, top-k and filters against torchvision, by hand and on both devices."""

import lucid
import numpy as np
import pytest
from gradients import tensor, values
from lucid import Tensor

from lucid_maskrcnn import ops
from lucid_maskrcnn.models import _AnchorGenerator
from lucid_maskrcnn.models.pooling import FeatureMaps
from lucid_maskrcnn.ops import (
    arange,
    box_iou,
    cell_anchors,
    concat,
    full,
    grid_anchors,
    match,
    match_boxes,
    nonzero_above,
    permutation,
    pick,
    remove_small_boxes,
    sample_balanced,
    selection,
    sigmoid,
    softmax,
    take,
    top_k_per_level,
)

SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)


def listed(*tensors: Tensor) -> list[list]:
    """Values of index tensors, which must be int32."""
    assert all(values(t).dtype == np.int32 for t in tensors)
    return [values(t).tolist() for t in tensors]


# ------------------------------------------------------------------ anchors


@pytest.mark.parity
def test_cell_anchors_equal_torchvision(torchvision_ops) -> None:
    for size, expected in zip(SIZES, torchvision_ops["anchor_cell"], strict=True):
        np.testing.assert_array_equal(np.float32(cell_anchors([size], RATIOS)), expected)


@pytest.mark.parity
@pytest.mark.parametrize("case", ["even", "odd"])
def test_anchors_equal_torchvision(torchvision_ops, device: str, case: str) -> None:
    generator = _AnchorGenerator(SIZES, RATIOS, per_level=True)
    grids = torchvision_ops[f"anchor_{case}_grid"].tolist()
    maps = [tensor(np.zeros((1, 1, *grid), np.float32), device) for grid in grids]
    height, width = torchvision_ops[f"anchor_{case}_image"].tolist()
    anchors = generator(FeatureMaps(maps, (height, width)))
    assert {a.device for a in anchors} == {device}
    assert [a.shape[0] for a in anchors] == [3 * rows * cols for rows, cols in grids]
    found = np.concatenate([values(a) for a in anchors])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, torchvision_ops[f"anchor_{case}"])


def test_cell_anchors_order() -> None:
    assert cell_anchors([8, 16], [1, 4]) == [
        (-4, -4, 4, 4),
        (-8, -8, 8, 8),
        (-2, -8, 2, 8),
        (-4, -16, 4, 16),
    ]


def test_grid_anchors_order(device: str) -> None:
    like = tensor(np.zeros(1, np.float32), device)
    anchors = grid_anchors([(-1, -2, 1, 2), (0, 0, 5, 5)], (2, 2), (10, 3.5), like)
    assert anchors.device == device
    assert values(anchors).tolist() == [
        [-1, -2, 1, 2],
        [0, 0, 5, 5],
        [2.5, -2, 4.5, 2],
        [3.5, 0, 8.5, 5],
        [-1, 8, 1, 12],
        [0, 10, 5, 15],
        [2.5, 8, 4.5, 12],
        [3.5, 10, 8.5, 15],
    ]


# ------------------------------------------------------------------ matching


@pytest.mark.parity
def test_match_equals_torchvision(torchvision_ops, device: str) -> None:
    quality = torchvision_ops["match_quality"]
    for name, iou, thresholds, allow_low_quality_matches in [
        ("match_rpn", quality, (0.7, 0.3), True),
        ("match_rpn_no_orphan", quality[:4], (0.7, 0.3), True),
        ("match_roi", quality, (0.5, 0.5), False),
    ]:
        found = match(tensor(iou, device), *thresholds, allow_low_quality_matches=allow_low_quality_matches)
        assert found.device == device
        assert listed(found) == [torchvision_ops[name].tolist()]


IOU = np.float32(
    [  # foreground from 0.7, background under 0.3
        [0.7, 0.69, 0.3, 0.29, 0.0, 0.2, 0.8],
        [0.1, 0.00, 0.1, 0.00, 0.0, 0.4, 0.8],
        [0.2, 0.00, 0.2, 0.25, 0.0, 0.2, 0.1],
    ]
)


@pytest.mark.parametrize(
    ("allow_low_quality_matches", "expected"),
    [
        (False, [0, -2, -2, -1, -1, -2, 0]),  # on the thresholds; the first of equal objects
        (True, [0, -2, -2, 0, -1, -2, 0]),  # column 3 is object 2's best, and goes to its own best, object 0
    ],
)
def test_match_by_hand(device: str, allow_low_quality_matches: bool, expected: list[int]) -> None:
    assert listed(match(tensor(IOU, device), 0.7, 0.3, allow_low_quality_matches=allow_low_quality_matches)) == [
        expected
    ]


def test_low_quality_matches_include_ties(device: str) -> None:
    iou = tensor(np.float32([[0.2, 0.1, 0.2, 0.1], [0, 0.1, 0, 0]]), device)
    assert listed(match(iou, 0.7, 0.3, allow_low_quality_matches=True)) == [[0, 0, 0, -1]]


@pytest.mark.parametrize("allow_low_quality_matches", [False, True])
def test_match_of_no_objects_or_no_boxes(device: str, allow_low_quality_matches: bool) -> None:
    assert listed(
        match(
            tensor(np.zeros((0, 3), np.float32), device), 0.7, 0.3, allow_low_quality_matches=allow_low_quality_matches
        )
    ) == [[-1, -1, -1]]
    assert listed(
        match(
            tensor(np.zeros((3, 0), np.float32), device), 0.7, 0.3, allow_low_quality_matches=allow_low_quality_matches
        )
    ) == [[]]
    assert listed(
        match(
            tensor(np.zeros((0, 0), np.float32), device), 0.7, 0.3, allow_low_quality_matches=allow_low_quality_matches
        )
    ) == [[]]


@pytest.mark.parametrize("pairs", [1, 40, 1 << 24])
@pytest.mark.parametrize("allow_low_quality_matches", [False, True])
def test_match_boxes_equals_match_of_their_iou(
    device: str, allow_low_quality_matches: bool, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_PAIRS", pairs)
    rng = np.random.default_rng(5)
    # Corners on a coarse grid have ties, and boxes without area: the IoU of two of those is NaN.
    corners = rng.integers(0, 6, (3, 64, 2, 2)).astype(np.float32) * 4
    many = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2)
    for count, size in ((0, 9), (1, 64), (7, 64), (7, 0)):
        gt, boxes = many[0, :count], many[1, :size]
        matched = match_boxes(
            tensor(gt, device), tensor(boxes, device), 0.7, 0.3, allow_low_quality_matches=allow_low_quality_matches
        )
        iou = tensor(box_iou(tensor(gt, "cpu"), tensor(boxes, "cpu")).data, device)
        wanted = match(iou, 0.7, 0.3, allow_low_quality_matches=allow_low_quality_matches)
        assert matched.device == device
        assert listed(matched) == listed(wanted)


# ------------------------------------------------------------------ sampling


@pytest.mark.parity
def test_sample_balanced_equals_torchvision(torchvision_ops, device: str) -> None:
    labels = torchvision_ops["sample_labels"]
    matches = np.select([labels >= 1, labels == 0], [0, -1], -2).astype(np.int32)
    for name, (batch_size, fraction) in torchvision_ops.meta["sampler"].items():
        positive, negative = sample_balanced(tensor(matches, device), batch_size, fraction, order=np.arange)
        assert positive.device == negative.device == device
        masks = [np.flatnonzero(torchvision_ops[f"sample_{name}_{kind}"]).tolist() for kind in ("pos", "neg")]
        assert listed(positive, negative) == masks


MATCHES = np.array([-1, 3, -2, -1, 0, -2, -1, -1, 1, -1], np.int32)


@pytest.mark.parametrize(
    ("batch_size", "fraction", "num_positive", "num_negative"),
    [
        (4, 0.5, 2, 2),
        (4, 0.25, 1, 3),
        (6, 1.0, 3, 3),  # background fills up
        (4, 0.0, 0, 4),
        (7, 0.25, 1, 5),  # 1.75 positives are 1; there are no more negatives
        (100, 0.5, 3, 5),
        (0, 0.5, 0, 0),
    ],
)
def test_sample_balanced_counts(
    device: str, batch_size: int, fraction: float, num_positive: int, num_negative: int
) -> None:
    lucid.random.seed(3)
    positive, negative = listed(*sample_balanced(tensor(MATCHES, device), batch_size, fraction))
    assert (len(positive), len(negative)) == (num_positive, num_negative)
    assert positive == sorted(set(positive))
    assert negative == sorted(set(negative))
    assert set(positive) <= {1, 4, 8}
    assert set(negative) <= {0, 3, 6, 7, 9}


def test_sample_balanced_is_random_and_repeats_with_the_seed(device: str) -> None:
    matches = tensor(np.repeat(np.int32([0, -1]), 500), device)
    drawn = []
    for seed in (1, 1, 2):
        lucid.random.seed(seed)
        drawn.append(listed(*sample_balanced(matches, 100, 0.5)))
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    positive, negative = drawn[0]
    assert min(positive) < 100 < 400 < max(positive) < 500 <= min(negative) < 600 < 900 < max(negative)


@pytest.mark.parametrize("matches", [[], [-2, -2], [-1], [5]])
def test_sample_balanced_of_few_boxes(device: str, matches: list[int]) -> None:
    positive, negative = listed(*sample_balanced(tensor(np.array(matches, np.int32), device), 8, 0.5))
    assert positive == [i for i, m in enumerate(matches) if m >= 0]
    assert negative == [i for i, m in enumerate(matches) if m == -1]


def test_permutation_draws_from_lucids_generator() -> None:
    lucid.random.seed(5)
    one = permutation(50)
    lucid.random.seed(5)
    np.testing.assert_array_equal(permutation(50), one)
    assert sorted(one.tolist()) == list(range(50))
    assert one.tolist() != list(range(50))
    assert permutation(0).shape == (0,)


# ------------------------------------------------------------------ top-k


def slow_top_k(scores: np.ndarray, level_sizes: list[int], k: int) -> list[list[int]]:
    rows, levels, start = [], [], 0
    for level, size in enumerate(level_sizes):
        best = sorted(range(start, start + size), key=lambda i: -scores[i])[:k]  # sorted() is stable
        rows += best
        levels += [level] * len(best)
        start += size
    return [rows, levels]


@pytest.mark.parametrize("k", [1, 2, 7, 30, 1000])
@pytest.mark.parametrize("distinct", [2, 5, 10**6])
def test_top_k_per_level_equals_a_stable_sort(device: str, k: int, distinct: int) -> None:
    sizes = [40, 0, 7, 1, 30]
    scores = np.random.default_rng(distinct).integers(-distinct, distinct, sum(sizes)).astype(np.float32)
    found = top_k_per_level(tensor(scores, device), sizes, k)
    assert {t.device for t in found} == {device}
    assert listed(*found) == slow_top_k(scores, sizes, k)


def test_top_k_with_infinite_scores(device: str) -> None:
    scores = tensor(np.float32([-np.inf, 2, np.inf, -np.inf, 3]), device)
    assert listed(top_k_per_level(scores, [5], 3)[0]) == [[2, 4, 1]]
    assert listed(top_k_per_level(scores, [5], 5)[0]) == [[2, 4, 1, 0, 3]]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_top_k_puts_nan_first(device: str, k: int) -> None:
    scores = tensor(np.float32([5, np.nan, 4, np.inf, np.nan]), device)
    assert listed(top_k_per_level(scores, [5], k)[0]) == [[1, 4, 3, 0, 2][:k]]


def test_top_k_of_no_scores(device: str) -> None:
    for sizes in ([], [0], [0, 0]):
        assert listed(*top_k_per_level(tensor(np.zeros(0, np.float32), device), sizes, 5)) == [[], []]


# ------------------------------------------------------------------ filters


@pytest.mark.parity
def test_remove_small_boxes_equals_torchvision(torchvision_ops, device: str) -> None:
    boxes = tensor(torchvision_ops["small_boxes"], device)
    for tag, min_size in (("1e3", 1e-3), ("1e2", 1e-2)):
        found = remove_small_boxes(boxes, min_size)
        assert found.device == device
        assert listed(found) == [torchvision_ops[f"small_keep_{tag}"].tolist()]


def test_remove_small_boxes_by_hand(device: str) -> None:
    boxes = np.float32([[0, 0, 2, 2], [0, 0, 1.9, 9], [5, 5, 9, 6], [3, 3, 1, 1], [0, 0, np.nan, 9], [1, 1, 4, 3]])
    assert listed(remove_small_boxes(tensor(boxes, device), 2)) == [[0, 5]]
    assert listed(remove_small_boxes(tensor(boxes[:0], device), 2)) == [[]]


def test_nonzero_above_excludes_the_threshold(device: str) -> None:
    scores = np.float32([[0.05, 0.06, 0], [np.nan, 0.04, 1], [0.9, 0.0500001, 0.05]])
    found = nonzero_above(tensor(scores, device), 0.05)
    assert {t.device for t in found} == {device}
    assert listed(*found) == [[0, 1, 2, 2], [1, 2, 0, 1]]
    assert listed(*nonzero_above(tensor(scores, device), 1)) == [[], []]
    assert listed(*nonzero_above(tensor(np.zeros((0, 3), np.float32), device), 0.05)) == [[], []]


# ------------------------------------------------------------------ plain arithmetic


def test_softmax_of_extremes(device: str) -> None:
    logits = np.float32([[1000, -1000, 1000], [-1000, -1000, -1000], [0, np.log(2), np.log(5)], [1e38, -1e38, 0]])
    found = values(softmax(tensor(logits, device)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, [[0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3], [1 / 8, 2 / 8, 5 / 8], [1, 0, 0]], rtol=1e-6
    )
    assert values(softmax(tensor(logits[:0], device))).shape == (0, 3)


def test_sigmoid_of_extremes(device: str) -> None:
    x = np.float32([-np.inf, -1000, -np.log(3), 0, np.log(3), 1000, np.inf, np.nan])
    found = values(sigmoid(tensor(x, device)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 0, 0.25, 0.5, 0.75, 1, 1, np.nan], rtol=1e-6)
    assert values(sigmoid(tensor(x[:0], device))).shape == (0,)


def test_take_pick_and_concat(device: str) -> None:
    x = tensor(np.arange(24, dtype=np.float32).reshape(4, 3, 2), device, requires_grad=True)
    rows, columns = (tensor(np.array(i, np.int32), device) for i in ([3, 0, 3], [0, 2, 1]))
    array = values(x)
    for found, expected in [
        (take(x, rows), array[[3, 0, 3]]),
        (take(x, 2), array[2]),
        (take(x, tensor(np.zeros(0, np.int32), device)), array[:0]),
        (pick(x, rows, columns), array[[3, 0, 3], [0, 2, 1]]),
        (pick(x, *[tensor(np.zeros(0, np.int32), device)] * 2), array[:0, 0]),
        (concat([x, take(x, rows), take(x, rows[:0])]), array[[0, 1, 2, 3, 3, 0, 3]]),
        (concat([x]), array),
    ]:
        assert found.device == device
        assert not found.requires_grad
        assert values(found).dtype == np.float32
        np.testing.assert_array_equal(values(found), expected)


def test_arange_and_full(device: str) -> None:
    like = tensor(np.zeros((0, 4), np.float32), device)
    assert listed(arange(3, like), arange(0, like), full(2, 7, like), full(0, 7, like)) == [[0, 1, 2], [], [7, 7], []]
    assert arange(3, like).device == full(2, 7, like).device == device


@pytest.mark.parametrize("wrong", [6, 99, -1, 2**33])
def test_an_index_out_of_range_on_gpu_gives_nan_and_reads_no_other_memory(wrong: int) -> None:
    x = ops.as_tensor(np.arange(24, dtype=np.float32).reshape(6, 4), "gpu")
    rows = ops.as_tensor(np.array([2, wrong], np.int64 if wrong > 2**31 else np.int32), "gpu")
    zeros = ops.as_tensor(np.zeros(2, np.int32), "gpu")
    taken, picked = ops.host(ops.take(x, rows)), ops.host(ops.pick(x, rows, zeros))
    np.testing.assert_array_equal(taken[0], [8, 9, 10, 11])
    assert np.isnan(taken[1]).all()
    assert picked[0] == 8
    assert np.isnan(picked[1])
    assert np.isnan(ops.host(ops.pick(x, zeros, rows))[1])
    targets = ops.as_tensor(np.zeros(2, np.float32), "gpu")
    assert np.isnan(ops.host(ops.binary_cross_entropy(x, rows, zeros, targets)))
    assert np.isnan(ops.host(ops.smooth_l1(x, zeros, rows, targets, beta=1.0, divisor=2)))
    of_ints = ops.take(ops.as_tensor(np.arange(6, dtype=np.int32), "gpu"), rows)
    assert 0 <= ops.host(of_ints)[1] <= 5


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_indices_of_any_integer_type_take_rows_of_a_long_tensor(device: str, dtype: type) -> None:
    x = np.arange(400, dtype=np.float32).reshape(200, 2)
    rows = ops.as_tensor(np.array([0, 7, 127], dtype), device)
    np.testing.assert_array_equal(ops.host(ops.take(ops.as_tensor(x, device), rows)), x[[0, 7, 127]])
