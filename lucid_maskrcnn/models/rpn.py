"""The region proposal network (Ren et al. 2015, section 3.1).

Shapes: N images, L maps, A anchors over all maps, S sampled anchors, P positive ones among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import lucid.nn as nn
from lucid import Tensor

from .. import ops
from ..config import RPNConfig
from ..targets import Target
from .anchors import _AnchorGenerator
from .layers import Conv2d
from .matcher import BalancedSampler, Matcher

__all__ = ["AnchorSamples", "RPNOutput", "_RPNHead", "_RegionProposalNetwork"]


class RPNOutput(NamedTuple):
    """What the network says of each anchor."""

    objectness: Tensor  # (N, A, 1), logits
    deltas: Tensor  # (N, A, 4)
    anchors: Tensor  # (A, 4), pixels of the network's input
    level_sizes: list[int]  # anchors of each map


class AnchorSamples(NamedTuple):
    """The anchors that the loss is taken over; indices are int32."""

    image: Tensor  # (S,)
    anchor: Tensor  # (S,)
    is_object: Tensor  # (S, 1), float32, 0 or 1
    positive_image: Tensor  # (P,)
    positive_anchor: Tensor  # (P,)
    deltas: Tensor  # (P, 4), what the positive ones should predict


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
        self.depth = depth
        for i in range(depth):
            self.add_module(f"conv{i + 1}" if i else "conv", Conv2d(channels, channels, 3, padding=1, std=0.01))
        self.cls_logits = Conv2d(channels, num_anchors, 1, std=0.01)
        self.bbox_pred = Conv2d(channels, 4 * num_anchors, 1, std=0.01)

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
    settings : RPNConfig
        Numbers of proposals, thresholds and samples.
    depth : int
        3×3 convolutions of the head.
    """

    def __init__(self, channels: int, anchor_generator: _AnchorGenerator, settings: RPNConfig, depth: int = 1) -> None:
        super().__init__()
        self.settings = settings
        self.anchor_generator = anchor_generator
        self.head = _RPNHead(channels, anchor_generator.num_anchors, depth)
        self.matcher = Matcher(settings.foreground_iou, settings.background_iou, allow_low_quality_matches=True)
        self.sampler = BalancedSampler(settings.batch_size, settings.positive_fraction)

    def forward(self, maps: Sequence[Tensor], image_size: tuple[int, int]) -> RPNOutput:
        """Score all anchors on the maps of images of ``image_size`` (padding included)."""
        logits, deltas = self.head(maps)
        anchors = self.anchor_generator(maps, image_size)
        return RPNOutput(
            objectness=ops.concat_anchors(logits, 1),
            deltas=ops.concat_anchors(deltas, 4),
            anchors=ops.concat(anchors),
            level_sizes=[a.shape[0] for a in anchors],
        )

    def propose(self, output: RPNOutput, sizes: Sequence[tuple[int, int]], *, training: bool) -> list[Tensor]:
        """Return each image's proposals, best first: (n, 4) in pixels, clipped to its ``sizes`` entry.

        Proposals are constants: no gradient flows through their coordinates.
        """
        s = self.settings
        before = s.pre_nms_top_n_train if training else s.pre_nms_top_n
        after = s.post_nms_top_n_train if training else s.post_nms_top_n
        proposals = []
        with ops.no_grad():
            for image, size in enumerate(sizes):
                logits = ops.take(output.objectness, image).reshape(-1)
                rows, levels = ops.top_k_per_level(logits, output.level_sizes, before)
                deltas = ops.take(ops.take(output.deltas, image), rows)
                boxes = ops.decode_boxes(deltas, ops.take(output.anchors, rows))
                scores = ops.take(logits, rows)
                if s.finite_only:
                    sound = ops.finite_rows(boxes, scores)
                    boxes, scores, levels = (ops.take(t, sound) for t in (boxes, scores, levels))
                boxes = ops.clip_boxes(boxes, size)
                scores = scores if s.by_logits else ops.sigmoid(scores)
                large = ops.remove_small_boxes(boxes, s.min_size)
                boxes, scores, levels = (ops.take(t, large) for t in (boxes, scores, levels))
                keep = ops.batched_nms(boxes, scores, levels, s.nms_thresh)
                proposals.append(ops.take(boxes, keep[:after]))
        return proposals

    def sample(self, output: RPNOutput, targets: Sequence[Target]) -> AnchorSamples:
        """Draw the anchors for the loss, and what they should predict."""
        images, anchors, labels, positive_images, positive_anchors, deltas = [], [], [], [], [], []
        with ops.no_grad():
            for image, target in enumerate(targets):
                matches = self.matcher(target.boxes, output.anchors)
                positive, negative = self.sampler(matches)
                count, rest = positive.shape[0], negative.shape[0]
                anchors += [positive, negative]
                labels += [ops.full(count, 1, positive), ops.full(rest, 0, positive)]
                images.append(ops.full(count + rest, image, positive))
                positive_anchors.append(positive)
                positive_images.append(ops.full(count, image, positive))
                gt_boxes = ops.take(target.boxes, ops.take(matches, positive))
                deltas.append(ops.encode_boxes(gt_boxes, ops.take(output.anchors, positive)))
            return AnchorSamples(
                image=ops.concat(images),
                anchor=ops.concat(anchors),
                is_object=ops.as_tensor(ops.concat(labels).reshape(-1, 1), output.anchors, "float32"),
                positive_image=ops.concat(positive_images),
                positive_anchor=ops.concat(positive_anchors),
                deltas=ops.concat(deltas),
            )
