"""Annotations and results in COCO's format: checked, and completed where a key may be missing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lucid_maskrcnn.annotation_formats.coco import complete_annotation, read_annotations

__all__ = ["KEYS", "check_results", "complete", "have_masks", "read_results"]

KEYS = {"segm": "segmentation", "bbox": "bbox"}
type Content = Mapping[str, Any]


def complete(annotations: str | Path | Content, iou_types: Iterable[str]) -> dict[str, Any]:
    """Return annotations with all that an evaluation reads; what is given is not changed.

    Parameters
    ----------
    annotations : str, Path or mapping
        The file, or its content.
    iou_types : iterable of {"segm", "bbox"}
        What will be compared.

    Returns
    -------
    dict
        ``"images"``, ``"annotations"`` and ``"categories"``. Annotations of other images or categories are left out,
        as pycocotools leaves them out; the others have ``"iscrowd"``, ``"area"`` and ``"bbox"``.

    Raises
    ------
    ValueError
        If it is no such file, an image has no size or an annotation no mask where masks are compared.
    """
    content = read_annotations(annotations)
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    if "segm" in iou_types:
        _require_sizes(images)
    known = [a for a in content["annotations"] if a["image_id"] in images and a["category_id"] in categories]
    completed = [complete_annotation(a, _size(images[a["image_id"]])) for a in known]
    for name in iou_types:
        missing = next((a for a in completed if KEYS[name] not in a), None)
        if missing is not None:
            raise ValueError(
                f"annotation {missing.get('id')} has no {KEYS[name]!r}: iou_types must be without {name!r}."
            )
    return {"images": list(content["images"]), "annotations": completed, "categories": list(content["categories"])}


def _require_sizes(images: Mapping[int, Content]) -> None:
    for number, image in images.items():
        if "height" not in image or "width" not in image:
            raise ValueError(f"image {number} must have a height and a width, for masks to be compared.")


def _size(image: Content) -> tuple[int, int] | None:
    return (image["height"], image["width"]) if "height" in image and "width" in image else None


def read_results(results: str | Path | Sequence[Content]) -> Sequence[Content]:
    """Return the results that a file holds, or those given.

    Raises
    ------
    ValueError
        If it is no list of them.
    """
    if not isinstance(results, (str, Path)):
        return results
    try:
        content = json.loads(Path(results).read_bytes())
    except ValueError as error:
        raise ValueError(f"{str(results)!r} is not JSON: {str(error).rstrip('.')}.") from error
    if not isinstance(content, list) or not all(isinstance(entry, Mapping) for entry in content):
        raise ValueError(f"{str(results)!r} must be a list of results, as COCO has them.")
    return content


def check_results(annotations: Content, results: Iterable[Content], iou_types: Iterable[str]) -> None:
    """Raise ``ValueError`` for results that lack a key, or are of other images or categories."""
    known = {
        "image_id": {image["id"] for image in annotations["images"]},
        "category_id": {category["id"] for category in annotations["categories"]},
    }
    needed = (*known, "score", *(KEYS[name] for name in iou_types))
    for i, result in enumerate(results):
        missing = [name for name in needed if name not in result]
        if missing:
            raise ValueError(f"results[{i}] has no {missing[0]!r}: it has {list(result)}.")
        for name, ids in known.items():
            if result[name] not in ids:
                raise ValueError(
                    f"results[{i}] has {name} {result[name]!r}, which the annotations do not have: they are "
                    "of another data set, or labels were not turned back into category ids."
                )
        if not isinstance(result["score"], (int, float)) or not math.isfinite(result["score"]):
            raise ValueError(f"results[{i}] must have a finite number as its score, got {result['score']!r}.")


def have_masks(truth: Content, results: Iterable[Content]) -> bool:
    """Whether all objects and results have a mask, and all images a size."""
    return (
        all("height" in image and "width" in image for image in truth["images"])
        and all(annotation.get("segmentation") for annotation in truth["annotations"])
        and all("segmentation" in result for result in results)
    )
