"""Max pooling, subsampling and a feature pyramid's top-down addition."""

import numpy as np
import pytest
from gradients import check_empty, check_gradients, cpu_gpu_agree, float32, gradients, normal, tensor, values
from lucid import Tensor

from lucid_maskrcnn.models.backbone import FeaturePyramid
from lucid_maskrcnn.ops import max_pool2d, subsample, upsample_add

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
def test_max_pool2d_equals_a_loop(device: str, kernel: int, stride: int, padding: int) -> None:
    x = (normal(2, 3, 7, 6) - 5).astype(np.float32)  # negative: a zero of the padding would win
    found = values(max_pool2d(tensor(x, device), kernel, stride=stride, padding=padding))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, slow_max_pool2d(x, kernel, stride, padding))


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_max_pool2d_gradients(kernel: int, stride: int, padding: int) -> None:
    x = np.random.default_rng(0).permutation(2 * 2 * 7 * 6).reshape(2, 2, 7, 6) / 10 - 20  # no ties
    check_gradients(lambda x: max_pool2d(x, kernel, stride=stride, padding=padding), x, tol=1e-8)
    cpu_gpu_agree(lambda x: max_pool2d(x, kernel, stride=stride, padding=padding), x)


def test_max_pool2d_gives_the_gradient_to_one_of_equal_pixels(device: str) -> None:
    x = np.float32([[[[1, 1], [1, 0]]]])
    _, (grad,) = gradients(
        lambda x: max_pool2d(x, 2, stride=1), x, wrt=(0,), cotangent=np.float32([[[[5]]]]), device=device
    )
    assert sorted(grad.ravel().tolist()) == [0, 0, 0, 5]
    assert grad[0, 0, 1, 1] == 0
    if device == "cpu":
        assert grad[0, 0, 0, 0] == 5


@pytest.mark.parametrize("value", [0, -7])
def test_max_pool2d_gradient_of_a_constant_image(device: str, value: float) -> None:
    x = np.full((1, 2, 6, 5), value, np.float32)
    value, (grad,) = gradients(lambda x: max_pool2d(x, 3, stride=2, padding=1), x, wrt=(0,), device=device)
    cotangent = np.random.default_rng(0).standard_normal(value.shape)
    np.testing.assert_allclose(grad.sum((2, 3)), cotangent.sum((2, 3)), rtol=1e-5)


def test_max_pool2d_of_no_images(device: str) -> None:
    check_empty(lambda x: max_pool2d(x, 3, stride=2, padding=1), [normal(0, 3, 6, 5)], (0, 3, 3, 3), device)


def test_subsample(device: str) -> None:
    x = float32(2, 3, 5, 4, device=device)
    np.testing.assert_array_equal(values(subsample(x)), values(x)[:, :, ::2, ::2])
    assert values(subsample(float32(1, 2, 1, 1, device=device))).shape == (1, 2, 1, 1)


@pytest.mark.parametrize("shape", [(2, 2, 5, 4), (1, 2, 1, 3), (1, 1, 2, 2)])
def test_subsample_gradients(shape: tuple[int, ...]) -> None:
    check_gradients(subsample, normal(*shape), tol=1e-8)
    cpu_gpu_agree(subsample, normal(*shape))


def test_subsample_of_no_images(device: str) -> None:
    check_empty(subsample, [normal(0, 3, 5, 4)], (0, 3, 3, 2), device)


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


@pytest.mark.parametrize(("coarse", "fine"), SIZES)
def test_upsample_add_in_the_memory_of_the_finer_map(coarse: tuple[int, int], fine: tuple[int, int]) -> None:
    low, high = normal(2, 2, *coarse), normal(2, 2, *fine, seed=1)
    channels_last = [np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (low, high)]
    written = Tensor(channels_last[1].copy(order="K"))
    found = upsample_add(Tensor(channels_last[0]), written, overwrite=True)
    np.testing.assert_array_equal(found.data, upsample_add(Tensor(low), Tensor(high)).data)
    assert np.shares_memory(found.data, written.data)
    check_gradients(lambda a, b: upsample_add(a, b * 1.0, overwrite=True), low, high, tol=1e-8)


def test_upsample_add_of_no_images(device: str) -> None:
    for coarse, fine in SIZES[:2]:
        check_empty(upsample_add, [normal(0, 2, *coarse), normal(0, 2, *fine)], (0, 2, *fine), device)


@pytest.mark.parity
def test_feature_pyramid_equals_torchvision(torchvision_ops, device: str) -> None:
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


# ------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: max_pool2d(float32(1, 1, 2, 9), 3, stride=1), "x must be at least as large as kernel"),
        (
            lambda: max_pool2d(float32(1, 1, 9, 9), 3, stride=1, padding=2),
            "padding must be at most half of kernel_size",
        ),
        (lambda: max_pool2d(float32(1, 1, 9, 9), 3, stride=0), "stride must be a positive integer, got 0"),
        (lambda: upsample_add(float32(1, 2, 2, 2), float32(1, 3, 4, 4)), r"fine must have shape \(1, 2, H, W\)"),
        (lambda: upsample_add(float32(1, 2, 0, 2), float32(1, 2, 4, 4)), "coarse must have a pixel to enlarge"),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
