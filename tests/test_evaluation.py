"""Average precision: what pycocotools says, asked rightly."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lucid_maskrcnn.evaluation import coco_average_precision
from lucid_maskrcnn.rle import encode_rle

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
def test_right_answer_scores_one(iou_type: str, capsys: pytest.CaptureFixture[str]) -> None:
    figures = coco_average_precision(truth(SQUARES), FOUND, iou_type=iou_type)
    assert figures == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1, "APs": 1, "APm": 1, "APl": 1})
    assert capsys.readouterr().out == ""


def test_nothing_found_scores_nothing() -> None:
    figures = coco_average_precision(truth(SQUARES[:2]), [])
    assert figures == {"AP": 0, "AP50": 0, "AP75": 0, "APs": 0, "APm": 0, "APl": -1}


def test_overlap_of_0_64_counts_at_three_of_ten_thresholds() -> None:
    """A 16 × 16 square inside one of 20 × 20 has IoU 0.64: right at 0.50, 0.55 and 0.60."""
    figures = coco_average_precision(truth([(0, 0, 20)]), [result(0, 0, 16)])
    assert figures["AP"] == pytest.approx(0.3)
    assert figures["AP50"] == pytest.approx(1)
    assert figures["AP75"] == 0


def test_false_alarm_above_the_hit_halves_the_precision() -> None:
    results = [result(100, 100, 20, score=0.95), result(0, 0, 20)]
    assert coco_average_precision(truth([(0, 0, 20)]), results)["AP"] == pytest.approx(0.5)


def test_limit_of_detections_cuts_the_weakest_off() -> None:
    annotations = truth([(12 * i, 0, 10) for i in range(4)])
    results = [result(12 * i, 0, 10, score=0.9 - i / 10) for i in range(4)]
    assert coco_average_precision(annotations, results, max_detections=4)["AP"] == pytest.approx(1)
    # two of four found: precision 1 at the recalls 0.00 to 0.50, 51 of 101
    assert coco_average_precision(annotations, results, max_detections=2)["AP"] == pytest.approx(51 / 101)


def test_size_of_a_found_mask_is_the_masks() -> None:
    """A false alarm with a small mask and a big box must not count among the medium ones."""
    annotations = truth([(50, 50, 40)])
    stray = result(150, 150, 5, score=0.99, bbox=[0, 0, 60, 60])
    assert coco_average_precision(annotations, [stray, result(50, 50, 40)])["APm"] == pytest.approx(1)


def test_file_is_read_and_nothing_given_is_changed(tmp_path: Path) -> None:
    annotations, results = truth(SQUARES), copy.deepcopy(FOUND)
    before = copy.deepcopy((annotations, results))
    figures = coco_average_precision(annotations, results)
    assert (annotations, results) == before
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(annotations))
    assert coco_average_precision(path, results) == coco_average_precision(str(path), results) == figures


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
        ([], {"iou_type": "mask"}, "iou_type must be 'segm' or 'bbox', got 'mask'"),
        ([], {"max_detections": 0}, "max_detections must be at least 1, got 0"),
    ],
)
def test_mistake_gets_a_sentence(results: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coco_average_precision(truth(SQUARES), results, **options)


def test_missing_pycocotools_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match=r"pip install 'lucid-maskrcnn\[coco\]'"):
        coco_average_precision(truth(SQUARES), FOUND)
