"""``from_file`` with settings and names of classes: what the shapes of a file determine cannot be changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.torchvision import recipe
from safetensors.numpy import save_file

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn, save_weights
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.weights import read_weights_file, write_converted
from lucid_maskrcnn.weights.coco_categories import categories_of_file
from lucid_maskrcnn.weights.layouts import torchvision_arrays

DATA = Path(__file__).parents[1] / "data"
SLIM = {"width": 8, "fpn_channels": 8, "hidden_dim": 16, "mask_hidden_channels": 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in torchvision's names, and in a file of this package."""
    folder = tmp_path_factory.mktemp("files")
    model = mask_rcnn_resnet_18_fpn(3, norm="frozen", **SLIM)
    save_file(torchvision_arrays(model.state_dict()), folder / "theirs.safetensors")
    save_weights(model, folder / "ours.safetensors")
    return {name: folder / f"{name}.safetensors" for name in ("theirs", "ours")}


@pytest.mark.parametrize("name", ["theirs", "ours"])
def test_settings_that_no_shape_shows_are_taken(files: dict[str, Path], name: str) -> None:
    model = MaskRCNN.from_file(
        files[name],
        anchor_sizes=(8, 16, 32, 64, 128),
        aspect_ratios=(0.4, 1.0, 2.5),
        min_size=320,
        max_size=500,
        top_k=7,
        mask_pool_size=10,
        mask_out_size=20,
        norm_eps=1e-4,
        trainable_layers=1,
        image={"pixel_std": (1, 1, 1)},
        rpn={"nms_thresh": 0.6},
        heads={"box_weights": (1, 2, 3, 4)},
        categories={1: "a", 3: "c"},
        num_classes=3,
    )
    config = model.config
    assert config.anchor_sizes == (8, 16, 32, 64, 128)
    assert (config.image.min_size, config.image.pixel_std, config.heads.top_k) == (320, (1, 1, 1), 7)
    assert (config.rpn.nms_thresh, config.heads.box_weights) == (0.6, (1, 2, 3, 4))
    assert model.backbone.body.bn1.eps == 1e-4
    assert model.categories == {1: "a", 3: "c"}
    assert MaskRCNN.from_file(files[name], top_k=None).config == MaskRCNN.from_file(files[name]).config


@pytest.mark.parametrize("name", ["theirs", "ours"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_dim": 32}, "hidden_dim=32 contradicts weights '.*', whose shapes say 16: leave it out"),
        ({"width": 16}, "width=16 contradicts weights '.*', whose shapes say 8: leave it out"),
        ({"fpn_channels": 16}, "fpn_channels=16 contradicts weights '.*', whose shapes say 8: leave it out"),
        ({"mask_hidden_channels": 4}, "mask_hidden_channels=4 contradicts weights '.*', whose shapes say 8"),
        ({"rpn_convs": 2}, "rpn_convs=2 contradicts weights '.*', whose shapes say 1: leave it out"),
        ({"box_convs": True}, "box_convs=True contradicts weights '.*', whose shapes say no such layers"),
        ({"fpn_norm": "batch"}, "fpn_norm='batch' contradicts weights '.*', whose shapes say no such layers"),
        ({"head_norm": "frozen"}, "head_norm='frozen' contradicts weights '.*', whose shapes say no such layers"),
        ({"pool_size": 5}, "pool_size=5 contradicts weights '.*', whose shapes say 49 cells pooled for the box head"),
        (
            {"anchor_sizes": [(8, 9)] * 5},
            "'.*' have 3 anchors at a position, but anchor_sizes and aspect_ratios give 6",
        ),
        (
            {"aspect_ratios": (1.0,)},
            "'.*' have 3 anchors at a position, but anchor_sizes and aspect_ratios give 1: pass",
        ),
        ({"num_classes": 5}, r"num_classes=5 contradicts .*: call mask_rcnn_resnet_18_fpn\(num_classes=5, weights=…\)"),
        ({"categories": {4: "d"}}, "categories must have labels from 1 to num_classes, 3, got"),
        ({"anchor_sizes": (8, 16)}, "anchor_sizes must have 5 entries, one for each level of the pyramid, got 2"),
        ({"min_size": 0}, "min_size must be"),
        ({"config": "config.yaml"}, r"config must be given for detectron2's weights alone, and '.*' has"),
    ],
)
def test_what_contradicts_the_shapes_is_refused(
    files: dict[str, Path], name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MaskRCNN.from_file(files[name], **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_sise": 3}, r"MaskRCNN\.from_file\(\) has no argument 'min_sise'; did you mean 'min_size'\?"),
        ({"box_detections_per_img": 3}, r"has no argument 'box_detections_per_img'; did you mean 'top_k'\?"),
        ({"weights_backbone": "MSRA"}, r"MaskRCNN\.from_file\(\) has no argument 'weights_backbone'"),
        ({"min_size": "800"}, "min_size must be an integer from 1 to"),
        ({"categories": ["a", "b", "c"]}, "categories must map labels to names"),
    ],
)
def test_settings_that_are_none(files: dict[str, Path], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        MaskRCNN.from_file(files["theirs"], **settings)


def test_other_anchors_of_a_file_are_found_by_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = mask_rcnn_resnet_18_fpn(2, norm="frozen", aspect_ratios=(0.5, 1.0), pool_size=5, **SLIM)
    save_file(torchvision_arrays(model.state_dict()), tmp_path / "theirs.safetensors")
    with pytest.raises(
        ValueError, match="have 2 anchors at a position, but anchor_sizes and aspect_ratios give 3: pass"
    ):
        MaskRCNN.from_file(tmp_path / "theirs.safetensors")
    file = read_weights_file(tmp_path / "theirs.safetensors")
    for to in ("lucid_maskrcnn", "torchvision"):
        with pytest.raises(ValueError, match=r"have 2 anchors at a position, and their configuration says 3: give Mas"):
            write_converted(file, tmp_path / "out.safetensors", to=to)
    assert main(["convert", str(tmp_path / "theirs.safetensors"), str(tmp_path / "out.safetensors")]) == 2
    assert "have 2 anchors at a position, and their configuration says 3: give Mas" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
    again = MaskRCNN.from_file(tmp_path / "theirs.safetensors", aspect_ratios=(0.5, 1.0))
    assert again.config.pool_size == (5, 5)  # from the shapes


def test_pooled_cells_that_are_no_square(tmp_path: Path) -> None:
    model = mask_rcnn_resnet_18_fpn(2, norm="frozen", pool_size=(5, 6), **SLIM)
    path = tmp_path / "theirs.safetensors"
    save_file(torchvision_arrays(model.state_dict()), path)
    assert MaskRCNN.from_file(path, pool_size=(5, 6)).config.pool_size == (5, 6)
    with pytest.raises(ValueError, match=r"have 30 cells .*, which are no square: pass pool_size=\(height, width\)\."):
        MaskRCNN.from_file(path)
    with pytest.raises(
        ValueError, match=r"pool_size=7 contradicts .*, whose shapes say 30 cells pooled for the box head"
    ):
        MaskRCNN.from_file(path, pool_size=7)


def test_four_convolutions_without_norms(tmp_path: Path) -> None:
    """torchvision's ``FastRCNNConvFCHead`` without ``norm_layer``, in a state dict that says nothing of it."""
    model = mask_rcnn_resnet_18_fpn(2, norm="frozen", box_convs=True, **SLIM)
    save_file(torchvision_arrays(model.state_dict()), tmp_path / "theirs.safetensors")
    again = MaskRCNN.from_file(tmp_path / "theirs.safetensors")
    assert (again.config.box_convs, again.config.head_norm) == (True, None)
    assert all(np.array_equal(a, again.state_dict()[n]) for n, a in model.state_dict().items())


@pytest.mark.parity
def test_detections_are_those_of_torchvision_with_the_same_settings(tmp_path: Path) -> None:
    """Recorded in torchvision 0.28, whose model was given these settings and such weights."""
    arrays = recipe.state_dict("maskrcnn_resnet50_fpn", 91, 0)
    for name in [n for n in arrays if n.startswith(("rpn.head.cls_logits", "rpn.head.bbox_pred"))]:
        arrays[name] = np.concatenate([arrays[name], 0.9 * arrays[name]]).astype(np.float32)  # for six anchors
    fc6 = arrays["roi_heads.box_head.fc6.weight"].reshape(1024, 256, 7, 7)[:, :, 1:6, 1:6]
    arrays["roi_heads.box_head.fc6.weight"] = (1.4 * fc6.reshape(1024, -1)).astype(np.float32)  # for 5 × 5 cells
    save_file(arrays, tmp_path / "theirs.safetensors")
    model = MaskRCNN.from_file(
        tmp_path / "theirs.safetensors",
        min_size=160,
        max_size=220,
        anchor_sizes=((24, 32), (48, 64), (96, 128), (192, 256), (384, 512)),
        aspect_ratios=(0.4, 1.0, 2.5),
        mask_pool_size=10,
        mask_out_size=20,
        top_k=25,
        image={"pixel_mean": (0.5, 0.4, 0.3), "pixel_std": (0.2, 0.25, 0.3)},
        rpn={"pre_nms_top_n": 300, "post_nms_top_n": 150, "nms_thresh": 0.6},
        heads={"nms_thresh": 0.4, "box_weights": (8, 12, 4, 6), "sampling_ratio": 3},
    )
    with np.load(DATA / "detectron2" / "model_r50.npz") as file:
        image = np.ascontiguousarray(file["img1_image"][40:180, 30:230, ::-1])
    with np.load(DATA / "torchvision" / "settings.npz") as file:
        wanted = dict(file)
    with pytest.warns(UserWarning, match="top_k"):
        (found,) = model.predict(image)
    own = found.numpy()
    assert own["labels"].tolist() == wanted["labels"].tolist()
    np.testing.assert_allclose(own["boxes"], wanted["boxes"], atol=0.02)
    np.testing.assert_allclose(own["scores"], wanted["scores"], atol=5e-4)
    assert np.abs(own["masks"].sum((1, 2)).astype(int) - wanted["areas"].astype(int)).max() <= 8


# ------------------------------------------------------------------ names in a COCO file


def coco(folder: Path, entries: Any) -> Path:
    file = folder / "coco.json"
    file.write_text(json.dumps({"categories": entries}))
    return file


def test_labels_follow_the_ids_or_are_the_ids(tmp_path: Path, files: dict[str, Path]) -> None:
    file = coco(tmp_path, [{"id": 3, "name": "c"}, {"id": 1, "name": "a"}])
    assert categories_of_file(file, 2) == {1: "a", 2: "c"}
    assert categories_of_file(file, 2).ids == {1: 1, 2: 3}
    model = MaskRCNN.from_file(files["theirs"], categories=str(file))  # of 3 classes
    assert model.categories == {1: "a", 3: "c"}
    scratch = mask_rcnn_resnet_18_fpn(categories=file, **SLIM)
    assert scratch.num_classes == 2
    assert scratch.categories.ids == {1: 1, 2: 3}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "must be COCO's annotations, a JSON file with a list of 'categories'"),
        ({"1": "a"}, "must be COCO's annotations"),
        ([{"id": 1}], r"coco\.json': entry 0 has no 'name'"),
        (["a"], r"coco\.json': entry 0 must be a mapping with 'id' and 'name', got 'a'"),
        ([{"id": "1", "name": "a"}], r"coco\.json': entry 0: id must be an integer"),
        ([{"id": 1, "name": ""}], r"coco\.json': entry 0: name must not be an empty string"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], r"coco\.json': the id 1 comes twice"),
        ([{"id": 1, "name": "a"}], r"coco\.json' has 1 categories with ids up to 1, but the model has 3 classes"),
    ],
)
def test_files_without_such_names(tmp_path: Path, files: dict[str, Path], entries: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        MaskRCNN.from_file(files["ours"], categories=coco(tmp_path, entries))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json': No such file"):
        MaskRCNN.from_file(files["ours"], categories=tmp_path / "nowhere.json")
