"""Suppression as a fixed point of matrices gives the answer of the greedy loop, whatever boxes and scores are."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from gradients import tensor, values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lucid_maskrcnn.ops import batched_nms, nms, nms_gpu

few_scores = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, np.nan, np.inf, -np.inf])
odd_coordinates = st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 0.0, -0.0, 1e-38])
coordinates = st.one_of(st.integers(-8, 8).map(float), odd_coordinates)
whole = st.integers(0, 12).map(float)


def boxes_of(rng, num, extent=300.0):
    low = rng.uniform(0, extent, (num, 2))
    return np.concatenate([low, low + rng.uniform(5, 60, (num, 2))], axis=1).astype(np.float32)


def assert_same(boxes, scores, classes, thresh):
    kept = {}
    for device in ("cpu", "gpu"):
        with np.errstate(all="ignore"):
            args = tensor(boxes, device), tensor(scores, device)
            if classes is None:
                kept[device] = values(nms(*args, thresh))
            else:
                kept[device] = values(batched_nms(*args, tensor(classes, device), thresh))
    assert kept["gpu"].dtype == np.int32
    np.testing.assert_array_equal(kept["gpu"], kept["cpu"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_boxes_and_scores(data):
    num = data.draw(st.integers(0, 20))
    values_of = data.draw(st.sampled_from([whole, coordinates]))
    boxes = data.draw(arrays(np.float32, (num, 4), elements=values_of.map(lambda v: float(np.float32(v)))))
    scores = data.draw(arrays(np.float32, (num,), elements=few_scores))
    classes = data.draw(st.none() | arrays(np.int32, (num,), elements=st.integers(0, 3)))
    assert_same(boxes, scores, classes, data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])))


@pytest.mark.parametrize("num", [1, 511, 512, 513, 1000, 1001, 1100])
def test_ends_of_blocks_and_the_change_of_rule(num):
    """Up to 1000 boxes are moved apart by class in float32, which far from the origin changes what they overlap."""
    rng = np.random.default_rng(num)
    boxes = boxes_of(rng, num) + np.float32(30000)
    scores = rng.integers(0, 40, num).astype(np.float32) / 40
    for classes in (None, rng.integers(0, 5, num).astype(np.int32)):
        assert_same(boxes, scores, classes, 0.5)


@pytest.mark.parametrize("num", [40, 600])
def test_each_box_hangs_on_the_one_before(num):
    """Each overlaps only its neighbors: every second one stays, and the last is decided last."""
    left = np.arange(num, dtype=np.float32) * 4
    boxes = np.stack([left, np.zeros(num), left + 10, np.full(num, 10)], axis=1).astype(np.float32)
    scores = np.linspace(1, 0.5, num).astype(np.float32)
    assert num > nms_gpu.ROUNDS
    assert values(nms(tensor(boxes, "gpu"), tensor(scores, "gpu"), 0.4)).tolist() == list(range(0, num, 2))
    assert_same(boxes, scores, np.zeros(num, np.int32), 0.4)


def test_unsettled_rounds_are_told():
    num = 40
    left = np.arange(num, dtype=np.float32) * 4
    boxes = np.stack([left, np.zeros(num), left + 10, np.full(num, 10)], axis=1).astype(np.float32)
    args = mx.array(boxes)[None], mx.zeros((1, num), mx.int32), mx.full((1, num), True)
    assert [bool(nms_gpu.keep_gpu(*args, 0.4, rounds)[1]) for rounds in (1, num - 2, num - 1, num)] == [0, 0, 0, 1]


def test_images_and_dead_candidates_do_not_mix():
    rng = np.random.default_rng(0)
    boxes = np.stack([boxes_of(rng, 30, 60), boxes_of(rng, 30, 60)])
    alive = np.arange(30) < np.array([[30], [12]])
    classes = rng.integers(0, 2, (2, 30)).astype(np.int32)
    boxes[1, 12:] = np.nan  # not alive: moves no one apart
    keep, settled = nms_gpu.keep_gpu(mx.array(boxes), mx.array(classes), mx.array(alive), 0.3)
    assert np.asarray(settled).all()
    for i, num in enumerate((30, 12)):
        scores = np.linspace(1, 0, num).astype(np.float32)
        alone = batched_nms(tensor(boxes[i, :num]), tensor(scores), tensor(classes[i, :num]), 0.3)
        np.testing.assert_array_equal(np.flatnonzero(np.asarray(keep[i])), np.sort(values(alone)))


@given(arrays(np.float32, st.integers(0, 30), elements=st.floats(width=32) | few_scores))
@settings(max_examples=60, deadline=None)
def test_descending_order_is_numpys(scores):
    order = np.asarray(nms_gpu.descending_gpu(mx.array(scores)))
    nan = np.isnan(scores)
    expected = [*np.flatnonzero(nan), *(i for i in np.argsort(-scores, kind="stable") if not nan[i])]
    assert order.tolist() == expected


def test_the_dead_come_last_of_all():
    scores = mx.array([-np.inf, np.nan, 3.0, -np.inf])
    assert nms_gpu.descending_gpu(scores, mx.array([True, False, False, True])).tolist() == [0, 3, 1, 2]
