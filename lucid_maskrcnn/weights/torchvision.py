"""Weights under torchvision's names (``maskrcnn_resnet50_fpn`` and its kin).

torchvision's class layers have rows for the background that nothing ever reads: four of
``bbox_pred``, one of ``mask_fcn_logits``. They are left out here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lucid.nn as nn
import numpy as np

from .assign import assign
from .files import read_safetensors

__all__ = ["load_torchvision_backbone", "load_torchvision_weights", "torchvision_name"]

# This package's name -> torchvision's, tried in turn.
_RENAMES = [
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.", r"backbone.fpn.\1_blocks.\2.0."),
    (r"backbone\.fpn\.(inner|layer)_norms\.(\d)\.", r"backbone.fpn.\1_blocks.\2.1."),
    (r"rpn\.head\.conv\.", "rpn.head.conv.0.0."),
    (r"fc1\.", "roi_heads.box_head.fc6."),
    (r"fc2\.", "roi_heads.box_head.fc7."),
    (r"(cls_score|bbox_pred)\.", r"roi_heads.box_predictor.\1."),
    (r"mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"mask_head\.mask_predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
]
_BACKGROUND_ROWS = {"bbox_pred.": 4, "mask_head.mask_predictor.": 1}
# Counters of batch norm, and the classifier of a ResNet, mean nothing to a detector.
_IGNORED = re.compile(r"(.*\.)?num_batches_tracked|fc\.(weight|bias)")


def torchvision_name(name: str) -> str:
    """Return torchvision's name for an entry of this package's ``state_dict``."""
    hidden = re.match(r"mask_head\.conv(\d)\.(.*)", name)
    if hidden:
        return f"roi_heads.mask_head.{int(hidden[1]) - 1}.0.{hidden[2]}"
    for pattern, replacement in _RENAMES:
        renamed, count = re.subn("^" + pattern, replacement, name)
        if count:
            return renamed
    return name


def load_torchvision_weights(model: nn.Module, weights: Mapping[str, Any] | str | Path) -> None:
    """Load the weights of torchvision's Mask R-CNN.

    Parameters
    ----------
    model : MaskRCNN
        With a ResNet-FPN backbone of the same depth, and ``num_classes`` one less than torchvision's, which
        counts the background. Left as it was if anything does not fit.
    weights : mapping of str to array, or path of a ``.safetensors`` file
        Under torchvision's names, floating, of any precision. Every entry is used, counters of batch norm
        excepted.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no safetensors file, or entries are missing, unexpected or mis-shaped: the message
        lists them by torchvision's names.
    """
    arrays = _arrays(weights)
    names = {name: torchvision_name(name) for name in model.state_dict(keep_vars=True)}
    renamed = {}
    for ours, theirs in names.items():
        if theirs in arrays:
            array = arrays.pop(theirs)
            rows = next((n for start, n in _BACKGROUND_ROWS.items() if ours.startswith(start)), 0)
            renamed[ours] = array[rows:] if array.ndim else array
    assign(model, {**renamed, **arrays}, names=names)


def load_torchvision_backbone(model: nn.Module, weights: Mapping[str, Any] | str | Path) -> None:
    """Load the weights of torchvision's ImageNet classifier into the body of ``model.backbone``.

    Parameters
    ----------
    model : MaskRCNN
        With a ResNet-FPN backbone of the same depth.
    weights : mapping of str to array, or path of a ``.safetensors`` file
        Under torchvision's names: ``conv1.weight``, ``layer1.0.conv1.weight``, … The classifier is ignored.

    Raises
    ------
    FileNotFoundError, ValueError
        As for :func:`load_torchvision_weights`.
    """
    assign(model.backbone.body, _arrays(weights))


def _arrays(weights: Mapping[str, Any] | str | Path) -> dict[str, np.ndarray]:
    if isinstance(weights, (str, Path)):
        weights = read_safetensors(weights).arrays
    elif not isinstance(weights, Mapping):
        raise TypeError(
            "weights must be a mapping of names to arrays or the path of a .safetensors file, got "
            f"{type(weights).__name__}."
        )
    return {name: np.asarray(array) for name, array in weights.items() if not _IGNORED.fullmatch(name)}
