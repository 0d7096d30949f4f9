"""Batch norm with the batch's statistics and with fixed ones, and folded."""

import numpy as np
import pytest
from gradients import check_empty, check_gradients, cpu_gpu_agree, float32, gradients, normal, tensor, values
from lucid import Tensor

from lucid_maskrcnn.ops import _parallel, batch_norm, fold_batch_norm, functional


def slow_batch_norm(x, weight, bias, mean, var, eps=1e-5, residual=None, relu=False) -> np.ndarray:
    out = np.empty_like(x)
    for c in range(x.shape[1]):
        out[:, c] = (x[:, c] - mean[c]) / np.sqrt(var[c] + eps) * weight[c] + bias[c]
    out += 0 if residual is None else residual
    return np.maximum(out, 0) if relu else out


@pytest.fixture(params=[None, 1], ids=["blocks", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as they are, and of one image row."""
    if request.param:
        monkeypatch.setattr(functional, "_BLOCK_VALUES", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_equals_a_loop(device: str, training: bool, shortcut: bool, relu: bool) -> None:
    x, weight, bias = normal(3, 4, 5, 2) * 3 + 1, normal(4), normal(4, seed=1)
    mean, var = normal(4, seed=2), np.abs(normal(4, seed=3)) + 0.1
    residual = normal(*x.shape, seed=4) if shortcut else None
    statistics = (x.mean((0, 2, 3)), x.var((0, 2, 3))) if training else (mean, var)
    expected = slow_batch_norm(x, weight, bias, *statistics, residual=residual, relu=relu)
    given = [tensor(a.astype(np.float32), device) for a in (x, weight, bias, mean, var)]
    shortcut_tensor = None if residual is None else tensor(residual.astype(np.float32), device)
    found = batch_norm(*given, training=training, residual=shortcut_tensor, relu=relu)
    assert values(found).dtype == np.float32
    np.testing.assert_allclose(values(found), expected, atol=1e-5)


def test_running_statistics_move_towards_the_batch(device: str) -> None:
    x = normal(2, 3, 4, 5) * [[[2]], [[0.5]], [[1]]] + [[[1]], [[-3]], [[0]]]
    mean, var = tensor(np.float32([0, 1, 2]), device), tensor(np.float32([1, 2, 3]), device)
    one, zero = tensor(np.ones(3, np.float32), device), tensor(np.zeros(3, np.float32), device)
    batch_norm(tensor(x.astype(np.float32), device), one, zero, mean, var, training=True, momentum=0.25)
    np.testing.assert_allclose(values(mean), 0.75 * np.array([0, 1, 2]) + 0.25 * x.mean((0, 2, 3)), atol=1e-5)
    unbiased = x.transpose(1, 0, 2, 3).reshape(3, -1).var(axis=1, ddof=1)
    np.testing.assert_allclose(values(var), 0.75 * np.array([1, 2, 3]) + 0.25 * unbiased, atol=1e-5)
    assert mean.device == var.device == device
    assert values(mean).dtype == values(var).dtype == np.float32
    before = values(mean).copy(), values(var).copy()
    batch_norm(tensor(x.astype(np.float32), device), one, zero, mean, var, training=False)
    np.testing.assert_array_equal(values(mean), before[0])
    np.testing.assert_array_equal(values(var), before[1])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_gradients(training: bool, relu: bool) -> None:
    def fn(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        running = [tensor(a.astype(str(x.data.dtype).split(".")[-1]), x.device) for a in (RUNNING_MEAN, RUNNING_VAR)]
        return batch_norm(x, weight, bias, *running, training=training, residual=residual, relu=relu)

    arrays = [normal(2, 3, 3, 2) * 2 + 1, normal(3), normal(3, seed=1), normal(2, 3, 3, 2, seed=4)]
    check_gradients(fn, *arrays, tol=1e-7)
    cpu_gpu_agree(fn, *arrays, tol=3e-5)
    cpu_gpu_agree(lambda x, w, b: fn(x, w, b, None), *arrays[:3], tol=3e-5)


RUNNING_MEAN, RUNNING_VAR = np.array([0.5, -1, 2]), np.array([0.2, 1, 4])


def test_variance_of_a_channel_far_from_zero(device: str) -> None:
    x = (normal(2, 1, 40, 30) + 3000).astype(np.float32)
    one, zero = tensor(np.ones(1, np.float32), device), tensor(np.zeros(1, np.float32), device)
    mean, var = tensor(np.zeros(1, np.float32), device), tensor(np.zeros(1, np.float32), device)
    out = batch_norm(tensor(x, device), one, zero, mean, var, training=True, momentum=1.0)
    assert values(var)[0] == pytest.approx(x.astype(np.float64).var(ddof=1), rel=1e-3)
    assert values(out).std() == pytest.approx(1, abs=1e-3)


def test_batch_norm_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "_BLOCK_VALUES", 1 << 9)
    arrays = [a.astype(np.float32) for a in (normal(2, 8, 21, 17), normal(8), normal(8, seed=1))]

    def fn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        running = tensor(np.zeros(8, np.float32)), tensor(np.ones(8, np.float32))
        return batch_norm(x, weight, bias, *running, training=True, relu=True)

    found = []
    for num in (1, 2, 3):
        monkeypatch.setattr(_parallel, "num_threads", lambda num=num: num)
        value, grads = gradients(fn, *arrays, wrt=range(3))
        found.append([value, *grads])
    for one, two, three in zip(*found, strict=True):
        np.testing.assert_array_equal(two, one)
        np.testing.assert_array_equal(three, one)


def test_batch_norm_of_no_images(device: str) -> None:
    def fn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        running = tensor(np.zeros(3, np.float32), x.device), tensor(np.ones(3, np.float32), x.device)
        return batch_norm(x, weight, bias, *running, training=False, relu=True)

    check_empty(fn, [normal(0, 3, 4, 5), normal(3), normal(3)], (0, 3, 4, 5), device)


@pytest.mark.parity
def test_fold_batch_norm_equals_torchvision(torchvision_ops, device: str) -> None:
    names = ("bn_weight", "bn_bias", "bn_running_mean", "bn_running_var")
    scale, shift = fold_batch_norm(*(tensor(torchvision_ops[n], device) for n in names), 1e-5)
    assert scale.device == shift.device == device
    found = torchvision_ops["bn_in"] * values(scale)[:, None, None] + values(shift)[:, None, None]
    np.testing.assert_allclose(found, torchvision_ops["bn_out"], rtol=0, atol=5e-6)


# ------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batch_norm(float32(1, 2, 1, 1), *[float32(2)] * 4, training=True), "at least two values per channel"),
        (lambda: batch_norm(float32(1, 2, 3, 3), *[float32(3)] * 4, training=True), r"weight must have shape \(2,\)"),
        (
            lambda: batch_norm(float32(1, 2, 3, 3), *[float32(2)] * 4, training=True, residual=float32(1, 2, 3, 4)),
            r"residual must have shape \(1, 2, 3, 3\), got \(1, 2, 3, 4\)",
        ),
        (lambda: fold_batch_norm(float32(2), *[float32(3)] * 3, 1e-5), r"bias must have shape \(2,\), got \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
