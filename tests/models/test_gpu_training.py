"""Losses, gradients and training on gpu: the same as on cpu, with few waits and few shapes."""

from __future__ import annotations

from typing import Any

import lucid
import numpy as np
import pytest
from tiny_runs import Squares, slim

from lucid_maskrcnn import MaskRCNN

VARIANTS: list[dict[str, Any]] = [
    {"norm": "batch"},
    {"norm": "frozen"},
    {"norm": "frozen", "box_convs": True, "rpn_convs": 2},
    {"norm": "batch", "box_convs": True, "head_norm": "batch", "fpn_norm": "batch"},
    {"norm": "frozen", "box_convs": True, "head_norm": "frozen"},
]


def losses_and_gradients(model: MaskRCNN, batch: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    lucid.random.seed(3)
    losses = model.get_loss(batch.images, batch.targets)
    losses["total_loss"].backward()
    names = list(model.state_dict())
    of_all = zip(names, model.state_dict(keep_vars=True).values(), strict=True)
    gradients = {name: np.asarray(p.grad) for name, p in of_all if p.grad is not None}
    return {name: float(value) for name, value in losses.items()}, gradients


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_losses_gradients_and_statistics_are_those_of_the_cpu(variant: dict[str, Any]) -> None:
    batch = Squares(2).batch(0)
    models = [slim(**variant).to(device).train() for device in ("cpu", "gpu")]
    (losses, gradients), (on_gpu, gradients_on_gpu) = (losses_and_gradients(model, batch) for model in models)
    assert on_gpu == pytest.approx(losses, rel=1e-4)
    assert losses["mask_loss"] > 0
    assert gradients_on_gpu.keys() == gradients.keys()
    assert len(gradients) > 30
    for name, grad in gradients.items():
        tolerance = 1e-3 * abs(grad).max() + 1e-6
        np.testing.assert_allclose(gradients_on_gpu[name], grad, rtol=0, atol=tolerance, err_msg=name)
    before, after, after_on_gpu = (model.state_dict() for model in (slim(**variant), *models))
    moved = [name for name, values in after.items() if not np.array_equal(values, before[name])]
    assert bool(moved) == (variant["norm"] == "batch")  # running statistics
    for name, values in after.items():
        np.testing.assert_allclose(np.asarray(after_on_gpu[name]), values, rtol=1e-4, atol=1e-5, err_msg=name)
