"""A small valid call of every public name, from which tests/test_wrong_calls.py makes wrong ones.

``CALLS`` maps a name, such as ``"data.Loader.batch"``, to a function without arguments that returns what to call and
its arguments by name; a key with a star holds those that have no names. The files that they name are written to the
current folder by :func:`write_files`.
"""

from __future__ import annotations

import atexit
import functools
import io
import itertools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_sets
import numpy as np
import three_boxes
import tiny_runs
from gradients import tensor
from lucid import Tensor
from PIL import Image
from small_jobs import TwoBoxes
from tiny_runs import Squares, Toy, parameter, toy_settings

import lucid_maskrcnn as root
from lucid_maskrcnn import (
    config,
    data,
    evaluation,
    export,
    images,
    inference,
    masks,
    measure,
    models,
    ops,
    training,
    transforms,
    visualization,
    weights,
)
from lucid_maskrcnn.annotation_formats import coco, label_images
from lucid_maskrcnn.app import AppOptions, serve_app
from lucid_maskrcnn.config import ImageConfig, RPNConfig
from lucid_maskrcnn.targets import Target

type Valid = tuple[Callable[..., Any], dict[str, Any]]

BOXES = np.float32([[0, 0, 8, 8], [1, 1, 5, 6], [2, 0, 9, 9]])
SIZE = (20, 24)
PIXELS = np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)


def of(*shape: int) -> Tensor:
    return tensor(np.ones(shape, np.float32))


def ints(*numbers: int) -> Tensor:
    return tensor(np.array(numbers, np.int32))


def boxes() -> Tensor:
    return tensor(BOXES)


# ------------------------------------------------------------------ objects that calls need


def with_gradient() -> Tensor:
    made = parameter([1.0])
    tiny_runs.set_grad(made, [1.0])
    return made


def new_model(**more: Any) -> root.MaskRCNN:
    return root.mask_rcnn_resnet_18_fpn(
        **{
            "num_classes": 2,
            "width": 4,
            "fpn_channels": 4,
            "hidden_dim": 4,
            "mask_hidden_channels": 4,
            "min_size": 32,
            "max_size": 64,
            "rpn": RPNConfig(pre_nms_top_n=9, post_nms_top_n=9, pre_nms_top_n_train=9, post_nms_top_n_train=9),
            **more,
        }
    )


@functools.cache
def model() -> root.MaskRCNN:
    """A model that no call changes."""
    return new_model(norm="frozen")


@functools.cache
def toy() -> Toy:
    return Toy()


def dense_masks() -> np.ndarray:
    dense = np.zeros((3, *SIZE), bool)
    for mask, (x1, y1, x2, y2) in zip(dense, BOXES.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return dense


def compressed() -> root.CompressedMasks:
    return root.CompressedMasks.from_dense(dense_masks())


def detections(**more: Any) -> root.Detections:
    return root.Detections(
        BOXES, [0.9, 0.8, 0.7], [1, 2, 1], np.ones((3, 28, 28), np.float32), SIZE, image=PIXELS, **more
    )


def target(size: tuple[int, int] = SIZE) -> dict[str, Any]:
    dense = np.zeros((3, *size), bool)
    dense[:, : SIZE[0], : SIZE[1]] = dense_masks()
    return {"boxes": BOXES, "labels": np.int32([1, 2, 1]), "masks": dense}


def as_target() -> Target:
    return Target(boxes(), ints(1, 2, 1), tensor(dense_masks()))


def new_images() -> data.CocoInstances:
    return data.CocoInstances("images", "instances.json", progress=False)


@functools.cache
def dataset() -> data.CocoInstances:
    return new_images()


def label_set() -> data.LabelImages:
    return data.LabelImages("label_pixels", "labels", progress=False)


def loader(**more: Any) -> data.Loader:
    return data.Loader(dataset(), 2, **more)


@functools.cache
def evaluated() -> evaluation.Evaluation:
    results = coco.make_results(
        image_id=8,
        category_ids=[17],
        boxes=np.float32([three_boxes.BOXES[0]]),
        scores=[0.5],
        segmentations=[masks.encode_rle(data_sets.box_mask(three_boxes.SIZE, 2, 3, 10, 10))],
    )
    return evaluation.evaluate_results("three/truth.json", results)


def sgd() -> training.SGD:
    return training.SGD([parameter([1.0, 2.0])], 0.1)


def feature_maps(levels: int = 1) -> models.FeatureMaps:
    return models.FeatureMaps([of(2, 3, 8 >> k, 8 >> k) for k in range(levels)], (64, 64))


_numbers = itertools.count()


def fresh(name: str) -> str:
    """Return a file name that is not taken."""
    return f"{next(_numbers)}-{name}"


def write_files() -> None:
    """Write what the calls read."""
    here = Path()
    data_sets.write(here)
    (here / "three").mkdir()
    three_boxes.write(here / "three")
    (here / "results.json").write_text("[]")
    (here / "label_pixels").mkdir()
    (here / "labels").mkdir()
    Image.fromarray(PIXELS).save("label_pixels/a.png")
    Image.fromarray(np.uint8(dense_masks()[0])).save("labels/a.png")
    Image.fromarray(PIXELS).save("picture.png")
    root.save_weights(model(), "weights.safetensors")
    (here / "log.jsonl").write_text(
        '{"step": 1, "total_loss": 1.0, "lr": 0.1}\n{"step": 2, "total_loss": 0.5, "lr": 0.1}\n'
    )


# ------------------------------------------------------------------ the calls

CALLS: dict[str, Callable[[], Valid]] = {}


def valid(name: str) -> Callable[[Callable[[], Valid]], None]:
    def add(call: Callable[[], Valid]) -> None:
        assert name not in CALLS, name
        CALLS[name] = call

    return add


def _add(name: str, function: Callable[..., Any], /, **arguments: Any) -> None:
    """Add a call whose arguments no call changes."""
    CALLS[name] = lambda: (function, dict(arguments))


def _operators() -> None:
    """The same small tensors for all of them."""
    statistics = dict.fromkeys(["weight", "bias", "running_mean", "running_var"], of(3))
    pyramid = [of(2, 3, 8, 8), of(2, 3, 4, 4)]
    proposals = ops.Proposals.of([boxes()])
    calls: dict[str, dict[str, Any]] = {
        "add_scalars": {"*terms": (of(), of())},
        "arange": {"count": 3, "like": of(1)},
        "array_module": {"array": BOXES},
        "as_tensor": {"values": [1.0, 2.0], "like": "cpu", "dtype": "float32"},
        "batch_norm": {
            "x": of(2, 3, 4, 4),
            **statistics,
            "training": False,
            "momentum": 0.1,
            "eps": 1e-5,
            "residual": of(2, 3, 4, 4),
            "relu": True,
        },
        "batched_nms": {"boxes": boxes(), "scores": of(3), "idxs": ints(0, 0, 1), "iou_thresh": 0.5},
        "begin": {"arrays": [BOXES]},
        "binary_cross_entropy": {"x": of(4, 2), "i": ints(0, 3), "j": ints(1, 1), "targets": of(2)},
        "box_area": {"boxes": boxes()},
        "box_iou": {"a": boxes(), "b": boxes()},
        "bucket_size": {"count": 5},
        "cast": {"x": of(2), "dtype": "float32"},
        "cast_like": {"x": of(2), "like": of(1)},
        "cell_anchors": {"sizes": (8,), "aspect_ratios": (1,), "whole_pixels": True, "sizes_first": False},
        "chunks": {"count": 5, "size": 2},
        "clip_boxes": {"boxes": boxes(), "size": (8, 9)},
        "compiled": {"module": models.layers.Linear(3, 2), "inputs": of(2, 3)},
        "concat": {"parts": [of(2, 3), of(1, 3)]},
        "concat_anchors": {"maps": [of(1, 8, 2, 2), of(1, 8, 1, 1)], "values": 4},
        "conv2d": {
            "x": of(1, 3, 8, 8),
            "weight": of(4, 3, 3, 3),
            "bias": of(4),
            "stride": 1,
            "padding": 1,
            "scale": of(4),
            "residual": of(1, 4, 8, 8),
            "relu": True,
        },
        "conv_transpose2d": {"x": of(1, 3, 8, 8), "weight": of(3, 4, 2, 2), "bias": of(4), "stride": 2, "relu": False},
        "convert": {"variable": parameter([1.0]), "dtype": "float32"},
        "adamw_update": {
            "params": [with_gradient()],
            "moments": [None],
            "steps": [1],
            "lr": 0.1,
            "betas": (0.9, 0.99),
            "eps": 1e-8,
            "weight_decay": 0.1,
        },
        "scale_scalar": {"x": of(), "factor": 2.0},
        "cross_entropy": {"logits": of(3, 5), "labels": ints(0, 4, 2), "weights": of(5)},
        "decode_boxes": {"deltas": of(3, 2, 4), "boxes": boxes(), "weights": (10, 10, 5, 5)},
        "detect_boxes": {
            "cls_logits": of(3, 3),
            "bbox_deltas": of(3, 8),
            "proposals": proposals,
            "sizes": [(9, 9)],
            "rules": ops.DetectionRules(0.05, 0.5, 9, (10, 10, 5, 5), 1),
        },
        "device_array": {"array": BOXES, "device": "cpu"},
        "device_name": {"name": "device", "value": "cpu"},
        "dropout": {"x": of(3, 2), "p": 0.5},
        "dtype_name": {"tensor": of(2)},
        "encode_boxes": {"reference": boxes(), "boxes": boxes(), "weights": (1, 1, 1, 1)},
        "engine_is_sound": {},
        "evaluate": {"arrays": [BOXES]},
        "filter_proposals": {
            "objectness": of(1, 3, 1),
            "deltas": of(1, 3, 4),
            "anchors": boxes(),
            "level_sizes": [3],
            "sizes": [(9, 9)],
            "rules": ops.ProposalRules(9, 9, 0.7, 1),
        },
        "finite_rows": {"boxes": boxes(), "scores": of(3)},
        "first_rows": {"x": of(4, 2), "count": 3},
        "fits_float16": {"values": BOXES},
        "flatten": {"x": of(2, 3, 4, 4)},
        "fold_batch_norm": {**statistics, "eps": 1e-5},
        "full": {"count": 2, "value": 7, "like": of(1)},
        "gpu_backend": {},
        "grid_anchors": {"cells": [(-1, -1, 1, 1)], "grid": (2, 3), "stride": (4, 4), "like": of(1)},
        "host": {"tensor": of(2)},
        "host_zeros": {"shape": (2, 3), "dtype": "float32"},
        "is_device_array": {"array": BOXES},
        "joined_anchors": {"levels": [(((-1, -1, 1, 1),), (2, 3), (4, 4))], "like": of(1)},
        "linear": {"x": of(2, 3), "weight": of(4, 3), "bias": of(4), "relu": True},
        "mask_targets": {
            "gt_masks": of(2, 9, 9),
            "rois": boxes(),
            "gt_idx": ints(0, 1, 1),
            "size": 4,
            "aligned": False,
        },
        "match": {"iou": of(2, 3), "foreground": 0.7, "background": 0.3, "allow_low_quality_matches": True},
        "match_boxes": {
            "gt_boxes": boxes(),
            "boxes": boxes(),
            "foreground": 0.7,
            "background": 0.3,
            "allow_low_quality_matches": True,
        },
        "max_pool2d": {"x": of(1, 2, 6, 6), "kernel_size": 3, "stride": 2, "padding": 1},
        "move_module": {"module": models.layers.Linear(3, 2), "device": "cpu"},
        "moved_averages": {"averages": [np.ones(2, np.float32)], "values": [np.ones(2, np.float32)], "share": 0.5},
        "multiscale_roi_align": {
            "features": pyramid,
            "rois": boxes(),
            "roi_idx": ints(0, 1, 1),
            "levels": ints(1, 0, 1),
            "output_size": (2, 2),
            "spatial_scales": [1, 0.5],
            "sampling_ratio": 2,
            "aligned": False,
        },
        "nearest_cells": {"n_in": 4, "n_out": 6},
        "nms": {"boxes": boxes(), "scores": of(3), "iou_thresh": 0.5},
        "no_grad": {},
        "nonzero_above": {"scores": of(2, 3), "threshold": 0.05},
        "num_threads": {},
        "numbers": {"tensors": [of(1), of()]},
        "one_channel": {"x": of(2, 3, 4, 4), "weight": of(5, 3, 1, 1), "bias": of(5), "channels": ints(0, 4)},
        "padded_rows": {"*arrays": (of(3, 2),), "rows": 4},
        "parallel_for": {"tasks": [1, 2], "run": abs},
        "mask_patches": {
            "mask_probs": of(3, 4, 4),
            "boxes": boxes(),
            "image_size": (9, 9),
            "threshold": 0.5,
            "snap": True,
        },
        "paste_masks": {
            "mask_probs": of(3, 4, 4),
            "boxes": boxes(),
            "image_size": (9, 9),
            "threshold": 0.5,
            "snap": True,
        },
        "permutation": {"count": 4},
        "pick": {"x": of(3, 2), "i": ints(0, 2), "j": ints(1, 1)},
        "recording": {},
        "release_memory": {},
        "remove_small_boxes": {"boxes": boxes(), "min_size": 1},
        "repair_engine": {"enable": True},
        "roi_align": {
            "features": pyramid[0],
            "rois": boxes(),
            "roi_idx": ints(0, 1, 1),
            "output_size": 2,
            "spatial_scale": 1,
            "sampling_ratio": 2,
            "aligned": False,
        },
        "roi_levels": {
            "rois": boxes(),
            "num_levels": 4,
            "canonical_size": 224,
            "canonical_level": 4,
            "finest_level": 2,
            "margin": (0, 1e-6),
        },
        "sample_balanced": {
            "matches": ints(0, -1, -2),
            "batch_size": 2,
            "positive_fraction": 0.5,
            "order": ops.permutation,
        },
        "set_values": {"variable": parameter([1.0, 2.0]), "values": np.float32([3, 4])},
        "sgd_update": {
            "params": [with_gradient()],
            "velocities": [None],
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 0.1,
            "nesterov": False,
        },
        "shape_only": {"*shape": (2, 3)},
        "sigmoid": {"x": of(3)},
        "smooth_l1": {
            "x": of(2, 3, 4),
            "i": ints(0, 1),
            "j": ints(2, 2),
            "targets": of(2, 4),
            "beta": 0.1,
            "divisor": 1,
        },
        "softmax": {"logits": of(2, 3)},
        "split_evenly": {"count": 5, "parts": 2},
        "subsample": {"x": of(1, 2, 3, 3)},
        "sum_of_squares": {"arrays": [BOXES]},
        "take": {"x": of(3, 2), "rows": ints(0, 2)},
        "top_k_per_level": {"scores": of(5), "level_sizes": [2, 3], "k": 1},
        "upsample_add": {"coarse": of(1, 2, 3, 3), "fine": of(1, 2, 5, 6), "overwrite": False},
        "zeros": {"*shape": (2, 3)},
    }
    for name, arguments in calls.items():
        _add(f"ops.{name}", getattr(ops, name), **arguments)
    _add("ops.mask_patches", lambda **k: list(ops.mask_patches(**k)), **calls["mask_patches"])
    _add("ops.Proposals.of", ops.Proposals.of, boxes=[boxes()])
    _add("ops.Proposals.per_image", proposals.per_image)
    _add("ops.Proposals.on_cpu", proposals.on_cpu)


_operators()


@valid("ops.compiling")
def _() -> Valid:
    def enter(**arguments: Any) -> None:
        with ops.compiling(**arguments):
            pass

    return enter, {"enabled": None}


def _model_parts() -> None:
    roi_arguments = {"rois": boxes(), "roi_idx": ints(0, 1, 1)}
    _add("ROIAlign", root.ROIAlign, output_size=2, sampling_ratio=2, aligned=False)
    _add("ROIAlign.forward", root.ROIAlign(2), features=feature_maps(), **roi_arguments)
    _add(
        "MultiScaleROIAlign",
        root.MultiScaleROIAlign,
        output_size=2,
        num_levels=2,
        sampling_ratio=2,
        aligned=False,
        level_margin=(0.0, 1e-6),
    )
    _add("MultiScaleROIAlign.forward", root.MultiScaleROIAlign(2), features=feature_maps(2), **roi_arguments)
    _add("models.ResNet", models.ResNet, depth=18, width=4, norm="frozen", stride_in_1x1=False)
    _add("models.ResNet.forward", models.ResNet(18, width=4), x=of(1, 3, 32, 32))
    _add("models.FeaturePyramid", models.FeaturePyramid, in_channels=(4, 8), out_channels=4, norm="frozen")
    _add("models.FeaturePyramid.forward", models.FeaturePyramid((3, 3), 4), stages=[of(1, 3, 8, 8), of(1, 3, 4, 4)])
    _add(
        "models._AnchorGenerator",
        models._AnchorGenerator,
        sizes=(8, 16),
        aspect_ratios=(1,),
        per_level=True,
        stride=8,
        whole_pixels=True,
        nominal_strides=False,
        sizes_first=False,
    )
    _add("models._MaskHead", models._MaskHead, in_channels=4, num_classes=2, hidden_channels=4, norm="batch")
    _add("models._MaskRCNNLoss", models._MaskRCNNLoss, beta=0.1)
    _add("models._RPNHead", models._RPNHead, channels=4, num_anchors=3, depth=1)
    _add(
        "models._RegionProposalNetwork",
        models._RegionProposalNetwork,
        channels=4,
        anchor_generator=models._AnchorGenerator((8,), (1,), per_level=True),
        config=RPNConfig(),
        depth=1,
    )
    _add(
        "models._ResNetFPNBackbone",
        models._ResNetFPNBackbone,
        depth=18,
        width=4,
        out_channels=4,
        norm="frozen",
        fpn_norm=None,
        stride_in_1x1=False,
        norm_eps=1e-5,
        trainable_layers=5,
    )


_model_parts()

SETTINGS: dict[str, Any] = {
    "use_fpn": True,
    "anchor_sizes": (8, 16, 32, 64, 128),
    "aspect_ratios": (0.5, 1.0, 2.0),
    "anchor_stride": 16,
    "pool_size": 7,
    "hidden_dim": 4,
    "dropout": 0.5,
    "mask_pool_size": (14, 14),
    "mask_hidden_channels": 4,
    "mask_out_size": 28,
    "pooled_levels": 4,
    "rpn_convs": 1,
    "box_convs": False,
    "head_norm": None,
    "image": {"min_size": 32},
    "rpn": {"nms_thresh": 0.7},
    "heads": {"nms_thresh": 0.5},
    "categories": {1: "cat", 2: "dog"},
}
READ: dict[str, Any] = {"page": None, "channels": None, "intensity": None}
RULES: dict[str, Any] = {
    "score_thresh": 0.05,
    "nms_thresh": 0.5,
    "top_k": 5,
    "mask_thresh": 0.5,
    "classes": None,
    "class_agnostic_nms": False,
    "mask_nms": False,
}


def _models() -> None:
    backbone = models._ResNetFPNBackbone(18, width=4, out_channels=4)
    _add("MaskRCNN", root.MaskRCNN, backbone=backbone, feat_channels=4, num_classes=2, **SETTINGS)
    _add("ModelConfig", root.ModelConfig, num_classes=2, feat_channels=4, **SETTINGS, backbone=None)
    for name in ("18_fpn", "50_fpn", "50_fpn_v2", "101_fpn"):
        factory = f"mask_rcnn_resnet_{name}"
        of_factory = {n: v for n, v in SETTINGS.items() if n not in ("use_fpn", "anchor_stride")}
        _add(
            factory,
            getattr(root, factory),
            num_classes=2,
            weights=None,
            weights_backbone=None,
            trainable_layers=3,
            min_size=32,
            max_size=64,
            top_k=5,
            conventions="torchvision",
            width=4,
            fpn_channels=4,
            norm="frozen",
            fpn_norm=None,
            norm_eps=1e-5,
            stride_in_1x1=False,
            **of_factory,
        )


_models()


@valid("MaskRCNN.from_config")
def _() -> Valid:
    return root.MaskRCNN.from_config, {
        "config": model().config,
        "backbone": models._ResNetFPNBackbone(18, width=4, out_channels=4),
        "trainable_layers": 5,
    }


_add("MaskRCNN.from_file", root.MaskRCNN.from_file, weights="weights.safetensors", config=None)


@valid("MaskRCNN.freeze_norms")
def _() -> Valid:
    return new_model().freeze_norms, {"body_only": True, "norm_eps": 1e-5}


@valid("MaskRCNN.to")
def _() -> Valid:
    return model().to, {"device": "cpu", "dtype": "float32"}


@valid("MaskRCNN.half")
def _() -> Valid:
    return new_model().to("gpu").half, {}


@valid("MaskRCNN.float")
def _() -> Valid:
    return model().float, {}


@valid("MaskRCNN.forward")
def _() -> Valid:
    return model(), {"images": of(2, 3, 32, 32), "rois": boxes(), "roi_idx": ints(0, 1, 1)}


@valid("MaskRCNN.predict")
def _() -> Valid:
    return model().predict, {"images": PIXELS, **RULES, "keep_image": True, "batch_size": 1, **READ}


@valid("MaskRCNN.get_loss")
def _() -> Valid:
    return model().get_loss, {
        "images": [PIXELS],
        "targets": [target()],
        "image_config": ImageConfig(32, 64),
        "loss_weights": {"mask_loss": 2.0},
        "class_weights": {1: 2.0},
    }


_add("config.anchor_levels", config.anchor_levels, anchor_sizes=(8, 16), per_level=True)
_add("config.architecture_of", config.architecture_of, config=model().config)
_add("config.conventions_of", config.conventions_of, config=model().config)
_add("config.config_from_version_0", config.config_from_version_0, arguments={}, categories={1: "cat"})
_add("config.make_categories", config.make_categories, categories={1: "cat"}, ids={1: 7})
_add(
    "config.Conventions",
    config.Conventions,
    name="own",
    image=ImageConfig(),
    rpn=RPNConfig(),
    heads=root.HeadConfig(),
    stride_in_1x1=False,
)
_add("ModelConfig.to_dict", model().config.to_dict)
_add("ModelConfig.from_dict", root.ModelConfig.from_dict, values={"num_classes": 2})
_add("ModelConfig.changed", model().config.changed, num_classes=2)
for _kind, _name in (
    (root.HeadConfig, "HeadConfig"),
    (root.ImageConfig, "ImageConfig"),
    (root.RPNConfig, "RPNConfig"),
    (config.BackboneConfig, "config.BackboneConfig"),
):
    _add(_name, _kind, **{f: getattr(_kind(), f) for f in _kind.__dataclass_fields__})
    _add(f"{_name}.to_dict", _kind().to_dict)
    _add(f"{_name}.from_dict", _kind.from_dict, values={})


# ------------------------------------------------------------------ detections, masks, targets


def _masks() -> None:
    runs = compressed()
    _add(
        "CompressedMasks",
        root.CompressedMasks,
        starts=runs.starts,
        stops=runs.stops,
        offsets=runs.offsets,
        image_size=SIZE,
    )
    _add("CompressedMasks.of", root.CompressedMasks.of, masks=dense_masks(), image_size=SIZE)
    _add("CompressedMasks.from_dense", root.CompressedMasks.from_dense, masks=dense_masks())
    _add("CompressedMasks.from_coco", root.CompressedMasks.from_coco, segmentations=runs.to_rle(), image_size=SIZE)
    _add("CompressedMasks.from_labels", root.CompressedMasks.from_labels, labels=np.uint8(dense_masks()[0]))
    _add("CompressedMasks.areas_within", runs.areas_within, boxes=BOXES)
    _add("CompressedMasks.decode", runs.decode, index=0)
    _add("CompressedMasks.decode_region", runs.decode_region, index=0, rows=slice(0, 5), columns=slice(0, 5))
    _add("CompressedMasks.to_dense", runs.to_dense)
    _add("CompressedMasks.to_rle", runs.to_rle)
    _add("CompressedMasks.flipped", runs.flipped, horizontal=True, vertical=False)
    _add("CompressedMasks.rotated", runs.rotated, turns=1)
    _add("CompressedMasks.cropped", runs.cropped, top=1, left=2, height=5, width=6)
    _add("CompressedMasks.resized", runs.resized, to_size=(10, 12), keep_all=False)
    _add("CompressedMasks.concatenated", root.CompressedMasks.concatenated, parts=[runs, runs])
    _add(
        "CompressedMasks.from_patches",
        root.CompressedMasks.from_patches,
        patches=[(slice(0, 5), slice(0, 6), np.ones((5, 6), bool))],
        image_size=SIZE,
    )
    _add("CompressedMasks.intersections", runs.intersections, first=[0, 1], second=[1, 2])
    _add("CompressedMasks.united", runs.united, groups=[0, 0, 1])
    _add("masks.iou_of_pairs", masks.iou_of_pairs, masks=runs, first=[0, 1], second=[1, 2])
    _add("masks.mask_nms", masks.mask_nms, masks=runs, scores=[0.9, 0.8, 0.7], iou_thresh=0.5, idxs=[1, 2, 1])
    _add("masks.overlapping_pairs", masks.overlapping_pairs, boxes=BOXES)
    _add("masks.trace_parts", masks.trace_parts, masks=runs)
    _add("masks.join_rings", masks.join_rings, rings=[[(0.0, 0.0), (0.0, 4.0), (4.0, 4.0)]])
    _add("CompressedMasks.__getitem__", lambda index: runs[index], index=[0, 2])
    _add("masks.are_segmentations", masks.are_segmentations, masks=runs.to_rle(), image_size=SIZE)
    _add("masks.decode_rle", masks.decode_rle, rle=runs.to_rle()[0])
    _add("masks.encode_rle", masks.encode_rle, mask=dense_masks()[0])
    _add("masks.rle_area", masks.rle_area, rle=runs.to_rle()[0])
    _add("masks.trace_polygons", masks.trace_polygons, mask=dense_masks()[0])
    _add("masks.fill_polygons", masks.fill_polygons, polygons=[np.float64([0, 0, 5, 0, 5, 5])], image_size=SIZE)


_masks()


def _detections() -> None:
    found = detections()
    _add(
        "Detections",
        root.Detections,
        boxes=BOXES,
        scores=[0.9, 0.8, 0.7],
        labels=[1, 2, 1],
        mask_probs=np.ones((3, 28, 28), np.float32),
        image_size=SIZE,
        masks=None,
        categories={1: "cat", 2: "dog"},
        mask_thresh=0.5,
        snap_masks=True,
        image=PIXELS,
    )
    _add("Detections.clipped", found.clipped)
    _add("Detections.numpy", found.numpy)
    _add("Detections.to_rle", found.to_rle)
    _add("Detections.to_polygons", found.to_polygons)
    _add("Detections.to_coco", found.to_coco, image_id=1, category_ids={1: 7, 2: 8})
    _add("Detections.to_json", found.to_json, path="found.json", image_id=1, category_ids={1: 7, 2: 8})
    _add("Detections.draw", found.draw, **DRAW, image=PIXELS, score_thresh=0.5, masks=True)
    _add("Detections.rows", found.rows, limit=3)
    _add(
        "Detections.filter",
        found.filter,
        score_thresh=0.5,
        classes=[1],
        min_area=1,
        max_area=100,
        exclude_edge=True,
    )
    _add("Detections.nms", found.nms, nms_thresh=0.5, class_agnostic=True, masks=True)
    _add("Detections.merge", root.Detections.merge, parts=[found, found])
    _add(
        "Detections.from_masks",
        root.Detections.from_masks,
        masks=dense_masks(),
        scores=[0.9] * 3,
        labels=[1] * 3,
        categories={1: "cat"},
    )
    _add("Detections.from_coco", root.Detections.from_coco, results=found.to_coco(1), image_size=SIZE, categories=None)
    _add("Detections.crops", found.crops, image=PIXELS, padding=1, masked=True)
    _add("Detections.to_dataframe", found.to_dataframe, **MEASURE)
    _add("Detections.to_geojson", found.to_geojson, object_type="detection", **MEASURE)
    _add("Detections.to_label_image", found.to_label_image, dtype="uint16")
    _add("Detections.to_supervision", found.to_supervision)
    _add("Detections.to_labelme", found.to_labelme, file_name="a.png")
    _add("Detections.to_yolo", found.to_yolo)
    _add("Detections.save", found.save, path="found.csv", format="csv", image=PIXELS)
    both = root.detections.Predictions([found, found])
    _add("Predictions.__getitem__", lambda index: both[index], index=0)
    _add("Detections.__getitem__", lambda index: found[index], index=[0, 2])


LINES: dict[str, Any] = {"alpha": 0.35, "scale": 1, "palette": None, "line_width": 1.0, "font": None, "font_size": 10}
DRAW: dict[str, Any] = {"color_by": "instance", "boxes": True, "labels": True, **LINES}
MEASURE: dict[str, Any] = {"image": PIXELS, "page": None, "pixel_size": (0.5, 0.5)}
_detections()


_add("Target", Target, boxes=boxes(), labels=ints(1, 2, 1), masks=tensor(dense_masks()))
_add("Target.from_mapping", Target.from_mapping, target=target(), index=0, image_size=SIZE, num_classes=2)


@valid("Target.resized")
def _() -> Valid:
    return as_target().resized, {"to_size": (10, 12)}


# ------------------------------------------------------------------ data


_add(
    "data.Augmentation",
    data.Augmentation,
    horizontal_flip=0.5,
    vertical_flip=0.5,
    quarter_turns=True,
    zoom=(0.5, 1.5),
    crop=(16, 16),
    image=ImageConfig(),
    min_visible=0.1,
    exposure=0.1,
    gamma=0.1,
    channels=0.1,
    brightness=0.1,
    contrast=0.1,
    saturation=0.1,
    blur=0.1,
    noise=0.1,
)
_add("data.Augmentation.photographs", data.Augmentation.photographs, horizontal_flip=0.1)
_add("data.Augmentation.microscopy", data.Augmentation.microscopy, horizontal_flip=0.1)
_add("data.Augmentation.suited_to", data.Augmentation.suited_to, image=ImageConfig(), fine_tuning=False)
CHOSEN: dict[str, Any] = {"on_fault": "stop", "open_images": False, **READ, "progress": False}
del CHOSEN["page"]


@valid("data.Augmentation.__call__")
def _() -> Valid:
    return data.Augmentation(), {"image": PIXELS, "target": target(), "rng": np.random.default_rng(0)}


_add(
    "data.CocoInstances",
    data.CocoInstances,
    images_dir="images",
    annotations="instances.json",
    keep_empty=True,
    categories=["dog", "cat", "kite"],
    **CHOSEN,
)


@valid("data.CocoInstances.coco")
def _() -> Valid:
    return dataset().coco, {}


@valid("data.CocoInstances.__getitem__")
def _() -> Valid:
    return lambda index: dataset()[index], {"index": 0}


_add("data.LabelImages", data.LabelImages, images_dir="label_pixels", labels_dir="labels", category="cell", **CHOSEN)


@valid("data.LabelImages.coco")
def _() -> Valid:
    return label_set().coco, {}


@valid("data.LabelImages.__getitem__")
def _() -> Valid:
    return lambda index: label_set()[index], {"index": 0}


@valid("data.Loader")
def _() -> Valid:
    return data.Loader, {
        "dataset": dataset(),
        "batch_size": 2,
        "seed": 0,
        "shuffle": True,
        "augment": data.Augmentation(),
        "group_by_shape": True,
        "sample_weights": [1.0, 1.0, 1.0, 1.0],
        "repeat_thresh": None,  # excludes the weights
        "workers": 1,
        "prefetch": 1,
    }


@valid("data.Loader.batch")
def _() -> Valid:
    return loader().batch, {"step": 0}


@valid("data.Loader.iterate")
def _() -> Valid:
    return lambda **k: list(itertools.islice(loader().iterate(**k), 1)), {"start": 0, "stop": 1}


@valid("data.Subset")
def _() -> Valid:
    return data.Subset, {"dataset": dataset(), "indices": [0, 2]}


@valid("data.Subset.coco")
def _() -> Valid:
    return data.Subset(dataset(), [0]).coco, {}


@valid("data.Subset.__getitem__")
def _() -> Valid:
    return lambda index: data.Subset(dataset(), [0, 1])[index], {"index": 0}


@valid("data.suggest")
def _() -> Valid:
    return data.suggest, {"dataset": dataset(), "config": model().config}


@valid("data.Suggestions.table")
def _() -> Valid:
    return data.suggest(dataset(), model().config).table, {}


@valid("data.Suggestions.plot")
def _() -> Valid:
    return data.suggest(dataset(), model().config).plot, {"path": "sizes.png"}


_add(
    "data.split_coco",
    data.split_coco,
    annotations="three/truth.json",
    fractions=[0.5, 0.5],
    names=["one", "two"],
    seed=1,
    group_by="folder|a",
)


_add(
    "data.convert_data",
    data.convert_data,
    annotations="three/truth.json",
    out="converted.json",
    to="coco",
    from_format="coco",
    images_dir="three",
    names=["dog", "cat", "zebra"],
    attribute=None,
    boxes_as_masks=False,
    copy_images=False,
    overwrite=True,
    on_fault="stop",
)


_add("data.compose", data.compose, **{"*augmentations": (data.Augmentation(),)})


@valid("data.split")
def _() -> Valid:
    return data.split, {"dataset": dataset(), "fraction": 0.5, "seed": 0}


_add(
    "data.validate",
    data.validate,
    source="images",
    annotations="instances.json",
    labels=None,
    progress=False,
    on_image=lambda image: None,
)
_add("data.ValidationReport.lines", data.ValidationReport().lines)
_add("data.ValidationReport.issue_lines", data.ValidationReport().issue_lines)


# ------------------------------------------------------------------ evaluation

SCORED: dict[str, Any] = {"iou_types": ("segm",), "object_score": 0.5, "group_by": "kind"}


@valid("evaluation.evaluate")
def _() -> Valid:
    return evaluation.evaluate, {
        "model": three_boxes.Model([1, 2], {1: "dog", 2: "cat", 3: "kite"}, num_classes=3),
        "dataset": dataset(),
        "top_k": 5,
        "score_thresh": 0.05,
        "category_ids": {1: 7, 2: 3, 3: 90},
        "progress": False,
        **SCORED,
    }


_add(
    "evaluation.evaluate_results",
    evaluation.evaluate_results,
    annotations="three/truth.json",
    results="results.json",
    max_detections=5,
    **SCORED,
)
_add(
    "evaluation.coco_average_precision",
    evaluation.coco_average_precision,
    annotations="three/truth.json",
    results="results.json",
    iou_type="segm",
    max_detections=5,
)
_add("evaluation.mask_iou", evaluation.mask_iou, detections=compressed(), objects=compressed(), crowd=[0, 0, 1])
_add("evaluation.match_objects", evaluation.match_objects, iou=np.eye(3), thresh=0.5)


@valid("evaluation.contact_sheet")
def _() -> Valid:
    return evaluation.contact_sheet, {
        "dataset": data.CocoInstances("three", "three/truth.json", progress=False),
        "evaluation": evaluated(),
        "images": list(evaluated().per_image),
        "columns": 2,
    }


@valid("evaluation.Evaluation.worst")
def _() -> Valid:
    return evaluated().worst, {"k": 1}


@valid("evaluation.Evaluation.best")
def _() -> Valid:
    return evaluated().best, {"k": 1}


@valid("evaluation.Evaluation.to_json")
def _() -> Valid:
    return evaluated().to_json, {"path": "evaluation.json"}


@valid("evaluation.Evaluation.table")
def _() -> Valid:
    return evaluated().table, {}


def _figures() -> None:
    chosen = {"iou_thresh": 0.5, "score_thresh": 0.5}
    for name, arguments in {
        "confusion_matrix": chosen,
        "plot_confusion": {"path": "confusion.png", **chosen},
        "plot_precision_recall": {"path": "precision_recall.png", "iou_type": "segm"},
        "plot_thresholds": {"path": "thresholds.png", "iou_thresh": 0.5},
        "threshold_curve": {"iou_thresh": 0.5, "category_id": 17},
    }.items():
        CALLS[f"evaluation.Evaluation.{name}"] = functools.partial(
            lambda method, known: (getattr(evaluated(), method), dict(known)), name, arguments
        )


_figures()


@valid("evaluation.ImageMetrics.row")
def _() -> Valid:
    return evaluated().per_image[0].row, {}


@valid("evaluation.InstanceAccuracy.metrics")
def _() -> Valid:
    return evaluated().instance_accuracy.metrics, {}


# ------------------------------------------------------------------ training

_add("training.EMA", training.EMA, model=toy(), decay=0.9)
for _name in ("update", "apply", "restore"):

    @valid(f"training.EMA.{_name}")
    def _(name: str = _name) -> Valid:
        average = training.EMA(Toy(), 0.9)
        if name == "restore":
            return average.restore, {"averages": average.averages, "updates": 1}
        return getattr(average, name), {"model": Toy()}


@valid("training.EMA.applied")
def _() -> Valid:
    def enter(**arguments: Any) -> None:
        with training.EMA(Toy(), 0.9).applied(**arguments):
            pass

    return enter, {"model": Toy()}


@valid("training.SGD")
def _() -> Valid:
    return training.SGD, {
        "params": [parameter([1.0])],
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.1,
        "nesterov": False,
    }


@valid("training.AdamW")
def _() -> Valid:
    return training.AdamW, {
        "params": [parameter([1.0])],
        "lr": 0.1,
        "betas": (0.9, 0.99),
        "eps": 1e-8,
        "weight_decay": 0.1,
    }


_add("training.AdamW.zero_grad", training.AdamW([parameter([1.0])]).zero_grad)
_add("training.AdamW.step", training.AdamW([parameter([1.0])]).step)
_TRACKED = {"folder": "tracked", "name": "one", "config": {"lr": 0.1}}
_add("training.WandbCallback", training.WandbCallback, project="p", mode="offline", **_TRACKED)
_add("training.MLflowCallback", training.MLflowCallback, experiment="e", tracking_uri="file:store", **_TRACKED)
_add("training.SGD.zero_grad", sgd().zero_grad)
_add("training.SGD.step", sgd().step)
_add("training.GradientMean", training.GradientMean, params=[parameter([1.0])])
_add("training.GradientMean.accumulate", training.GradientMean([parameter([1.0])]).accumulate)


@valid("training.GradientMean.add")
def _() -> Valid:
    return training.GradientMean([parameter([1.0])]).add, {"sums": [np.float32([1.0])], "count": 1}


@valid("training.GradientMean.assign_mean")
def _() -> Valid:
    mean = training.GradientMean([parameter([1.0])])
    mean.add([np.float32([1.0])], 1)
    return mean.assign_mean, {}


_add(
    "training.Schedule",
    training.Schedule,
    kind="multistep",
    warmup=1,
    warmup_factor=0.1,
    milestones=(0.5,),
    gamma=0.1,
    freeze_bn_after=0.5,
    freeze_bn_lr_factor=1.0,
)
_add("training.Schedule.factor", training.Schedule(warmup=3).factor, step=1, progress=0.5)


@valid("training.Trainer")
def _() -> Valid:
    return training.Trainer, {
        "model": toy(),
        "loader": Squares(2, side=8),
        "out": fresh("run"),
        "settings": toy_settings(),
        "image_config": None,
        "evaluate": lambda model: {"score": 1.0},
        "resume": False,
        "allow_changes": False,
        "progress": False,
        "tensorboard": False,
        "callbacks": [],
        "group": None,
    }


@valid("training.Trainer.run")
def _() -> Valid:
    return tiny_runs.toy_trainer(Path(fresh("run")), toy_settings(2)).run, {}


_add(
    "training.TrainerSettings",
    training.TrainerSettings,
    steps=10,
    minutes=None,
    seed=0,
    accumulate=1,
    processes=1,
    lr=0.1,
    optimizer="sgd",
    momentum=0.9,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    decay_norms=True,
    loss_weights={"mask_loss": 2.0},
    class_weights={"cat": 2.0},
    schedule="multistep",
    milestones=(0.5,),
    gamma=0.1,
    warmup=1,
    warmup_factor=0.1,
    max_grad_norm=10.0,
    ema=0.9,
    freeze_bn_after=0.5,
    freeze_bn_lr_factor=0.3,
    save_every=5,
    keep_last=1,
    eval_every=5,
    keep_best="score",
    patience=3,
)
_add("training.TrainerSettings.completed", toy_settings().completed, images_per_step=2, fine_tuning=False)


@valid("training.clip_gradients")
def _() -> Valid:
    return training.clip_gradients, {"params": [parameter([1.0])], "max_norm": 1.0}


@valid("training.decay_groups")
def _() -> Valid:
    return training.decay_groups, {"params": [parameter([1.0])], "weight_decay": 0.1}


_add("training.draw_curves", training.draw_curves, log="log.jsonl", path="curves.png")
_add("training.read_log", training.read_log, path="log.jsonl")


@valid("training.validation_losses")
def _() -> Valid:
    return training.validation_losses, {
        "model": model(),
        "dataset": dataset(),
        "labels": {1: 1, 2: 2, 3: 2},
        "seed": 0,
        "loss_weights": {"mask_loss": 2.0},
        "class_weights": {1: 2.0},
    }


# ------------------------------------------------------------------ prediction on many images


@valid("predict_files")
def _() -> Valid:
    return root.predict_files, {
        "paths": ["picture.png"],
        "weights": TwoBoxes(),
        "out": fresh("job"),
        "engine": "local",
        "address": None,
        "workers": None,
        "threads_per_worker": None,
        "format": "parquet",
        "shard_size": 10,
        "resume": False,
        "overwrite": False,
        "tiles": False,
        "tile_size": None,
        "overlap": None,
        "min_area": None,
        "max_area": None,
        "exclude_edge": False,
        "export": ("csv",),
        "draw": False,
        "device": "cpu",
        "dtype": None,
        **RULES,
        **READ,
        "progress": False,
        "on_start": lambda start: None,
        "on_image": lambda prediction: None,
    }


@valid("predict_tiled")
def _() -> Valid:
    return root.predict_tiled, {
        "model": model(),
        "image": PIXELS,
        "tile_size": 16,
        "overlap": 8,
        "merge_thresh": 0.5,
        **RULES,
        **READ,
        "progress": False,
    }


@valid("predict_stream")
def _() -> Valid:
    return lambda **k: list(root.predict_stream(**k)), {
        "model": model(),
        "images": [PIXELS],
        **RULES,
        **READ,
        "keep_image": False,
        "batch_size": 1,
        "progress": False,
    }


@valid("app.serve_app")
def _() -> Valid:
    def serve(**arguments: Any) -> None:
        if type(arguments["port"]) in (int, type(None)) and not arguments["port"]:
            return  # it would serve until it is stopped
        try:
            serve_app(**arguments)
        except OSError as error:  # the port is that of another server
            if "--port" not in str(error) or arguments["host"] != "127.0.0.1":
                raise

    port = _taken_port().getsockname()[1]
    return serve, {
        "options": AppOptions(),
        "host": "127.0.0.1",
        "port": port,
        "browser": False,
        "on_start": lambda address: None,
    }


@functools.cache
def _taken_port() -> socket.socket:
    taken = socket.socket()
    atexit.register(taken.close)
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken


_add("inference.check_exports", inference.check_exports, name="export", export=("csv", "geojson"))
_add("inference.expand_pattern", inference.expand_pattern, text="images/*.png")
_add("inference.holds_job", inference.holds_job, out="job_folder")
_add("inference.split_list", inference.split_list, content=b"a.png\nb.png")


@valid("inference.save_drawing")
def _() -> Valid:
    return inference.save_drawing, {"path": "drawing.png", "pixels": PIXELS, "detections": detections()}


@valid("export.to_onnx")
def _() -> Valid:
    return export.to_onnx, {
        "model": model(),
        "path": "model.onnx",
        "score_thresh": 0.5,
        "nms_thresh": None,
        "top_k": None,
        "full_masks": True,
        "dtype": "float32",
        "opset": 18,
    }


# ------------------------------------------------------------------ images and transforms


def _images() -> None:
    _add("images.exif_orientation", images.exif_orientation, path=Path("picture.png"))
    _add(
        "images.load_checked",
        images.load_checked,
        path=Path("picture.png"),
        size=SIZE,
        said_by="the annotations",
        channels=None,
        intensity=None,
    )
    _add("images.load_image", images.load_image, source="picture.png", **READ)
    _add("images.load_pages", images.load_pages, source="picture.png", **READ)
    _add("images.check_source", images.check_source, name="image", source="picture.png")
    _add("images.open_image", images.open_image, source="picture.png")
    _add("images.size_mismatch", images.size_mismatch, path=Path("a.png"), found=SIZE, said=(1, 2), said_by="the file")
    _add("images.size_on_disk", images.size_on_disk, path=Path("picture.png"))


_images()
for _name, _arguments in (
    ("close", {}),
    ("page", {"page": 0}),
    ("read", {"page": 0, "channels": 0}),
    ("read_rgb", READ),
    ("rgb_regions", READ),
    ("sample_regions", {"page": 0}),
    ("read_region", {"rows": slice(0, 5), "columns": slice(0, 5), "page": 0, "channels": 0}),
):

    @valid(f"images.ImageHandle.{_name}")
    def _(name: str = _name, arguments: dict[str, Any] = _arguments) -> Valid:
        return getattr(images.open_image(PIXELS), name), dict(arguments)


def _transforms() -> None:
    batch = of(2, 3, 32, 32) * 0.1
    _add("transforms.InputCheck", transforms.InputCheck, images=batch, config=ImageConfig())
    _add("transforms.InputCheck.finish", transforms.InputCheck(batch, ImageConfig()).finish)
    _add("transforms.check_normalized", transforms.check_normalized, images=batch, config=ImageConfig())
    _add("transforms.pad", transforms.pad, images=batch, divisor=32)
    _add("transforms.prepare", transforms.prepare, images=[PIXELS], config=ImageConfig(32, 64), device="cpu")
    _add("transforms.resize_boxes", transforms.resize_boxes, boxes=BOXES, from_size=SIZE, to_size=(40, 48))
    _add("transforms.resize_masks", transforms.resize_masks, masks=dense_masks(), to_size=(40, 48))
    _add("transforms.resized_size", transforms.resized_size, size=SIZE, config=ImageConfig())


_transforms()


# ------------------------------------------------------------------ drawing and annotation formats


def _pictures() -> None:
    _add("visualization.color_of", visualization.color_of, number=1)
    _add(
        "visualization.draw_detections",
        visualization.draw_detections,
        image=PIXELS,
        boxes=BOXES,
        labels=[1, 2, 1],
        scores=[0.9, 0.8, 0.7],
        masks=dense_masks(),
        categories={1: "cat", 2: "dog"},
        color_ids=[1, 2, 3],
        show_boxes=True,
        show_labels=True,
        **LINES,
    )
    _add(
        "visualization.draw_masks",
        visualization.draw_masks,
        image=Image.fromarray(PIXELS),
        masks=compressed(),
        colors=[(255, 0, 0)] * 3,
        alpha=0.35,
        thickness=1,
    )
    _add(
        "visualization.draw_target",
        visualization.draw_target,
        image=PIXELS,
        target=target(),
        categories={1: "cat", 2: "dog"},
        **DRAW,
    )
    _add("measure.measure_objects", measure.measure_objects, masks=compressed(), **MEASURE)
    _add(
        "app.AppOptions",
        AppOptions,
        weights="NUCLEI",
        device="cpu",
        max_upload=1000,
        max_pixels=1000,
        max_sessions=1,
        max_images=1,
        max_files=1000,
        max_results=1000,
        max_waiting=1,
        expire_after=1.0,
    )
    _add("visualization.viewing_scale", visualization.viewing_scale, size=SIZE)


_pictures()


def _formats() -> None:
    content = data_sets.coco()
    _add("annotation_formats.bboxes_of", coco.bboxes_of, boxes=BOXES)
    _add(
        "annotation_formats.complete_annotation",
        coco.complete_annotation,
        annotation=content["annotations"][0],
        size=(40, 60),
    )
    _add(
        "annotation_formats.make_annotations",
        coco.make_annotations,
        masks=compressed(),
        image_id=1,
        category_ids=[7, 8, 7],
        first_id=1,
        boxes=BOXES,
        iscrowd=[0, 0, 1],
    )
    _add(
        "annotation_formats.make_results",
        coco.make_results,
        image_id=1,
        category_ids=[7, 8, 7],
        boxes=BOXES,
        scores=[0.9, 0.8, 0.7],
        segmentations=compressed().to_rle(),
    )
    _add("annotation_formats.read_annotations", coco.read_annotations, annotations="instances.json")
    _add("annotation_formats.read_results", coco.read_results, results="results.json")
    _add(
        "annotation_formats.labels_of_masks",
        label_images.labels_of_masks,
        masks=compressed(),
        order=[2, 1, 0],
        dtype="uint16",
    )
    _add(
        "annotation_formats.write_label_image",
        label_images.write_label_image,
        file=io.BytesIO(),
        labels=np.uint16(dense_masks()[0]),
        suffix=".tif",
        made_by={"program": "a test"},
    )
    _add(
        "annotation_formats.make_data_set",
        coco.make_data_set,
        masks=compressed(),
        image={"id": 1, "file_name": "a.png"},
        categories={7: "cat", 8: "dog"},
        category_ids=[7, 8, 7],
        boxes=BOXES,
        scores=[0.9, 0.8, 0.7],
        info={"description": "a test"},
    )
    for name in ("read_label_image", "read_label_image_size"):
        _add(f"annotation_formats.{name}", getattr(label_images, name), path="labels/a.png")


_formats()


# ------------------------------------------------------------------ weights


def _arrays() -> dict[str, np.ndarray]:
    return dict(model().state_dict())


@valid("load_weights")
def _() -> Valid:
    return root.load_weights, {"model": new_model(), "weights": "weights.safetensors"}


@valid("save_weights")
def _() -> Valid:
    return root.save_weights, {
        "model": model(),
        "path": "saved.safetensors",
        "config": model().config,
        "metadata": {"made by": "a test"},
        "dtype": "float32",
    }


_add("list_weights", root.list_weights, architecture="mask_rcnn_resnet_18_fpn")
_add("weights.locate", weights.locate, weights="NUCLEI", architecture="mask_rcnn_resnet_18_fpn")
_add("weights.read_weights_file", weights.read_weights_file, path="weights.safetensors", config=None, find_config=True)
for _name in ("assign", "check_fit"):

    @valid(f"weights.{_name}")
    def _(name: str = _name) -> Valid:
        return getattr(weights, name), {"module": new_model(), "arrays": _arrays(), "names": None, "source": "These"}


@valid("weights.find_backbone")
def _() -> Valid:
    return weights.find_backbone, {"weights": body_arrays(), "architecture": "resnet18", "argument": "weights"}


@valid("weights.load_backbone")
def _() -> Valid:
    return weights.load_backbone, {"model": new_model(), "weights": body_arrays()}


def body_arrays() -> dict[str, np.ndarray]:
    """Return the arrays of a body, under torchvision's names."""
    return {n.removeprefix("backbone.body."): a for n, a in _arrays().items() if n.startswith("backbone.body.")}


@valid("weights.write_converted")
def _() -> Valid:
    return weights.write_converted, {
        "weights": weights.read_weights_file("weights.safetensors"),
        "path": "converted.safetensors",
        "to": "lucid_maskrcnn",
        "dtype": "float32",
    }


@valid("weights.loading_code")
def _() -> Valid:
    return weights.loading_code, {
        "weights": weights.read_weights_file("weights.safetensors"),
        "path": "converted.safetensors",
        "to": "torchvision",
    }


@valid("weights.WeightsFile.own_names")
def _() -> Valid:
    return weights.read_weights_file("weights.safetensors").own_names, {"names": ["a"]}
