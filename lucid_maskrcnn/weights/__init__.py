"""Weights: this package's own files, and torchvision's names."""

from .assign import assign
from .files import WeightsFile, load_weights, read_safetensors, save_weights
from .torchvision import load_torchvision_backbone, load_torchvision_weights

__all__ = [
    "WeightsFile",
    "assign",
    "load_torchvision_backbone",
    "load_torchvision_weights",
    "load_weights",
    "read_safetensors",
    "save_weights",
]
