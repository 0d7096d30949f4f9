"""``predict`` with chosen classes, and with suppression among all classes and by masks."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from tiny_runs import slim

from lucid_maskrcnn import Detections, MaskRCNN
from lucid_maskrcnn.ops import host

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)
NAMES = {1: "a", 2: "b", 3: "c"}


@cache
def model(device: str = "cpu") -> MaskRCNN:
    """Random weights find all classes at the same places."""
    return slim(num_classes=3, categories=NAMES).to(device)


def predict(device: str = "cpu", **options: Any) -> Detections:
    return model(device).predict(IMAGE, **{"score_thresh": 0.0, "top_k": 100_000, **options})[0]


def rows(found: Detections) -> list[tuple[float, ...]]:
    columns = (host(found.scores).tolist(), host(found.labels).tolist(), host(found.boxes).round(3).tolist())
    return [(score, label, *box) for score, label, box in zip(*columns, strict=True)]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_chosen_classes_are_found_as_if_there_were_no_others(device: str) -> None:
    everything, some = predict(device), predict(device, classes=["b", 3])
    assert set(host(everything.labels).tolist()) == {1, 2, 3}
    assert rows(some) == [row for row in rows(everything) if row[1] != 1]
    assert rows(predict(device, classes="b", top_k=5)) == [row for row in rows(everything) if row[1] == 2][:5]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_class_agnostic_suppression_leaves_one_label_a_place(device: str) -> None:
    found = predict(device, class_agnostic_nms=True)
    assert 0 < len(found) < len(predict(device))
    boxes = host(found.boxes).astype(np.float64)
    low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    iou = shared / (areas[:, None] + areas - shared)
    assert np.triu(iou, 1).max() <= model().config.heads.nms_thresh + 1e-5


def test_suppression_by_masks_compares_masks() -> None:
    thresh = 0.4
    found = predict(mask_nms=True, nms_thresh=thresh)
    by_hand = predict(nms_thresh=(1 + thresh) / 2).nms(thresh, masks=True)
    assert rows(found) == rows(by_hand)
    assert len(found) != len(predict(nms_thresh=thresh))
    assert rows(predict(mask_nms=True, nms_thresh=thresh, top_k=7)) == rows(found)[:7]
    agnostic = predict(mask_nms=True, nms_thresh=thresh, class_agnostic_nms=True)
    assert len(agnostic) < len(found)


def test_wrong_classes_are_named() -> None:
    with pytest.raises(ValueError, match=r"classes\[0\]: there is no class 'd'"):
        model().predict(IMAGE, classes=["d"])
    with pytest.raises(ValueError, match=r"classes\[1\] must be an integer from 1 to 3, got 4"):
        model().predict(IMAGE, classes=[1, 4])
    with pytest.raises(TypeError, match="mask_nms must be True or False, got 1"):
        model().predict(IMAGE, mask_nms=1)
    with pytest.raises(TypeError, match="class_agnostic_nms must be True or False, got 'yes'"):
        model().predict(IMAGE, class_agnostic_nms="yes")
