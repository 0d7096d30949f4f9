"""What the gpu computes for a convolution and its gradients, and how often: counted in MLX's graph."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import lucid
import mlx.core as mx
import numpy as np
import pytest
from device_waits import primitives
from gradients import check_empty, cpu_gpu_agree, float32, gradients, normal, tensor, values
from lucid import Tensor

from lucid_maskrcnn.models.backbone import _ResNetFPNBackbone
from lucid_maskrcnn.models.layers import Conv2d
from lucid_maskrcnn.ops import (
    _operation,
    batch_norm,
    concat_anchors,
    conv2d,
    conv_gpu,
    conv_transpose2d,
    flatten,
    linear,
    max_pool2d,
    one_channel,
    subsample,
    upsample_add,
)

GEOMETRIES = [(k, s, p) for k in (1, 2, 3, 7) for s in (1, 2, 3) for p in (0, 1, 3)]


def work(found: Counter[str]) -> int:
    """How many convolutions and products of matrices."""
    return found["Convolution"] + found["Matmul"] + found["AddMM"]


def graph_of_gradients(output: Tensor) -> Counter[str]:
    """The operations of an output and of its gradients, none of which are computed."""
    found: list[Counter[str]] = []
    with patch.object(_operation.mx, "async_eval", lambda arrays: found.append(primitives(output.data, *arrays))):
        output.grad = mx.ones(output.shape)
        output.backward()
    (counts,) = found
    return counts


def backbone(depth: int = 50, **more) -> _ResNetFPNBackbone:
    return _ResNetFPNBackbone(depth, width=8, out_channels=8, **more).to("gpu")


def total(levels: list[Tensor]) -> Tensor:
    """Return a number that depends on all levels."""
    return sum((level.sum() for level in levels[1:]), levels[0].sum())


def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_gpu, "_on_cuda", lambda: True)


# ------------------------------------------------------------------ values


@pytest.mark.parametrize("convolve", [False, True])
@pytest.mark.parametrize("size", [(8, 9), (9, 12)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_both_gradients_of_filters_equal_that_on_cpu(kernel, stride, padding, size, convolve: bool) -> None:
    x, weight = normal(2, 3, *size), normal(4, 3, kernel, kernel)
    value, (expected,) = gradients(
        lambda x, w: conv2d(x, w, stride=stride, padding=padding), x, weight, wrt=(1,), cotangent=None
    )
    cotangent = np.random.default_rng(0).standard_normal(value.shape)
    pixels, passed = (mx.array(a.transpose(0, 2, 3, 1).astype(np.float32)) for a in (x, cotangent))
    found = conv_gpu.grad_filters(pixels, passed, (kernel, kernel), stride, padding, convolve=convolve)
    np.testing.assert_allclose(np.asarray(found).transpose(0, 3, 1, 2), expected, atol=2e-5)


@pytest.mark.parametrize("size", [(8, 9), (9, 12)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_what_cuda_is_given_equals_the_cpu(monkeypatch, kernel: int, stride: int, padding: int, size) -> None:
    as_on_cuda(monkeypatch)
    cpu_gpu_agree(
        lambda x, w, b: conv2d(x, w, b, stride=stride, padding=padding, relu=True),
        normal(2, 3, *size),
        normal(4, 3, kernel, kernel),
        normal(4),
        tol=2e-5,
    )


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [((2, 2), 2), ((1, 1), 2), ((3, 2), 2), ((2, 2), 3), ((3, 3), 1)])
def test_transposed_convolutions_equal_the_cpu(monkeypatch, kernel, stride: int, cuda: bool) -> None:
    if cuda:
        as_on_cuda(monkeypatch)
    cpu_gpu_agree(
        lambda x, w, b: conv_transpose2d(x, w, b, stride=stride, relu=True),
        normal(2, 3, 4, 5),
        normal(3, 4, *kernel),
        normal(4),
    )


def test_a_convolution_in_half_precision_stays_in_it() -> None:
    x, weight, bias = (float32(*shape, device="gpu") for shape in ((1, 3, 6, 6), (4, 3, 3, 3), (4,)))
    half = [Tensor(t.data.astype(mx.float16)) for t in (x, weight)]
    for out in (conv2d(*half, bias, padding=1), conv2d(*half, bias, stride=2, scale=bias, relu=True)):
        assert out.data.dtype == mx.float16
    expected = conv2d(x, weight, bias, padding=1)
    np.testing.assert_allclose(values(conv2d(*half, bias, padding=1)), values(expected), atol=0.05)


def test_nothing_in_no_channels_out() -> None:
    """Pixels without channels, and images without pixels between their padding."""
    for x, w in (((2, 0, 4, 4), (3, 0, 3, 3)), ((2, 3, 0, 4), (4, 3, 1, 1))):
        cpu_gpu_agree(lambda x, w, b: conv2d(x, w, b, padding=1), normal(*x), normal(*w), normal(w[0]), wrt=())


def test_layers_without_images() -> None:
    arrays = [normal(0, 3, 4, 4), normal(2, 3, 3, 3), normal(2)]
    check_empty(lambda x, w, b: conv2d(x, w, b, padding=1, relu=True), arrays, (0, 2, 4, 4), "gpu")
    arrays = [normal(0, 3, 4, 4), normal(3, 2, 2, 2), normal(2)]
    check_empty(lambda x, w, b: conv_transpose2d(x, w, b, stride=2, relu=True), arrays, (0, 2, 8, 8), "gpu")
    check_empty(lambda x, w, b: linear(x, w, b, relu=True), [normal(0, 3), normal(2, 3), normal(2)], (0, 2), "gpu")


def test_one_channel_twice_the_same_output() -> None:
    channels = np.array([1, 0, 1, 1], np.int32)
    arrays = [normal(4, 3, 2, 5), normal(3, 3, 1, 1), normal(3), channels]
    cpu_gpu_agree(one_channel, *arrays)


def test_gradients_of_inputs_of_two_strides_are_told_apart_on_cuda(monkeypatch) -> None:
    """MLX caches cuDNN's plans by the shapes of inputs and filters, padding and flip, without the input's dilation."""
    as_on_cuda(monkeypatch)
    convolve, seen = mx.conv_general, []

    def noting(x, filters, **settings):
        seen.append((x.shape, filters.shape, str(settings["padding"])))
        return convolve(x, filters, **settings)

    monkeypatch.setattr(conv_gpu.mx, "conv_general", noting)
    passed, filters = mx.ones((1, 4, 5, 2)), mx.ones((2, 3, 3, 2))
    for stride, sizes in ((1, [(4, 5)]), (2, [(7, 9), (7, 10), (8, 9), (8, 10)])):
        for size in sizes:
            assert conv_gpu.grad_input(passed, filters, stride, 1, size).shape == (1, *size, 2)
    assert seen[0] not in seen[1:]


# ------------------------------------------------------------------ how much is computed


@pytest.mark.parametrize(("trained", "frozen", "at_border"), [(5, 0, 1), (3, 11, 3), (0, 53, 4)])
def test_a_backbone_computes_no_convolution_twice(monkeypatch, trained: int, frozen: int, at_border: int) -> None:
    """Forward each once; backward one for the filters of trained layers, one for the input if any layer before is."""
    as_on_cuda(monkeypatch)
    model = backbone(trainable_layers=trained)
    convolutions = sum(isinstance(m, Conv2d) for m in model.modules())
    assert convolutions == 61
    levels = model(float32(1, 3, 64, 64, device="gpu"))
    assert work(primitives(*(level.data for level in levels))) == convolutions
    found = graph_of_gradients(total(levels))
    in_training = convolutions - frozen
    assert work(found) == convolutions + in_training + (in_training - at_border)
    assert not [name for name in found if "Scatter" in name]


def test_without_cudnn_gradients_of_filters_are_products() -> None:
    model = backbone()
    found = graph_of_gradients(total(model(float32(1, 3, 64, 64, device="gpu"))))
    larger = [m.weight.shape[2] for m in model.modules() if isinstance(m, Conv2d) and m.weight.shape[2] > 1]
    assert found["Convolution"] == 2 * len(larger) - 1
    assert found["Matmul"] + found["AddMM"] == sum(larger) + 3 * (61 - len(larger))


@pytest.mark.parametrize("norm", [True, False])
def test_relu_is_taken_from_the_result(norm: bool) -> None:
    x, weight, bias = (tensor(float32(*s).data, "gpu", True) for s in ((2, 4, 6, 6), (4, 4, 3, 3), (4,)))
    if norm:
        out = batch_norm(x, bias, bias, bias * 0, bias * 0 + 1, training=True, relu=True)
        assert work(graph_of_gradients(out)) == 0
    else:
        found = graph_of_gradients(conv2d(x, weight, bias, padding=1, relu=True))
        assert (found["Convolution"], found["Maximum"]) == (2, 1)


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (upsample_add, [(1, 2, 3, 4), (1, 2, 6, 8)]),
        (upsample_add, [(1, 2, 3, 4), (1, 2, 5, 9)]),
        (upsample_add, [(1, 2, 5, 7), (1, 2, 3, 4)]),
        (lambda x: max_pool2d(x, 3, stride=2, padding=1), [(1, 2, 7, 8)]),
        (subsample, [(1, 2, 7, 8)]),
        (flatten, [(3, 2, 2, 3)]),
        (lambda *maps: concat_anchors(maps, 2), [(1, 4, 3, 3), (1, 4, 2, 1)]),
    ],
)
def test_no_gradient_is_scattered(fn, shapes) -> None:
    """Sums whose order is not fixed on a gpu."""
    inputs = [tensor(float32(*shape).data, "gpu", True) for shape in shapes]
    found = graph_of_gradients(fn(*inputs))
    assert not [name for name in found if "Scatter" in name]
    cpu_gpu_agree(fn, *(normal(*shape) for shape in shapes))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 3, 1), (5, 2, 2)])
def test_of_equal_pixels_the_first_gets_the_gradient_on_both_devices(kernel: int, stride: int, padding: int) -> None:
    x = np.random.default_rng(0).integers(0, 3, (2, 3, 8, 9))
    cpu_gpu_agree(lambda x: max_pool2d(x, kernel, stride=stride, padding=padding), x.astype(np.float32), tol=1e-6)


def test_what_needs_no_gradient_is_not_differentiated() -> None:
    x, weight = (float32(*shape, device="gpu") for shape in ((1, 3, 5, 5), (2, 3, 3, 3)))
    weight.requires_grad = True
    assert work(graph_of_gradients(conv2d(x, weight))) == 1 + 3
    with lucid.no_grad():
        assert not conv2d(x, weight).requires_grad


@pytest.mark.skipif(mx.metal.is_available() or mx.cuda.is_available(), reason="a GPU frees memory when it gets to it")
def test_gradients_of_filters_take_little_memory() -> None:
    """Not each pixel once for every place in the kernel, all at a time."""
    x, passed = mx.ones((1, 64, 64, 16)), mx.ones((1, 64, 64, 4))
    mx.eval(x, passed)
    limit = mx.set_memory_limit(1)  # which MLX's CPU keeps as far as it can
    try:
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(conv_gpu.grad_filters(x, passed, (7, 7), 1, 3, convolve=False))
        assert mx.get_peak_memory() - before < 49 * x.nbytes / 2
    finally:
        mx.set_memory_limit(limit)
