"""Small models with settings of all kinds, to be taken to torchvision or detectron2, and images for them.

Weights are numbers of ``tests/data/torchvision/recipe.py``, so that ``tests/data/conversions`` can have what the other
library found with them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from data.torchvision import recipe

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn, mask_rcnn_resnet_50_fpn, mask_rcnn_resnet_50_fpn_v2
from lucid_maskrcnn.weights import load_weights
from lucid_maskrcnn.weights.layouts import torchvision_arrays, translate

SLIM = {"width": 8, "fpn_channels": 24, "hidden_dim": 32, "mask_hidden_channels": 16}
_SEVERAL_SIZES = ((8, 12), (16, 24), (32, 48), (64, 96), (128, 192))
_MANY: dict[str, Any] = {
    "categories": [(1, "cell", 7), (2, 'cell\'s "debris"', 3)],
    "anchor_sizes": _SEVERAL_SIZES,
    "aspect_ratios": (0.6, 1.0, 1.5, 3.0),
    "min_size": 160,
    "max_size": 300,
    "top_k": 20,
    "mask_pool_size": 7,
    "mask_out_size": 14,
    "pooled_levels": 5,
    "rpn_convs": 2,
    "dropout": 0.3,
}
_NUMBERS: dict[str, Any] = {
    "pre_nms_top_n": 300,
    "post_nms_top_n": 200,
    "pre_nms_top_n_train": 350,
    "post_nms_top_n_train": 250,
    "nms_thresh": 0.6,
    "foreground_iou": 0.65,
    "background_iou": 0.35,
    "batch_size": 128,
    "positive_fraction": 0.4,
}
_IMAGE: dict[str, Any] = {"pixel_mean": (0.4, 0.5, 0.45), "pixel_std": (0.2, 0.25, 0.3), "intensity": "max"}
_HEADS: dict[str, Any] = {
    "box_weights": (8.0, 9.0, 4.0, 6.0),
    "nms_thresh": 0.4,
    "foreground_iou": 0.45,
    "batch_size": 100,
    "positive_fraction": 0.3,
}
_NORMS = {"norm": "batch", "fpn_norm": "batch", "head_norm": "batch", "box_convs": True, "pooled_levels": 3}
_LARGE = {"min_size": 192, "max_size": 320}

# Library and case -> factory, number of classes, settings, and what is added to the background's score.
CASES: dict[tuple[str, str], tuple[Any, int, dict[str, Any], float]] = {
    ("torchvision", "plain"): (mask_rcnn_resnet_18_fpn, 3, {"norm": "frozen", **_LARGE, **SLIM}, 6.0),
    ("torchvision", "many"): (
        mask_rcnn_resnet_18_fpn,
        3,
        {
            **_MANY,
            **SLIM,
            "norm_eps": 1e-3,
            "pool_size": (5, 6),
            "rpn": _NUMBERS,
            "image": {**_IMAGE, "size_divisor": 64},
            "heads": {**_HEADS, "sampling_ratio": 0},
        },
        0.0,
    ),
    ("torchvision", "v2"): (mask_rcnn_resnet_50_fpn_v2, 2, {"norm": "frozen", **_LARGE, **SLIM}, 3.2),
    ("torchvision", "norms"): (mask_rcnn_resnet_18_fpn, 2, {**_NORMS, **_LARGE, **SLIM}, 3.8),
    ("detectron2", "plain"): (mask_rcnn_resnet_50_fpn, 3, {"norm": "frozen", **_LARGE, **SLIM}, 3.2),
    ("detectron2", "many"): (
        mask_rcnn_resnet_18_fpn,
        3,
        {
            **_MANY,
            **SLIM,
            "width": 64,  # the only one that detectron2's ResNet-18 has
            "norm": "frozen",
            "pool_size": 5,
            "rpn": {**_NUMBERS, "min_size": float(np.nextafter(np.float32(4), np.float32(math.inf)))},
            "image": {**_IMAGE, "bgr": False},
            "heads": {**_HEADS, "sampling_ratio": 2, "aligned": False},
        },
        0.0,
    ),
    ("detectron2", "norms"): (
        mask_rcnn_resnet_50_fpn,
        2,
        {**_NORMS, **_LARGE, **SLIM, "rpn_convs": 3, "stride_in_1x1": False},
        2.5,
    ),
    ("detectron2", "unscaled"): (
        mask_rcnn_resnet_50_fpn,
        2,
        {**SLIM, "norm": "frozen", "image": {"scale": 1.0, "max_size": 2**31 - 1}},
        2.8,
    ),
    ("detectron2", "class_agnostic"): (mask_rcnn_resnet_50_fpn, 3, {"norm": "frozen", **_LARGE, **SLIM}, 3.2),
}
# By how much the score of the first class is lower, so that others are found too.
LESS_OF_THE_FIRST = {
    ("detectron2", "plain"): 2.0,
    ("detectron2", "class_agnostic"): 2.0,
    ("detectron2", "norms"): 1.0,
    ("detectron2", "unscaled"): 2.0,
}


def converted_model(library: str, case: str) -> MaskRCNN:
    """Build the model of a case."""
    factory, num_classes, settings, background = CASES[library, case]
    model = factory(num_classes, conventions=library, **settings)
    shapes = {name: array.shape for name, array in torchvision_arrays(model.state_dict()).items()}
    arrays = {name: _numbers(name, shape, shapes) for name, shape in shapes.items()}
    bias = arrays["roi_heads.box_predictor.cls_score.bias"]
    bias[0] += np.float32(background - recipe.BACKGROUND_BIAS)
    bias[1] -= np.float32(LESS_OF_THE_FIRST.get((library, case), 0))
    if model.config.image.pixel_std[0] < 0.1:  # pixels of 0 to 255
        arrays["backbone.body.conv1.weight"] /= np.float32(64)
    theirs = read_back(arrays)
    if case == "class_agnostic":
        for layer, rows in (("bbox_pred", 4), ("mask_head.mask_predictor", 1)):
            for kind in ("weight", "bias"):
                array = theirs[f"{layer}.{kind}"]
                theirs[f"{layer}.{kind}"] = np.tile(array[:rows], (num_classes, *(1,) * (array.ndim - 1)))
    load_weights(model, theirs)
    return model


def read_back(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return torchvision's arrays by this package's names."""
    return translate(arrays, "arrays").arrays


def _numbers(name: str, shape: tuple[int, ...], shapes: dict[str, Any]) -> np.ndarray:
    owner, field = name.rsplit(".", 1)
    if f"{owner}.running_var" in shapes and not owner.startswith("backbone.body"):
        low, high = {"weight": (0.8, 1.2), "running_var": (0.7, 1.3)}.get(field, (-0.2, 0.2))
        return recipe._uniform(7, name, shape, low, high)
    array = recipe._tensor(name, shape, 7, (3, 3, 3, 3))
    return array * np.float32(0.4) if name.endswith("cls_score.weight") else array


def converted_images() -> list[np.ndarray]:
    """Return two images, (H, W, 3) uint8."""
    return [recipe.scene(200, 300, 1)[0], recipe.scene(260, 170, 2)[0]]
