"""A run of detectron2 is read with its config.yaml: each key is taken, passed over or refused by its name."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2_runs import SLIM_KEYS, arrays_of, slim, write_checkpoint, yaml_of

from lucid_maskrcnn import MaskRCNN, load_weights, mask_rcnn_resnet_50_fpn, save_weights
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.config import DETECTRON2, ModelConfig
from lucid_maskrcnn.weights import read_weights_file, registry
from lucid_maskrcnn.weights.detectron2_files import read_detectron2_config
from lucid_maskrcnn.weights.detectron2_keys import DEFAULTS, DERIVED, FIXED, IGNORED, IGNORED_SECTIONS, TAKEN, ZOO
from lucid_maskrcnn.weights.detectron2_settings import Settings, read_settings
from lucid_maskrcnn.weights.naming import DETECTRON2_DEEP_RPN

SLIM_ARRAYS = arrays_of(slim())


def configuration(folder: Path, arrays: dict[str, np.ndarray] | None = None, /, **keys: Any) -> ModelConfig:
    """Write a run with some keys (__ for a dot), and return what is read of it."""
    path = write_checkpoint(folder / "model_final.pth", SLIM_ARRAYS if arrays is None else arrays)
    changed = {key.replace("__", "."): value for key, value in keys.items()}
    (folder / "config.yaml").write_text(yaml_of(SLIM_KEYS | changed))
    config = read_weights_file(path).config
    assert config is not None
    return config


# ------------------------------------------------------------------ taken


def test_configuration_of_the_zoo_is_what_is_assumed_without(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    (tmp_path / "config.yaml").unlink()
    path = tmp_path / "model_final.pth"
    assert read_weights_file(path).config == config
    assert (config.image, config.rpn, config.heads) == (DETECTRON2.image, DETECTRON2.rpn, DETECTRON2.heads)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (
            {"MODEL__PIXEL_STD": [57.375, 57.12, 58.395]},  # blue, green, red as INPUT.FORMAT is
            {"image.pixel_std": (58.395 / 255, 57.12 / 255, 57.375 / 255)},
        ),
        (
            {"INPUT__FORMAT": "RGB", "MODEL__PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL__PIXEL_STD": [1, 2, 3]},
            {
                "image.bgr": False,
                "image.pixel_mean": (123.675 / 255, 116.28 / 255, 103.53 / 255),
                "image.pixel_std": (1 / 255, 2 / 255, 3 / 255),
            },
        ),
        (
            {"MODEL__PIXEL_MEAN": "(1.0, 2.0, 3)", "INPUT__MIN_SIZE_TEST": "640"},
            {"image.pixel_mean": (3 / 255, 2 / 255, 1 / 255), "image.min_size": 640},
        ),
        ({"INPUT__MIN_SIZE_TEST": 640, "INPUT__MAX_SIZE_TEST": 900}, {"image.min_size": 640, "image.max_size": 900}),
        ({"INPUT__MIN_SIZE_TEST": 999, "INPUT__MAX_SIZE_TEST": 900}, {"image.min_size": 900, "image.max_size": 900}),
        ({"INPUT__MIN_SIZE_TEST": 0}, {"image.scale": 1.0, "image.max_size": 2**31 - 1}),
        ({"MODEL__RESNETS__STRIDE_IN_1X1": False}, {"backbone.stride_in_1x1": False}),
        ({"MODEL__RESNETS__NORM": "SyncBN"}, {"backbone.norm": "frozen"}),
        (
            {"MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16], [32], [64], [128]]},
            {"anchor_sizes": (8, 16, 32, 64, 128)},
        ),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [[48.5]]}, {"anchor_sizes": (48.5,) * 5}),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [48.5]}, {"anchor_sizes": (48.5,) * 5}),  # of all levels, as in a list
        ({"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [0.3, 1, 3]}, {"aspect_ratios": (0.3, 1.0, 3.0)}),
        ({"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[0.3, 1.0, 3.0]] * 5}, {"aspect_ratios": (0.3, 1.0, 3.0)}),
        (
            {"MODEL__RPN__PRE_NMS_TOPK_TEST": 500, "MODEL__RPN__POST_NMS_TOPK_TEST": 300},
            {"rpn.pre_nms_top_n": 500, "rpn.post_nms_top_n": 300},
        ),
        (
            {"MODEL__RPN__PRE_NMS_TOPK_TRAIN": 501, "MODEL__RPN__POST_NMS_TOPK_TRAIN": 301},
            {"rpn.pre_nms_top_n_train": 501, "rpn.post_nms_top_n_train": 301},
        ),
        (
            {"MODEL__RPN__NMS_THRESH": 0.8, "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 128},
            {"rpn.nms_thresh": 0.8, "rpn.batch_size": 128},
        ),
        (
            {"MODEL__RPN__IOU_THRESHOLDS": [0.2, 0.6], "MODEL__RPN__POSITIVE_FRACTION": 0.25},
            {"rpn.background_iou": 0.2, "rpn.foreground_iou": 0.6, "rpn.positive_fraction": 0.25},
        ),
        (
            {"MODEL__RPN__IOU_THRESHOLDS": [0.6], "MODEL__RPN__IOU_LABELS": [0, 1]},
            {"rpn.background_iou": 0.6, "rpn.foreground_iou": 0.6},
        ),
        ({"MODEL__PROPOSAL_GENERATOR__MIN_SIZE": 4}, {"rpn.min_size": float(np.nextafter(np.float32(4), 5))}),
        ({"MODEL__ROI_HEADS__NMS_THRESH_TEST": 0.6}, {"heads.nms_thresh": 0.6}),
        ({"MODEL__ROI_HEADS__IOU_THRESHOLDS": [0.7]}, {"heads.foreground_iou": 0.7}),
        ({"MODEL__ROI_HEADS__IN_FEATURES": ["p2", "p3"]}, {"pooled_levels": 2}),
        ({"TEST__DETECTIONS_PER_IMAGE": 300}, {"heads.top_k": 300}),
        (
            {"MODEL__ROI_BOX_HEAD__BBOX_REG_WEIGHTS": [20.0, 20, 10, 10]},
            {"heads.box_weights": (20.0, 20.0, 10.0, 10.0)},
        ),
        (
            {"MODEL__ROI_BOX_HEAD__POOLER_TYPE": "ROIAlign", "MODEL__ROI_MASK_HEAD__POOLER_TYPE": "ROIAlign"},
            {"heads.aligned": False},
        ),
        (
            {"MODEL__ROI_BOX_HEAD__POOLER_SAMPLING_RATIO": 2, "MODEL__ROI_MASK_HEAD__POOLER_SAMPLING_RATIO": 2},
            {"heads.sampling_ratio": 2},
        ),
        ({"MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION": 28}, {"mask_pool_size": (28, 28), "mask_out_size": 56}),
    ],
)
def test_what_no_shape_shows_is_taken(tmp_path: Path, keys: dict[str, Any], wanted: dict[str, Any]) -> None:
    usual, config = (flat(c) for c in (configuration(tmp_path), configuration(tmp_path, **keys)))
    assert {field: config[field] for field in wanted} == wanted
    assert {field for field in config if config[field] != usual[field]} <= set(wanted)


def flat(config: ModelConfig) -> dict[str, Any]:
    """Return all fields, those of the parts with a dot."""
    parts = {part: getattr(config, part) for part in ("image", "rpn", "heads", "backbone")}
    own = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in parts}
    return own | {f"{name}.{f.name}": getattr(part, f.name) for name, part in parts.items() for f in fields(part)}


def test_several_anchors_and_convolutions(tmp_path: Path) -> None:
    model = slim(
        anchor_sizes=((8, 12), (16, 24), (32, 48), (64, 96), (128, 192)),
        rpn_convs=2,
        box_convs=True,
        head_norm="frozen",
        fpn_norm="frozen",
        pool_size=5,
    )
    arrays = arrays_of(model, DETECTRON2_DEEP_RPN)
    assert "backbone.fpn_lateral2.norm.running_var" in arrays
    assert "roi_heads.box_head.conv4.norm.weight" in arrays
    assert "roi_heads.mask_head.mask_fcn1.norm.weight" in arrays
    assert "proposal_generator.rpn_head.conv.conv1.bias" in arrays
    config = configuration(
        tmp_path,
        arrays,
        MODEL__ANCHOR_GENERATOR__SIZES=[[8, 12], [16, 24], [32, 48], [64, 96], [128, 192]],
        MODEL__RPN__CONV_DIMS=[-1, 8],
        MODEL__FPN__NORM="BN",
        MODEL__ROI_BOX_HEAD__NUM_CONV=4,
        MODEL__ROI_BOX_HEAD__NUM_FC=1,
        MODEL__ROI_BOX_HEAD__NORM="BN",
        MODEL__ROI_MASK_HEAD__NORM="FrozenBN",
        MODEL__ROI_BOX_HEAD__POOLER_RESOLUTION=5,
    )
    assert config == model.config.changed(norm="frozen")
    again = MaskRCNN.from_file(tmp_path / "model_final.pth")
    assert all(np.array_equal(a, again.state_dict()[n]) for n, a in model.state_dict().items())


def test_convolutions_of_the_box_head_without_norms(tmp_path: Path) -> None:
    model = slim(box_convs=True)
    keys = {"MODEL__ROI_BOX_HEAD__NUM_CONV": 4, "MODEL__ROI_BOX_HEAD__NUM_FC": 1}
    config = configuration(tmp_path, arrays_of(model), **keys)
    assert config == model.config.changed(norm="frozen")
    assert config.head_norm is None
    again = MaskRCNN.from_file(tmp_path / "model_final.pth")
    assert all(np.array_equal(a, again.state_dict()[n]) for n, a in model.state_dict().items())
    with pytest.raises(ValueError, match=r"ROI_MASK_HEAD\.NORM is '', but the weights '.*' have such layers\."):
        configuration(tmp_path, arrays_of(slim(box_convs=True, head_norm="frozen")), **keys)


def test_what_training_uses_alone_is_passed_over(tmp_path: Path) -> None:
    values = dict.fromkeys([*IGNORED, *(f"{s}.ANYTHING" for s in IGNORED_SECTIONS)], "whatever")
    usual = configuration(tmp_path)
    assert configuration(tmp_path, **{key.replace(".", "__"): value for key, value in values.items()}) == usual


def test_score_threshold_is_an_argument_of_each_call(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"SCORE_THRESH_TEST is 0.3, .*: call predict\(…, score_thresh=0.3\)"):
        configuration(tmp_path, MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.3)


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize("key", sorted(FIXED))
def test_what_cannot_be_built_is_refused_by_its_key(key: str) -> None:
    other = {bool: not FIXED[key].value, int: 3, float: 0.5, str: "Other"}.get(type(FIXED[key].value), ["x"])
    with pytest.raises(ValueError, match=rf"^config 'x\.yaml': {key} is .*, but {re.escape(FIXED[key].reason)}\.$"):
        read_settings(Settings(ZOO | SLIM_KEYS | {key: other}, "'x.yaml'"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"INPUT__FORMAT": "L"}, r"INPUT\.FORMAT is 'L', but images are 'RGB' or 'BGR'\."),
        ({"MODEL__PIXEL_MEAN": [1, 2]}, r"MODEL\.PIXEL_MEAN must be a sequence of 3 values, got 2: \[1, 2\]\."),
        ({"MODEL__PIXEL_MEAN": [1, 2, 300]}, r"MODEL\.PIXEL_MEAN is \[1, 2, 300\], but pixels are from 0 to 255\."),
        ({"MODEL__PIXEL_STD": [1, 0, 1]}, r"MODEL\.PIXEL_STD is \[1, 0, 1\], but pixels are from 0 to 255\."),
        ({"MODEL__PIXEL_STD": 1.0}, r"MODEL\.PIXEL_STD must be a sequence of 3 values, got 1\.0\."),
        ({"INPUT__MIN_SIZE_TEST": -1}, r"INPUT\.MIN_SIZE_TEST must be"),
        ({"MODEL__RESNETS__DEPTH": 152}, r"MODEL\.RESNETS\.DEPTH must be one of 18, 50, 101, got 152\."),
        ({"MODEL__RESNETS__DEPTH": 101}, r"MODEL\.RESNETS\.DEPTH is 101, but the weights '.*' have 50\."),
        ({"MODEL__RESNETS__NORM": "GN"}, r"MODEL\.RESNETS\.NORM is 'GN', but only batch norm"),
        ({"MODEL__RESNETS__NORM": ""}, r"MODEL\.RESNETS\.NORM is '', but only batch norm"),
        ({"MODEL__RESNETS__WIDTH_PER_GROUP": 64}, r"MODEL\.RESNETS\.WIDTH_PER_GROUP is 64, but it must be 8 where"),
        ({"MODEL__RESNETS__STRIDE_IN_1X1": "maybe"}, r"MODEL\.RESNETS\.STRIDE_IN_1X1 must be True or False"),
        ({"MODEL__FPN__NORM": "GN"}, r"MODEL\.FPN\.NORM is 'GN', but only batch norm can be built"),
        ({"MODEL__FPN__NORM": "BN"}, r"MODEL\.FPN\.NORM is 'BN', but the weights '.*' have no such layers\."),
        ({"MODEL__FPN__OUT_CHANNELS": 16}, r"MODEL\.FPN\.OUT_CHANNELS is 16, but the weights '.*' have 8\."),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [[8]] * 3}, r"SIZES is .*, but there are 5 levels: it must have as many"),
        (
            {"MODEL__ANCHOR_GENERATOR__SIZES": [[8, 9]]},
            r"SIZES is \[\[8, 9\]\], but the weights '.*' have 3 anchors at",
        ),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [[8], [8, 9], [8], [8], [8]]}, r"SIZES is .*, but each level must have"),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [32, 64]}, r"SIZES is \[32, 64\], but the weights '.*' have 3 anchors at"),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [32, [64]]}, r"ANCHOR_GENERATOR\.SIZES\[0\]\[1\] must be a finite"),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": 32}, r"ANCHOR_GENERATOR\.SIZES must be a sequence, got 32\."),
        ({"MODEL__ROI_MASK_HEAD__NORM": "BN"}, r"ROI_MASK_HEAD\.NORM is 'BN', but the weights '.*' have no such"),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [[0]]}, r"ANCHOR_GENERATOR\.SIZES\[0\] must be a number above 0"),
        (
            {"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[1, 2, 3]] * 4 + [[1, 2, 4]]},
            r"ASPECT_RATIOS is .*, but all levels must have the same ratios",
        ),
        ({"MODEL__RPN__IOU_THRESHOLDS": [0.3, 0.5, 0.7]}, r"RPN\.IOU_THRESHOLDS is .*, but anchors are negative"),
        ({"MODEL__RPN__CONV_DIMS": [16]}, r"RPN\.CONV_DIMS is \[16\], but its convolutions have as many channels"),
        ({"MODEL__RPN__CONV_DIMS": [-1, -1]}, r"RPN\.CONV_DIMS is \[-1, -1\], but the weights '.*' have 1\."),
        ({"MODEL__RPN__NMS_THRESH": "high"}, r"MODEL\.RPN\.NMS_THRESH must be a number between 0 and 1, got 'high'"),
        ({"MODEL__RPN__PRE_NMS_TOPK_TEST": 0}, r"MODEL\.RPN\.PRE_NMS_TOPK_TEST must be"),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 80}, r"MODEL\.ROI_HEADS\.NUM_CLASSES is 80, but the weights '.*' have 3\."),
        ({"MODEL__ROI_HEADS__IN_FEATURES": ["p3", "p4"]}, r"ROI_HEADS\.IN_FEATURES is .*, but RoIs are pooled from p2"),
        ({"MODEL__ROI_HEADS__IOU_THRESHOLDS": [0.1, 0.5]}, r"ROI_HEADS\.IOU_THRESHOLDS is .*, but RoIs are background"),
        ({"MODEL__ROI_BOX_HEAD__POOLER_TYPE": "ROIPool", "MODEL__ROI_MASK_HEAD__POOLER_TYPE": "ROIPool"}, "'ROIAlign'"),
        (
            {"MODEL__ROI_MASK_HEAD__POOLER_TYPE": "ROIAlign"},
            r"ROI_MASK_HEAD\.POOLER_TYPE is 'ROIAlign', but it must be",
        ),
        ({"MODEL__ROI_MASK_HEAD__POOLER_SAMPLING_RATIO": 2}, r"ROI_MASK_HEAD\.POOLER_SAMPLING_RATIO is 2, but it must"),
        (
            {"MODEL__ROI_BOX_HEAD__POOLER_RESOLUTION": 14},
            r"RESOLUTION is 14, but the weights '.*' have 49 cells pooled",
        ),
        ({"MODEL__ROI_BOX_HEAD__NUM_CONV": 2}, r"ROI_BOX_HEAD\.NUM_CONV is 2, but with NUM_FC 2: it can be 0 with two"),
        ({"MODEL__ROI_BOX_HEAD__FC_DIM": 32}, r"ROI_BOX_HEAD\.FC_DIM is 32, but the weights '.*' have 16\."),
        (
            {"MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True},
            r"CLS_AGNOSTIC_BBOX_REG is True, but the weights .* not\.",
        ),
        ({"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True}, r"CLS_AGNOSTIC_MASK is True, but the weights .* are not\."),
        ({"MODEL__ROI_BOX_HEAD__BBOX_REG_WEIGHTS": [1, 2]}, r"BBOX_REG_WEIGHTS must be a sequence of 4 values, got 2"),
        ({"TEST__DETECTIONS_PER_IMAGE": -1}, r"TEST\.DETECTIONS_PER_IMAGE must be"),
        (
            {"MODEL__POINT_HEAD__NAME": "x"},
            r"MODEL\.POINT_HEAD\.NAME is no key that detectron2 has, and may change what",
        ),
        ({"INPUT__COLOR": 1}, r"INPUT\.COLOR is no key that detectron2 has"),
        ({"SOFT_NMS": True}, r"SOFT_NMS is no key that detectron2 has"),
        ({"MODEL__RPN": 7}, r"MODEL\.RPN must be a section with keys in it, got 7\."),
    ],
)
def test_values_are_refused_by_the_name_of_their_key(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    if "MODEL__RPN" in keys:
        write_checkpoint(tmp_path / "model_final.pth", SLIM_ARRAYS)
        (tmp_path / "config.yaml").write_text("MODEL: {RPN: 7}")
        with pytest.raises(ValueError, match=message):
            read_weights_file(tmp_path / "model_final.pth")
        return
    with pytest.raises(ValueError, match=message) as caught:
        configuration(tmp_path, **keys)
    assert type(caught.value) is ValueError
    assert "It lies beside the weights: pass conventions='detectron2', with which it is not read" in str(caught.value)


# Without convolutions in the box head these have no effect.
OF_CONVOLUTIONS = {"MODEL.ROI_BOX_HEAD.CONV_DIM", "MODEL.ROI_BOX_HEAD.NORM"}


@pytest.mark.parametrize("key", sorted(set(TAKEN) | set(DERIVED) - OF_CONVOLUTIONS))
def test_wrong_types_are_sentences(key: str) -> None:
    for value in (None, {}, [[]], float("nan"), -(10**30), "", "x"):
        if value == "" and key in ("MODEL.FPN.NORM", "MODEL.ROI_MASK_HEAD.NORM"):
            continue  # none
        with pytest.raises(ValueError, match=rf"^config 'x\.yaml': .*{key.rpartition('.')[2]}.*\.$"):
            read_settings(Settings(ZOO | SLIM_KEYS | {key: value}, "'x.yaml'"))


def test_code_in_a_value_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "model_final.pth", SLIM_ARRAYS)
    made = "!!python/object/apply:eval [\"open('made', 'w')\"]"
    (tmp_path / "config.yaml").write_text(yaml_of(SLIM_KEYS | {"INPUT.MIN_SIZE_TEST": "@"}).replace('"@"', made))
    with pytest.raises(
        ValueError, match=r"INPUT.MIN_SIZE_TEST is .*, but !!python/object/apply:eval is not run: write"
    ):
        read_weights_file(tmp_path / "model_final.pth")
    text = yaml_of(SLIM_KEYS | {"SOLVER.STEPS": "@", "OUTPUT_DIR": "@"}).replace('"@"', made)
    (tmp_path / "config.yaml").write_text(text)
    assert read_weights_file(tmp_path / "model_final.pth").config_file == str(tmp_path / "config.yaml")
    assert not (tmp_path / "made").exists()


def test_part_of_a_configuration_has_the_defaults_of_detectron2(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model_final.pth", SLIM_ARRAYS)
    (tmp_path / "config.yaml").write_text("MODEL: {MASK_ON: true}\nINPUT: {FORMAT: RGB}\n")
    with pytest.raises(
        ValueError, match=r"BACKBONE.NAME is 'build_resnet_backbone' \(detectron2's default, as the file does not have"
    ):
        read_weights_file(path)
    assert "MODEL.BACKBONE.NAME" in DEFAULTS


# ------------------------------------------------------------------ files


def test_bases_are_read_first(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "Base.yaml").write_text(yaml_of(SLIM_KEYS | {"INPUT.FORMAT": "RGB"}))
    (tmp_path / "middle.yaml").write_text("_BASE_: base/Base.yaml\nMODEL: {RPN: {NMS_THRESH: 0.9}}\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: [middle.yaml]\nMODEL: {PIXEL_STD: [57.375, 57.120, 58.395]}\n")
    values = read_detectron2_config(tmp_path / "mine.yaml")
    assert values["INPUT.FORMAT"] == "RGB"
    assert values["MODEL.RPN.NMS_THRESH"] == 0.9
    assert values["MODEL.RPN.PRE_NMS_TOPK_TEST"] == 1000
    path = write_checkpoint(tmp_path / "model_final.pth", SLIM_ARRAYS)
    model = MaskRCNN.from_file(path, config=tmp_path / "mine.yaml")
    assert model.config.image.pixel_std == (57.375 / 255, 57.12 / 255, 58.395 / 255)


def test_bases_of_bases_of_bases(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.yaml").write_text(f"_BASE_: {[f'{i + 1}.yaml'] * 50}\n")
    (tmp_path / "9.yaml").write_text("MODEL: {}\n")
    with pytest.raises(ValueError, match=r"it is one of more than 100 files that a _BASE_ leads to\."):
        read_detectron2_config(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"config '.*config\.yaml' is empty\."),
        ("# nothing\n", r"config '.*config\.yaml' is empty\."),
        ("- 1\n", r"is no configuration of detectron2, but \[1\]\."),
        ("just words\n", r"is no configuration of detectron2, but 'just words'\."),
        ("names: [a, b]\n", r"is no configuration of detectron2: it has no section MODEL\."),
        ("MODEL: 7\n", r"is no configuration of detectron2: it has no section MODEL\."),
        ("model: {_target_: x}\n", r"is a LazyConfig of detectron2, which names Python objects"),
        ("model: {class_path: x}\n", r"is no configuration of detectron2: it has no section MODEL\."),  # Lightning's
        ("a: [\n", r"'.*config\.yaml' is not YAML: "),
        (
            "_BASE_: nowhere.yaml\n",
            r"config '.*': there is no file '.*nowhere\.yaml', its _BASE_: take the config\.yaml",
        ),
        ("_BASE_: detectron2://x.yaml\n", r"_BASE_ is 'detectron2://x\.yaml', and no file is downloaded: take"),
        ("_BASE_: https://a/b.yaml\n", r"_BASE_ is 'https://a/b\.yaml', and no file is downloaded: take"),
        ("_BASE_: config.yaml\n", r"its _BASE_ 'config\.yaml' leads back to it, or through too many files\."),
        ("_BASE_: 7\n", r"_BASE_ must be the path of a file, got 7\."),
        ("_BASE_: ''\n", r"_BASE_ must be the path of a file, got ''\."),
        ("MODEL.MASK_ON: true\nMODEL: {}\n", r"MODEL\.MASK_ON has a dot in its name; sections are nested in YAML\."),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = write_checkpoint(tmp_path / "model_final.pth", SLIM_ARRAYS)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        MaskRCNN.from_file(path, config=tmp_path / "config.yaml")
    with pytest.raises((ValueError, FileNotFoundError, TypeError), match=r"config must be|is a directory|No such file"):
        MaskRCNN.from_file(path, config=7 if text else tmp_path)


def test_python_is_no_configuration(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model_final.pth", SLIM_ARRAYS)
    (tmp_path / "config.py").write_text("model = L(GeneralizedRCNN)(backbone=None)\n")
    with pytest.raises(ValueError, match=r"config '.*config\.py' is a LazyConfig of detectron2, which names Python"):
        MaskRCNN.from_file(path, config=tmp_path / "config.py")


def test_yaml_of_another_program_is_passed_over_with_the_warning(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model_final.pth", SLIM_ARRAYS)
    for text in ("trainer: {epochs: 3}\n", "model: {class_path: x}\n"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.warns(UserWarning, match="no configuration says how they were trained"):
            MaskRCNN.from_file(path)
    (tmp_path / "model_final.yaml").write_text("trainer: {epochs: 3}\n")  # comes before config.yaml, which is read then
    (tmp_path / "config.yaml").write_text(yaml_of(SLIM_KEYS | {"INPUT.FORMAT": "RGB"}))
    assert not MaskRCNN.from_file(path).config.image.bgr


# ------------------------------------------------------------------ without a configuration


def test_one_warning_says_what_is_assumed(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model_final.pth", SLIM_ARRAYS)
    for build in (MaskRCNN.from_file, lambda weights: mask_rcnn_resnet_50_fpn(weights=weights)):
        with pytest.warns(UserWarning, match="settings that no shape shows are taken from the model zoo") as said:
            build(path)
        assert len(said) == 1
        text = str(said[0].message)
        for part in (
            "FORMAT BGR",
            "PIXEL_STD (1.0, 1.0, 1.0)",
            "STRIDE_IN_1X1 True",
            "Put the config.yaml of the run beside them",
        ):
            assert part in text
        assert said[0].filename == __file__
    MaskRCNN.from_file(path, conventions="detectron2")  # says whose settings are meant
    load_weights(slim(), path)  # has settings of its own


def test_published_weights_need_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = arrays_of(slim(80))
    named = write_checkpoint(tmp_path / "model_final_f10217.pkl", arrays)
    assert MaskRCNN.from_file(named).categories[80] == "toothbrush"
    renamed = named.rename(tmp_path / "mine.pkl")
    entry = next(e for e in registry.list_weights() if e.file == "model_final_f10217.pkl")
    monkeypatch.setattr("lucid_maskrcnn.weights.weights_file.identify_by_hash", lambda path: entry)
    assert MaskRCNN.from_file(renamed).categories[80] == "toothbrush"


# ------------------------------------------------------------------ beside other settings, and on the command line


def test_settings_of_the_call_stand_above_the_configuration(tmp_path: Path) -> None:
    configuration(tmp_path, INPUT__MIN_SIZE_TEST=640, INPUT__FORMAT="RGB")
    path = tmp_path / "model_final.pth"
    config = MaskRCNN.from_file(path, min_size=320, heads={"nms_thresh": 0.4}).config
    assert (config.image.min_size, config.image.bgr, config.heads.nms_thresh) == (320, False, 0.4)
    assert MaskRCNN.from_file(path, conventions="detectron2").config.image.bgr
    assert mask_rcnn_resnet_50_fpn(weights=path).config.image.min_size == 640  # found by itself there, too


def test_configuration_for_other_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml_of(SLIM_KEYS))
    save_weights(slim(), tmp_path / "ours.safetensors")
    with pytest.raises(ValueError, match=r"config must be given for detectron2's weights alone, and '.*' has a config"):
        MaskRCNN.from_file(tmp_path / "ours.safetensors", config=tmp_path / "config.yaml")
    assert MaskRCNN.from_file(tmp_path / "ours.safetensors").config.image.bgr


def test_convert_with_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_checkpoint(tmp_path / "model_final.pth", SLIM_ARRAYS)
    (tmp_path / "run.yaml").write_text(yaml_of(SLIM_KEYS | {"INPUT.FORMAT": "RGB"}))
    (tmp_path / "coco.json").write_text(
        '{"categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}, {"id": 9, "name": "c"}]}'
    )
    command = ["convert", str(path), str(tmp_path / "out.safetensors"), "--config", str(tmp_path / "run.yaml")]
    assert main([*command, "--categories", str(tmp_path / "coco.json")]) == 0
    assert not capsys.readouterr().err
    model = MaskRCNN.from_file(tmp_path / "out.safetensors")
    assert not model.config.image.bgr
    assert model.categories == {1: "a", 2: "b", 3: "c"}
    assert model.categories.ids == {1: 3, 2: 7, 3: 9}
    assert main([*command[:3], "--config", str(tmp_path / "nowhere.yaml")]) == 2
    assert "nowhere.yaml': No such file or directory" in capsys.readouterr().err


def test_weights_loaded_into_a_model_with_other_settings(tmp_path: Path) -> None:
    configuration(tmp_path, INPUT__FORMAT="RGB", MODEL__PIXEL_STD=[58.395, 57.12, 57.375])
    path = tmp_path / "model_final.pth"
    with pytest.warns(
        UserWarning, match=r"config.yaml' says: image.bgr=False, not True; image.pixel_mean=.*; image.pix"
    ):
        load_weights(slim(), path)
    load_weights(MaskRCNN.from_file(path), path)


def test_info_says_where_settings_are_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration(tmp_path, INPUT__FORMAT="RGB")
    path = tmp_path / "model_final.pth"
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"configuration  {tmp_path / 'config.yaml'}\n" in out
    assert '"bgr": false' in out
    (tmp_path / "config.yaml").unlink()
    assert main(["info", str(path)]) == 0
    assert "configuration  none: settings that no shape shows are assumed, the model zoo's\n" in capsys.readouterr().out


def test_names_must_be_as_many_as_the_classes(tmp_path: Path) -> None:
    configuration(tmp_path)
    path = tmp_path / "model_final.pth"
    assert MaskRCNN.from_file(path, categories={1: "a", 2: "b", 3: "c"}).categories == {1: "a", 2: "b", 3: "c"}
    with pytest.raises(ValueError, match=r"categories must name each of the 3 classes of weights '.*', got 2 names"):
        MaskRCNN.from_file(path, categories={1: "a", 2: "b"})
    with pytest.raises(ValueError, match="categories must have labels from 1 to num_classes, 3"):
        MaskRCNN.from_file(path, categories={1: "a", 2: "b", 3: "c", 4: "d"})
    (tmp_path / "coco.json").write_text('{"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}')
    with pytest.raises(ValueError, match=r"coco.json' has 2 categories with ids up to 2, but the model has 3 classes"):
        MaskRCNN.from_file(path, categories=tmp_path / "coco.json")
