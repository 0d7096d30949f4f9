"""Mask R-CNN with a ResNet-FPN backbone, by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Concatenate

from .. import validators
from .. import weights as weight_files
from ..config import (
    ARCHITECTURES,
    Category,
    HeadConfig,
    ImageConfig,
    ModelConfig,
    RPNConfig,
    architecture_of,
    make_categories,
)
from ..user_warnings import warn_user
from ..validators import check_keywords, choice, positive_int, shown
from ..weights.coco_categories import categories_of_file
from ..weights.shape_checks import check_settings
from ..weights.weights_file import OF_DETECTRON, warn_if_assumed
from .layers import shapes_only, uninitialized
from .mask_rcnn import MaskRCNN, PooledSize

__all__ = [
    "build_from_file",
    "check_shapes",
    "mask_rcnn_resnet_18_fpn",
    "mask_rcnn_resnet_50_fpn",
    "mask_rcnn_resnet_50_fpn_v2",
    "mask_rcnn_resnet_101_fpn",
]

_SHARED_FROM = "Parameters\n"  # the sections that all factories have
_CLASS_LAYERS = ("cls_score", "bbox_pred", "mask_head.mask_predictor")
# What other libraries call a setting, and how it is given here.
_NAMES_ELSEWHERE = {
    "pretrained": "weights",
    "pretrained_backbone": "weights_backbone",
    "checkpoint": "weights",
    "trainable_backbone_layers": "trainable_layers",
    "classes": "num_classes",
    "norm_layer": "norm",
    "proposals": "rpn",
    "box_detections_per_img": "top_k",
    "detections_per_img": "top_k",
    "max_detections": "top_k",
    "box_score_thresh": "predict(…, score_thresh=…)",
    "score_thresh": "predict(…, score_thresh=…)",
    "mask_thresh": "predict(…, mask_thresh=…)",
    "box_nms_thresh": "heads={'nms_thresh': …}",
    "nms_thresh": "heads={'nms_thresh': …}",
    "box_fg_iou_thresh": "heads={'foreground_iou': …}",
    "box_bg_iou_thresh": "heads={'foreground_iou': …}",
    "box_batch_size_per_image": "heads={'batch_size': …}",
    "box_positive_fraction": "heads={'positive_fraction': …}",
    "bbox_reg_weights": "heads={'box_weights': …}",
    "rpn_nms_thresh": "rpn={'nms_thresh': …}",
    "rpn_fg_iou_thresh": "rpn={'foreground_iou': …}",
    "rpn_bg_iou_thresh": "rpn={'background_iou': …}",
    "rpn_batch_size_per_image": "rpn={'batch_size': …}",
    "rpn_positive_fraction": "rpn={'positive_fraction': …}",
    "rpn_pre_nms_top_n_train": "rpn={'pre_nms_top_n_train': …}",
    "rpn_pre_nms_top_n_test": "rpn={'pre_nms_top_n': …}",
    "rpn_post_nms_top_n_train": "rpn={'post_nms_top_n_train': …}",
    "rpn_post_nms_top_n_test": "rpn={'post_nms_top_n': …}",
    "image_mean": "image={'pixel_mean': …}",
    "image_std": "image={'pixel_std': …}",
    "pixel_mean": "image={'pixel_mean': …}",
    "pixel_std": "image={'pixel_std': …}",
    "scale": "image={'scale': …}",
    "size_divisible": "image={'size_divisor': …}",
    "rpn_anchor_generator": "anchor_sizes",
    "rpn_head": "rpn_convs",
    "box_roi_pool": "pool_size",
    "box_head": "hidden_dim",
    "box_predictor": "num_classes",
    "mask_roi_pool": "mask_pool_size",
    "mask_head": "mask_hidden_channels",
    "mask_predictor": "mask_out_size",
    "progress": "LUCID_WEIGHTS_PROGRESS=0 in the environment",
}


def _build(
    architecture: str,
    num_classes: int | None = None,
    *,
    weights: str | Path | None = None,
    weights_backbone: Mapping[str, Any] | str | Path | None = None,
    trainable_layers: int | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    top_k: int | None = None,
    categories: Mapping[int, str] | Sequence[Category] | str | Path | None = None,
    conventions: str | None = None,
    width: int | None = None,
    fpn_channels: int | None = None,
    norm: str | None = None,
    fpn_norm: str | None = None,
    norm_eps: float | None = None,
    stride_in_1x1: bool | None = None,
    anchor_sizes: Sequence[Any] | None = None,
    aspect_ratios: Sequence[float] | None = None,
    pool_size: PooledSize | None = None,
    hidden_dim: int | None = None,
    dropout: float | None = None,
    mask_pool_size: PooledSize | None = None,
    mask_hidden_channels: int | None = None,
    mask_out_size: int | None = None,
    pooled_levels: int | None = None,
    rpn_convs: int | None = None,
    box_convs: bool | None = None,
    head_norm: str | None = None,
    image: ImageConfig | Mapping[str, Any] | None = None,
    rpn: RPNConfig | Mapping[str, Any] | None = None,
    heads: HeadConfig | Mapping[str, Any] | None = None,
) -> MaskRCNN:
    """Build the model of an architecture: what follows is true of every factory.

    Parameters
    ----------
    num_classes : int, optional
        Classes without background; torchvision counts it, here it is not counted. By default that of the weights, the
        greatest label of ``categories``, or 90, COCO's ids with their gaps. If the weights have another number the
        class layers are initialized anew, with a warning that names them.
    weights : str or Path, optional
        A name that :func:`lucid_maskrcnn.list_weights` knows, or a file: ``.safetensors``, ``.pth`` or ``.pkl``, of
        this package, torchvision or detectron2. They bring their settings, which are the defaults of all arguments
        below.
    weights_backbone : str, Path or mapping, optional
        Of an ImageNet classifier, for the body; not together with ``weights``. ``"IMAGENET1K_V1"``, or a file or
        arrays under the names of torchvision, Lucid, detectron2 or Caffe2.
    trainable_layers : int, optional
        How many of the body's five layers are trained, from the top: 3 if it starts from given weights,
        else 5.
    min_size, max_size : int, optional
        Sizes of the short and at most of the long side that images are resized to; 800 and 1333 in torchvision.
        ``image={"scale": s}`` multiplies sides by a factor instead, as ``"NUCLEI"`` do.
    top_k : int, optional
        Detections per image; 100 in torchvision.
    categories : mapping of int to str, sequence of (label, name, id), str or Path, optional
        Names of the labels; or a JSON file of COCO's annotations, whose categories are labels 1, 2, … in the order of
        their ids, or their ids if there are as many classes as the greatest of them.
    conventions : {"torchvision", "detectron2"}, optional
        Whose settings hold where no other argument says otherwise; torchvision's by default.
    width, fpn_channels : int, optional
        Channels of the body's stem and of the pyramid; 64 and 256 in the paper.
    norm : {"frozen", "batch"}, optional
        Constant or live batch norm, in the ResNet, and in pyramid and heads where they have norms. By default it is
        constant where weights are given, whatever they were trained with, and live where none are, as in torchvision:
        constant norms without weights do nothing. Both hold the same numbers. :func:`load_weights` into a model that
        was built without weights and without ``norm`` makes its norms constant, too. ``norm="batch"`` without weights
        gives the pyramid norms of its own, which torchvision's weights do not have.
    fpn_norm : {"frozen", "batch"}, optional
        Of the pyramid alone.
    norm_eps : float, optional
        Added to the variances of batch norm; 1e-5 by default.
    stride_in_1x1 : bool, optional
        Whether a stage's first bottleneck strides in its 1×1 convolution, as detectron2's weights want it.
    anchor_sizes, aspect_ratios, pool_size, hidden_dim, dropout, mask_pool_size, mask_hidden_channels, \
mask_out_size, pooled_levels, rpn_convs, box_convs, head_norm : optional
        See :class:`MaskRCNN`.
    image, rpn, heads : ImageConfig, RPNConfig, HeadConfig, or mapping, optional
        All settings of a part, or a mapping of those that change.

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
    arguments = dict(locals())
    own = ("architecture", "num_classes", "weights", "weights_backbone", "trainable_layers")
    settings = {name: value for name, value in arguments.items() if name not in own and value is not None}
    return _assemble(architecture, num_classes, weights, weights_backbone, trainable_layers, settings)


def _factory_of[**P](
    build: Callable[Concatenate[str, P], MaskRCNN],
) -> Callable[[Callable[[], None]], Callable[P, MaskRCNN]]:
    """Return a decorator that makes a name and a docstring a factory with the signature of ``build``."""
    architecture, *others = inspect.signature(build, eval_str=False).parameters.values()
    signature = inspect.Signature(others, return_annotation="MaskRCNN")
    known = [p.name for p in others]

    def decorate(definition: Callable[[], None]) -> Callable[P, MaskRCNN]:
        name = definition.__name__

        @functools.wraps(definition)
        def factory(*args: P.args, **kwargs: P.kwargs) -> MaskRCNN:
            check_keywords(f"{name}()", kwargs, known, _NAMES_ELSEWHERE)
            if args and "num_classes" in kwargs:
                raise TypeError(f"{name}() got num_classes twice: {shown(args[0])} and {shown(kwargs['num_classes'])}.")
            if len(args) > 1:
                raise TypeError(
                    f"{name}() takes one positional argument, num_classes, got {len(args)}: name the others."
                )
            return build(name, *args, **kwargs)

        # The definition has neither arguments nor a result: help(), notebooks and Sphinx shall see those of ``build``.
        own, shared = (inspect.cleandoc(f.__doc__ or "") for f in (definition, build))
        factory.__doc__ = f"{own}\n\n{''.join(shared.partition(_SHARED_FROM)[1:])}"
        del factory.__wrapped__
        factory.__annotations__ = {n: a for n, a in build.__annotations__.items() if n != architecture.name}
        factory.__signature__ = signature  # type: ignore[attr-defined, unused-ignore]
        return factory

    return decorate


_factory = _factory_of(_build)


@_factory
def mask_rcnn_resnet_18_fpn() -> None:
    """Build Mask R-CNN on a ResNet-18 with a feature pyramid.

    ``weights`` is a file or ``"NUCLEI"`` (nuclei in microscopy, in the package).
    """


@_factory
def mask_rcnn_resnet_50_fpn() -> None:
    """Build Mask R-CNN on a ResNet-50 with a feature pyramid: torchvision's ``maskrcnn_resnet50_fpn``.

    ``weights`` is a file, ``"COCO_V1"`` (torchvision's, whose labels are COCO's ids), ``"COCO_D2_3X"`` or
    ``"COCO_D2_1X"`` (detectron2's, whose labels are 1 to 80).
    """


@_factory
def mask_rcnn_resnet_50_fpn_v2() -> None:
    """Build torchvision's ``maskrcnn_resnet50_fpn_v2``, after Li et al. 2021.

    It has batch norm in pyramid and heads, two convolutions in the region proposal network's head, and four before
    the one linear layer of the box head. ``weights`` is a file or ``"COCO_V2"``, which torchvision calls
    ``MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1``.
    """


@_factory
def mask_rcnn_resnet_101_fpn() -> None:
    """Build Mask R-CNN on a ResNet-101 with a feature pyramid.

    ``weights`` is a file or ``"COCO_D2_3X"`` (detectron2's).
    """


def build_from_file(weights: str | Path, config: str | Path | None = None, **settings: Any) -> MaskRCNN:
    """Build the model that weights belong to; see :meth:`MaskRCNN.from_file`."""
    validators.path("weights", weights)  # None would mean: without weights
    known = [
        n for n in inspect.signature(_build).parameters if n not in ("architecture", "weights", "weights_backbone")
    ]
    check_keywords("MaskRCNN.from_file()", settings, known, _NAMES_ELSEWHERE)
    given = {name: value for name, value in settings.items() if value is not None}
    num_classes, trainable_layers = given.pop("num_classes", None), given.pop("trainable_layers", None)
    return _assemble(None, num_classes, weights, None, trainable_layers, given, config)


# ------------------------------------------------------------------ how a model is put together


def _assemble(
    architecture: str | None,
    num_classes: int | None,
    weights: str | Path | None,
    weights_backbone: Mapping[str, Any] | str | Path | None,
    trainable_layers: int | None,
    settings: Mapping[str, Any],
    config_file: str | Path | None = None,
) -> MaskRCNN:
    if weights is not None and weights_backbone is not None:
        raise ValueError("weights and weights_backbone exclude each other: weights holds a backbone too.")
    file = None
    if weights is not None:
        path = weight_files.locate(weights, architecture)
        file = weight_files.read_weights_file(path, config=config_file, find_config="conventions" not in settings)
    base = _base_config(architecture, weights, file)
    body = None
    if weights_backbone is not None:
        assert base.backbone is not None
        body = weight_files.find_backbone(weights_backbone, f"resnet{base.backbone.depth}", argument="weights_backbone")
        base = base.changed(conventions=body.conventions)
    norms = _norms(base, settings, weights=file is not None, body=body is not None)
    if num_classes is not None:
        num_classes = positive_int("num_classes", num_classes, 1_000_000)
    if isinstance(settings.get("categories"), (str, Path)):  # a COCO file
        of_weights = num_classes or (base.num_classes if file is not None else None)
        settings = {**settings, "categories": categories_of_file(settings["categories"], of_weights)}
    if num_classes is None and file is None and "categories" in settings:
        num_classes = max((c.label for c in make_categories(settings["categories"])), default=None)
    config = base.changed(**{**_with_classes(base, num_classes), **norms, **settings})
    if trainable_layers is None:
        trainable_layers = 5 if file is None and body is None else 3
    if file is not None:
        _check_fit(file, base, config, settings, f"weights {str(weights)!r}", architecture is None)
        if "conventions" not in settings:  # which says whose settings are meant
            warn_if_assumed(file, f"weights {str(weights)!r}")
    with uninitialized() if file is not None and config.num_classes == base.num_classes else nullcontext():
        model = MaskRCNN.from_config(config, trainable_layers=trainable_layers)
    if file is not None:
        _load(model, file, base.num_classes, f"weights {str(weights)!r}")
    elif body is not None:
        source = f"weights_backbone {str(weights_backbone)!r}" if isinstance(weights_backbone, (str, Path)) else None
        weight_files.assign(model.backbone.body, body.arrays, source=source or "weights_backbone")
    model.norm_by_default = file is None and "norm" not in settings
    model.pretrained = file is not None and config.num_classes == base.num_classes
    return model


def _check_fit(
    file: weight_files.WeightsFile,
    base: ModelConfig,
    config: ModelConfig,
    settings: Mapping[str, Any],
    source: str,
    all_classes: bool,
) -> None:
    """Compare settings and shapes before anything is allocated: a header may ask for any size.

    With ``all_classes`` the number of classes is compared, too; else class layers of another one start anew.
    """
    of_file = config.changed(**_with_classes(config, base.num_classes))
    if all_classes and config.num_classes != base.num_classes:
        raise ValueError(
            f"num_classes={config.num_classes} contradicts {source}, whose shapes say {base.num_classes}, background "
            f"not counted: call {architecture_of(config)}(num_classes={config.num_classes}, weights=…) for new ones."
        )
    names = len(config.categories)
    if "categories" in settings and file.source in OF_DETECTRON and names != config.num_classes:
        raise ValueError(
            f"categories must name each of the {config.num_classes} classes of {source}, got {names} names: labels are "
            "1, 2, …, without gaps."
        )
    check_settings(settings, of_file, base, file.arrays, source)
    check_shapes(file, of_file, source)


def check_shapes(file: weight_files.WeightsFile, config: ModelConfig, source: str) -> None:
    """Compare names and shapes of a file with those of a configuration's model, without building it.

    Raises
    ------
    ValueError
        If entries are missing, unknown or of other shapes; all are named. The file is called ``source``.
    """
    with shapes_only():
        blueprint = MaskRCNN.from_config(config)
    called = file.own_names([*blueprint.state_dict(keep_vars=True), *file.arrays])
    weight_files.check_fit(blueprint, file.arrays, names=called, source=source)


def _norms(base: ModelConfig, settings: Mapping[str, Any], *, weights: bool, body: bool) -> dict[str, str | None]:
    """Return the kinds of norm of body, pyramid and heads: constant where weights are given, else live."""
    backbone, asked = base.backbone, settings.get("norm")
    assert backbone is not None
    if asked is not None:
        choice("norm", asked, ("frozen", "batch"))
    kind = asked or ("frozen" if weights else "batch")
    in_pyramid = backbone.fpn_norm is not None or (asked == "batch" and not weights)
    return {
        "norm": asked or ("frozen" if weights or body else "batch"),
        "fpn_norm": kind if in_pyramid else None,
        "head_norm": kind if base.head_norm else None,
    }


def _base_config(
    architecture: str | None, weights: str | Path | None, file: weight_files.WeightsFile | None
) -> ModelConfig:
    """Return the configuration that the file brings, or that of the architecture."""
    if file is None or file.config is None or file.config.backbone is None:
        if architecture is not None:
            return ARCHITECTURES[architecture]
        if file is not None and file.config is not None:
            raise ValueError(
                f"weights {str(weights)!r} are of a model on a backbone that is no ResNet-FPN of this package, which "
                "cannot be rebuilt from a file: build the model and call load_weights(model, file)."
            )
        raise ValueError(
            f"weights {str(weights)!r} do not say which model they belong to: build it and call "
            "load_weights(model, file)."
        )
    if architecture is not None and architecture_of(file.config) != architecture:
        raise ValueError(
            f"weights {str(weights)!r} are of {architecture_of(file.config)}, not of {architecture}: call "
            f"{architecture_of(file.config)}()."
        )
    return file.config


def _with_classes(base: ModelConfig, num_classes: int | None) -> dict[str, Any]:
    """Return what changes with the number of classes: names of others mean nothing then."""
    if num_classes is None or num_classes == base.num_classes:
        return {}
    return {"num_classes": num_classes, "categories": ()}


def _load(model: MaskRCNN, file: weight_files.WeightsFile, num_classes: int, source: str) -> None:
    """Load weights of a model with so many classes; class layers of another number are initialized anew."""
    arrays: Mapping[str, Any] = file.arrays
    if num_classes != model.num_classes:
        initial = model.state_dict()
        arrays = {**arrays, **{n: array for n, array in initial.items() if n.startswith(_CLASS_LAYERS)}}
        warn_user(
            f"num_classes={model.num_classes} but the weights have {num_classes}, background not counted: "
            f"{', '.join(_CLASS_LAYERS)} are initialized anew."
        )
    weight_files.assign(model, arrays, names=file.own_names(arrays), source=source)
