"""Contact sheets of an evaluation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from three_boxes import Model, write

from lucid_maskrcnn.data import CocoInstances
from lucid_maskrcnn.evaluation import contact_sheet, evaluate


@pytest.fixture
def dataset(tmp_path: Path) -> CocoInstances:
    folder = write(tmp_path)
    return CocoInstances(folder, folder / "truth.json")


def test_contact_sheet_outlines_objects_and_fills_mistakes(dataset: CocoInstances) -> None:
    found = evaluate(Model([2, 3], None, 3), dataset, iou_types=())  # the dog is one, the cat is taken for a zebra
    sheet = np.asarray(contact_sheet(dataset, found, found.per_image))
    one = np.asarray(contact_sheet(dataset, found, [found.per_image[0]]))
    assert sheet.shape[1] > 1.8 * one.shape[1]
    image = one[-(160 + 12) : -12, 12 : 12 + 240].astype(int)  # four times as large as the file
    assert image[5, 5].tolist() == [90, 90, 90]
    assert image[4 * 8, 4 * 7].tolist() == [90, 90, 90]  # inside a dog that was found
    assert image[4 * 30, 4 * 50, 1] > 130  # a missed zebra, filled
    assert image[4 * 18, 4 * 25, 0] > 120  # something false, filled over a missed cat
    assert np.asarray(contact_sheet(dataset, found, [])).shape[2] == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"columns": 0}, ValueError, "columns must be a positive integer, got 0."),
        ({"images": [8]}, TypeError, "images[0] must be an ImageMetrics of evaluation, got 8."),
        ({"images": None}, TypeError, "images must be a sequence, got None."),
        ({"evaluation": None}, TypeError, "evaluation must be an Evaluation, got None."),
        ({"dataset": "images"}, TypeError, "dataset must be a data set"),
        ({"dataset": [(None, None)]}, ValueError, "must have the images that were evaluated, but has no image 8."),
    ],
)
def test_arguments_of_a_contact_sheet_are_checked(
    dataset: CocoInstances, arguments: dict[str, Any], error: Any, message: str
) -> None:
    found = evaluate(Model([2], None, 3), dataset, iou_types=())
    with pytest.raises(error, match=re.escape(message)):
        contact_sheet(**({"dataset": dataset, "evaluation": found, "images": found.worst(1)} | arguments))
