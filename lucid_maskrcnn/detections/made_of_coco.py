"""From COCO's results and annotations of one image to the columns of ``Detections``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lucid_maskrcnn.config import CategoryNames
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.validators import fraction, integer, number, sequence, shown, text

__all__ = ["from_coco_results"]


def from_coco_results(
    results: Any, size: tuple[int, int], categories: Any
) -> tuple[dict[str, Any], CategoryNames | None]:
    """Return the arguments of ``Detections``, and its categories; see :meth:`Detections.from_coco`."""
    wanted = "a list of COCO results of one image, each a mapping with 'category_id' and 'segmentation'"
    if not isinstance(results, Sequence) or isinstance(results, (str, bytes)):
        raise TypeError(f"results must be {wanted}, got {shown(results)}.")
    for i, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise TypeError(f"results must be {wanted}, got {shown(result)} at [{i}].")
        for key in ("category_id", "segmentation"):
            if result.get(key) is None:
                raise ValueError(f"results[{i}] has no {key!r}: it has {shown(list(result))}.")
    images = {repr(result["image_id"]) for result in results if "image_id" in result}
    if len(images) > 1:
        raise ValueError(
            f"results must be of one image, got those of {', '.join(sorted(images)[:4])}: select them by 'image_id'."
        )
    known, labels = _categories_of(categories)
    try:
        masks = CompressedMasks.from_coco([result["segmentation"] for result in results], size)
    except ValueError as error:
        raise ValueError(str(error).replace("masks[", "the segmentation of results[", 1)) from error
    boxes = masks.boxes
    for i, result in enumerate(results):
        if result.get("bbox") is not None:
            boxes[i] = _corners(f"results[{i}]['bbox']", result["bbox"])
    columns = {
        "boxes": boxes,
        "scores": np.array([_score(i, result) for i, result in enumerate(results)], np.float32),
        "labels": np.array([_label(i, result, labels) for i, result in enumerate(results)], np.int32),
        "masks": masks,
    }
    return columns, known


def _categories_of(categories: Any) -> tuple[CategoryNames | None, Mapping[int, int] | None]:
    """Return the categories, and the label of each category id; None for the latter if a label is its own id."""
    if categories is None:
        return None, None
    if isinstance(categories, (list, tuple)) and any(isinstance(c, Mapping) for c in categories):
        rows = []
        for i, category in enumerate(categories):
            if not isinstance(category, Mapping) or not {"id", "name"} <= category.keys():
                raise ValueError(f"categories[{i}] must be a mapping with 'id' and 'name', got {shown(category)}.")
            rows.append(
                (integer(f"categories[{i}]['id']", category["id"]), text(f"categories[{i}]['name']", category["name"]))
            )
        categories = [(label, name, number) for label, (number, name) in enumerate(sorted(rows), start=1)]
    known = CategoryNames.of(categories)
    return known, {number: label for label, number in known.ids.items()} if known is not None else None


def _corners(name: str, bbox: Any) -> tuple[float, float, float, float]:
    x, y, width, height = sequence(name, bbox, number, length=4)
    if width < 0 or height < 0:
        raise ValueError(f"{name} must be (x, y, width, height), got {shown(bbox)}.")
    return x, y, x + width, y + height


def _score(row: int, result: Mapping[str, Any]) -> float:
    score = result.get("score")
    return 1.0 if score is None else fraction(f"results[{row}]['score']", score)


def _label(row: int, result: Mapping[str, Any], labels: Mapping[int, int] | None) -> int:
    name = f"results[{row}]['category_id']"
    if labels is None:
        return integer(name, result["category_id"], 1, 2**31 - 1)
    category = integer(name, result["category_id"])
    if category not in labels:
        raise ValueError(f"{name} must be the id of one of the categories, {shown(sorted(labels))}, got {category}.")
    return labels[category]
