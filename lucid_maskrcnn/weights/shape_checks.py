"""Settings against the shapes of weights: what a file's arrays determine, no setting can change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..config import ModelConfig, anchor_levels
from ..validators import shown

__all__ = ["Contradiction", "check_configuration", "check_settings", "contradictions"]

# Fields that names and shapes determine, in the order in which they are reported, and the keywords of the factories.
_FIELDS = {
    "num_classes": "num_classes",
    "backbone.depth": "depth",
    "backbone.width": "width",
    "backbone.out_channels": "fpn_channels",
    "backbone.fpn_norm": "fpn_norm",
    "rpn_convs": "rpn_convs",
    "box_convs": "box_convs",
    "head_norm": "head_norm",
    "hidden_dim": "hidden_dim",
    "mask_hidden_channels": "mask_hidden_channels",
    "pool_size": "pool_size",
}
_ANCHORS = "anchor_sizes and aspect_ratios"


class Contradiction(NamedTuple):
    """A setting that weights cannot have."""

    field: str
    given: Any
    of_weights: Any


def contradictions(config: ModelConfig, of_file: ModelConfig, arrays: Mapping[str, Any]) -> list[Contradiction]:
    """Return where a configuration differs from what a file's names and shapes determine.

    Parameters
    ----------
    config : ModelConfig
        With the settings in question.
    of_file : ModelConfig
        As it was found in names and shapes, or in the file's header.
    arrays : mapping of str to array
        Of the file, by this package's names; none is read.
    """
    found = []
    for field in _FIELDS:
        given, own = (_determined(field, _value(c, field)) for c in (config, of_file))
        if field == "pool_size":
            own = _pooled_cells(arrays, of_file) or own
        if given != own:
            found.append(Contradiction(field, given, own))
    logits = arrays.get("rpn.head.cls_logits.weight")
    per_position = len(config.aspect_ratios) * len(anchor_levels(config.anchor_sizes, per_level=config.use_fpn)[0])
    if logits is not None and len(logits.shape) == 4 and logits.shape[0] != per_position:
        found.append(Contradiction("anchors", per_position, int(logits.shape[0])))
    return found


def _pooled_cells(arrays: Mapping[str, Any], of_file: ModelConfig) -> int | None:
    """Return the cells pooled for the box head; ``of_file`` has them only if they may be a square."""
    layer = arrays.get("fc1.weight")
    if layer is None or len(layer.shape) != 2:
        return None
    cells, rest = divmod(int(layer.shape[1]), of_file.feat_channels)
    return None if rest else cells


def _value(config: ModelConfig, field: str) -> Any:
    part, _, own = field.rpartition(".")
    return getattr(config.backbone if part else config, own, None)


def _determined(field: str, value: Any) -> Any:
    """Return as much of a field as names and shapes determine."""
    if field in ("head_norm", "backbone.fpn_norm"):
        return value is not None
    return value[0] * value[1] if field == "pool_size" else value


def check_configuration(config: ModelConfig, arrays: Mapping[str, Any]) -> None:
    """Refuse to hand on weights with a configuration that their shapes contradict: other settings are to be given.

    Parameters
    ----------
    config : ModelConfig
        Of the weights.
    arrays : mapping of str to array
        By this package's names; none is read.

    Raises
    ------
    ValueError
        If the anchors at a position, or the cells pooled for the box head, are not as many.
    """
    settings = {
        "anchors": (_ANCHORS, "anchors at a position"),
        "pool_size": ("pool_size", "cells pooled for the box head"),
    }
    for field, given, own in contradictions(config, config, arrays):
        name, what = settings[field]
        raise ValueError(
            f"The weights have {own} {what}, and their configuration says {given}: give MaskRCNN.from_file() {name}, "
            "and convert what save_weights() writes then."
        )


def check_settings(
    settings: Mapping[str, Any], config: ModelConfig, of_file: ModelConfig, arrays: Mapping[str, Any], source: str
) -> None:
    """Refuse settings of a call that the weights' shapes contradict.

    Parameters
    ----------
    settings : mapping of str to Any
        By the keywords of the factories.
    config, of_file, arrays
        As for :func:`contradictions`; ``config`` has the settings.
    source : str
        What messages call the weights.

    Raises
    ------
    ValueError
        If there is a contradiction; the message names the setting.
    """
    for field, given, own in contradictions(config, of_file, arrays):
        if field == "anchors":
            raise ValueError(
                f"{source} have {own} anchors at a position, but {_ANCHORS} give {given}: pass those that the model "
                "was trained with."
            )
        name = _FIELDS[field]
        if field == "pool_size" and name not in settings and math.isqrt(own) ** 2 != own:
            raise ValueError(
                f"{source} have {own} cells pooled for the box head, which are no square: pass pool_size=(height, "
                "width)."
            )
        if name not in settings:
            continue  # of a damaged header: the names and shapes that do not fit are reported one by one
        if field == "pool_size":
            words = f"{own} cells pooled for the box head"
        elif isinstance(own, bool):
            words = f"{'' if own else 'no '}such layers"
        else:
            words = str(own)
        raise ValueError(
            f"{name}={shown(settings[name])} contradicts {source}, whose shapes say {words}: leave it out."
        )
