"""Proposals found on the gpu, in rooms of one size, are those of the cpu."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import tensor, values

from lucid_maskrcnn.ops import ProposalRules, filter_proposals, proposals

RULES = ProposalRules(pre_nms_top_n=30, post_nms_top_n=20, nms_thresh=0.7, min_size=0.0)
SIZES = [(64, 64), (40, 60)]
LEVELS = [48, 12, 3]


def predictions(seed, num=63, images=2):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, 60, (num, 2))
    anchors = np.concatenate([low, low + rng.uniform(4, 30, (num, 2))], axis=1).astype(np.float32)
    logits = rng.normal(0, 2, (images, num, 1)).astype(np.float32)
    return logits, rng.normal(0, 0.3, (images, num, 4)).astype(np.float32), anchors


def found(device, made, rules=RULES, levels=LEVELS, sizes=SIZES):
    with np.errstate(all="ignore"):
        return filter_proposals(*(tensor(a, device) for a in made), levels, sizes, rules)


def assert_same(made, rules=RULES, levels=LEVELS, sizes=SIZES):
    cpu, gpu = (found(device, made, rules, levels, sizes) for device in ("cpu", "gpu"))
    assert values(cpu.counts).tolist() == values(gpu.counts).tolist() == cpu.rooms
    assert len(set(gpu.rooms)) == 1
    for a, b, c in zip(cpu.per_image(), gpu.per_image(), gpu.on_cpu(), strict=True):
        assert (b.device, c.device) == ("gpu", "cpu")
        np.testing.assert_allclose(values(b), values(a), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(values(b), values(c))
    np.testing.assert_allclose(values(gpu.weakest), values(cpu.weakest), rtol=1e-5, atol=1e-6)
    rooms = values(gpu.boxes).reshape(len(sizes), -1, 4)
    for boxes, count in zip(rooms, cpu.rooms, strict=True):
        assert not boxes[count:].any()
    assert values(gpu.roi_idx).tolist() == [i for i, room in enumerate(gpu.rooms) for _ in range(room)]
    return cpu


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"by_logits": True},
        {"min_size": 8.0},
        {"finite_only": True},
        {"post_nms_top_n": 5},
        {"post_nms_top_n": 1000, "pre_nms_top_n": 1000},
        {"pre_nms_top_n": 1},
        {"min_size": 1000.0},
        {"nms_thresh": 0.0},
        {"nms_thresh": 1.0},
    ],
)
def test_proposals_of_both_devices(seed, changes):
    assert_same(predictions(seed), RULES._replace(**changes))


def test_ties_keep_the_order_of_anchors():
    logits, deltas, anchors = predictions(0)
    assert_same((logits.round(), deltas, anchors))
    assert_same((np.zeros_like(logits), deltas, anchors), RULES._replace(post_nms_top_n=3))


@pytest.mark.parametrize("finite_only", [False, True])
@pytest.mark.parametrize("by_logits", [False, True])
def test_values_that_are_not_finite(finite_only, by_logits):
    logits, deltas, anchors = predictions(1)
    logits[0, 3], logits[0, 7], logits[1, 50] = np.nan, np.inf, -np.inf
    deltas[0, 5, 0], deltas[1, 9, 1], deltas[1, 20, 2], deltas[1, 21, 3] = np.nan, np.inf, -np.inf, np.inf
    rules = RULES._replace(finite_only=finite_only, by_logits=by_logits, pre_nms_top_n=100, post_nms_top_n=100)
    cpu = assert_same((logits, deltas, anchors), rules)
    if finite_only:
        assert all(np.isfinite(values(boxes)).all() for boxes in cpu.per_image())


@pytest.mark.parametrize("levels", [[0, 60, 3], [60, 3, 0], [63, 0, 0, 0], [63]])
def test_levels_without_anchors(levels):
    assert_same(predictions(2), levels=levels)


def test_no_anchors_at_all():
    cpu = assert_same(predictions(0, num=0), levels=[0, 0])
    assert cpu.rooms == [0, 0]


def test_more_than_a_thousand_candidates():
    made = predictions(3, num=1300, images=1)
    rules = RULES._replace(pre_nms_top_n=1000, post_nms_top_n=300)
    assert_same(made, rules, levels=[1000, 200, 100], sizes=[(80, 80)])


def test_suppression_that_has_not_come_to_its_end_is_repeated(monkeypatch):
    num = 40
    left = np.arange(num, dtype=np.float32) * 4
    anchors = np.stack([left, np.zeros(num), left + 10, np.full(num, 10)], axis=1).astype(np.float32)
    logits = np.linspace(3, -3, num).astype(np.float32).reshape(1, num, 1)
    made, rules = (logits, np.zeros((1, num, 4), np.float32), anchors), RULES._replace(pre_nms_top_n=60, nms_thresh=0.4)
    monkeypatch.setattr(proposals, "ROUNDS", 2)
    first = found("gpu", made, rules, [num], [(20, 400)])
    assert not values(first.settled).any()
    again = first.again()
    assert values(again.settled).all()
    expected = found("cpu", made, rules, [num], [(20, 400)]).per_image()[0]
    assert expected.shape[0] == num // 2
    for boxes in (first.per_image()[0], first.on_cpu()[0], again.per_image()[0]):
        np.testing.assert_allclose(values(boxes), values(expected), rtol=1e-5, atol=1e-5)
