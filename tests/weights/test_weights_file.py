"""Files of weights, torchvision's names, and the factories that put them together."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import inspect
import json
import math
import os
import random
import re
import shutil
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lucid
import lucid.nn as nn
import numpy as np
import pytest
from checkpoint_files import torch_save
from data.torchvision import recipe
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lucid_maskrcnn import (
    MaskRCNN,
    mask_rcnn_resnet_18_fpn,
    mask_rcnn_resnet_50_fpn,
    mask_rcnn_resnet_50_fpn_v2,
    mask_rcnn_resnet_101_fpn,
)
from lucid_maskrcnn.config import ModelConfig
from lucid_maskrcnn.models import _ResNetFPNBackbone
from lucid_maskrcnn.models.layers import Conv2d
from lucid_maskrcnn.transforms import resized_size
from lucid_maskrcnn.weights import (
    load_backbone,
    load_weights,
    read_weights_file,
    save_weights,
    write_converted,
)
from lucid_maskrcnn.weights.naming import DETECTRON2, TORCHVISION

SLIM = {"width": 8, "fpn_channels": 8, "hidden_dim": 16, "mask_hidden_channels": 8}


def slim(num_classes: int | None = 3, **settings: object) -> MaskRCNN:
    return mask_rcnn_resnet_18_fpn(num_classes, **{**SLIM, **settings})


def same(a: MaskRCNN, b: MaskRCNN) -> bool:
    theirs = b.state_dict()
    return all(np.array_equal(array, theirs[name]) for name, array in a.state_dict().items())


# ------------------------------------------------------------------ this package's files


def test_save_and_load_weights(tmp_path: Path) -> None:
    model, other = slim(), slim()
    assert not same(model, other)
    save_weights(model, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert same(model, other)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]  # nothing temporary is left


def test_float16_of_matrices_keeps_vectors_float32(tmp_path: Path) -> None:
    model = slim()
    model.backbone.body.bn1.running_var.data = np.full(8, 1e6, np.float32)  # beyond float16
    save_weights(model, tmp_path / "half.safetensors", dtype="float16")
    for name, array in load_file(tmp_path / "half.safetensors").items():
        assert array.dtype == (np.float16 if array.ndim > 1 else np.float32), name
    other = slim()
    load_weights(other, tmp_path / "half.safetensors")
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(other.state_dict()[name], array, rtol=1e-3, atol=1e-6)
        assert other.state_dict()[name].dtype == np.float32


def test_model_from_file(tmp_path: Path) -> None:
    settings = {"norm": "batch", "min_size": 64, "max_size": 96, "top_k": 7, "categories": {1: "cat", 2: "dog"}}
    model = mask_rcnn_resnet_18_fpn(2, **settings, **SLIM)
    path = tmp_path / "model.safetensors"
    save_weights(model, path, metadata={"licence": "CC0-1.0"})
    again = mask_rcnn_resnet_18_fpn(weights=path)
    assert same(model, again)
    assert again.config == model.config.changed(norm="frozen", fpn_norm="frozen")
    assert (again.config.image.min_size, again.config.image.max_size, again.config.heads.top_k) == (64, 96, 7)
    assert again.categories == {1: "cat", 2: "dog"}
    assert read_weights_file(path).metadata["licence"] == "CC0-1.0"
    assert mask_rcnn_resnet_18_fpn(weights=path, min_size=32).config.image.min_size == 32
    (found,) = again.predict(np.zeros((40, 50, 3), np.uint8), score_thresh=0)
    assert len(found) <= 7
    assert set(found.names) <= {"cat", "dog"}
    with pytest.raises(ValueError, match="of mask_rcnn_resnet_18_fpn, not of mask_rcnn_resnet_50_fpn"):
        mask_rcnn_resnet_50_fpn(weights=path)


def test_image_scale_is_saved_and_min_size_overrides_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    image = {"scale": 0.5, "pixel_mean": [0.5, 0.5, 0.5]}
    save_weights(mask_rcnn_resnet_18_fpn(1, norm="batch", image=image, max_size=96, **SLIM), path)
    again = mask_rcnn_resnet_18_fpn(weights=path)
    assert resized_size((100, 60), again.config.image) == (50, 30)
    sized = mask_rcnn_resnet_18_fpn(weights=path, min_size=48)
    assert resized_size((100, 60), sized.config.image) == (80, 48)
    assert sized.config.image.pixel_mean == (0.5, 0.5, 0.5)


def test_other_num_classes_initializes_class_layers_and_warns(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = slim(categories={1: "a", 2: "b", 3: "c"})
    save_weights(model, path)
    message = r"num_classes=5 .* 3, background not counted: cls_score, bbox_pred, mask_head.mask_predictor are"
    with pytest.warns(UserWarning, match=message):
        other = mask_rcnn_resnet_18_fpn(5, weights=path)
    assert other.categories is None
    assert other.cls_score.weight.shape == (6, 16)
    assert np.array_equal(other.fc1.weight.data, model.fc1.weight.data)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 64, (10**15).to_bytes(8, "little") + b"{}"])
def test_invalid_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.safetensors' is (not a checkpoint|empty)"):
        mask_rcnn_resnet_18_fpn(weights=path)


def test_unknown_weights() -> None:
    with pytest.raises(FileNotFoundError, match="weights must be one of 'NUCLEI' or the path"):
        mask_rcnn_resnet_18_fpn(weights="COCO")


def test_weights_and_weights_backbone_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="weights and weights_backbone exclude each other"):
        mask_rcnn_resnet_18_fpn(weights="NUCLEI", weights_backbone={})


def test_unknown_dtype() -> None:
    with pytest.raises(ValueError, match="dtype must be one of 'float32', 'float16', got 'int8'"):
        save_weights(slim(), "never.safetensors", dtype="int8")
    assert not Path("never.safetensors").exists()


# ------------------------------------------------------------------ torchvision's names


def in_torchvision_names(model: MaskRCNN) -> dict[str, np.ndarray]:
    """Turn a model's weights into what torchvision would have saved, rows of the background included."""
    arrays = {}
    for name, array in model.state_dict().items():
        rows = 4 if name.startswith("bbox_pred") else 1 if name.startswith("mask_head.mask_predictor") else 0
        filler = np.full((rows, *array.shape[1:]), 9, np.float32)
        arrays[TORCHVISION.theirs(name)] = np.concatenate([filler, array]) if rows else array
    return arrays


@pytest.mark.parametrize(
    ("factory", "arch"),
    [(mask_rcnn_resnet_50_fpn, "maskrcnn_resnet50_fpn"), (mask_rcnn_resnet_101_fpn, "maskrcnn_resnet101_fpn")],
)
def test_names_and_shapes_are_torchvisions(factory: object, arch: str) -> None:
    model = factory(5)
    wanted = {name: shape for name, shape in recipe.shapes(arch, 6).items() if not name.endswith("num_batches_tracked")}
    assert {name: a.shape for name, a in in_torchvision_names(model).items()} == wanted


def test_torchvision_weights_from_mapping_and_file(tmp_path: Path) -> None:
    model = slim()
    arrays = in_torchvision_names(model) | {"backbone.body.bn1.num_batches_tracked": np.array(3)}
    save_file(arrays, tmp_path / "tv.safetensors")
    for source in (arrays, tmp_path / "tv.safetensors", str(tmp_path / "tv.safetensors")):
        other = slim()
        load_weights(other, source)
        assert same(model, other)


def test_reference_training_checkpoint_of_torchvision(tmp_path: Path) -> None:
    model = slim()
    arrays = in_torchvision_names(model)
    checkpoint = {
        "model": arrays,
        "optimizer": {"state": {0: {"momentum_buffer": np.ones(3, np.float32)}}, "param_groups": [{"lr": 0.02}]},
        "lr_scheduler": {"milestones": Counter([16, 22]), "last_epoch": 3},
        "args": argparse.Namespace(data_path=Path("/data/coco"), device="cuda", lr_steps=[16, 22], tags={"a"}),
        "epoch": 3,
        "scaler": defaultdict(float, scale=65536.0),
    }
    path = torch_save(tmp_path / "model_3.pth", checkpoint)
    other = slim()
    load_weights(other, path)
    assert same(model, other)
    assert read_weights_file(path).place == "model"

    averaged = {f"module.{name}": array * 0.5 for name, array in arrays.items()} | {"module.n_averaged": np.array(3)}
    path = torch_save(tmp_path / "model_3.pth", {**checkpoint, "model_ema": averaged})
    with pytest.warns(UserWarning, match="holds several sets of weights: model_ema .* is used, not model;") as caught:
        load_weights(other, path)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(other.state_dict()["fc1.weight"], model.state_dict()["fc1.weight"] * 0.5)


def test_checkpoint_of_a_stopped_run_gives_its_averaged_weights(tmp_path: Path) -> None:
    model = slim(norm="batch", categories={1: "a", 2: "b", 3: "c"})
    arrays = {name: np.array(array) for name, array in model.state_dict().items()}
    content = {f"model.{n}": a * 2 for n, a in arrays.items()} | {f"momentum.{n}": a * 3 for n, a in arrays.items()}
    header = {"format": "lucid_maskrcnn checkpoint", "config": json.dumps(model.config.to_dict()), "state": "{}"}
    path = tmp_path / "checkpoint-00000002.safetensors"
    save_file(content, path, header)
    opened = MaskRCNN.from_file(path)  # without a warning: momentum is no choice
    np.testing.assert_array_equal(opened.state_dict()["fc1.weight"], arrays["fc1.weight"] * 2)
    save_file(content | {f"ema.{n}": a for n, a in arrays.items()}, path, header)
    with pytest.warns(UserWarning, match=r"\(prefix ema.\) is used, not \(prefix model.\);"):
        opened = MaskRCNN.from_file(path)
    assert same(opened, model)
    assert opened.config.categories == model.config.categories


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("roi_head.bbox_head.shared_fcs.0.weight", "mmdetection"),
        ("model.0.conv.weight", "Ultralytics YOLO"),
        ("transformer.encoder.layers.0.linear1.weight", "DETR"),
        ("image_encoder.patch_embed.proj.weight", "Segment Anything"),
    ],
)
def test_models_of_other_libraries_are_named(tmp_path: Path, name: str, library: str) -> None:
    one = np.ones((1, 1), np.float32)
    resnet = {"backbone.conv1.weight": one, "backbone.layer1.0.conv1.weight": one}
    path = torch_save(tmp_path / "x.pth", {"state_dict": {name: one}, "meta": {}})
    with pytest.raises(ValueError, match=f"holds a model of {library}"):
        read_weights_file(path)
    with pytest.raises(ValueError, match=f"holds a model of {library}"):
        read_weights_file(torch_save(path, {"state_dict": {**resnet, name: one}}))


def test_weights_of_any_float_dtype_become_float32() -> None:
    model, other = slim(), slim()
    load_weights(other, {n: a.astype(np.float64) for n, a in in_torchvision_names(model).items()})
    assert same(model, other)
    assert all(a.dtype == np.float32 for a in other.state_dict().values())


def test_loaded_weights_are_copies() -> None:
    model = slim()
    arrays = in_torchvision_names(slim())
    load_weights(model, arrays)
    before = model.fc1.weight.data.copy()
    arrays["roi_heads.box_head.fc6.weight"][:] = 0
    assert np.array_equal(model.fc1.weight.data, before)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("roi_heads.box_head.fc6.bias"), r"missing: roi_heads.box_head.fc6.bias\."),
        (lambda w: w.update(extra=np.zeros(1)), r"unexpected: extra\."),
        (
            lambda w: w.update({"rpn.head.conv.0.0.bias": np.zeros(9, np.float32)}),
            r"wrong shapes: rpn.head.conv.0.0.bias has \(9,\), wanted \(8,\)",
        ),
        (
            lambda w: w.update({"rpn.head.conv.0.0.bias": np.zeros(8, np.int64)}),
            r"not floating point: rpn.head.conv.0.0.bias is int64, as in a quantized model",
        ),
        (
            lambda w: w.update({"roi_heads.mask_predictor.mask_fcn_logits.bias": np.float32(1)}),
            r"wrong shapes: roi_heads.mask_predictor.mask_fcn_logits.bias has \(\)",
        ),
    ],
)
def test_weights_that_do_not_fit_leave_the_model_unchanged(spoil: object, message: str) -> None:
    model, before = slim(), None
    before = model.state_dict()
    arrays = in_torchvision_names(slim())
    spoil(arrays)
    with pytest.raises(ValueError, match=message):
        load_weights(model, arrays)
    assert all(np.array_equal(a, before[n]) for n, a in model.state_dict().items())


def test_weights_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"weights must be a name, .* or a mapping of names to arrays, got \[1, 2\]"):
        load_weights(slim(), [1, 2])


def test_backbone_from_a_classifier() -> None:
    source, model = slim(), slim()
    names = {n.removeprefix("backbone.body."): a for n, a in source.state_dict().items() if ".body." in n}
    names |= {"fc.weight": np.zeros((10, 64)), "fc.bias": np.zeros(10), "bn1.num_batches_tracked": np.array(1)}
    load_backbone(model, names)
    assert same(source.backbone.body, model.backbone.body)
    built = slim(weights_backbone=names)
    assert same(source.backbone.body, built.backbone.body)
    assert not built.backbone.body.conv1.weight.requires_grad  # three of five layers are trained
    assert built.backbone.body.layer2.parameters().__next__().requires_grad


# ------------------------------------------------------------------ the factories


def test_factory_defaults_are_torchvisions() -> None:
    model = slim(None)
    assert model.num_classes == 90
    assert (model.config.image.min_size, model.config.image.max_size) == (800, 1333)
    assert [c[1][2] - c[1][0] for c in model.rpn.anchor_generator.cells] == [32, 64, 128, 256, 512]
    assert model.config.heads.top_k == 100


@pytest.mark.parametrize("layers", range(6))
def test_trainable_layers_count_from_the_top(layers: int) -> None:
    body = _ResNetFPNBackbone(18, width=4, out_channels=4, norm="batch", trainable_layers=layers).body
    trained = [
        all(p.requires_grad for p in part.parameters())
        for part in (body.layer4, body.layer3, body.layer2, body.layer1, body.conv1)
    ]
    assert trained == [i < layers for i in range(5)]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"trainable_layers": 6}, ValueError, "trainable_layers must be an integer from 0 to 5, got 6"),
        ({"norm": "group"}, ValueError, "norm must be one of 'frozen', 'batch', got 'group'"),
        ({"colour": "red"}, TypeError, r"mask_rcnn_resnet_18_fpn\(\) has no argument 'colour'"),
        ({"num_classes": 0}, ValueError, "num_classes must be an integer from 1 to 1000000, got 0"),
    ],
)
def test_factory_wrong_arguments(settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        slim(**settings)


def test_initialization_is_reproducible() -> None:
    lucid.random.seed(3)
    first = slim()
    lucid.random.seed(3)
    assert same(first, slim())


def test_header_is_json(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(slim(), path)
    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["config"])
    assert (header["config_version"], header["num_classes"], header["backbone"]["width"]) == (2, 3, 8)
    assert ModelConfig.from_dict(header) == slim().config


# ------------------------------------------------------------------ headers that are wrong


def rewritten(path: Path, **entries: str | None) -> Path:
    """Replace entries of a file's header; None takes one out."""
    with safe_open(path, "numpy") as file:
        metadata = file.metadata() | entries
    save_file(load_file(path), path, metadata={name: text for name, text in metadata.items() if text is not None})
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A slim model's file, and the configuration in its header."""
    path = tmp_path_factory.mktemp("saved") / "slim.safetensors"
    model = slim(categories={1: "a", 2: "b", 3: "c"})
    save_weights(model, path)
    return path, json.loads(json.dumps(model.config.to_dict()))


def copy_of(saved: tuple[Path, dict[str, Any]], folder: Path) -> tuple[Path, dict[str, Any]]:
    path, config = saved
    return Path(shutil.copy(path, folder / path.name)), copy.deepcopy(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 10**9}, "num_classes must be an integer from 1 to 1000000, got 1000000000"),
        ({"num_classes": 999_999}, r"wrong shapes: .*cls_score.weight has \(4, 16\), wanted \(100"),
        ({"hidden_dim": 60_000}, r"wrong shapes: .*fc1.weight has \(16, 392\), wanted \(60000, 392\)"),
        ({"pool_size": [200, 200]}, r"fc1.weight has \(16, 392\), wanted \(16, 320000\)"),
        ({"rpn_convs": 2}, r"missing: .*rpn.head.conv2.weight"),
        ({"backbone": {"depth": 18, "width": 0, "out_channels": 8}}, "width must be an integer from 1 to 1024, got 0"),
        ({"backbone": {"depth": 50, "width": 8, "out_channels": 8}}, "missing: backbone.body.layer1.0.conv3.weight"),
        ({"anchor_sizes": [8, 16, 32, 64, [128, 256]]}, "anchor_sizes must name equally many sizes for every level"),
        ({"anchor_size": [8]}, "ModelConfig has no argument 'anchor_size'; did you mean 'anchor_sizes'"),
        ({"heads": {"sampling_ratio": 10**6}}, "sampling_ratio must be an integer from 0 to 256, got 1000000"),
        ({"image": {"pixel_mean": [123, 116, 103]}}, r"pixel_mean must be of pixel values in \[0, 1\]"),
        ({"config_version": 7, "cascade": 3}, r"written by a newer version of lucid_maskrcnn \(config_version 7"),
        ({"backbone": None}, "are of a model on a backbone that is no ResNet-FPN of this package"),
    ],
)  # fmt: skip
def test_header_that_does_not_fit_its_arrays_is_refused(
    saved: tuple[Path, dict[str, Any]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path, config = copy_of(saved, tmp_path)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        MaskRCNN.from_file(rewritten(path, config=json.dumps(config | change)))
    assert tracemalloc.get_traced_memory()[1] < 32e6  # the largest of these models would have 60 GB
    tracemalloc.stop()


def test_any_value_in_a_header_builds_or_is_refused_in_a_sentence(
    saved: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Every field is replaced by values of other kinds and sizes; a sample of them, as each file is written."""
    path, config = copy_of(saved, tmp_path)
    values = [None, 0, -1, 1e9, 10**9, 10**30, "x", "", True, [], {}, [1, 2, 3, 4, 5], 1.5, math.nan, {"a": 1}, [[[]]]]
    places = [(name,) for name in config] + [(p, n) for p in ("image", "rpn", "heads", "backbone") for n in config[p]]
    cases = [(place, value) for place in places for value in values]
    for place, value in random.Random(0).sample(cases, 160):
        changed = copy.deepcopy(config)
        inner = changed if len(place) == 1 else changed[place[0]]
        inner[place[-1]] = value
        said = outcome(rewritten(path, config=json.dumps(changed)))
        assert said == "3 classes" or repr(str(path)) in said, (place, value)


def outcome(path: Path) -> str:
    """Return what a file gives: a model, or the sentence of a ValueError."""
    try:
        return f"{MaskRCNN.from_file(path).num_classes} classes"
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "[" * 100_000, '{"num_classes": 1e999}'])
def test_header_that_is_no_configuration_is_refused(
    saved: tuple[Path, dict[str, Any]], tmp_path: Path, text: str
) -> None:
    path, _ = copy_of(saved, tmp_path)
    with pytest.raises(ValueError, match=r"slim.safetensors' has a header whose configuration is not valid: "):
        MaskRCNN.from_file(rewritten(path, config=text))


@pytest.mark.parametrize(
    "value", ["9" * 400, "-" + "9" * 400, "1e400", "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000]
)
@pytest.mark.parametrize("key", ["num_classes", "hidden_dim", "backbone", "pool_size", "image", "rpn"])
def test_numbers_of_400_digits_and_brackets_in_brackets_in_a_header(
    saved: tuple[Path, dict[str, Any]], tmp_path: Path, key: str, value: str
) -> None:
    path, config = copy_of(saved, tmp_path)
    text = json.dumps(config | {key: "VALUE"}).replace('"VALUE"', value)
    with pytest.raises(
        ValueError, match=r"slim.safetensors' has a header whose configuration is not valid: "
    ) as caught:
        MaskRCNN.from_file(rewritten(path, config=text))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"categories": "5"}, "categories must be a mapping of labels to names, got 5"),
        ({"categories": "[1]"}, r"categories must be a mapping of labels to names, got \[1\]"),
        ({"categories": '{"x": "a"}'}, "a label of categories must be a positive integer, got 'x'"),
        ({"arguments": '{"depth": 18, "self": 1}'}, "the header has no argument 'self'"),
        ({"arguments": '{"depth": 18, "categories": {}}'}, "the header has no argument 'categories'"),
        ({"arguments": '{"depth": ' + "9" * 5000 + "}"}, "arguments must be JSON, got "),
        ({"arguments": "[]"}, "arguments must be a mapping of a factory's arguments"),
    ],
)
def test_wrong_header_of_version_0_is_refused(
    saved: tuple[Path, dict[str, Any]], tmp_path: Path, entries: dict[str, str], message: str
) -> None:
    path, _ = copy_of(saved, tmp_path)
    old = {"config": None, "arguments": '{"depth": 18, "num_classes": 3}', "categories": "{}"} | entries
    with pytest.raises(ValueError, match=f"slim.safetensors' has a header whose configuration is not valid: {message}"):
        MaskRCNN.from_file(rewritten(path, **old))


def test_config_of_another_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config must be of this model, got another num_classes or backbone"):
        save_weights(slim(), tmp_path / "never.safetensors", config=ModelConfig(7))
    assert not list(tmp_path.iterdir())


def test_file_of_version_0_opens(saved: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, config = copy_of(saved, tmp_path)
    arguments = {
        "depth": 18,
        "num_classes": 3,
        "min_size": 64,
        "max_size": 96,
        "proposals": {"nms_thresh": 0.6},
        **SLIM,
    }
    categories = json.dumps({"1": "a", "2": "b", "3": "c"})
    old = {"config": None, "arguments": json.dumps(arguments), "categories": categories, "figures": '{"segm/AP": 0.5}'}
    file = read_weights_file(rewritten(path, **old))
    assert file.metadata["metrics"] == '{"segm/AP": 0.5}'
    assert not file.metadata.keys() & {"arguments", "categories", "figures"}
    model = mask_rcnn_resnet_18_fpn(weights=path)
    given = ModelConfig.from_dict(config).changed(min_size=64, max_size=96, rpn={"nms_thresh": 0.6})
    assert model.config == given.changed(norm="frozen")
    save_weights(model, path)  # in the present form
    assert MaskRCNN.from_file(path).config == model.config


def test_model_on_a_backbone_of_ones_own_is_loaded_but_not_rebuilt(tmp_path: Path) -> None:
    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Conv2d(3, 4, 3, stride=4, padding=1)

        def forward(self, x: Any) -> Any:
            return self.conv(x, relu=True)

    model, other = (MaskRCNN(Backbone(), 4, 2, anchor_stride=4, hidden_dim=8, mask_hidden_channels=4) for _ in range(2))
    assert model.config.backbone is None
    save_weights(model, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match=r"cannot be rebuilt from a file: build the model and call load_weights"):
        MaskRCNN.from_file(tmp_path / "own.safetensors")
    load_weights(other, tmp_path / "own.safetensors")
    assert same(model, other)


# ------------------------------------------------------------------ keywords of the factories


FACTORIES = (
    mask_rcnn_resnet_18_fpn, mask_rcnn_resnet_50_fpn, mask_rcnn_resnet_50_fpn_v2, mask_rcnn_resnet_101_fpn
)  # fmt: skip


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("num_class", "num_classes"),
        ("pretrained", "weights"),
        ("pretrained_backbone", "weights_backbone"),
        ("trainable_backbone_layers", "trainable_layers"),
        ("box_detections_per_img", "top_k"),
        ("min_sise", "min_size"),
    ],
)
def test_misspelt_keyword_is_refused_with_the_nearest_one(factory: Any, wrong: str, right: str) -> None:
    with pytest.raises(TypeError) as caught:
        factory(**{wrong: 1})
    assert str(caught.value) == f"{factory.__name__}() has no argument {wrong!r}; did you mean {right!r}?"


@pytest.mark.parametrize("factory", FACTORIES)
def test_factory_shows_its_keywords(factory: Any) -> None:
    parameters = inspect.signature(factory).parameters
    assert next(iter(parameters)) == "num_classes"
    assert all(p.kind is p.KEYWORD_ONLY and p.default is None for n, p in parameters.items() if n != "num_classes")
    settings = {f.name for f in dataclasses.fields(ModelConfig)} - {
        "feat_channels",
        "use_fpn",
        "anchor_stride",
        "backbone",
    }
    assert settings <= parameters.keys()
    assert factory.__doc__.startswith("Build ")
    with pytest.raises(TypeError, match=r"takes one positional argument, num_classes, got 2: name the others"):
        factory(3, "NUCLEI")


def test_default_of_predict_written_out_changes_nothing() -> None:
    model = mask_rcnn_resnet_18_fpn(weights="NUCLEI")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    (found,) = model.predict(pixels, score_thresh=0.0)
    (same_found,) = model.predict(pixels, score_thresh=0.0, nms_thresh=None, top_k=None)
    (written,) = model.predict(pixels, score_thresh=0.0, nms_thresh=0.3, top_k=400)  # the weights' own
    assert len(found) > 0
    for other in (same_found, written):
        np.testing.assert_array_equal(other.boxes.numpy(), found.boxes.numpy())


def test_weights_of_other_conventions_warn() -> None:
    arrays = in_torchvision_names(slim())
    with pytest.warns(UserWarning, match="trained with torchvision's conventions and the model has detectron2's"):
        load_weights(slim(conventions="detectron2"), arrays)


@pytest.mark.parametrize("model", [None, "model", lucid.nn.ReLU()])
def test_backbone_of_no_mask_rcnn_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="model must be a MaskRCNN on a ResNet-FPN of this package"):
        load_backbone(model, {})


# ------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: save_weights(None, "x.safetensors"), TypeError, "model must be a model, got None."),
        (lambda m: save_weights(m, None), TypeError, "path must be a path as str or Path, got None."),
        (
            lambda m: save_weights(m, b"x.safetensors"),
            TypeError,
            "path must be a path as str or Path, got b'x.safetens",
        ),
        (lambda m: save_weights(m, ""), ValueError, "path must not be an empty string."),
        (lambda m: save_weights(m, "x.pth"), ValueError, "path must end in .safetensors, the format that is written"),
        (lambda m: save_weights(m, "x"), ValueError, "path must end in .safetensors, the format that is written, got"),
        (lambda m: save_weights(m, "x.safetensors", dtype=np.float16), TypeError, "dtype must be one of 'float32', 'f"),
        (lambda m: save_weights(m, "x.safetensors", dtype="half"), ValueError, "dtype must be one of 'float32', 'f"),
        (
            lambda m: save_weights(m, "x.safetensors", config={}),
            TypeError,
            "config must be a ModelConfig or None, got {}",
        ),
        (
            lambda m: save_weights(m, "x.safetensors", metadata=[1]),
            TypeError,
            "metadata must be a mapping of str to str",
        ),
        (
            lambda m: save_weights(m, "x.safetensors", metadata={"a": 1}),
            TypeError,
            "metadata['a'] must be a string; json",
        ),
        (
            lambda m: save_weights(m, "x.safetensors", metadata={1: "a"}),
            TypeError,
            "a key of metadata must be a string",
        ),
        (
            lambda m: save_weights(m, "x.safetensors", metadata={"config": ""}),
            ValueError,
            "must not have the key 'config'",
        ),
        (
            lambda m: save_weights(m, "x.safetensors", metadata={"name": "\ud800"}),
            ValueError,
            "metadata['name'] must be Unicode text",
        ),
        (lambda m: load_weights(None, {}), TypeError, "model must be a model, got None."),
        (
            lambda m: load_weights(m, None),
            TypeError,
            "weights must be a name, the path of a file or a mapping of names",
        ),
        (
            lambda m: load_weights(m, True),
            TypeError,
            "weights must be a name, the path of a file or a mapping of names",
        ),
        (
            lambda m: load_weights(m, [1, 2]),
            TypeError,
            "weights must be a name, the path of a file or a mapping of names",
        ),
        (lambda m: load_weights(m, ""), ValueError, "weights must not be an empty string."),
        (
            lambda m: load_weights(m, "."),
            ValueError,
            "weights must be a name or the path of a file: '.' is a directory.",
        ),
        (lambda m: load_weights(m, {1: np.zeros(2)}), TypeError, "a key of weights must be a string, got 1."),
        (lambda m: load_weights(m, {"a": None}), TypeError, "weights['a'] must be an array of numbers, got None."),
        (lambda m: load_weights(m, {"a": "x"}), TypeError, "weights['a'] must be an array of numbers, got 'x'."),
        (lambda m: load_weights(m, {}), ValueError, "weights holds no Mask R-CNN"),
        (lambda m: load_weights(m, "NUCLEI"), ValueError, "weights 'NUCLEI' do not fit the model; missing: "),
        (
            lambda m: load_backbone(m, None),
            TypeError,
            "weights must be a mapping of names to arrays or the path",
        ),
        (lambda m: load_backbone(m.fc1, {}), TypeError, "model must be a MaskRCNN on a ResNet-FPN of this package"),
        (lambda m: read_weights_file(None), TypeError, "path must be a path as str or Path, got None."),
        (lambda m: read_weights_file("."), ValueError, "'.' is a directory."),
        (lambda m: write_converted({}, "x.safetensors"), TypeError, "weights must be what read_weights_file() returns"),
        (lambda m: MaskRCNN.from_file(None), TypeError, "got None."),
        (lambda m: mask_rcnn_resnet_18_fpn(weights=True), TypeError, "got True."),
        (lambda m: mask_rcnn_resnet_18_fpn(weights=""), ValueError, "weights must not be an empty string."),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[MaskRCNN], object], error: type, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=re.escape(message)):
        call(slim())
    assert not list(tmp_path.iterdir())


def test_weights_may_be_tensors_or_lists() -> None:
    model, other = slim(), slim()
    arrays = dict(in_torchvision_names(model))
    arrays["rpn.head.conv.0.0.bias"] = lucid.Tensor(arrays["rpn.head.conv.0.0.bias"])
    arrays["roi_heads.box_head.fc6.bias"] = arrays["roi_heads.box_head.fc6.bias"].tolist()
    load_weights(other, arrays)
    assert same(model, other)


def test_float16_refuses_weights_beyond_its_range(tmp_path: Path) -> None:
    model = slim()
    model.fc1.weight.data[0, 0] = -1e5
    with pytest.raises(ValueError, match=r"dtype 'float16' cannot hold fc1.weight, which has the value -1e\+05: use"):
        save_weights(model, tmp_path / "half.safetensors", dtype="float16")
    assert not list(tmp_path.iterdir())
    model.fc1.weight.data[0, 0] = np.inf  # of a diverged run: kept as it is
    save_weights(model, tmp_path / "half.safetensors", dtype="float16")


@pytest.mark.parametrize("scale", [1e-9, 1e-6])  # all become zero, or keep one digit
def test_float16_refuses_weights_that_it_would_make_zero(tmp_path: Path, scale: float) -> None:
    model = slim()
    model.fc1.weight.data *= scale / np.abs(model.fc1.weight.data).max()
    with pytest.raises(ValueError, match=r"dtype 'float16' cannot hold fc1.weight, .* below 6.1e-05: use 'float32'"):
        save_weights(model, tmp_path / "half.safetensors", dtype="float16")
    assert not list(tmp_path.iterdir())
    model.fc1.weight.data[:] = 0  # stays what it is
    save_weights(model, tmp_path / "half.safetensors", dtype="float16")


BAD_VALUES = {
    "NaN": ("fc1.weight", np.nan, "fc1.weight has NaN"),
    "infinite": ("fc1.bias", np.inf, "fc1.bias has infinite values"),
    "minus infinite": ("fc1.bias", -np.inf, "fc1.bias has infinite values"),
    "absurdly large": ("cls_score.weight", -1e30, r"cls_score.weight has the value -1e\+30"),
    "variance below zero": ("backbone.body.bn1.running_var", -0.5, "bn1.running_var has the negative variance -0.5"),
    "variance beyond all": ("backbone.body.bn1.running_var", 3e38, r"bn1.running_var has the value 3e\+38"),
    "mean that is none": ("backbone.body.layer1.0.bn1.running_mean", np.nan, "bn1.running_mean has NaN"),
}


@pytest.mark.parametrize(("name", "value", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_weights_that_no_training_can_have_made_are_refused_by_name(
    tmp_path: Path, name: str, value: float, message: str
) -> None:
    model, other = slim(), slim()
    before = copy.deepcopy(other.state_dict())
    model.state_dict(keep_vars=True)[name].data.flat[1] = value
    path = tmp_path / "model.safetensors"
    save_weights(model, path)
    for load in (
        lambda: load_weights(other, path),
        lambda: load_weights(other, dict(model.state_dict())),
        lambda: MaskRCNN.from_file(path),
        lambda: slim(3, weights=path),
        lambda: write_converted(read_weights_file(path), tmp_path / "other.safetensors"),
    ):
        with pytest.raises(ValueError, match=f"no training can have made these: .*{message}"):
            load()
    assert all(np.array_equal(array, before[name]) for name, array in other.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_bad_values_are_named_as_in_the_file(tmp_path: Path) -> None:
    arrays = in_torchvision_names(slim())
    arrays["roi_heads.box_head.fc6.weight"] = arrays["roi_heads.box_head.fc6.weight"].astype(np.float64)
    arrays["roi_heads.box_head.fc6.weight"][0, 0] = 1e300  # not in float32
    save_file(arrays, tmp_path / "tv.safetensors")
    wanted = r"tv.safetensors' cannot be used, .*: roi_heads.box_head.fc6.weight has infinite values; they are"
    with pytest.raises(ValueError, match=wanted):
        load_weights(slim(), tmp_path / "tv.safetensors")
    with pytest.raises(ValueError, match=wanted):
        slim(3, weights=tmp_path / "tv.safetensors")
    with pytest.raises(ValueError, match=r"roi_heads.box_head.fc6.weight has infinite values"):
        load_weights(slim(), arrays)


def test_bad_values_of_a_backbone_are_refused(tmp_path: Path) -> None:
    body = {f"backbone.body.{n}": np.array(a) for n, a in slim().backbone.body.state_dict().items()}
    body["backbone.body.layer4.0.bn1.weight"][3] = np.nan
    save_file(body, tmp_path / "body.safetensors")
    for load in (
        lambda: slim(weights_backbone=tmp_path / "body.safetensors"),
        lambda: load_backbone(slim(), tmp_path / "body.safetensors"),
    ):
        with pytest.raises(ValueError, match=r"body.safetensors' cannot be used, .*layer4.0.bn1.weight has NaN"):
            load()


def test_large_variances_of_unscaled_images_are_loaded(tmp_path: Path) -> None:
    model, other = slim(), slim()
    model.backbone.body.bn1.running_var.data[:] = 1e13  # activations of 16-bit images
    model.backbone.body.bn1.running_var.data[0] = 0  # of a channel that is always zero
    save_weights(model, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert same(model, other)


def test_prefixes_of_passed_arrays_are_removed() -> None:
    model, other = slim(), slim()
    arrays = in_torchvision_names(model)
    load_weights(other, {f"module.{name}": array for name, array in arrays.items()} | {"loss.scale": np.ones(1)})
    assert same(model, other)
    both = {f"student.{n}": a * 2 for n, a in arrays.items()} | {f"teacher.{n}": a for n, a in arrays.items()}
    other = slim()
    with pytest.warns(UserWarning, match=r"weights holds several sets of weights: \(prefix teacher.\) is used, not"):
        load_weights(other, both)
    assert same(model, other)
    body = {f"net.{n}": np.array(a) for n, a in model.backbone.body.state_dict().items()}
    load_backbone(other, body)
    assert same(model, other)


def test_names_from_a_file_are_shown_with_escapes(tmp_path: Path) -> None:
    arrays = in_torchvision_names(slim())
    arrays["rpn.head.\x1b[31m\n.bias"] = arrays.pop("rpn.head.bbox_pred.bias")
    path = torch_save(tmp_path / "x.pth", {"model": arrays})
    for load in (
        lambda: load_weights(slim(), path),
        lambda: MaskRCNN.from_file(path),
        lambda: load_weights(slim(), arrays),
    ):
        with pytest.raises(ValueError, match=r"unexpected: rpn.head.\\x1b\[31m\\n.bias"):
            load()


def test_file_of_terabytes_that_takes_no_space(tmp_path: Path) -> None:
    names = ["roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.bbox_pred.weight"]
    shape, size = [2**17, 2**17], 2**36
    entries = {
        n: {"dtype": "F32", "shape": shape, "data_offsets": [i * size, (i + 1) * size]} for i, n in enumerate(names)
    }
    entries["backbone.body.conv1.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [2 * size, 2 * size]}
    header = json.dumps(entries).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 2 * size)
    with pytest.raises(ValueError, match=r"x.safetensors' has 137.4 GB of weights, more than any model needs."):
        read_weights_file(path)


def test_very_long_numbers_in_array_names(tmp_path: Path) -> None:
    arrays = in_torchvision_names(slim())
    arrays[f"backbone.body.layer3.{'9' * 5000}.conv1.weight"] = np.zeros(1, np.float32)
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"unexpected: backbone.body.layer3.9+\.\.\.") as caught:
        load_weights(slim(), tmp_path / "x.safetensors")
    assert len(str(caught.value)) < 1000


def test_repeated_class_agnostic_layers_have_bounded_size(tmp_path: Path) -> None:
    arrays = {DETECTRON2.theirs(name): array for name, array in slim().state_dict().items()}
    arrays["roi_heads.box_predictor.cls_score.weight"] = np.zeros((10**6, 1), np.float32)
    arrays["roi_heads.mask_head.predictor.weight"] = np.zeros((1, 10**4), np.float32)  # 40 GB if it were repeated
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x.safetensors"):
        MaskRCNN.from_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "nest", [lambda w: {"state_dict": w}, lambda w: {"model": w, "optimizer": {"lr": 0.1}, "epoch": 3}]
)
def test_mapping_of_a_checkpoint_is_loaded_as_its_file_is(nest: Any) -> None:
    given, model = slim(), slim()
    load_weights(model, nest({f"module.{name}": array for name, array in given.state_dict().items()}))
    assert same(given, model)
