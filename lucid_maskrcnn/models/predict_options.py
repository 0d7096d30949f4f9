"""The options of ``predict``, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from ..config import HeadConfig
from ..detections import Detections
from ..validators import (
    class_labels,
    flag,
    fraction,
    non_negative_int,
    optional,
    page_number,
    positive_int,
    reading,
)

__all__ = ["PredictOptions"]


@dataclass(frozen=True)
class PredictOptions:
    """What a call of ``predict`` asks for; see :meth:`MaskRCNN.predict`.

    Attributes
    ----------
    score_thresh, nms_thresh, top_k, mask_thresh, class_agnostic_nms, mask_nms, keep_image, batch_size
        As there; what was left to the model is the model's.
    classes : tuple of int, optional
        Labels.
    read : dict
        Keywords of :func:`~lucid_maskrcnn.images.load_pages`.
    """

    score_thresh: float
    nms_thresh: float
    top_k: int
    mask_thresh: float
    classes: tuple[int, ...] | None
    class_agnostic_nms: bool
    mask_nms: bool
    keep_image: bool
    batch_size: int
    read: dict[str, Any]

    @classmethod
    def checked(
        cls,
        heads: HeadConfig,
        categories: Any,
        num_classes: int,
        *,
        score_thresh: Any,
        nms_thresh: Any,
        top_k: Any,
        mask_thresh: Any,
        classes: Any,
        class_agnostic_nms: Any,
        mask_nms: Any,
        keep_image: Any,
        batch_size: Any,
        page: Any,
        channels: Any,
        intensity: Any,
    ) -> Self:
        """Return the options of a call, given the model's own.

        Raises
        ------
        TypeError, ValueError
            If one is not as ``predict`` wants it.
        """
        return cls(
            score_thresh=fraction("score_thresh", score_thresh),
            nms_thresh=heads.nms_thresh if nms_thresh is None else fraction("nms_thresh", nms_thresh),
            top_k=heads.top_k if top_k is None else non_negative_int("top_k", top_k),
            mask_thresh=fraction("mask_thresh", mask_thresh),
            classes=None if classes is None else class_labels("classes", classes, categories, num_classes),
            class_agnostic_nms=flag("class_agnostic_nms", class_agnostic_nms),
            mask_nms=flag("mask_nms", mask_nms),
            keep_image=flag("keep_image", keep_image),
            batch_size=positive_int("batch_size", batch_size),
            read={"page": optional(page_number)("page", page), **reading(channels, intensity)},
        )

    @property
    def of_boxes(self) -> dict[str, Any]:
        """How boxes are chosen: keywords of ``postprocess_detections``.

        Where masks are compared afterwards, by a looser threshold, and more of them.
        """
        return {
            "score_thresh": self.score_thresh,
            "nms_thresh": (1 + self.nms_thresh) / 2 if self.mask_nms else self.nms_thresh,
            "top_k": 4 * self.top_k if self.mask_nms else self.top_k,
            "classes": self.classes,
            "class_agnostic": self.class_agnostic_nms,
        }

    def suppress(self, detections: list[Detections]) -> tuple[list[Detections], list[int]]:
        """Return the detections that masks of better ones do not suppress, and how many there were before ``top_k``."""
        left = [d.nms(self.nms_thresh, class_agnostic=self.class_agnostic_nms, masks=True) for d in detections]
        return [d[: self.top_k] for d in left], [len(d) for d in left]
