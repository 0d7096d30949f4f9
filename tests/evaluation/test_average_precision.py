"""Average precision: what pycocotools says, asked rightly."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucid_maskrcnn.evaluation import coco_average_precision, evaluate_results
from lucid_maskrcnn.masks.rle import encode_rle

pytest.importorskip("pycocotools")


def square(x: int, y: int, side: int) -> dict[str, Any]:
    mask = np.zeros((200, 200), bool)
    mask[y : y + side, x : x + side] = True
    return {"segmentation": encode_rle(mask), "bbox": [x, y, side, side], "area": float(side * side)}


def truth(squares: list[tuple[int, int, int]]) -> dict[str, Any]:
    """Return one image with an object of category 5 for each (x, y, side), and an empty image."""
    return {
        "images": [{"id": i, "height": 200, "width": 200} for i in (1, 2)],
        "categories": [{"id": 5, "name": "square"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 5, **square(*s)} for i, s in enumerate(squares, 1)],
    }


def result(x: int, y: int, side: int, score: float = 0.9, **changes: Any) -> dict[str, Any]:
    shape = square(x, y, side)
    del shape["area"]
    return {"image_id": 1, "category_id": 5, "score": score, **shape, **changes}


SQUARES = [(0, 0, 10), (50, 50, 40), (100, 100, 96)]
FOUND = [result(*s) for s in SQUARES]


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_perfect_detections_have_ap_1(iou_type: str, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = coco_average_precision(truth(SQUARES), FOUND, iou_type=iou_type)
    assert metrics == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1, "APs": 1, "APm": 1, "APl": 1})
    assert capsys.readouterr().out == ""


def test_no_detections_have_ap_0() -> None:
    metrics = coco_average_precision(truth(SQUARES[:2]), [])
    assert metrics == {"AP": 0, "AP50": 0, "AP75": 0, "APs": 0, "APm": 0, "APl": -1}


def test_overlap_of_0_64_counts_at_three_of_ten_thresholds() -> None:
    """A 16 × 16 square inside one of 20 × 20 has IoU 0.64: right at 0.50, 0.55 and 0.60."""
    metrics = coco_average_precision(truth([(0, 0, 20)]), [result(0, 0, 16)])
    assert metrics["AP"] == pytest.approx(0.3)
    assert metrics["AP50"] == pytest.approx(1)
    assert metrics["AP75"] == 0


def test_false_positive_with_a_higher_score_halves_the_precision() -> None:
    results = [result(100, 100, 20, score=0.95), result(0, 0, 20)]
    assert coco_average_precision(truth([(0, 0, 20)]), results)["AP"] == pytest.approx(0.5)


def test_max_detections_keeps_the_highest_scores() -> None:
    annotations = truth([(12 * i, 0, 10) for i in range(4)])
    results = [result(12 * i, 0, 10, score=0.9 - i / 10) for i in range(4)]
    assert coco_average_precision(annotations, results, max_detections=4)["AP"] == pytest.approx(1)
    # two of four found: precision 1 at the recalls 0.00 to 0.50, 51 of 101
    assert coco_average_precision(annotations, results, max_detections=2)["AP"] == pytest.approx(51 / 101)


def test_area_of_a_detection_is_that_of_its_mask() -> None:
    """A false alarm with a small mask and a big box must not count among the medium ones."""
    annotations = truth([(50, 50, 40)])
    stray = result(150, 150, 5, score=0.99, bbox=[0, 0, 60, 60])
    assert coco_average_precision(annotations, [stray, result(50, 50, 40)])["APm"] == pytest.approx(1)


def test_annotation_file_and_arguments_are_not_modified(tmp_path: Path) -> None:
    annotations, results = truth(SQUARES), copy.deepcopy(FOUND)
    before = copy.deepcopy((annotations, results))
    metrics = coco_average_precision(annotations, results)
    assert (annotations, results) == before
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(annotations))
    assert coco_average_precision(path, results) == coco_average_precision(str(path), results) == metrics


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        (
            [result(0, 0, 5, category_id=1)],
            {},
            r"results\[0\] has category_id 1, which the annotations do not",
        ),
        ([*FOUND, result(0, 0, 5, image_id=9)], {}, r"results\[3\] has image_id 9"),
        ([{"image_id": 1, "category_id": 5, "segmentation": {}}], {}, r"results\[0\] has no 'score'"),
        ([{"image_id": 1, "category_id": 5, "score": 1.0}], {"iou_type": "bbox"}, "has no 'bbox'"),
        ([], {"iou_type": "mask"}, "iou_type must be one of 'segm', 'bbox', got 'mask'"),
        ([], {"max_detections": 0}, "max_detections must be a positive integer, got 0"),
    ],
)
def test_results_and_options_are_checked(results: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coco_average_precision(truth(SQUARES), results, **options)


def test_missing_pycocotools_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match=r"pip install 'lucid-maskrcnn\[coco\]'"):
        coco_average_precision(truth(SQUARES), FOUND)


# ------------------------------------------------------------------ equal to pycocotools on the same files

SIDE = 110  # pixels, so that there are objects of all three sizes
IDS = (3, 7, 20)  # of categories


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x, y = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    side = draw(st.sampled_from([6, 9, 30, 34, 97]))
    return x, y, side, draw(st.sampled_from([side, side - 3]))


def rectangle(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y : y + height, x : x + width] = True
    return mask


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw annotations and results; images and categories may have neither."""
    places = st.tuples(st.sampled_from([9, 4, 5]), st.sampled_from(IDS), rectangles())
    annotations = []
    for i, (image_id, category_id, box) in enumerate(draw(st.lists(places, max_size=8)), 1):
        crowd = draw(st.sampled_from([0, 0, 0, 1]))
        mask = rectangle(*box)
        entry: dict[str, Any] = {"id": i, "image_id": image_id, "category_id": category_id, "bbox": list(box)}
        entry |= {"area": int(mask.sum()), "iscrowd": crowd, "segmentation": encode_rle(mask)}
        if draw(st.booleans()):
            entry["ignore"] = draw(st.sampled_from([0, 1]))
        annotations.append(entry)
    results = []
    near = st.tuples(places, st.sampled_from([0.3, 0.5, 0.5, 0.9]))
    for (image_id, category_id, (x, y, w, h)), score in draw(st.lists(near, min_size=1, max_size=14)):
        if annotations and draw(st.booleans()):  # close to an object: hits are rare otherwise
            some = draw(st.sampled_from(annotations))
            image_id, category_id, (x, y, w, h) = some["image_id"], some["category_id"], some["bbox"]
            w, h = max(w - draw(st.integers(0, 2)), 1), max(h - draw(st.integers(0, 2)), 1)
        shape = encode_rle(rectangle(x, y, w, h))
        entry = {"image_id": image_id, "category_id": category_id, "score": score, "bbox": [x, y, w, h]}
        results.append({**entry, "segmentation": shape})
    images = [{"id": i, "height": SIDE, "width": SIDE} for i in (9, 4, 5)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in IDS],
    }, results


def by_pycocotools(folder: Path, iou_type: str, limit: int) -> tuple[dict[str, float], np.ndarray]:
    """Run pycocotools as its own demonstration does; the metrics are those of summarize() at another limit."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / f"{iou_type}.json")), iou_type)
        evaluation.params.maxDets = [1, 2, limit]
        evaluation.evaluate()
        evaluation.accumulate()
        if limit == 100:
            evaluation.summarize()
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1]
    parts = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    parts |= {f"AP{size}": precision[..., a] for a, size in enumerate("sml", 1)} | {"AR": recall[..., 0]}
    metrics = {name: float(np.mean(p[p > -1])) if (p > -1).any() else -1.0 for name, p in parts.items()}
    if limit == 100:
        summary = [*evaluation.stats[:6], evaluation.stats[8]]
        assert list(metrics.values()) == summary
    return metrics, precision


@settings(deadline=None, max_examples=40)
@given(data_sets(), st.sampled_from([2, 3, 100, 400]))
def test_metrics_are_those_of_pycocotools(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[dict[str, Any], list[dict[str, Any]]], limit: int
) -> None:
    annotations, results = drawn
    folder = tmp_path_factory.mktemp("coco")
    (folder / "truth.json").write_text(json.dumps(annotations))
    for iou_type, other in (("segm", "bbox"), ("bbox", "segmentation")):
        part = [{key: value for key, value in result.items() if key != other} for result in results]
        (folder / f"{iou_type}.json").write_text(json.dumps(part))
    found = evaluate_results(annotations, results, max_detections=limit)
    for iou_type in ("segm", "bbox"):
        metrics, precision = by_pycocotools(folder, iou_type, limit)
        for name, value in metrics.items():
            ours = found.metrics[f"{iou_type}/{name}"]
            assert ours == value or (math.isnan(ours) and value == -1)
        for k, category in enumerate(found.per_category):
            own = precision[:, :, k, 0]
            ours = category.metrics[f"{iou_type}/AP"]
            assert math.isnan(ours) if (own == -1).all() else ours == pytest.approx(own.mean())
        if limit == 400:
            usual, _ = by_pycocotools(folder, iou_type, 100)
            ours = found.metrics[f"{iou_type}/AP50@100"]
            assert ours == usual["AP50"] or (math.isnan(ours) and usual["AP50"] == -1)
        old = coco_average_precision(annotations, results, iou_type=iou_type, max_detections=limit)
        assert old == {name: value for name, value in metrics.items() if name != "AR"}


# ------------------------------------------------------------------ all metrics at once


def test_more_than_a_hundred_objects_need_a_higher_limit() -> None:
    places = [(6 * (i % 20), 6 * (i // 20), 5) for i in range(120)]
    annotations, results = truth(places), [result(*place) for place in places]
    whole = evaluate_results(annotations, results, max_detections=120, iou_types=["segm"])
    assert whole.metrics["segm/AP"] == whole.metrics["AP_0.5"] == 1
    # 100 of 120 found: precision 1 at the recalls 0.00 to 0.83, 84 of 101
    assert whole.metrics["segm/AP@100"] == pytest.approx(84 / 101)
    by_default = evaluate_results(annotations, results, iou_types=["segm"])
    assert by_default.metrics == pytest.approx(whole.metrics, nan_ok=True)
    assert by_default.options["max_detections"] == 120
    assert not [note for note in by_default.notes if "more objects" in note]
    usual = evaluate_results(annotations, results, max_detections=100, iou_types=["segm"])
    assert usual.metrics["segm/AP"] == whole.metrics["segm/AP@100"]
    assert "segm/AP@100" not in usual.metrics
    assert any("1 image has more objects than the 100 detections that count, up to 120" in n for n in usual.notes)
    assert "masks, 120 an image" in str(whole)
    assert "masks, 100 an image" in str(whole)


def test_note_on_missing_object_sizes() -> None:
    found = evaluate_results(truth(SQUARES[:1]), FOUND[:1])
    assert math.isnan(found.metrics["segm/APl"])
    sentence = "segm/APl and bbox/APl cannot be computed (pycocotools: -1): no object is large, from 96² pixels on."
    assert sentence in found.notes
    assert len(found.notes) == 3  # medium ones are missing too, and an image has no objects


def test_table_of_several_categories() -> None:
    annotations = truth(SQUARES)
    assert "category" not in str(evaluate_results(annotations, FOUND))
    annotations["categories"] = [{"id": 9, "name": "circle"}, *annotations["categories"]]
    found = evaluate_results(annotations, FOUND)
    assert [(c.category_id, c.name, c.num_objects, c.num_detections) for c in found.per_category] == [
        (5, "square", 3, 3),
        (9, "circle", 0, 0),
    ]
    assert found.per_category[0].metrics["segm/AP50"] == 1
    assert math.isnan(found.per_category[1].metrics["bbox/AP"])
    assert any(line.split()[:3] == ["circle", "0", "0"] for line in found.table())


def test_missing_area_bbox_and_iscrowd_are_computed() -> None:
    annotations = truth(SQUARES)
    whole = evaluate_results(annotations, FOUND)
    for annotation in annotations["annotations"]:
        del annotation["area"], annotation["bbox"]
    before = copy.deepcopy(annotations)
    assert evaluate_results(annotations, FOUND).metrics == whole.metrics
    assert annotations == before


def test_annotation_with_id_0_counts() -> None:
    """pycocotools itself would take its detection for a false alarm."""
    annotations = truth(SQUARES)
    for i, annotation in enumerate(annotations["annotations"]):
        annotation["id"] = i
    assert coco_average_precision(annotations, FOUND)["AP"] == pytest.approx(1)


def test_boxes_without_masks() -> None:
    annotations = truth(SQUARES)
    for entry in (*annotations["annotations"], *(boxes := copy.deepcopy(FOUND))):
        del entry["segmentation"]
    found = evaluate_results(annotations, boxes, iou_types=["bbox"])
    assert found.metrics["bbox/AP"] == pytest.approx(1)
    assert not any(name.startswith(("segm", "AP_")) for name in found.metrics)
    with pytest.raises(ValueError, match="annotation 1 has no 'segmentation': iou_types must be without 'segm'"):
        evaluate_results(annotations, boxes)
    with pytest.raises(ValueError, match=r"results\[0\] has no 'segmentation'"):
        evaluate_results(truth(SQUARES), boxes)


def test_images_need_a_size_for_masks() -> None:
    annotations = truth(SQUARES)
    del annotations["images"][1]["width"]
    with pytest.raises(ValueError, match="image 2 must have a height and a width"):
        evaluate_results(annotations, FOUND)


# ------------------------------------------------------------------ annotations and results that lack something


def without(entry: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}


@pytest.mark.parametrize("measure", [coco_average_precision, evaluate_results])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": lambda a: without(a, "image_id")}, "annotations[0] has no 'image_id': it has ['id', "),
        ({"annotations": lambda a: without(a, "category_id")}, "annotations[0] has no 'category_id': it has ['id', "),
        ({"annotations": lambda a: 3}, "annotations[0] must be a mapping, got 3."),
        ({"annotations": lambda a: a | {"image_id": [1]}}, "annotations[0]['image_id'] must be an integer, got [1]."),
        ({"annotations": lambda a: a | {"bbox": [1, 2, 3]}}, "annotations[0] must have four finite numbers (x, y, wid"),
        (
            {"annotations": lambda a: a | {"area": "x"}},
            "annotations[0] must have a finite number as its area, got 'x'.",
        ),
        ({"annotations": lambda a: a | {"iscrowd": 2}}, "annotations[0] must have an iscrowd of 0 or 1, got 2."),
        ({"annotations": lambda a: a | {"segmentation": "x"}}, "Of the annotations of image 1, "),
        ({"annotations": lambda a: a | {"segmentation": {"size": [200, 200]}}}, "Of the annotations of image 1, "),
        ({"images": lambda i: without(i, "id")}, "images[0] has no 'id': it has ["),
        ({"images": lambda i: i | {"id": 2}}, "images[1] has the id 2 of another one: ids must be unique."),
        (
            {"images": lambda i: i | {"height": 0}},
            "image 1 must have a height and a width that are positive integers, g",
        ),
        (
            {"images": lambda i: without(i, "height")},
            "image 1 must have a height and a width, for masks to be compared.",
        ),
        ({"categories": lambda c: without(c, "id")}, "categories[0] has no 'id': it has ["),
    ],
)
def test_annotations_are_checked(measure: Any, change: dict[str, Any], message: str) -> None:
    annotations = truth(SQUARES)
    annotations["images"] = [dict(image) for image in annotations["images"]]
    for kind, changed in change.items():
        annotations[kind] = [changed(annotations[kind][0]), *annotations[kind][1:]]
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(annotations, FOUND)


@pytest.mark.parametrize("measure", [coco_average_precision, evaluate_results])
@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        ([without(FOUND[0], "image_id")], ValueError, "results[0] has no 'image_id': it has ["),
        ([without(FOUND[0], "category_id")], ValueError, "results[0] has no 'category_id': it has ["),
        ([without(FOUND[0], "score")], ValueError, "results[0] has no 'score': it has ["),
        ([without(FOUND[0], "segmentation")], ValueError, "results[0] has no 'segmentation': it has ["),
        (
            [FOUND[0] | {"bbox": [1, 2, 3]}],
            ValueError,
            "results[0] must have four finite numbers (x, y, width, height)",
        ),
        ([FOUND[0] | {"bbox": [1, 2, 3, math.nan]}], ValueError, "as its bbox, got [1, 2, 3, nan]."),
        ([FOUND[0] | {"bbox": None}], ValueError, "as its bbox, got None."),
        ([FOUND[0] | {"score": "high"}], ValueError, "results[0] must have a finite number as its score, got 'high'."),
        ([FOUND[0] | {"score": True}], ValueError, "results[0] must have a finite number as its score, got True."),
        ([FOUND[0] | {"segmentation": "x"}], ValueError, "Of the results of image 1, "),
        ([FOUND[0] | {"segmentation": {"size": [200, 200], "counts": "~"}}], ValueError, "Of the results of image 1, "),
        ([FOUND[0] | {"segmentation": {"size": [5, 5], "counts": [25]}}], ValueError, "Of the results of image 1, "),
        ([FOUND[0] | {"segmentation": {}}], ValueError, "results[0] has no 'segmentation': it has ["),
        ([FOUND[0] | {"image_id": [1]}], ValueError, "results[0]['image_id'] must be an integer, got [1]."),
        (
            [3],
            TypeError,
            "results must be a list of results, each a mapping with 'image_id', 'category_id' and 'score'",
        ),
        ({"annotations": []}, TypeError, "results must be a list of results"),
        (None, TypeError, "results must be a list of results"),
    ],
)
def test_results_are_checked(measure: Any, results: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        measure(truth(SQUARES), results)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"iou_type": None}, TypeError, "iou_type must be one of 'segm', 'bbox', got None."),
        ({"max_detections": 1.5}, TypeError, "max_detections must be a positive integer, got 1.5."),
        ({"annotations": 3}, TypeError, "annotations must be a path as str or Path, got 3."),
        ({"annotations": []}, ValueError, "annotations is a list, as results are"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        coco_average_precision(**({"annotations": truth(SQUARES), "results": FOUND} | options))


def test_boxes_follow_from_masks() -> None:
    masks = [without(entry, "bbox") for entry in FOUND]
    expected = coco_average_precision(truth(SQUARES), FOUND, iou_type="bbox")
    assert coco_average_precision(truth(SQUARES), masks, iou_type="bbox") == expected
    assert evaluate_results(truth(SQUARES), masks).metrics == evaluate_results(truth(SQUARES), FOUND).metrics


def test_numpy_scores_and_ids_are_numbers() -> None:
    changed = [
        entry | {"score": np.float32(entry["score"]), "image_id": np.int64(entry["image_id"])} for entry in FOUND
    ]
    assert coco_average_precision(truth(SQUARES), changed) == coco_average_precision(truth(SQUARES), FOUND)
