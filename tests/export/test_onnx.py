"""Exported models beside ``predict``, in ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import lucid.nn as nn
import numpy as np
import onnx
import onnxruntime
import pytest
from export.exported_models import SMALL, Exported, assert_same, asset, lively, predicted, session

import lucid_maskrcnn as lm
from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.config import BackboneConfig, ModelConfig
from lucid_maskrcnn.export import onnx_files, to_onnx
from lucid_maskrcnn.export.onnx_settings import EXPORTED, WITHOUT_EFFECT

resnet_18 = lm.mask_rcnn_resnet_18_fpn
NOISE = np.random.default_rng(0).integers(0, 256, (150, 110, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def nuclei() -> MaskRCNN:
    return MaskRCNN.from_file("NUCLEI")


@pytest.fixture(scope="module")
def of_nuclei(nuclei: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(nuclei, tmp_path_factory.mktemp("export") / "nuclei.onnx")


# ------------------------------------------------------------------ the same detections


@pytest.mark.parametrize("name", ["nuclei_fluorescence_small", "nuclei_histology_lilac"])
def test_nuclei_are_those_of_predict(nuclei: MaskRCNN, of_nuclei: Exported, name: str) -> None:
    image = asset(name)
    theirs, ours = of_nuclei(image), predicted(nuclei, image)
    assert len(theirs["boxes"]) > 30
    np.testing.assert_allclose(theirs["boxes"], ours["boxes"], atol=0.02)  # in the same order
    assert_same(theirs, ours)
    np.testing.assert_allclose(theirs["masks"], nuclei.predict(image)[0].mask_probs.data, atol=2e-4)


def test_any_size_and_full_to_top_k(nuclei: MaskRCNN, of_nuclei: Exported) -> None:
    for height, width in [(1, 1), (1, 40), (40, 1), (33, 31), (150, 110)]:
        image = np.ascontiguousarray(NOISE[:height, :width])
        assert_same(of_nuclei(image), predicted(nuclei, image))
    assert len(of_nuclei(NOISE)["boxes"]) > 200


def test_nothing_found_has_the_shapes_of_nothing(of_nuclei: Exported) -> None:
    for value in (0, 255):
        found = of_nuclei(np.full((60, 80, 3), value, np.uint8))
        shapes = [found[name].shape for name in ("boxes", "scores", "labels", "masks", "full_masks")]
        assert shapes == [(0, 4), (0,), (0,), (0, 28, 28), (0, 60, 80)]


LEVELS = ((8, 12), (16, 24), (32, 48), (64, 96), (128, 196))
FIXED_SCALE = {**SMALL, "min_size": None, "max_size": 150, "image": {"scale": 1.7}}
V2 = {**SMALL, "width": 4}
MODELS: dict[str, Callable[[], MaskRCNN]] = {
    "torchvision": lambda: resnet_18(3, **SMALL),
    "detectron2": lambda: resnet_18(3, conventions="detectron2", **SMALL),
    "own_mask_and_pool_sizes": lambda: resnet_18(2, mask_pool_size=7, mask_out_size=14, pool_size=(3, 5), **SMALL),
    "fixed_scale": lambda: resnet_18(1, **FIXED_SCALE),
    "fixed_scale_by_pillow": lambda: resnet_18(1, conventions="detectron2", **FIXED_SCALE),
    "no_padding": lambda: resnet_18(2, image={"size_divisor": 1}, **SMALL),
    "padding_to_fives": lambda: resnet_18(2, conventions="detectron2", image={"size_divisor": 5}, **SMALL),
    "several_anchors": lambda: resnet_18(2, anchor_sizes=LEVELS, aspect_ratios=(0.3, 1, 3, 4), **SMALL),
    "anchors_sizes_first": lambda: resnet_18(2, conventions="detectron2", anchor_sizes=LEVELS, **SMALL),
    "one_pooled_level": lambda: resnet_18(2, pooled_levels=1, **SMALL),
    "all_levels_pooled": lambda: resnet_18(2, pooled_levels=5, **SMALL),
    "v2": lambda: lm.mask_rcnn_resnet_50_fpn_v2(4, norm="batch", **V2),
    "resnet_101": lambda: lm.mask_rcnn_resnet_101_fpn(4, stride_in_1x1=True, **V2),
    "many_classes": lambda: resnet_18(40, rpn={"post_nms_top_n": 300, "pre_nms_top_n": 150}, top_k=300, **SMALL),
    "own_numbers": lambda: resnet_18(
        3,
        rpn={"min_size": 5.0, "nms_thresh": 0.3},
        heads={"min_size": 9.0, "box_weights": (3, 4, 1, 2), "nms_thresh": 0.8, "sampling_ratio": 3, "aligned": True},
        **SMALL,
    ),
    "live_norms": lambda: resnet_18(3, norm="batch", fpn_norm="batch", head_norm="batch", **SMALL).train(),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_predicts_the_same(name: str, tmp_path: Path) -> None:
    model = lively(MODELS[name]())
    exported = Exported(model, tmp_path / "model.onnx")
    most = 0
    for image in (asset("nuclei_histology_lilac", (90, 130)), NOISE[:33, :31].copy(), NOISE[:1, :50].copy()):
        theirs, ours = exported(image), predicted(model, image)
        assert_same(theirs, ours)
        most = max(most, len(ours["boxes"]))
    assert most > 0


def test_tall_image_shrinks_the_same(tmp_path: Path) -> None:
    """Pillow 13 resizes along the columns first where they shrink more than the rows, and so rounds otherwise."""
    model = lively(resnet_18(3, conventions="detectron2", **SMALL))
    image = asset("nuclei_histology_lilac", (240, 70))
    theirs, ours = Exported(model, tmp_path / "model.onnx")(image), predicted(model, image)
    assert len(ours["boxes"]) > 20
    assert_same(theirs, ours)


def test_thresholds_are_those_of_the_call(tmp_path: Path, nuclei: MaskRCNN) -> None:
    options = {"score_thresh": 0.4, "nms_thresh": 0.1, "top_k": 20}
    image = asset("nuclei_fluorescence_small")
    theirs, ours = Exported(nuclei, tmp_path / "a.onnx", **options)(image), predicted(nuclei, image, **options)
    assert len(theirs["boxes"]) == 20
    assert_same(theirs, ours)
    none = Exported(nuclei, tmp_path / "b.onnx", top_k=0)(image)
    assert none["boxes"].shape == (0, 4)


def test_size_of_the_network_may_be_given(of_nuclei: Exported) -> None:
    image = asset("nuclei_fluorescence_small")
    own = of_nuclei(image)
    for given in ([0, 0], [640, 640]):  # the rule's
        same = of_nuclei(image, network_size=np.int64(given))
        np.testing.assert_array_equal(same["boxes"], own["boxes"])
    smaller = MaskRCNN.from_file("NUCLEI")
    smaller.config = smaller.config.changed(image={"scale": 2.0})
    other = of_nuclei(image, network_size=np.int64([512, 512]))
    assert_same(other, predicted(smaller, image))
    assert len(other["boxes"]) != len(own["boxes"]) or np.abs(other["boxes"] - own["boxes"]).max() > 0.1


def test_float16_halves_the_file_and_finds_the_same(tmp_path: Path, nuclei: MaskRCNN) -> None:
    image = asset("nuclei_fluorescence_small")
    exported = Exported(nuclei, tmp_path / "half.onnx", dtype="float16")
    to_onnx(nuclei, tmp_path / "full.onnx", full_masks=True)
    half, full = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("half", "full"))
    assert half < 0.53 * full
    theirs, ours = exported(image), predicted(nuclei, image)
    assert len(theirs["boxes"]) == len(ours["boxes"])
    np.testing.assert_allclose(theirs["boxes"], ours["boxes"], atol=0.02)
    np.testing.assert_allclose(theirs["scores"], ours["scores"], atol=2e-3)


def test_weights_beyond_float16_stay_as_they_are(tmp_path: Path) -> None:
    model = lively(resnet_18(1, **SMALL))
    large = np.asarray(model.fc1.weight.data) * np.float32(1e6)
    lm.ops.set_values(model.fc1.weight, large)
    to_onnx(model, tmp_path / "model.onnx", dtype="float16")
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "model.onnx").graph.initializer}
    np.testing.assert_array_equal(stored["fc1.weight"], large)
    assert stored["cls_score.weight"].dtype == np.float16


# ------------------------------------------------------------------ the file


@pytest.mark.parametrize("opset", [18, 21])
def test_checker_and_shape_inference_pass(tmp_path: Path, opset: int) -> None:
    model = lively(resnet_18(3, conventions="detectron2", **SMALL))
    path = tmp_path / "model.onnx"
    to_onnx(model, path, full_masks=True, opset=opset)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    assert [o.version for o in proto.opset_import] == [opset]
    image = asset("nuclei_histology_lilac", (60, 70))
    runs = [onnxruntime.InferenceSession(p.SerializeToString(), _quiet()).run(None, {"image": image})
            for p in (proto, inferred)]  # fmt: skip
    np.testing.assert_array_equal(runs[0][0], runs[1][0])


def test_what_loops_return_has_a_rank(tmp_path: Path) -> None:
    """Shape inference of ONNX Runtime 1.14 finds none through a computed shape, and refuses the Resize behind it."""
    to_onnx(lively(resnet_18(3, conventions="detectron2", **SMALL)), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    of_loops = {name for node in graph.node if node.op_type == "Loop" for name in node.output}
    shapes = [node.input[1] for node in graph.node if node.op_type == "Reshape" and node.input[0] in of_loops]
    assert len(shapes) == 2
    assert set(shapes) <= {initializer.name for initializer in graph.initializer}


def _quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def test_metadata_says_what_the_numbers_mean(of_nuclei: Exported, nuclei: MaskRCNN, tmp_path: Path) -> None:
    properties = of_nuclei.session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["categories"]) == [{"label": 1, "name": "nucleus", "id": 1}]
    conventions = json.loads(properties["conventions"])
    assert conventions["masks"] == "aligned"
    assert conventions["mask_thresh"] == 0.5
    assert conventions["image"]["scale"] == 2.5
    assert (conventions["score_thresh"], conventions["nms_thresh"], conventions["top_k"]) == (0.05, 0.3, 400)
    assert properties["lucid_maskrcnn_version"] == lm.__version__
    changed = MaskRCNN.from_file("NUCLEI")
    lm.ops.set_values(changed.cls_score.bias, np.float32([1, 2]))
    to_onnx(changed, tmp_path / "other.onnx")
    others = session(tmp_path / "other.onnx").get_modelmeta().custom_metadata_map
    assert others["weights_sha256"] != properties["weights_sha256"]
    assert len(properties["weights_sha256"]) == 64


def test_command_writes_the_file_of_the_function(
    tmp_path: Path, nuclei: MaskRCNN, capsys: pytest.CaptureFixture[str]
) -> None:
    to_onnx(nuclei, tmp_path / "a.onnx", dtype="float16", top_k=7, score_thresh=0.3, nms_thresh=0.2, full_masks=True)
    options = ["--dtype", "float16", "--top-k", "7", "--score-thresh", "0.3", "--nms-thresh", "0.2", "--full-masks"]
    assert main(["export", "NUCLEI", str(tmp_path / "b.onnx"), *options]) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert capsys.readouterr().out == f"{tmp_path / 'b.onnx'}: NUCLEI as ONNX, 8.2 MB\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NUCLEI", "out.pb"], "OUT must end in .onnx, got "),
        (["NUCLEI", "no/such/folder/out.onnx"], "there is no folder "),
        (["nowhere.pth", "out.onnx"], "there is no file 'nowhere.pth'"),
    ],
)
def test_wrong_arguments_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["export", arguments[0], str(tmp_path / arguments[1])]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ what is refused


class OwnBackbone(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


class OwnLinear(nn.Linear):
    pass


def test_own_layers_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have the ResNet-FPN backbone of this package to be exported, got one of "
                                         "OwnBackbone: "):  # fmt: skip
        to_onnx(MaskRCNN(OwnBackbone(), 3, 1, hidden_dim=4), tmp_path / "a.onnx")
    model = resnet_18(1, **SMALL)
    model.fc2 = OwnLinear(32, 32)
    with pytest.raises(ValueError, match="must be made of this package's layers to be exported, got one of OwnLinear"):
        to_onnx(model, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of 'float32', 'float16', got 'int8'"),
        ({"opset": 17}, "opset must be "),
        ({"opset": 999}, "opset must be "),
        ({"score_thresh": 2}, "score_thresh must be "),
        ({"top_k": -1}, "top_k must be "),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        to_onnx(resnet_18(1, **SMALL), tmp_path / "a.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'lucid-maskrcnn\[onnx\]'"):
        to_onnx(resnet_18(1, **SMALL), tmp_path / "a.onnx")


@pytest.mark.parametrize(("dtype", "remedy"), [("float32", "dtype='float16'"), ("float16", "a smaller hidden_dim")])
def test_too_large_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, remedy: str) -> None:
    monkeypatch.setattr(onnx_files, "_MOST_BYTES", 100_000)  # with 2 GB it takes 9 GB of memory
    with pytest.raises(ValueError, match=f"^model must take up less than 2 GB as an ONNX file, got .* GB: .*{remedy}"):
        to_onnx(resnet_18(1, **SMALL), tmp_path / "a.onnx", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_failed_export_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"earlier")
    monkeypatch.setattr("os.fsync", _disk_full)
    with pytest.raises(OSError, match="No space"):
        to_onnx(resnet_18(1, **SMALL), path)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def _disk_full(_: int) -> None:
    raise OSError(28, "No space left on device")


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize("part", EXPORTED)
def test_export_knows_every_setting(part: Any) -> None:
    """A new one must be written into the graph, or be known to have no effect on predictions."""
    own = {f.name for f in fields(part)}
    assert EXPORTED[part] | WITHOUT_EFFECT[part] == own
    assert not EXPORTED[part] & WITHOUT_EFFECT[part]


def test_export_knows_every_part_of_the_configuration() -> None:
    config = ModelConfig(3, use_fpn=True, anchor_sizes=(1, 2, 3, 4, 5), backbone=BackboneConfig())
    parts = {type(getattr(config, f.name)) for f in fields(config)}
    assert {ModelConfig, *(p for p in parts if p.__module__ == ModelConfig.__module__)} == set(EXPORTED)


OTHER_VALUES: dict[str, Any] = {
    **{"num_classes": 5, "anchor_sizes": (8, 16, 32, 64, 128), "aspect_ratios": (1.0,), "pool_size": 5},
    **{"hidden_dim": 8, "mask_hidden_channels": 4, "pooled_levels": 2, "rpn_convs": 2, "box_convs": True},
    **{"head_norm": "frozen", "categories": {1: "cell"}},
    "image": {
        **{"min_size": 64, "max_size": 100, "scale": 1.5, "pixel_mean": (0.1, 0.2, 0.3), "pixel_std": (0.1, 0.2, 0.3)},
        **{"size_divisor": 64, "bgr": True, "antialias": True, "clip_restored": True, "intensity": "max"},
    },
    "rpn": {
        **{"pre_nms_top_n": 7, "post_nms_top_n": 9, "nms_thresh": 0.1, "min_size": 3.0, "by_logits": True},
        **{"finite_only": True, "whole_pixels": False, "nominal_strides": True},
    },
    "heads": {
        **{"sampling_ratio": 0, "aligned": True, "box_weights": (1.0, 2.0, 3.0, 4.0), "min_size": 3.0},
        **{"nms_thresh": 0.1, "top_k": 7, "finite_only": True, "level_margin": (0.5, 0.5), "snap_masks": False},
    },
    "backbone": {"depth": 50, "norm": "batch", "fpn_norm": "frozen", "norm_eps": 0.1},
}


def _changes() -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for name, value in OTHER_VALUES.items():
        if isinstance(value, dict) and name != "categories":
            found += [(f"{name}.{inner}", {name: {inner: v}}) for inner, v in value.items()]
        else:
            found.append((name, {name: value}))
    return found


class Plain(NamedTuple):
    config: ModelConfig
    path: Path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    model, path = resnet_18(2, **SMALL), tmp_path_factory.mktemp("plain") / "plain.onnx"
    to_onnx(lively(model), path, full_masks=True)
    return Plain(model.config, path)


@pytest.mark.parametrize(("name", "change"), _changes())
def test_every_setting_changes_the_file(name: str, change: dict[str, Any], plain: Plain, tmp_path: Path) -> None:
    """Beyond what a name in a list says: the graph, or the metadata, is another."""
    to_onnx(lively(MaskRCNN.from_config(plain.config.changed(**change))), tmp_path / "other.onnx", full_masks=True)
    files = [onnx.load(plain.path), onnx.load(tmp_path / "other.onnx")]
    if name not in ("categories", "image.intensity"):
        for proto in files:
            del proto.metadata_props[:]
    ours, others = (proto.SerializeToString() for proto in files)
    assert (ours != others) != (name == "backbone.norm")  # frozen and live norms predict alike
