"""The weights in the package, on the arrays in the package."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn
from lucid_maskrcnn.masks.rle import decode_rle

ASSETS = Path(str(resources.files("lucid_maskrcnn") / "assets"))
TRUTH = json.loads((Path(__file__).parents[1] / "data" / "nuclei_demo.json").read_text())
# Histology is a tenth of what it was trained on: 17 of 27 are found there, 37 of 38 in fluorescence.
RECALL = {"fluorescence": 0.85, "histology_lilac": 0.5}


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    return mask_rcnn_resnet_18_fpn(weights="NUCLEI")


def test_the_weights_bring_their_own_settings(model: MaskRCNN) -> None:
    assert model.num_classes == 1
    assert model.categories == {1: "nucleus"}
    assert model.config.heads.top_k == 400
    assert (model.config.image.scale, model.config.heads.nms_thresh) == (2.5, 0.3)
    assert MaskRCNN.from_file("NUCLEI").count_parameters() == model.count_parameters()


def test_the_weights_are_small_enough_to_ship() -> None:
    assert (ASSETS / "nuclei_resnet18_fpn.safetensors").stat().st_size < 15e6


@pytest.mark.parametrize("image", TRUTH["images"], ids=lambda image: image["file_name"])
def test_nuclei_are_found_and_outlined(model: MaskRCNN, image: dict) -> None:
    (found,) = model.predict(ASSETS / image["file_name"], score_thresh=0.5)
    own = [a for a in TRUTH["annotations"] if a["image_id"] == image["id"]]
    wanted = np.stack([decode_rle(a["segmentation"]) for a in own]).reshape(len(own), -1).astype(np.float32)
    masks = found["masks"].data.reshape(len(found), -1).astype(np.float32)
    shared = masks @ wanted.T
    iou = shared / (masks.sum(1)[:, None] + wanted.sum(1) - shared)
    hits = (iou > 0.5).sum()  # no mask can share over half of it with two others
    assert hits / len(own) > RECALL[image["kind"]]
    assert hits / len(found) > 0.75
