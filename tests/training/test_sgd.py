"""The optimizer against PyTorch's rule, worked by hand."""

from __future__ import annotations

import math
from typing import Any

import lucid.nn as nn
import numpy as np
import pytest
from tiny_runs import (
    parameter,
    set_grad,
)

from lucid_maskrcnn.models.layers import Linear
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.training import (
    SGD,
    decay_groups,
)


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


def test_sgd_without_momentum_is_gradient_descent() -> None:
    p = parameter([4.0])
    optimizer = SGD([p], lr=0.5, momentum=0.0, weight_decay=0.0)
    for _ in range(2):
        set_grad(p, [1.0])
        optimizer.step()
    assert host(p) == [3.0]
    assert optimizer.momenta == [None]


def test_arrays_of_the_caller_are_not_written_to() -> None:
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


@pytest.mark.parametrize("grouped", [False, True])
def test_parameter_listed_twice_is_refused(grouped: bool) -> None:
    p = parameter([1.0, 2.0])
    with pytest.raises(ValueError, match=r"params\[\d\], of shape \(2,\), comes a second time"):
        SGD([{"params": [p]}, {"params": [p]}] if grouped else [p, p], lr=0.1)


def test_resumed_optimizer_gives_the_same_weights(device: str) -> None:
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


def test_a_model_that_is_moved_between_steps_goes_on(device: str) -> None:
    other = {"cpu": "gpu", "gpu": "cpu"}[device]
    weights = []
    for devices in ((device, device, device), (device, other, device)):
        layer = Linear(2, 1)
        layer.weight.data = np.ones((1, 2), np.float32)
        optimizer = SGD([layer.weight], lr=0.1)
        for place in devices:
            layer.to(place)
            layer.weight.grad = layer.weight.data * 2
            optimizer.step()
        weights.append(host(layer.weight))
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-6)


def test_momenta_of_another_model_are_refused() -> None:
    momenta = [np.ones(2, np.float32)]
    with pytest.raises(ValueError, match="momenta must have one entry for each of 2 parameters, got 1"):
        SGD([parameter([1.0]), parameter([1.0])], lr=0.1).momenta = momenta
    with pytest.raises(ValueError, match=r"momenta\[0\] must have its parameter's shape \(3,\), got \(2,\)"):
        SGD([parameter([1.0, 2.0, 3.0])], lr=0.1).momenta = momenta


@pytest.mark.parametrize("momenta", [None, "one", 1.0, np.ones(1)])
def test_momenta_must_be_a_list(momenta: Any) -> None:
    with pytest.raises(TypeError, match="momenta must be a list of arrays, got"):
        SGD([parameter([1.0])], lr=0.1).momenta = momenta


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
        ("p", {"momentum": math.inf}, ValueError, "momentum must be a number of at least 0 and below 1, got inf"),
        ("p", {"momentum": 1}, ValueError, "momentum must be a number of at least 0 and below 1, got 1"),
        (np.array(1.0), {}, TypeError, "params must be an iterable of parameters, got array"),
        ([{"params": np.array(1.0)}], {}, TypeError, "params must be an iterable of parameters, got array"),
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
