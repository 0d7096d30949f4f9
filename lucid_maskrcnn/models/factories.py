"""Mask R-CNN with a ResNet-FPN backbone, by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from .. import weights as weight_files
from ..config import DETECTRON2, TORCHVISION, Conventions, Preset, PresetInt
from .backbone import _ResNetFPNBackbone
from .layers import uninitialised
from .mask_rcnn import MaskRCNN

__all__ = [
    "load_model",
    "mask_rcnn_resnet_18_fpn",
    "mask_rcnn_resnet_50_fpn",
    "mask_rcnn_resnet_50_fpn_v2",
    "mask_rcnn_resnet_101_fpn",
]

_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mask_rcnn_resnet_18_fpn": {"depth": 18},
    "mask_rcnn_resnet_50_fpn": {"depth": 50},
    "mask_rcnn_resnet_50_fpn_v2": {
        "depth": 50,
        "norm": "batch",
        "rpn_convs": 2,
        "box_convs": True,
        "head_norm": "batch",
    },
    "mask_rcnn_resnet_101_fpn": {"depth": 101},
}
_CONVENTIONS = {c.name: c for c in (TORCHVISION, DETECTRON2)}
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
    min_size: int = PresetInt(800),
    max_size: int = PresetInt(1333),
    **kwargs: Any,
) -> MaskRCNN:
    """Build Mask R-CNN on a ResNet-18 with a feature pyramid.

    Parameters
    ----------
    num_classes : int, optional
        Without background; by default that of the weights, or 90, COCO's ids with their gaps. If the
        weights have another number the class layers start anew, with a warning that names them.
    weights : str or Path, optional
        A name that :func:`lucid_maskrcnn.weights.list_weights` knows, here ``"NUCLEI"`` (nuclei in microscopy, in
        the package), or a file: ``.safetensors``, ``.pth`` or ``.pkl``, of this package, torchvision or detectron2.
        They bring their settings.
    weights_backbone : str, path or mapping, optional
        Of an ImageNet classifier, for the body; not together with ``weights``. ``"IMAGENET1K_V1"``, or a file or
        arrays under the names of torchvision, Lucid, detectron2 or Caffe2.
    trainable_layers : int, optional
        How many of the body's five layers are trained, from the top: 3 if it starts from given weights,
        else 5.
    min_size, max_size : int
        Sizes of the short and at most of the long side that images are resized to; by default those of
        the weights, or 800 and 1333. ``image={"scale": s}`` multiplies sides by a factor instead, as ``"NUCLEI"`` do.
    **kwargs
        ``conventions``, ``"torchvision"`` or ``"detectron2"``; ``width`` (64) of the body and ``fpn_channels``
        (256); ``norm``, ``"frozen"`` (constant batch norm) or ``"batch"`` (live, for training from scratch), and
        its ``norm_eps``; ``stride_in_1x1``; ``top_k`` detections per image; and what :class:`MaskRCNN` takes.

    Returns
    -------
    MaskRCNN

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If there are no such weights, they do not fit, or an argument is unknown or out of range.
    OSError
        If a download fails.
    """
    return _build(
        "mask_rcnn_resnet_18_fpn",
        num_classes,
        weights,
        weights_backbone,
        trainable_layers,
        _given(min_size=min_size, max_size=max_size) | kwargs,
    )


def mask_rcnn_resnet_50_fpn(
    num_classes: int | None = None,
    *,
    weights: str | Path | None = None,
    weights_backbone: Mapping[str, Any] | str | Path | None = None,
    trainable_layers: int | None = None,
    min_size: int = PresetInt(800),
    max_size: int = PresetInt(1333),
    **kwargs: Any,
) -> MaskRCNN:
    """Build Mask R-CNN on a ResNet-50 with a feature pyramid: torchvision's ``maskrcnn_resnet50_fpn``.

    The arguments are those of :func:`mask_rcnn_resnet_18_fpn`; ``weights`` is a file, ``"COCO_V1"`` (torchvision's,
    whose labels are COCO's ids), ``"COCO_D2_3X"`` or ``"COCO_D2_1X"`` (detectron2's, whose labels are 1 to 80).
    """
    return _build(
        "mask_rcnn_resnet_50_fpn",
        num_classes,
        weights,
        weights_backbone,
        trainable_layers,
        _given(min_size=min_size, max_size=max_size) | kwargs,
    )


def mask_rcnn_resnet_50_fpn_v2(
    num_classes: int | None = None,
    *,
    weights: str | Path | None = None,
    weights_backbone: Mapping[str, Any] | str | Path | None = None,
    trainable_layers: int | None = None,
    min_size: int = PresetInt(800),
    max_size: int = PresetInt(1333),
    **kwargs: Any,
) -> MaskRCNN:
    """Build torchvision's ``maskrcnn_resnet50_fpn_v2``, after Li et al. 2021.

    It has batch norm in pyramid and heads, two convolutions in the region proposal network's head, and four before
    the one linear layer of the box head. The arguments are those of :func:`mask_rcnn_resnet_18_fpn`; ``weights`` is a
    file or ``"COCO_V2"``, which torchvision calls ``MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1``.
    """
    return _build(
        "mask_rcnn_resnet_50_fpn_v2",
        num_classes,
        weights,
        weights_backbone,
        trainable_layers,
        _given(min_size=min_size, max_size=max_size) | kwargs,
    )


def mask_rcnn_resnet_101_fpn(
    num_classes: int | None = None,
    *,
    weights: str | Path | None = None,
    weights_backbone: Mapping[str, Any] | str | Path | None = None,
    trainable_layers: int | None = None,
    min_size: int = PresetInt(800),
    max_size: int = PresetInt(1333),
    **kwargs: Any,
) -> MaskRCNN:
    """Build Mask R-CNN on a ResNet-101 with a feature pyramid.

    The arguments are those of :func:`mask_rcnn_resnet_18_fpn`; ``weights`` is a file or ``"COCO_D2_3X"``
    (detectron2's).
    """
    return _build(
        "mask_rcnn_resnet_101_fpn",
        num_classes,
        weights,
        weights_backbone,
        trainable_layers,
        _given(min_size=min_size, max_size=max_size) | kwargs,
    )


def load_model(weights: str | Path) -> MaskRCNN:
    """Build the model that weights belong to.

    Parameters
    ----------
    weights : str or Path
        A name that only one architecture has, such as ``"NUCLEI"`` or ``"COCO_V1"``, or a file as for the factories.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no such weights, or the file does not say which model they belong to.
    """
    return _build(None, None, weights, None, None, {})


def _given(**sizes: int) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if not isinstance(size, Preset)}


def _build(
    architecture: str | None,
    num_classes: int | None,
    weights: str | Path | None,
    weights_backbone: Mapping[str, Any] | str | Path | None,
    trainable_layers: int | None,
    kwargs: dict[str, Any],
) -> MaskRCNN:
    if weights is not None and weights_backbone is not None:
        raise ValueError("weights and weights_backbone exclude each other: weights holds a backbone too.")
    file = None if weights is None else weight_files.read_weights(weight_files.locate(weights, architecture))
    arguments = _arguments(architecture, weights, file)
    depth, known = arguments.pop("depth"), arguments.pop("num_classes", None)
    body = None if weights_backbone is None else weight_files.find_backbone(weights_backbone, f"resnet{depth}")
    if num_classes is None:
        num_classes = 90 if known is None else known
    if file is not None and file.categories and num_classes == known:
        arguments["categories"] = file.categories
    arguments |= {} if body is None else {k: v for k, v in body.arguments.items() if k != "depth"}
    if "min_size" in kwargs and "image" in arguments:  # it is asked for in place of the weights' own rule
        arguments["image"] = {**arguments["image"], "scale": None}
    arguments |= kwargs
    if trainable_layers is None:
        trainable_layers = 5 if file is None and body is None else 3
    built_with = {"depth": depth, "num_classes": num_classes} | _plain(arguments)
    _complete_settings(arguments)
    with uninitialised() if file is not None and known in (None, num_classes) else nullcontext():
        backbone = _ResNetFPNBackbone(
            depth,
            width=arguments.pop("width", 64),
            out_channels=arguments.pop("fpn_channels", 256),
            norm=arguments.pop("norm", "frozen"),
            stride_in_1x1=arguments.pop("stride_in_1x1"),
            norm_eps=arguments.pop("norm_eps", 1e-5),
            trainable_layers=trainable_layers,
        )
        model = MaskRCNN(backbone, backbone.out_channels, num_classes, **_PYRAMID | arguments)
    model.arguments = built_with
    if file is not None:
        _load(model, file, known, num_classes)
    elif body is not None:
        weight_files.assign(model.backbone.body, body.arrays)
    return model


def _arguments(
    architecture: str | None, weights: str | Path | None, file: weight_files.WeightsFile | None
) -> dict[str, Any]:
    """Return the arguments that the architecture and the file bring."""
    own = {} if file is None else dict(file.arguments)
    if architecture is None:
        if "depth" not in own:
            raise ValueError(f"weights {str(weights)!r} do not say which model they belong to: build it and load them.")
        return own
    if "depth" in own and weight_files.architecture_of(own) != architecture:
        raise ValueError(
            f"weights {str(weights)!r} are of {weight_files.architecture_of(own)}, not of {architecture}: call that."
        )
    return _ARCHITECTURES[architecture] | own


def _complete_settings(arguments: dict[str, Any]) -> None:
    """Turn ``conventions``, sizes and ``top_k``, and what a file's header holds as plain dicts, into settings objects.

    What is given stays, the rest is the conventions'.
    """
    conventions = _conventions(arguments.pop("conventions", TORCHVISION.name))
    arguments.setdefault("stride_in_1x1", conventions.stride_in_1x1)
    if "proposals" in arguments:  # what files written before call it
        arguments["rpn"] = arguments.pop("proposals")
    for name in ("image", "rpn", "heads"):
        given = arguments.get(name, {})
        if isinstance(given, Mapping):
            given = replace(getattr(conventions, name), **{k: _frozen(v) for k, v in given.items()})
        arguments[name] = given
    for name, belongs in (("min_size", "image"), ("max_size", "image"), ("top_k", "heads")):
        if name in arguments:
            arguments[belongs] = replace(arguments[belongs], **{name: arguments.pop(name)})


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments as JSON can hold them; categories have a place of their own in a file."""

    def plain(value: Any) -> Any:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value

    return {name: plain(value) for name, value in arguments.items() if name != "categories"}


def _conventions(name: str) -> Conventions:
    if name not in _CONVENTIONS:
        raise ValueError(f"conventions must be one of {', '.join(map(repr, _CONVENTIONS))}, got {name!r}.")
    return _CONVENTIONS[name]


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
