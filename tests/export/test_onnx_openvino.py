"""Exported models in OpenVINO, beside ``predict``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
from export.exported_models import SMALL, assert_same, asset, lively, predicted
from openvino import opset15

import lucid_maskrcnn as lm
from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.export import to_onnx
from lucid_maskrcnn.transforms import resized_size

NAMES = ("boxes", "scores", "labels", "masks", "full_masks")


class Compiled:
    """A model's file in OpenVINO, which gets the network's size, as it has no float64 to compute it in."""

    def __init__(self, model: MaskRCNN, path: Path) -> None:
        to_onnx(model, path, full_masks=True)
        self.config = model.config.image
        core = openvino.Core()
        network = core.read_model(path)
        constant = next(node for node in network.get_ops() if node.get_friendly_name() == "network_size")
        size = opset15.parameter([2], np.int64, name="network_size")
        constant.output(0).replace(size.output(0))
        network.add_parameters([size])
        self.compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        found = self.compiled([image, np.int64(resized_size(image.shape[:2], self.config))])
        return {name: found[name].copy() for name in NAMES}


def test_nuclei(tmp_path: Path) -> None:
    model = MaskRCNN.from_file("NUCLEI")
    compiled = Compiled(model, tmp_path / "nuclei.onnx")
    for name, count in [("nuclei_fluorescence_small", 42), ("nuclei_histology_lilac", 36)]:
        theirs = compiled(asset(name))
        assert len(theirs["boxes"]) == count
        assert_same(theirs, predicted(model, asset(name)))
    empty = compiled(np.zeros((60, 80, 3), np.uint8))  # after images with objects
    assert [empty[name].shape for name in NAMES] == [(0, 4), (0,), (0,), (0, 28, 28), (0, 60, 80)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: lm.mask_rcnn_resnet_18_fpn(3, **SMALL),
        lambda: lm.mask_rcnn_resnet_18_fpn(3, conventions="detectron2", **SMALL),
    ],
    ids=["torchvision", "detectron2"],
)
def test_conventions(tmp_path: Path, build: Callable[[], MaskRCNN]) -> None:
    model = lively(build())
    image = asset("nuclei_histology_lilac", (90, 130))
    # Pillow's integers are rounded from float64: in float32 a few pixels differ by one.
    antialias = model.config.image.antialias
    theirs, ours = Compiled(model, tmp_path / "model.onnx")(image), predicted(model, image)
    assert len(ours["boxes"]) > 20
    if not antialias:
        assert_same(theirs, ours)
    assert abs(len(theirs["boxes"]) - len(ours["boxes"])) <= 2
    near = np.abs(theirs["boxes"][:, None] - ours["boxes"]).max(axis=2).min(axis=0) < 0.5
    assert near.mean() >= 0.9
