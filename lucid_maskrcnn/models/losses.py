"""The five losses (He et al. 2017, section 3; Ren et al. 2015, equation 1).

Shapes: N images, A anchors, S sampled anchors, R sampled RoIs, P positive ones, K classes without background, M the
side of a mask. Names: as in :mod:`.rpn` and :mod:`.heads`.
"""

from __future__ import annotations

from typing import TypedDict

import lucid.nn as nn
from lucid import Tensor

from .. import ops
from ..validators import positive_number
from .heads import RoISamples
from .rpn import AnchorSamples, RPNOutput

__all__ = ["MaskRCNNLosses", "_MaskRCNNLoss"]


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

    def forward(
        self,
        rpn: RPNOutput,
        anchors: AnchorSamples,
        cls_logits: Tensor,
        bbox_deltas: Tensor,
        mask_logits: Tensor,
        rois: RoISamples,
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
        roi_cls_loss = ops.cross_entropy(cls_logits, rois.labels)
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
        return MaskRCNNLosses(
            rpn_cls_loss=rpn_cls_loss,
            rpn_reg_loss=rpn_reg_loss,
            roi_cls_loss=roi_cls_loss,
            roi_reg_loss=roi_reg_loss,
            mask_loss=mask_loss,
            total_loss=ops.add_scalars(rpn_cls_loss, rpn_reg_loss, roi_cls_loss, roi_reg_loss, mask_loss),
        )
