"""The configuration of a checkpoint under detectron2's names, completed with what its ``config.yaml`` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import ModelConfig
from ..user_warnings import warn_user
from ..validators import flag
from .detectron2_code import check_for_detectron2, detectron2_values
from .detectron2_files import NotDetectron2Error, read_detectron2_config
from .detectron2_keys import DEFAULTS, ZOO
from .detectron2_settings import Settings, read_settings
from .layouts import Translated
from .shape_checks import contradictions

__all__ = ["assumption", "complete_config", "with_unstated"]

# The key of each field that ``contradictions`` compares.
_KEYS = {
    "num_classes": "MODEL.ROI_HEADS.NUM_CLASSES",
    "backbone.depth": "MODEL.RESNETS.DEPTH",
    "backbone.width": "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "backbone.out_channels": "MODEL.FPN.OUT_CHANNELS",
    "backbone.fpn_norm": "MODEL.FPN.NORM",
    "rpn_convs": "MODEL.RPN.CONV_DIMS",
    "box_convs": "MODEL.ROI_BOX_HEAD.NUM_CONV",
    "head_norm": "MODEL.ROI_MASK_HEAD.NORM",
    "hidden_dim": "MODEL.ROI_BOX_HEAD.FC_DIM",
    "mask_hidden_channels": "MODEL.ROI_MASK_HEAD.CONV_DIM",
    "pool_size": "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "anchors": "MODEL.ANCHOR_GENERATOR.SIZES",
}
# Layers that are shared by all classes if their key says so: rows for one class.
_SHARED = {
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": ("roi_heads.box_predictor.bbox_pred.weight", 4),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": ("roi_heads.mask_head.predictor.weight", 1),
}
_UNITS = {"pool_size": " cells pooled for the box head", "anchors": " anchors at a position"}
_USUAL_SCORE = DEFAULTS["MODEL.ROI_HEADS.SCORE_THRESH_TEST"]


def complete_config(
    found: Translated, arrays: Mapping[str, Any], weights: Path, config: str | Path, *, beside: bool = False
) -> ModelConfig:
    """Return the configuration that the shapes of weights and a YAML file of detectron2 give together.

    Parameters
    ----------
    found : Translated
        The weights by this package's names, with what names and shapes determine of their configuration.
    arrays : mapping of str to array
        The weights by their own names; none is read.
    weights : Path
        Their file, for messages.
    config : str or Path
        The YAML file.
    beside : bool
        Whether nobody named it, but it lies beside the weights; messages say then how it is passed over.

    Warns
    -----
    UserWarning
        If its score threshold is not 0.05: here it is an argument of each call.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        If it cannot be read, a value in it cannot be built, or it contradicts the weights; the message names the key.
    """
    assert found.config is not None
    try:
        given = Settings(read_detectron2_config(config), repr(str(config)))
        settings, score_thresh = read_settings(given)
        completed = _changed(found.config, settings, given.name)
        _check_shapes(given, completed, found, arrays, repr(str(weights)))
    except NotDetectron2Error:
        raise
    except (ImportError, FileNotFoundError, ValueError) as error:
        if not beside:
            raise
        hint = "It lies beside the weights: pass conventions='detectron2', with which it is not read, or move it."
        raise type(error)(f"{error} {hint}") from error
    if score_thresh != _USUAL_SCORE:
        warn_user(
            f"config {given.name}: MODEL.ROI_HEADS.SCORE_THRESH_TEST is {score_thresh:g}, which is an argument of each "
            f"call here, {_USUAL_SCORE:g} by default: call predict(…, score_thresh={score_thresh:g})."
        )
    return completed


def with_unstated(config: ModelConfig, own: ModelConfig) -> ModelConfig:
    """Return a configuration from YAML, with what detectron2's keys cannot say and the weights' own header does.

    It is the header's own where that says nothing else there.
    """
    backbone, body = config.backbone, own.backbone
    norms = {"norm": body.norm, "fpn_norm": backbone.fpn_norm and body.fpn_norm} if backbone and body else {}
    completed = config.changed(
        categories=own.categories or None,
        dropout=own.dropout,
        image={"intensity": own.image.intensity},
        head_norm=config.head_norm and own.head_norm,
        **norms,
    )
    try:
        check_for_detectron2(own)
    except ValueError:  # the header was written for another file
        return completed
    return own if detectron2_values(own) == detectron2_values(completed) else completed


def _changed(config: ModelConfig, settings: Mapping[str, Any], name: str) -> ModelConfig:
    try:
        # No norm in the heads is None, which changed() passes over.
        return replace(config.changed(**settings), head_norm=settings["head_norm"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"config {name}: {error}") from error


def _check_shapes(
    given: Settings, completed: ModelConfig, found: Translated, arrays: Mapping[str, Any], weights: str
) -> None:
    """Raise if the shapes of the weights say something else than a key."""
    assert found.config is not None
    for field, _, own in contradictions(completed, found.config, found.arrays):
        if isinstance(own, bool):
            has = f"have {'such' if own else 'no such'} layers"
        else:
            has = f"have {own}{_UNITS.get(field, '')}"
        raise given.refusal(_KEYS[field], f"the weights {weights} {has}")
    for key, (entry, rows) in _SHARED.items():
        if entry not in arrays or found.config.num_classes == 1:
            continue
        shared = arrays[entry].shape[:1] == (rows,)
        if given.get(key, flag) != shared:
            raise given.refusal(key, f"the weights {weights} {'are shared by all classes' if shared else 'are not'}")


def assumption(weights: str, source: str) -> str:
    """Return the warning for weights without a configuration: what is assumed of them, and how to say it."""
    assumed = ", ".join(f"{key.rpartition('.')[2]} {_brief(ZOO[key])}" for key in _ASSUMED)
    return (
        f"{weights} are {source}'s, and no configuration says how they were trained: settings that no shape shows are "
        f"taken from the model zoo: {assumed}. Put the config.yaml of the run beside them, or give it: config=…, "
        "convert --config …; if these are right, conventions='detectron2' says so."
    )


def _brief(value: Any) -> str:
    return repr(value).replace("[", "(").replace("]", ")").replace("'", "")


_ASSUMED = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "MODEL.RPN.NMS_THRESH",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
    "TEST.DETECTIONS_PER_IMAGE",
)
