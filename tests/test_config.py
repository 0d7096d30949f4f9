"""The configuration of a model: checked when it is made, the same before and after JSON, old headers understood."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn
from lucid_maskrcnn.config import (
    ARCHITECTURES,
    CONFIG_VERSION,
    DETECTRON2,
    TORCHVISION,
    BackboneConfig,
    Category,
    HeadConfig,
    ImageConfig,
    ModelConfig,
    RPNConfig,
    architecture_of,
    config_from_version_0,
    conventions_of,
)

# The header of the model of nuclei, as version 0 wrote it.
NUCLEI = {
    "depth": 18,
    "num_classes": 1,
    "norm": "batch",
    "width": 32,
    "fpn_channels": 64,
    "hidden_dim": 256,
    "mask_hidden_channels": 64,
    "dropout": 0.0,
    "anchor_sizes": [[12, 20], [32, 48], [64, 96], [128, 192], [256, 384]],
    "aspect_ratios": [0.5, 1.0, 2.0],
    "image": {"scale": 2.5},
    "max_size": 2560,
    "top_k": 400,
    "proposals": {"pre_nms_top_n": 2000, "post_nms_top_n": 2000},
    "heads": {"aligned": True, "snap_masks": False, "nms_thresh": 0.3},
}


def through_json(values: Any) -> Any:
    return json.loads(json.dumps(values))


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("conventions", ["torchvision", "detectron2"])
def test_config_survives_json(name: str, conventions: str) -> None:
    config = ARCHITECTURES[name].changed(conventions=conventions, num_classes=3, categories={1: "a", 3: "c"})
    again = ModelConfig.from_dict(through_json(config.to_dict()))
    assert again == config
    assert hash(again) == hash(config)
    assert architecture_of(again) == name


def test_every_field_is_in_the_dict() -> None:
    values = ARCHITECTURES["mask_rcnn_resnet_50_fpn"].to_dict()
    assert values.keys() == {"config_version", *(f.name for f in dataclasses.fields(ModelConfig))}
    parts = {"image": ImageConfig, "rpn": RPNConfig, "heads": HeadConfig, "backbone": BackboneConfig}
    for part, kind in parts.items():
        assert values[part].keys() == {f.name for f in dataclasses.fields(kind)}


def test_partial_dict_has_defaults() -> None:
    config = ModelConfig.from_dict({"num_classes": 2, "image": {"min_size": 64}})
    assert config == ModelConfig(2, image=ImageConfig(min_size=64))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_classes": 2, "anchor_size": [8]},
            "ModelConfig has no argument 'anchor_size'; did you mean 'anchor_sizes'",
        ),
        (
            {"num_classes": 2, "image": {"min_sise": 8}},
            "ImageConfig has no argument 'min_sise'; did you mean 'min_size'",
        ),
        ({"num_classes": 2, "backbone": {"dept": 18}}, "BackboneConfig has no argument 'dept'; did you mean 'depth'"),
        ({}, "num_classes is missing"),
        ({"num_classes": 2, "config_version": "1"}, "config_version must be a positive integer, got '1'"),
        ({"num_classes": 2, "image": 3}, "image must be an ImageConfig or a mapping of its fields, got 3"),
        ([], "values must be a mapping"),
    ],
)
def test_dict_with_an_unknown_key_is_refused(values: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ModelConfig.from_dict(values)


def test_dict_of_a_newer_version() -> None:
    newer = {"config_version": CONFIG_VERSION + 1, "num_classes": 2}
    assert ModelConfig.from_dict(newer) == ModelConfig(2)
    with pytest.raises(ValueError, match=r"written by a newer version of lucid_maskrcnn \(config_version 3, this one"):
        ModelConfig.from_dict(newer | {"cascade": 3})


def test_header_of_version_0() -> None:
    config = config_from_version_0(through_json(NUCLEI), {1: "nucleus"})
    assert config is not None
    assert config.categories == (Category(1, "nucleus", 1),)
    assert config.backbone == BackboneConfig(18, 32, 64, "batch", fpn_norm="batch")
    assert config.anchor_sizes == ((12, 20), (32, 48), (64, 96), (128, 192), (256, 384))
    assert config.image == ImageConfig(scale=2.5, max_size=2560)
    assert config.rpn == RPNConfig(pre_nms_top_n=2000, post_nms_top_n=2000)
    assert config.heads == HeadConfig(aligned=True, snap_masks=False, nms_thresh=0.3, top_k=400)
    assert config.changed(norm="frozen", fpn_norm="frozen") == mask_rcnn_resnet_18_fpn(weights="NUCLEI").config


def test_header_of_version_1_had_norms_in_the_pyramid_where_the_body_had_live_ones() -> None:
    for norm, fpn_norm in (("batch", "batch"), ("frozen", None)):
        header = through_json(ARCHITECTURES["mask_rcnn_resnet_18_fpn"].to_dict())
        header |= {"config_version": 1, "backbone": {"depth": 18, "norm": norm}}
        config = ModelConfig.from_dict(header)
        assert (config.backbone.norm, config.backbone.fpn_norm) == (norm, fpn_norm)


def test_header_of_version_0_with_conventions() -> None:
    config = config_from_version_0({"depth": 50, "num_classes": 3, "conventions": "detectron2", "min_size": 640})
    assert config is not None
    assert config.image == dataclasses.replace(DETECTRON2.image, min_size=640)
    assert config.heads == DETECTRON2.heads
    assert config.backbone.stride_in_1x1
    assert architecture_of(config) == "mask_rcnn_resnet_50_fpn"


def test_header_of_version_0_whose_long_side_was_the_shorter_one() -> None:
    config = config_from_version_0({"depth": 18, "num_classes": 1, "max_size": 640})
    assert (config.image.min_size, config.image.max_size) == (640, 640)  # the same sizes come out


def test_header_of_version_0_without_a_depth_or_with_an_unknown_key() -> None:
    assert config_from_version_0({"num_classes": 3}) is None
    with pytest.raises(TypeError, match="the header has no argument 'num_clases'; did you mean 'num_classes'"):
        config_from_version_0({"depth": 18, "num_clases": 3})
    with pytest.raises(TypeError, match="the header has no argument 'proposals'"):
        config_from_version_0({"depth": 18, "proposals": {}, "rpn": {}})


# ------------------------------------------------------------------ conventions


def test_conventions_of_a_config() -> None:
    plain = ARCHITECTURES["mask_rcnn_resnet_50_fpn"]
    assert conventions_of(plain) == (TORCHVISION, {})
    moved = plain.changed(conventions="detectron2")
    assert conventions_of(moved) == (DETECTRON2, {})
    changed = moved.changed(image={"min_size": 640}, top_k=7, stride_in_1x1=False)
    found, differences = conventions_of(changed)
    assert found is DETECTRON2
    assert differences == {"image": {"min_size": 640}, "heads": {"top_k": 7}, "stride_in_1x1": False}


def test_other_conventions_keep_what_was_changed() -> None:
    changed = ARCHITECTURES["mask_rcnn_resnet_50_fpn"].changed(image={"min_size": 640}, top_k=7)
    moved = changed.changed(conventions="detectron2")
    assert moved.image == dataclasses.replace(DETECTRON2.image, min_size=640)
    assert moved.heads == dataclasses.replace(DETECTRON2.heads, top_k=7)
    assert moved.changed(conventions="torchvision") == changed


# ------------------------------------------------------------------ checks


@pytest.mark.parametrize(
    ("kind", "settings", "error", "message"),
    [
        (ImageConfig, {"min_size": 900, "max_size": 800}, ValueError, "min_size must be at most max_size, got min_size=900"),  # noqa: E501
        (ImageConfig, {"min_size": 0}, ValueError, "min_size must be an integer from 1 to 100000, got 0"),
        (ImageConfig, {"min_size": "800"}, TypeError, "min_size must be an integer from 1 to 100000, got '800'"),
        (ImageConfig, {"min_size": True}, TypeError, "min_size must be .* got True"),
        (ImageConfig, {"min_size": None}, TypeError, "min_size must be .* got None"),
        (ImageConfig, {"min_size": 64.0}, TypeError, "min_size must be .* got 64.0"),
        (ImageConfig, {"scale": 0}, ValueError, "scale must be a number above 0, got 0"),
        (ImageConfig, {"scale": np.inf}, ValueError, "scale must be a number above 0, got inf"),
        (ImageConfig, {"pixel_mean": (123.0, 116.0, 103.0)}, ValueError, r"pixel_mean must be of pixel values in \[0, 1\]"),  # noqa: E501
        (ImageConfig, {"pixel_std": (0.2, 0, 0.2)}, ValueError, r"pixel_std\[1\] must be a number above 0, got 0"),
        (ImageConfig, {"pixel_std": (58.0, 57.0, 57.0)}, ValueError, r"pixel_std must be of pixel values in \[0, 1\]"),
        (ImageConfig, {"pixel_mean": 0.5}, TypeError, "pixel_mean must be a sequence of 3 values, got 0.5"),
        (ImageConfig, {"pixel_mean": (0.5, 0.5)}, ValueError, "pixel_mean must be a sequence of 3 values, got 2"),
        (ImageConfig, {"bgr": "no"}, TypeError, "bgr must be True or False, got 'no'"),
        (ImageConfig, {"antialias": 1}, TypeError, "antialias must be True or False, got 1"),
        (ImageConfig, {"size_divisor": -32}, ValueError, "size_divisor must be"),
        (RPNConfig, {"foreground_iou": 0.2, "background_iou": 0.8}, ValueError, "background_iou must be at most"),
        (RPNConfig, {"pre_nms_top_n": 0}, ValueError, "pre_nms_top_n must be an integer from 1 to"),
        (RPNConfig, {"positive_fraction": 2}, ValueError, "positive_fraction must be a number between 0 and 1, got 2"),
        (RPNConfig, {"batch_size": 0}, ValueError, "batch_size must be an integer from 1 to"),
        (RPNConfig, {"nms_thresh": 7}, ValueError, "nms_thresh must be a number between 0 and 1, got 7"),
        (RPNConfig, {"nms_thresh": np.nan}, ValueError, "nms_thresh must be a number between 0 and 1, got nan"),
        (RPNConfig, {"min_size": -1}, ValueError, "min_size must be a number of at least 0, got -1"),
        (HeadConfig, {"sampling_ratio": -3}, ValueError, "sampling_ratio must be an integer from 0 to 256, got -3"),
        (HeadConfig, {"sampling_ratio": 1.5}, TypeError, "sampling_ratio must be an integer"),
        (HeadConfig, {"top_k": -5}, ValueError, "top_k must be an integer from 0 to"),
        (HeadConfig, {"box_weights": (10, 10, 5)}, ValueError, "box_weights must be a sequence of 4 values, got 3"),
        (HeadConfig, {"box_weights": (10, 10, 5, 0)}, ValueError, r"box_weights\[3\] must be a number above 0"),
        (HeadConfig, {"foreground_iou": "0.5"}, TypeError, "foreground_iou must be a number between 0 and 1, got '0.5'"),  # noqa: E501
        (HeadConfig, {"level_margin": (0.1,)}, ValueError, "level_margin must be a sequence of 2 values"),
        (HeadConfig, {"level_margin": (0, 3)}, ValueError, r"level_margin\[1\] must be a number between 0 and 1"),
        (BackboneConfig, {"depth": 34}, ValueError, "depth must be one of 18, 50, 101, got 34"),
        (BackboneConfig, {"depth": "50"}, TypeError, "depth must be an integer, got '50'"),
        (BackboneConfig, {"norm": "frozn"}, ValueError, "norm must be one of 'frozen', 'batch', got 'frozn'.*'frozen'"),
        (BackboneConfig, {"width": 0}, ValueError, "width must be an integer from 1 to 1024, got 0"),
        (BackboneConfig, {"norm_eps": 1}, ValueError, "norm_eps must be a number of at least 0 and below 1, got 1"),
        (ModelConfig, {"num_classes": "3"}, TypeError, "num_classes must be an integer from 1 to 1000000, got '3'"),
        (ModelConfig, {"num_classes": 10**9}, ValueError, "num_classes must be an integer from 1 to 1000000"),
        (ModelConfig, {"num_classes": None}, TypeError, "num_classes must be"),
        (ModelConfig, {"categories": {0: "a"}}, ValueError, "a label of categories must be a positive integer, got 0"),
        (ModelConfig, {"categories": {"1": "a"}}, TypeError, "a label of categories must be a positive integer, got '1'"),  # noqa: E501
        (ModelConfig, {"categories": ["a", "b"]}, TypeError, r"categories must map labels to names, .* got \['a', 'b'\]"),  # noqa: E501
        (ModelConfig, {"categories": "ab"}, TypeError, "categories must map labels to names"),
        (ModelConfig, {"categories": {1: "a", 7: "b"}}, ValueError, r"labels from 1 to num_classes, 2, got \[7\]"),
        (ModelConfig, {"categories": {1: 3}}, TypeError, "the name of category 1 must be a string, got 3"),
        (ModelConfig, {"categories": [(1, "a", 1), (1, "b", 2)]}, ValueError, "categories must have distinct labels"),
        (ModelConfig, {"anchor_sizes": (0, 8)}, ValueError, r"anchor_sizes\[0\] must be a number above 0, got 0"),
        (ModelConfig, {"anchor_sizes": ()}, ValueError, "anchor_sizes must have at least one value"),
        (ModelConfig, {"anchor_sizes": 32}, TypeError, "anchor_sizes must be a sequence, got 32"),
        (ModelConfig, {"anchor_sizes": "32"}, TypeError, "anchor_sizes must be a sequence, got '32'"),
        (ModelConfig, {"anchor_sizes": ((8, 16), 32)}, ValueError, "anchor_sizes must be numbers where the backbone"),
        (ModelConfig, {"aspect_ratios": (-1.0,)}, ValueError, r"aspect_ratios\[0\] must be a number above 0, got -1.0"),
        (ModelConfig, {"anchor_stride": 0}, ValueError, "anchor_stride must be"),
        (ModelConfig, {"pool_size": (1, 2, 3)}, ValueError, "pool_size must be a sequence of 2 values, got 3"),
        (ModelConfig, {"pool_size": (7, "7")}, TypeError, r"pool_size\[1\] must be an integer"),
        (ModelConfig, {"mask_out_size": 9}, ValueError, r"mask_out_size must be twice mask_pool_size \(14, 14\), got 9"),  # noqa: E501
        (ModelConfig, {"aspect_ratios": [1e300, 1]}, ValueError, r"aspect_ratios\[0\] must be height over width from"),
        (ModelConfig, {"anchor_sizes": [[8] * 100], "use_fpn": True}, ValueError, "anchor_sizes must have at most 64"),
        (ModelConfig, {"image": {"scale": 1e9}}, ValueError, "image: scale must be a number above 0, from 0"),
        (ModelConfig, {"rpn": {"min_size": "x"}}, TypeError, "rpn: min_size must be a number"),
        (ModelConfig, {"categories": [(1, "a", 5), (2, "b", 5)]}, ValueError, r"distinct ids, got \[5, 5\]"),
        (ModelConfig, {"use_fpn": True, "backbone": {}}, ValueError, "anchor_sizes must have 5 entries, .* got 3"),
        (ModelConfig, {"dropout": 1}, ValueError, "dropout must be a number of at least 0 and below 1"),
        (ModelConfig, {"pooled_levels": 6}, ValueError, "pooled_levels must be at most the number of feature maps"),
        (ModelConfig, {"head_norm": "group"}, ValueError, "head_norm must be one of 'frozen', 'batch', got 'group'"),
        (ModelConfig, {"use_fpn": 1}, TypeError, "use_fpn must be True or False, got 1"),
        (ModelConfig, {"image": "big"}, TypeError, "image must be an ImageConfig or a mapping of its fields, got 'big'"),  # noqa: E501
        (ModelConfig, {"feat_channels": 8, "use_fpn": True, "backbone": {}}, ValueError, "must be the backbone's out_channels"),  # noqa: E501
        (ModelConfig, {"backbone": {}}, ValueError, "use_fpn must be True for a ResNet-FPN backbone"),
    ],
)  # fmt: skip
def test_setting_that_cannot_be_is_refused(kind: Any, settings: Any, error: type[Exception], message: str) -> None:
    required = {"num_classes": 2} if kind is ModelConfig else {}
    with pytest.raises(error, match=message):
        kind(**(required | settings))
    if kind is ModelConfig:
        with pytest.raises(error, match=message):
            ModelConfig.from_dict(required | settings)


def test_numpy_numbers_are_numbers() -> None:
    image = ImageConfig(min_size=np.int64(64), scale=np.float32(2), pixel_mean=np.full(3, 0.5))
    assert type(image.min_size) is int
    assert type(image.scale) is float
    assert image.pixel_mean == (0.5, 0.5, 0.5)
    config = ModelConfig(np.int32(3), anchor_sizes=np.array([8, 16]), heads={"top_k": np.int64(5), "aligned": np.True_})
    assert (config.num_classes, config.anchor_sizes, config.heads.top_k, config.heads.aligned) == (3, (8, 16), 5, True)
    assert through_json(config.to_dict())


def test_a_number_where_a_pair_is_wanted_is_both() -> None:
    config = ModelConfig(2, pool_size=5, mask_pool_size=8, mask_out_size=16)
    assert (config.pool_size, config.mask_pool_size) == ((5, 5), (8, 8))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"image": "big", "min_size": 64}, TypeError, "image must be a configuration or a mapping"),
        ({"image": {"min_sise": 64}}, TypeError, "ImageConfig has no argument 'min_sise'; did you mean 'min_size'"),
        ({"imag": {}}, TypeError, "ModelConfig has no argument 'imag'; did you mean 'image'"),
        ({"width": "8"}, TypeError, "width must be an integer from 1 to 1024, got '8'"),
        ({"conventions": "mmdet"}, ValueError, "conventions must be one of 'torchvision', 'detectron2', got 'mmdet'"),
        ({"conventions": 2}, TypeError, "conventions must be one of 'torchvision', 'detectron2', got 2"),
    ],
)  # fmt: skip
def test_change_that_cannot_be_is_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ARCHITECTURES["mask_rcnn_resnet_50_fpn"].changed(**settings)


def test_change_of_a_backbone_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="norm is of a ResNet-FPN backbone, which this model does not have"):
        ModelConfig(2).changed(norm="batch")


def test_channels_of_the_pyramid_are_changed_in_both_places() -> None:
    config = ARCHITECTURES["mask_rcnn_resnet_50_fpn"]
    for changed in (config.changed(fpn_channels=64), config.changed(backbone={"out_channels": 64})):
        assert (changed.feat_channels, changed.backbone.out_channels) == (64, 64)


def test_configs_cannot_be_changed() -> None:
    config = ModelConfig(2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.image.min_size = 3  # type: ignore[misc]
    assert config.changed(min_size=64).image.min_size == 64
    assert config.image.min_size == 800


# ------------------------------------------------------------------ of a model


def test_config_of_a_model_builds_it_again() -> None:
    slim = {"width": 8, "fpn_channels": 8, "hidden_dim": 16, "mask_hidden_channels": 8}
    model = mask_rcnn_resnet_18_fpn(3, top_k=7, image={"min_size": 64}, norm="batch", **slim)
    again = MaskRCNN.from_config(model.config, model.backbone)
    assert again.config == model.config
    shapes, wanted = ({n: v.shape for n, v in m.state_dict().items()} for m in (again, model))
    assert shapes == wanted
