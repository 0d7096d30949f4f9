"""Mask R-CNN as Lucid modules: what the paper draws."""

from .anchors import _AnchorGenerator
from .backbone import FeaturePyramid, ResNet, _ResNetFPNBackbone
from .factories import (
    mask_rcnn_resnet_18_fpn,
    mask_rcnn_resnet_50_fpn,
    mask_rcnn_resnet_50_fpn_v2,
    mask_rcnn_resnet_101_fpn,
)
from .heads import _MaskHead
from .losses import MaskRCNNLosses, _MaskRCNNLoss
from .mask_rcnn import MaskRCNN
from .pooling import FeatureMaps, MultiScaleROIAlign, ROIAlign
from .rpn import _RegionProposalNetwork, _RPNHead

__all__ = [
    "FeatureMaps",
    "FeaturePyramid",
    "MaskRCNN",
    "MaskRCNNLosses",
    "MultiScaleROIAlign",
    "ROIAlign",
    "ResNet",
    "_AnchorGenerator",
    "_MaskHead",
    "_MaskRCNNLoss",
    "_RPNHead",
    "_RegionProposalNetwork",
    "_ResNetFPNBackbone",
    "mask_rcnn_resnet_18_fpn",
    "mask_rcnn_resnet_50_fpn",
    "mask_rcnn_resnet_50_fpn_v2",
    "mask_rcnn_resnet_101_fpn",
]
