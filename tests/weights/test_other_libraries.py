"""Models taken to torchvision and detectron2: the same detections there, the same model when it comes back."""

from __future__ import annotations

import ast
import json
import pickle
import pickletools
import zipfile
from dataclasses import fields
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from converted_models import CASES, SLIM, converted_images, converted_model
from data.detectron2 import recipe as detectron2_recipe
from safetensors.numpy import load_file, save_file

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn, mask_rcnn_resnet_50_fpn, mask_rcnn_resnet_50_fpn_v2
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.config import ARCHITECTURES, ModelConfig
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.weights import loading_code, read_weights_file, save_weights, write_converted
from lucid_maskrcnn.weights.detectron2_code import check_for_detectron2, detectron2_values, detectron2_yaml
from lucid_maskrcnn.weights.detectron2_files import read_detectron2_config
from lucid_maskrcnn.weights.detectron2_keys import DEFAULTS, ZOO
from lucid_maskrcnn.weights.layouts import torchvision_arrays
from lucid_maskrcnn.weights.torchvision_code import check_for_torchvision, torchvision_code

RECORDED = Path(__file__).parents[1] / "data" / "conversions"
SUFFIXES = {"torchvision": ".pth", "detectron2": ".pkl"}
CASE = pytest.mark.parametrize(("library", "case"), CASES)

model_of = cache(converted_model)


def content(arrays: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return the arrays in a form that compares type, shape and every bit."""
    return {n: (np.asarray(a).dtype.str, np.asarray(a).shape, np.asarray(a).tobytes()) for n, a in arrays.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
def converted(folder: Path, monkeypatch: pytest.MonkeyPatch, library: str, case: str) -> Path:
    """A case's model in ours.safetensors, and written for the library, in the current folder: not to be changed."""
    own = folder / f"{library}_{case}"
    path = Path(f"{library}_{case}{SUFFIXES[library]}")
    made = own.exists()
    own.mkdir(exist_ok=True)
    monkeypatch.chdir(own)
    if not made:
        save_weights(model_of(library, case), "ours.safetensors", metadata={"licence": "CC0-1.0"})
        write_converted(read_weights_file("ours.safetensors"), path, to=library)
    return path


# ------------------------------------------------------------------ what the other library makes of it


@CASE
def test_lines_that_load_it_are_those_that_were_run_there(converted: Path, library: str, case: str) -> None:
    code = loading_code(read_weights_file("ours.safetensors"), converted, to=library)
    hint = "run tests/data/conversions/record.py again, with the other libraries, where the lines are meant to change"
    assert code == (RECORDED / f"{library}_{case}.py").read_text(encoding="utf-8"), hint
    if library == "detectron2":
        written = Path(f"{library}_{case}.yaml").read_text(encoding="utf-8")
        assert written == (RECORDED / f"{library}_{case}.yaml").read_text(encoding="utf-8"), hint


@CASE
def test_entries_are_those_of_the_model_that_was_built_there(converted: Path, library: str, case: str) -> None:
    theirs = json.loads(str(np.load(RECORDED / f"{library}_{case}.npz")["entries"]))
    arrays = pickle.loads(converted.read_bytes())["model"] if library == "detectron2" else raw_arrays(converted)
    counters = {name for name in theirs if name.endswith("num_batches_tracked")}  # which loading makes where they lack
    assert {n: list(a.shape) for n, a in arrays.items()} == {n: s for n, s in theirs.items() if n not in counters}


def raw_arrays(path: Path) -> dict[str, np.ndarray]:
    from lucid_maskrcnn.weights.formats import open_checkpoint

    return {name: np.asarray(array) for name, array in open_checkpoint(path).arrays.items()}


@CASE
@pytest.mark.filterwarnings("ignore:Objects may be missing")
def test_detections_are_those_that_were_found_there(library: str, case: str) -> None:
    recorded = np.load(RECORDED / f"{library}_{case}.npz")
    for i, image in enumerate(converted_images()):
        (found,) = model_of(library, case).predict(image)
        theirs = {key: recorded[f"{key}{i}"] for key in ("boxes", "scores", "labels")}
        count = len(theirs["scores"])
        masks = np.unpackbits(recorded[f"masks{i}"], count=count * image.shape[0] * image.shape[1])
        masks = masks.reshape(count, *image.shape[:2]).astype(bool)
        rows = matched(found, theirs["boxes"], theirs["labels"])
        assert len(found) == count > 10
        np.testing.assert_allclose(found.boxes.data[rows], theirs["boxes"], atol=0.02)
        np.testing.assert_allclose(found.scores.data[rows], theirs["scores"], atol=2e-4)
        # torchvision pastes into boxes of whole pixels: where rounding decides, a row of pixels goes with it.
        assert (found.masks.data[rows] != masks).sum() <= max(1e-3 * masks.sum(), 8)


def matched(found: Detections, boxes: np.ndarray, labels: np.ndarray) -> list[int]:
    """Return the row of the nearest detection of the same class for each of theirs; each is taken once."""
    distance = np.abs(found.boxes.data[None] - boxes[:, None]).max(2)  # (theirs, ours)
    distance[found.labels.data[None] != labels[:, None]] = np.inf
    rows = distance.argmin(1).tolist()
    assert len(set(rows)) == len(rows)
    return rows


# ------------------------------------------------------------------ there and back


@CASE
def test_model_comes_back_as_it_was(converted: Path, tmp_path: Path, library: str, case: str) -> None:
    ours, back = read_weights_file("ours.safetensors"), read_weights_file(converted)
    assert back.source == library
    assert back.config == ours.config
    assert back.metadata["licence"] == "CC0-1.0"
    assert content(back.arrays) == content(ours.arrays)
    if library == "detectron2":  # torchvision has rows of the background, which are kept
        write_converted(back, tmp_path / "back.safetensors")
        assert (tmp_path / "back.safetensors").read_bytes() == Path("ours.safetensors").read_bytes()


@pytest.mark.parametrize(("library", "case"), [pair for pair in CASES if pair[0] == "detectron2"])
def test_settings_come_back_from_the_configuration(converted: Path, tmp_path: Path, library: str, case: str) -> None:
    ours = read_weights_file("ours.safetensors").config
    assert read_weights_file(converted, config=converted.with_suffix(".yaml")).config == ours
    theirs = pickle.loads(converted.read_bytes())
    with open(tmp_path / "model_final.pkl", "wb") as file:  # as detectron2 saves it after training it on
        pickle.dump({"model": theirs["model"], "__author__": "me"}, file)
    (tmp_path / "config.yaml").write_bytes(converted.with_suffix(".yaml").read_bytes())
    back = MaskRCNN.from_file(tmp_path / "model_final.pkl").config
    without = {"categories": (), "dropout": 0.0, "image": {"intensity": None}, "norm": "frozen"}  # not in detectron2
    assert back.changed(categories=None) == ModelConfig.from_dict(
        {**ours.changed(fpn_norm=ours.backbone.fpn_norm and "frozen", **without).to_dict(), "categories": []}
    ).changed(head_norm=ours.head_norm and "frozen")


def test_configuration_that_says_something_else_stands_above_the_file(tmp_path: Path) -> None:
    model = mask_rcnn_resnet_50_fpn(
        1, conventions="detectron2", norm="batch", categories={1: "cell"}, min_size=640, dropout=0.2, **SLIM
    )
    save_weights(model, tmp_path / "ours.safetensors")
    write_converted(read_weights_file(tmp_path / "ours.safetensors"), tmp_path / "a.pkl", to="detectron2")
    path = tmp_path / "a.yaml"
    assert read_weights_file(tmp_path / "a.pkl", config=path).config == model.config
    path.write_text(path.read_text().replace("MIN_SIZE_TEST: 640", "MIN_SIZE_TEST: 512"))
    changed = read_weights_file(tmp_path / "a.pkl", config=path).config
    assert changed == model.config.changed(min_size=512)
    assert changed.category_names == {1: "cell"}


@pytest.mark.parametrize("arch", ["R50", "R101"])
def test_zoo_to_ours_to_zoo(tmp_path: Path, arch: str) -> None:
    arrays = detectron2_arrays_of(arch) | {
        "pixel_mean": np.full((3, 1, 1), 100, np.float32),
        "proposal_generator.anchor_generator.cell_anchors.0": np.full((3, 4), 7, np.float32),
    }
    with open(tmp_path / "zoo.pkl", "wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, file)
    zoo = read_weights_file(tmp_path / "zoo.pkl")
    write_converted(zoo, tmp_path / "ours.safetensors")
    write_converted(read_weights_file(tmp_path / "ours.safetensors"), tmp_path / "back.pkl", to="detectron2")
    with open(tmp_path / "back.pkl", "rb") as file:
        back = pickle.load(file, encoding="latin1")  # as detectron2 reads it
    assert back["__author__"] == "Detectron2 Model Zoo"
    assert content(back["model"]) == content(arrays)
    assert read_weights_file(tmp_path / "back.pkl").config == zoo.config


def detectron2_arrays_of(arch: str) -> dict[str, np.ndarray]:
    """Return arrays with all of detectron2's names, of the zoo's number of classes; other shapes are small."""
    rng = np.random.default_rng(0)
    shapes = detectron2_recipe.shapes(arch)
    assert len(shapes) == {"R50": 307, "R101": 562}[arch]
    small = {64: 4, 128: 8, 256: 16, 512: 32, 1024: 64, 2048: 128, 256 * 49: 16 * 49}
    return {name: rng.random([small.get(n, n) for n in shape]).astype(np.float32) for name, shape in shapes.items()}


def test_class_agnostic_layers_come_back(tmp_path: Path) -> None:
    arrays = detectron2_arrays_of("R50")
    for layer, rows in (("box_predictor.bbox_pred", 4), ("mask_head.predictor", 1)):
        for kind in ("weight", "bias"):
            arrays[f"roi_heads.{layer}.{kind}"] = arrays[f"roi_heads.{layer}.{kind}"][:rows]
    with open(tmp_path / "zoo.pkl", "wb") as file:
        pickle.dump({"model": arrays, "__author__": "me"}, file)
    write_converted(read_weights_file(tmp_path / "zoo.pkl"), tmp_path / "back.pkl", to="detectron2")
    assert content(pickle.loads((tmp_path / "back.pkl").read_bytes())["model"]) == content(arrays)
    keys = read_detectron2_config(tmp_path / "back.yaml")
    assert keys["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"]
    assert keys["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_torchvision_to_ours_to_torchvision(tmp_path: Path, suffix: str) -> None:
    arrays = torchvision_arrays(mask_rcnn_resnet_50_fpn_v2(2, norm="batch", **SLIM).state_dict())
    rng = np.random.default_rng(0)
    for name, rows in (("box_predictor.bbox_pred", 4), ("mask_predictor.mask_fcn_logits", 1)):
        for kind in ("weight", "bias"):  # of the background, which ours does not have
            array = arrays[f"roi_heads.{name}.{kind}"]
            array[:rows] = rng.normal(size=array[:rows].shape)
    norms = [name.removesuffix("running_mean") for name in arrays if name.endswith("running_mean")]
    arrays |= {f"{norm}num_batches_tracked": np.array(i) for i, norm in enumerate(norms)}
    save_file(arrays | {"roi_heads.total_ops": np.array([1.0])}, tmp_path / "theirs.safetensors")
    write_converted(read_weights_file(tmp_path / "theirs.safetensors"), tmp_path / "ours.safetensors")
    back = tmp_path / f"back{suffix}"
    write_converted(read_weights_file(tmp_path / "ours.safetensors"), back, to="torchvision")
    found = load_file(back) if suffix == ".safetensors" else raw_arrays(back)
    assert content(found) == content(arrays)  # but for the counter of a profiler, which no model has


def test_torchvision_to_detectron2_leaves_rows_of_the_background(tmp_path: Path) -> None:
    model = mask_rcnn_resnet_50_fpn(2, conventions="detectron2", norm="frozen", **SLIM)
    arrays = torchvision_arrays(model.state_dict()) | {"backbone.body.bn1.num_batches_tracked": np.array(3)}
    save_file(arrays, tmp_path / "theirs.safetensors", {"config": json.dumps(model.config.to_dict())})
    write_converted(read_weights_file(tmp_path / "theirs.safetensors"), tmp_path / "out.pkl", to="detectron2")
    written = pickle.loads((tmp_path / "out.pkl").read_bytes())["model"]
    assert not [n for n in written if "box_head.fc6" in n or "mask_fcn_logits" in n or "tracked" in n]
    assert written["roi_heads.box_predictor.bbox_pred.weight"].shape == (8, 32)


# ------------------------------------------------------------------ the files


def test_pickle_names_what_every_numpy_has(tmp_path: Path) -> None:
    save_weights(
        mask_rcnn_resnet_50_fpn(1, conventions="detectron2", norm="frozen", **SLIM), tmp_path / "a.safetensors"
    )
    write_converted(read_weights_file(tmp_path / "a.safetensors"), tmp_path / "a.pkl", to="detectron2")
    opcodes = list(pickletools.genops((tmp_path / "a.pkl").read_bytes()))
    names = {argument for opcode, argument, _ in opcodes if opcode.name in ("GLOBAL", "STACK_GLOBAL")}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert opcodes[0][1] <= 3


def test_storages_for_torchvision_are_aligned(tmp_path: Path) -> None:
    save_weights(mask_rcnn_resnet_18_fpn(1, norm="frozen", **SLIM), tmp_path / "a.safetensors")
    write_converted(read_weights_file(tmp_path / "a.safetensors"), tmp_path / "a.pth", to="torchvision")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None
        data = (tmp_path / "a.pth").read_bytes()
        for info in archive.infolist():
            if "/data/" in info.filename:
                lengths = [
                    int.from_bytes(data[info.header_offset + i : info.header_offset + i + 2], "little")
                    for i in (26, 28)
                ]
                assert (info.header_offset + 30 + sum(lengths)) % 64 == 0, info.filename


@pytest.mark.parametrize(("library", "suffix"), [("torchvision", ".pth"), ("detectron2", ".pkl")])
def test_half_precision_is_kept_for_matrices(tmp_path: Path, library: str, suffix: str) -> None:
    model = mask_rcnn_resnet_50_fpn(2, conventions=library, norm="frozen", **SLIM)
    save_weights(model, tmp_path / "a.safetensors")
    file = read_weights_file(tmp_path / "a.safetensors")
    write_converted(file, tmp_path / f"full{suffix}", to=library)
    write_converted(file, tmp_path / f"half{suffix}", to=library, dtype="float16")
    sizes = [(tmp_path / f"{name}{suffix}").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    half = MaskRCNN.from_file(tmp_path / f"half{suffix}").state_dict()
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(half[name], array, rtol=1e-3, atol=1e-6)


def test_conversion_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    for library, suffix in SUFFIXES.items():
        save_weights(mask_rcnn_resnet_50_fpn(1, conventions=library, norm="frozen", **SLIM), tmp_path / "a.safetensors")
        for name in "ab":
            write_converted(read_weights_file(tmp_path / "a.safetensors"), tmp_path / f"{name}{suffix}", to=library)
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


# ------------------------------------------------------------------ detectron2's configuration


@pytest.mark.parametrize("depth", [50, 101])
def test_configuration_of_the_zoo_is_the_zoos(depth: int) -> None:
    config = ARCHITECTURES[f"mask_rcnn_resnet_{depth}_fpn"].changed(
        conventions="detectron2", norm="frozen", num_classes=80
    )
    changed = {key: value for key, value in ZOO.items() if value != DEFAULTS[key]}
    if depth == 101:
        changed["MODEL.RESNETS.DEPTH"] = 101
    assert detectron2_values(config) == changed


def test_configuration_is_yaml_that_keeps_every_number() -> None:
    config = ARCHITECTURES["mask_rcnn_resnet_50_fpn"].changed(
        conventions="detectron2",
        norm="frozen",
        rpn={"nms_thresh": 1e-05, "positive_fraction": 1.0},
        heads={"nms_thresh": 1.0, "box_weights": (1e-7, 1e20, 1 / 3, 2)},
        image={"pixel_mean": (0.1, 0.2, 1 / 3), "pixel_std": (1 / 255, 0.225, 1e-9)},
    )
    text = detectron2_yaml(check_for_detectron2(config), Path("a 'b'.pkl"))
    keys = yaml.safe_load(text)
    model = keys["MODEL"]
    assert model["WEIGHTS"] == "a 'b'.pkl"
    assert (model["RPN"]["NMS_THRESH"], model["RPN"]["POSITIVE_FRACTION"]) == (1e-05, 1.0)
    assert model["ROI_HEADS"]["NMS_THRESH_TEST"] == 1.0
    assert model["ROI_BOX_HEAD"]["BBOX_REG_WEIGHTS"] == [1e-7, 1e20, 1 / 3, 2]
    assert [v / 255 for v in model["PIXEL_MEAN"][::-1]] == list(config.image.pixel_mean)
    assert [v / 255 for v in model["PIXEL_STD"][::-1]] == list(config.image.pixel_std)
    # detectron2 takes no integer where its default is a float
    types = {"NMS_THRESH": model["RPN"], "POSITIVE_FRACTION": model["RPN"], "NMS_THRESH_TEST": model["ROI_HEADS"]}
    assert {type(section[key]) for key, section in types.items()} == {float}


# ------------------------------------------------------------------ each setting is taken there or refused

OTHER: dict[str, Any] = {
    "num_classes": 7,
    "feat_channels": 128,  # with the pyramid's channels
    "anchor_sizes": (16, 32, 64, 128, 256),
    "aspect_ratios": (0.5, 2.0),
    "pool_size": (8, 8),
    "hidden_dim": 512,
    "dropout": 0.25,
    "mask_pool_size": (7, 7),
    "mask_hidden_channels": 64,
    "mask_out_size": 14,  # with mask_pool_size
    "pooled_levels": 3,
    "rpn_convs": 2,
    "box_convs": True,
    "head_norm": "frozen",
    "categories": {1: "cell"},
    "image.min_size": 640,
    "image.max_size": 1000,
    "image.scale": 2.0,
    "image.pixel_mean": (0.1, 0.2, 0.3),
    "image.pixel_std": (0.1, 0.2, 0.3),
    "image.size_divisor": 64,
    "image.intensity": "max",
    "rpn.min_size": 4.5,
    "rpn.nms_thresh": 0.65,
    "rpn.foreground_iou": 0.6,
    "rpn.background_iou": 0.2,
    "rpn.positive_fraction": 0.3,
    "heads.sampling_ratio": 3,
    "heads.box_weights": (1.0, 2.0, 3.0, 4.0),
    "heads.foreground_iou": 0.6,
    "heads.positive_fraction": 0.3,
    "heads.min_size": 2.0,
    "heads.nms_thresh": 0.45,
    "heads.top_k": 50,
    "heads.level_margin": (1e-3, 1e-3),
    "backbone.depth": 101,
    "backbone.width": 32,
    "backbone.out_channels": 128,
    "backbone.norm": "batch",
    "backbone.fpn_norm": "frozen",
    "backbone.norm_eps": 1e-3,
}
WITHOUT_EFFECT = {"use_fpn", "anchor_stride"}  # of a pyramid, which all of these models have
TOGETHER = {
    "feat_channels": {"fpn_channels": 128},
    "backbone.out_channels": {"fpn_channels": 128},
    "mask_out_size": {"mask_pool_size": 7, "mask_out_size": 14},
    "mask_pool_size": {"mask_pool_size": 7, "mask_out_size": 14},
}


def settings(config: ModelConfig) -> list[str]:
    """Return all settings of a configuration, with the part that they are of."""
    names = []
    for field in fields(config):
        value = getattr(config, field.name)
        parts = fields(value) if field.name in ("image", "rpn", "heads", "backbone") else None
        names += [field.name] if parts is None else [f"{field.name}.{part.name}" for part in parts]
    return names


def with_other(config: ModelConfig, name: str) -> ModelConfig:
    """Return the configuration with another value of a setting."""
    if name in TOGETHER:
        return config.changed(**TOGETHER[name])
    own = attrgetter(name)(config)
    other = OTHER.get(name, not own if isinstance(own, bool) else own + 1 if isinstance(own, int) else None)
    assert other is not None, f"the new setting {name} needs a value in OTHER"
    part, _, field = name.rpartition(".")
    if name == "rpn.sizes_first":
        config = config.changed(anchor_sizes=[(n, 2 * n) for n in (16, 32, 64, 128, 256)])
    return config.changed(**({part: {field: other}} if part else {name: other}))


@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
def test_every_setting_is_taken_there_or_refused_by_name(library: str) -> None:
    base = ARCHITECTURES["mask_rcnn_resnet_50_fpn"].changed(norm="frozen", conventions=library, num_classes=3)
    refused = set()
    for name in settings(base):
        if name in WITHOUT_EFFECT:
            continue
        start = (
            base.changed(anchor_sizes=[(n, 2 * n) for n in (16, 32, 64, 128, 256)]) if "sizes_first" in name else base
        )
        there, said = answer(library, with_other(base, name))
        if said:
            assert f"to={library!r} cannot express this model" in said
            assert f"{name}=" in said
            refused.add(name)
        else:
            assert there != answer(library, start)[0], name
    assert refused == REFUSED[library]


REFUSED = {
    "torchvision": {
        *("image.scale", "image.bgr", "image.antialias", "image.clip_restored", "backbone.stride_in_1x1"),
        *("rpn.min_size", "rpn.by_logits", "rpn.finite_only", "rpn.whole_pixels", "rpn.nominal_strides"),
        *("rpn.sizes_first", "heads.aligned", "heads.min_size", "heads.finite_only", "heads.level_margin"),
        "heads.snap_masks",
    },
    "detectron2": {
        *("image.scale", "image.size_divisor", "image.antialias", "image.clip_restored", "backbone.norm_eps"),
        *("rpn.min_size", "rpn.by_logits", "rpn.finite_only", "rpn.whole_pixels", "rpn.nominal_strides"),
        *("rpn.sizes_first", "heads.min_size", "heads.finite_only", "heads.level_margin", "heads.snap_masks"),
    },
}


def answer(library: str, config: ModelConfig) -> tuple[str, str]:
    """Return what the other library learns of a model, or why it cannot have it."""
    try:
        return text_there(library, config), ""
    except ValueError as error:
        return "", str(error)


def text_there(library: str, config: ModelConfig) -> str:
    """Return all that the other library learns of a model."""
    if library == "torchvision":
        return torchvision_code(check_for_torchvision(config), Path("a.pth"))
    from lucid_maskrcnn.weights.detectron2_code import detectron2_code

    return detectron2_yaml(check_for_detectron2(config), Path("a.pkl")) + detectron2_code(config, Path("a.pkl"))


@pytest.mark.parametrize(
    ("library", "changes", "said"),
    [
        ("detectron2", {"pool_size": (5, 6)}, "pool_size=(5, 6) ((5, 5) there)"),
        ("detectron2", {"image": {"scale": 1.0}}, "image.max_size=1333 (2147483647 there)"),
        ("detectron2", {"conventions": "torchvision"}, "image.antialias=False (True there), image.clip_restored=False"),
        ("detectron2", {"rpn": {"background_iou": 0}}, "detectron2 has no rpn.background_iou=0: its thresholds"),
        ("detectron2", {"norm_eps": 0.0}, "backbone.norm_eps=0.0 (1e-05 there)"),
        ("detectron2", {"backbone": {"depth": 18, "width": 32}}, "backbone.width=32 (64 there)"),
        ("torchvision", {"conventions": "detectron2"}, "image.bgr=True (False there), image.antialias=True"),
    ],
)
def test_what_cannot_be_said_there_is_named(library: str, changes: dict[str, Any], said: str) -> None:
    base = ARCHITECTURES["mask_rcnn_resnet_50_fpn"].changed(norm="frozen", conventions=library)
    with pytest.raises(ValueError, match="cannot express this model") as caught:
        text_there(library, base.changed(**changes))
    assert said in str(caught.value)


@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
def test_backbone_of_ones_own_and_unknown_models_are_refused(tmp_path: Path, library: str) -> None:
    path = tmp_path / "a.safetensors"
    model = mask_rcnn_resnet_18_fpn(2, norm="frozen", **SLIM)
    own = ModelConfig.from_dict({**model.config.to_dict(), "backbone": None})
    out = tmp_path / f"out{SUFFIXES[library]}"
    save_file(model.state_dict(), path, {"config": json.dumps(own.to_dict())})
    with pytest.raises(ValueError, match="needs a ResNet-FPN backbone of this package: this model has one of its own"):
        write_converted(read_weights_file(path), out, to=library)
    save_file(model.state_dict(), path)
    with pytest.raises(ValueError, match="needs the model's configuration, which these weights come without"):
        write_converted(read_weights_file(path), out, to=library)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


# ------------------------------------------------------------------ the command


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_weights(mask_rcnn_resnet_50_fpn(1, conventions="detectron2", norm="frozen", **SLIM), "ours.safetensors")
    return Path("ours.safetensors")


def test_output_of_convert_is_a_program(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(ours), "theirs.pkl", "--to", "detectron2"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("# theirs.pkl: mask_rcnn_resnet_50_fpn, lucid_maskrcnn's weights under detectron2's names, ")
    assert err == ""
    assert isinstance(ast.parse(out).body[0], ast.ImportFrom)
    assert "cfg.merge_from_file('theirs.yaml')" in out
    assert sorted(p.name for p in Path().iterdir()) == ["ours.safetensors", "theirs.pkl", "theirs.yaml"]
    assert main(["convert", "theirs.pkl", "back.safetensors", "--config", "theirs.yaml"]) == 0
    assert Path("back.safetensors").read_bytes() == ours.read_bytes()


@pytest.mark.parametrize(
    ("target", "to", "said"),
    [
        ("out.safetensors", "detectron2", "OUT must end in .pkl with --to detectron2, got 'out.safetensors'."),
        ("out.PKL", "detectron2", "OUT must end in .pkl with --to detectron2, got 'out.PKL'."),  # read by its name
        ("out.pkl", "torchvision", "OUT must end in .safetensors, .pth or .pt with --to torchvision, got 'out.pkl'."),
        ("out.pkl", "lucid_maskrcnn", "OUT must end in .safetensors, got 'out.pkl'."),
        ("out.pth", "torchvision", "to='torchvision' cannot express this model"),
    ],
)
def test_command_answers_a_mistake(
    ours: Path, capsys: pytest.CaptureFixture[str], target: str, to: str, said: str
) -> None:
    assert main(["convert", str(ours), target, "--to", to]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert [p.name for p in Path().iterdir()] == ["ours.safetensors"]


def test_configuration_of_somebody_else_is_not_replaced(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", str(ours), "theirs.pkl", "--to", "detectron2"]
    Path("theirs.yaml").write_text("MODEL: {}\n")
    assert main(command) == 2
    assert "'theirs.yaml' is where the configuration for detectron2 belongs" in capsys.readouterr().err
    assert Path("theirs.yaml").read_text() == "MODEL: {}\n"
    assert not Path("theirs.pkl").exists()
    Path("theirs.yaml").unlink()
    Path("theirs.yaml").mkdir()
    assert main(command) == 2
    assert not Path("theirs.pkl").exists()
    Path("theirs.yaml").rmdir()
    assert main(command) == 0
    assert main(command) == 0  # its own are replaced


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("no JSON", "has a header that is not JSON"),
        ("[" * 5000, "has a header that is"),
        ('{"config": 5}', "has metadata whose config is not a string"),
        ('{"config": "{}"}', "has a header whose configuration is not valid: num_classes is missing"),
        (
            '{"config": "{\\"num_classes\\": 10000000000}"}',
            "has a header whose configuration is not valid: num_classes",
        ),
    ],
)
def test_damaged_header_is_refused(ours: Path, header: str, said: str) -> None:
    write_converted(read_weights_file(ours), "a.pkl", to="detectron2")
    content = pickle.loads(Path("a.pkl").read_bytes())
    Path("b.pkl").write_bytes(pickle.dumps({**content, "lucid_maskrcnn": header}))
    with pytest.raises(ValueError, match=r"'b\.pkl' has") as caught:
        read_weights_file("b.pkl")
    assert said in str(caught.value)


@pytest.mark.parametrize("header", [5, None, {"config": "{}"}, b"{}"])
def test_entry_of_that_name_that_is_no_text_is_passed_over(ours: Path, header: Any) -> None:
    write_converted(read_weights_file(ours), "a.pkl", to="detectron2")
    content = pickle.loads(Path("a.pkl").read_bytes())
    Path("b.pkl").write_bytes(pickle.dumps({**content, "lucid_maskrcnn": header}))
    assert read_weights_file("b.pkl").metadata == {"__author__": "lucid_maskrcnn"}
