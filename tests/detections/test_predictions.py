"""The list that ``predict`` returns."""

from __future__ import annotations

import copy
import pickle

import numpy as np
from tiny_runs import slim

from lucid_maskrcnn import Detections, Predictions


def test_predictions_are_a_list_that_shows_itself() -> None:
    images = [np.zeros((20, 30, 3), np.uint8)] * 10
    found = slim().predict(images, score_thresh=0.99)
    assert isinstance(found, Predictions)
    assert isinstance(found, list)
    assert repr(found).splitlines() == [
        "Predictions(10 images, no objects)",
        *(f"  [{i}] 0 in 20 × 30 pixels, on cpu" for i in range(8)),
        "  … 2 more",
    ]
    assert isinstance(found[0], Detections)
    assert isinstance(found[1:3], Predictions)
    for again in (copy.copy(found), pickle.loads(pickle.dumps(found))):
        assert isinstance(again, Predictions)
        assert len(again) == 10
