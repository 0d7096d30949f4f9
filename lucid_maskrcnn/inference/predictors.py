"""What can predict: a model of this package, or any object with such a ``predict``."""

from __future__ import annotations

from typing import Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.config import ImageConfig

__all__ = ["check_predictor", "checked_options", "image_config_of", "labels_of"]


def check_predictor(name: str, model: Any, wanted: str) -> None:
    """Raise ``TypeError`` for what has no ``predict``; ``wanted`` is what may be given."""
    if isinstance(model, type) or not callable(getattr(model, "predict", None)):
        given = f"the class {model.__name__}" if isinstance(model, type) else validators.shown(model)
        raise TypeError(f"{name} must be {wanted} with a predict method, got {given}.")


def checked_options(
    score_thresh: Any, nms_thresh: Any, top_k: Any, mask_thresh: Any, class_agnostic_nms: Any, mask_nms: Any
) -> dict[str, Any]:
    """Return keywords of ``predict``; flags only where they are set, since jobs of before have no such entries.

    Raises
    ------
    TypeError, ValueError
        If one is not as :meth:`MaskRCNN.predict` wants it.
    """
    flags = {"class_agnostic_nms": class_agnostic_nms, "mask_nms": mask_nms}
    return {
        "score_thresh": validators.fraction("score_thresh", score_thresh),
        "nms_thresh": validators.optional(validators.fraction)("nms_thresh", nms_thresh),
        "top_k": validators.optional(validators.non_negative_int)("top_k", top_k),
        "mask_thresh": validators.fraction("mask_thresh", mask_thresh),
        **{name: True for name, value in flags.items() if validators.flag(name, value)},
    }


def labels_of(model: Any, classes: Any) -> list[int]:
    """Return the labels of classes, which may be given by name.

    Raises
    ------
    TypeError, ValueError
        If the model has no such class.
    """
    num_classes = getattr(model, "num_classes", None)
    return list(validators.class_labels("classes", classes, getattr(model, "categories", None), num_classes))


def image_config_of(model: Any) -> ImageConfig | None:
    """Return how a model's images are resized and scaled to 8 bits, None if it does not say so."""
    config = getattr(getattr(model, "config", None), "image", None)
    return config if isinstance(config, ImageConfig) else None
