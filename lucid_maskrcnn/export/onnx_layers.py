"""The layers of :mod:`~lucid_maskrcnn.models.layers` as nodes; batch norm is folded into its convolution."""

from __future__ import annotations

import numpy as np
from lucid import Tensor

from ..models.layers import BatchNorm2d, Conv2d, ConvTranspose2d, Linear
from ..ops import host
from .onnx_graph import Graph, Value

__all__ = ["conv2d", "conv_norm", "conv_transpose2d", "linear", "sigmoid"]


def numbers_of(g: Graph, tensor: Tensor) -> tuple[str, np.ndarray]:
    """Return what a parameter is called, and its numbers in float32."""
    return g.names[id(tensor)], host(tensor).astype(np.float32)


def conv2d(g: Graph, x: Value, conv: Conv2d, *, relu: bool = False) -> Value:
    """Write a convolution, with ReLU if asked for."""
    return conv_norm(g, x, conv, None, relu=relu)


def conv_norm(
    g: Graph,
    x: Value,
    conv: Conv2d,
    norm: BatchNorm2d | None,
    *,
    residual: Value | None = None,
    relu: bool = False,
    flip: bool = False,
) -> Value:
    """Write a convolution and what follows it; ``flip`` is for input channels in the opposite order."""
    name, filters = numbers_of(g, conv.weight)  # (out, in, k, k)
    bias = None if conv.bias is None else numbers_of(g, conv.bias)[1]
    if norm is not None:
        scale, bias = (host(t).astype(np.float32) for t in norm.fold())
        filters = filters * scale[:, None, None, None]
    if flip:
        filters = filters[:, ::-1]
    inputs = [x, g.weight(name, filters)]
    if bias is not None:
        inputs.append(g.weight(f"{name.removesuffix('weight')}bias", bias))
    size = filters.shape[2]
    x = g.Conv(*inputs, kernel_shape=[size] * 2, strides=[conv.stride] * 2, pads=[conv.padding] * 4)
    x = x if residual is None else x + residual
    return g.Relu(x) if relu else x


def conv_transpose2d(g: Graph, x: Value, conv: ConvTranspose2d, *, relu: bool = False) -> Value:
    """Write a transposed convolution, with ReLU if asked for."""
    name, filters = numbers_of(g, conv.weight)  # (in, out, k, k)
    bias = g.weight(*numbers_of(g, conv.bias))
    size = filters.shape[2]
    x = g.ConvTranspose(x, g.weight(name, filters), bias, kernel_shape=[size] * 2, strides=[conv.stride] * 2)
    return g.Relu(x) if relu else x


def linear(g: Graph, x: Value, layer: Linear, *, relu: bool = False) -> Value:
    """Write a linear layer of the rows of ``x``, with ReLU if asked for."""
    x = g.Gemm(x, g.weight(*numbers_of(g, layer.weight)), g.weight(*numbers_of(g, layer.bias)), transB=1)
    return g.Relu(x) if relu else x


def sigmoid(g: Graph, x: Value) -> Value:
    """Write the logistic function by the formula of ``ops.sigmoid``: equal logits stay equal, greater ones greater."""
    above, below = g.Exp(g.Min(x, 0.0)), g.Exp(g.Min(-x, 0.0))  # one of them is 1
    return above / (above + below)
