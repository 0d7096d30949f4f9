"""The mean of gradients over batches, and clipping by their norm."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import lucid
import lucid.nn as nn
import numpy as np
import pytest
from tiny_runs import (
    Squares,
    Toy,
    parameter,
    set_grad,
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn.training import (
    GradientMean,
    TrainerSettings,
    clip_gradients,
    read_log,
)


def gradients(model: Toy, batches: list[Any], seed: int) -> list[np.ndarray]:
    params = list(model.parameters())
    mean = GradientMean(params)
    for p in params:
        p.grad = None
    for i, batch in enumerate(batches):
        lucid.random.seed(seed + i)
        model.get_loss(batch.images, batch.targets)["total_loss"].backward()
        mean.accumulate()
    mean.assign_mean()
    return [np.array(p.grad) for p in params]


def test_accumulated_gradient_is_the_mean(tmp_path: Path) -> None:
    batches = [Squares(2, side=8).batch(step) for step in range(3)]
    model = Toy().eval()  # no dropout: each batch's gradient stands for itself
    single = [gradients(model, [batch], 0) for batch in batches]
    together = gradients(model, batches, 0)
    for i, grad in enumerate(together):
        np.testing.assert_allclose(grad, np.mean([g[i] for g in single], axis=0), rtol=1e-5, atol=1e-7)


def test_step_follows_the_mean_of_its_batches(tmp_path: Path) -> None:
    settings = TrainerSettings(
        steps=1, lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant", accumulate=3, max_grad_norm=None
    )
    wanted = Toy()
    grads = gradients(wanted, [Squares(2, side=8).batch(step) for step in range(3)], settings.seed)
    trainer = toy_trainer(tmp_path / "run", settings)
    trainer.run()
    for p, q, grad in zip(trainer.model.parameters(), wanted.parameters(), grads, strict=True):
        np.testing.assert_allclose(p.data, q.data - 0.5 * grad, rtol=1e-6, atol=1e-7)
    (record,) = read_log(tmp_path / "run" / "log.jsonl")
    assert record["norm"] == pytest.approx(math.sqrt(sum(float((g**2).sum()) for g in grads)), rel=1e-5)


def test_parameter_of_two_modules_counts_once() -> None:
    model = Toy()
    params = list(model.parameters())
    mean = GradientMean(params)
    params[0].grad = np.ones(params[0].shape, np.float32)
    mean.accumulate()
    params[0].grad = np.full(params[0].shape, 3, np.float32)
    params[1].grad = np.full(params[1].shape, 5, np.float32)
    mean.accumulate()
    mean.assign_mean()
    assert (params[0].grad == 2).all()
    assert (params[1].grad == 2.5).all()  # the other pass counts as 0
    assert params[2].grad is None


def test_gradient_clipping_reaches_the_step(tmp_path: Path) -> None:
    settings = toy_settings(
        1, warmup=0, max_grad_norm=1e-3, momentum=0.0, weight_decay=0.0, lr=1.0, schedule="constant"
    )
    before = Toy()
    trainer = toy_trainer(tmp_path / "run", dataclasses.replace(settings, ema=None))
    trainer.run()
    moved = [p.data - q.data for p, q in zip(trainer.model.parameters(), before.parameters(), strict=True)]
    assert math.sqrt(sum(float((m**2).sum()) for m in moved)) == pytest.approx(1e-3, rel=1e-2)
    assert clip_gradients(list(trainer.optimizer.params), math.inf) == pytest.approx(1e-3, rel=1e-2)


def test_gradients_are_scaled_together(device: str) -> None:
    p, q, without = (parameter(np.ones(2), device) for _ in range(3))
    set_grad(p, [3.0, 0.0])
    set_grad(q, [0.0, 4.0])
    shared = p.grad
    assert clip_gradients([p, q, without], 1.0) == pytest.approx(5.0)
    np.testing.assert_allclose(np.asarray(p.grad), [0.6, 0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(q.grad), [0, 0.8], rtol=1e-5)
    assert without.grad is None
    np.testing.assert_array_equal(np.asarray(shared), [3, 0])


def test_small_and_nan_gradients_are_not_scaled() -> None:
    p = parameter([1.0, 1.0])
    set_grad(p, [0.3, 0.4])
    grad = p.grad
    assert clip_gradients([p], 1.0) == pytest.approx(0.5)
    assert p.grad is grad
    set_grad(p, [math.nan, 1.0])
    assert math.isnan(clip_gradients([p], 1.0))
    assert p.grad[1] == 1
    set_grad(p, [math.inf, 1.0])
    assert clip_gradients([p], 1.0) == math.inf
    assert p.grad[1] == 1
    assert clip_gradients([parameter([1.0])], 1.0) == 0


@pytest.mark.parametrize(
    ("params", "max_norm", "error", "message"),
    [
        ([], 0, ValueError, "max_norm must be a number above 0, got 0"),
        ([], math.nan, ValueError, "max_norm must be a number above 0, got nan"),
        ([], "10", TypeError, "max_norm must be a number above 0, got '10'"),
        ([], None, TypeError, "max_norm must be a number above 0, got None"),
        ([], np.ones(2), TypeError, "max_norm must be a number above 0, got array"),
        (np.array(1.0), 1, TypeError, "params must be an iterable of parameters, got array"),
        (nn.Identity(), 1, TypeError, "params must be parameters, got the model Identity"),
        (None, 1, TypeError, "params must be an iterable of parameters, got None"),
    ],
)
def test_bad_arguments_of_clip_gradients(params: Any, max_norm: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        clip_gradients(params, max_norm)


@pytest.mark.parametrize("params", [None, 1, "weights", nn.Identity(), [np.ones(2)]])
def test_gradient_mean_takes_parameters_only(params: Any) -> None:
    with pytest.raises(TypeError, match=r"params(\[0\])? must be"):
        GradientMean(params)
