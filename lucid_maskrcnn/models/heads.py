"""The heads: boxes and classes (Girshick 2015), and masks (He et al. 2017, figure 4).

Shapes: R RoIs over the batch, P positive ones among them, K classes without background, M the side of a mask, n
detections of an image, C channels, h × w cells of a pooled RoI.
Names: ``cls_logits``, class scores before the softmax, column 0 = background; ``bbox_deltas``, (dx, dy, dw, dh) from a
proposal to a box, for each class; ``gt_``, what the annotations say; ``labels``, 1 … K, 0 for background; ``classes``,
labels without background: 0 … K - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import lucid.nn as nn
from lucid import Tensor

from .. import ops
from ..config import HeadConfig
from ..ops import BoxDetections
from ..reprs import described, fields_repr
from ..targets import Target
from .layers import BatchNorm2d, Conv2d, ConvTranspose2d, conv_norm, make_norm, parameters_of
from .matcher import BalancedSampler, Matcher

__all__ = ["BoxDetections", "ConvStack", "RoISampler", "RoISamples", "_MaskHead", "postprocess_detections"]


class ConvStack(nn.Module):
    """Four 3×3 convolutions with ReLU: ``conv1`` … ``conv4``, and ``bn1`` … ``bn4`` if there are norms.

    Parameters
    ----------
    in_channels, channels : int
        Of the input and of every convolution.
    norm : {"batch", "frozen"}, optional
        Batch norm after each; none by default.
    """

    def __init__(self, in_channels: int, channels: int, norm: str | None = None) -> None:
        super().__init__()
        for i in range(4):
            conv = Conv2d(channels if i else in_channels, channels, 3, padding=1, bias=norm is None)
            self.add_module(f"conv{i + 1}", conv)
            if norm:
                self.add_module(f"bn{i + 1}", make_norm(norm, channels))

    @described
    def __repr__(self) -> str:
        return f"{type(self).__name__}({parameters_of(self)})"

    @property
    def live(self) -> bool:
        """Whether norms take the statistics of the batch at present, to which each row counts."""
        return any(isinstance(module, BatchNorm2d) and module.live for module in self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """(R, in_channels, h, w) -> (R, channels, h, w)."""
        for i in range(4):
            x = conv_norm(x, getattr(self, f"conv{i + 1}"), getattr(self, f"bn{i + 1}", None), relu=True)
        return x


class _MaskHead(ConvStack):
    """Four 3×3 convolutions, a transposed one that doubles the size, and a 1×1 to one mask per class.

    Parameters
    ----------
    in_channels : int
        Of the pooled features.
    num_classes : int
        Without background.
    hidden_channels : int
        Of the convolutions.
    norm : {"batch", "frozen"}, optional
        Batch norm after the 3×3 ones; none by default.
    """

    def __init__(self, in_channels: int, num_classes: int, hidden_channels: int = 256, norm: str | None = None) -> None:
        super().__init__(in_channels, hidden_channels, norm)
        self.deconv = ConvTranspose2d(hidden_channels, hidden_channels, 2, stride=2)
        self.mask_predictor = Conv2d(hidden_channels, num_classes, 1, std=0.001)

    def forward(self, pooled: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return the mask logits (R, num_classes, 2h, 2w) of features (R, in_channels, h, w).

        With ``classes`` (R,), int32 from 0, only those of each region's own class: (R, 1, 2h, 2w).
        """
        x = self.deconv(super().forward(pooled), relu=True)
        if classes is None:
            return self.mask_predictor(x)
        return ops.one_channel(x, self.mask_predictor.weight, self.mask_predictor.bias, classes)


def postprocess_detections(
    cls_logits: Tensor,
    bbox_deltas: Tensor,
    proposals: ops.Proposals,
    sizes: Sequence[tuple[int, int]],
    config: HeadConfig,
    *,
    score_thresh: float,
    nms_thresh: float,
    top_k: int,
    classes: tuple[int, ...] | None = None,
    class_agnostic: bool = False,
) -> list[BoxDetections] | None:
    """Turn the box head's predictions for all proposals into each image's detections.

    Parameters
    ----------
    cls_logits, bbox_deltas : Tensor of shape (R, K + 1), (R, 4 · K)
    proposals : Proposals
        R of them.
    sizes : sequence of (height, width)
        Of each image, in pixels of the network's input.
    config : HeadConfig
    score_thresh, nms_thresh, top_k
        As for ``predict``.
    classes : tuple of int, optional
        Labels; all by default.
    class_agnostic : bool
        Whether detections of different classes suppress each other, too.

    Returns
    -------
    list of BoxDetections, or None
        None if the proposals must be asked for ``again``, which has never been seen with real images.
    """
    rules = ops.DetectionRules(
        score_thresh,
        nms_thresh,
        top_k,
        config.box_weights,
        config.min_size,
        config.finite_only,
        classes=classes,
        class_agnostic=class_agnostic,
    )
    return ops.detect_boxes(cls_logits, bbox_deltas, proposals, sizes, rules)


class RoISamples(NamedTuple):
    """The RoIs that the heads are trained on, of all images."""

    rois: Tensor  # (R, 4)
    roi_idx: Tensor  # (R,), int32, the image
    labels: Tensor  # (R,), int32, 0 for background
    positive: Tensor  # (P,), int32, rows of the above
    positive_rois: Tensor  # (P, 4)
    positive_roi_idx: Tensor  # (P,), int32
    positive_class: Tensor  # (P,), int32
    gt_deltas: Tensor  # (P, 4), regression targets of the positive ones
    gt_masks: Tensor  # (P, M, M), float32, mask targets of the positive ones

    def __repr__(self) -> str:
        return fields_repr(self)

    def on_device_of(self, tensor: Tensor) -> RoISamples:
        """Return the samples on the device of a tensor."""
        return RoISamples(*(ops.as_tensor(values, tensor) for values in self))


class RoISampler:
    """Selects the RoIs to train on, and computes what they should predict.

    Parameters
    ----------
    config : HeadConfig
        Thresholds and numbers.
    mask_size : int
        Side M of the mask targets.
    """

    def __init__(self, config: HeadConfig, mask_size: int) -> None:
        self.config, self.mask_size = config, mask_size
        self.matcher = Matcher(config.foreground_iou, config.foreground_iou, allow_low_quality_matches=False)
        self.sampler = BalancedSampler(config.batch_size, config.positive_fraction)

    def select_training_samples(self, proposals: Sequence[Tensor], targets: Sequence[Target]) -> RoISamples:
        """Draw from each image's proposals (n, 4) and its objects' own boxes; all are on cpu."""
        with ops.no_grad():
            per_image = [self._of_image(i, p, t) for i, (p, t) in enumerate(zip(proposals, targets, strict=True))]
            starts = [sum(s.rois.shape[0] for s in per_image[:i]) for i in range(len(per_image))]
            in_batch = [s._replace(positive=s.positive + start) for s, start in zip(per_image, starts, strict=True)]
            return RoISamples(*(ops.concat(column) for column in zip(*in_batch, strict=True)))

    def _of_image(self, image: int, proposals: Tensor, target: Target) -> RoISamples:
        # 1. label: the object of each box, or background; an object is trained on even if no proposal found it
        boxes = ops.concat([proposals, target.boxes])
        matches = self.matcher(target.boxes, boxes)
        # 2. sample: as many as the losses are taken over, at most a fraction of them positive
        positive, negative = self.sampler(matches)
        # 3. targets: class, deltas and mask of the object of each positive box
        objects = ops.take(matches, positive)  # (P,)
        positive_boxes = ops.take(boxes, positive)
        labels = ops.take(target.labels, objects)
        gt_boxes = ops.take(target.boxes, objects)
        return RoISamples(
            rois=ops.concat([positive_boxes, ops.take(boxes, negative)]),
            roi_idx=ops.full(positive.shape[0] + negative.shape[0], image, boxes),
            labels=ops.concat([labels, ops.full(negative.shape[0], 0, boxes)]),
            positive=ops.arange(positive.shape[0], boxes),
            positive_rois=positive_boxes,
            positive_roi_idx=ops.full(positive.shape[0], image, boxes),
            positive_class=labels - 1,
            gt_deltas=ops.encode_boxes(gt_boxes, positive_boxes, self.config.box_weights),
            gt_masks=ops.mask_targets(
                target.masks, positive_boxes, objects, self.mask_size, aligned=self.config.aligned
            ),
        )
