"""Linear functional, batch norm, pooling, the top-down path, reshapings, dropout and sums."""

import lucid
import numpy as np
import pytest
from gradients import backward, check_gradients, cpu_gpu_agree, gradients, tensor, values
from lucid import Tensor

from lucid_maskrcnn.models.backbone import FeaturePyramid
from lucid_maskrcnn.ops import (
    _parallel,
    add_scalars,
    batch_norm,
    concat_anchors,
    dropout,
    flatten,
    fold_batch_norm,
    functional,
    linear,
    max_pool2d,
    subsample,
    upsample_add,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def float32(*shape: int, device: str = "cpu", seed: int = 0) -> Tensor:
    return tensor(normal(*shape, seed=seed).astype(np.float32), device)


def nothing_in_nothing_out(fn, arrays: list[np.ndarray], shape: tuple[int, ...], device: str) -> None:
    """Check value and gradients where there is nothing to compute: empty, or 0 for what was not empty."""
    arrays = [a.astype(np.float32) for a in arrays]
    value, grads = gradients(fn, *arrays, wrt=range(len(arrays)), device=device)
    assert value.shape == shape
    assert value.dtype == np.float32
    assert [g.shape for g in grads] == [a.shape for a in arrays]
    assert not any(g.any() for g in grads)


# ------------------------------------------------------------------ linear


def test_linear_by_hand(device: str) -> None:
    x = tensor(np.float32([[1, 2, 3], [0, -1, 0]]), device)
    weight, bias = tensor(np.float32([[1, 0, 1], [0, 2, -1]]), device), tensor(np.float32([0.5, -4]), device)
    assert values(linear(x, weight, bias)).tolist() == [[4.5, -3], [0.5, -6]]
    assert values(linear(x, weight, bias, relu=True)).tolist() == [[4.5, 0], [0.5, 0]]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("rows", [None, 2])
def test_linear_gradients(monkeypatch: pytest.MonkeyPatch, relu: bool, rows: int | None) -> None:
    if rows:  # blocks so small that there are several
        monkeypatch.setattr(_parallel, "_FEW_ROWS", rows)
        monkeypatch.setattr(_parallel, "_SUMMED_ROWS", rows)
    arrays = [normal(7, 4), normal(5, 4), normal(5)]
    check_gradients(lambda *a: linear(*a, relu=relu), *arrays, tol=1e-8)
    cpu_gpu_agree(lambda *a: linear(*a, relu=relu), *arrays)


def test_linear_of_no_rows(device: str) -> None:
    nothing_in_nothing_out(linear, [normal(0, 4), normal(5, 4), normal(5)], (0, 5), device)


def test_threads_do_not_change_a_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [normal(300, 33).astype(np.float32), normal(70, 33).astype(np.float32), normal(70).astype(np.float32)]
    found = []
    for num in (1, 2, 3):
        monkeypatch.setattr(_parallel, "num_threads", lambda num=num: num)
        value, grads = gradients(linear, *arrays, wrt=range(3))
        found.append([value, *grads])
    for one, two, three in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-4)
        np.testing.assert_allclose(three, one, atol=1e-4)


# ------------------------------------------------------------------ batch norm


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
def test_batch_norm_is_that_of_a_loop(device: str, training: bool, shortcut: bool, relu: bool) -> None:
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


def test_a_channel_far_from_zero_keeps_its_variance(device: str) -> None:
    x = (normal(2, 1, 40, 30) + 3000).astype(np.float32)
    one, zero = tensor(np.ones(1, np.float32), device), tensor(np.zeros(1, np.float32), device)
    mean, var = tensor(np.zeros(1, np.float32), device), tensor(np.zeros(1, np.float32), device)
    out = batch_norm(tensor(x, device), one, zero, mean, var, training=True, momentum=1.0)
    assert values(var)[0] == pytest.approx(x.astype(np.float64).var(ddof=1), rel=1e-3)
    assert values(out).std() == pytest.approx(1, abs=1e-3)


def test_threads_do_not_change_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
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

    nothing_in_nothing_out(fn, [normal(0, 3, 4, 5), normal(3), normal(3)], (0, 3, 4, 5), device)


@pytest.mark.parity
def test_folded_batch_norm_is_torchvisions(torchvision_ops, device: str) -> None:
    names = ("bn_weight", "bn_bias", "bn_running_mean", "bn_running_var")
    scale, shift = fold_batch_norm(*(tensor(torchvision_ops[n], device) for n in names), 1e-5)
    assert scale.device == shift.device == device
    found = torchvision_ops["bn_in"] * values(scale)[:, None, None] + values(shift)[:, None, None]
    np.testing.assert_allclose(found, torchvision_ops["bn_out"], rtol=0, atol=5e-6)


# ------------------------------------------------------------------ pooling


def slow_max_pool2d(x: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in x.shape[2:])
    out = np.empty((*x.shape[:2], height, width), x.dtype)
    for n, c, p, q in np.ndindex(*out.shape):
        top, left = p * stride - padding, q * stride - padding
        rows, cols = slice(max(top, 0), top + kernel), slice(max(left, 0), left + kernel)
        out[n, c, p, q] = x[n, c, rows, cols].max()
    return out


POOLS = [(3, 2, 1), (2, 2, 0), (2, 1, 0), (3, 1, 1), (1, 2, 0), (3, 3, 0), (4, 2, 1)]


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_max_pool_is_that_of_a_loop(device: str, kernel: int, stride: int, padding: int) -> None:
    x = (normal(2, 3, 7, 6) - 5).astype(np.float32)  # negative: a zero of the padding would win
    found = values(max_pool2d(tensor(x, device), kernel, stride=stride, padding=padding))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, slow_max_pool2d(x, kernel, stride, padding))


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_max_pool_gradients(kernel: int, stride: int, padding: int) -> None:
    x = np.random.default_rng(0).permutation(2 * 2 * 7 * 6).reshape(2, 2, 7, 6) / 10 - 20  # no ties
    check_gradients(lambda x: max_pool2d(x, kernel, stride=stride, padding=padding), x, tol=1e-8)
    cpu_gpu_agree(lambda x: max_pool2d(x, kernel, stride=stride, padding=padding), x)


def test_of_equal_pixels_one_gets_the_gradient(device: str) -> None:
    x = np.float32([[[[1, 1], [1, 0]]]])
    _, (grad,) = gradients(
        lambda x: max_pool2d(x, 2, stride=1), x, wrt=(0,), cotangent=np.float32([[[[5]]]]), device=device
    )
    assert sorted(grad.ravel().tolist()) == [0, 0, 0, 5]
    assert grad[0, 0, 1, 1] == 0
    if device == "cpu":
        assert grad[0, 0, 0, 0] == 5


@pytest.mark.parametrize("value", [0, -7])
def test_a_flat_image_passes_each_gradient_on_once(device: str, value: float) -> None:
    x = np.full((1, 2, 6, 5), value, np.float32)
    value, (grad,) = gradients(lambda x: max_pool2d(x, 3, stride=2, padding=1), x, wrt=(0,), device=device)
    cotangent = np.random.default_rng(0).standard_normal(value.shape)
    np.testing.assert_allclose(grad.sum((2, 3)), cotangent.sum((2, 3)), rtol=1e-5)


def test_max_pool_of_no_images(device: str) -> None:
    nothing_in_nothing_out(lambda x: max_pool2d(x, 3, stride=2, padding=1), [normal(0, 3, 6, 5)], (0, 3, 3, 3), device)


def test_subsample(device: str) -> None:
    x = float32(2, 3, 5, 4, device=device)
    np.testing.assert_array_equal(values(subsample(x)), values(x)[:, :, ::2, ::2])
    assert values(subsample(float32(1, 2, 1, 1, device=device))).shape == (1, 2, 1, 1)


@pytest.mark.parametrize("shape", [(2, 2, 5, 4), (1, 2, 1, 3), (1, 1, 2, 2)])
def test_subsample_gradients(shape: tuple[int, ...]) -> None:
    check_gradients(subsample, normal(*shape), tol=1e-8)
    cpu_gpu_agree(subsample, normal(*shape))


def test_subsample_of_no_images(device: str) -> None:
    nothing_in_nothing_out(subsample, [normal(0, 3, 5, 4)], (0, 3, 3, 2), device)


# ------------------------------------------------------------------ the top-down path


SIZES = [((2, 3), (4, 6)), ((2, 3), (5, 6)), ((3, 3), (5, 7)), ((1, 1), (2, 2)), ((1, 1), (1, 1)), ((1, 2), (1, 5))]


@pytest.mark.parametrize(("coarse", "fine"), SIZES)
def test_upsample_add_copies_the_nearest(device: str, coarse: tuple[int, int], fine: tuple[int, int]) -> None:
    low, high = float32(2, 3, *coarse, device=device), float32(2, 3, *fine, device=device, seed=1)
    expected = values(high).copy()
    for y, x in np.ndindex(*fine):
        expected[:, :, y, x] += values(low)[:, :, y * coarse[0] // fine[0], x * coarse[1] // fine[1]]
    found = values(upsample_add(low, high))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("coarse", "fine"), SIZES)
def test_upsample_add_gradients(coarse: tuple[int, int], fine: tuple[int, int]) -> None:
    arrays = normal(2, 2, *coarse), normal(2, 2, *fine, seed=1)
    check_gradients(upsample_add, *arrays, tol=1e-8)
    cpu_gpu_agree(upsample_add, *arrays)


def test_upsample_add_leaves_its_inputs_alone() -> None:
    low, high = float32(1, 2, 2, 2), float32(1, 2, 4, 4)
    channels_last = Tensor(np.ascontiguousarray(values(high).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    before = values(channels_last).copy()
    upsample_add(low, channels_last)
    np.testing.assert_array_equal(values(channels_last), before)


def test_upsample_add_of_no_images(device: str) -> None:
    for coarse, fine in SIZES[:2]:
        nothing_in_nothing_out(upsample_add, [normal(0, 2, *coarse), normal(0, 2, *fine)], (0, 2, *fine), device)


@pytest.mark.parity
def test_the_pyramid_is_torchvisions(torchvision_ops, device: str) -> None:
    pyramid = FeaturePyramid([4, 5, 6], 3)
    state = {
        name.removeprefix("fpn_w_").replace(".0.weight", ".weight").replace(".0.bias", ".bias"): torchvision_ops[name]
        for name in torchvision_ops.names("fpn_w_")
    }
    own = pyramid.state_dict(keep_vars=True)
    assert set(own) == set(state)
    for name, array in state.items():
        assert tuple(own[name].shape) == array.shape
        own[name].data = array
    pyramid.to(device)
    levels = pyramid([tensor(torchvision_ops[f"fpn_in_{i}"], device) for i in range(3)])
    for level, name in zip(levels, ("0", "1", "2", "pool"), strict=True):
        assert level.device == device
        np.testing.assert_allclose(values(level), torchvision_ops[f"fpn_out_{name}"], rtol=0, atol=2e-5)


# ------------------------------------------------------------------ reshapings


def test_flatten_has_channels_slowest(device: str) -> None:
    x = float32(3, 2, 4, 5, device=device)
    np.testing.assert_array_equal(values(flatten(x)), values(x).reshape(3, 40))
    check_gradients(flatten, normal(2, 2, 3, 2), tol=1e-8)
    cpu_gpu_agree(flatten, normal(2, 2, 3, 2))


def test_flatten_of_nothing(device: str) -> None:
    nothing_in_nothing_out(flatten, [normal(0, 2, 4, 5)], (0, 40), device)


def test_anchors_are_in_order_of_level_row_column_shape(device: str) -> None:
    shapes, num = [(2, 3), (1, 2)], 2  # of each anchor 4 values
    maps, expected = [], []
    for level, (rows, cols) in enumerate(shapes):
        features = np.zeros((1, num * 4, rows, cols), np.float32)
        for row, col, anchor, value in np.ndindex(rows, cols, num, 4):
            features[0, anchor * 4 + value, row, col] = code = 1000 * level + 100 * row + 10 * col + anchor + value / 10
            expected.append(code)
        maps.append(tensor(features, device))
    found = values(concat_anchors(maps, 4))
    assert found.shape == (1, (6 + 2) * num, 4)
    np.testing.assert_array_equal(found.ravel(), np.float32(expected))


@pytest.mark.parametrize("num_values", [1, 4])
def test_concat_anchors_gradients(num_values: int) -> None:
    arrays = [normal(2, 3 * num_values, *size) for size in [(3, 2), (2, 1), (1, 1)]]
    check_gradients(lambda *maps: concat_anchors(maps, num_values), *arrays, tol=1e-8)
    cpu_gpu_agree(lambda *maps: concat_anchors(maps, num_values), *arrays)
    check_gradients(lambda m: concat_anchors([m], num_values), arrays[0], tol=1e-8)


# ------------------------------------------------------------------ dropout, sums


@pytest.mark.parametrize("p", [0.0, 0.25, 0.9])
def test_dropout_keeps_the_expectation(device: str, p: float) -> None:
    lucid.random.seed(0)
    x = np.ones((200, 200), np.float32)
    value, (grad,) = gradients(lambda x: dropout(x, p), x, wrt=(0,), cotangent=3 * x, device=device)
    np.testing.assert_allclose(np.unique(value), [0, 1 / (1 - p)] if p else [1], rtol=1e-6)
    assert (value == 0).mean() == pytest.approx(p, abs=0.01)
    assert value.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(grad, 3 * value)  # what was dropped gets none
    assert value.dtype == grad.dtype == np.float32


def test_dropout_repeats_with_the_seed(device: str) -> None:
    x, drawn = float32(50, 20, device=device), []
    for seed in (1, 1, 2):
        lucid.random.seed(seed)
        drawn.append(values(dropout(x, 0.5)))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert (values(dropout(x, 0.5)) != drawn[2]).any(), "the second draw is the first again"


def test_dropout_of_nothing(device: str) -> None:
    nothing_in_nothing_out(lambda x: dropout(x, 0.5), [normal(0, 4)], (0, 4), device)


def test_scalars_add_up(device: str) -> None:
    terms = [tensor(np.array(v, np.float32), device, requires_grad=True) for v in (1.5, -2, 4)]
    total = add_scalars(*terms)
    assert total.shape == ()
    assert float(values(total)) == 3.5
    backward(total, np.float32(2))
    assert [float(np.asarray(t.grad)) for t in terms] == [2, 2, 2]
    assert len({id(t.grad) for t in terms}) == 3, "the terms share one gradient array"


def test_one_scalar_is_its_own_sum(device: str) -> None:
    assert float(values(add_scalars(tensor(np.array(7, np.float32), device)))) == 7


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear(float32(2, 3), float32(4, 2), float32(4)), r"got \(2, 3\), \(4, 2\) and \(4,\)"),
        (lambda: linear(float32(2, 3), float32(4, 3), float32(3)), r"linear takes x \(R, D\), weight \(O, D\)"),
        (lambda: linear(float32(2, 3, 1, 1), float32(4, 3), float32(4)), r"got \(2, 3, 1, 1\)"),
        (lambda: max_pool2d(float32(1, 1, 2, 9), 3, stride=1), "x of 2 × 9 pixels is smaller than max_pool2d's 3"),
        (
            lambda: upsample_add(float32(1, 2, 2, 2), float32(1, 3, 4, 4)),
            r"same batch and channels, got \(1, 2, 2, 2\) and \(1, 3, 4, 4\)",
        ),
        (
            lambda: batch_norm(float32(1, 2, 1, 1), *[float32(2)] * 4, training=True),
            r"at least two values per channel to train, got x of shape \(1, 2, 1, 1\)",
        ),
    ],
)
def test_mistakes_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
