"""Mask R-CNN for the Lucid framework: torchvision's answers on NumPy or MLX, without PyTorch."""

from . import ops
from .config import HeadConfig, ImageConfig, RPNConfig
from .detections import Detections
from .inference import predict_files
from .masks import CompressedMasks
from .models import (
    MaskRCNN,
    MultiScaleROIAlign,
    ROIAlign,
    mask_rcnn_resnet_18_fpn,
    mask_rcnn_resnet_50_fpn,
    mask_rcnn_resnet_50_fpn_v2,
    mask_rcnn_resnet_101_fpn,
)
from .targets import Target
from .weights import list_weights

__version__ = "0.1.0"

__all__ = [
    "CompressedMasks",
    "Detections",
    "HeadConfig",
    "ImageConfig",
    "MaskRCNN",
    "MultiScaleROIAlign",
    "ROIAlign",
    "RPNConfig",
    "Target",
    "__version__",
    "list_weights",
    "mask_rcnn_resnet_18_fpn",
    "mask_rcnn_resnet_50_fpn",
    "mask_rcnn_resnet_50_fpn_v2",
    "mask_rcnn_resnet_101_fpn",
    "ops",
    "predict_files",
]
