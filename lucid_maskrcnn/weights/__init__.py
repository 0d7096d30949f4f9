"""Weights: reading and writing files of them, and the published ones."""

from .assign import assign
from .layouts import architecture_of
from .loading import load_backbone, load_detectron2_weights, load_torchvision_weights
from .registry import PublishedWeights, list_weights
from .sources import locate
from .weights_file import WeightsFile, find_backbone, load_weights, read_weights, save_weights, write_converted

__all__ = [
    "PublishedWeights",
    "WeightsFile",
    "architecture_of",
    "assign",
    "find_backbone",
    "list_weights",
    "load_backbone",
    "load_detectron2_weights",
    "load_torchvision_weights",
    "load_weights",
    "locate",
    "read_weights",
    "save_weights",
    "write_converted",
]
