"""The five losses, computed by hand."""

import math
from typing import Any

import numpy as np
import pytest
from gradients import tensor, values
from lucid import Tensor

from lucid_maskrcnn.models import (
    _MaskRCNNLoss,
)
from lucid_maskrcnn.models.heads import RoISamples
from lucid_maskrcnn.models.rpn import AnchorSamples, RPNOutput

LOSSES = ["rpn_cls_loss", "rpn_reg_loss", "roi_cls_loss", "roi_reg_loss", "mask_loss", "total_loss"]


def test_losses_by_hand(device: str) -> None:
    def on_device(*arrays: Any) -> list[Tensor]:
        return [tensor(np.array(a, np.float32 if np.array(a).dtype.kind == "f" else np.int32), device) for a in arrays]

    rpn = RPNOutput(*on_device(np.zeros((2, 3, 1)), np.full((2, 3, 4), 2.0), np.zeros((3, 4))), [3])
    anchors = AnchorSamples(
        *on_device([0, 0, 1, 1], [0, 2, 1, 0], [[1.0], [0.0], [0.0], [0.0]], [0], [0], [[2.0, 2.0, 2.0, 0.0]])
    )
    rois = RoISamples(
        *on_device(
            np.zeros((5, 4)),
            [0] * 5,
            [2, 0, 0, 1, 0],
            [0, 3],
            np.zeros((2, 4)),
            [0, 0],
            [1, 0],
            [[1.0, 0.0, 0.0, 0.0]] * 2,
            np.ones((2, 2, 2)),
        )
    )
    cls_logits, bbox_deltas, mask_logits = on_device(np.zeros((5, 3)), np.zeros((5, 8)), np.zeros((2, 1, 2, 2)))
    losses = _MaskRCNNLoss()(rpn, anchors, cls_logits, bbox_deltas, mask_logits, rois)
    assert list(losses) == LOSSES
    step = 1 / 9 / 2  # below the linear part of smooth L1
    expected = [math.log(2), (2 - step) / 4, math.log(3), 2 * (1 - step) / 5, math.log(2)]
    assert [float(values(loss)) for loss in losses.values()] == pytest.approx([*expected, sum(expected)], rel=1e-6)
