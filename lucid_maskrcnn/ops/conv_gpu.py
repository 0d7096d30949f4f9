"""Convolutions of MLX arrays and their gradients, as few convolutions and products of matrices as there can be.

``mx.vjp`` of a convolution with a ReLU computes the convolution again, and its gradient of the filters copies each
pixel once for every place in the kernel. Here each of the three is computed once:

    result                  a convolution
    gradient of the input   a convolution with the filters rotated by 180 degrees, or of the gradient between zeros
    gradient of the filters a convolution on CUDA, where cuDNN has one for it; else a product for each row of the kernel

A kernel that is not larger than its stride (1 × 1, or 2 × 2 with stride 2) reads no pixel twice: there all three are
products of matrices.

Shapes: arrays are channels last, (N, H, W, C), filters (O, kh, kw, C); N images, C input and O output channels, H × W
input and P × Q output pixels, kh × kw pixels of a kernel.

Names: ``passed`` is the gradient before the ReLU. A ``tap`` is a place in the kernel; ``columns`` are the values under
some taps at each output pixel (im2col).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx

from .backend import gpu_kind
from .kept_gpu import kept

__all__ = [
    "before_relu",
    "columns",
    "correlate",
    "filters_of",
    "grad_filters",
    "grad_input",
    "interleave_zeros",
    "product",
    "resized",
    "sum_over_pixels",
]

type _Pair = tuple[int, int]


def _on_cuda() -> bool:
    return gpu_kind() == "cuda"


def filters_of(weight: mx.array, scale: mx.array | None, *, keep: bool) -> mx.array:
    """Return ``weight`` (O, C, kh, kw) times ``scale`` (O,) as filters (O, kh, kw, C), of the weight's own type.

    With ``keep`` they are computed once for as long as both arrays stay as they are.
    """

    def lay_out(weight: mx.array, *scale: mx.array) -> mx.array:
        for factor in scale:
            weight = (weight * factor[:, None, None, None]).astype(weight.dtype)
        return mx.contiguous(weight.transpose(0, 2, 3, 1))

    given = (weight,) if scale is None else (weight, scale)
    return kept("filters", lay_out, *given) if keep else lay_out(*given)


def product(x: mx.array, matrix: mx.array, bias: mx.array | None = None) -> mx.array:
    """Return ``x · matrix + bias``: (…, K) times (K, M); a bias of another type becomes of that of ``x``."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    out = rows @ matrix if bias is None else mx.addmm(bias.astype(x.dtype), rows, matrix)
    return out.reshape(*x.shape[:-1], matrix.shape[1])


def before_relu(grad: mx.array, out: mx.array) -> mx.array:
    """Return the gradient before a ReLU that gave ``out``, from that after it."""
    return grad * (out > 0)


def sum_over_pixels(values: mx.array) -> mx.array:
    """Return (…, C) summed over all but the channels: (C,)."""
    return values.reshape(-1, values.shape[-1]).sum(axis=0)


def correlate(x: mx.array, filters: mx.array, stride: int, padding: int, bias: mx.array | None = None) -> mx.array:
    """Convolve ``x`` (N, H, W, C) with ``filters`` (O, kh, kw, C) and add the bias: (N, P, Q, O)."""
    kernel = _kernel(filters)
    size = [(n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[1:3], kernel, strict=True)]
    if 0 in (x.size, filters.size):  # which MLX cannot convolve
        out = mx.zeros((len(x), *size, len(filters)), x.dtype)
        return out if bias is None else out + bias.astype(out.dtype)
    if not _apart(kernel, stride, padding):
        out = mx.conv2d(x, filters, stride=stride, padding=padding)
        return out if bias is None else out + bias.astype(out.dtype)
    under = columns(x, _taps(range(kernel[0]), range(kernel[1])), stride, (size[0], size[1]))
    return product(under, filters.reshape(filters.shape[0], -1).T, bias)


def grad_input(passed: mx.array, filters: mx.array, stride: int, padding: int, size: _Pair) -> mx.array:
    """Return the gradient of :func:`correlate` with respect to its input of ``size`` (H, W): (N, H, W, C)."""
    kernel = _kernel(filters)
    if 0 in (passed.size, filters.size, *size):
        return mx.zeros((len(passed), *size, filters.shape[3]), passed.dtype)
    if _apart(kernel, stride, padding):
        return _spread(product(passed, filters.reshape(filters.shape[0], -1)), kernel, stride, size)
    # Zeros around, so that each pixel of the input meets all output pixels that it has a part in.
    before = [k - 1 - padding for k in kernel]
    after = [n - ((m - 1) * stride + 1) + padding for n, m in zip(size, passed.shape[1:3], strict=True)]
    exchanged = filters.transpose(3, 1, 2, 0)  # (C, kh, kw, O)
    # "flip" is how MLX knows cuDNN's gradient of the input; elsewhere flipped filters take a slower path.
    flip = _on_cuda()
    if flip and stride > 1:
        # MLX looks up cuDNN's plans without the stride of this gradient: where sizes and padding would be those of a
        # stride of 1 it takes that one's plan. One more row or column, cut off below, tells them apart.
        after = [n + (n == b) for n, b in zip(after, before, strict=True)]
    out = mx.conv_general(
        passed,
        exchanged if flip else exchanged[:, ::-1, ::-1],
        padding=([max(n, 0) for n in before], [max(n, 0) for n in after]),
        input_dilation=stride,
        flip=flip,
    )
    top, left = (max(-n, 0) for n in before)  # with padding wider than the kernel
    return out[:, top : top + size[0], left : left + size[1]] if out.shape[1:3] != size else out


def grad_filters(
    x: mx.array, passed: mx.array, kernel: _Pair, stride: int, padding: int, *, convolve: bool | None = None
) -> mx.array:
    """Return the gradient of :func:`correlate` with respect to its filters: (O, kh, kw, C).

    ``convolve`` says whether by a convolution or, in less memory, by a product for each row of the kernel; by default
    by what is faster on this device.
    """
    if 0 in (x.size, passed.size):
        return mx.zeros((passed.shape[3], *kernel, x.shape[3]), passed.dtype)
    if convolve is None:
        convolve = _on_cuda() and not _apart(kernel, stride, padding)
    size = (passed.shape[1], passed.shape[2])
    if convolve:
        # Images are the channels of this convolution, and channels its images.
        after = [(m - 1) * stride + k - n - padding for m, n, k in zip(size, x.shape[1:3], kernel, strict=True)]
        taps = mx.conv_general(
            x.swapaxes(0, 3), passed.swapaxes(0, 3), padding=([padding, padding], after), kernel_dilation=stride
        )
        return taps.swapaxes(0, 3)
    if padding:
        x = mx.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    across = passed.reshape(-1, passed.shape[3]).T  # (O, N · P · Q)
    rows: list[mx.array] = []
    for y in range(kernel[0]):
        under = columns(x, _taps([y], range(kernel[1])), stride, size).reshape(-1, kernel[1] * x.shape[3])
        rows.append(across @ under)
        x = mx.depends(x, rows[-1])  # one row's columns after the other's, not all in memory together
    return mx.concatenate(rows, axis=1).reshape(passed.shape[3], *kernel, x.shape[3])


def columns(x: mx.array, taps: Sequence[_Pair], stride: int, size: _Pair) -> mx.array:
    """Return what lies under ``taps`` at each of P × Q outputs, one tap's channels after the other's: (N, P, Q, t)."""
    ends = [(n - 1) * stride + 1 for n in size]
    parts = [x[:, y : y + ends[0] : stride, z : z + ends[1] : stride] for y, z in taps]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=3)


def interleave_zeros(x: mx.array, stride: int, size: _Pair) -> mx.array:
    """Return (N, H, W, C) of ``size`` whose every ``stride``-th pixel is one of ``x``, and zero elsewhere."""
    return _spread(x, (1, 1), stride, size)


def resized(x: mx.array, height: int, width: int) -> mx.array:
    """Cut ``x`` (N, h, w, C) at the lower and right border, or put zeros there: (N, height, width, C)."""
    x = x[:, :height, :width]
    missing = (height - x.shape[1], width - x.shape[2])
    return mx.pad(x, [(0, 0), (0, missing[0]), (0, missing[1]), (0, 0)]) if any(missing) else x


def _kernel(filters: mx.array) -> _Pair:
    return (filters.shape[1], filters.shape[2])


def _apart(kernel: _Pair, stride: int, padding: int) -> bool:
    """Return whether no pixel is under the kernel at two places."""
    return max(kernel) <= stride and padding == 0


def _taps(rows: Iterable[int], cols: Iterable[int]) -> list[_Pair]:
    cols = list(cols)
    return [(y, z) for y in rows for z in cols]


def _spread(taps: mx.array, kernel: _Pair, stride: int, size: _Pair) -> mx.array:
    """Put each pixel's patch, (N, P, Q, kh · kw · C), ``stride`` apart into images of zeros: (N, H, W, C)."""
    n, rows, cols, values = taps.shape
    channels = values // (kernel[0] * kernel[1])
    patches = taps.reshape(n, rows, cols, *kernel, channels)
    rest: list[Any] = [(0, 0)] * 3 + [(0, stride - k) for k in kernel] + [(0, 0)]
    if kernel != (stride, stride):
        patches = mx.pad(patches, rest)
    images = patches.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * stride, cols * stride, channels)
    return resized(images, *size)
