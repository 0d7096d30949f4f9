"""The five losses, computed by hand."""

import math
from typing import Any

import lucid
import numpy as np
import pytest
from gradients import tensor, values
from lucid import Tensor
from tiny_runs import Squares, slim

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


# ------------------------------------------------------------------ weights


@pytest.fixture(scope="module")
def detector() -> Any:
    return slim(categories={1: "dim", 2: "bright"})


def losses_of(model: Any, device: str = "cpu", **weights: Any) -> tuple[dict[str, float], list[np.ndarray]]:
    """Return the losses of one batch, and the gradients of all parameters."""
    batch = Squares(1).batch(0)
    model.to(device).train()
    lucid.random.seed(3)
    for p in model.parameters():
        p.grad = None
    found = model.get_loss(batch.images, batch.targets, **weights)
    found["total_loss"].backward()
    grads = [np.asarray(p.grad) for p in model.parameters() if p.grad is not None]
    return {name: float(values(loss)) for name, loss in found.items()}, grads


def test_weights_of_one_change_nothing(detector: Any, device: str) -> None:
    usual, grads = losses_of(detector, device)
    ones = {"loss_weights": dict.fromkeys(LOSSES[:5], 1.0), "class_weights": {"dim": 1, 2: 1.0, "background": 1}}
    again, same = losses_of(detector, device, **ones)
    assert again == usual
    for a, b in zip(grads, same, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_losses_are_factors(detector: Any, device: str) -> None:
    usual, grads = losses_of(detector, device)
    factors = {"rpn_cls_loss": 2.0, "mask_loss": 0.5, "roi_reg_loss": 0.0}
    found, weighted = losses_of(detector, device, loss_weights=factors)
    wanted = {name: usual[name] * factors.get(name, 1.0) for name in LOSSES[:5]}
    assert found == pytest.approx({**wanted, "total_loss": sum(wanted.values())}, rel=1e-6)
    parts = [losses_of(detector, device, loss_weights=dict.fromkeys(set(LOSSES[:5]) - {n}, 0.0))[1] for n in LOSSES[:5]]
    for k, grad in enumerate(weighted):
        total = sum(factors.get(name, 1.0) * part[k] for name, part in zip(LOSSES[:5], parts, strict=True))
        np.testing.assert_allclose(grad, total, rtol=1e-3, atol=1e-5)
    assert len(grads) == len(weighted)


def test_gradients_of_weighted_losses_are_finite_differences(detector: Any) -> None:
    """Of the last layers' biases, which no choice of samples depends on: the loss changes as the gradient says."""
    weights: dict[str, Any] = {
        "loss_weights": {"roi_cls_loss": 3.0, "mask_loss": 0.5},
        "class_weights": {"bright": 5.0},
    }
    losses_of(detector, **weights)
    variables = detector.state_dict(keep_vars=True)
    heads = {n: p for n, p in variables.items() if n.endswith(("cls_score.bias", "mask_predictor.bias"))}
    assert len(heads) == 2
    slopes = {name: np.asarray(p.grad).copy() for name, p in heads.items()}
    for name, p in heads.items():
        before, step = p.data, 1e-2
        for i in range(p.shape[0]):
            shift = step * (np.arange(p.shape[0]) == i).astype(np.float32)
            ends = []
            for sign in (1, -1):
                p.data = before + sign * shift
                ends.append(losses_of(detector, **weights)[0]["total_loss"])
            p.data = before
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slopes[name][i], rel=2e-2, abs=2e-3), name


def test_a_rare_class_counts_more(detector: Any) -> None:
    usual = losses_of(detector)[0]
    only = [losses_of(detector, class_weights={c: 0.0 for c in (0, 1, 2) if c != k})[0] for k in range(3)]
    mean = losses_of(detector, class_weights={"dim": 4.0})[0]
    parts = [loss["roi_cls_loss"] for loss in only]
    assert min(parts) < mean["roi_cls_loss"] < max(parts)
    assert mean["roi_cls_loss"] != usual["roi_cls_loss"]
    assert {n: mean[n] for n in LOSSES[:2]} == {n: usual[n] for n in LOSSES[:2]}


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"loss_weights": {"mask": 2}}, ValueError, "loss_weights has an unknown loss 'mask'"),
        ({"loss_weights": {"mask_los": 2}}, ValueError, "did you mean 'mask_loss'"),
        ({"loss_weights": {"total_loss": 2}}, ValueError, "loss_weights has an unknown loss 'total_loss'"),
        (
            {"loss_weights": {"mask_loss": -1}},
            ValueError,
            r"\['mask_loss'\] must be a number of at least 0",
        ),
        ({"loss_weights": {"mask_loss": "2"}}, TypeError, r"loss_weights\['mask_loss'\] must be a number"),
        ({"loss_weights": [1, 2]}, TypeError, "loss_weights must be a mapping of losses to factors"),
        ({"loss_weights": dict.fromkeys(LOSSES[:5], 0)}, ValueError, "got 0 for all losses"),
        (
            {"class_weights": {"brigth": 2}},
            ValueError,
            "there is no class 'brigth'; did you mean 'bright'",
        ),
        ({"class_weights": {3: 2}}, ValueError, "class_weights"),
        ({"class_weights": {True: 2}}, TypeError, "class_weights"),
        (
            {"class_weights": {"dim": float("nan")}},
            ValueError,
            r"\['dim'\] must be a number of at least 0",
        ),
        ({"class_weights": [1, 1, 2]}, TypeError, "class_weights must be a mapping of classes"),
        ({"class_weights": {0: 0, 1: 0, 2: 0}}, ValueError, "got 0 for all classes"),
    ],
)
def test_wrong_weights_are_named(detector: Any, weights: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        losses_of(detector, **weights)
