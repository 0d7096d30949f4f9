"""Mask R-CNN with a ResNet-FPN backbone, by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import weights as weight_files
from ..settings import HeadSettings, ImageSettings, Preset, ProposalSettings
from .backbone import _ResNetFPNBackbone
from .mask_rcnn import MaskRCNN

__all__ = [
    "load_model",
    "mask_rcnn_resnet_18_fpn",
    "mask_rcnn_resnet_50_fpn",
    "mask_rcnn_resnet_101_fpn",
]

_PYRAMID: dict[str, Any] = {
    "use_fpn": True,
    "anchor_sizes": (32, 64, 128, 256, 512),
    "hidden_dim": 1024,
    "dropout": 0.0,
}
_CLASS_LAYERS = ("cls_score", "bbox_pred", "mask_head.mask_predictor")


def mask_rcnn_resnet_18_fpn(
    num_classes: int | None = None,
    *,
    weights: str | Path | None = None,
    weights_backbone: Mapping[str, Any] | str | Path | None = None,
    trainable_layers: int | None = None,
    min_size: int = Preset(800),
    max_size: int = Preset(1333),
    **kwargs: Any,
) -> MaskRCNN:
    """Build Mask R-CNN on a ResNet-18 with a feature pyramid.

    Parameters
    ----------
    num_classes : int, optional
        Without background; by default that of the weights, or 90, COCO's ids with their gaps. If the
        weights have another number the class layers start anew, with a warning that names them.
    weights : str or Path, optional
        ``"NUCLEI"`` (nuclei in microscopy, in the package), or a file written by
        :func:`lucid_maskrcnn.weights.save_weights`. Both bring their own settings.
    weights_backbone : mapping or path, optional
        Of an ImageNet classifier, in torchvision's names, for the body; not together with ``weights``.
    trainable_layers : int, optional
        How many of the body's five layers are trained, from the top: 3 if it starts from given weights,
        else 5.
    min_size, max_size : int
        Sizes of the short and at most of the long side that images are resized to; by default those of
        the weights, or 800 and 1333.
    **kwargs
        ``width`` (64) of the body and ``fpn_channels`` (256); ``norm``, ``"frozen"`` (constant batch
        norm) or ``"batch"`` (live, for training from scratch); ``stride_in_1x1``; ``top_k`` detections
        per image; and what :class:`MaskRCNN` takes.

    Returns
    -------
    MaskRCNN

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If there are no such weights, they do not fit, or an argument is unknown or out of range.
    """
    return _build(18, num_classes, weights, weights_backbone, trainable_layers, min_size, max_size, kwargs)


def mask_rcnn_resnet_50_fpn(
    num_classes: int | None = None,
    *,
    weights: str | Path | None = None,
    weights_backbone: Mapping[str, Any] | str | Path | None = None,
    trainable_layers: int | None = None,
    min_size: int = Preset(800),
    max_size: int = Preset(1333),
    **kwargs: Any,
) -> MaskRCNN:
    """Build Mask R-CNN on a ResNet-50 with a feature pyramid: torchvision's ``maskrcnn_resnet50_fpn``.

    The arguments are those of :func:`mask_rcnn_resnet_18_fpn`; ``weights`` is a file.
    """
    return _build(50, num_classes, weights, weights_backbone, trainable_layers, min_size, max_size, kwargs)


def mask_rcnn_resnet_101_fpn(
    num_classes: int | None = None,
    *,
    weights: str | Path | None = None,
    weights_backbone: Mapping[str, Any] | str | Path | None = None,
    trainable_layers: int | None = None,
    min_size: int = Preset(800),
    max_size: int = Preset(1333),
    **kwargs: Any,
) -> MaskRCNN:
    """Build Mask R-CNN on a ResNet-101 with a feature pyramid.

    The arguments are those of :func:`mask_rcnn_resnet_18_fpn`; ``weights`` is a file.
    """
    return _build(101, num_classes, weights, weights_backbone, trainable_layers, min_size, max_size, kwargs)


def load_model(weights: str | Path) -> MaskRCNN:
    """Build the model that a file of weights belongs to.

    Parameters
    ----------
    weights : str or Path
        ``"NUCLEI"``, or a file written by :func:`lucid_maskrcnn.weights.save_weights` with its arguments.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no such weights, or the file does not say which model they belong to.
    """
    return _build(None, None, weights, None, None, Preset(800), Preset(1333), {})


def _build(
    depth: int | None,
    num_classes: int | None,
    weights: str | Path | None,
    weights_backbone: Mapping[str, Any] | str | Path | None,
    trainable_layers: int | None,
    min_size: int,
    max_size: int,
    kwargs: dict[str, Any],
) -> MaskRCNN:
    if weights is not None and weights_backbone is not None:
        raise ValueError("weights and weights_backbone exclude each other: weights holds a backbone too.")
    file = None if weights is None else weight_files.read_safetensors(weights)
    arguments = {} if file is None else dict(file.arguments)
    own_depth = arguments.pop("depth", depth)
    if own_depth is None:
        raise ValueError(f"weights {str(weights)!r} do not say which model they belong to: build it and load them.")
    if depth not in (None, own_depth):
        raise ValueError(f"weights {str(weights)!r} are not of a ResNet-{depth}.")
    known = arguments.pop("num_classes", None)
    if num_classes is None:
        num_classes = 90 if known is None else known
    sizes = {"min_size": min_size, "max_size": max_size}
    arguments |= kwargs | {name: size for name, size in sizes.items() if not isinstance(size, Preset)}
    if file is not None and file.categories and num_classes == known:
        arguments.setdefault("categories", file.categories)
    if trainable_layers is None:
        trainable_layers = 5 if file is None and weights_backbone is None else 3
    backbone = _ResNetFPNBackbone(
        own_depth,
        width=arguments.pop("width", 64),
        out_channels=arguments.pop("fpn_channels", 256),
        norm=arguments.pop("norm", "frozen"),
        stride_in_1x1=arguments.pop("stride_in_1x1", False),
        trainable_layers=trainable_layers,
    )
    _complete_settings(arguments)
    model = MaskRCNN(backbone, backbone.out_channels, num_classes, **_PYRAMID | arguments)
    if file is not None:
        _load(model, file, known, num_classes)
    elif weights_backbone is not None:
        weight_files.load_torchvision_backbone(model, weights_backbone)
    return model


def _complete_settings(arguments: dict[str, Any]) -> None:
    """Turn sizes and ``top_k``, and what a file's header holds as plain dicts, into settings objects."""
    kinds = {"image": ImageSettings, "proposals": ProposalSettings, "heads": HeadSettings}
    for name, kind in kinds.items():
        given = arguments.get(name, {})
        if isinstance(given, Mapping):
            given = kind(**{k: _frozen(v) for k, v in given.items()})
        arguments[name] = given
    for name, belongs in (("min_size", "image"), ("max_size", "image"), ("top_k", "heads")):
        if name in arguments:
            arguments[belongs] = replace(arguments[belongs], **{name: arguments.pop(name)})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _load(model: MaskRCNN, file: weight_files.WeightsFile, known: int | None, num_classes: int) -> None:
    arrays = dict(file.arrays)
    if known is not None and known != num_classes:
        fresh = model.state_dict()
        anew = [name for name in fresh if name.startswith(_CLASS_LAYERS)]
        arrays |= {name: fresh[name] for name in anew}
        warnings.warn(
            f"num_classes={num_classes} but the weights have {known}: {', '.join(_CLASS_LAYERS)} start anew.",
            UserWarning,
            stacklevel=4,
        )
    weight_files.assign(model, arrays)
