"""The arithmetic of a step of AdamW; its rule is tested with the optimizer."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits, pending
from tiny_runs import parameter, set_grad

from lucid_maskrcnn import ops

SETTINGS: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def some_params(device: str) -> list[Any]:
    rng = np.random.default_rng(0)
    params = [parameter(rng.normal(size=shape), device) for shape in ((3, 4), (4,), (1,), (300, 300))]
    for p in params:
        set_grad(p, rng.normal(size=p.shape))
    return params


def test_update_on_gpu_is_that_on_cpu_compiled_or_not() -> None:
    found = []
    for device, enabled in (("cpu", None), ("gpu", False), ("gpu", True)):
        params, moments = some_params(device), [None] * 4
        with ops.compiling(enabled):
            for t, lr in ((1, 0.5), (2, 0.25)):
                moments = ops.adamw_update(params, moments, [t, t, 1, t], **{**SETTINGS, "lr": lr})
        found.append([np.asarray(a) for a in (*(p.data for p in params), *(a for both in moments for a in both))])
    for other in found[1:]:
        assert len(other) == 12
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_a_schedule_and_the_step_compile_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, real = [], mx.compile

    def compile_and_count(function: Any) -> Any:
        return real(lambda *args: looked.append(1) or function(*args))

    monkeypatch.setattr(mx, "compile", compile_and_count)
    params, moments = [parameter(np.ones((5, 11)), "gpu")], [None]
    with ops.compiling(True):
        for t, lr in enumerate((0.1, 0.2, 0.3), 1):
            set_grad(params[0], np.ones((5, 11)))
            moments = ops.adamw_update(params, moments, [t], **{**SETTINGS, "lr": lr})
    assert len(looked) == 1


def test_update_on_gpu_waits_for_nothing() -> None:
    params = some_params("gpu")
    with device_waits() as waits:
        moments = ops.adamw_update(params, [None] * 4, [1] * 4, **SETTINGS)
    assert len(waits) == 0, waits
    assert pending(*(p.data for p in params), *(a for both in moments for a in both))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"moments": []}, ValueError, "moments must be a sequence of 1 values, got 0"),
        (
            {"moments": [(np.ones(3), np.ones(2))]},
            ValueError,
            r"moments\[0\] must have its parameter's shape \(2,\), got \(3,\)",
        ),
        ({"steps": [0]}, ValueError, r"steps\[0\] must be"),
        ({"steps": [1, 1]}, ValueError, "steps must be a sequence of 1 values, got 2"),
        ({"lr": -1.0}, ValueError, "lr must be a number of at least 0, got -1.0"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be a number of at least 0 and below 1, got 1"),
        ({"betas": (0.9,)}, ValueError, "betas must be"),
        ({"params": [parameter([1.0, 2.0])]}, ValueError, r"params\[0\] must have a gradient"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], error: Any, message: str) -> None:
    p = parameter([1.0, 2.0])
    set_grad(p, [1.0, 1.0])
    with pytest.raises(error, match=message):
        ops.adamw_update(**{"params": [p], "moments": [None], "steps": [1], **SETTINGS, **change})
