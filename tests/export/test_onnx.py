"""Exported models beside ``predict``, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import lucid_maskrcnn
from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.export import to_onnx

ASSETS = Path(lucid_maskrcnn.__file__).parent / "assets"


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # or it warns of an input that may be left out
    return onnxruntime.InferenceSession(path, options)


@pytest.fixture(scope="module")
def nuclei() -> MaskRCNN:
    return MaskRCNN.from_file("NUCLEI")


@pytest.mark.parametrize("name", ["nuclei_fluorescence_small", "nuclei_histology_lilac"])
def test_nuclei_are_those_of_predict(tmp_path: Path, nuclei: MaskRCNN, name: str) -> None:
    to_onnx(nuclei, tmp_path / "nuclei.onnx", full_masks=True)
    image = np.asarray(Image.open(ASSETS / f"{name}.png").convert("RGB"))
    boxes, scores, labels, masks, full_masks = session(tmp_path / "nuclei.onnx").run(None, {"image": image})
    found = nuclei.predict(image)[0].numpy()
    assert len(boxes) == len(found["boxes"]) > 30
    np.testing.assert_allclose(boxes, found["boxes"], atol=0.02)
    np.testing.assert_allclose(scores, found["scores"], atol=2e-4)
    np.testing.assert_array_equal(labels, found["labels"])
    assert masks.shape == (len(boxes), 28, 28)
    assert (full_masks != found["masks"]).mean() <= 1e-4


def test_command_writes_the_file_of_the_function(tmp_path: Path, nuclei: MaskRCNN) -> None:
    to_onnx(nuclei, tmp_path / "a.onnx", dtype="float16", top_k=7)
    assert main(["export", "NUCLEI", str(tmp_path / "b.onnx"), "--dtype", "float16", "--top-k", "7"]) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
