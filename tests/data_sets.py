"""Small annotated data sets, written as the tests need them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lucid_maskrcnn.masks.rle import encode_rle

SIZES = [(40, 60), (50, 50), (60, 40), (48, 64)]  # of the images that coco() speaks of


def noise_image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return an image (H, W, 3) of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def box_mask(size: tuple[int, int], x: int, y: int, w: int, h: int) -> np.ndarray:
    """Return a mask of a rectangle."""
    mask = np.zeros(size, bool)
    mask[y : y + h, x : x + w] = True
    return mask


def coco() -> dict[str, Any]:
    """Return sound annotations of four images with every kind of segmentation, a crowd, and one without objects."""
    first, second = SIZES[0], SIZES[1]
    rle = encode_rle(box_mask(second, 5, 6, 20, 10))
    crowd = {"size": list(second), "counts": [100, 200, second[0] * second[1] - 300]}
    return {
        "images": [
            {"id": 10 * k, "file_name": f"{name}.png", "height": height, "width": width}
            for k, (name, (height, width)) in enumerate(zip("abcd", SIZES, strict=True), start=1)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "kite"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 10,
                "category_id": 7,
                "bbox": [10, 5, 20, 10],
                "area": 200,
                "iscrowd": 0,
                "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15], [20, 5, 30, 5, 30, 15, 20, 15]],
            },
            {
                "id": 2,
                "image_id": 10,
                "category_id": 3,
                "bbox": [40.5, 30, 30, 30],
                "area": 195.0,
                "iscrowd": 0,
                "segmentation": [[40.5, 30, 70.5, 30, 70.5, 60, 40.5, 60]],
            },
            {
                "id": 3,
                "image_id": 20,
                "category_id": 90,
                "bbox": [5, 6, 20, 10],
                "area": 200,
                "iscrowd": 0,
                "segmentation": rle,
            },
            {
                "id": 4,
                "image_id": 20,
                "category_id": 7,
                "bbox": [2, 0, 4, 50],
                "area": 200,
                "iscrowd": 1,
                "segmentation": crowd,
            },
            {
                "id": 5,
                "image_id": 40,
                "category_id": 7,
                "bbox": [0, 0, 64, 48],
                "area": first[0],
                "iscrowd": 0,
                "segmentation": {"size": list(SIZES[3]), "counts": [0, 48 * 64]},
            },
        ],
    }


def write(folder: Path, annotations: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """Write the images and the annotations; return the folder of the one and the file of the other."""
    images = folder / "images"
    images.mkdir()
    for k, (name, size) in enumerate(zip("abcd", SIZES, strict=True)):
        Image.fromarray(noise_image(size, k)).save(images / f"{name}.png")
    file = folder / "instances.json"
    file.write_text(json.dumps(coco() if annotations is None else annotations))
    return images, file
