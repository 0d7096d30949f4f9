"""A data set's objects beside a model's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import noise_image
from PIL import Image

from lucid_maskrcnn.cli import main
from lucid_maskrcnn.config import ModelConfig
from lucid_maskrcnn.data import CocoInstances, suggest


def data_set(folder: Path, side: int, objects: int, *, width: int = 0, size: int = 100) -> CocoInstances:
    """Two images of so many squares, or of rectangles of another width; one category has no object."""
    images, annotations = [], []
    for i in (1, 2):
        Image.fromarray(noise_image((size, size))).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": size, "width": size})
        for k in range(objects):
            x, y, w = 3 * k % 40, 2 * k % 40, width or side
            ring = [x, y, x + w, y, x + w, y + side, x, y + side]
            common = {"id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0}
            annotations.append({**common, "segmentation": [ring], "bbox": [x, y, w, side], "area": w * side})
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "ghost"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content))
    return CocoInstances(folder, folder / "truth.json", progress=False)


def config(**image: Any) -> ModelConfig:
    settings = {"min_size": 100, "max_size": 200, **image}
    sizes = ((16,), (32,), (64,))
    return ModelConfig(feat_channels=8, num_classes=2, use_fpn=True, anchor_sizes=sizes, image=settings, backbone=None)


def test_numbers_are_those_of_the_network(tmp_path: Path) -> None:
    found = suggest(data_set(tmp_path, 20, 5), config(min_size=200))
    assert found.sizes.tolist() == [20.0] * 10
    assert found.network_sizes.tolist() == [40.0] * 10
    assert found.objects_per_image.tolist() == [5, 5]
    assert found.best_iou == pytest.approx(np.full(10, 32**2 / 40**2))  # the square anchor of 32
    assert found.anchor_sizes == (16, 32, 64)
    assert found.network_size == (200, 200)
    assert found.categories == {"cell": 2, "ghost": 0}
    assert found.sentences == ("No image has an object of ghost: these categories cannot be learned.",)
    assert found.memory is None
    assert "2 images with 10 objects" in found.table()


def test_small_objects_ask_for_a_larger_scale_or_smaller_anchors(tmp_path: Path) -> None:
    (sentence, *_) = suggest(data_set(tmp_path, 8, 5), config()).sentences
    assert "most are from 8 to 8 pixels in the network, anchors from 16 to 64" in sentence
    assert "--min-size 200 --max-size 400" in sentence
    assert "anchor_sizes=(6, 8, 10)" in sentence
    assert "(0% then)" in sentence
    (sentence, *_) = suggest(CocoInstances(tmp_path, tmp_path / "truth.json"), config(scale=1.0)).sentences
    assert "image={'scale': 2}" in sentence


def test_narrow_objects_ask_for_other_ratios(tmp_path: Path) -> None:
    (sentence, *_) = suggest(data_set(tmp_path, 90, 3, width=9), config()).sentences
    assert "aspect_ratios=(0.25, 0.5, 1.0, 2.0, 4.0)" in sentence or "more sizes a level" in sentence


def test_many_objects_ask_for_limits(tmp_path: Path) -> None:
    sentences = " ".join(suggest(data_set(tmp_path, 20, 300), config()).sentences)
    assert "2 of 2 images have more objects than top_k=100, up to 300" in sentences
    assert "--top-k 360" in sentences
    assert "'post_nms_top_n': 1200" in sentences


def test_long_images_ask_for_tiles(tmp_path: Path) -> None:
    sentences = suggest(data_set(tmp_path, 20, 3), config(scale=3.0)).sentences
    assert sentences[0].startswith("2 of 2 images have a longer side than max_size=200 allows")
    assert "--tiles" in sentences[0]


def test_no_objects(tmp_path: Path) -> None:
    found = suggest(data_set(tmp_path, 20, 0), config())
    assert found.sentences == ("There are no objects: there is nothing to compare.",)
    assert found.table()


def test_command_line_says_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    data_set(tmp_path, 20, 5)
    assert main(["suggest", str(tmp_path), str(tmp_path / "truth.json"), "--out", str(tmp_path / "s.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 images with 10 objects"
    assert any(line.startswith("- ") for line in lines)
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width > 900
