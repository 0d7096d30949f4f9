"""Runs of detectron2 with other settings than the model zoo's: its own config.yaml, and what it found with them.

The recordings are described in ``data/detectron2/runs.py``. Nothing but the checkpoint and the file beside it is given.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from data.detectron2 import runs
from detectron2_runs import write_checkpoint

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.cli import main

pytestmark = pytest.mark.parity

DATA = Path(__file__).parents[1] / "data" / "detectron2"
with np.load(DATA / "runs.npz") as _file:
    RECORDED = dict(_file)
NAMES = sorted(name.removesuffix("_yaml") for name in RECORDED if name.endswith("_yaml"))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    with np.load(DATA / "model_r50.npz") as file:
        whole = file["img1_image"]
    return [np.ascontiguousarray(whole[part][:, :, ::-1]) for part in runs.IMAGES]  # red, green, blue


def model_of(name: str, folder: Path) -> MaskRCNN:
    shapes = json.loads(str(RECORDED[f"{name}_shapes"]))
    path = write_checkpoint(folder / "model_final.pth", runs.weights(shapes, float(RECORDED[f"{name}_std"])))
    (folder / "config.yaml").write_text(str(RECORDED[f"{name}_yaml"]))
    return MaskRCNN.from_file(path)


def found_of_recorded(model: MaskRCNN, name: str, images: list[np.ndarray]) -> list[float]:
    """Return, for each image, the fraction of the recorded detections that are found, one for one."""
    fractions = []
    for i, image in enumerate(images):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*top_k.*")  # as many as are wanted
            (found,) = model.predict(image)
        boxes, scores, classes, areas = (
            RECORDED[f"{name}_{part}{i}"] for part in ("boxes", "scores", "classes", "areas")
        )
        own = found.numpy()
        left, matched = set(range(len(found))), 0
        for row in range(len(boxes)):
            fits = [
                k
                for k in left
                if np.abs(own["boxes"][k] - boxes[row]).max() < 0.01
                and abs(own["scores"][k] - scores[row]) < 3e-4
                and own["labels"][k] == classes[row] + 1
                and abs(int(own["masks"][k].sum()) - int(areas[row])) <= 4
            ]
            matched += bool(fits)
            left -= set(fits[:1])
        fractions.append(matched / max(len(boxes), len(found)))
    return fractions


@pytest.mark.parametrize("name", NAMES)
def test_detections_are_those_of_detectron2(tmp_path: Path, images: list[np.ndarray], name: str) -> None:
    assert found_of_recorded(model_of(name, tmp_path), name, images) == [1.0, 1.0]


def test_without_the_configuration_they_are_others(tmp_path: Path, images: list[np.ndarray]) -> None:
    """The comparison can fail: the settings of the zoo find nothing that was recorded."""
    model_of("rgb", tmp_path)
    model = MaskRCNN.from_file(tmp_path / "model_final.pth", conventions="detectron2", min_size=128, max_size=200)
    assert max(found_of_recorded(model, "rgb", images)) < 0.1


@pytest.mark.parametrize("name", ["agnostic", "counts", "norms"])
def test_there_and_back(tmp_path: Path, name: str) -> None:
    """What detectron2 wrote is written for it again, with a configuration that says the same."""
    model = model_of(name, tmp_path)
    (tmp_path / "back").mkdir()
    target = tmp_path / "back" / "model.pkl"
    assert main(["convert", str(tmp_path / "model_final.pth"), str(target), "--to", "detectron2"]) == 0
    again = MaskRCNN.from_file(target)
    assert again.config == model.config
    arrays = again.state_dict()
    assert all(np.array_equal(array, arrays[entry]) for entry, array in model.state_dict().items())
