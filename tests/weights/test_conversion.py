"""Files of any library to models and back: what is recognized, converted and refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import lucid.models
import numpy as np
import pytest
from data.detectron2 import recipe as detectron2_recipe
from data.torchvision import recipe
from detectron2_runs import SLIM_KEYS, yaml_of
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn, mask_rcnn_resnet_50_fpn, mask_rcnn_resnet_50_fpn_v2
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.config import DETECTRON2, HeadConfig, ImageConfig, RPNConfig
from lucid_maskrcnn.weights import load_weights, read_weights_file, registry, save_weights
from lucid_maskrcnn.weights.layouts import torchvision_arrays, translate
from lucid_maskrcnn.weights.naming import CAFFE2, CAFFE2_BODY, LUCID_BODY, TORCHVISION
from lucid_maskrcnn.weights.naming import DETECTRON2 as DETECTRON2_NAMES

DATA = Path(__file__).parents[1] / "data" / "detectron2"
SLIM = {"width": 8, "fpn_channels": 8, "hidden_dim": 16, "mask_hidden_channels": 8}


def slim_in_torchvision_names(num_classes: int = 3, **settings: object) -> dict[str, np.ndarray]:
    arrays = mask_rcnn_resnet_18_fpn(num_classes, **SLIM, **settings).state_dict()
    theirs = torchvision_arrays(arrays)
    rng = np.random.default_rng(0)
    for name, rows in (("bbox_pred", 4), ("mask_fcn_logits", 1)):
        for full in [n for n in theirs if f"predictor.{name}" in n]:
            theirs[full][:rows] = rng.normal(size=theirs[full][:rows].shape)
    return theirs | {"backbone.body.bn1.num_batches_tracked": np.array(7)}


def slim_in_detectron2_names(num_classes: int = 3) -> dict[str, np.ndarray]:
    """A bottleneck body is all that detectron2 names, so this is a thin ResNet-50."""
    model = mask_rcnn_resnet_50_fpn(num_classes, **SLIM)
    arrays = {DETECTRON2_NAMES.theirs(n): a for n, a in model.state_dict().items()}
    for kind in ("weight", "bias"):
        name = f"roi_heads.box_predictor.cls_score.{kind}"
        arrays[name] = np.roll(arrays[name], -1, axis=0)
    return arrays


def same(a: MaskRCNN, b: MaskRCNN) -> bool:
    theirs = b.state_dict()
    return all(np.array_equal(array, theirs[name]) for name, array in a.state_dict().items())


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("arch", ["R50", "R101"])
def test_names_of_detectron2(arch: str) -> None:
    shapes = detectron2_recipe.shapes(arch)
    ours = {DETECTRON2_NAMES.ours(name) for name in shapes}
    assert len(ours) == len(shapes)
    assert {DETECTRON2_NAMES.theirs(name) for name in ours} == set(shapes)
    assert {TORCHVISION.theirs(n) for n in ours} == set(
        recipe.shapes({"R50": "maskrcnn_resnet50_fpn", "R101": "maskrcnn_resnet101_fpn"}[arch])
    )


def test_names_of_caffe2() -> None:
    for style in json.loads((DATA / "c2_name_map.json").read_text()).values():
        for theirs, detectron2 in style["map"].items():
            assert CAFFE2.ours(theirs) == DETECTRON2_NAMES.ours(detectron2)


def test_torchvision_names_of_2019() -> None:
    arrays = slim_in_torchvision_names()
    old = {}
    for name, array in arrays.items():
        renamed = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "fpn." in name:
            renamed = renamed.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if "mask_head" in name:
            _, _, index, _, kind = name.split(".")
            renamed = f"roi_heads.mask_head.mask_fcn{int(index) + 1}.{kind}"
        old[renamed] = array
    assert old.keys() != arrays.keys()
    new, recognized = translate(arrays, "new"), translate(old, "old")
    assert {n: a.tobytes() for n, a in recognized.arrays.items()} == {n: a.tobytes() for n, a in new.arrays.items()}


# ------------------------------------------------------------------ a file is enough


def test_model_from_torchvision_file(tmp_path: Path) -> None:
    arrays = slim_in_torchvision_names()
    save_file(arrays, tmp_path / "model.safetensors")
    model = MaskRCNN.from_file(tmp_path / "model.safetensors")
    assert model.num_classes == 3
    assert model.config.image == ImageConfig()
    assert model.config.heads == HeadConfig()
    assert model.backbone.body.bn1.eps == 1e-5
    for name, array in torchvision_arrays(model.state_dict()).items():
        rows = 4 if "box_predictor.bbox_pred" in name else 1 if "mask_fcn_logits" in name else 0
        np.testing.assert_array_equal(array[rows:], arrays[name][rows:])


@pytest.mark.parametrize("version", range(6))
def test_model_from_detectron2_file(tmp_path: Path, version: int) -> None:
    arrays = slim_in_detectron2_names() | {
        "pixel_mean": np.zeros((3, 1, 1), np.float32),
        "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32),
    }
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}, protocol=version))
    model = MaskRCNN.from_file(path, conventions="detectron2")
    assert (model.config.image, model.config.heads) == (DETECTRON2.image, DETECTRON2.heads)
    assert model.config.rpn == DETECTRON2.rpn
    assert model.backbone.body.layer2[0].conv1.stride == 2
    other = mask_rcnn_resnet_50_fpn(3, conventions="detectron2", **SLIM)
    load_weights(other, arrays)
    assert same(model, other)
    np.testing.assert_array_equal(
        model.cls_score.bias.data, np.roll(arrays["roi_heads.box_predictor.cls_score.bias"], 1)
    )
    (found,) = model.predict(np.zeros((50, 60, 3), np.uint8), score_thresh=0)
    assert set(found.labels.data.tolist()) <= {1, 2, 3}


def test_class_agnostic_layers_are_repeated(tmp_path: Path) -> None:
    arrays = slim_in_detectron2_names()
    for name, rows in (("box_predictor.bbox_pred", 4), ("mask_head.predictor", 1)):
        for kind in ("weight", "bias"):
            arrays[f"roi_heads.{name}.{kind}"] = arrays[f"roi_heads.{name}.{kind}"][:rows]
    model = mask_rcnn_resnet_50_fpn(3, conventions="detectron2", **SLIM)
    load_weights(model, arrays)
    for row in range(3):
        np.testing.assert_array_equal(
            model.bbox_pred.weight.data[4 * row : 4 * row + 4], arrays["roi_heads.box_predictor.bbox_pred.weight"]
        )


def test_missing_batch_norm_statistics() -> None:
    arrays = {n: a for n, a in slim_in_detectron2_names().items() if not n.endswith(("running_mean", "running_var"))}
    model = mask_rcnn_resnet_50_fpn(3, conventions="detectron2", **SLIM)
    load_weights(model, arrays)
    assert (model.backbone.body.bn1.running_var.data == 1).all()


def test_published_weights_are_identified_by_file_name(tmp_path: Path) -> None:
    v1 = next(e for e in registry.list_weights("mask_rcnn_resnet_50_fpn") if e.name == "COCO_V1")
    path = tmp_path / v1.file
    model = mask_rcnn_resnet_50_fpn(90, **SLIM)
    save_file(torchvision_arrays(model.state_dict()), path)
    found = MaskRCNN.from_file(path)
    assert {m.eps for m in (found.backbone.body.bn1, found.backbone.body.layer4[2].bn3)} == {0.0}
    assert found.categories[90] == "toothbrush"
    assert mask_rcnn_resnet_50_fpn(weights=path, norm_eps=1e-5).backbone.body.bn1.eps == 1e-5


def test_min_size_and_num_classes_with_weights(tmp_path: Path) -> None:
    save_file(slim_in_torchvision_names(), tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="num_classes=5 but the weights have 3"):
        model = mask_rcnn_resnet_18_fpn(5, weights=tmp_path / "model.safetensors", min_size=320)
    assert model.num_classes == 5
    assert model.config.image.min_size == 320
    assert model.cls_score.weight.data.std() > 0  # drawn, not left as zeros


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    save_file(slim_in_torchvision_names(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="are of mask_rcnn_resnet_18_fpn, not of mask_rcnn_resnet_50_fpn_v2: call"):
        mask_rcnn_resnet_50_fpn_v2(weights=tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(2, np.float32)}, r"holds no Mask R-CNN .* its entries are 'a'\."),
        (
            {"conv1.weight": np.zeros((2, 2), np.float32), "fc.weight": np.zeros(2, np.float32)},
            "holds a ResNet without the rest of a Mask R-CNN: pass it as weights_backbone",
        ),
    ],
)
def test_weights_of_other_networks(tmp_path: Path, arrays: dict, message: str) -> None:
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        MaskRCNN.from_file(tmp_path / "x.safetensors")


def test_weights_of_faster_rcnn(tmp_path: Path) -> None:
    arrays = {n: a for n, a in slim_in_torchvision_names().items() if "mask" not in n}
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"be built: 'roi_heads\.mask_predictor\.conv5_mask\.weight' is missing"):
        MaskRCNN.from_file(tmp_path / "x.safetensors")


def test_entries_that_do_not_fit_have_the_names_of_the_file(tmp_path: Path) -> None:
    arrays = slim_in_torchvision_names()
    arrays["roi_heads.mask_head.4.0.bias"] = arrays.pop("roi_heads.mask_predictor.conv5_mask.bias")
    save_file(arrays, tmp_path / "x.safetensors")
    said = r"missing: roi_heads\.mask_predictor\.conv5_mask\.bias; unexpected: roi_heads\.mask_head\.4\.0\.bias\.$"
    with pytest.raises(ValueError, match=said):
        MaskRCNN.from_file(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=said):
        load_weights(mask_rcnn_resnet_18_fpn(3, **SLIM), tmp_path / "x.safetensors")


def test_cascade_is_refused_by_its_name(tmp_path: Path) -> None:
    arrays = {n.replace("box_predictor.", "box_predictor.0."): a for n, a in slim_in_detectron2_names().items()}
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds a model of Cascade R-CNN, whose names and conventions are not known"):
        MaskRCNN.from_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize("blocks", [1, 5])
def test_weights_of_other_depths(tmp_path: Path, blocks: int) -> None:
    arrays = slim_in_torchvision_names()
    arrays = {n: a for n, a in arrays.items() if "layer3.1" not in n} | {
        n.replace("layer3.1", f"layer3.{blocks - 1}"): a for n, a in arrays.items() if "layer3.1" in n and blocks > 1
    }
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"has {blocks} blocks in its third stage: only ResNet-18, -50 and -101"):
        MaskRCNN.from_file(tmp_path / "x.safetensors")


# ------------------------------------------------------------------ bodies


def body_of(model: MaskRCNN) -> dict[str, np.ndarray]:
    return model.backbone.body.state_dict()


@pytest.mark.parametrize(("depth", "build"), [(18, lucid.models.resnet_18), (50, lucid.models.resnet_50)])
def test_backbone_from_lucid_classifier(tmp_path: Path, depth: int, build: object) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # Lucid casts memory that it has not filled yet
        theirs = build()
    arrays = {n: np.asarray(a, np.float32) for n, a in theirs.state_dict().items()}
    save_file(arrays, tmp_path / "lucid.safetensors")
    factory = {18: mask_rcnn_resnet_18_fpn, 50: mask_rcnn_resnet_50_fpn}[depth]
    model = factory(2, weights_backbone=tmp_path / "lucid.safetensors", hidden_dim=8)
    renamed = {LUCID_BODY.ours(name): array for name, array in arrays.items()}
    for name, array in body_of(model).items():
        np.testing.assert_array_equal(array, renamed[name])


def test_backbone_from_caffe2_sets_its_conventions(tmp_path: Path) -> None:
    source = body_of(mask_rcnn_resnet_50_fpn(2, **SLIM))
    arrays = {CAFFE2_BODY.theirs(name): array for name, array in source.items()}
    arrays |= {"fc1000_w": np.zeros((2, 2), np.float32), "conv1_b": np.zeros(8, np.float32)}
    arrays |= {"conv1_w_momentum": np.zeros(3, np.float32)}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=2))
    model = mask_rcnn_resnet_50_fpn(2, weights_backbone=path, **SLIM)
    assert all(np.array_equal(array, source[name]) for name, array in body_of(model).items())
    assert model.config.image.bgr
    assert model.backbone.body.layer2[0].conv1.stride == 2


def test_backbone_from_a_detector(tmp_path: Path) -> None:
    arrays = slim_in_torchvision_names()
    model = mask_rcnn_resnet_18_fpn(9, weights_backbone=arrays, **SLIM)
    for name, array in body_of(model).items():
        np.testing.assert_array_equal(array, arrays[f"backbone.body.{name}"])


def test_model_from_detectron_file(tmp_path: Path) -> None:
    model = mask_rcnn_resnet_50_fpn(3, **SLIM)
    pairs = {ours: theirs for theirs, ours in detectron_names().items()}
    arrays = {pairs[n]: a for n, a in model.state_dict().items() if n in pairs}
    for name, rows in (("bbox_pred", 4), ("mask_fcn_logits", 1)):
        for kind in "wb":
            array = arrays[f"{name}_{kind}"]
            arrays[f"{name}_{kind}"] = np.concatenate([np.full((rows, *array.shape[1:]), 9, np.float32), array])
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    with pytest.warns(UserWarning, match="are Detectron's, and no configuration says how they were trained"):
        again = MaskRCNN.from_file(path)
    assert same(model, again)
    assert again.config.image.bgr


def detectron_names() -> dict[str, str]:
    table = json.loads((DATA / "c2_name_map.json").read_text())["detectron1_mask_rcnn_r50_fpn"]["map"]
    return {theirs: DETECTRON2_NAMES.ours(name) for theirs, name in table.items()}


# ------------------------------------------------------------------ convert and info


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_convert_torchvision_round_trip_is_exact(tmp_path: Path, norm: str) -> None:
    arrays = slim_in_torchvision_names(norm=norm)
    save_file(arrays, tmp_path / "theirs.safetensors")
    assert main(["convert", str(tmp_path / "theirs.safetensors"), str(tmp_path / "ours.safetensors")]) == 0
    command = ["convert", str(tmp_path / "ours.safetensors"), str(tmp_path / "back.safetensors")]
    assert main([*command, "--to", "torchvision"]) == 0
    back = load_file(tmp_path / "back.safetensors")
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in back.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()
    }
    models = [MaskRCNN.from_file(tmp_path / f"{name}.safetensors") for name in ("theirs", "ours", "back")]
    assert same(models[0], models[1])
    assert same(models[1], models[2])


def test_convert_trained_model_to_torchvision_and_back(tmp_path: Path) -> None:
    model = mask_rcnn_resnet_18_fpn(
        num_classes=2, norm="batch", anchor_sizes=[8, 16, 32, 64, 128], categories={1: "a", 2: "b"}, **SLIM
    )
    path = tmp_path / "mine.safetensors"
    save_weights(model, path, metadata={"licence": "CC0-1.0"})
    assert main(["convert", str(path), str(tmp_path / "tv.safetensors"), "--to", "torchvision"]) == 0
    assert "roi_heads.box_head.fc6.weight" in load_file(tmp_path / "tv.safetensors")
    assert main(["convert", str(tmp_path / "tv.safetensors"), str(tmp_path / "back.safetensors")]) == 0
    again = MaskRCNN.from_file(tmp_path / "back.safetensors")
    assert same(model, again)
    assert again.categories == {1: "a", 2: "b"}
    assert again.rpn.anchor_generator.cells[0][0][3] - again.rpn.anchor_generator.cells[0][0][1] == 6
    with safe_open(tmp_path / "back.safetensors", "numpy") as file:
        assert file.metadata()["licence"] == "CC0-1.0"


def test_saved_model_keeps_its_configuration(tmp_path: Path) -> None:
    model = mask_rcnn_resnet_18_fpn(
        2, top_k=7, min_size=99, conventions="detectron2", heads=HeadConfig(batch_size=9), categories={1: "a"}, **SLIM
    )
    save_weights(model, tmp_path / "mine.safetensors")
    again = MaskRCNN.from_file(tmp_path / "mine.safetensors")
    assert same(model, again)
    assert (again.config.image, again.config.heads) == (model.config.image, model.config.heads)
    assert again.config.rpn == model.config.rpn
    assert again.categories == {1: "a"}


def test_convert_to_float16(tmp_path: Path) -> None:
    save_file(slim_in_torchvision_names(), tmp_path / "theirs.safetensors")
    command = ["convert", str(tmp_path / "theirs.safetensors"), str(tmp_path / "half.safetensors")]
    assert main([*command, "--dtype", "float16"]) == 0
    arrays = load_file(tmp_path / "half.safetensors")
    assert {a.dtype.name for a in arrays.values() if a.ndim > 1} == {"float16"}
    full, half = (MaskRCNN.from_file(tmp_path / f"{n}.safetensors").state_dict() for n in ("theirs", "half"))
    for name, array in full.items():
        np.testing.assert_allclose(half[name], array, rtol=1e-3, atol=1e-6)


def test_convert_detectron2_to_torchvision_is_refused(tmp_path: Path, capsys: object) -> None:
    path = tmp_path / "d2.pkl"
    path.write_bytes(pickle.dumps({"model": slim_in_detectron2_names(), "__author__": "me"}, protocol=4))
    (tmp_path / "config.yaml").write_text(yaml_of(SLIM_KEYS))
    assert main(["convert", str(path), str(tmp_path / "d2.safetensors")]) == 0
    model = MaskRCNN.from_file(tmp_path / "d2.safetensors")
    assert model.config.image.bgr
    assert same(model, MaskRCNN.from_file(path))
    assert main(["convert", str(path), str(tmp_path / "tv.safetensors"), "--to", "torchvision"]) == 2
    said = capsys.readouterr().err
    assert "torchvision has no setting for image.bgr=True (False there), image.antialias=True (False there)," in said
    assert "heads.aligned=True (False there)" in said
    assert "backbone.stride_in_1x1=True (False there)," in said
    assert not (tmp_path / "tv.safetensors").exists()
    for special in ({"stride_in_1x1": True}, {"heads": {"aligned": True}}):
        path = tmp_path / "special.safetensors"
        save_weights(mask_rcnn_resnet_50_fpn(2, **special, **SLIM), path)
        assert main(["convert", str(path), str(tmp_path / "tv.safetensors"), "--to", "torchvision"]) == 2


def test_conventions_by_name() -> None:
    assert mask_rcnn_resnet_18_fpn(2, conventions="detectron2", **SLIM).config.image == DETECTRON2.image
    changed = mask_rcnn_resnet_18_fpn(2, conventions="detectron2", top_k=7, rpn={"nms_thresh": 0.6}, **SLIM)
    assert changed.config.heads.top_k == 7
    assert changed.config.heads.aligned
    assert changed.config.rpn.nms_thresh == 0.6
    assert changed.config.rpn.by_logits
    assert mask_rcnn_resnet_18_fpn(2, **SLIM).config.rpn == RPNConfig()
    with pytest.raises(ValueError, match="conventions must be one of 'torchvision', 'detectron2', got 'mmdet'"):
        mask_rcnn_resnet_18_fpn(2, conventions="mmdet", **SLIM)


def test_arrays_are_read_on_demand(tmp_path: Path) -> None:
    save_file(slim_in_torchvision_names(), tmp_path / "model.safetensors")
    file = read_weights_file(tmp_path / "model.safetensors")
    assert file.source == "torchvision"
    held = [n for n, a in file.arrays.items() if isinstance(a, np.ndarray)]
    assert set(held) == {
        f"{layer}.{kind}" for layer in ("bbox_pred", "mask_head.mask_predictor") for kind in ("weight", "bias")
    }
