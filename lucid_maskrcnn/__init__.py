"""Mask R-CNN for the Lucid framework.

Reproduces torchvision's and detectron2's detections on NumPy (CPU) or MLX (GPU), without PyTorch.
"""

from . import ops
from .config import HeadConfig, ImageConfig, ModelConfig, RPNConfig
from .detections import Detections, Predictions
from .inference import predict_files, predict_stream, predict_tiled
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
from .version import __version__
from .weights import list_weights, load_weights, save_weights

__all__ = [
    "CompressedMasks",
    "Detections",
    "HeadConfig",
    "ImageConfig",
    "MaskRCNN",
    "ModelConfig",
    "MultiScaleROIAlign",
    "Predictions",
    "ROIAlign",
    "RPNConfig",
    "Target",
    "__version__",
    "list_weights",
    "load_weights",
    "mask_rcnn_resnet_18_fpn",
    "mask_rcnn_resnet_50_fpn",
    "mask_rcnn_resnet_50_fpn_v2",
    "mask_rcnn_resnet_101_fpn",
    "ops",
    "predict_files",
    "predict_stream",
    "predict_tiled",
    "save_weights",
]
