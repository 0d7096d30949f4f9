"""The Python that builds a model in torchvision and loads its weights there."""

from __future__ import annotations

import pprint
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

from ..config import TORCHVISION, BackboneConfig, ModelConfig, anchor_levels
from .fixed_settings import check_fixed_settings, fixed_by, has_several_sizes, remarks

__all__ = ["check_for_torchvision", "torchvision_code"]

# Keyword of torchvision's MaskRCNN -> setting. Its defaults are those of TORCHVISION.
_KEYWORDS = {
    "min_size": "image.min_size",
    "max_size": "image.max_size",
    "image_mean": "image.pixel_mean",
    "image_std": "image.pixel_std",
    "size_divisible": "image.size_divisor",
    "rpn_pre_nms_top_n_train": "rpn.pre_nms_top_n_train",
    "rpn_pre_nms_top_n_test": "rpn.pre_nms_top_n",
    "rpn_post_nms_top_n_train": "rpn.post_nms_top_n_train",
    "rpn_post_nms_top_n_test": "rpn.post_nms_top_n",
    "rpn_nms_thresh": "rpn.nms_thresh",
    "rpn_fg_iou_thresh": "rpn.foreground_iou",
    "rpn_bg_iou_thresh": "rpn.background_iou",
    "rpn_batch_size_per_image": "rpn.batch_size",
    "rpn_positive_fraction": "rpn.positive_fraction",
    "box_nms_thresh": "heads.nms_thresh",
    "box_detections_per_img": "heads.top_k",
    "box_fg_iou_thresh": "heads.foreground_iou",
    "box_bg_iou_thresh": "heads.foreground_iou",
    "box_batch_size_per_image": "heads.batch_size",
    "box_positive_fraction": "heads.positive_fraction",
    "bbox_reg_weights": "heads.box_weights",
}
_FIXED = (
    *("image.scale", "image.bgr", "image.antialias", "image.clip_restored"),
    *("rpn.min_size", "rpn.by_logits", "rpn.finite_only", "rpn.whole_pixels", "rpn.nominal_strides"),
    *("heads.aligned", "heads.min_size", "heads.finite_only", "heads.level_margin", "heads.snap_masks"),
)
_WIDTH = 64  # channels of the stem
_BLOCKS = {18: [2, 2, 2, 2], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}
_EPS = 1e-5  # of batch norm
_MAPS = ("0", "1", "2", "3", "pool")
_DEFAULT_SIZES = [(32,), (64,), (128,), (256,), (512,)]
_DEFAULT_RATIOS = (0.5, 1.0, 2.0)
_DEFAULT_CHANNELS = 1024, 256  # of the linear layers of the box head, and of the mask head
_LINE = 100  # characters

_PLACES = {
    "functools": ("partial",),
    "torch": ("torch",),
    "safetensors.torch": ("load_file",),
    "torch.nn": ("BatchNorm2d", "Conv2d"),
    "torchvision.models": ("resnet18", "resnet50", "resnet101"),
    "torchvision.models.resnet": ("BasicBlock", "Bottleneck", "ResNet"),
    "torchvision.models.detection.anchor_utils": ("AnchorGenerator",),
    "torchvision.models.detection.backbone_utils": ("BackboneWithFPN",),
    "torchvision.models.detection.faster_rcnn": ("FastRCNNConvFCHead", "FastRCNNPredictor", "TwoMLPHead"),
    "torchvision.models.detection.mask_rcnn": ("MaskRCNN", "MaskRCNNHeads", "MaskRCNNPredictor"),
    "torchvision.models.detection.rpn": ("RPNHead",),
    "torchvision.ops": ("FrozenBatchNorm2d", "MultiScaleRoIAlign"),
}


def check_for_torchvision(config: ModelConfig | None) -> ModelConfig:
    """Return the configuration, or refuse a model that torchvision cannot have, as :func:`check_fixed_settings`."""
    fixed = fixed_by(TORCHVISION, _FIXED)
    if config is not None and config.backbone is not None:
        if config.backbone.depth > 18:  # basic blocks have no 1×1 convolution
            fixed["backbone.stride_in_1x1"] = TORCHVISION.stride_in_1x1
        if has_several_sizes(config):
            fixed["rpn.sizes_first"] = TORCHVISION.rpn.sizes_first
    return check_fixed_settings(config, "torchvision", fixed)


def torchvision_code(config: ModelConfig, path: Path) -> str:
    """Return the lines of Python that build the model in torchvision and load the file at ``path`` there.

    Raises
    ------
    ValueError
        If torchvision cannot have such a model; the message names the settings.
    """
    check_for_torchvision(config)
    load = f"load_file({str(path)!r})"
    if path.suffix.lower() != ".safetensors":
        load = f"torch.load({str(path)!r}, weights_only=True)"
    body = [
        *_names(config),
        *remarks(config),
        *_backbone(config),
        "model = MaskRCNN(",
        *(f"    {argument}," for argument in ("backbone", *_modules(config), *_numbers(config))),
        ")",
        f"model.load_state_dict({load})",
        "model.eval()",
    ]
    return "\n".join([*_imports("\n".join(body)), "", *body]) + "\n"


def _imports(body: str) -> Iterator[str]:
    used = set(re.findall(r"\w+", "\n".join(line for line in body.splitlines() if not line.startswith("#"))))
    for module, names in _PLACES.items():
        found = [name for name in names if name in used]
        if found:
            yield f"import {module}" if found == [module] else f"from {module} import {', '.join(found)}"


def _names(config: ModelConfig) -> Iterator[str]:
    if config.categories:
        names = pprint.pformat(dict(config.category_names), width=_LINE, compact=True, sort_dicts=False)
        yield f"names = {names}  # of the labels".replace("\n", "\n        ")


def _norm(kind: str | None, eps: float = _EPS) -> str:
    name = {None: "None", "frozen": "FrozenBatchNorm2d", "batch": "BatchNorm2d"}[kind]
    return name if kind is None or eps == _EPS else f"partial({name}, eps={eps!r})"


def _backbone(config: ModelConfig) -> Iterator[str]:
    backbone = config.backbone
    assert backbone is not None
    norm = _norm(backbone.norm, backbone.norm_eps)
    if backbone.width == _WIDTH:
        yield f"body = resnet{backbone.depth}(norm_layer={norm})"
    else:
        yield from _narrow_body(backbone, norm)
    expansion = 1 if backbone.depth == 18 else 4
    channels = [backbone.width * expansion * 2**stage for stage in range(4)]
    layers = ", ".join(f'"layer{i + 1}": "{name}"' for i, name in enumerate(_MAPS[:4]))
    options = "" if backbone.fpn_norm is None else f", norm_layer={_norm(backbone.fpn_norm, backbone.norm_eps)}"
    yield f"layers = {{{layers}}}"
    yield f"backbone = BackboneWithFPN(body, layers, {channels}, {backbone.out_channels}{options})"


def _narrow_body(backbone: BackboneConfig, norm: str) -> Iterator[str]:
    """Yield the lines that build a ResNet of another width, which no argument of torchvision's sets."""
    block, blocks, width = (
        "BasicBlock" if backbone.depth == 18 else "Bottleneck",
        _BLOCKS[backbone.depth],
        backbone.width,
    )
    yield f"body = ResNet({block}, {blocks}, norm_layer={norm})"
    yield f"body.inplanes = {width}  # channels of the stem, where torchvision's own ResNets have {_WIDTH}"
    yield f"body.conv1 = Conv2d(3, {width}, 7, stride=2, padding=3, bias=False)"
    yield f"body.bn1 = {norm}({width})"
    for i, number in enumerate(blocks):
        stride = ", stride=2" if i else ""
        yield f"body.layer{i + 1} = body._make_layer({block}, {width * 2**i}, {number}{stride})"


def _modules(config: ModelConfig) -> Iterator[str]:
    """Yield the arguments that are modules, where torchvision's own differ."""
    channels, num_classes = config.feat_channels, config.num_classes + 1
    levels = [tuple(level) for level in anchor_levels(config.anchor_sizes, per_level=True)]
    ratios = tuple(config.aspect_ratios)
    norm = _norm(config.head_norm)
    if (levels, ratios) != (_DEFAULT_SIZES, _DEFAULT_RATIOS):
        yield f"rpn_anchor_generator=AnchorGenerator({tuple(levels)}, ({ratios},) * {len(levels)})"
    if config.rpn_convs != 1:
        yield f"rpn_head=RPNHead({channels}, {len(levels[0]) * len(ratios)}, conv_depth={config.rpn_convs})"
    yield from _poolers(config)
    yield from _box_head(config, norm)
    if config.head_norm or config.mask_hidden_channels != _DEFAULT_CHANNELS[1]:
        hidden = config.mask_hidden_channels
        options = f", norm_layer={norm}" if config.head_norm else ""
        yield f"mask_head=MaskRCNNHeads({channels}, {[hidden] * 4}, 1{options})"
    if (config.hidden_dim, config.mask_hidden_channels) == _DEFAULT_CHANNELS:
        yield f"num_classes={num_classes}"  # with the background
    else:
        hidden = config.mask_hidden_channels
        yield f"box_predictor=FastRCNNPredictor({config.hidden_dim}, {num_classes})"
        yield f"mask_predictor=MaskRCNNPredictor({hidden}, {hidden}, {num_classes})"


def _poolers(config: ModelConfig) -> Iterator[str]:
    maps = list(_MAPS[: config.pooled_levels or 4])
    ratio = config.heads.sampling_ratio
    default = (list(_MAPS[:4]), TORCHVISION.heads.sampling_ratio)
    for keyword, size, usual in (
        ("box_roi_pool", config.pool_size, (7, 7)),
        ("mask_roi_pool", config.mask_pool_size, (14, 14)),
    ):
        if (maps, ratio) != default or size != usual:
            yield f"{keyword}=MultiScaleRoIAlign({maps}, {size}, {ratio})"


def _box_head(config: ModelConfig, norm: str) -> Iterator[str]:
    channels, (height, width), hidden = config.feat_channels, config.pool_size, config.hidden_dim
    if config.box_convs:
        options = f", norm_layer={norm}" if config.head_norm else ""
        layers = f"{[channels] * 4}, [{hidden}]"
        yield f"box_head=FastRCNNConvFCHead(({channels}, {height}, {width}), {layers}{options})"
    elif hidden != _DEFAULT_CHANNELS[0] or height != width:
        yield f"box_head=TwoMLPHead({channels * height * width}, {hidden})"


def _numbers(config: ModelConfig) -> Iterator[str]:
    for keyword, name in _KEYWORDS.items():
        value = attrgetter(name)(config)
        if value != attrgetter(name)(TORCHVISION):
            yield f"{keyword}={value!r}"
