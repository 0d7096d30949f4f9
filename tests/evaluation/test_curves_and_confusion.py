"""Score thresholds, precision against recall, and the confusion matrix, against slow and obvious computations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.evaluation import Evaluation, evaluate_results
from lucid_maskrcnn.masks.rle import encode_rle

SIZE = 30


def blob(rng: np.random.Generator, like: np.ndarray | None = None) -> np.ndarray:
    """A rectangle, or one near another."""
    mask = np.zeros((SIZE, SIZE), bool)
    if like is None:
        y, x = rng.integers(0, SIZE - 8, 2)
        mask[y : y + rng.integers(4, 9), x : x + rng.integers(4, 9)] = True
        return mask
    return np.roll(like, rng.integers(-2, 3, 2), (0, 1))


def scene(seed: int, *, num_categories: int = 3, crowds: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects, and detections near them, some of other categories, doubled, missing or made up."""
    rng = np.random.default_rng(seed)
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE} for i in range(1, 5)]
    annotations, results = [], []
    for image in images[:3]:  # the last has nothing
        for _ in range(rng.integers(1, 7)):
            mask, category = blob(rng), int(rng.integers(num_categories)) * 2 + 1
            crowd = int(crowds and rng.random() < 0.15)
            annotations.append({"image_id": image["id"], "category_id": category, "segmentation": encode_rle(mask),
                                "iscrowd": crowd, "id": len(annotations) + 1})  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                seen = category if rng.random() < 0.7 else int(rng.integers(num_categories)) * 2 + 1
                near = blob(rng, mask) if rng.random() < 0.8 else blob(rng)
                results.append({"image_id": image["id"], "category_id": seen, "segmentation": encode_rle(near),
                                "score": float(rng.integers(0, 101) / 100)})  # fmt: skip
    categories = [{"id": k * 2 + 1, "name": f"name {k}"} for k in range(num_categories)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def measure(truth: Any, results: Any, **options: Any) -> Evaluation:
    return evaluate_results(truth, results, **{"iou_types": (), **options})


# ------------------------------------------------------------------ score thresholds


@pytest.mark.parametrize("seed", range(8))
def test_curve_is_what_an_evaluation_at_each_threshold_counts(seed: int) -> None:
    truth, results = scene(seed)
    curve = measure(truth, results).threshold_curve()
    assert curve.thresholds.tolist() == [i / 100 for i in range(101)]
    for i in range(0, 100, 7):
        found = measure(truth, results, object_score=min(i / 100 + 1e-9, 1)).instance_accuracy
        assert found is not None
        assert (curve.tp[i], curve.fp[i], curve.fn[i]) == (found.tp[0], found.fp[0], found.fn[0])
        np.testing.assert_equal(curve.accuracy[i], found.pooled[0])
    row = curve.rows()[50]
    assert row["score_thresh"] == 0.5
    np.testing.assert_equal(row["F1"], curve.f1[50])
    np.testing.assert_equal(row["AP_0.5"], curve.accuracy[50])


def test_best_threshold_separates_right_from_wrong() -> None:
    rng = np.random.default_rng(0)
    truth, _ = scene(1, crowds=False)
    right = [
        {**{k: a[k] for k in ("image_id", "category_id", "segmentation")}, "score": 0.8} for a in truth["annotations"]
    ]
    wrong = [{**right[0], "segmentation": encode_rle(blob(rng)), "image_id": 4, "score": 0.3}]
    curve = measure(truth, right + wrong).threshold_curve()
    assert curve.best == 0.3
    assert curve.sentence() == (
        "Best score threshold: 0.3, with F1 1.000, precision 1.000, recall 1.000 (masks, IoU 0.5)."
    )
    assert math.isnan(curve.precision[90])
    assert curve.recall[90] == 0
    assert curve.precision[20] == len(right) / (len(right) + 1)


def test_curve_of_one_category_counts_nothing_else() -> None:
    truth, results = scene(3)
    whole = measure(truth, results)
    curves = [whole.threshold_curve(0.6, category_id=k) for k in (1, 3, 5)]
    together = whole.threshold_curve(0.6)
    assert (sum(c.tp for c in curves) == together.tp).all()
    assert (sum(c.fn for c in curves) == together.fn).all()
    with pytest.raises(ValueError, match="category_id must be one of 1, 3, 5, got 2"):
        whole.threshold_curve(category_id=2)
    with pytest.raises(ValueError, match="iou_thresh must be a number above 0 and below 1, got 1"):
        whole.threshold_curve(1)


def test_curve_without_objects_or_detections() -> None:
    truth, results = scene(2)
    nothing = measure({**truth, "annotations": []}, []).threshold_curve()
    assert math.isnan(nothing.best)
    assert "no best score threshold" in nothing.sentence()
    missed = measure(truth, []).threshold_curve()
    assert missed.best == 0
    assert "no detections, recall 0.000" in missed.sentence()
    assert "no objects" in measure({**truth, "annotations": []}, results).threshold_curve().sentence()


# ------------------------------------------------------------------ confusion


def counted_slowly(truth: Any, results: Any, score: float, iou_thresh: float) -> np.ndarray:
    """Where at most one detection can match an object, no matching is needed: all pairs over the threshold count."""
    from lucid_maskrcnn.masks.rle import decode_rle

    rows = {c["id"]: i for i, c in enumerate(truth["categories"])}
    counts = np.zeros((len(rows) + 1, len(rows) + 1), int)
    for image in truth["images"]:
        objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        found = [r for r in results if r["image_id"] == image["id"] and r["score"] >= score]
        taken, seen = set(), set()
        for same in (True, False):
            for d, detection in enumerate(found):
                for g, thing in enumerate(objects):
                    a, b = decode_rle(detection["segmentation"]), decode_rle(thing["segmentation"])
                    fits = (a & b).sum() / (a | b).sum() >= iou_thresh and d not in seen and g not in taken
                    if fits and same == (detection["category_id"] == thing["category_id"]):
                        counts[rows[thing["category_id"]], rows[detection["category_id"]]] += 1
                        taken.add(g), seen.add(d)
        for d in set(range(len(found))) - seen:
            counts[-1, rows[found[d]["category_id"]]] += 1
        for g in set(range(len(objects))) - taken:
            counts[rows[objects[g]["category_id"]], -1] += 1
    return counts


@pytest.mark.parametrize("seed", range(6))
def test_confusion_matrix_counts_pairs_of_any_categories(seed: int) -> None:
    truth, results = scene(seed, crowds=False)
    grid = [(y, x) for y in (0, 10, 20) for x in (0, 10, 20)]  # objects apart, so that there is one way to match them
    rng = np.random.default_rng(seed)
    for image in truth["images"]:
        image_objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        for thing, (y, x) in zip(image_objects, grid, strict=False):
            mask = np.zeros((SIZE, SIZE), bool)
            mask[y : y + 8, x : x + 8] = True
            thing["segmentation"] = encode_rle(mask)
        found = [r for r in results if r["image_id"] == image["id"]]
        for detection, (y, x) in zip(found, rng.permutation(grid).tolist(), strict=False):
            mask = np.zeros((SIZE, SIZE), bool)
            mask[y : y + 8, x : x + int(rng.integers(3, 9))] = True
            detection["segmentation"] = encode_rle(mask)
    matrix = measure(truth, results).confusion_matrix(0.6, score_thresh=0.3)
    np.testing.assert_array_equal(matrix.counts, counted_slowly(truth, results, 0.3, 0.6))
    assert matrix.names == ("name 0", "name 1", "name 2", "background")
    assert matrix.counts[:-1].sum() == len(truth["annotations"])
    sums = matrix.fractions.sum(axis=1)
    assert ((np.abs(sums - 1) < 1e-9) | (sums == 0)).all()


def test_diagonal_is_what_the_accuracy_counts_as_right() -> None:
    for seed in range(5):
        truth, results = scene(seed)
        found = measure(truth, results)
        assert found.instance_accuracy is not None
        assert np.trace(found.confusion_matrix().counts) == found.instance_accuracy.tp[0]


def test_right_one_of_two_detections_at_one_place_is_no_confusion() -> None:
    truth, _ = scene(0, crowds=False)
    truth["annotations"] = truth["annotations"][:1]
    only = truth["annotations"][0]
    both = [
        {"image_id": only["image_id"], "category_id": k, "segmentation": only["segmentation"], "score": s}
        for k, s in ((1, 0.9), (3, 0.9), (5, 0.9))
    ]
    counts = measure(truth, both).confusion_matrix().counts
    row = (only["category_id"] - 1) // 2
    assert counts[row, row] == 1
    assert counts[-1].sum() == 2
    assert counts.sum() == 3


# ------------------------------------------------------------------ files


def test_plots_are_whole_pictures(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    pytest.importorskip("matplotlib")
    truth, results = scene(4)
    for case in ((truth, results), (truth, []), ({**truth, "annotations": []}, results), scene(1, num_categories=1)):
        found = measure(*case, iou_types=("segm", "bbox"))
        for name in ("thresholds", "confusion", "precision_recall"):
            path = tmp_path / f"{name}.png"
            getattr(found, f"plot_{name}")(path)
            with Image.open(path) as picture:
                assert min(picture.size) > 300
                assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    found.plot_precision_recall(tmp_path / "boxes.svg", iou_type="bbox")
    assert (tmp_path / "boxes.svg").read_text().startswith("<?xml")
    with pytest.raises(ValueError, match=r"path must end in '.png', '.pdf', '.svg', got 'a.gif'"):
        found.plot_thresholds("a.gif")
    with pytest.raises(ValueError, match="iou_type must be one of 'segm', 'bbox', got 'mask'"):
        found.plot_precision_recall(tmp_path / "x.png", iou_type="mask")
    with pytest.raises(ValueError, match="none was: there is no average precision"):
        measure(*scene(1)).plot_precision_recall(tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_json_has_curve_and_matrix(tmp_path: Path) -> None:
    found = measure(*scene(4))
    found.to_json(tmp_path / "e.json")
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["confusion_matrix"]["counts"] == found.confusion_matrix().counts.tolist()
    assert content["confusion_matrix"]["names"][-1] == "background"
    assert content["score_thresholds"][50]["TP"] == found.threshold_curve().tp[50]
    assert len(content["score_thresholds"]) == 101


def test_masks_are_needed() -> None:
    pytest.importorskip("pycocotools")
    truth, results = scene(0)
    boxes = [{**{k: r[k] for k in ("image_id", "category_id", "score")}, "bbox": [1, 1, 5, 5]} for r in results]
    found = evaluate_results(truth, boxes, iou_types=("bbox",))
    with pytest.raises(ValueError, match=r"threshold_curve\(\) needs masks in all annotations and results"):
        found.threshold_curve()
    with pytest.raises(ValueError, match=r"confusion_matrix\(\) needs masks"):
        found.confusion_matrix()
