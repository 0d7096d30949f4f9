"""Optimizer, schedule, clipping and averaged weights, against PyTorch's rules worked by hand."""

from __future__ import annotations

import math
from typing import Any

import lucid.nn as nn
import mlx.core as mx
import numpy as np
import pytest
from lucid import Tensor

from lucid_maskrcnn.models.layers import Linear
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.training import EMA, SGD, clip_gradients, decay_groups


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
    assert optimizer.momenta == [None]


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
    resumed = SGD([second], lr=0.1)
    resumed.momenta = optimizer.momenta
    run(second, resumed, grads[3:])
    np.testing.assert_array_equal(host(second), host(whole))


def test_momenta_of_another_model_are_refused() -> None:
    momenta = [np.ones(2, np.float32)]
    with pytest.raises(ValueError, match="momenta must have one entry for each of 2 parameters, got 1"):
        SGD([parameter([1.0]), parameter([1.0])], lr=0.1).momenta = momenta
    with pytest.raises(ValueError, match=r"momenta\[0\] must have its parameter's shape \(3,\), got \(2,\)"):
        SGD([parameter([1.0, 2.0, 3.0])], lr=0.1).momenta = momenta


def test_momenta_are_copied_when_they_are_set() -> None:
    p, momentum = parameter([1.0]), np.ones(1, np.float32)
    optimizer = SGD([p], lr=0.1)
    optimizer.momenta = [momentum]
    set_grad(p, [1.0])
    optimizer.step()
    assert momentum == [1.0]


@pytest.mark.parametrize(
    ("params", "options", "error", "message"),
    [
        ([], {}, ValueError, "params must have at least one parameter, got none"),
        (nn.Identity(), {}, TypeError, "params must be parameters, got the model Identity: pass model.parameters()"),
        (None, {}, TypeError, "params must be an iterable of parameters, got None"),
        ("abc", {}, TypeError, "params must be an iterable of parameters, got 'abc'"),
        (parameter([1.0]), {}, TypeError, "got a single tensor: pass it in a list"),
        ([np.ones(3)], {}, TypeError, r"params\[0\] must be a parameter, got ndarray"),
        ({"params": []}, {}, TypeError, r"got a single one: pass \[group\]"),
        ([{"params": []}, np.ones(3)], {}, TypeError, "must be a dict with 'params', got ndarray"),
        ([{"params": None}], {}, TypeError, "params must be an iterable of parameters, got None"),
        ([{"params": [], "momentun": 1}], {}, TypeError, "has no argument 'momentun'; did you mean 'momentum'"),
        ([{"params": [], "lr": "1"}], {}, TypeError, "lr must be a number of at least 0, got '1'"),
        ("p", {"lr": -1.0}, ValueError, "lr must be a number of at least 0, got -1.0"),
        ("p", {"lr": None}, TypeError, "lr must be a number of at least 0, got None"),
        ("p", {"lr": True}, TypeError, "lr must be a number of at least 0, got True"),
        ("p", {"lr": math.nan}, ValueError, "lr must be a number of at least 0, got nan"),
        ("p", {"momentum": math.inf}, ValueError, "momentum must be a number of at least 0, got inf"),
        ("p", {"weight_decay": -1}, ValueError, "weight_decay must be"),
        ("p", {"nesterov": "no"}, TypeError, "nesterov must be True or False, got 'no'"),
        ("p", {"momentum": 0, "nesterov": True}, ValueError, "nesterov=True needs a momentum"),
    ],
)
def test_bad_arguments_of_sgd(params: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SGD([parameter([1.0])] if isinstance(params, str) and params == "p" else params, **{"lr": 0.1, **options})


def test_generators_and_numpy_numbers_are_arguments_of_sgd() -> None:
    params = [parameter([1.0]), parameter([2.0])]
    assert SGD(iter(params), lr=np.float32(0.5), momentum=np.int64(0)).groups[0]["lr"] == 0.5
    assert len(SGD(({"params": [p]} for p in params), lr=1).groups) == 2


@pytest.mark.parametrize(
    ("params", "weight_decay", "error", "message"),
    [
        (nn.Identity(), 0.1, TypeError, "params must be parameters, got the model Identity"),
        ([], "0.1", TypeError, "weight_decay must be a number of at least 0, got '0.1'"),
        ([], -1, ValueError, "weight_decay must be a number of at least 0, got -1"),
    ],
)
def test_bad_arguments_of_decay_groups(params: Any, weight_decay: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        decay_groups(params, weight_decay)


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


@pytest.mark.parametrize(
    ("params", "max_norm", "error", "message"),
    [
        ([], 0, ValueError, "max_norm must be a number above 0, got 0"),
        ([], math.nan, ValueError, "max_norm must be a number above 0, got nan"),
        ([], "10", TypeError, "max_norm must be a number above 0, got '10'"),
        ([], None, TypeError, "max_norm must be a number above 0, got None"),
        (nn.Identity(), 1, TypeError, "params must be parameters, got the model Identity"),
        (None, 1, TypeError, "params must be an iterable of parameters, got None"),
    ],
)
def test_bad_arguments_of_clip_gradients(params: Any, max_norm: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        clip_gradients(params, max_norm)


# ------------------------------------------------------------------ averaged weights


class Cell(nn.Module):
    def __init__(self, value: float, device: str = "cpu") -> None:
        super().__init__()
        self.weight = parameter([value], device)
        self.register_buffer("mean", as_tensor([value], device, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x


def host_average(ema: EMA, name: str) -> np.ndarray:
    return np.asarray(ema.averages[name])


def test_average_follows_weights_and_buffers(device: str) -> None:
    model = Cell(1.0, device)
    ema = EMA(model, decay=0.5)
    set_to = np.array([11.0], np.float32)
    model.weight.data = mx.array(set_to) if device == "gpu" else set_to
    ema.update(model)  # keeps 1/10
    np.testing.assert_allclose(host_average(ema, "weight"), [10.0])
    np.testing.assert_allclose(host_average(ema, "mean"), [1.0])
    ema.update(model)  # keeps 2/11
    np.testing.assert_allclose(host_average(ema, "weight"), [11 - 2 / 11], rtol=1e-6)
    assert host(model.weight) == [11.0]


def test_average_resumes_and_keeps_its_own_arrays() -> None:
    model = Cell(2.0)
    ema = EMA(model)
    model.mean.data += 5  # as a live batch norm might
    assert host_average(ema, "mean") == [2.0]
    ema.update(model)
    again = EMA(Cell(0.0))
    again.restore(ema.averages, ema.updates)
    for e in (ema, again):
        e.update(model)
    np.testing.assert_array_equal(host_average(ema, "mean"), host_average(again, "mean"))


@pytest.mark.parametrize(
    ("model", "decay", "error", "message"),
    [
        (Cell(1.0), 1, ValueError, "decay must be a number of at least 0 and below 1, got 1"),
        (Cell(1.0), math.nan, ValueError, "decay must be a number of at least 0 and below 1, got nan"),
        (Cell(1.0), "0.9", TypeError, "decay must be a number of at least 0 and below 1, got '0.9'"),
        ([parameter([1.0])], 0.9, TypeError, "model must be a module, got "),
        (Cell, 0.9, TypeError, "model must be a module, got the class Cell"),
    ],
)
def test_bad_arguments_of_ema(model: Any, decay: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EMA(model, decay)


@pytest.mark.parametrize(
    ("averages", "updates", "error", "message"),
    [
        ({}, 1, ValueError, "averages have no 'mean': it must be the same model"),
        ({"weight": np.ones(1), "mean": np.ones(1), "x": 1}, 1, ValueError, "averages have 'x', which the averaged"),
        (
            {"weight": np.ones(2), "mean": np.ones(1)},
            1,
            ValueError,
            r"averages\['weight'\] must have shape \(1,\), got",
        ),
        ({"weight": np.ones(1), "mean": np.ones(1)}, -1, ValueError, "updates must be a non-negative integer, got -1"),
        (None, 1, TypeError, "averages must be a mapping of names to arrays, got None"),
    ],
)
def test_averages_of_another_model_are_refused(
    averages: Any, updates: Any, error: type[Exception], message: str
) -> None:
    ema = EMA(Cell(1.0))
    with pytest.raises(error, match=message):
        ema.restore(averages, updates)
    assert (host_average(ema, "weight"), ema.updates) == ([1.0], 0)


def test_average_of_another_model_is_refused() -> None:
    ema, other = EMA(Cell(1.0)), Linear(2, 2)
    for method in (ema.update, ema.apply, ema.applied(other).__enter__):
        with pytest.raises(ValueError, match="model has 'bias', which the averaged model has not"):
            method(*([] if method.__name__ == "__enter__" else [other]))
    assert ema.updates == 0
