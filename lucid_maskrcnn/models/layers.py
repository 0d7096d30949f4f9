"""The modules that hold weights, and how a convolution meets its norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import lucid
import lucid.nn as nn
from lucid import Tensor

from .. import ops
from ..reprs import described
from ..validators import choice, flag, fraction, fraction_below_one, non_negative_int, positive_int

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Linear",
    "conv_norm",
    "make_norm",
    "parameters_of",
    "shapes_only",
    "uninitialized",
]


_initial = ContextVar("initial", default="random")


@contextmanager
def uninitialized() -> Iterator[None]:
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
    """Return zeros to be initialized."""
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
        in_channels, out_channels = positive_int("in_channels", in_channels), positive_int("out_channels", out_channels)
        kernel_size = positive_int("kernel_size", kernel_size)
        self.stride, self.padding = positive_int("stride", stride), non_negative_int("padding", padding)
        if std is None:
            std = math.sqrt(2 / (out_channels * kernel_size**2))
        self.weight = _normal((out_channels, in_channels, kernel_size, kernel_size), std)
        self.bias = _parameter(out_channels) if flag("bias", bias) else None

    @described
    def __repr__(self) -> str:
        channels, in_channels, size, _ = self.weight.shape
        more = "" if self.bias is not None else ", bias=False"
        return f"Conv2d({in_channels}, {channels}, {size}, stride={self.stride}, padding={self.padding}{more})"

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Convolve ``x`` (N, C, H, W), with ReLU if asked for."""
        x = ops.cast_like(x, self.weight)
        return ops.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding, relu=relu)


class ConvTranspose2d(nn.Module):
    """A transposed convolution without padding; initialized as :class:`Conv2d`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int) -> None:
        super().__init__()
        in_channels, out_channels = positive_int("in_channels", in_channels), positive_int("out_channels", out_channels)
        kernel_size, self.stride = positive_int("kernel_size", kernel_size), positive_int("stride", stride)
        shape = (in_channels, out_channels, kernel_size, kernel_size)
        self.weight = _normal(shape, math.sqrt(2 / (in_channels * kernel_size**2)))
        self.bias = _parameter(out_channels)

    @described
    def __repr__(self) -> str:
        in_channels, channels, size, _ = self.weight.shape
        return f"ConvTranspose2d({in_channels}, {channels}, {size}, stride={self.stride})"

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Enlarge ``x`` (N, C, H, W), with ReLU if asked for."""
        x = ops.cast_like(x, self.weight)
        return ops.conv_transpose2d(x, self.weight, self.bias, stride=self.stride, relu=relu)


class Linear(nn.Module):
    """A linear layer.

    Weights and biases start uniform within ±1/√in_features, as PyTorch's do; with ``std`` weights
    start normal and biases as 0.
    """

    def __init__(self, in_features: int, out_features: int, *, std: float | None = None) -> None:
        super().__init__()
        in_features, out_features = positive_int("in_features", in_features), positive_int("out_features", out_features)
        self.bias = _parameter(out_features)
        if std is None:
            bound = 1 / math.sqrt(in_features)
            self.weight = _drawn((out_features, in_features), nn.init.uniform, -bound, bound)
            if _initial.get() == "random":
                nn.init.uniform(self.bias, -bound, bound)
        else:
            self.weight = _normal((out_features, in_features), std)

    @described
    def __repr__(self) -> str:
        out_features, in_features = self.weight.shape
        return f"Linear({in_features}, {out_features})"

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Apply to the rows of ``x`` (R, in_features), with ReLU if asked for."""
        return ops.linear(ops.cast_like(x, self.weight), self.weight, self.bias, relu=relu)


def _normal(shape: tuple[int, ...], std: float) -> nn.Parameter:
    return _drawn(shape, nn.init.normal, 0.0, std)


def _drawn(shape: tuple[int, ...], draw: Callable[..., None], *numbers: float) -> nn.Parameter:
    """Return a parameter that a function of Lucid fills, in memory that is reused: that of Lucid's own array is not."""
    weight = _parameter(*shape)
    if _initial.get() == "random":
        values = ops.shape_only(*shape)
        draw(values, *numbers)
        weight.data[...] = values.data
    return weight


class Dropout(nn.Module):
    """Sets each value to zero with probability ``p`` in training mode, where gradients are computed."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = fraction_below_one("dropout", p)

    @described
    def __repr__(self) -> str:
        return f"Dropout({self.p})"

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, in training mode with dropout."""
        return ops.dropout(x, self.p) if self.p and self.training and lucid.grad_enabled() else x


class BatchNorm2d(nn.Module):
    """Batch norm in float32, applied by :func:`conv_norm` together with its convolution.

    Parameters
    ----------
    channels : int
        Number of channels.
    frozen : bool
        Whether scale and shift are constants too, as with pretrained weights. Otherwise they are
        trained, and the batch's statistics are used in training mode where gradients are computed.
    eps, momentum : float
        Added to the variance; weight of a new batch in the running statistics.
    """

    def __init__(self, channels: int, *, frozen: bool, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        channels, self.frozen = positive_int("channels", channels), flag("frozen", frozen)
        self.eps, self.momentum = fraction_below_one("eps", eps), fraction("momentum", momentum)
        kind = nn.Buffer if frozen else nn.Parameter
        self.weight = kind(lucid.ones(channels, dtype=lucid.Float32))
        self.bias = kind(ops.zeros(channels))
        self.running_mean = nn.Buffer(ops.zeros(channels))
        self.running_var = nn.Buffer(lucid.ones(channels, dtype=lucid.Float32))

    @described
    def __repr__(self) -> str:
        return (
            f"BatchNorm2d({self.weight.shape[0]}, frozen={self.frozen}, eps={self.eps:g}, momentum={self.momentum:g})"
        )

    def freeze(self) -> None:
        """Make scale and shift constants, as with ``frozen=True``."""
        self.frozen = True
        self.weight.requires_grad = self.bias.requires_grad = False

    @property
    def constant(self) -> bool:
        """Whether the layer is a constant scale and shift at present, which can be folded into the convolution."""
        return self.frozen or not lucid.grad_enabled()

    @property
    def live(self) -> bool:
        """Whether the layer takes the statistics of the batch at present."""
        return self.training and not self.constant

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return the scale and shift (channels,) of the layer as it is at present."""
        return ops.fold_batch_norm(self.weight, self.bias, self.running_mean, self.running_var, self.eps)

    def forward(self, x: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Normalize ``x`` (N, C, H, W) by the batch's statistics in training mode, else by the running ones.

        A batch without regions (N = 0) has no statistics: then the running ones are used and left unchanged.
        """
        return ops.batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=self.live and x.shape[0] > 0,
            momentum=self.momentum,
            eps=self.eps,
            residual=residual,
            relu=relu,
        )


def parameters_of(module: nn.Module) -> str:
    """Return how many numbers the parameters of a module are, in words."""
    return f"{sum(math.prod(p.shape) for p in module.parameters()):,} parameters"


def make_norm(norm: str | None, channels: int) -> BatchNorm2d | None:
    """Return the norm layer called ``"frozen"`` or ``"batch"``, or None for None."""
    if norm is None:
        return None
    return BatchNorm2d(channels, frozen=choice("norm", norm, ("frozen", "batch")) == "frozen")


def conv_norm(
    x: Tensor, conv: Conv2d, norm: BatchNorm2d | None, *, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Convolve, normalize, add the residual and apply ReLU; one operator where the norm is constant."""
    x = ops.cast_like(x, conv.weight)

    def convolve(bias: Tensor | None, **fused: Any) -> Tensor:
        return ops.conv2d(x, conv.weight, bias, stride=conv.stride, padding=conv.padding, **fused)

    if norm is None:
        return convolve(conv.bias, residual=residual, relu=relu)
    if norm.constant:
        scale, shift = norm.fold()
        return convolve(shift, scale=scale, residual=residual, relu=relu)
    return norm(convolve(conv.bias), residual=residual, relu=relu)
