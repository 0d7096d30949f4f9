"""Convolutions against a slow loop, by finite differences, and between devices, layouts and numbers of threads."""

import mlx.core as mx
import numpy as np
import pytest
from gradients import backward, check_gradients, cpu_gpu_agree, gradients, tensor, values
from lucid import Tensor

from lucid_maskrcnn.ops import _parallel, conv, conv2d, conv_transpose2d

GEOMETRIES = [(k, s, p) for k in (1, 2, 3, 7) for s in (1, 2, 3) for p in (0, 1, 2, 3)]
TRANSPOSED = [((2, 2), 2), ((1, 1), 1), ((3, 3), 1), ((3, 2), 2), ((2, 3), 2), ((2, 2), 3), ((1, 3), 2)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def slow_conv2d(x, weight, bias=None, *, stride=1, padding=0, scale=None, residual=None, relu=False) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    filters, _, kh, kw = weight.shape
    size = [(n - k) // stride + 1 for n, k in zip(x.shape[2:], (kh, kw), strict=True)]
    out = np.zeros((len(x), filters, *size), x.dtype)
    for n, o, p, q in np.ndindex(*out.shape):
        window = x[n, :, p * stride : p * stride + kh, q * stride : q * stride + kw]
        out[n, o, p, q] = (window * weight[o]).sum() * (1 if scale is None else scale[o])
    out += 0 if bias is None else bias[:, None, None]
    out += 0 if residual is None else residual
    return np.maximum(out, 0) if relu else out


def slow_gradients(x, weight, cotangent, stride, padding) -> tuple[np.ndarray, np.ndarray]:
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    grad_x, grad_weight = np.zeros_like(x), np.zeros_like(weight)
    kh, kw = weight.shape[2:]
    for n, o, p, q in np.ndindex(*cotangent.shape):
        rows, cols = slice(p * stride, p * stride + kh), slice(q * stride, q * stride + kw)
        grad_x[n, :, rows, cols] += cotangent[n, o, p, q] * weight[o]
        grad_weight[o] += cotangent[n, o, p, q] * x[n, :, rows, cols]
    return grad_x[:, :, padding : x.shape[2] - padding, padding : x.shape[3] - padding], grad_weight


def slow_conv_transpose2d(x, weight, bias=None, *, stride=1, relu=False) -> np.ndarray:
    (_, filters, kh, kw), (images, _, height, width) = weight.shape, x.shape
    out = np.zeros((images, filters, (height - 1) * stride + kh, (width - 1) * stride + kw), x.dtype)
    for n, c, i, j in np.ndindex(*x.shape):
        out[n, :, i * stride : i * stride + kh, j * stride : j * stride + kw] += x[n, c, i, j] * weight[c]
    out += 0 if bias is None else bias[:, None, None]
    return np.maximum(out, 0) if relu else out


def use_blocks(monkeypatch: pytest.MonkeyPatch, rows: int | None, row_values: int = 1) -> None:
    """Let blocks have so many rows, or (None) what they have anyway; ``row_values`` are under the kernel in one."""
    if rows is not None:
        monkeypatch.setattr(conv, "_BLOCK_VALUES", rows * row_values)
        monkeypatch.setattr(conv, "num_threads", lambda: 1)
        monkeypatch.setattr(_parallel, "_FEW_ROWS", rows)
        monkeypatch.setattr(_parallel, "_SUMMED_ROWS", rows)


# ------------------------------------------------------------------ values


def test_convolutions_by_hand(device: str) -> None:
    x = tensor(np.float32([[[[1, 2, 3], [4, 5, 6]]]]), device)
    weight = tensor(np.float32([[[[1, 10], [100, 1000]]]]), device)
    bias = tensor(np.float32([0.5]), device)
    assert values(conv2d(x, weight, bias)).tolist() == [[[[5421.5, 6532.5]]]]
    assert values(conv2d(x, weight, stride=2, padding=1)).tolist() == [[[[1000, 3200], [40, 65]]]]
    assert values(conv_transpose2d(x, weight, bias, stride=2))[0, 0].tolist() == [
        [1.5, 10.5, 2.5, 20.5, 3.5, 30.5],
        [100.5, 1000.5, 200.5, 2000.5, 300.5, 3000.5],
        [4.5, 40.5, 5.5, 50.5, 6.5, 60.5],
        [400.5, 4000.5, 500.5, 5000.5, 600.5, 6000.5],
    ]
    assert values(conv_transpose2d(x, weight)).tolist() == [
        [[[1, 12, 23, 30], [104, 1245, 2356, 3060], [400, 4500, 5600, 6000]]]
    ]


@pytest.mark.parametrize("rows", [None, 1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_conv2d_equals_a_loop_for_every_geometry(monkeypatch, kernel: int, stride: int, padding: int, rows) -> None:
    height, width, channels = kernel + 4, kernel + 1, 3
    columns = (width + 2 * padding - kernel) // stride + 1
    use_blocks(monkeypatch, rows, columns * kernel**2 * channels)
    x, weight = normal(2, channels, height, width), normal(2, channels, kernel, kernel)
    expected = slow_conv2d(x, weight, stride=stride, padding=padding)
    cotangent = normal(*expected.shape)
    value, grads = gradients(
        lambda x, w: conv2d(x, w, stride=stride, padding=padding), x, weight, wrt=(0, 1), cotangent=cotangent
    )
    np.testing.assert_allclose(value, expected, atol=1e-12)
    for grad, slow in zip(grads, slow_gradients(x, weight, cotangent, stride, padding), strict=True):
        np.testing.assert_allclose(grad, slow, atol=1e-12)


@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_conv2d_row_by_row_equals_a_loop_for_every_geometry(monkeypatch, kernel, stride, padding, rows) -> None:
    monkeypatch.setattr(conv, "_WIDE", 1)
    x, weight, bias = normal(2, 3, kernel + 4, kernel + 1), normal(2, 3, kernel, kernel), normal(2)
    expected = slow_conv2d(x, weight, bias, stride=stride, padding=padding, relu=True)
    use_blocks(monkeypatch, rows, expected.shape[3] * kernel**2 * 3)
    given = (tensor(a, "cpu") for a in (x, weight, bias))
    found = values(conv2d(*given, stride=stride, padding=padding, relu=True))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_conv2d_devices_agree_for_every_geometry(kernel: int, stride: int, padding: int) -> None:
    x, weight = normal(2, 3, kernel + 4, kernel + 1), normal(2, 3, kernel, kernel)
    cpu_gpu_agree(lambda x, w: conv2d(x, w, stride=stride, padding=padding), x, weight, tol=2e-5)


@pytest.mark.parametrize("kernel", [(2, 3), (3, 2), (1, 4)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_conv2d_with_kernels_that_are_not_square(kernel: tuple[int, int], stride: int, padding: int) -> None:
    x, weight = normal(2, 2, 5, 6), normal(3, 2, *kernel)
    expected = slow_conv2d(x, weight, stride=stride, padding=padding)
    cotangent = normal(*expected.shape)
    value, grads = gradients(
        lambda x, w: conv2d(x, w, stride=stride, padding=padding), x, weight, wrt=(0, 1), cotangent=cotangent
    )
    np.testing.assert_allclose(value, expected, atol=1e-12)
    for grad, slow in zip(grads, slow_gradients(x, weight, cotangent, stride, padding), strict=True):
        np.testing.assert_allclose(grad, slow, atol=1e-12)
    cpu_gpu_agree(lambda x, w: conv2d(x, w, stride=stride, padding=padding), x, weight)


@pytest.mark.parametrize("kernel", [1, 3])
def test_gradient_of_a_result_that_is_kept_is_not_that_before_the_relu(kernel: int) -> None:
    x, weight = (
        tensor(np.float32(normal(1, 32, 4, 5)), "cpu"),
        tensor(np.float32(normal(32, 32, kernel, kernel)), "cpu"),
    )
    weight.requires_grad = True
    found = {}
    for keep in (False, True):
        weight.grad = None
        y = conv2d(x, weight, padding=kernel // 2, relu=True)
        y.keep_grad = keep
        (y * 2.0).sum().backward()
        found[keep] = weight.grad
    assert (values(y) == 0).any()
    np.testing.assert_array_equal(y.grad, np.full(y.shape, 2, np.float32))
    np.testing.assert_array_equal(found[True], found[False])


FUSED = [(b, s, r, relu) for b in (0, 1) for s in (0, 1) for r in (0, 1) for relu in (False, True)]


@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize(("bias", "scale", "residual", "relu"), FUSED)
def test_conv2d_with_fused_bias_scale_residual_and_relu(monkeypatch, device, bias, scale, residual, relu, rows) -> None:
    use_blocks(monkeypatch, rows, 4 * 27)
    given = {}
    if bias:
        given["bias"] = normal(4)
    if scale:
        given["scale"] = normal(4, seed=1)
    if residual:
        given["residual"] = normal(2, 4, 5, 4)
    x, weight = normal(2, 3, 5, 4), normal(4, 3, 3, 3)
    expected = slow_conv2d(x, weight, padding=1, relu=relu, **given)
    tensors = {name: tensor(a.astype(np.float32), device) for name, a in given.items()}
    x, weight = (tensor(a.astype(np.float32), device) for a in (x, weight))
    found = values(conv2d(x, weight, padding=1, relu=relu, **tensors))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize(("kernel", "stride"), TRANSPOSED)
def test_conv_transpose2d_equals_a_loop(monkeypatch, kernel, stride, rows, relu) -> None:
    use_blocks(monkeypatch, rows)
    x, weight, bias = normal(2, 3, 4, 3), normal(3, 2, *kernel), normal(2)
    expected = slow_conv_transpose2d(x, weight, bias, stride=stride, relu=relu)
    found = values(conv_transpose2d(*map(tensor, (x, weight, bias)), stride=stride, relu=relu))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    expected = slow_conv_transpose2d(x, weight, stride=stride, relu=relu)
    found = values(conv_transpose2d(tensor(x), tensor(weight), stride=stride, relu=relu))
    np.testing.assert_allclose(found, expected, atol=1e-12)


# ------------------------------------------------------------------ gradients


def everything(stride: int, padding: int, *, relu: bool):
    def fn(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        scale = tensor(np.array([0.5, -2], x.data.dtype)) if x.is_cpu() else Tensor(mx.array([0.5, -2]))
        return conv2d(x, weight, bias, stride=stride, padding=padding, scale=scale, residual=residual, relu=relu)

    return fn


def inputs(kernel: int, stride: int, padding: int, images: int = 2) -> list[np.ndarray]:
    """x, weight, bias and residual for :func:`everything`."""
    x, weight, bias = normal(images, 2, kernel + 3, kernel + 2), normal(2, 2, kernel, kernel), normal(2)
    size = [(n + 2 * padding - kernel) // stride + 1 for n in x.shape[2:]]
    return [x, weight, bias, normal(images, 2, *size)]


FINITE = [(1, 1, 0), (1, 2, 0), (1, 3, 2), (2, 1, 1), (2, 2, 3), (3, 1, 0), (3, 1, 1), (3, 1, 3), (3, 2, 1), (3, 3, 2)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), FINITE)
def test_conv2d_gradients(kernel: int, stride: int, padding: int, relu: bool) -> None:
    arrays = inputs(kernel, stride, padding, images=1 if padding else 2)
    check_gradients(everything(stride, padding, relu=relu), *arrays, tol=1e-7)


def test_conv2d_gradients_of_a_large_kernel() -> None:
    x, weight = normal(1, 1, 8, 7), normal(2, 1, 7, 7)
    check_gradients(lambda x, w: conv2d(x, w, stride=2, padding=3, relu=True), x, weight, tol=1e-7)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [*FINITE, (7, 2, 3)])
def test_conv2d_devices_agree_on_gradients(kernel: int, stride: int, padding: int, relu: bool) -> None:
    cpu_gpu_agree(everything(stride, padding, relu=relu), *inputs(kernel, stride, padding), tol=2e-5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), TRANSPOSED)
def test_conv_transpose2d_gradients(kernel: tuple[int, int], stride: int, relu: bool) -> None:
    def fn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv_transpose2d(x, weight, bias, stride=stride, relu=relu)

    arrays = [normal(2, 2, 3, 2), normal(2, 3, *kernel), normal(3)]
    check_gradients(fn, *arrays, tol=1e-7)
    cpu_gpu_agree(fn, *arrays)
    cpu_gpu_agree(lambda x, w: conv_transpose2d(x, w, stride=stride, relu=relu), *arrays[:2])


def test_gradient_of_a_shortcut_past_a_convolution() -> None:
    x, weight = normal(1, 2, 3, 4), normal(2, 2, 3, 3)
    check_gradients(lambda x, w: conv2d(x, w, padding=1, residual=x), x, weight)
    cpu_gpu_agree(lambda x, w: conv2d(x, w, padding=1, residual=x), x, weight)


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_only_what_asks_for_a_gradient_gets_one(device: str, wanted: int) -> None:
    arrays = [a.astype(np.float32) for a in inputs(3, 2, 1)]
    _, everyone = gradients(everything(2, 1, relu=True), *arrays, wrt=range(4), device=device)
    leaves = [tensor(a, device, requires_grad=i == wanted) for i, a in enumerate(arrays)]
    out = everything(2, 1, relu=True)(*leaves)
    backward(out, np.random.default_rng(0).standard_normal(out.shape).astype(np.float32))
    assert [leaf.grad is not None for leaf in leaves] == [i == wanted for i in range(4)]
    np.testing.assert_array_equal(np.asarray(leaves[wanted].grad), everyone[wanted])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_convolutions_keep_the_dtype(dtype: type) -> None:
    arrays = [a.astype(dtype) for a in inputs(3, 1, 1)]
    value, grads = gradients(everything(1, 1, relu=True), *arrays, wrt=range(4))
    assert {a.dtype for a in (value, *grads)} == {np.dtype(dtype)}
    value, grads = gradients(lambda x, w, b: conv_transpose2d(x, w, b, relu=True), *arrays[:3], wrt=range(3))
    assert {a.dtype for a in (value, *grads)} == {np.dtype(dtype)}


# ------------------------------------------------------------------ nothing, memory, threads


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (7, 2, 3)])
def test_conv2d_of_no_images(device: str, kernel: int, stride: int, padding: int) -> None:
    arrays = [a.astype(np.float32) for a in inputs(kernel, stride, padding)]
    arrays[0], arrays[3] = arrays[0][:0], arrays[3][:0]
    value, grads = gradients(everything(stride, padding, relu=True), *arrays, wrt=range(4), device=device)
    assert value.shape == arrays[3].shape
    assert value.dtype == np.float32
    assert [g.shape for g in grads] == [a.shape for a in arrays]
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize(("kernel", "stride"), TRANSPOSED)
def test_conv_transpose2d_of_no_images(device: str, kernel: tuple[int, int], stride: int) -> None:
    arrays = [np.zeros((0, 3, 5, 4), np.float32), np.ones((3, 2, *kernel), np.float32), np.ones(2, np.float32)]
    value, grads = gradients(
        lambda x, w, b: conv_transpose2d(x, w, b, stride=stride, relu=True), *arrays, wrt=range(3), device=device
    )
    assert value.shape == (0, 2, 4 * stride + kernel[0], 3 * stride + kernel[1])
    assert [g.shape for g in grads] == [a.shape for a in arrays]
    assert not any(g.any() for g in grads)


LAYOUTS = {
    "channels first": np.ascontiguousarray,
    "channels last": lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "every other pixel": lambda a: np.repeat(np.repeat(a, 2, axis=2), 2, axis=3)[:, :, ::2, ::2],
    "some channels": lambda a: np.concatenate([a, a + 1], axis=1)[:, : a.shape[1]],
    "turned round": lambda a: np.ascontiguousarray(a[:, :, ::-1, ::-1])[:, :, ::-1, ::-1],
    "rows and columns exchanged": lambda a: np.ascontiguousarray(a.transpose(3, 1, 0, 2)).transpose(2, 1, 3, 0),
}
MLX_LAYOUTS = {
    "channels first": mx.array,
    "channels last": lambda a: mx.array(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "every other pixel": lambda a: mx.repeat(mx.repeat(mx.array(a), 2, axis=2), 2, axis=3)[:, :, ::2, ::2],
    "some channels": lambda a: mx.concatenate([mx.array(a), mx.array(a)], axis=1)[:, : a.shape[1]],
}


def run_laid_out(laid_out, device: str) -> list[np.ndarray]:
    """Value and gradients of both convolutions, all arrays and cotangents laid out as told."""
    results = []
    x, weight, bias, residual = (a.astype(np.float32) for a in inputs(3, 2, 1))
    enlarge = normal(2, 3, 3, 2).astype(np.float32)
    for fn, arrays in (
        (everything(2, 1, relu=False), (x, weight, bias, residual)),
        (everything(1, 0, relu=True), (x, weight[:, :, :1, :1], bias, x)),
        (lambda x, w, b: conv_transpose2d(x, w, b, stride=2), (x, enlarge, bias.repeat(2)[:3])),
    ):
        leaves = [Tensor(laid_out(a) if a.ndim == 4 else tensor(a, device).data, requires_grad=True) for a in arrays]
        out = fn(*leaves)
        out.grad = laid_out(np.cos(np.arange(values(out).size, dtype=np.float32)).reshape(out.shape))
        out.backward()
        results += [values(out), *(np.asarray(leaf.grad) for leaf in leaves)]
    return results


@pytest.mark.parametrize("layout", LAYOUTS)
def test_conv2d_of_any_memory_layout(layout: str) -> None:
    for found, plain in zip(
        run_laid_out(LAYOUTS[layout], "cpu"), run_laid_out(np.ascontiguousarray, "cpu"), strict=True
    ):
        np.testing.assert_allclose(found, plain, atol=1e-6)


@pytest.mark.parametrize("layout", MLX_LAYOUTS)
def test_conv2d_of_any_memory_layout_on_gpu(layout: str) -> None:
    for found, plain in zip(
        run_laid_out(MLX_LAYOUTS[layout], "gpu"), run_laid_out(np.ascontiguousarray, "cpu"), strict=True
    ):
        np.testing.assert_allclose(found, plain, atol=2e-5)


@pytest.mark.parametrize("relu", [False, True])
def test_conv2d_neither_modifies_nor_returns_its_inputs(relu: bool) -> None:
    """Lucid adds to gradients in place: a shared one would change under its other owner."""
    arrays = inputs(3, 1, 1)
    leaves = [tensor(a, requires_grad=True) for a in arrays]
    out = everything(1, 1, relu=relu)(*leaves)
    cotangent = normal(*out.shape)
    out.grad = given = LAYOUTS["channels last"](cotangent)  # read in place
    out.backward()
    np.testing.assert_array_equal(given, cotangent)
    for leaf, array in zip(leaves, arrays, strict=True):
        np.testing.assert_array_equal(leaf.data, array)
        assert not any(np.shares_memory(leaf.grad, other) for other in (given, leaf.data, out.data))


@pytest.mark.parametrize("shape", [(2, 16, 20, 18), (1, 8, 9, 11), (3, 3, 40, 33)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2)])
def test_conv2d_does_not_depend_on_the_number_of_threads(
    monkeypatch, shape: tuple[int, ...], kernel: int, stride: int
) -> None:
    arrays = [a.astype(np.float32) for a in (normal(*shape), normal(8, shape[1], kernel, kernel), normal(8), normal(8))]

    def fn(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        return conv2d(x, weight, bias, stride=stride, padding=kernel // 2, scale=scale, relu=True)

    found = []
    for num in (1, 2, 3):
        monkeypatch.setattr(_parallel, "num_threads", lambda num=num: num)
        found.append(gradients(fn, *arrays, wrt=(0, 1, 2)))
    one, one_grads = found[0]
    for several, several_grads in found[1:]:
        np.testing.assert_allclose(several, one, atol=2e-5 * np.abs(one).max())
        np.testing.assert_allclose(several_grads[0], one_grads[0], atol=2e-5 * np.abs(one_grads[0]).max())
        hinge = (several > 0) == (one > 0)
        assert hinge.all(), "the inputs are too close to the ReLU's hinge for this test"
        np.testing.assert_array_equal(several_grads[1], one_grads[1])
        np.testing.assert_array_equal(several_grads[2], one_grads[2])


# ------------------------------------------------------------------ wrong arguments


def of(*shape: int, device: str = "cpu") -> Tensor:
    return tensor(np.ones(shape, np.float32), device)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: conv2d(of(1, 3, 8, 8), of(4, 2, 3, 3)),
            ValueError,
            r"weight must have shape \(O, 3, kh, kw\), got \(4, 2, 3, 3\)",
        ),
        (lambda: conv2d(of(3, 8, 8), of(4, 3, 3, 3)), ValueError, r"x must have shape \(N, C, H, W\), got \(3, 8, 8\)"),
        (lambda: conv2d(of(1, 3, 2, 8), of(4, 3, 3, 3)), ValueError, "x must be at least as large as the 3 × 3 kernel"),
        (lambda: conv2d(of(1, 3, 8, 4), of(4, 3, 7, 7), padding=1), ValueError, "7 × 7 .* 8 × 4 .* padding 1"),
        (lambda: conv2d(of(1, 3, 8, 8), of(4, 3, 0, 3)), ValueError, "kernel of at least 1 × 1"),
        (lambda: conv2d(of(1, 3, 8, 8), of(4, 3, 3, 3), of(3)), ValueError, r"bias must have shape \(4,\), got \(3,\)"),
        (lambda: conv2d(of(1, 3, 8, 8), of(4, 3, 3, 3), scale=of(1)), ValueError, r"scale must have shape \(4,\)"),
        (
            lambda: conv2d(of(1, 3, 8, 8), of(4, 3, 3, 3), residual=of(1, 4, 8, 8)),
            ValueError,
            r"residual must have shape \(1, 4, 6, 6\), got \(1, 4, 8, 8\)",
        ),
        (lambda: conv2d(np.ones((1, 3, 8, 8)), of(4, 3, 3, 3)), TypeError, "x must be a Lucid tensor"),
        (lambda: conv2d(of(1, 3, 8, 8), of(4, 3, 3, 3, device="gpu")), ValueError, "tensors on cpu and on gpu"),
        (
            lambda: conv_transpose2d(of(1, 3, 8, 8), of(4, 3, 2, 2)),
            ValueError,
            r"weight must have shape \(3, O, kh, kw\), got \(4, 3, 2, 2\)",
        ),
        (lambda: conv_transpose2d(of(3, 8, 8), of(3, 4, 2, 2)), ValueError, r"got \(3, 8, 8\)"),
        (lambda: conv_transpose2d(of(1, 3, 0, 8), of(3, 4, 2, 2)), ValueError, "x must have a pixel to enlarge"),
        (lambda: conv_transpose2d(of(1, 3, 8, 8), of(3, 4, 2, 2), of(3)), ValueError, r"bias must have shape \(4,\)"),
    ],
)
def test_wrong_arguments_are_named(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
