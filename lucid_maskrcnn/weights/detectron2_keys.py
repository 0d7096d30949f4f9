"""The keys of detectron2's configuration, and what each is here: the table that reading and writing one share.

A key is in one of four groups: it has the value of a field of :class:`~lucid_maskrcnn.config.ModelConfig`
(:data:`TAKEN`); its value follows from such fields by arithmetic or together with other keys (:data:`DERIVED`);
only one value of it can be built here (:data:`FIXED`); or no detection depends on it (:data:`IGNORED`,
:data:`IGNORED_SECTIONS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = [
    "DEFAULTS",
    "DERIVED",
    "FIXED",
    "IGNORED",
    "IGNORED_SECTIONS",
    "TAKEN",
    "ZOO",
    "Fixed",
    "is_ignored",
    "listed",
]


class Fixed(NamedTuple):
    """The one value of a key that can be built, and a clause that says so."""

    value: Any
    reason: str


#: Key -> the field of ``ModelConfig`` that has the same value; those of its parts with a dot.
TAKEN: Mapping[str, str] = MappingProxyType(
    {
        "MODEL.RESNETS.DEPTH": "backbone.depth",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": "backbone.width",
        "MODEL.RESNETS.STRIDE_IN_1X1": "backbone.stride_in_1x1",
        "MODEL.FPN.OUT_CHANNELS": "backbone.out_channels",
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": "rpn.batch_size",
        "MODEL.RPN.POSITIVE_FRACTION": "rpn.positive_fraction",
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": "rpn.pre_nms_top_n_train",
        "MODEL.RPN.PRE_NMS_TOPK_TEST": "rpn.pre_nms_top_n",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": "rpn.post_nms_top_n_train",
        "MODEL.RPN.POST_NMS_TOPK_TEST": "rpn.post_nms_top_n",
        "MODEL.RPN.NMS_THRESH": "rpn.nms_thresh",
        "MODEL.ROI_HEADS.NUM_CLASSES": "num_classes",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "heads.batch_size",
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": "heads.positive_fraction",
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": "heads.nms_thresh",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": "heads.box_weights",
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": "heads.sampling_ratio",
        "MODEL.ROI_BOX_HEAD.FC_DIM": "hidden_dim",
        "MODEL.ROI_MASK_HEAD.CONV_DIM": "mask_hidden_channels",
        "TEST.DETECTIONS_PER_IMAGE": "heads.top_k",
    }
)

#: Key -> the field or fields of ``ModelConfig`` that decide it; :mod:`.detectron2_settings` says how.
DERIVED: Mapping[str, str] = MappingProxyType(
    {
        "MODEL.PIXEL_MEAN": "image.pixel_mean, in the order of INPUT.FORMAT, times 255",
        "MODEL.PIXEL_STD": "image.pixel_std, in the order of INPUT.FORMAT, times 255",
        "INPUT.FORMAT": "image.bgr",
        "INPUT.MIN_SIZE_TEST": "image.min_size; 0 is image.scale=1",
        "INPUT.MAX_SIZE_TEST": "image.max_size",
        "MODEL.RESNETS.NORM": "backbone.norm",
        "MODEL.RESNETS.WIDTH_PER_GROUP": "backbone.width",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": "backbone.width, times 4 in bottlenecks",
        "MODEL.FPN.NORM": "backbone.fpn_norm",
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": "rpn.min_size, which is the least allowed side",
        "MODEL.ANCHOR_GENERATOR.SIZES": "anchor_sizes",
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": "aspect_ratios",
        "MODEL.RPN.IOU_THRESHOLDS": "rpn.background_iou, rpn.foreground_iou",
        "MODEL.RPN.IOU_LABELS": "rpn.background_iou, rpn.foreground_iou",
        "MODEL.RPN.CONV_DIMS": "rpn_convs",
        "MODEL.ROI_HEADS.IN_FEATURES": "pooled_levels",
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": "heads.foreground_iou",
        "MODEL.ROI_HEADS.IOU_LABELS": "heads.foreground_iou",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "predict(score_thresh=…)",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "heads.aligned",
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": "pool_size",
        "MODEL.ROI_BOX_HEAD.NUM_FC": "box_convs",
        "MODEL.ROI_BOX_HEAD.NUM_CONV": "box_convs",
        "MODEL.ROI_BOX_HEAD.CONV_DIM": "feat_channels",
        "MODEL.ROI_BOX_HEAD.NORM": "head_norm",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": "the rows of bbox_pred, repeated for each class",
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "heads.aligned",
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": "mask_pool_size, mask_out_size",
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": "heads.sampling_ratio",
        "MODEL.ROI_MASK_HEAD.NORM": "head_norm",
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": "the rows of mask_predictor, repeated for each class",
    }
)

_STAGES = ["res2", "res3", "res4", "res5"]
_LEVELS = ["p2", "p3", "p4", "p5", "p6"]

#: Key -> the value that it must have.
FIXED: Mapping[str, Fixed] = MappingProxyType(
    {
        "VERSION": Fixed(2, "only version 2 of detectron2's keys is known"),
        "MODEL.META_ARCHITECTURE": Fixed("GeneralizedRCNN", "only Mask R-CNN, 'GeneralizedRCNN', can be built"),
        "MODEL.MASK_ON": Fixed(True, "a model without masks cannot be built"),
        "MODEL.KEYPOINT_ON": Fixed(False, "keypoint heads cannot be built"),
        "MODEL.LOAD_PROPOSALS": Fixed(False, "proposals are not read from files"),
        "MODEL.BACKBONE.NAME": Fixed(
            "build_resnet_fpn_backbone",
            "only a ResNet with a feature pyramid, 'build_resnet_fpn_backbone', can be built",
        ),
        "MODEL.RESNETS.OUT_FEATURES": Fixed(_STAGES, "the feature pyramid is built on res2 to res5"),
        "MODEL.RESNETS.NUM_GROUPS": Fixed(1, "grouped convolutions, as in ResNeXt, cannot be built"),
        "MODEL.RESNETS.RES5_DILATION": Fixed(1, "dilated convolutions cannot be built"),
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": Fixed([False] * 4, "deformable convolutions cannot be built"),
        "MODEL.FPN.IN_FEATURES": Fixed(_STAGES, "the feature pyramid is built on res2 to res5"),
        "MODEL.FPN.FUSE_TYPE": Fixed("sum", "the feature pyramid adds its maps, 'sum'"),
        "MODEL.PROPOSAL_GENERATOR.NAME": Fixed("RPN", "only a region proposal network, 'RPN', can be built"),
        "MODEL.ANCHOR_GENERATOR.NAME": Fixed("DefaultAnchorGenerator", "anchors are upright boxes on a grid"),
        "MODEL.ANCHOR_GENERATOR.OFFSET": Fixed(0.0, "anchors begin at the corner of the image, offset 0"),
        "MODEL.RPN.HEAD_NAME": Fixed("StandardRPNHead", "only 'StandardRPNHead' can be built"),
        "MODEL.RPN.IN_FEATURES": Fixed(_LEVELS, "proposals are made on all levels, p2 to p6"),
        "MODEL.RPN.BBOX_REG_WEIGHTS": Fixed((1.0, 1.0, 1.0, 1.0), "proposals have the weights (1, 1, 1, 1)"),
        "MODEL.ROI_HEADS.NAME": Fixed(
            "StandardROIHeads", "only 'StandardROIHeads' can be built: no cascade, no C4, no PointRend"
        ),
        "MODEL.ROI_BOX_HEAD.NAME": Fixed("FastRCNNConvFCHead", "only 'FastRCNNConvFCHead' can be built"),
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": Fixed(False, "scores are the softmax over all classes"),
        "MODEL.ROI_MASK_HEAD.NAME": Fixed("MaskRCNNConvUpsampleHead", "only 'MaskRCNNConvUpsampleHead' can be built"),
        "MODEL.ROI_MASK_HEAD.NUM_CONV": Fixed(4, "the mask head has four convolutions"),
    }
)

#: Keys of training, of logging and of parts that a Mask R-CNN does not have.
IGNORED: frozenset[str] = frozenset(
    {
        "CUDNN_BENCHMARK",
        "FLOAT32_PRECISION",
        "OUTPUT_DIR",
        "SEED",
        "VIS_PERIOD",
        "INPUT.MASK_FORMAT",
        "INPUT.MAX_SIZE_TRAIN",
        "INPUT.MIN_SIZE_TRAIN",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING",
        "INPUT.RANDOM_FLIP",
        "MODEL.ANCHOR_GENERATOR.ANGLES",
        "MODEL.BACKBONE.FREEZE_AT",
        "MODEL.DEVICE",
        "MODEL.RESNETS.DEFORM_MODULATED",
        "MODEL.RESNETS.DEFORM_NUM_GROUPS",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT",
        "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER",
        "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES",
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES",
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT",
        "MODEL.RPN.BBOX_REG_LOSS_TYPE",
        "MODEL.RPN.BBOX_REG_LOSS_WEIGHT",
        "MODEL.RPN.BOUNDARY_THRESH",
        "MODEL.RPN.LOSS_WEIGHT",
        "MODEL.RPN.SMOOTH_L1_BETA",
        "MODEL.WEIGHTS",
        "TEST.EVAL_PERIOD",
        "TEST.EXPECTED_RESULTS",
        "TEST.KEYPOINT_OKS_SIGMAS",
    }
)

#: Sections of the same kind, with all that is in them. ``TEST.AUG`` is of evaluation with several sizes alone.
IGNORED_SECTIONS: frozenset[str] = frozenset(
    {
        "DATALOADER",
        "DATASETS",
        "GLOBAL",
        "INPUT.CROP",
        "MODEL.PANOPTIC_FPN",
        "MODEL.RETINANET",
        "MODEL.ROI_BOX_CASCADE_HEAD",
        "MODEL.ROI_KEYPOINT_HEAD",
        "MODEL.SEM_SEG_HEAD",
        "SOLVER",
        "TEST.AUG",
        "TEST.PRECISE_BN",
    }
)

#: Every key that is not ignored, with its value in detectron2's ``get_cfg()``: what a file leaves out has this value.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "VERSION": 2,
        "INPUT.FORMAT": "BGR",
        "INPUT.MIN_SIZE_TEST": 800,
        "INPUT.MAX_SIZE_TEST": 1333,
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.MASK_ON": False,
        "MODEL.KEYPOINT_ON": False,
        "MODEL.LOAD_PROPOSALS": False,
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.RESNETS.NUM_GROUPS": 1,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.RESNETS.RES5_DILATION": 1,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, False],
        "MODEL.FPN.IN_FEATURES": [],
        "MODEL.FPN.OUT_CHANNELS": 256,
        "MODEL.FPN.NORM": "",
        "MODEL.FPN.FUSE_TYPE": "sum",
        "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 0,
        "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
        "MODEL.RPN.HEAD_NAME": "StandardRPNHead",
        "MODEL.RPN.IN_FEATURES": ["res4"],
        "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
        "MODEL.RPN.IOU_LABELS": [0, -1, 1],
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
        "MODEL.RPN.POSITIVE_FRACTION": 0.5,
        "MODEL.RPN.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
        "MODEL.RPN.NMS_THRESH": 0.7,
        "MODEL.RPN.CONV_DIMS": [-1],
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
        "MODEL.ROI_HEADS.NUM_CLASSES": 80,
        "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
        "MODEL.ROI_HEADS.IOU_LABELS": [0, 1],
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
        "MODEL.ROI_BOX_HEAD.NAME": "",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 0,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
        "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": 256,
        "MODEL.ROI_BOX_HEAD.NORM": "",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False,
        "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 0,
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignV2",
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,
        "MODEL.ROI_MASK_HEAD.NORM": "",
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,
        "TEST.DETECTIONS_PER_IMAGE": 100,
    }
)

#: The same of the model zoo's ``mask_rcnn_R_50_FPN_3x``: what its files change, and :data:`DEFAULTS` for the rest.
ZOO: Mapping[str, Any] = MappingProxyType(
    {
        **DEFAULTS,
        "MODEL.MASK_ON": True,
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": _STAGES,
        "MODEL.FPN.IN_FEATURES": _STAGES,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "MODEL.RPN.IN_FEATURES": _LEVELS,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": _LEVELS[:4],
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    }
)


def is_ignored(key: str) -> bool:
    """Whether no detection depends on a key."""
    return key in IGNORED or any(key == s or key.startswith(f"{s}.") for s in IGNORED_SECTIONS)


def listed(value: Any) -> Any:
    """Return a value with its tuples, at any depth, as lists: YAML has no others."""
    return [listed(v) for v in value] if isinstance(value, (list, tuple)) else value
