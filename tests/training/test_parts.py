"""Optimizer, schedule, clipping and averaged weights, against PyTorch's rules worked by hand."""

from __future__ import annotations

import math
from typing import Any

import lucid.nn as nn
import mlx.core as mx
import numpy as np
import pytest
from lucid import Tensor

from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.training import EMA, SGD, WarmupMultiStep, clip_gradients, decay_groups


def parameter(values: Any, device: str = "cpu") -> Any:
    return nn.Parameter(as_tensor(values, device, np.float32))


def set_grad(p: Any, values: Any) -> None:
    array = np.asarray(values, np.float32)
    p.grad = mx.array(array) if p.is_gpu() else array


# ------------------------------------------------------------------ SGD


def test_two_steps_by_hand(device: str) -> None:
    p = parameter([1.0, -2.0], device)
    optimizer = SGD([p], lr=0.1, momentum=0.9, weight_decay=0.5)
    set_grad(p, [1.0, 1.0])
    optimizer.step()  # g = [1.5, 0]; v = g; p = [0.85, -2]
    np.testing.assert_allclose(host(p), [0.85, -2.0], rtol=1e-6)
    set_grad(p, [0.0, 2.0])
    optimizer.step()  # g = [0.425, 1]; v = 0.9 [1.5, 0] + g = [1.775, 1]
    np.testing.assert_allclose(host(p), [0.6725, -2.1], rtol=1e-6)
    assert host(p).dtype == np.float32
    assert p.device == device


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 1e-2), (0.9, 0.0), (0.5, 0.3)])
def test_many_steps_follow_the_rule(momentum: float, weight_decay: float, nesterov: bool, device: str) -> None:
    rng = np.random.default_rng(0)
    p = parameter(rng.normal(size=(3, 4)), device)
    weight, velocity = host(p).astype(np.float64), None
    optimizer = SGD([p], lr=0.05, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    for _ in range(6):
        grad = rng.normal(size=(3, 4))
        set_grad(p, grad)
        optimizer.step()
        grad = grad + weight_decay * weight
        velocity = grad if velocity is None else momentum * velocity + grad
        weight = weight - 0.05 * (grad + momentum * velocity if nesterov else velocity)
    np.testing.assert_allclose(host(p), weight, rtol=1e-5, atol=1e-6)


def test_without_momentum_it_is_plain_descent() -> None:
    p = parameter([4.0])
    optimizer = SGD([p], lr=0.5, momentum=0.0, weight_decay=0.0)
    for _ in range(2):
        set_grad(p, [1.0])
        optimizer.step()
    assert host(p) == [3.0]
    assert optimizer.state_dict()["momenta"] == [None]


def test_arrays_of_others_are_not_written_to() -> None:
    loaded, grad = np.ones(3, np.float32), np.full(3, 2, np.float32)
    p = parameter(loaded)
    optimizer = SGD([p], lr=0.1)
    for _ in range(3):
        p.grad = grad
        optimizer.step()
    assert (loaded == 1).all()
    assert (grad == 2).all()


def test_parameter_without_gradient_stays() -> None:
    p, q = parameter([1.0]), parameter([1.0])
    optimizer = SGD([p, q], lr=0.1, weight_decay=0.5)
    set_grad(p, [1.0])
    optimizer.step()
    assert host(q) == [1.0]
    optimizer.zero_grad()
    assert p.grad is None
    before = host(p)
    optimizer.step()
    np.testing.assert_array_equal(host(p), before)


def test_groups_have_their_own_settings() -> None:
    weight, bias = parameter(np.ones((2, 2))), parameter(np.ones(2))
    optimizer = SGD(decay_groups([weight, bias], 0.5), lr=0.1, momentum=0.0)
    for p in (weight, bias):
        set_grad(p, np.zeros(p.shape))
    optimizer.step()
    np.testing.assert_allclose(host(weight), 0.95)
    np.testing.assert_array_equal(host(bias), 1)


def test_parameter_listed_twice_is_stepped_once() -> None:
    p = parameter([1.0])
    optimizer = SGD([p, p], lr=0.1, momentum=0.0, weight_decay=0.0)
    set_grad(p, [1.0])
    optimizer.step()
    np.testing.assert_allclose(host(p), [0.9])


def test_resumed_optimizer_goes_on_bit_for_bit(device: str) -> None:
    rng = np.random.default_rng(1)
    grads = rng.normal(size=(6, 5)).astype(np.float32)

    def run(p: Any, optimizer: SGD, steps: np.ndarray) -> None:
        for grad in steps:
            set_grad(p, grad)
            optimizer.step()

    whole = parameter(np.ones(5), device)
    run(whole, SGD([whole], lr=0.1), grads)
    first = parameter(np.ones(5), device)
    optimizer = SGD([first], lr=0.1)
    run(first, optimizer, grads[:3])
    second = parameter(host(first), device)
    resumed = SGD([second], lr=7.0)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.groups[0]["lr"] == 0.1
    run(second, resumed, grads[3:])
    np.testing.assert_array_equal(host(second), host(whole))


def test_state_of_another_model_is_refused() -> None:
    p = parameter([1.0, 2.0])
    optimizer = SGD([p], lr=0.1)
    set_grad(p, [1.0, 1.0])
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="1 parameters in 1 groups, the optimizer has 2"):
        SGD([parameter([1.0]), parameter([1.0])], lr=0.1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"momentum 0 has shape \(2,\), its parameter \(3,\)"):
        SGD([parameter([1.0, 2.0, 3.0])], lr=0.1).load_state_dict(state)


@pytest.mark.parametrize(
    ("params", "options", "error", "message"),
    [
        ([], {}, ValueError, "got no parameters"),
        ([np.ones(3)], {}, TypeError, "got ndarray"),
        ([{"params": []}, np.ones(3)], {}, TypeError, "must be a dict with 'params', got ndarray"),
        ([{"params": [], "momentun": 1}], {}, ValueError, r"has \['momentun'\]"),
        ("p", {"lr": -1.0}, ValueError, "lr must be finite and at least 0, got -1.0"),
        ("p", {"lr": math.nan}, ValueError, "lr must be finite"),
        ("p", {"weight_decay": -1}, ValueError, "weight_decay must be"),
        ("p", {"momentum": 0, "nesterov": True}, ValueError, "nesterov=True needs a momentum"),
    ],
)
def test_mistake_gets_a_sentence(params: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SGD([parameter([1.0])] if params == "p" else params, **{"lr": 0.1, **options})


# ------------------------------------------------------------------ clipping


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


def test_small_and_broken_gradients_are_left_alone() -> None:
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
    with pytest.raises(ValueError, match="max_norm must be above 0, got 0"):
        clip_gradients([p], 0)


# ------------------------------------------------------------------ schedule


def test_warm_up_begins_with_the_first_step_and_drops_at_milestones() -> None:
    optimizer = SGD([{"params": [parameter([1.0])]}, {"params": [parameter([1.0])], "lr": 1.0}], lr=0.1)
    schedule = WarmupMultiStep(optimizer, warmup_steps=4, milestones=[6, 8], warmup_factor=0.2)
    rates = []
    for _ in range(10):
        rates.append([group["lr"] for group in optimizer.groups])
        schedule.step()
    factors = [0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1, 0.01, 0.01]
    np.testing.assert_allclose(rates, np.outer(factors, [0.1, 1.0]))


def test_schedule_resumes_where_it_was() -> None:
    p = parameter([1.0])
    schedule = WarmupMultiStep(SGD([p], lr=0.1), 3, [5])
    for _ in range(5):
        schedule.step()
    optimizer = SGD([p], lr=9.0)
    again = WarmupMultiStep(optimizer, 3, [5])
    again.load_state_dict(schedule.state_dict())
    assert optimizer.groups[0]["lr"] == pytest.approx(0.01)
    assert again.last_step == 5


def test_no_warm_up_and_bad_schedules() -> None:
    optimizer = SGD([parameter([1.0])], lr=0.1)
    assert WarmupMultiStep(optimizer, 0, []).factor(0) == 1
    with pytest.raises(ValueError, match=r"milestones must ascend, got \[8, 6\]"):
        WarmupMultiStep(optimizer, 0, [8, 6])
    with pytest.raises(ValueError, match="warmup_steps must be at least 0"):
        WarmupMultiStep(optimizer, -1, [])


# ------------------------------------------------------------------ averaged weights


class Cell(nn.Module):
    def __init__(self, value: float, device: str = "cpu") -> None:
        super().__init__()
        self.weight = parameter([value], device)
        self.register_buffer("mean", as_tensor([value], device, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_average_follows_weights_and_buffers(device: str) -> None:
    model = Cell(1.0, device)
    ema = EMA(model, decay=0.5)
    set_to = np.array([11.0], np.float32)
    model.weight.data = mx.array(set_to) if device == "gpu" else set_to
    ema.update(model)  # keeps 1/10
    np.testing.assert_allclose(ema.state_dict()["weight"], [10.0])
    np.testing.assert_allclose(ema.state_dict()["mean"], [1.0])
    ema.update(model)  # keeps 2/11
    np.testing.assert_allclose(ema.state_dict()["weight"], [11 - 2 / 11], rtol=1e-6)
    assert host(model.weight) == [11.0]
    model.load_state_dict(ema.state_dict())


def test_average_resumes_and_keeps_its_own_arrays() -> None:
    model = Cell(2.0)
    ema = EMA(model)
    model.mean.data += 5  # as a live batch norm might
    assert ema.state_dict()["mean"] == [2.0]
    ema.update(model)
    again = EMA(Cell(0.0))
    again.load_state_dict(ema.state_dict(), ema.updates)
    for e in (ema, again):
        e.update(model)
    np.testing.assert_array_equal(ema.state_dict()["mean"], again.state_dict()["mean"])
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1, got 1"):
        EMA(model, decay=1)
