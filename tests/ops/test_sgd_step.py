"""The arithmetic of a step of gradient descent; its rule is tested with the optimizer."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits, pending
from lucid import Tensor
from tiny_runs import parameter, set_grad

from lucid_maskrcnn import ops


def test_sum_of_squares_by_hand(device: str) -> None:
    arrays = [ops.device_array(np.array(values, np.float32), device) for values in ([3.0, 4.0], [[1.0], [2.0]], [])]
    assert ops.sum_of_squares(arrays) == pytest.approx(30.0)
    assert ops.sum_of_squares([]) == 0.0


def test_sum_of_squares_over_both_devices() -> None:
    arrays = [Tensor(np.full(2, 2, np.float32)).to(device).data for device in ("cpu", "gpu")]
    assert ops.sum_of_squares(arrays) == pytest.approx(16.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_sum_of_squares_is_not_finite_if_an_element_is_not(value: float, device: str) -> None:
    array = ops.device_array(np.array([1.0, value], np.float32), device)
    assert not math.isfinite(ops.sum_of_squares([array]))


def some_params(device: str, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    params = [parameter(rng.normal(size=shape), device) for shape in ((3, 4), (4,), (1,))]
    for p in params:
        set_grad(p, rng.normal(size=p.shape))
    return params


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_update_on_gpu_is_that_on_cpu_compiled_or_not(momentum: float, nesterov: bool) -> None:
    found = []
    for device, enabled in (("cpu", None), ("gpu", False), ("gpu", True)):
        params = some_params(device)
        velocities: list[Any] = [None, *(p.grad + 0 for p in params[1:])]
        with ops.compiling(enabled):
            for lr in (0.5, 0.25):
                velocities = ops.sgd_update(
                    params, velocities, lr=lr, momentum=momentum, weight_decay=0.01, nesterov=nesterov
                )
        found.append([np.asarray(a) for a in (*(p.data for p in params), *velocities) if a is not None])
    for other in found[1:]:
        assert len(other) == len(found[0]) == (6 if momentum else 5)
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_schedule_compiles_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning rate is an input of the compiled function, and the share of an average too."""
    looked, real = [], mx.compile

    def compile_and_count(function: Any) -> Any:
        return real(lambda *args: looked.append(1) or function(*args))

    monkeypatch.setattr(mx, "compile", compile_and_count)
    params = [parameter(np.ones((5, 7)), "gpu")]
    velocities, averages = [None], [p.data for p in params]
    with ops.compiling(True):
        for lr in (0.1, 0.2, 0.3):
            set_grad(params[0], np.ones((5, 7)))
            velocities = ops.sgd_update(params, velocities, lr=lr, momentum=0.9, weight_decay=0, nesterov=False)
            averages = ops.moved_averages(averages, [p.data for p in params], lr)
            ops.sum_of_squares([params[0].grad])
    assert len(looked) == 3


def test_update_on_gpu_waits_for_nothing() -> None:
    params = some_params("gpu")
    with device_waits() as waits:
        velocities = ops.sgd_update(params, [None] * 3, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=False)
        averages = ops.moved_averages([p.grad for p in params], [p.data for p in params], 0.5)
    assert len(waits) == 0, waits
    assert pending(*(p.data for p in params), *velocities, *averages)


def test_update_of_both_devices_keeps_their_order() -> None:
    a, b = some_params("cpu")[:1], some_params("gpu")[:1]
    velocities = ops.sgd_update([*b, *a], [None, None], lr=0.1, momentum=0.9, weight_decay=0, nesterov=False)
    assert [ops.is_device_array(v) for v in velocities] == [True, False]
    np.testing.assert_allclose(np.asarray(a[0].data), np.asarray(b[0].data), rtol=1e-6)


def test_averages_move_by_their_share(device: str) -> None:
    averages, values = ([ops.device_array(np.float32(v), device) for v in some] for some in ([[1, 2]], [[3, 4]]))
    (moved,) = ops.moved_averages(averages, values, 0.25)
    np.testing.assert_array_equal(np.asarray(moved), [1.5, 2.5])
    assert ops.moved_averages([], [], 0.5) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"velocities": []}, ValueError, "velocities must be a sequence of 1 values, got 0"),
        (
            {"velocities": [np.ones(3)]},
            ValueError,
            r"velocities\[0\] must have its parameter's shape",
        ),
        ({"params": [Tensor(np.ones(2, np.float32))]}, ValueError, r"params\[0\] must have a gradient"),
        ({"params": None}, TypeError, "params must be a sequence, got None"),
        ({"lr": -1}, ValueError, "lr must be a number of at least 0, got -1"),
        ({"nesterov": 1}, TypeError, "nesterov must be True or False"),
    ],
)
def test_bad_arguments_of_an_update(change: dict[str, Any], error: type[Exception], message: str) -> None:
    p = parameter(np.ones(2))
    set_grad(p, np.ones(2))
    good = {"params": [p], "velocities": [None], "lr": 0.1, "momentum": 0.9, "weight_decay": 0, "nesterov": False}
    with pytest.raises(error, match=message):
        ops.sgd_update(**{**good, **change})


@pytest.mark.parametrize(
    ("averages", "values", "share", "error", "message"),
    [
        ([np.ones(2)], [np.ones(3)], 0.5, ValueError, "values must have the kinds and shapes of the averages"),
        ([np.ones(2)], [], 0.5, ValueError, "values must have the kinds and shapes of the averages"),
        ([1.0], [np.ones(3)], 0.5, TypeError, r"averages\[0\] must be a NumPy or MLX array, got 1.0"),
        ([], [], 2, ValueError, "share must be"),
    ],
)
def test_bad_arguments_of_averages(
    averages: Any, values: Any, share: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.moved_averages(averages, values, share)


def test_numbers_are_read_at_once() -> None:
    tensors = [ops.as_tensor(np.float32(v), "gpu") * 2.0 for v in (1.5, [[2]])] + [ops.as_tensor([7.0])]
    with device_waits() as waits:
        assert ops.numbers(tensors) == [3, 4, 7]
    assert len(waits) == 1, waits
    assert ops.numbers([]) == []
    with pytest.raises(ValueError, match=r"tensors\[0\] must have one element, got shape \(2,\)"):
        ops.numbers([ops.as_tensor([1.0, 2.0])])
    with pytest.raises(TypeError, match=r"tensors\[0\] must be a Lucid tensor, got 1.0"):
        ops.numbers([1.0])
