"""The five losses (He et al. 2017, section 3; Ren et al. 2015, equation 1).

Shapes: N images, A anchors, S sampled anchors, R sampled RoIs, P positive ones, K classes without background, M the
side of a mask. Names: as in :mod:`.rpn` and :mod:`.heads`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import lucid.nn as nn
from lucid import Tensor

from .. import ops
from ..reprs import described
from ..validators import class_labels, instance, nearest, non_negative_number, positive_number, shown
from .heads import RoISamples
from .rpn import AnchorSamples, RPNOutput

__all__ = ["LOSS_NAMES", "MaskRCNNLosses", "_MaskRCNNLoss", "check_loss_weights", "class_weight_row"]

LOSS_NAMES = ("rpn_cls_loss", "rpn_reg_loss", "roi_cls_loss", "roi_reg_loss", "mask_loss")
"""The losses that have a weight."""


class MaskRCNNLosses(TypedDict):
    """Six 0-d tensors; the total is the sum of the other five."""

    rpn_cls_loss: Tensor
    rpn_reg_loss: Tensor
    roi_cls_loss: Tensor
    roi_reg_loss: Tensor
    mask_loss: Tensor
    total_loss: Tensor


class _MaskRCNNLoss(nn.Module):
    """The losses of the predictions against the samples' targets.

    Parameters
    ----------
    beta : float
        Where smooth L1 turns from quadratic to linear, in units of the (weighted) box deltas; 1/9 as in
        torchvision.
    """

    def __init__(self, beta: float = 1 / 9) -> None:
        super().__init__()
        self.beta = positive_number("beta", beta)

    @described
    def __repr__(self) -> str:
        return f"_MaskRCNNLoss(beta={self.beta:g})"

    def forward(
        self,
        rpn: RPNOutput,
        anchors: AnchorSamples,
        cls_logits: Tensor,
        bbox_deltas: Tensor,
        mask_logits: Tensor,
        rois: RoISamples,
        loss_weights: Mapping[str, float] | None = None,
        class_weights: Tensor | None = None,
    ) -> MaskRCNNLosses:
        """Return the losses.

        Box losses are sums over positives divided by the number of all samples; the mask loss is the mean
        over the pixels of positive RoIs.

        Parameters
        ----------
        rpn, anchors
            The predictions for all anchors, and the anchors sampled.
        cls_logits, bbox_deltas : Tensor of shape (R, K + 1), (R, 4 · K)
            Of the sampled RoIs.
        mask_logits : Tensor of shape (≥ P, 1, M, M)
            Of the positive ones, each in the channel of its true class; further rows are padding.
        rois : RoISamples
            The sampled RoIs with their targets.
        loss_weights : mapping of str to float, optional
            Factors of the losses by their names, 1 by default.
        class_weights : Tensor of shape (K + 1,), optional
            What a RoI of each class counts in ``roi_cls_loss``.
        """
        rpn_cls_loss = ops.binary_cross_entropy(rpn.objectness, anchors.image, anchors.anchor, anchors.is_object)
        rpn_reg_loss = ops.smooth_l1(
            rpn.deltas,
            anchors.positive_image,
            anchors.positive_anchor,
            anchors.gt_deltas,
            beta=self.beta,
            divisor=anchors.anchor.shape[0],
        )
        roi_cls_loss = ops.cross_entropy(cls_logits, rois.labels, class_weights)
        roi_reg_loss = ops.smooth_l1(
            bbox_deltas,
            rois.positive,
            rois.positive_class,
            rois.gt_deltas,
            beta=self.beta,
            divisor=rois.labels.shape[0],
        )
        rows = ops.arange(rois.positive.shape[0], rois.positive)
        only_channel = ops.full(rois.positive.shape[0], 0, rois.positive)
        mask_loss = ops.binary_cross_entropy(mask_logits, rows, only_channel, rois.gt_masks)
        found = (rpn_cls_loss, rpn_reg_loss, roi_cls_loss, roi_reg_loss, mask_loss)
        losses = [_weighted(loss, (loss_weights or {}).get(n, 1.0)) for n, loss in zip(LOSS_NAMES, found, strict=True)]
        return MaskRCNNLosses(
            rpn_cls_loss=losses[0],
            rpn_reg_loss=losses[1],
            roi_cls_loss=losses[2],
            roi_reg_loss=losses[3],
            mask_loss=losses[4],
            # The last ones are differentiated first: what the RPN's head has kept for it, of all maps, is free then.
            total_loss=ops.add_scalars(*losses[2:], *losses[:2]),
        )


def _weighted(loss: Tensor, weight: float) -> Tensor:
    return loss if weight == 1 else ops.scale_scalar(loss, weight)


# ------------------------------------------------------------------ arguments


def check_loss_weights(name: str, value: Any) -> dict[str, float]:
    """Return the factors of losses by their names; None gives none.

    Raises
    ------
    TypeError, ValueError
        If a key is none of ``LOSS_NAMES``, a value is no number of at least 0, or all five are 0.
    """
    if value is None:
        return {}
    wanted = "a mapping of losses to factors, such as {'mask_loss': 2.0}"
    found = {}
    for key, weight in instance(name, value, Mapping, wanted).items():
        if key not in LOSS_NAMES:
            near = nearest(key, LOSS_NAMES) if isinstance(key, str) else None
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(LOSS_NAMES)}."
            raise ValueError(f"{name} has an unknown loss {shown(key)}; {hint}")
        found[str(key)] = non_negative_number(f"{name}[{key!r}]", weight)
    if len(found) == len(LOSS_NAMES) and not any(found.values()):
        raise ValueError(f"{name} must have a factor above 0, got 0 for all losses: nothing would be learned.")
    return found


def class_weight_row(
    name: str, value: Any, categories: Mapping[int, str] | None, num_classes: int
) -> tuple[float, ...] | None:
    """Return what each class counts in the classification loss, background first; None if all count 1.

    Parameters
    ----------
    name : str
        What messages call the argument.
    value : mapping, optional
        Weights by label or name; 0 and ``"background"`` are what is no object. Others have 1.
    categories : mapping of int to str, optional
        Names of the labels.
    num_classes : int
        Without background.

    Raises
    ------
    TypeError, ValueError
        If there is no such class, a weight is no number of at least 0, or all are 0.
    """
    if value is None:
        return None
    row = [1.0] * (num_classes + 1)
    wanted = "a mapping of classes, by name or label, to weights, such as {'mitosis': 4.0}"
    for key, weight in instance(name, value, Mapping, wanted).items():
        background = key == "background" or (key == 0 and not isinstance(key, bool))
        labels = (0,) if background else class_labels(name, key, categories, num_classes)
        for label in labels:
            row[label] = non_negative_number(f"{name}[{key!r}]", weight)
    if not any(row):
        raise ValueError(f"{name} must have a weight above 0, got 0 for all classes: nothing would be learned.")
    return None if set(row) == {1.0} else tuple(row)
