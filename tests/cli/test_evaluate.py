"""``evaluate``: tables, files, exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from three_boxes import IOU_TYPES, Model, write

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.evaluation import evaluate_results
from lucid_maskrcnn.weights.categories import COCO

ASSETS = Path(__file__).parents[2] / "lucid_maskrcnn" / "assets"
NUCLEI = Path(__file__).parents[1] / "data" / "nuclei_demo.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def run(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_nuclei_in_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [] if IOU_TYPES else ["--without-coco"]
    assert run(ASSETS, NUCLEI, "--out", tmp_path / "out", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"NUCLEI on 2 images of {NUCLEI}: ")
    assert any(line.startswith("  histology_lilac") for line in lines)
    written = {"best.png", "detections.json", "evaluation.json", "worst.png", "thresholds.png", "confusion.png"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == written | (
        {"precision_recall.png"} if IOU_TYPES else set()
    )
    assert any(line.startswith("Best score threshold: 0.") for line in lines)
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["options"]["max_detections"] == 400
    assert content["per_group"]["fluorescence"]["AP_0.5"] > 0.7
    assert content["per_group"]["histology_lilac"]["AP_0.5"] > 0.25
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {result["image_id"] for result in results} == {1, 3}
    if IOU_TYPES:
        assert any(line.startswith("masks, 400 an image") for line in lines)
        assert content["metrics"]["segm/AP50"] > 0.7
    assert evaluate_results(NUCLEI, results, iou_types=()).metrics["AP_0.5"] == content["metrics"]["AP_0.5"]
    with Image.open(tmp_path / "out" / "worst.png") as image:
        assert image.width > 900


def test_results_of_another_program_are_measured_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(NUCLEI.read_text())
    results = [
        {k: a[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.9} for a in content["annotations"]
    ]
    file = tmp_path / "detections.json"
    file.write_text(json.dumps(results[1:]))
    monkeypatch.delattr(MaskRCNN, "from_file")
    assert run(ASSETS, NUCLEI, "--results", file, "--out", tmp_path / "out", "--without-coco") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{file} on 2 images of {NUCLEI}"
    measured = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert measured["metrics"]["AP_0.95"] == 1 - 1 / len(results)
    assert (tmp_path / "out" / "worst.png").exists()
    assert run(ASSETS, NUCLEI, "--results", file, "--limit", 1, "--without-coco") == 2
    assert "--limit must be left out with --results" in capsys.readouterr().err


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model that the command loads, whatever the weights."""
    made: Any = Model([18, 17, 24], COCO)
    made.to = lambda device, dtype=None: made
    monkeypatch.setattr(MaskRCNN, "from_file", lambda weights: made)
    return made


def test_limit_and_thresholds_reach_the_model(folder: Path, capsys: pytest.CaptureFixture[str], model: Any) -> None:
    options = ["--top-k", 3, "--score-thresh", 0.75, "--limit", 1, "--without-coco"]
    assert run(folder, folder / "truth.json", *options) == 0
    assert model.asked == [{"score_thresh": 0.75, "top_k": 3}]
    assert "score at least 0.75" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "truth.json").write_text("no JSON"), "is not JSON"),
        (lambda f: (f / "truth.json").unlink(), "No such file"),
        (lambda f: (f / "truth.json").write_text('{"images": [], "annotations": [], "categories": []}'), "no images"),
        (lambda f: (f / "b.png").unlink(), "b.png"),
        (lambda f: (f / "b.png").write_text("no image"), "b.png"),
        (lambda f: Image.new("RGB", (9, 9)).save(f / "b.png"), "has 9 × 9 pixels"),
        (lambda f: (f / "out").write_text("precious"), "is a file."),
        (lambda f: None, "which the model does not have"),
    ],
    ids=["no JSON", "no file", "no images", "no image", "broken", "another size", "out", "categories"],
)
def test_mistake_is_one_sentence_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    change(folder)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    assert run(folder, folder / "truth.json", "--out", folder / "out", "--without-coco") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("lucid-maskrcnn: ")
    assert err.count("\n") == 1
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


def test_faults_stop_an_evaluation_or_are_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str], model: Any
) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    truth["annotations"][0]["segmentation"] = []
    (folder / "truth.json").write_text(json.dumps(truth))
    assert run(folder, folder / "truth.json", "--without-coco") == 2
    assert "annotation 1 has no segmentation" in capsys.readouterr().err
    assert model.asked == []
    assert run(folder, folder / "truth.json", "--without-coco", "--on-fault", "skip") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "FAULT annotation 1 has no segmentation: give it polygons or a run-length encoding, or remove it.",
        "evaluate on 2 images (1 without objects) with 2 objects: cat 1, dog 0, zebra 1; left out: 1 annotation, "
        "3 crowds",
    ]


def test_label_images_are_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with Image.open(ASSETS / "nuclei_fluorescence_small.png") as image:
        image.save(tmp_path / "images" / "a.png")
        labels = np.zeros(image.size[::-1], np.uint8)
    labels[10:30, 10:40] = 1
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    assert run(tmp_path / "images", "--labels", tmp_path / "labels", "--without-coco") == 0
    assert capsys.readouterr().out.startswith(f"NUCLEI on 1 images of {tmp_path / 'labels'}: ")
    assert run(tmp_path / "images") == 2
    assert "Give ANNOTATIONS or --labels, one of them." in capsys.readouterr().err


def test_missing_folder_and_missing_pycocotools(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert run(folder / "nowhere", folder / "truth.json") == 2
    assert "There is no folder of images" in capsys.readouterr().err
    assert run(folder, folder / "truth.json") == 2
    assert "pip install 'lucid-maskrcnn[coco]'. Or use --without-coco" in capsys.readouterr().err
