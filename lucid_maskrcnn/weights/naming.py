"""Names of weights in other libraries: tables of prefixes that are replaced, in both directions.

A pair is (this package's prefix, theirs), or two complete names if they do not end in a dot. ``{1}`` stands for a
number, ``{1+1}`` on the other side for that number plus one. The first pair that matches counts, so that later pairs
can have the names of older files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

__all__ = [
    "CAFFE2",
    "CAFFE2_BODY",
    "DETECTRON2",
    "DETECTRON2_BODY",
    "DETECTRON2_DEEP_RPN",
    "LUCID_BODY",
    "TORCHVISION",
    "TORCHVISION_BODY",
    "TORCHVISION_V2",
    "Naming",
]

_FIELD = re.compile(r"\{(\d)([+-]\d)?\}")


class Naming:
    """Translates between the names of this package and of another library.

    Parameters
    ----------
    pairs : sequence of (str, str)
        This package's prefixes and theirs.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.pairs = list(pairs)

    def theirs(self, ours: str) -> str:
        """Return the other library's name for an entry of this package's ``state_dict``; unknown names stay."""
        return _rename(self._rules_to_theirs, ours)

    def ours(self, theirs: str) -> str:
        """Return this package's name for the other library's; unknown names stay."""
        return _rename(self._rules_to_ours, theirs)

    @cached_property
    def _rules_to_theirs(self) -> list[_Rule]:
        return [_Rule(ours, theirs) for ours, theirs in self.pairs]

    @cached_property
    def _rules_to_ours(self) -> list[_Rule]:
        return [_Rule(theirs, ours) for ours, theirs in self.pairs]


class _Rule:
    """Replaces one prefix by another."""

    def __init__(self, before: str, after: str) -> None:
        self.offsets = {number: int(offset or 0) for number, offset in _FIELD.findall(before)}
        literals = _FIELD.split(before)[::3]  # the text between the fields
        groups = [f"(?P<n{number}>[0-9]{{1,4}})" for number, _ in _FIELD.findall(before)]
        pattern = "".join(re.escape(text) + group for text, group in zip(literals, [*groups, ""], strict=True))
        self.pattern = re.compile(pattern if before.endswith(".") else pattern + "$")
        self.after = after

    def __call__(self, name: str) -> str | None:
        match = self.pattern.match(name)
        if match is None:
            return None

        def number(field: re.Match[str]) -> str:
            return str(int(match[f"n{field[1]}"]) - self.offsets[field[1]] + int(field[2] or 0))

        return _FIELD.sub(number, self.after) + name[match.end() :]


def _rename(rules: list[_Rule], name: str) -> str:
    return next((renamed for rule in rules if (renamed := rule(name)) is not None), name)


# ------------------------------------------------------------------ torchvision

TORCHVISION = Naming(
    [
        ("backbone.body.", "backbone.body."),
        ("backbone.fpn.inner_blocks.{1}.", "backbone.fpn.inner_blocks.{1}.0."),
        ("backbone.fpn.inner_norms.{1}.", "backbone.fpn.inner_blocks.{1}.1."),
        ("backbone.fpn.layer_blocks.{1}.", "backbone.fpn.layer_blocks.{1}.0."),
        ("backbone.fpn.layer_norms.{1}.", "backbone.fpn.layer_blocks.{1}.1."),
        ("rpn.head.conv.", "rpn.head.conv.0.0."),
        ("rpn.head.conv{1}.", "rpn.head.conv.{1-1}.0."),
        ("fc1.", "roi_heads.box_head.fc6."),
        ("fc2.", "roi_heads.box_head.fc7."),
        ("cls_score.", "roi_heads.box_predictor.cls_score."),
        ("bbox_pred.", "roi_heads.box_predictor.bbox_pred."),
        ("mask_head.conv{1}.", "roi_heads.mask_head.{1-1}.0."),
        ("mask_head.bn{1}.", "roi_heads.mask_head.{1-1}.1."),
        ("mask_head.deconv.", "roi_heads.mask_predictor.conv5_mask."),
        ("mask_head.mask_predictor.", "roi_heads.mask_predictor.mask_fcn_logits."),
        # The box head of maskrcnn_resnet50_fpn_v2, whose linear layer has another name: see TORCHVISION_V2.
        ("box_convs.conv{1}.", "roi_heads.box_head.{1-1}.0."),
        ("box_convs.bn{1}.", "roi_heads.box_head.{1-1}.1."),
        ("fc1.", "roi_heads.box_head.5."),
        # Names in files of 2019, such as the published maskrcnn_resnet50_fpn_coco.
        ("mask_head.conv{1}.", "roi_heads.mask_head.mask_fcn{1}."),
    ]
)
TORCHVISION_V2 = Naming([("fc1.", "roi_heads.box_head.5."), *TORCHVISION.pairs])

# ------------------------------------------------------------------ detectron2

_DETECTRON2_BODY = [
    ("bn1.", "stem.conv1.norm."),
    ("conv1.", "stem.conv1."),
    ("layer{1}.{2}.bn{3}.", "res{1+1}.{2}.conv{3}.norm."),
    ("layer{1}.{2}.conv{3}.", "res{1+1}.{2}.conv{3}."),
    ("layer{1}.{2}.downsample.1.", "res{1+1}.{2}.shortcut.norm."),
    ("layer{1}.{2}.downsample.0.", "res{1+1}.{2}.shortcut."),
]
DETECTRON2 = Naming(
    [
        *((f"backbone.body.{ours}", f"backbone.bottom_up.{theirs}") for ours, theirs in _DETECTRON2_BODY),
        ("backbone.fpn.inner_norms.{1}.", "backbone.fpn_lateral{1+2}.norm."),
        ("backbone.fpn.inner_blocks.{1}.", "backbone.fpn_lateral{1+2}."),
        ("backbone.fpn.layer_norms.{1}.", "backbone.fpn_output{1+2}.norm."),
        ("backbone.fpn.layer_blocks.{1}.", "backbone.fpn_output{1+2}."),
        ("rpn.head.conv.", "proposal_generator.rpn_head.conv."),
        ("rpn.head.cls_logits.", "proposal_generator.rpn_head.objectness_logits."),
        ("rpn.head.bbox_pred.", "proposal_generator.rpn_head.anchor_deltas."),
        ("box_convs.bn{1}.", "roi_heads.box_head.conv{1}.norm."),
        ("box_convs.conv{1}.", "roi_heads.box_head.conv{1}."),
        ("fc{1}.", "roi_heads.box_head.fc{1}."),
        ("cls_score.", "roi_heads.box_predictor.cls_score."),
        ("bbox_pred.", "roi_heads.box_predictor.bbox_pred."),
        ("mask_head.bn{1}.", "roi_heads.mask_head.mask_fcn{1}.norm."),
        ("mask_head.conv{1}.", "roi_heads.mask_head.mask_fcn{1}."),
        ("mask_head.deconv.", "roi_heads.mask_head.deconv."),
        ("mask_head.mask_predictor.", "roi_heads.mask_head.predictor."),
    ]
)
# With several convolutions in the head of the region proposal network.
DETECTRON2_DEEP_RPN = Naming(
    [
        ("rpn.head.conv.", "proposal_generator.rpn_head.conv.conv0."),
        ("rpn.head.conv{1}.", "proposal_generator.rpn_head.conv.conv{1-1}."),
        *DETECTRON2.pairs,
    ]
)

# ------------------------------------------------------------------ Caffe2: Detectron, and its ImageNet backbones

type _Suffixes = dict[str, tuple[str, ...]]  # of each parameter, the possible endings of its blob's name

_CAFFE2_NORM: _Suffixes = {
    "weight": ("gamma", "s"),
    "bias": ("beta", "b"),
    "running_mean": ("running_mean", "rm"),
    "running_var": ("running_var", "riv"),
}
_CAFFE2_BLOBS: _Suffixes = {"weight": ("w",), "bias": ("b",)}
_CAFFE2_LAYERS = [
    ("conv1", "conv1", _CAFFE2_BLOBS),
    ("bn1", "res_conv1_bn", _CAFFE2_NORM),
    ("layer{1}.{2}.downsample.0", "res{1+1}_{2}_branch1", _CAFFE2_BLOBS),
    ("layer{1}.{2}.downsample.1", "res{1+1}_{2}_branch1_bn", _CAFFE2_NORM),
    *((f"layer{{1}}.{{2}}.conv{i}", f"res{{1+1}}_{{2}}_branch2{a}", _CAFFE2_BLOBS) for i, a in enumerate("abc", 1)),
    *((f"layer{{1}}.{{2}}.bn{i}", f"res{{1+1}}_{{2}}_branch2{a}_bn", _CAFFE2_NORM) for i, a in enumerate("abc", 1)),
]


def _blob_pairs(layers: Iterable[tuple[str, str, _Suffixes]]) -> list[tuple[str, str]]:
    return [
        (f"{ours}.{parameter}", f"{theirs}_{ending}")
        for ours, theirs, suffixes in layers
        for parameter, endings in suffixes.items()
        for ending in endings
    ]


_CAFFE2_BODY = _blob_pairs(_CAFFE2_LAYERS)
_LAST_BLOCKS = [(0, 2), (1, 3), (2, 5), (2, 22), (3, 2)]  # of ResNet-50 and -101
CAFFE2 = Naming(
    [
        *((f"backbone.body.{ours}", theirs) for ours, theirs in _CAFFE2_BODY),
        *_blob_pairs(
            [
                *(
                    (f"backbone.fpn.inner_blocks.{i}", f"fpn_inner_res{i + 2}_{n}_sum{end}", _CAFFE2_BLOBS)
                    for i, n in _LAST_BLOCKS
                    for end in ("_lateral", "")
                ),
                *(
                    (f"backbone.fpn.layer_blocks.{i}", f"fpn_res{i + 2}_{n}_sum", _CAFFE2_BLOBS)
                    for i, n in _LAST_BLOCKS
                ),
                ("rpn.head.conv", "conv_rpn_fpn2", _CAFFE2_BLOBS),
                ("rpn.head.cls_logits", "rpn_cls_logits_fpn2", _CAFFE2_BLOBS),
                ("rpn.head.bbox_pred", "rpn_bbox_pred_fpn2", _CAFFE2_BLOBS),
                ("fc1", "fc6", _CAFFE2_BLOBS),
                ("fc2", "fc7", _CAFFE2_BLOBS),
                ("cls_score", "cls_score", _CAFFE2_BLOBS),
                ("bbox_pred", "bbox_pred", _CAFFE2_BLOBS),
                ("mask_head.conv{1}", "_[mask]_fcn{1}", _CAFFE2_BLOBS),
                ("mask_head.deconv", "conv5_mask", _CAFFE2_BLOBS),
                ("mask_head.mask_predictor", "mask_fcn_logits", _CAFFE2_BLOBS),
            ]
        ),
    ]
)

# ------------------------------------------------------------------ ResNet bodies alone: ImageNet classifiers

TORCHVISION_BODY = Naming([])  # this package's body has torchvision's names
DETECTRON2_BODY = Naming(_DETECTRON2_BODY)
CAFFE2_BODY = Naming(_CAFFE2_BODY)
LUCID_BODY = Naming(
    [
        ("conv1.", "stem.0."),
        ("bn1.", "stem.1."),
        # Bottleneck blocks; basic blocks have this package's names.
        ("layer{1}.{2}.conv3.", "layer{1}.{2}.conv3.0."),
        ("layer{1}.{2}.bn3.", "layer{1}.{2}.conv3.1."),
        ("layer{1}.{2}.conv{3}.", "layer{1}.{2}.conv{3}.conv."),
        ("layer{1}.{2}.bn{3}.", "layer{1}.{2}.conv{3}.bn."),
    ]
)
