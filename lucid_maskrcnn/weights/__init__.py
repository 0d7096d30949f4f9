"""Weights: reading and writing files, loading them into models, and the published weights."""

from .assign import assign, check_fit
from .registry import PublishedWeights, list_weights, locate
from .weights_file import (
    WeightsFile,
    find_backbone,
    load_backbone,
    load_weights,
    read_weights_file,
)
from .writing import loading_code, save_weights, write_converted

__all__ = [
    "PublishedWeights",
    "WeightsFile",
    "assign",
    "check_fit",
    "find_backbone",
    "list_weights",
    "load_backbone",
    "load_weights",
    "loading_code",
    "locate",
    "read_weights_file",
    "save_weights",
    "write_converted",
]
