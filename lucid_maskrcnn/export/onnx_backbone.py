"""The stages of :mod:`~lucid_maskrcnn.models.backbone` as nodes.

Shapes: C2 … C5 are the body's stages at strides 4 … 32, P2 … P6 the pyramid.
"""

from __future__ import annotations

from ..models.backbone import BasicBlock, Bottleneck, FeaturePyramid, ResNet
from .onnx_graph import Graph, Value
from .onnx_layers import conv_norm

__all__ = ["feature_pyramid", "resnet"]


def resnet(g: Graph, x: Value, body: ResNet, *, bgr: bool) -> list[Value]:
    """Return C2 … C5 of images (1, 3, H, W) in red, green, blue, also if the network takes the opposite order."""
    x = conv_norm(g, x, body.conv1, body.bn1, relu=True, flip=bgr)
    x = g.MaxPool(x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    stages = []
    for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
        for block in stage.children():
            x = _block(g, x, block)
        stages.append(x)
    return stages


def _block(g: Graph, x: Value, block: BasicBlock | Bottleneck) -> Value:
    shortcut = x if block.downsample is None else conv_norm(g, x, *block.downsample.children())
    last = 3 if isinstance(block, Bottleneck) else 2
    for i in range(1, last):
        x = conv_norm(g, x, getattr(block, f"conv{i}"), getattr(block, f"bn{i}"), relu=True)
    conv, norm = getattr(block, f"conv{last}"), getattr(block, f"bn{last}")
    return conv_norm(g, x, conv, norm, residual=shortcut, relu=True)


def feature_pyramid(g: Graph, stages: list[Value], fpn: FeaturePyramid) -> list[Value]:
    """Return P2 … P6 of C2 … C5."""
    none = [None] * len(stages)
    inner_norms, layer_norms = list(fpn.inner_norms) or none, list(fpn.layer_norms) or none
    levels: list[Value] = []
    top_down: Value | None = None
    for i in reversed(range(len(stages))):
        lateral = conv_norm(g, stages[i], fpn.inner_blocks[i], inner_norms[i])
        top_down = lateral if top_down is None else lateral + _enlarged(g, top_down, lateral)
        levels.insert(0, conv_norm(g, top_down, fpn.layer_blocks[i], layer_norms[i]))
    return [*levels, g.MaxPool(levels[-1], kernel_shape=[1, 1], strides=[2, 2])]  # every second pixel


def _enlarged(g: Graph, coarse: Value, fine: Value) -> Value:
    """Return ``coarse`` at the size of ``fine``, each pixel repeated."""
    modes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    return g.Resize(coarse, None, None, g.Shape(fine), **modes)
