"""The five losses (He et al. 2017, section 3; Ren et al. 2015, equation 1)."""

from __future__ import annotations

from typing import TypedDict

import lucid.nn as nn
from lucid import Tensor

from .. import ops
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
    """Compares predictions with the samples' targets.

    Parameters
    ----------
    beta : float
        Where smooth L1 turns from quadratic to linear, in units of the (weighted) box deltas; 1/9 as in
        torchvision.
    """

    def __init__(self, beta: float = 1 / 9) -> None:
        super().__init__()
        self.beta = beta

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
            What the proposal network says of all anchors, and the anchors sampled.
        cls_logits, bbox_deltas : Tensor of shape (R, K + 1), (R, 4 · K)
            Of the sampled RoIs.
        mask_logits : Tensor of shape (P, 1, M, M)
            Of the positive ones, each in the channel of its true class.
        rois : RoISamples
            What they should have been.
        """
        of_objectness = ops.binary_cross_entropy(rpn.objectness, anchors.image, anchors.anchor, anchors.is_object)
        of_proposals = ops.smooth_l1(
            rpn.deltas,
            anchors.positive_image,
            anchors.positive_anchor,
            anchors.deltas,
            beta=self.beta,
            divisor=anchors.anchor.shape[0],
        )
        of_classes = ops.cross_entropy(cls_logits, rois.labels)
        of_boxes = ops.smooth_l1(
            bbox_deltas,
            rois.positive,
            rois.positive_class,
            rois.deltas,
            beta=self.beta,
            divisor=rois.labels.shape[0],
        )
        rows = ops.arange(rois.positive.shape[0], rois.positive)
        only_channel = ops.full(rois.positive.shape[0], 0, rois.positive)
        of_masks = ops.binary_cross_entropy(mask_logits, rows, only_channel, rois.masks)
        return MaskRCNNLosses(
            rpn_cls_loss=of_objectness,
            rpn_reg_loss=of_proposals,
            roi_cls_loss=of_classes,
            roi_reg_loss=of_boxes,
            mask_loss=of_masks,
            total_loss=ops.add_scalars(of_objectness, of_proposals, of_classes, of_boxes, of_masks),
        )
