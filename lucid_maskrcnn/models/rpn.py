"""The region proposal network (Ren et al. 2015, section 3.1).

Shapes: N images, L feature maps, A anchors over all maps, S sampled anchors, P positive ones among them.
Names: ``objectness``, logits before the sigmoid; ``deltas``, (dx, dy, dw, dh) from an anchor to a box; ``gt_``, what
the annotations say; ``proposals``, the boxes that the heads look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import lucid.nn as nn
from lucid import Tensor

from .. import ops
from ..config import RPNConfig
from ..reprs import described, fields_repr
from ..targets import Target
from ..validators import instance, positive_int
from .anchors import _AnchorGenerator
from .layers import Conv2d, parameters_of
from .matcher import BalancedSampler, Matcher
from .pooling import FeatureMaps

__all__ = ["AnchorSamples", "RPNOutput", "_RPNHead", "_RegionProposalNetwork"]


class RPNOutput(NamedTuple):
    """The predictions for each anchor."""

    objectness: Tensor  # (N, A, 1), logits
    deltas: Tensor  # (N, A, 4)
    anchors: Tensor  # (A, 4), pixels of the network's input
    level_sizes: list[int]  # anchors of each map

    def __repr__(self) -> str:
        return fields_repr(self)


class AnchorSamples(NamedTuple):
    """The anchors that the loss is taken over; indices are int32."""

    image: Tensor  # (S,)
    anchor: Tensor  # (S,)
    is_object: Tensor  # (S, 1), float32, 0 or 1
    positive_image: Tensor  # (P,)
    positive_anchor: Tensor  # (P,)
    gt_deltas: Tensor  # (P, 4), regression targets of the positive ones

    def __repr__(self) -> str:
        return fields_repr(self)

    def on_device_of(self, tensor: Tensor) -> AnchorSamples:
        """Return the samples on the device of a tensor."""
        return AnchorSamples(*(ops.as_tensor(values, tensor) for values in self))


class _RPNHead(nn.Module):
    """A 3×3 convolution, or several, and two 1×1 ones, shared by all maps.

    Parameters
    ----------
    channels : int
        Of every map.
    num_anchors : int
        At each position.
    depth : int
        How many 3×3 convolutions: ``conv``, ``conv2``, …
    """

    def __init__(self, channels: int, num_anchors: int, depth: int = 1) -> None:
        super().__init__()
        channels, num_anchors = positive_int("channels", channels), positive_int("num_anchors", num_anchors)
        self.depth = positive_int("depth", depth)
        for i in range(depth):
            self.add_module(f"conv{i + 1}" if i else "conv", Conv2d(channels, channels, 3, padding=1, std=0.01))
        self.cls_logits = Conv2d(channels, num_anchors, 1, std=0.01)
        self.bbox_pred = Conv2d(channels, 4 * num_anchors, 1, std=0.01)

    @described
    def __repr__(self) -> str:
        return f"_RPNHead(depth={self.depth}, {parameters_of(self)})"

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return each map's logits (N, num_anchors, H, W) and deltas (N, 4 · num_anchors, H, W)."""
        convs = [self.conv, *(getattr(self, f"conv{i + 1}") for i in range(1, self.depth))]
        hidden = [reduce(lambda x, conv: conv(x, relu=True), convs, m) for m in maps]
        return [self.cls_logits(h) for h in hidden], [self.bbox_pred(h) for h in hidden]


class _RegionProposalNetwork(nn.Module):
    """Scores anchors on every map, and turns the best into proposals.

    Parameters
    ----------
    channels : int
        Of every map.
    anchor_generator : _AnchorGenerator
        Where the anchors are.
    config : RPNConfig
        Numbers of proposals, thresholds and samples.
    depth : int
        3×3 convolutions of the head.
    """

    def __init__(self, channels: int, anchor_generator: _AnchorGenerator, config: RPNConfig, depth: int = 1) -> None:
        super().__init__()
        self.config = instance("config", config, RPNConfig, "an RPNConfig")
        self.anchor_generator = instance("anchor_generator", anchor_generator, _AnchorGenerator, "an anchor generator")
        self.head = _RPNHead(channels, anchor_generator.num_anchors, depth)
        self.matcher = Matcher(config.foreground_iou, config.background_iou, allow_low_quality_matches=True)
        self.sampler = BalancedSampler(config.batch_size, config.positive_fraction)

    @described
    def __repr__(self) -> str:
        config = self.config
        kept = f"{config.post_nms_top_n} proposals, {config.post_nms_top_n_train} in training"
        return f"_RegionProposalNetwork({kept}, nms_thresh={config.nms_thresh:g}, {parameters_of(self)})"

    def forward(self, features: FeatureMaps) -> RPNOutput:
        """Score all anchors on the maps."""
        objectness, deltas = ops.compiled(self.head, features.maps)
        anchors, level_sizes = self.anchor_generator.joined(features)
        return RPNOutput(
            objectness=ops.cast(ops.concat_anchors(objectness, 1), "float32"),
            deltas=ops.cast(ops.concat_anchors(deltas, 4), "float32"),
            anchors=anchors,
            level_sizes=level_sizes,
        )

    def propose(self, output: RPNOutput, sizes: Sequence[tuple[int, int]], *, training: bool) -> ops.Proposals:
        """Return the proposals of all images, clipped each to its entry of ``sizes``, (height, width) in pixels.

        Proposals are constants: no gradient flows through their coordinates.
        """
        config = self.config
        rules = ops.ProposalRules(
            pre_nms_top_n=config.pre_nms_top_n_train if training else config.pre_nms_top_n,
            post_nms_top_n=config.post_nms_top_n_train if training else config.post_nms_top_n,
            nms_thresh=config.nms_thresh,
            min_size=config.min_size,
            by_logits=config.by_logits,
            finite_only=config.finite_only,
        )
        return ops.filter_proposals(output.objectness, output.deltas, output.anchors, output.level_sizes, sizes, rules)

    def filter_proposals(self, output: RPNOutput, sizes: Sequence[tuple[int, int]], *, training: bool) -> list[Tensor]:
        """Return each image's proposals, best first: (n, 4) in pixels, clipped to its entry of ``sizes``."""
        return self.propose(output, sizes, training=training).per_image()

    def label_and_sample_anchors(self, anchors: Tensor, targets: Sequence[Target]) -> AnchorSamples:
        """Draw from the anchors (A, 4) those for the loss, and compute what they should predict; all are on cpu."""
        images, sampled, labels, positive_images, positive_anchors, gt_deltas = [], [], [], [], [], []
        with ops.no_grad():
            for image, target in enumerate(targets):
                # 1. label: the object of each anchor, or background, or neither
                matches = self.matcher(target.boxes, anchors)
                # 2. sample: as many as the loss is taken over, at most half of them positive
                positive, negative = self.sampler(matches)
                # 3. targets: whether there is an object, and of the positive ones, where
                num_positive, num_negative = positive.shape[0], negative.shape[0]
                sampled += [positive, negative]
                labels += [ops.full(num_positive, 1, positive), ops.full(num_negative, 0, positive)]
                images.append(ops.full(num_positive + num_negative, image, positive))
                positive_anchors.append(positive)
                positive_images.append(ops.full(num_positive, image, positive))
                gt_boxes = ops.take(target.boxes, ops.take(matches, positive))
                gt_deltas.append(ops.encode_boxes(gt_boxes, ops.take(anchors, positive)))
            return AnchorSamples(
                image=ops.concat(images),
                anchor=ops.concat(sampled),
                is_object=ops.as_tensor(ops.concat(labels).reshape(-1, 1), anchors, "float32"),
                positive_image=ops.concat(positive_images),
                positive_anchor=ops.concat(positive_anchors),
                gt_deltas=ops.concat(gt_deltas),
            )
