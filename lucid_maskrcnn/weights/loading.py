"""Weights of others, into a model that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lucid.nn as nn

from .assign import as_arrays, assign
from .layouts import from_detectron2, from_torchvision, translate_body
from .naming import DETECTRON2, TORCHVISION, TORCHVISION_V2

__all__ = ["load_backbone", "load_detectron2_weights", "load_torchvision_weights"]


def load_torchvision_weights(model: nn.Module, weights: Mapping[str, Any] | str | Path) -> None:
    """Load the weights of torchvision's Mask R-CNN.

    Parameters
    ----------
    model : MaskRCNN
        With a ResNet-FPN backbone of the same depth, and ``num_classes`` one less than torchvision's, which
        counts the background. Left as it was if anything does not fit.
    weights : mapping of str to array, or path of a file
        Under torchvision's names, floating, of any precision. Every entry is used, counters of batch norm and the
        rows of the background that nothing reads excepted.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no checkpoint, or entries are missing, unexpected or mis-shaped: the message
        lists them by torchvision's names.
    """
    arrays, _ = from_torchvision(_arrays(weights))
    own = model.state_dict(keep_vars=True)
    naming = TORCHVISION_V2 if "box_convs.conv1.weight" in own else TORCHVISION
    assign(model, arrays, names={name: naming.theirs(name) for name in own})


def load_detectron2_weights(model: nn.Module, weights: Mapping[str, Any] | str | Path) -> None:
    """Load the weights of detectron2's Mask R-CNN with an R-50 or R-101 FPN.

    Parameters
    ----------
    model : MaskRCNN
        Built with ``conventions="detectron2"``, of the same depth and number of classes. Left as it was if anything
        does not fit.
    weights : mapping of str to array, or path of a file
        Under detectron2's names. Class-agnostic layers are repeated for every class.

    Raises
    ------
    FileNotFoundError, ValueError
        As for :func:`load_torchvision_weights`.
    """
    arrays, _ = from_detectron2(_arrays(weights))
    assign(model, arrays, names={name: DETECTRON2.theirs(name) for name in model.state_dict(keep_vars=True)})


def load_backbone(model: nn.Module, weights: Mapping[str, Any] | str | Path) -> None:
    """Load the weights of a ResNet into the body of ``model.backbone``.

    Parameters
    ----------
    model : MaskRCNN
        With a ResNet-FPN backbone of the same depth.
    weights : mapping of str to array, or path of a file
        Of a classifier, whose last layer is ignored, or of a detector, of which only the body is taken; under the
        names of torchvision, Lucid, detectron2 or Caffe2.

    Raises
    ------
    FileNotFoundError, ValueError
        As for :func:`load_torchvision_weights`.
    """
    name = repr(str(weights)) if isinstance(weights, (str, Path)) else "weights"
    assign(model.backbone.body, translate_body(_arrays(weights), name).arrays)


def _arrays(weights: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    if isinstance(weights, (str, Path)):
        from .formats.checkpoint_file import open_checkpoint  # here, as most models are built without a file

        return open_checkpoint(weights).arrays
    return as_arrays(weights)
