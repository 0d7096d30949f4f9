"""The configuration that builds a model in detectron2, and the Python that loads its weights there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from ..config import DETECTRON2, ModelConfig, anchor_levels
from .detectron2_keys import DEFAULTS, TAKEN, ZOO, listed
from .fixed_settings import check_fixed_settings, fixed_by, has_several_sizes, remarks

__all__ = [
    "check_for_detectron2",
    "check_replaceable",
    "config_file_of",
    "detectron2_code",
    "detectron2_values",
    "detectron2_yaml",
]

_FIXED = (
    *("image.antialias", "image.clip_restored", "image.size_divisor"),
    *("rpn.by_logits", "rpn.finite_only", "rpn.whole_pixels", "rpn.nominal_strides"),
    *("heads.min_size", "heads.finite_only", "heads.level_margin", "heads.snap_masks"),
)
_BASIC_WIDTH = 64  # of a ResNet-18's stem, which is the only one there
_EPS = 1e-5  # of batch norm
_NO_LIMIT = 2**31 - 1  # pixels of the longer side
_LEVELS = ("p2", "p3", "p4", "p5", "p6")
_NORMS = {None: "", "frozen": "FrozenBN", "batch": "BN"}
_MARK = "# Written by lucid-maskrcnn convert: "  # a file that begins so may be replaced


def check_for_detectron2(config: ModelConfig | None) -> ModelConfig:
    """Return the configuration, or refuse a model that detectron2 cannot have, as :func:`check_fixed_settings`."""
    fixed = fixed_by(DETECTRON2, _FIXED)
    if config is not None and config.backbone is not None:
        fixed |= {"backbone.norm_eps": _EPS, "pool_size": (config.pool_size[0],) * 2}
        if config.backbone.depth == 18:
            fixed["backbone.width"] = _BASIC_WIDTH
        if has_several_sizes(config):
            fixed["rpn.sizes_first"] = DETECTRON2.rpn.sizes_first
        if config.image.scale == 1:  # images keep their size there, however large they are
            fixed["image.max_size"] = _NO_LIMIT
        else:
            fixed["image.scale"] = DETECTRON2.image.scale
        if _smaller_side(config) is None:
            fixed["rpn.min_size"] = DETECTRON2.rpn.min_size
    checked = check_fixed_settings(config, "detectron2", fixed)
    for name in ("rpn.background_iou", "heads.foreground_iou"):
        if not attrgetter(name)(checked):
            raise ValueError(
                f"to='detectron2' cannot express this model, as detectron2 has no {name}=0: its thresholds of IoU are "
                "above 0."
            )
    return checked


def _smaller_side(config: ModelConfig) -> int | None:
    """Return the integer that sides of proposals must exceed, as detectron2 wants it; None if there is none."""
    least = np.float32(config.rpn.min_size)
    if config.rpn.min_size == DETECTRON2.rpn.min_size:
        return 0
    side = int(least)
    return side if np.nextafter(np.float32(side), np.float32(math.inf)) == least else None


# ------------------------------------------------------------------ the configuration


def detectron2_values(config: ModelConfig, class_agnostic: Iterable[str] = ()) -> dict[str, Any]:
    """Return the keys that differ from detectron2's defaults, with their values.

    Parameters
    ----------
    config : ModelConfig
        That :func:`check_for_detectron2` accepts.
    class_agnostic : iterable of str
        The layers that have rows for all classes together, ``"bbox_pred"`` and ``"mask_head.mask_predictor"``.
    """
    values = dict(ZOO)
    values |= {key: attrgetter(field)(config) for key, field in TAKEN.items()}
    values |= _of_image(config) | _of_backbone(config) | _of_proposals(config) | _of_heads(config)
    values["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] = "bbox_pred" in class_agnostic
    values["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"] = "mask_head.mask_predictor" in class_agnostic
    typed = {key: float(v) if isinstance(DEFAULTS.get(key), float) else listed(v) for key, v in values.items()}
    return {key: value for key, value in typed.items() if value != listed(_DEFAULTS[key])}


# Of keys of training, which no detection depends on, those that follow from the model.
_DEFAULTS = {**DEFAULTS, "INPUT.MIN_SIZE_TRAIN": [800], "INPUT.MAX_SIZE_TRAIN": 1333}


def _of_image(config: ModelConfig) -> dict[str, Any]:
    image = config.image
    order = -1 if image.bgr else 1
    size = 0 if image.scale else image.min_size
    return {
        "INPUT.FORMAT": "BGR" if image.bgr else "RGB",
        "INPUT.MIN_SIZE_TEST": size,
        "INPUT.MIN_SIZE_TRAIN": [size],
        "INPUT.MAX_SIZE_TEST": image.max_size if size else DEFAULTS["INPUT.MAX_SIZE_TEST"],
        "INPUT.MAX_SIZE_TRAIN": image.max_size if size else DEFAULTS["INPUT.MAX_SIZE_TEST"],
        "MODEL.PIXEL_MEAN": [_times_255(v) for v in image.pixel_mean[::order]],
        "MODEL.PIXEL_STD": [_times_255(v) for v in image.pixel_std[::order]],
    }


def _times_255(value: float) -> float:
    """Return the shortest decimal number that gives ``value`` when it is divided by 255, or else the nearest."""
    exact = value * 255
    candidates = (float(f"{exact:.{digits}g}") for digits in range(1, 18))
    near = (math.nextafter(exact, limit) for limit in (0, math.inf))
    return next((c for c in (*candidates, *near) if c / 255 == value), exact)


def _of_backbone(config: ModelConfig) -> dict[str, Any]:
    backbone = config.backbone
    assert backbone is not None
    basic = backbone.depth == 18
    return {
        "MODEL.RESNETS.NORM": _NORMS[backbone.norm],
        "MODEL.RESNETS.WIDTH_PER_GROUP": backbone.width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": backbone.width * (1 if basic else 4),
        "MODEL.FPN.NORM": _NORMS[backbone.fpn_norm],
    }


def _of_proposals(config: ModelConfig) -> dict[str, Any]:
    return {
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": _smaller_side(config),
        "MODEL.ANCHOR_GENERATOR.SIZES": anchor_levels(config.anchor_sizes, per_level=True),
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [config.aspect_ratios],
        "MODEL.RPN.IOU_THRESHOLDS": [config.rpn.background_iou, config.rpn.foreground_iou],
        "MODEL.RPN.CONV_DIMS": [-1] * config.rpn_convs,
    }


def _of_heads(config: ModelConfig) -> dict[str, Any]:
    convs, norm = config.box_convs, _NORMS[config.head_norm]
    kind = "ROIAlignV2" if config.heads.aligned else "ROIAlign"
    return {
        "MODEL.ROI_HEADS.IN_FEATURES": _LEVELS[: config.pooled_levels or 4],
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [config.heads.foreground_iou],
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": kind,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": config.pool_size[0],
        "MODEL.ROI_BOX_HEAD.NUM_CONV": 4 if convs else 0,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1 if convs else 2,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": config.feat_channels if convs else DEFAULTS["MODEL.ROI_BOX_HEAD.CONV_DIM"],
        "MODEL.ROI_BOX_HEAD.NORM": norm if convs else "",
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": kind,
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": config.mask_pool_size[0],
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": config.heads.sampling_ratio,
        "MODEL.ROI_MASK_HEAD.NORM": norm,
    }


# ------------------------------------------------------------------ the file


def config_file_of(path: Path) -> Path:
    """Return where the configuration of the weights at ``path`` is written."""
    return path.with_suffix(".yaml")


def check_replaceable(path: Path) -> None:
    """Refuse to replace a configuration that somebody else has written.

    Raises
    ------
    FileExistsError
        If there is one.
    """
    if not path.exists():
        return
    if not path.is_file() or not path.read_bytes().startswith(_MARK.encode()):
        raise FileExistsError(
            f"{str(path)!r} is where the configuration for detectron2 belongs, and is not one that was written here: "
            "move it, or give the weights another name."
        )


def detectron2_yaml(config: ModelConfig, path: Path, class_agnostic: Iterable[str] = ()) -> str:
    """Return the configuration of the weights at ``path``: the keys that differ from detectron2's ``get_cfg()``.

    Parameters
    ----------
    config : ModelConfig
        That :func:`check_for_detectron2` accepts.
    path : Path
        The file of weights, to which the configuration refers by its name.
    class_agnostic : iterable of str
        As for :func:`detectron2_values`.
    """
    values = {"MODEL.WEIGHTS": path.name, **detectron2_values(config, class_agnostic), "VERSION": 2}
    tree: dict[str, Any] = {}
    for key in sorted(values):
        *sections, own = key.split(".")
        section = tree
        for name in sections:
            section = section.setdefault(name, {})
        section[own] = values[key]
    return "\n".join([f"{_MARK}the model of {json.dumps(path.name)} in detectron2.", *_yaml_lines(tree)]) + "\n"


def _yaml_lines(section: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {_yaml_value(value)}"


def _yaml_value(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_yaml_value, value))}]"
    if isinstance(value, float):  # without a point YAML takes 1e-05 for text
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return json.dumps(value)


# ------------------------------------------------------------------ the code


def detectron2_code(config: ModelConfig, path: Path) -> str:
    """Return the lines of Python that build the model in detectron2 and load the file at ``path`` there.

    Parameters
    ----------
    config : ModelConfig
        That :func:`check_for_detectron2` accepts.
    path : Path
        Of the weights; the configuration is beside it.
    """
    names = dict(config.category_names)
    lines = ["from detectron2.config import get_cfg"]
    if names:
        lines.append("from detectron2.data import MetadataCatalog")
    lines += [
        "from detectron2.engine import DefaultPredictor",
        "",
        "cfg = get_cfg()",
        f"cfg.merge_from_file({str(config_file_of(path))!r})",
        f"cfg.MODEL.WEIGHTS = {str(path)!r}",
        'cfg.MODEL.DEVICE = "cpu"  # or "cuda"',
    ]
    if names:
        classes = [names.get(label, str(label)) for label in range(1, config.num_classes + 1)]
        lines += [
            f"cfg.DATASETS.TEST = ({path.stem!r},)",
            f"MetadataCatalog.get({path.stem!r}).thing_classes = {classes!r}",
        ]
    return "\n".join([*lines, *remarks(config), "predictor = DefaultPredictor(cfg)  # of images in BGR"]) + "\n"
