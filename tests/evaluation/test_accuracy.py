"""Instance accuracy AP_t = TP / (TP + FP + FN): what is counted, tables and files. No pycocotools needed."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lucid_maskrcnn.evaluation import Evaluation, evaluate_results
from lucid_maskrcnn.evaluation.accuracy import THRESHOLDS
from lucid_maskrcnn.masks.rle import encode_rle

SIZE = 40


def square(x: int, y: int, side: int, height: int = 0) -> dict[str, Any]:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y : y + (height or side), x : x + side] = True
    return encode_rle(mask)


def truth(*images: list[dict[str, Any]], kinds: list[str] | None = None) -> dict[str, Any]:
    """Return images, each with a list of objects: run lengths, or whole annotations."""
    annotations = []
    for i, objects in enumerate(images, 1):
        for shape in objects:
            entry = shape if "segmentation" in shape else {"segmentation": shape}
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": 3, **entry})
    files = [{"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE} for i in range(1, len(images) + 1)]
    for image, kind in zip(files, kinds or [], strict=False):
        image["kind"] = kind
    categories = [{"id": 3, "name": "cell"}, {"id": 7, "name": "nucleus"}]
    return {"images": files, "annotations": annotations, "categories": categories}


def result(shape: dict[str, Any], image_id: int = 1, score: float = 0.9, category_id: int = 3) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "score": score, "segmentation": shape}


def measure(annotations: Any, results: Any, **options: Any) -> Evaluation:
    return evaluate_results(annotations, results, iou_types=(), **options)


# ------------------------------------------------------------------ what is counted


def test_overlap_of_0_64_counts_at_three_of_ten_thresholds() -> None:
    found = measure(truth([square(0, 0, 20)]), [result(square(0, 0, 16))])
    assert [found.metrics[f"AP_{t:g}"] for t in THRESHOLDS] == [1] * 3 + [0] * 7
    assert found.metrics["AP_0.5:0.95"] == pytest.approx(0.3)
    assert found.instance_accuracy is not None
    assert found.instance_accuracy.tp == (1,) * 3 + (0,) * 7
    assert found.instance_accuracy.fp == found.instance_accuracy.fn == (0,) * 3 + (1,) * 7


@pytest.mark.parametrize(("height", "thresh"), [(10, 0.5), (11, 0.55), (12, 0.6), (13, 0.65), (14, 0.7), (19, 0.95)])
def test_iou_equal_to_the_threshold_is_a_pair(height: int, thresh: float) -> None:
    metrics = measure(truth([square(0, 0, 20)]), [result(square(0, 0, 20, height))]).metrics
    assert metrics[f"AP_{thresh:g}"] == 1
    assert metrics.get(f"AP_{thresh + 0.05:g}", 0) == 0


def test_pooled_accuracy_and_mean_of_images() -> None:
    annotations = truth([square(0, 0, 8)], [square(10 * i, 0, 8) for i in range(3)])
    metrics = measure(annotations, [result(square(0, 0, 8)), result(square(0, 20, 8), image_id=2)]).metrics
    assert metrics["AP_0.5"] == pytest.approx(1 / (1 + 1 + 3))
    assert metrics["images/AP_0.5"] == pytest.approx((1 + 0) / 2)


def test_object_score_decides_which_detections_count() -> None:
    results = [result(square(0, 0, 8), score=0.5), result(square(20, 20, 8), score=0.49)]
    annotations = truth([square(0, 0, 8)])
    assert measure(annotations, results).metrics["AP_0.5"] == 1
    assert measure(annotations, results, object_score=0.4).metrics["AP_0.5"] == 0.5
    assert measure(annotations, results, object_score=0.6).metrics["AP_0.5"] == 0


def test_second_detection_of_an_object_is_a_false_positive() -> None:
    found = measure(truth([square(0, 0, 10)]), [result(square(0, 0, 10)), result(square(0, 0, 9), score=0.99)])
    assert (found.per_image[0].tp[0], found.per_image[0].fp[0], found.per_image[0].fn[0]) == (1, 1, 0)


def test_pairs_have_the_same_category() -> None:
    found = measure(truth([square(0, 0, 10)]), [result(square(0, 0, 10), category_id=7)])
    assert found.metrics["AP_0.5"] == 0
    assert [(c.name, c.num_objects, c.num_detections) for c in found.per_category] == [
        ("cell", 1, 0),
        ("nucleus", 0, 1),
    ]


def test_detections_within_a_crowd_are_not_counted() -> None:
    crowd = {"segmentation": square(0, 0, 20), "iscrowd": 1}
    annotations = truth([crowd, square(30, 30, 8)])
    inside, half, outside = (result(square(x, 0, 8)) for x in (2, 16, 28))
    hit = result(square(30, 30, 8))
    assert measure(annotations, [hit, inside, inside]).metrics["AP_0.5"] == 1
    found = measure(annotations, [hit, half, outside])
    assert found.per_image[0].fp == (1,) + (2,) * 9  # half of one lies within: enough at 0.5
    other = result(square(2, 0, 8), category_id=7)
    assert measure(annotations, [hit, other]).metrics["AP_0.5"] == 0.5
    assert found.per_image[0].num_objects == found.per_category[0].num_objects == 1


def test_ignore_flag_has_no_effect_as_in_pycocotools() -> None:
    found = measure(truth([{"segmentation": square(0, 0, 8), "ignore": 1}]), [])
    assert found.per_image[0].fn[0] == 1


def test_image_without_objects_and_detections_has_no_score() -> None:
    found = measure(truth([], [], [square(0, 0, 8)]), [result(square(0, 0, 8), 2), result(square(0, 0, 8), 3)])
    assert [image.score for image in found.per_image[1:]] == [0, 1]
    assert math.isnan(found.per_image[0].score)
    assert math.isnan(found.per_image[0].mean_ap)
    assert found.metrics["images/AP_0.5"] == 0.5
    assert [image.image_id for image in found.worst(5)] == [2, 3]
    assert [image.image_id for image in found.best(1)] == [3]
    assert any("2 images have no objects" in note for note in found.notes)


def test_no_objects_and_no_detections() -> None:
    for none in (truth(), truth([]), {"images": [], "annotations": [], "categories": []}):
        found = measure(none, [])
        assert math.isnan(found.metrics["AP_0.5"])
        assert math.isnan(found.metrics["images/AP_0.5:0.95"])
        assert found.notes == ("The annotations have no objects: there is nothing to find, and no average precision.",)
        assert found.worst(3) == []
        assert all(isinstance(line, str) for line in found.table())


def test_images_without_objects_do_not_change_the_others() -> None:
    found = measure(truth([square(0, 0, 8)], []), [])
    assert found.metrics["AP_0.5"] == found.metrics["images/AP_0.5"] == 0
    assert "Nothing was found in any image." in found.notes


def test_metrics_per_group() -> None:
    annotations = truth([square(0, 0, 8)], [square(0, 0, 8)], [], kinds=["bright", "dark"])
    found = measure(annotations, [result(square(0, 0, 8))])
    assert {name: group.pooled[0] for name, group in found.per_group.items() if name != "none"} == {
        "bright": 1,
        "dark": 0,
    }
    assert [image.group for image in found.per_image] == ["bright", "dark", "none"]
    assert measure(annotations, [], group_by="stain").per_group == {}
    lines = "\n".join(found.table())
    assert "bright" in lines
    assert "dark" in lines


def test_polygons_and_uncompressed_rle() -> None:
    corners = [[0, 0, 10, 0, 10, 10, 0, 10]]
    counts = {"size": [SIZE, SIZE], "counts": [0, *[10, 30] * 9, 10, 30 + 30 * SIZE]}
    annotations = truth([{"segmentation": corners}])
    for shape in (corners, counts):
        assert measure(annotations, [result(shape)]).metrics["AP_0.95"] == 1


# ------------------------------------------------------------------ brute force


def counted_by_brute_force(
    objects: np.ndarray, crowd: np.ndarray, found: np.ndarray, thresh: float
) -> tuple[int, int, int]:
    shared = (found[:, None] & objects).sum((2, 3))
    union = (found[:, None] | objects).sum((2, 3))
    iou = (shared / np.maximum(union, 1)).reshape(len(found), len(objects))
    ways = []
    own = np.flatnonzero(~crowd).tolist()
    for some in itertools.permutations([*own, *[None] * len(found)], len(found)):
        pairs = {d for d, g in enumerate(some) if g is not None and iou[d, g] >= thresh and iou[d, g] > 0}
        ways.append((len(pairs), pairs))
    tp, pairs = max(ways, key=lambda way: way[0])
    return tp, len(found) - tp, len(own) - tp


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3).flatmap(lambda n: hnp.arrays(bool, (n, 3, 4))), st.data())
def test_counts_are_those_of_brute_force(objects: np.ndarray, data: st.DataObject) -> None:
    found = data.draw(st.integers(0, 3).flatmap(lambda n: hnp.arrays(bool, (n, 3, 4))))
    annotations = truth([encode_rle(mask) for mask in objects])
    annotations["images"][0] |= {"height": 3, "width": 4}
    image = measure(annotations, [result(encode_rle(mask)) for mask in found]).per_image[0]
    for k, thresh in enumerate(THRESHOLDS):
        expected = counted_by_brute_force(objects, np.zeros(len(objects), bool), found, thresh)
        assert (image.tp[k], image.fp[k], image.fn[k]) == expected
    assert list(image.tp) == sorted(image.tp, reverse=True)


# ------------------------------------------------------------------ files, text, mistakes


def test_json_has_all_metrics_and_null_for_missing_ones(tmp_path: Path) -> None:
    annotations = truth([square(0, 0, 8)], [], kinds=["bright", "dark"])
    (tmp_path / "truth.json").write_text(json.dumps(annotations))
    (tmp_path / "results.json").write_text(json.dumps([result(square(0, 0, 8))]))
    found = measure(tmp_path / "truth.json", str(tmp_path / "results.json"))
    found.to_json(tmp_path / "evaluation.json")
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["metrics"]["AP_0.5"] == 1
    assert content["per_image"][1]["AP_0.5"] is None
    assert content["per_group"]["dark"]["AP_0.5"] is None
    assert content["per_image"][0]["file_name"] == "1.png"
    assert content["options"]["object_score"] == 0.5
    assert set(content) == {
        "metrics",
        "instance_accuracy",
        "per_group",
        "per_category",
        "per_image",
        "options",
        "notes",
        "score_thresholds",
        "confusion_matrix",
    }


def test_repr_is_short_and_str_is_the_table() -> None:
    found = measure(truth([square(0, 0, 8)]), [result(square(0, 0, 8))])
    assert repr(found) == "Evaluation(AP_0.5 1.000)"
    assert str(found).splitlines() == found.table()
    assert "all together" in str(found)


def test_equal_scores_are_ranked_by_the_number_of_objects() -> None:
    annotations = truth([square(0, 0, 8)], [square(0, 0, 8), square(20, 20, 8)])
    found = measure(annotations, [])
    assert [image.image_id for image in found.worst(2)] == [image.image_id for image in found.best(2)] == [2, 1]


def test_note_when_no_detection_overlaps_an_object() -> None:
    found = measure(truth([square(0, 0, 8)]), [result(square(20, 20, 8))])
    assert found.notes == (
        "No detection overlaps an object: do the annotations belong to these images and categories?",
    )


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        ([result({"size": [5, 5], "counts": [25]})], {}, "Of the results of image 1, .*0.* is of 5 × 5"),
        (
            [result({"size": [SIZE, SIZE], "counts": "~"})],
            {},
            "Of the results of image 1, .*0.* is malformed",
        ),
        (
            [result(square(0, 0, 5), score=math.nan)],
            {},
            r"results\[0\] must have a finite number as its score, got nan",
        ),
        ([result(square(0, 0, 5), image_id=4)], {}, r"results\[0\] has image_id 4"),
        ([], {"max_detections": 0}, "max_detections must be a positive integer, got 0"),
    ],
)
def test_results_and_options_are_checked(results: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_results(truth([square(0, 0, 8)]), results, **{"iou_types": (), **options})


@pytest.mark.parametrize(
    ("text", "message"), [("{}", "must be a list of results"), ("[1]", "must be a list"), ("[", "is not JSON")]
)
def test_file_that_has_no_results(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        measure(truth([]), tmp_path / "results.json")


def test_boxes_without_masks_have_no_instance_accuracy() -> None:
    annotations = truth([square(0, 0, 8)])
    del annotations["annotations"][0]["segmentation"]
    annotations["annotations"][0] |= {"bbox": [0, 0, 8, 8]}
    found = measure(annotations, [])
    assert found.metrics == {}
    assert found.instance_accuracy is None
    assert found.per_image == ()
    assert found.notes[0] == "AP_t is missing: not all annotations and detections have masks."
    del annotations["annotations"][0]["bbox"]
    with pytest.raises(ValueError, match="annotation 1 must have a segmentation or a bbox and an area"):
        measure(annotations, [])
