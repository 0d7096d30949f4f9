"""What a configuration of detectron2 means for a model of this package: each key is taken, passed over or refused.

The keys are those of :mod:`.detectron2_keys`. What is refused is named by its key, with the sentence what cannot be
built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ..config import BackboneConfig, HeadConfig, ImageConfig, ModelConfig, RPNConfig
from ..validators import (
    Check,
    flag,
    fraction,
    instance,
    non_negative_int,
    non_negative_number,
    number,
    positive_int,
    sequence,
    shown,
)
from .detectron2_keys import DEFAULTS, FIXED, TAKEN, is_ignored, listed
from .formats.yaml_files import Tagged

__all__ = ["BATCH_NORMS", "Settings", "read_settings"]

#: What detectron2 calls batch norm, which is the same for a model that is not trained.
BATCH_NORMS = ("FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
_LEVELS = ["p2", "p3", "p4", "p5", "p6"]
_NO_LIMIT = 2**31 - 1  # pixels of the longer side
_PARTS = {"image": ImageConfig, "rpn": RPNConfig, "heads": HeadConfig, "backbone": BackboneConfig}
_HINT = "detectron2's default, as the file does not have the key"


class Settings:
    """The values of a configuration, checked one by one.

    Parameters
    ----------
    values : mapping of str to Any
        As :func:`~lucid_maskrcnn.weights.detectron2_files.read_detectron2_config` returns them.
    name : str
        What messages call the file.
    """

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self.values = dict(values)
        self.name = name

    def get[T](self, key: str, check: Check[T]) -> T:
        """Return the value of a key, or detectron2's default, once it has passed a check of ``validators``."""
        value = self.values.get(key, DEFAULTS[key])
        if isinstance(value, Tagged):
            raise self.refusal(key, f"{value.tag} is not run: write the value itself")
        try:
            return check(key, value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"config {self.name}: {error}") from None

    def refusal(self, key: str, reason: str) -> ValueError:
        """Return the error that says why a key's value cannot be had."""
        value = self.values.get(key, DEFAULTS[key])
        what = value.content if isinstance(value, Tagged) else value
        default = "" if key in self.values else f" ({_HINT})"
        return ValueError(f"config {self.name}: {key} is {shown(what)}{default}, but {reason}.")

    def check_known(self) -> None:
        """Raise for keys that detectron2 does not have: nobody knows what they do to the model."""
        for key, value in self.values.items():
            if any(known.startswith(f"{key}.") for known in DEFAULTS):
                raise ValueError(f"config {self.name}: {key} must be a section with keys in it, got {shown(value)}.")
            if key not in DEFAULTS and not is_ignored(key):
                raise ValueError(
                    f"config {self.name}: {key} is no key that detectron2 has, and may change what the model finds: if "
                    "it does not, pass a copy of the file without it."
                )

    def check_fixed(self) -> None:
        """Raise for what cannot be built."""
        for key, fixed in FIXED.items():
            if self.get(key, lambda _, value: listed(value)) != listed(fixed.value):
                raise self.refusal(key, fixed.reason)


def read_settings(given: Settings) -> tuple[dict[str, Any], float]:
    """Return what :meth:`~lucid_maskrcnn.config.ModelConfig.changed` takes, and the score threshold.

    Raises
    ------
    ValueError
        If a key is unknown, of another type, or a value of it cannot be built; the message names the key.
    """
    given.check_known()
    given.check_fixed()
    found: dict[str, Any] = {"conventions": "detectron2", "image": {}, "rpn": {}, "heads": {}, "backbone": {}}
    for key, field in TAKEN.items():
        part, _, own = field.rpartition(".")
        (found[part] if part else found)[own] = given.get(key, _check_of(_PARTS.get(part, ModelConfig), own))
    found["image"] |= _image(given)
    found["rpn"] |= _rpn(given)
    found["heads"] |= _heads(given)
    _check_widths(given, found["backbone"])
    found["backbone"] |= {"norm": "frozen", "fpn_norm": _norm(given, "MODEL.FPN.NORM")}
    if given.get("MODEL.RESNETS.NORM", _text) not in BATCH_NORMS:
        raise given.refusal("MODEL.RESNETS.NORM", _ONLY_BATCH_NORM)
    channels = found["backbone"]["out_channels"]
    found |= _anchors(given) | _pooling(given) | _box_head(given, channels)
    found["rpn_convs"] = _rpn_convs(given, channels)
    for key in ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"):
        given.get(key, flag)
    return found, given.get("MODEL.ROI_HEADS.SCORE_THRESH_TEST", fraction)


def _check_of(kind: Any, field: str) -> Check[Any]:
    """Return the check of a configuration's field."""
    check: Check[Any] = kind.__dataclass_fields__[field].metadata["check"]
    return check


_ONLY_BATCH_NORM = "only batch norm can be built ('FrozenBN', 'BN', 'SyncBN')"


def _text(name: str, value: Any) -> str:
    return instance(name, value, str, "a string")


def _norm(given: Settings, key: str) -> str | None:
    kind = given.get(key, _text)
    if kind and kind not in BATCH_NORMS:
        raise given.refusal(key, f"{_ONLY_BATCH_NORM}, or none ('')")
    return "frozen" if kind else None


# ------------------------------------------------------------------ the image


def _image(given: Settings) -> dict[str, Any]:
    order = given.get("INPUT.FORMAT", _text)
    if order not in ("RGB", "BGR"):
        raise given.refusal("INPUT.FORMAT", "images are 'RGB' or 'BGR'")
    bgr = order == "BGR"
    found: dict[str, Any] = {"bgr": bgr}
    for key, field in (("MODEL.PIXEL_MEAN", "pixel_mean"), ("MODEL.PIXEL_STD", "pixel_std")):
        values = given.get(key, partial(sequence, check=number, length=3))
        if max(values) > 255 or min(values) < 0 or (field == "pixel_std" and not min(values)):
            raise given.refusal(key, "pixels are from 0 to 255")
        found[field] = tuple(v / 255 for v in (reversed(values) if bgr else values))
    return found | _sizes(given)


def _sizes(given: Settings) -> dict[str, Any]:
    short = given.get("INPUT.MIN_SIZE_TEST", non_negative_int)
    longest = given.get("INPUT.MAX_SIZE_TEST", positive_int)
    if short == 0:  # images keep their size
        return {"scale": 1.0, "max_size": _NO_LIMIT}
    # A short side beyond the longest one is never reached: the long side decides then.
    return {"min_size": min(short, longest), "max_size": longest}


# ------------------------------------------------------------------ backbone and proposals


def _check_widths(given: Settings, backbone: Mapping[str, Any]) -> None:
    """Refuse a ResNet whose stages are not as wide as its stem says."""
    width, bottlenecks = backbone["width"], backbone["depth"] >= 50
    wanted = {"MODEL.RESNETS.RES2_OUT_CHANNELS": width * (4 if bottlenecks else 1)}
    if bottlenecks:
        wanted["MODEL.RESNETS.WIDTH_PER_GROUP"] = width
    for key, channels in wanted.items():
        if given.get(key, positive_int) != channels:
            raise given.refusal(key, f"it must be {channels} where MODEL.RESNETS.STEM_OUT_CHANNELS is {width}")


def _rpn(given: Settings) -> dict[str, Any]:
    key = "MODEL.RPN.IOU_THRESHOLDS"
    thresholds = given.get(key, partial(sequence, check=fraction, minimum=1))
    labels = given.get("MODEL.RPN.IOU_LABELS", partial(sequence, check=number))
    if len(thresholds) > 2 or list(labels) != ([0, -1, 1] if len(thresholds) == 2 else [0, 1]):
        raise given.refusal(key, "anchors are negative below one threshold and positive from another on")
    least = given.get("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", non_negative_number)
    found: dict[str, Any] = {"background_iou": thresholds[0], "foreground_iou": thresholds[-1]}
    if least:  # sides must be greater in detectron2, here at least as great
        found["min_size"] = float(np.nextafter(np.float32(least), np.float32(math.inf)))
    return found


def _rpn_convs(given: Settings, channels: int) -> int:
    key = "MODEL.RPN.CONV_DIMS"
    dims = given.get(key, partial(sequence, check=number, minimum=1))
    if any(dim not in (-1, channels) for dim in dims):
        raise given.refusal(key, f"its convolutions have as many channels as the pyramid, {channels} or -1")
    return len(dims)


def _of_levels(name: str, value: Any) -> tuple[tuple[float, ...], ...]:
    """Return the numbers of each level; a list without lists in it is that of all levels."""
    flat = isinstance(value, (list, tuple)) and value and not isinstance(value[0], (list, tuple))
    return sequence(name, [value] if flat else value, partial(sequence, check=number, minimum=1), minimum=1)


def _anchors(given: Settings) -> dict[str, Any]:
    """Return sizes for each level and the ratios of all of them."""
    ratios_key, sizes_key = "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "MODEL.ANCHOR_GENERATOR.SIZES"
    sizes, ratios = given.get(sizes_key, _of_levels), given.get(ratios_key, _of_levels)
    if len(sizes) not in (1, len(_LEVELS)):
        raise given.refusal(sizes_key, f"there are {len(_LEVELS)} levels: it must have as many lists, or one")
    if len({len(level) for level in sizes}) > 1:
        raise given.refusal(sizes_key, "each level must have equally many")
    if len(ratios) not in (1, len(_LEVELS)) or len(set(ratios)) > 1:
        raise given.refusal(ratios_key, "all levels must have the same ratios")
    levels = sizes * len(_LEVELS) if len(sizes) == 1 else sizes
    flat = tuple(level[0] if len(level) == 1 else level for level in levels)
    return {
        "anchor_sizes": given.get(sizes_key, lambda name, _: _check_of(ModelConfig, "anchor_sizes")(name, flat)),
        "aspect_ratios": given.get(
            ratios_key, lambda name, _: _check_of(ModelConfig, "aspect_ratios")(name, ratios[0])
        ),
    }


# ------------------------------------------------------------------ the heads


def _heads(given: Settings) -> dict[str, Any]:
    key = "MODEL.ROI_HEADS.IOU_THRESHOLDS"
    thresholds = given.get(key, partial(sequence, check=fraction, minimum=1))
    labels = given.get("MODEL.ROI_HEADS.IOU_LABELS", partial(sequence, check=number))
    if len(thresholds) != 1 or list(labels) != [0, 1]:
        raise given.refusal(key, "RoIs are background below one threshold and objects from it on")
    _check_same(given, "POOLER_TYPE")
    _check_same(given, "POOLER_SAMPLING_RATIO")
    kind = given.get("MODEL.ROI_BOX_HEAD.POOLER_TYPE", _text)
    if kind not in ("ROIAlignV2", "ROIAlign"):
        raise given.refusal("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "RoIs are pooled by 'ROIAlignV2' or 'ROIAlign'")
    return {"foreground_iou": thresholds[0], "aligned": kind == "ROIAlignV2"}


def _check_same(given: Settings, name: str) -> None:
    """Refuse a setting of the mask head that differs from the box head's."""
    box, mask = (given.get(f"MODEL.ROI_{head}_HEAD.{name}", lambda _, value: value) for head in ("BOX", "MASK"))
    if box != mask:
        raise given.refusal(
            f"MODEL.ROI_MASK_HEAD.{name}", f"it must be that of MODEL.ROI_BOX_HEAD, {shown(box)}: both pool alike"
        )


def _pooling(given: Settings) -> dict[str, Any]:
    key = "MODEL.ROI_HEADS.IN_FEATURES"
    maps = given.get(key, partial(sequence, check=_text, minimum=1))
    if list(maps) != _LEVELS[: len(maps)]:
        raise given.refusal(key, "RoIs are pooled from p2 and the levels that follow it")
    cells = _check_of(ModelConfig, "pool_size")
    box = given.get("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", cells)
    mask = given.get("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", cells)
    levels = None if len(maps) == len(_LEVELS) - 1 else len(maps)
    return {"pool_size": box, "mask_pool_size": mask, "mask_out_size": 2 * mask[0], "pooled_levels": levels}


def _box_head(given: Settings, channels: int) -> dict[str, Any]:
    key = "MODEL.ROI_BOX_HEAD.NUM_CONV"
    convs = given.get(key, non_negative_int)
    layers = given.get("MODEL.ROI_BOX_HEAD.NUM_FC", non_negative_int)
    if (convs, layers) not in ((0, 2), (4, 1)):
        raise given.refusal(key, f"with NUM_FC {layers}: it can be 0 with two linear layers, or 4 with one")
    mask_norm = _norm(given, "MODEL.ROI_MASK_HEAD.NORM")
    if convs:
        if given.get("MODEL.ROI_BOX_HEAD.CONV_DIM", positive_int) != channels:
            raise given.refusal(
                "MODEL.ROI_BOX_HEAD.CONV_DIM", f"its convolutions have as many channels as the pyramid, {channels}"
            )
        if _norm(given, "MODEL.ROI_BOX_HEAD.NORM") != mask_norm:
            raise given.refusal("MODEL.ROI_BOX_HEAD.NORM", "box and mask head have norms both or neither")
    return {"box_convs": bool(convs), "head_norm": mask_norm}
