"""What a user's type checker sees: a file that uses the package is checked with mypy, as it comes.

Lucid's own types are no part of it: releases without ``py.typed`` are ``Any`` to mypy.
"""

from __future__ import annotations

import importlib.resources
import re
import subprocess
import sys

import pytest

pytest.importorskip("mypy")

RIGHT = """
from typing import Any, assert_type

from lucid_maskrcnn import (
    Detections,
    ImageConfig,
    MaskRCNN,
    ModelConfig,
    mask_rcnn_resnet_18_fpn,
    mask_rcnn_resnet_50_fpn,
    mask_rcnn_resnet_50_fpn_v2,
    mask_rcnn_resnet_101_fpn,
)
from lucid_maskrcnn.data import CocoInstances, Loader
from lucid_maskrcnn.training import Trainer, TrainerSettings

model = mask_rcnn_resnet_50_fpn(num_classes=3, weights_backbone="IMAGENET1K_V1")
assert_type(model, MaskRCNN)
assert_type(mask_rcnn_resnet_18_fpn(weights="NUCLEI", top_k=400).to("gpu").eval(), MaskRCNN)
assert_type(mask_rcnn_resnet_50_fpn_v2(min_size=640, max_size=640, image={"bgr": True}), MaskRCNN)
assert_type(mask_rcnn_resnet_101_fpn(5, conventions="detectron2", trainable_layers=3), MaskRCNN)
assert_type(model.config, ModelConfig)
assert_type(model.config.image, ImageConfig)
assert_type(MaskRCNN.from_file("mine.safetensors"), MaskRCNN)
found = model.predict("a.png", score_thresh=0.5)[0]
assert_type(found, Detections)
assert_type(found[:3], Detections)
assert_type(found.names, list[str])
assert_type(found.to_rle(), list[dict[str, Any]])
assert_type(found.to_geojson(object_type="annotation"), dict[str, Any])
assert_type(found.to_yolo(), str)
found.save("a.csv", image="a.tif", pixel_size=0.5)
assert_type(len(found), int)
image = ImageConfig(min_size=512, max_size=1024)
assert_type(image.max_size, int)
loader = Loader(CocoInstances("images", "instances.json"), 2, seed=1)
assert_type(loader.steps_per_epoch, int)
Trainer(model, loader, out="runs/mine", settings=TrainerSettings(steps=100, lr=0.02)).run()
"""

# Each line but the imports is wrong, for the reason at its end.
WRONG = """
from lucid_maskrcnn import ImageConfig, MaskRCNN, mask_rcnn_resnet_50_fpn
from lucid_maskrcnn import mask_rcnn_resnet_34_fpn  # attr-defined
from lucid_maskrcnn.training import TrainerSettings
model = mask_rcnn_resnet_50_fpn(num_classes="3")  # arg-type
mask_rcnn_resnet_50_fpn(num_class=3)  # call-arg
mask_rcnn_resnet_50_fpn(3, pretrained=True)  # call-arg
mask_rcnn_resnet_50_fpn(3, trainable_backbone_layers=3)  # call-arg
mask_rcnn_resnet_50_fpn(3, min_size="800")  # arg-type
model.config.imag  # attr-defined
model.predict("a.png", score_tresh=0.5)  # call-arg
model.predict("a.png", score_thresh="0.5")  # arg-type
model.predict("a.png")[0].nmes  # attr-defined
model.predict("a.png")[0].to_json("a.json", image_id="1")  # arg-type
model.predict("a.png")[0].to_geojson(object_type="cell")  # arg-type
ImageConfig(min_sise=512)  # call-arg
ImageConfig(pixel_mean="imagenet")  # arg-type
TrainerSettings(steps="100")  # arg-type
"""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy says of both files, line by line; in one run, as most of its time goes to what they import."""
    folder = tmp_path_factory.mktemp("user")
    for name, source in (("right.py", RIGHT), ("wrong.py", WRONG)):
        (folder / name).write_text(source, encoding="utf-8")
    options = ["--strict", "--config-file=", "--no-incremental", "--no-error-summary", "--no-color-output"]
    command = [sys.executable, "-m", "mypy", *options, "right.py", "wrong.py"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 1, run.stdout + run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    of_wrong = [line for line in lines if line.startswith("wrong.py:")]
    return {"wrong.py": of_wrong, "right.py": [line for line in lines if line not in of_wrong]}


def test_package_is_marked_as_typed() -> None:
    assert importlib.resources.files("lucid_maskrcnn").joinpath("py.typed").is_file()


def test_mypy_knows_the_types_of_a_users_file(faults: dict[str, list[str]]) -> None:
    assert faults["right.py"] == []


def test_mypy_finds_misspelt_names_and_wrong_types_in_a_users_file(faults: dict[str, list[str]]) -> None:
    output = "\n".join(faults["wrong.py"])
    found = {(int(line), kind) for line, kind in re.findall(r"wrong\.py:(\d+): error: .*\[([\w-]+)\]", output)}
    wanted = {(number, line.rpartition("# ")[2]) for number, line in enumerate(WRONG.splitlines(), 1) if "  # " in line}
    assert found == wanted, output
