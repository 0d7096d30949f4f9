"""A model that finds three boxes in any image, and a data set of two images annotated with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lucid_maskrcnn.detections import Detections

SIZE = (40, 60)
BOXES = [(2, 3, 12, 13), (20, 10, 30, 25), (40, 20, 55, 38)]  # x1, y1, x2, y2
NAMES = ["dog", "cat", "zebra"]  # by id: 18, 17 and 24 of COCO

try:
    import pycocotools  # noqa: F401
except ImportError:
    IOU_TYPES: tuple[str, ...] = ()
else:
    IOU_TYPES = ("segm", "bbox")


class Model:
    """Finds the boxes in every image, with the given labels."""

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
    """Return annotations of two images: the first has the three boxes, the second is all crowds."""
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


def write(folder: Path) -> Path:
    """Write two images, and annotations under COCO's ids."""
    for name in "ab":
        Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(folder / f"{name}.png")
    (folder / "truth.json").write_text(json.dumps(content({"cat": 17, "dog": 18, "zebra": 24})))
    return folder
