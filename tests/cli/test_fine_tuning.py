"""``lucid-maskrcnn train`` from the weights of the package: what it makes of pictures that they know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lucid_maskrcnn
from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.training import read_log

ASSETS = Path(lucid_maskrcnn.__file__).parent / "assets"
NAMES = ("nuclei_fluorescence_small.png", "nuclei_histology_lilac.png")


def quarters() -> list[np.ndarray]:
    """Return the quarters of the two pictures in the package, one of each in turn."""
    pictures = [np.asarray(Image.open(ASSETS / name).convert("RGB")) for name in NAMES]
    parts = [
        picture[i * picture.shape[0] // 2 :, j * picture.shape[1] // 2 :][
            : picture.shape[0] // 2, : picture.shape[1] // 2
        ]
        for i in range(2)
        for j in range(2)
        for picture in pictures
    ]
    return [np.ascontiguousarray(part) for part in parts]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose truth is what the weights find in them, five to train on and three to evaluate on."""
    folder = tmp_path_factory.mktemp("nuclei")
    (folder / "images").mkdir()
    model = MaskRCNN.from_file("NUCLEI")
    files: dict[str, dict[str, Any]] = {
        name: {"images": [], "annotations": [], "categories": [{"id": 1, "name": "nucleus"}]}
        for name in ("train", "val")
    }
    for i, picture in enumerate(quarters(), 1):
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
        content = files["train" if i <= 5 else "val"]
        height, width = picture.shape[:2]
        content["images"].append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for found in model.predict(picture, score_thresh=0.5)[0].to_coco(i):
            number = sum(len(file["annotations"]) for file in files.values()) + 1
            wanted = {key: found[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
            content["annotations"].append({**wanted, "id": number, "iscrowd": 0, "area": 1.0})
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:AP_0.5.*before the run:UserWarning")  # nothing is better than one's own truth
@pytest.mark.parametrize(("steps", "batch"), [(40, 1), (60, 2)])
def test_fine_tuning_does_not_make_the_shipped_weights_worse(
    data: Path, tmp_path: Path, steps: int, batch: int
) -> None:
    arguments = [
        data / "images",
        data / "train.json",
        "--val-annotations",
        data / "val.json",
        "--out",
        tmp_path / "run",
    ]
    length = ["--steps", steps, "--batch-size", batch, "--keep-best", "AP_0.5:0.95"]
    options = ["--weights", "NUCLEI", "--quiet", "--no-tensorboard"]
    assert main(["train", *map(str, [*arguments, *length, *options])]) == 0
    before, *_, after = [r["evaluation"] for r in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" in r]
    assert before["AP_0.5"] > 0.98  # it is its own truth
    assert after["AP_0.5"] > 0.9
