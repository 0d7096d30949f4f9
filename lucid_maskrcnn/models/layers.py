"""The modules that hold weights, and how a convolution meets its norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import lucid
import lucid.nn as nn
from lucid import Tensor

from .. import ops

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Linear",
    "conv_norm",
    "make_norm",
    "shapes_only",
    "uninitialised",
]


_initial = ContextVar("initial", default="random")


@contextmanager
def uninitialised() -> Iterator[None]:
    """Leave the weights of layers built inside as zeros: drawing 44 million numbers takes longer than loading them."""
    with _initial_weights("zeros"):
        yield


@contextmanager
def shapes_only() -> Iterator[None]:
    """Give the layers built inside weights that have a shape and no memory: to compare with a file's."""
    with _initial_weights("shapes"):
        yield


@contextmanager
def _initial_weights(kind: str) -> Iterator[None]:
    token = _initial.set(kind)
    try:
        yield
    finally:
        _initial.reset(token)


def _parameter(*shape: int) -> nn.Parameter:
    """Return zeros to be initialised."""
    return nn.Parameter(ops.shape_only(*shape) if _initial.get() == "shapes" else ops.zeros(*shape))


class Conv2d(nn.Module):
    """A convolution; weights start as normal numbers of the given standard deviation, biases as 0.

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
        Shape of the filters: ``(out_channels, in_channels, kernel_size, kernel_size)``.
    stride, padding : int
        The same for both axes.
    bias : bool
        Whether there is one.
    std : float, optional
        Of the initial weights; by default that of He et al. 2015 for ReLU, over the outputs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        std: float | None = None,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        if std is None:
            std = math.sqrt(2 / (out_channels * kernel_size**2))
        self.weight = _normal((out_channels, in_channels, kernel_size, kernel_size), std)
        self.bias = _parameter(out_channels) if bias else None

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Convolve ``x`` (N, C, H, W), with ReLU if asked for."""
        return ops.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding, relu=relu)


class ConvTranspose2d(nn.Module):
    """A transposed convolution without padding; initialised as :class:`Conv2d`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        shape = (in_channels, out_channels, kernel_size, kernel_size)
        self.weight = _normal(shape, math.sqrt(2 / (in_channels * kernel_size**2)))
        self.bias = _parameter(out_channels)

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Enlarge ``x`` (N, C, H, W), with ReLU if asked for."""
        return ops.conv_transpose2d(x, self.weight, self.bias, stride=self.stride, relu=relu)


class Linear(nn.Module):
    """A linear layer.

    Weights and biases start uniform within ±1/√in_features, as PyTorch's do; with ``std`` weights
    start normal and biases as 0.
    """

    def __init__(self, in_features: int, out_features: int, *, std: float | None = None) -> None:
        super().__init__()
        self.bias = _parameter(out_features)
        if std is None:
            bound = 1 / math.sqrt(in_features)
            self.weight = _parameter(out_features, in_features)
            if _initial.get() == "random":
                nn.init.uniform(self.weight, -bound, bound)
                nn.init.uniform(self.bias, -bound, bound)
        else:
            self.weight = _normal((out_features, in_features), std)

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Apply to the rows of ``x`` (R, in_features), with ReLU if asked for."""
        return ops.linear(x, self.weight, self.bias, relu=relu)


def _normal(shape: tuple[int, ...], std: float) -> nn.Parameter:
    weight = _parameter(*shape)
    if _initial.get() == "random":
        nn.init.normal(weight, 0.0, std)
    return weight


class Dropout(nn.Module):
    """Zeroes each value with probability ``p`` where a gradient is wanted in training mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p}.")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, or what is left of it."""
        return ops.dropout(x, self.p) if self.p and self.training and lucid.grad_enabled() else x


class BatchNorm2d(nn.Module):
    """Batch norm in float32, applied by :func:`conv_norm` together with its convolution.

    Parameters
    ----------
    channels : int
        Number of channels.
    frozen : bool
        Whether scale and offset are constants too, as with pretrained weights. Otherwise they are
        trained, and the batch's statistics are used where a gradient is wanted in training mode.
    eps, momentum : float
        Added to the variance; share of a new batch in the running statistics.
    """

    def __init__(self, channels: int, *, frozen: bool, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.frozen, self.eps, self.momentum = frozen, eps, momentum
        kind = nn.Buffer if frozen else nn.Parameter
        self.weight = kind(lucid.ones(channels, dtype=lucid.Float32))
        self.bias = kind(ops.zeros(channels))
        self.running_mean = nn.Buffer(ops.zeros(channels))
        self.running_var = nn.Buffer(lucid.ones(channels, dtype=lucid.Float32))

    @property
    def constant(self) -> bool:
        """Whether the layer is a fixed scale and offset now, which the convolution can absorb."""
        return self.frozen or not lucid.grad_enabled()

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return that scale and offset."""
        return ops.fold_batch_norm(self.weight, self.bias, self.running_mean, self.running_var, self.eps)

    def forward(self, x: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Normalise ``x`` (N, C, H, W) by the batch's statistics in training mode, else by the running ones.

        Of no regions at all there are no statistics: the running ones are used then, and stay.
        """
        return ops.batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=self.training and not self.frozen and lucid.grad_enabled() and x.shape[0] > 0,
            momentum=self.momentum,
            eps=self.eps,
            residual=residual,
            relu=relu,
        )


def make_norm(norm: str | None, channels: int) -> BatchNorm2d | None:
    """Return the norm layer called ``"frozen"`` or ``"batch"``, or None for None."""
    if norm is None:
        return None
    if norm not in ("frozen", "batch"):
        raise ValueError(f"norm must be 'frozen' or 'batch', got {norm!r}.")
    return BatchNorm2d(channels, frozen=norm == "frozen")


def conv_norm(
    x: Tensor, conv: Conv2d, norm: BatchNorm2d | None, *, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Convolve, normalise, add the residual and apply ReLU; one operator where the norm is constant."""

    def convolve(bias: Tensor | None, **fused: Any) -> Tensor:
        return ops.conv2d(x, conv.weight, bias, stride=conv.stride, padding=conv.padding, **fused)

    if norm is None:
        return convolve(conv.bias, residual=residual, relu=relu)
    if norm.constant:
        scale, shift = norm.fold()
        return convolve(shift, scale=scale, residual=residual, relu=relu)
    return norm(convolve(conv.bias), residual=residual, relu=relu)
