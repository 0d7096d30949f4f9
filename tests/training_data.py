"""A data set and weights small enough to train with in a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_runs import Squares, slim

from lucid_maskrcnn.weights import save_weights

NAMES = {1: "dim", 2: "bright"}


def make_training_data(folder: Path) -> Path:
    """Six images of squares with COCO annotations and label images, and weights of a slim model."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    batch, images, annotations = Squares(6).batch(0), [], []
    for i, (image, target) in enumerate(zip(batch.images, batch.targets, strict=True), 1):
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        labels = (target["masks"] * np.array([1, 2])[:, None, None]).max(0).astype(np.uint8)
        Image.fromarray(labels).save(folder / "labels" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        for (x1, y1, x2, y2), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            corners = [[x1, y1, x2, y1, x2, y2, x1, y2]]
            entry = {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": corners, "area": (x2 - x1) * (y2 - y1)}
            annotations.append({**entry, "id": len(annotations) + 1, "image_id": i, "category_id": label, "iscrowd": 0})
    categories = [{"id": label, "name": name} for label, name in NAMES.items()]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(coco))
    save_weights(slim(categories={1: "a", 2: "b"}), folder / "slim.safetensors")
    return folder
