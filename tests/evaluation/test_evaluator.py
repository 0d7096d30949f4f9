"""Evaluating a model on a data set, whose labels may differ from the model's."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from three_boxes import BOXES, IOU_TYPES, NAMES, SIZE, Model, write

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn, save_weights
from lucid_maskrcnn.config import ModelConfig
from lucid_maskrcnn.data import CocoInstances, LabelImages, Loader, Subset
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.evaluation import coco_average_precision, evaluate, evaluate_results
from lucid_maskrcnn.weights.categories import COCO, COCO_CONTIGUOUS

needs_coco = pytest.mark.skipif(not IOU_TYPES, reason="needs pycocotools")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


@pytest.fixture
def dataset(folder: Path) -> CocoInstances:
    return CocoInstances(folder, folder / "truth.json")


def label_of(names: dict[int, str]) -> list[int]:
    return [{name: label for label, name in names.items()}[name] for name in NAMES]


# ------------------------------------------------------------------ categories


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
    assert found.metrics.get("segm/AP50", 1) == found.metrics.get("bbox/AP50", 1) == pytest.approx(1)


@needs_coco
@pytest.mark.parametrize("ids", [(0, 1, 2), (7, 3, 90), (18, 17, 24)], ids=["from 0", "gaps", "others"])
def test_own_scoring_with_ids_from_0_is_right(tmp_path: Path, ids: tuple[int, ...]) -> None:
    """From annotations over a file of weights to results that pycocotools scores: the data set's ids all the way."""
    from pycocotools import coco as pycoco
    from pycocotools.cocoeval import COCOeval

    folder = write(tmp_path)
    truth = json.loads((folder / "truth.json").read_text())
    renamed = dict(zip(sorted(c["id"] for c in truth["categories"]), ids, strict=True))
    for entry in truth["categories"]:
        entry["id"] = renamed[entry["id"]]
    for entry in truth["annotations"]:
        entry["category_id"] = renamed[entry["category_id"]]
    (folder / "truth.json").write_text(json.dumps(truth))
    dataset = CocoInstances(folder, folder / "truth.json")
    model = mask_rcnn_resnet_18_fpn(3, categories=dataset.categories, width=8, fpn_channels=8, hidden_dim=8)
    save_weights(model, tmp_path / "own.safetensors")
    model = MaskRCNN.from_file(tmp_path / "own.safetensors")
    results = []
    for number, (image, target) in zip(dataset.image_ids, dataset, strict=True):
        boxes, labels = np.asarray(target["boxes"]), np.asarray(target["labels"])
        probs = np.ones((len(boxes), 28, 28), np.float32)
        found = Detections(boxes, np.full(len(boxes), 0.9), labels, probs, image.shape[:2], categories=model.categories)
        results += found.to_coco(number)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = pycoco.COCO(folder / "truth.json")
        scoring = COCOeval(coco, coco.loadRes(results), "bbox")
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    assert scoring.stats[1] == pytest.approx(1)
    assert {r["category_id"] for r in results} <= set(ids)


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
            "has the categories 'cat', 'dog', 'zebra', which the model does not have: it has 'nuc",
        ),
        ({1: "cat", 2: "dog", 3: "zebra", 4: "cat"}, 4, "The model has two categories 'cat'"),
        (None, 90, "model has 90 classes without names, the data set has 3 .'cat', 'dog', 'zebra'."),
    ],
)
def test_categories_that_do_not_match_are_refused_before_predicting(
    dataset: CocoInstances, categories: Any, num_classes: int, message: str
) -> None:
    model = Model([1, 2, 3], categories, num_classes)
    with pytest.raises(ValueError, match=message):
        evaluate(model, dataset, iou_types=())
    assert model.asked == []


def test_labels_without_names_are_those_of_the_data_set(dataset: CocoInstances) -> None:
    found = evaluate(Model([2, 1, 3], None, 3), dataset, iou_types=())
    assert found.per_image[0].score == 1


def test_category_ids_map_labels(dataset: CocoInstances) -> None:
    model = Model([4, 5, 6], {4: "hound", 5: "puss", 6: "horse"})
    found = evaluate(model, dataset, category_ids={4: 18, 5: 17, 6: 24}, iou_types=())
    assert found.per_image[0].score == 1


# ------------------------------------------------------------------ detections and metrics


@needs_coco
def test_metrics_are_those_of_the_results(dataset: CocoInstances, folder: Path) -> None:
    model = Model([2, 1, 1], {1: "cat", 2: "dog", 3: "zebra"}, 3)
    found = evaluate(model, dataset, top_k=7, score_thresh=0.1)
    assert model.asked == [{"score_thresh": 0.1, "top_k": 7}] * 2
    again = evaluate_results(folder / "truth.json", found.results, max_detections=7)
    assert again.metrics == pytest.approx(found.metrics, nan_ok=True)
    assert [result["image_id"] for result in found.results] == [8, 8, 8, 5, 5, 5]
    assert found.metrics["segm/AP50"] == pytest.approx((1 + 1 + 0) / 3)
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
    assert found.metrics["AP_0.5"] == 1
    assert found.metrics.get("segm/AP50", 1) == pytest.approx(1)
    assert found.metrics.get("bbox/AP", 1) == pytest.approx(1)


def test_any_sequence_of_images_and_targets_is_a_data_set() -> None:
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
    assert math.isnan(found.metrics.get("segm/APl", math.nan))


def test_mistakes_are_found_before_predicting(dataset: CocoInstances) -> None:
    model = Model([2, 1, 3], None, 3)
    with pytest.raises(ValueError, match=r"object_score must be at least score_thresh, got 0.5 and 0.7"):
        evaluate(model, dataset, score_thresh=0.7, iou_types=())
    with pytest.raises(TypeError, match="top_k must be a positive integer"):
        evaluate(model, dataset, top_k=2.5, iou_types=())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one image, got none"):
        evaluate(model, Subset(dataset, []), iou_types=())
    with pytest.raises(ValueError, match=r"must have each id once, got .* twice"):
        evaluate(model, Subset(dataset, [0, 0]), iou_types=())
    assert model.asked == []


class _Broken(list[Any]):
    """Pairs with annotations of their own, of which the last has a mask that is malformed."""

    def coco(self) -> dict[str, Any]:
        mask = {"size": [40, 60], "counts": [1, 2, 3]}
        entry = {"id": 1, "image_id": 2, "category_id": 1, "segmentation": mask, "bbox": [0, 0, 1, 1], "area": 1}
        images = [{"id": k, "height": SIZE[0], "width": SIZE[1]} for k in (1, 2)]
        return {"images": images, "annotations": [entry], "categories": [{"id": 1, "name": "a"}]}


@pytest.mark.parametrize("kind", ["target", "image", "mask"])
def test_fault_of_the_last_image_is_found_before_the_first_prediction(kind: str) -> None:
    """An evaluation died of it when all images had been predicted."""
    image = np.zeros((*SIZE, 3), np.uint8)
    nothing = {"boxes": [], "labels": [], "masks": []}
    target = {"boxes": [[5, 5, 5, 9]], "labels": [1], "masks": np.ones((1, *SIZE), bool)}
    pairs: Any = [
        (image, nothing),
        {"target": (image, target), "image": ("no.png", nothing)}.get(kind, (image, nothing)),
    ]
    model = Model([1], None, 1)
    with pytest.raises((ValueError, FileNotFoundError), match=r"has no area|no image file|does not cover"):
        evaluate(model, _Broken(pairs) if kind == "mask" else pairs, iou_types=())
    assert model.asked == []


@pytest.mark.parametrize(
    "change", [{"area": "100"}, {"area": [1]}, {"bbox": "1234"}, {"bbox": None}, {"bbox": [0] * 4}]
)
def test_numbers_that_are_none_do_not_end_an_evaluation(folder: Path, change: dict[str, Any]) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    truth["annotations"][0] |= change
    found = evaluate(Model([18, 17, 24], COCO), CocoInstances(folder, truth), iou_types=IOU_TYPES)
    sound = evaluate(Model([18, 17, 24], COCO), CocoInstances(folder, folder / "truth.json"), iou_types=IOU_TYPES)
    np.testing.assert_equal(found.metrics, sound.metrics)


def test_missing_pycocotools_is_needed_for_coco_only(dataset: CocoInstances, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    model = Model([2, 1, 3], None, 3)
    with pytest.raises(ImportError, match=r"pip install 'lucid-maskrcnn\[coco\]'"):
        evaluate(model, dataset)
    assert model.asked == []
    assert evaluate(model, dataset, iou_types=()).per_image[0].score == 1


def test_importing_the_package_does_not_import_the_evaluation() -> None:
    script = "import sys, lucid_maskrcnn; print([m for m in sys.modules if 'evaluation' in m and 'lucid_m' in m])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("category_ids", "error", "message"),
    [
        ({"a": 1}, TypeError, "A label of category_ids must be a positive integer, got 'a'."),
        ({0: 18}, ValueError, "A label of category_ids must be a positive integer, got 0."),
        ({True: 18}, TypeError, "A label of category_ids must be a positive integer, got True."),
        ({7: 18}, ValueError, "category_ids has the label 7, which the model does not have: it has [4, 5, 6]."),
        ({4: 3}, ValueError, "category_ids[4] must be a category id of the data set, [17, 18, 24], got 3."),
        ({4: "18"}, TypeError, "category_ids[4] must be an integer, got '18'."),
        ({}, ValueError, "category_ids must have at least one label."),
        ([17, 18], TypeError, "category_ids must be a mapping of the model's labels to category ids, got [17, 18]."),
    ],
)
def test_category_ids_are_checked(dataset: CocoInstances, category_ids: Any, error: Any, message: str) -> None:
    model = Model([4, 5, 6], {4: "hound", 5: "puss", 6: "horse"})
    with pytest.raises(error, match=re.escape(message)):
        evaluate(model, dataset, category_ids=category_ids, iou_types=())
    assert model.asked == []


def test_category_ids_of_a_model_without_names(dataset: CocoInstances) -> None:
    with pytest.raises(ValueError, match=re.escape("which the model does not have: it has [1].")):
        evaluate(Model([1], None, 1), dataset, category_ids={2: 18}, iou_types=())
    found = evaluate(Model([1], None, 1), dataset, category_ids={np.int64(1): np.int64(18)}, iou_types=())
    assert {result["category_id"] for result in found.results} == {18}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_k": 0}, ValueError, "top_k must be a positive integer, got 0."),
        ({"top_k": -5}, ValueError, "top_k must be a positive integer, got -5."),
        ({"top_k": "5"}, TypeError, "top_k must be a positive integer, got '5'."),
        ({"score_thresh": 1.5}, ValueError, "score_thresh must be a number between 0 and 1, got 1.5."),
        ({"score_thresh": None}, TypeError, "score_thresh must be a number between 0 and 1, got None."),
        ({"object_score": math.nan}, ValueError, "object_score must be a number between 0 and 1, got nan."),
        ({"iou_types": "segm"}, TypeError, "iou_types must be a sequence, got 'segm'."),
        ({"iou_types": ["mask"]}, ValueError, "iou_types[0] must be one of 'segm', 'bbox', got 'mask'."),
        ({"iou_types": None}, TypeError, "iou_types must be a sequence, got None."),
        ({"group_by": 3}, TypeError, "group_by must be a string, got 3."),
        ({"progress": "no"}, TypeError, "progress must be True or False, got 'no'."),
        ({"model": "NUCLEI"}, TypeError, "model must be a MaskRCNN or another object with a predict method, got 'NUC"),
        ({"model": Model}, TypeError, "got the class Model."),
        ({"dataset": "images"}, TypeError, "dataset must be a data set, a sequence of (image, target) pairs such as"),
        ({"dataset": Loader([0], 1)}, TypeError, "pass its dataset, the attribute dataset.dataset."),
        ({"dataset": [1]}, TypeError, "dataset[0] must be a pair (image, target), got an object of type int."),
    ],
)
def test_arguments_of_evaluate_are_checked(
    dataset: CocoInstances, options: dict[str, Any], error: Any, message: str
) -> None:
    model = Model([2, 1, 3], None, 3)
    arguments: dict[str, Any] = {"model": model, "dataset": dataset, "iou_types": ()} | options
    with pytest.raises(error, match=re.escape(message)):
        evaluate(**arguments)
    assert model.asked == []


def test_top_k_is_by_default_the_models_own(dataset: CocoInstances) -> None:
    model: Any = Model([2, 1, 3], None, 3)
    evaluate(model, dataset, iou_types=())
    assert model.asked[-1]["top_k"] is None  # it has no configuration, but may have a number of its own
    model.config = ModelConfig(3, heads={"top_k": 400})
    found = evaluate(model, dataset, iou_types=())
    assert model.asked[-1]["top_k"] == found.options["top_k"] == found.options["max_detections"] == 400


def test_note_on_images_with_more_objects_than_top_k(dataset: CocoInstances) -> None:
    found = evaluate(Model([2], None, 3), dataset, top_k=1, iou_types=())
    assert (
        "1 image has more objects than the 1 detections that count, up to 3: with a higher top_k more of them could be "
        "found."
    ) in found.notes


class Wrapped:
    """Another object with the model's ``predict``, and without its configuration."""

    categories, num_classes = None, 1

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, image: Any, **options: Any) -> list[Any]:
        return self.model.predict(image, **options)


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped], ids=["model", "wrapped"])
def test_image_with_369_nuclei_is_evaluated_on_all_of_them(wrap: Any) -> None:
    """A limit of 100 gave an AP_0.5 of at most 100 / 369."""
    pixels, truth = crowd(369)
    found = evaluate(wrap(CrowdModel()), Listed([(pixels, truth)]), iou_types=IOU_TYPES)
    assert found.metrics["AP_0.5"] == 1
    assert found.options["max_detections"] >= 369
    if IOU_TYPES:
        assert found.metrics["segm/AP50"] == pytest.approx(1)
        assert found.metrics["segm/AP50@100"] < 0.3  # said to be that
        again = evaluate_results(found.truth, list(found.results))
        assert again.metrics == pytest.approx(found.metrics, nan_ok=True)
        assert coco_average_precision(found.truth, list(found.results))["AP50"] == pytest.approx(1)


def crowd(count: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Return an image with so many squares of 4 × 4 pixels."""
    corners = np.array([(5 * (i % 20), 5 * (i // 20)) for i in range(count)])
    masks = np.zeros((count, 100, 100), bool)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[y : y + 4, x : x + 4] = True
    boxes = np.concatenate([corners, corners + 4], axis=1)
    return np.zeros((100, 100, 3), np.uint8), {"boxes": boxes, "labels": np.ones(count, int), "masks": masks}


class CrowdModel:
    """Finds all squares, but no more than 400: its own number."""

    categories = None
    num_classes = 1
    config = ModelConfig(1, heads={"top_k": 400})

    def predict(self, image: np.ndarray, *, score_thresh: float, top_k: int | None = None) -> list[Detections]:
        n = 369
        scores = np.linspace(1, 0.6, n)
        found = Detections(crowd(n)[1]["boxes"], scores, np.ones(n, int), np.ones((n, 4, 4)), image.shape[:2])
        return [found[: self.config.heads.top_k if top_k is None else top_k]]


class Listed(list[Any]):
    """A list of pairs, with attributes."""


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"image_ids": [1, 2]}, "dataset.image_ids must have one entry for each of 1 images, got 2."),
        ({"file_names": []}, "dataset.file_names must have one entry for each of 1 images, got 0."),
        ({"categories": {1: "a"}, "category_ids": {2: 1}}, "must have all labels of dataset.categories, not 1."),
        ({"categories": {5: "a"}}, "dataset[0] has the label 2, which dataset.categories does not have."),
    ],
)
def test_attributes_of_a_data_set_are_compared(attributes: dict[str, Any], message: str) -> None:
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 3:9, 4:9] = True
    target = {"boxes": [[4, 3, 9, 9]], "labels": [2], "masks": mask}
    dataset = Listed([(np.zeros((*SIZE, 3), np.uint8), target)])
    vars(dataset).update(attributes)
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate(Model([5], {5: "a"}, 5), dataset, iou_types=())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda found: found.worst(-1), ValueError, "k must be a non-negative integer, got -1."),
        (lambda found: found.best(1.5), TypeError, "k must be a non-negative integer, got 1.5."),
        (lambda found: found.to_json(3), TypeError, "path must be a path as str or Path, got 3."),
    ],
)
def test_arguments_of_an_evaluation_are_checked(dataset: CocoInstances, call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call(evaluate(Model([2], None, 3), dataset, iou_types=()))


def test_evaluation_warns_once_of_objects_that_a_limit_cuts_off() -> None:
    model = MaskRCNN.from_file("NUCLEI")
    file = Path(str(resources.files("lucid_maskrcnn") / "assets" / "nuclei_fluorescence_small.png"))
    pixels = np.asarray(Image.open(file).convert("RGB"))[80:176, 80:176]
    (found,) = model.predict(pixels)
    many = {"boxes": found.boxes, "labels": found.labels, "masks": found.masks}
    one = {key: value[:1] for key, value in many.items()}
    dataset = Listed([(pixels, many), (pixels, one), (pixels, many)])
    dataset.file_names = ["a.png", "b.png", "c.png"]  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="Objects may be missing") as caught:
        evaluate(model, dataset, top_k=1, iou_types=())
    assert len(caught) == 1
    assert caught[0].filename == __file__
    # The second image has one object, and one detection is kept of it.
    assert f"of which there are {len(found)} in 'a.png' and {len(found)} in 'c.png'" in str(caught[0].message)
