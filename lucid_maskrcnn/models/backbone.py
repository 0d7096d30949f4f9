"""The backbone: a ResNet body (He et al. 2016) under a feature pyramid (Lin et al. 2017).

Shapes: N images, H × W pixels; C2 … C5 are the body's stages at strides 4 … 32, P2 … P6 the pyramid.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import lucid.nn as nn
from lucid import Tensor

from .. import ops
from ..call_answers import answers_wrong_calls
from ..config import BackboneConfig
from ..reprs import described
from ..validators import choice, instance, integer, optional, positive_int, sequence
from .layers import BatchNorm2d, Conv2d, conv_norm, make_norm, parameters_of

__all__ = ["BasicBlock", "Bottleneck", "FeaturePyramid", "ResNet", "_ResNetFPNBackbone"]

_MAX_CHANNELS = 65_536
LAYERS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int, norm: str, stride_in_1x1: bool) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = make_norm(norm, width)
        self.conv2 = Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = make_norm(norm, width)
        self.downsample = _shortcut(in_channels, width, stride, norm)

    @described
    def __repr__(self) -> str:
        return f"BasicBlock({parameters_of(self)})"

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else conv_norm(x, *self.downsample.children())
        out = conv_norm(x, self.conv1, self.bn1, relu=True)
        return conv_norm(out, self.conv2, self.bn2, residual=shortcut, relu=True)


class Bottleneck(nn.Module):
    """A 3×3 convolution between two 1×1 ones, around a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int, norm: str, stride_in_1x1: bool) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = make_norm(norm, width)
        self.conv2 = Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = make_norm(norm, width)
        self.conv3 = Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = make_norm(norm, 4 * width)
        self.downsample = _shortcut(in_channels, 4 * width, stride, norm)

    @described
    def __repr__(self) -> str:
        return f"Bottleneck({parameters_of(self)})"

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 · width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else conv_norm(x, *self.downsample.children())
        out = conv_norm(x, self.conv1, self.bn1, relu=True)
        out = conv_norm(out, self.conv2, self.bn2, relu=True)
        return conv_norm(out, self.conv3, self.bn3, residual=shortcut, relu=True)


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Sequential | None:
    """Return the projection of a block that changes the shape, None for the others."""
    if stride == 1 and in_channels == out_channels:
        return None
    conv = Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict([("0", conv), ("1", make_norm(norm, out_channels))]))


@answers_wrong_calls
class ResNet(nn.Module):
    """The body: C2 to C5.

    Parameters
    ----------
    depth : {18, 50, 101}
        Number of layers.
    width : int
        Channels of the stem; 64 in the paper. The stages follow.
    norm : {"frozen", "batch"}
        Constant batch norm (for pretrained weights), or live (for training from scratch).
    stride_in_1x1 : bool
        Whether a stage's first bottleneck strides in its 1×1 convolution (as the paper, and detectron2's
        weights) or in its 3×3 (torchvision's).
    """

    def __init__(self, depth: int, *, width: int = 64, norm: str = "frozen", stride_in_1x1: bool = False) -> None:
        super().__init__()
        config = BackboneConfig(depth=depth, width=width, norm=norm, stride_in_1x1=stride_in_1x1)  # which checks them
        depth, width = config.depth, config.width
        block = BasicBlock if depth == 18 else Bottleneck
        self.conv1 = Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, width)
        channels, self.out_channels = width, []
        for stage, count in enumerate(LAYERS[depth]):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width * 2**stage, stride=stride, norm=norm, stride_in_1x1=stride_in_1x1))
                channels = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            self.out_channels.append(channels)

    @described
    def __repr__(self) -> str:
        return f"ResNet(4 stages of {self.out_channels} channels, {parameters_of(self)})"

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return C2 … C5 of the images (N, 3, H, W)."""
        x = conv_norm(x, self.conv1, self.bn1, relu=True)
        x = ops.max_pool2d(x, 3, stride=2, padding=1)
        stages = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            stages.append(x)
        return stages


class _Stages(list[Tensor]):
    """A list of stages that the pyramid may empty: the memory of a stage is free when its lateral map is computed."""


@answers_wrong_calls
class FeaturePyramid(nn.Module):
    """The pyramid: lateral 1×1 convolutions, a top-down path of additions, and a 3×3 convolution on each level.

    A body of your own returns its stages, each of half the height and width of the one before, and this makes of them
    the maps that a :class:`MaskRCNN` with ``use_fpn=True`` takes: one more than stages.

    Parameters
    ----------
    in_channels : sequence of int
        Of the body's stages, finest first.
    out_channels : int
        Of every level.
    norm : {"frozen", "batch"}, optional
        Constant or live batch norm after each convolution; none by default, as in the paper.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, norm: str | None = None) -> None:
        super().__init__()
        in_channels = sequence("in_channels", in_channels, partial(positive_int, maximum=_MAX_CHANNELS), minimum=1)
        out_channels = positive_int("out_channels", out_channels, _MAX_CHANNELS)
        norm = optional(partial(choice, options=("frozen", "batch")))("norm", norm)
        bias = norm is None
        laterals = [Conv2d(c, out_channels, 1, bias=bias, std=math.sqrt(1 / c)) for c in in_channels]
        std = math.sqrt(1 / (9 * out_channels))
        outputs = [Conv2d(out_channels, out_channels, 3, padding=1, bias=bias, std=std) for _ in in_channels]
        self.inner_blocks = nn.ModuleList(laterals)
        self.layer_blocks = nn.ModuleList(outputs)
        self.inner_norms = nn.ModuleList([make_norm(norm, out_channels) for _ in in_channels] if norm else [])
        self.layer_norms = nn.ModuleList([make_norm(norm, out_channels) for _ in in_channels] if norm else [])

    @described
    def __repr__(self) -> str:
        return f"FeaturePyramid({len(self.inner_blocks)} maps, {parameters_of(self)})"

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        """Return a map for each stage and one more, P2 … P6 for C2 … C5, all with ``out_channels`` channels.

        The last one, P6, is every second pixel of the one before.
        """
        sequence("stages", stages, partial(instance, kind=Tensor, wanted="a Lucid tensor"))
        if len(stages) != len(self.inner_blocks):
            raise ValueError(
                f"stages must be {len(self.inner_blocks)} feature maps, one for each of in_channels, got {len(stages)}."
            )
        none = [None] * len(stages)
        inner_norms, layer_norms = list(self.inner_norms) or none, list(self.layer_norms) or none
        levels: list[Tensor] = []
        top_down = None
        # Level by level, from the coarsest, so that no more of them than needed are held at a time.
        remaining = stages if isinstance(stages, _Stages) else list(stages)
        for i in reversed(range(len(stages))):
            lateral = conv_norm(remaining.pop(), self.inner_blocks[i], inner_norms[i])
            top_down = lateral if top_down is None else ops.upsample_add(top_down, lateral, overwrite=True)
            del lateral
            levels.insert(0, conv_norm(top_down, self.layer_blocks[i], layer_norms[i]))
        return [*levels, ops.subsample(levels[-1])]


class _ResNetFPNBackbone(nn.Module):
    """A ResNet body under a feature pyramid: images (N, 3, H, W) to the list P2 … P6.

    Parameters
    ----------
    depth, width, norm, stride_in_1x1
        As for :class:`ResNet`.
    out_channels : int
        Channels of every level; 256 in the paper.
    fpn_norm : {"frozen", "batch"}, optional
        Batch norm of the pyramid; none by default.
    norm_eps : float
        Added to the variances of batch norm.
    trainable_layers : int
        How many of the body's five layers (stem, four stages), counted from the top, are trained.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Attributes
    ----------
    config : BackboneConfig
        The arguments but for ``trainable_layers``.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        width: int = 64,
        out_channels: int = 256,
        norm: str = "frozen",
        fpn_norm: str | None = None,
        stride_in_1x1: bool = False,
        norm_eps: float = 1e-5,
        trainable_layers: int = 5,
    ) -> None:
        super().__init__()
        trainable_layers = integer("trainable_layers", trainable_layers, 0, 5)
        self.config = BackboneConfig(
            depth=depth,
            width=width,
            out_channels=out_channels,
            norm=norm,
            fpn_norm=fpn_norm,
            norm_eps=norm_eps,
            stride_in_1x1=stride_in_1x1,
        )
        self.body = ResNet(depth, width=width, norm=norm, stride_in_1x1=stride_in_1x1)
        self.fpn = FeaturePyramid(self.body.out_channels, self.config.out_channels, norm=fpn_norm)
        for module in self.modules():
            if isinstance(module, BatchNorm2d):
                module.eps = self.config.norm_eps
        layers = [self.body.layer4, self.body.layer3, self.body.layer2, self.body.layer1, self.body.conv1]
        frozen = layers[trainable_layers:] + ([self.body.bn1] if trainable_layers < 5 else [])
        for layer in frozen:
            for parameter in layer.parameters():
                parameter.requires_grad = False

    @described
    def __repr__(self) -> str:
        config = self.config
        norm = f"norm={config.norm!r}" + (f", fpn_norm={config.fpn_norm!r}" if config.fpn_norm else "")
        sizes = f"depth={config.depth}, width={config.width}, out_channels={config.out_channels}"
        return f"_ResNetFPNBackbone({sizes}, {norm}, {parameters_of(self)})"

    @property
    def out_channels(self) -> int:
        """Channels of every level."""
        return self.config.out_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return P2 … P6 at strides 4 … 64."""
        return self.fpn(_Stages(self.body(images)))
