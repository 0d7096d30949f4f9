"""A model run over a data set, whose labels may be others than the model's; and the command that does it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.cli import main
from lucid_maskrcnn.data import CocoInstances, LabelImages, Subset
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.evaluation import contact_sheet, evaluate, evaluate_results
from lucid_maskrcnn.weights.categories import COCO, COCO_CONTIGUOUS

ASSETS = Path(__file__).parents[2] / "lucid_maskrcnn" / "assets"
NUCLEI = Path(__file__).parents[1] / "data" / "nuclei_demo.json"
SIZE = (40, 60)
BOXES = [(2, 3, 12, 13), (20, 10, 30, 25), (40, 20, 55, 38)]  # x1, y1, x2, y2
NAMES = ["dog", "cat", "zebra"]  # by id: 18, 17 and 24 of COCO

try:
    import pycocotools  # noqa: F401
except ImportError:
    IOU_TYPES: tuple[str, ...] = ()
else:
    IOU_TYPES = ("segm", "bbox")
needs_coco = pytest.mark.skipif(not IOU_TYPES, reason="needs pycocotools")


class Model:
    """Finds the boxes, with the labels it is told, in every picture."""

    def __init__(self, labels: list[int], categories: dict[int, str] | None = None, num_classes: int = 90) -> None:
        self.labels, self.categories, self.num_classes = labels, categories, num_classes
        self.asked: list[dict[str, Any]] = []

    def predict(self, image: np.ndarray, **options: Any) -> list[Detections]:
        self.asked.append(options)
        n = len(self.labels)
        masks = np.ones((n, 28, 28))
        return [Detections(BOXES[:n], [0.9, 0.8, 0.7][:n], self.labels, masks, image.shape[:2])]


def annotation(i: int, image_id: int, category_id: int, box: tuple[int, ...], **more: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    corners = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    whole = {"id": i, "image_id": image_id, "category_id": category_id, "segmentation": corners, "iscrowd": 0}
    return {**whole, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), **more}


def content(ids: dict[str, int]) -> dict[str, Any]:
    """Return annotations of two pictures: the first has the three boxes, the second is all crowds."""
    height, width = SIZE
    objects = [annotation(i, 8, ids[name], box) for i, (name, box) in enumerate(zip(NAMES, BOXES, strict=True), 1)]
    objects += [annotation(i, 5, number, (0, 0, 60, 40), iscrowd=1) for i, number in enumerate(ids.values(), 4)]
    return {
        "images": [
            {"id": 8, "file_name": "a.png", "height": height, "width": width, "kind": "full"},
            {"id": 5, "file_name": "b.png", "height": height, "width": width, "kind": "crowded"},
        ],
        "annotations": objects,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, and annotations under COCO's ids."""
    for name in "ab":
        Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "truth.json").write_text(json.dumps(content({"cat": 17, "dog": 18, "zebra": 24})))
    return tmp_path


@pytest.fixture
def dataset(folder: Path) -> CocoInstances:
    return CocoInstances(folder, folder / "truth.json")


def label_of(names: dict[int, str]) -> list[int]:
    return [{name: label for label, name in names.items()}[name] for name in NAMES]


# ------------------------------------------------------------------ whose labels


@pytest.mark.parametrize(
    ("categories", "num_classes"),
    [
        ({1: "cat", 2: "dog", 3: "zebra"}, 3),  # those of the data
        (COCO, 90),  # torchvision's
        (COCO_CONTIGUOUS, 80),  # detectron2's
        ({5: "zebra", 9: "cat", 1: "dog"}, 9),
    ],
    ids=["data", "COCO ids", "contiguous", "another order"],
)
def test_categories_are_matched_by_name(dataset: CocoInstances, categories: dict[int, str], num_classes: int) -> None:
    found = evaluate(Model(label_of(categories), categories, num_classes), dataset, iou_types=IOU_TYPES)
    assert found.per_image[0].score == 1
    assert [result["category_id"] for result in found.results[:3]] == [18, 17, 24]
    assert found.figures.get("segm/AP50", 1) == found.figures.get("bbox/AP50", 1) == pytest.approx(1)


def test_other_categories_are_left_out_and_named(dataset: CocoInstances) -> None:
    found = evaluate(Model([18, 17, 1], COCO), dataset, iou_types=())
    assert [result["category_id"] for result in found.results] == [18, 17] * 2
    (note,) = [note for note in found.notes if "left out" in note]
    assert note.endswith("'person', 'bicycle', 'car', 'motorcycle', 'airplane' and 72 more.")


@pytest.mark.parametrize(
    ("categories", "num_classes", "message"),
    [
        (
            {1: "nucleus"},
            1,
            "have 'cat', 'dog', 'zebra' among their categories, which the model does not know: it has 'nuc",
        ),
        ({1: "cat", 2: "dog", 3: "zebra", 4: "cat"}, 4, "Of two categories of one name"),
        (None, 90, "model has 90 classes without names, the data have 3 .'cat', 'dog', 'zebra'."),
    ],
)
def test_categories_that_do_not_fit_are_refused_before_any_work(
    dataset: CocoInstances, categories: Any, num_classes: int, message: str
) -> None:
    model = Model([1, 2, 3], categories, num_classes)
    with pytest.raises(ValueError, match=message):
        evaluate(model, dataset, iou_types=())
    assert model.asked == []


def test_labels_without_names_are_the_datas(dataset: CocoInstances) -> None:
    found = evaluate(Model([2, 1, 3], None, 3), dataset, iou_types=())
    assert found.per_image[0].score == 1


def test_labels_may_be_told(dataset: CocoInstances) -> None:
    model = Model([4, 5, 6], {4: "hound", 5: "puss", 6: "horse"})
    found = evaluate(model, dataset, category_ids={4: 18, 5: 17, 6: 24}, iou_types=())
    assert found.per_image[0].score == 1
    with pytest.raises(ValueError, match=r"category_ids must be ids of the data, .*, got 3"):
        evaluate(model, dataset, category_ids={4: 3}, iou_types=())


# ------------------------------------------------------------------ what is asked, what is given


@needs_coco
def test_figures_are_those_of_the_results(dataset: CocoInstances, folder: Path) -> None:
    model = Model([2, 1, 1], {1: "cat", 2: "dog", 3: "zebra"}, 3)
    found = evaluate(model, dataset, max_detections=7, score_thresh=0.1)
    assert model.asked == [{"score_thresh": 0.1, "top_k": 7}] * 2
    again = evaluate_results(folder / "truth.json", found.results, max_detections=7)
    assert again.figures == pytest.approx(found.figures, nan_ok=True)
    assert [result["image_id"] for result in found.results] == [8, 8, 8, 5, 5, 5]
    assert found.figures["segm/AP50"] == pytest.approx((1 + 1 + 0) / 3)
    assert found.options["score_thresh"] == 0.1
    assert list(found.per_group) == ["full", "crowded"]
    assert found.per_image[1].fp[0] == 0  # all lie in crowds


def test_subset_and_label_images(dataset: CocoInstances, folder: Path, tmp_path: Path) -> None:
    model = Model([2, 1, 3], None, 3)
    found = evaluate(model, Subset(dataset, [1]), iou_types=())
    assert [image.image_id for image in found.per_image] == [5]
    labels = np.zeros(SIZE, np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(BOXES, 1):
        labels[y1:y2, x1:x2] = i
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        Image.fromarray(labels).save(tmp_path / name / "a.png")
    cells = LabelImages(tmp_path / "images", tmp_path / "labels", category="cell")
    found = evaluate(Model([1, 1, 1], {1: "cell"}, 1), cells, iou_types=IOU_TYPES)
    assert found.figures["AP_0.5"] == 1
    assert found.figures.get("segm/AP50", 1) == pytest.approx(1)
    assert found.figures.get("bbox/AP", 1) == pytest.approx(1)


def test_any_sequence_of_images_and_targets_will_do() -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    masks = np.zeros((3, *SIZE), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, BOXES, strict=True):
        mask[y1:y2, x1:x2] = True
    target = {"boxes": np.array(BOXES, np.float32), "labels": [1, 2, 2], "masks": masks}
    nothing = {"boxes": [], "labels": [], "masks": []}
    crowd = {**target, "iscrowd": [0, 0, 1]}
    found = evaluate(
        Model([1, 2, 2], None, 2), [(image, target), (image, nothing), (image, crowd)], iou_types=IOU_TYPES
    )
    assert [image.tp[0] for image in found.per_image] == [3, 0, 2]
    assert [image.fp[0] for image in found.per_image] == [0, 3, 0]
    assert [image.file_name for image in found.per_image] == ["1", "2", "3"]
    assert math.isnan(found.figures.get("segm/APl", math.nan))


def test_mistakes_are_found_before_any_work(dataset: CocoInstances) -> None:
    model = Model([2, 1, 3], None, 3)
    with pytest.raises(ValueError, match=r"object_score must be score_thresh at least, got 0.5 and 0.7"):
        evaluate(model, dataset, score_thresh=0.7, iou_types=())
    with pytest.raises(ValueError, match="max_detections must be a whole number"):
        evaluate(model, dataset, max_detections=2.5, iou_types=())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one image, got none"):
        evaluate(model, Subset(dataset, []), iou_types=())
    with pytest.raises(ValueError, match="an image id comes twice"):
        evaluate(model, Subset(dataset, [0, 0]), iou_types=())
    assert model.asked == []


def test_missing_pycocotools_is_needed_for_coco_only(dataset: CocoInstances, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    model = Model([2, 1, 3], None, 3)
    with pytest.raises(ImportError, match=r"pip install 'lucid-maskrcnn\[coco\]'"):
        evaluate(model, dataset)
    assert model.asked == []
    assert evaluate(model, dataset, iou_types=()).per_image[0].score == 1


def test_package_does_without_the_evaluation() -> None:
    script = "import sys, lucid_maskrcnn; print([m for m in sys.modules if 'evaluation' in m and 'lucid_m' in m])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


# ------------------------------------------------------------------ contact sheets


def test_contact_sheet_outlines_what_is_there_and_fills_mistakes(dataset: CocoInstances) -> None:
    found = evaluate(Model([2, 3], None, 3), dataset, iou_types=())  # the dog is one, the cat is taken for a zebra
    sheet = np.asarray(contact_sheet(dataset, found, found.per_image))
    one = np.asarray(contact_sheet(dataset, found, [found.per_image[0]]))
    assert sheet.shape[1] > 1.8 * one.shape[1]
    picture = one[-(160 + 12) : -12, 12 : 12 + 240].astype(int)  # four times as large as the file
    assert picture[5, 5].tolist() == [90, 90, 90]
    assert picture[4 * 8, 4 * 7].tolist() == [90, 90, 90]  # inside a dog that was found
    assert picture[4 * 30, 4 * 50, 1] > 130  # a missed zebra, filled
    assert picture[4 * 18, 4 * 25, 0] > 120  # something false, filled over a missed cat
    assert np.asarray(contact_sheet(dataset, found, [])).shape[2] == 3


# ------------------------------------------------------------------ the command


def run(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_nuclei_in_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [] if IOU_TYPES else ["--without-coco"]
    assert run(ASSETS, NUCLEI, "--out", tmp_path / "out", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"NUCLEI on 2 pictures of {NUCLEI}: ")
    assert any(line.startswith("  histology_lilac") for line in lines)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "best.png",
        "detections.json",
        "evaluation.json",
        "worst.png",
    ]
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["options"]["max_detections"] == 400
    assert content["per_group"]["fluorescence"]["AP_0.5"] > 0.7
    assert content["per_group"]["histology_lilac"]["AP_0.5"] > 0.25
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {result["image_id"] for result in results} == {1, 3}
    if IOU_TYPES:
        assert any(line.startswith("masks, 400 an image") for line in lines)
        assert content["figures"]["segm/AP50"] > 0.7
    assert evaluate_results(NUCLEI, results, iou_types=()).figures["AP_0.5"] == content["figures"]["AP_0.5"]
    with Image.open(tmp_path / "out" / "worst.png") as picture:
        assert picture.width > 900


def test_limit_and_thresholds_reach_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = Model([18, 17, 24], COCO)
    model.to = lambda device: model
    monkeypatch.setattr("lucid_maskrcnn.models.factories.load_model", lambda weights: model)
    options = ["--max-detections", 3, "--score-thresh", 0.75, "--limit", 1, "--without-coco"]
    assert run(folder, folder / "truth.json", *options) == 0
    assert model.asked == [{"score_thresh": 0.75, "top_k": 3}]
    assert "score from 0.75 on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "truth.json").write_text("no JSON"), "is not JSON"),
        (lambda f: (f / "truth.json").unlink(), "No such file"),
        (lambda f: (f / "truth.json").write_text('{"images": [], "annotations": [], "categories": []}'), "no images"),
        (lambda f: (f / "b.png").unlink(), "b.png"),
        (lambda f: (f / "b.png").write_text("no picture"), "b.png"),
        (lambda f: Image.new("RGB", (9, 9)).save(f / "b.png"), "has 9 × 9 pixels"),
        (lambda f: (f / "out").write_text("precious"), "is a file, not a directory"),
        (lambda f: None, "which the model does not know"),
    ],
    ids=["no JSON", "no file", "no images", "no picture", "broken", "another size", "out", "categories"],
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


def test_missing_folder_and_missing_pycocotools(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert run(folder / "nowhere", folder / "truth.json") == 2
    assert "There is no folder of pictures" in capsys.readouterr().err
    assert run(folder, folder / "truth.json") == 2
    assert "pip install 'lucid-maskrcnn[coco]'. --without-coco does without" in capsys.readouterr().err
