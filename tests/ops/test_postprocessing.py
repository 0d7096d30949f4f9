"""Detections found on the gpu, for all images at once, are those of the cpu, in the same order."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import tensor, values

from lucid_maskrcnn.ops import DetectionRules, ProposalRules, detect_boxes, filter_proposals, postprocessing

RULES = DetectionRules(0.05, 0.5, 100, (10.0, 10.0, 5.0, 5.0), 0.01)
SIZES = [(64, 64), (40, 60), (50, 50)]


def proposed(device, rng, sizes, num):
    low = rng.uniform(0, 50, (num, 2))
    anchors = np.concatenate([low, low + rng.uniform(4, 20, (num, 2))], axis=1).astype(np.float32)
    logits = rng.normal(size=(len(sizes), num, 1)).astype(np.float32)
    rules = ProposalRules(num or 1, num or 1, 0.6, 0.0)
    deltas = np.zeros((len(sizes), num, 4), np.float32)
    return filter_proposals(*(tensor(a, device) for a in (logits, deltas, anchors)), [num], sizes, rules)


def detections(device, rules, *, seed=0, classes=3, num=30, sizes=SIZES, change=None):
    rng = np.random.default_rng(seed)
    found = proposed(device, rng, sizes, num)
    counts = values(found.counts)
    # The same predictions for the same proposals on both devices; what is left over in the rooms gets the highest.
    rooms = np.concatenate([np.arange(room) for room in found.rooms])
    image = np.repeat(np.arange(len(sizes)), found.rooms)
    logits = rng.normal(0, 2, (len(sizes), num, classes + 1)).astype(np.float32)
    deltas = rng.normal(0, 1, (len(sizes), num, 4 * classes)).astype(np.float32)
    for i, count in enumerate(counts):
        logits[i, count:, 1] = 50
    if change is not None:
        change(logits, deltas)
    args = (tensor(a[image, rooms], device) for a in (logits, deltas))
    with np.errstate(all="ignore"):
        return detect_boxes(*args, found, sizes, rules)


def assert_same(rules=RULES, **options):
    cpu, gpu = (detections(device, rules, **options) for device in ("cpu", "gpu"))
    assert len(cpu) == len(gpu)
    for a, b in zip(cpu, gpu, strict=True):
        assert values(b.labels).dtype == np.int32
        np.testing.assert_array_equal(values(b.labels), values(a.labels))
        np.testing.assert_allclose(values(b.scores), values(a.scores), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(values(b.boxes), values(a.boxes), rtol=1e-5, atol=1e-5)
        assert b.boxes.shape == (len(values(a.scores)), 4)
        assert a.num_before_top_k == b.num_before_top_k
    return cpu


@pytest.mark.parametrize("classes", [1, 3, 90])
@pytest.mark.parametrize("score_thresh", [0.0, 0.05, 1.0])
def test_detections_of_both_devices(classes, score_thresh):
    cpu = assert_same(RULES._replace(score_thresh=score_thresh, top_k=10**6), classes=classes)
    assert all((found.scores.shape[0] > 0) == (score_thresh < 1) for found in cpu)


@pytest.mark.parametrize("top_k", [0, 1, 5, 10**6])
def test_the_best_are_taken_and_the_others_are_counted(top_k):
    cpu = assert_same(RULES._replace(top_k=top_k))
    assert all(found.scores.shape[0] <= top_k for found in cpu)
    assert all(found.num_before_top_k > 5 for found in cpu)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("changes", [{"min_size": 12.0}, {"nms_thresh": 0.0}, {"nms_thresh": 1.0}, {"top_k": 20}])
def test_other_rules(seed, changes):
    assert_same(RULES._replace(**changes), seed=seed)


@pytest.mark.parametrize("finite_only", [False, True])
def test_values_that_are_not_finite(finite_only):
    def change(logits, deltas):
        logits[0, 2, 1], logits[0, 3, 2], logits[1, 0, 0] = np.nan, np.inf, -np.inf
        deltas[0, 4, 0], deltas[1, 1, 5], deltas[2, 0, 2], deltas[2, 1, 3] = np.nan, np.inf, -np.inf, np.inf

    cpu = assert_same(RULES._replace(finite_only=finite_only), change=change)
    if finite_only:
        assert all(np.isfinite(values(found.boxes)).all() for found in cpu)


def test_equal_scores_are_in_the_order_of_proposals_and_classes():
    assert_same(RULES._replace(nms_thresh=0.9), change=lambda logits, _: logits.fill(0))


def test_one_image_and_no_proposals():
    assert_same(sizes=[(64, 64)])
    assert [found.boxes.shape[0] for found in assert_same(num=0)] == [0, 0, 0]


@pytest.mark.parametrize("top_k", [3, 10, 10**6])
def test_more_candidates_are_looked_at_if_the_best_leave_too_few(monkeypatch, top_k):
    """What counts beyond ``top_k`` is how many there are at least."""
    monkeypatch.setattr(postprocessing, "_CANDIDATES", 8)
    monkeypatch.setattr(postprocessing, "ROUNDS", 1)
    rules = RULES._replace(top_k=top_k)
    cpu, gpu = (detections(device, rules, num=60) for device in ("cpu", "gpu"))
    for a, b in zip(cpu, gpu, strict=True):
        np.testing.assert_array_equal(values(b.labels), values(a.labels))
        np.testing.assert_allclose(values(b.boxes), values(a.boxes), rtol=1e-5, atol=1e-5)
        assert min(a.num_before_top_k, top_k) <= b.num_before_top_k <= a.num_before_top_k


def test_more_than_a_thousand_candidates_are_not_moved_apart():
    assert_same(RULES._replace(score_thresh=0.0, top_k=10**6), classes=20, num=80, sizes=[(64, 64)])


def test_proposals_that_are_not_settled_are_told():
    rng = np.random.default_rng(0)
    found = proposed("gpu", rng, SIZES, 5)
    found = found._replace(settled=tensor(np.array([True, False, True]), "gpu"))
    rows = found.boxes.shape[0]
    args = tensor(np.zeros((rows, 3), np.float32), "gpu"), tensor(np.zeros((rows, 8), np.float32), "gpu")
    assert detect_boxes(*args, found, SIZES, RULES) is None
