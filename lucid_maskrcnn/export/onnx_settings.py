"""Which settings and layers the export knows: what it does not know it refuses, rather than writing another model."""

from __future__ import annotations

from typing import Any

import lucid.nn as nn

from ..config import BackboneConfig, HeadConfig, ImageConfig, ModelConfig, RPNConfig
from ..models import MaskRCNN
from ..models.anchors import _AnchorGenerator
from ..models.backbone import BasicBlock, Bottleneck, FeaturePyramid, ResNet, _ResNetFPNBackbone
from ..models.heads import ConvStack, _MaskHead
from ..models.layers import BatchNorm2d, Conv2d, ConvTranspose2d, Dropout, Linear
from ..models.losses import _MaskRCNNLoss
from ..models.pooling import MultiScaleROIAlign
from ..models.rpn import _RegionProposalNetwork, _RPNHead

__all__ = ["EXPORTED", "WITHOUT_EFFECT", "check_layers"]

#: The fields of each part of a configuration that are in the graph, be it as the shape of a weight, or in its metadata.
EXPORTED: dict[Any, frozenset[str]] = {
    ModelConfig: frozenset(
        [
            "num_classes",
            "feat_channels",
            "use_fpn",
            "anchor_sizes",
            "aspect_ratios",
            "pool_size",
            "hidden_dim",
            "mask_pool_size",
            "mask_hidden_channels",
            "mask_out_size",
            "pooled_levels",
            "rpn_convs",
            "box_convs",
            "head_norm",
            "image",
            "rpn",
            "heads",
            "categories",
            "backbone",
        ]
    ),
    ImageConfig: frozenset(
        [
            "min_size",
            "max_size",
            "scale",
            "pixel_mean",
            "pixel_std",
            "size_divisor",
            "bgr",
            "antialias",
            "clip_restored",
            "intensity",
        ]
    ),
    RPNConfig: frozenset(
        [
            "pre_nms_top_n",
            "post_nms_top_n",
            "nms_thresh",
            "min_size",
            "by_logits",
            "finite_only",
            "whole_pixels",
            "nominal_strides",
            "sizes_first",
        ]
    ),
    HeadConfig: frozenset(
        [
            "sampling_ratio",
            "aligned",
            "box_weights",
            "min_size",
            "nms_thresh",
            "top_k",
            "finite_only",
            "level_margin",
            "snap_masks",
        ]
    ),
    BackboneConfig: frozenset(["depth", "width", "out_channels", "norm", "fpn_norm", "norm_eps", "stride_in_1x1"]),
}

#: Those that predictions do not depend on: of training, and of backbones with a single feature map.
WITHOUT_EFFECT: dict[Any, frozenset[str]] = {
    ModelConfig: frozenset({"anchor_stride", "dropout"}),
    ImageConfig: frozenset(),
    RPNConfig: frozenset(
        [
            "pre_nms_top_n_train",
            "post_nms_top_n_train",
            "foreground_iou",
            "background_iou",
            "batch_size",
            "positive_fraction",
        ]
    ),
    HeadConfig: frozenset(["foreground_iou", "batch_size", "positive_fraction"]),
    BackboneConfig: frozenset(),
}

_LAYERS = {
    *(_AnchorGenerator, _MaskHead, _MaskRCNNLoss, _RPNHead, _RegionProposalNetwork, _ResNetFPNBackbone),
    *(BasicBlock, BatchNorm2d, Bottleneck, Conv2d, ConvStack, ConvTranspose2d, Dropout, FeaturePyramid, Linear),
    *(MultiScaleROIAlign, ResNet, nn.ModuleList, nn.Sequential),
}


def check_layers(model: MaskRCNN) -> None:
    """Refuse a model with layers that the export does not know, such as a backbone of the user's own."""
    if type(model.backbone) is not _ResNetFPNBackbone:
        raise ValueError(
            "model must have the ResNet-FPN backbone of this package to be exported, got one of "
            f"{type(model.backbone).__name__}: an export writes each layer down, and does not know those of other "
            "modules."
        )
    for module in model.modules():
        kind = type(module)
        if kind not in _LAYERS and not isinstance(module, MaskRCNN):
            raise ValueError(
                f"model must be made of this package's layers to be exported, got one of {kind.__name__}: an export "
                "writes each layer down, and does not know those of other modules."
            )
