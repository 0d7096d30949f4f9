"""COCO annotations and results, as an evaluation needs them: checked, and completed where keys are missing."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import bboxes_of, complete_annotation, read_annotations
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.validators import shown

__all__ = ["KEYS", "bbox_of", "by_image", "check_masks", "check_results", "complete", "have_masks", "masks_of"]

KEYS = {"segm": "segmentation", "bbox": "bbox"}
type Content = Mapping[str, Any]


def complete(annotations: str | Path | Content, iou_types: Iterable[str]) -> dict[str, Any]:
    """Return annotations with all that an evaluation reads; what is given is not modified.

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
        as pycocotools leaves them out, with a warning; the others have ``"iscrowd"``, ``"area"`` and ``"bbox"``.

    Raises
    ------
    ValueError
        If the file is not in COCO's format, an entry lacks a key, an id is not unique, an image has no size or an
        annotation no mask where masks are compared.
    """
    content = read_annotations(annotations)
    images = _by_id("images", content["images"])
    categories = _by_id("categories", content["categories"])
    sizes = {number: _size(number, image, required="segm" in iou_types) for number, image in images.items()}
    completed = []
    strays = []
    for k, annotation in enumerate(content["annotations"]):
        _require_keys(f"annotations[{k}]", annotation, ("image_id", "category_id"))
        if annotation["image_id"] in images and annotation["category_id"] in categories:
            completed.append(_completed(annotation, f"annotations[{k}]", sizes[annotation["image_id"]]))
        else:
            strays.append((k, "category_id" if annotation["image_id"] in images else "image_id"))
    if strays:
        k, key = strays[0]
        entries = content["annotations"]
        warn_user(
            f"{len(strays)} of {len(entries)} annotations are left out, of images or categories that are not listed, "
            f"such as annotations[{k}] with {key} {shown(entries[k][key])}."
        )
    for name in iou_types:
        missing = next((a for a in completed if not _has(a, KEYS[name])), None)
        if missing is not None:
            raise ValueError(
                f"annotation {missing.get('id')} has no {KEYS[name]!r}: iou_types must be without {name!r}."
            )
    return {"images": list(content["images"]), "annotations": completed, "categories": list(content["categories"])}


def _by_id(kind: str, entries: Iterable[Any]) -> dict[Any, Content]:
    found: dict[Any, Content] = {}
    for k, entry in enumerate(entries):
        _require_keys(f"{kind}[{k}]", entry, ("id",))
        if entry["id"] in found:
            raise ValueError(f"{kind}[{k}] has the id {shown(entry['id'])} of another one: ids must be unique.")
        found[entry["id"]] = entry
    return found


def _require_keys(place: str, entry: Any, keys: Sequence[str]) -> None:
    """Refuse an entry that is no mapping, or lacks an id."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{place} must be a mapping, got {shown(entry)}.")
    for key in keys:
        if key not in entry:
            raise ValueError(f"{place} has no {key!r}: it has {shown(list(entry))}.")
        if not _is_integer(entry[key]):
            raise ValueError(f"{place}[{key!r}] must be an integer, got {shown(entry[key])}.")


def _size(number: Any, image: Content, *, required: bool) -> tuple[int, int] | None:
    if "height" not in image or "width" not in image:
        if required:
            raise ValueError(f"image {number} must have a height and a width, for masks to be compared.")
        return None
    height, width = image["height"], image["width"]
    if not all(_is_integer(side) and 0 < side < 2**31 for side in (height, width)):
        raise ValueError(
            f"image {number} must have a height and a width that are positive integers, got {shown(height)} and "
            f"{shown(width)}."
        )
    return int(height), int(width)


def _completed(annotation: Content, place: str, size: tuple[int, int] | None) -> dict[str, Any]:
    if annotation.get("bbox") is not None:
        _check_bbox(place, annotation["bbox"])
    area, crowd = annotation.get("area"), annotation.get("iscrowd")
    if area is not None and not _is_finite_number(area):
        raise ValueError(f"{place} must have a finite number as its area, got {shown(area)}.")
    if area is not None and area < 0:
        raise ValueError(f"{place} must have an area of at least 0 pixels, got {shown(area)}.")
    if crowd is not None and not (isinstance(crowd, (int, float, np.number, np.bool_)) and crowd in (0, 1)):
        raise ValueError(f"{place} must have an iscrowd of 0 or 1, got {shown(annotation['iscrowd'])}.")
    try:
        return complete_annotation(annotation, size)
    except (TypeError, ValueError) as error:
        reason = str(error)
        named = reason.startswith("annotation ")
        raise ValueError(reason if named else f"The segmentation of {place} cannot be used: {reason}") from error


def _check_bbox(place: str, bbox: Any) -> None:
    is_list = isinstance(bbox, (list, tuple)) or (isinstance(bbox, np.ndarray) and bbox.ndim == 1)
    if not is_list or len(bbox) != 4 or not all(map(_is_finite_number, bbox)):
        raise ValueError(f"{place} must have four finite numbers (x, y, width, height) as its bbox, got {shown(bbox)}.")
    if max(map(abs, bbox)) >= 2**31 or min(bbox[2:]) < 0:
        raise ValueError(
            f"{place} must have a bbox (x, y, width, height) in pixels, whose width and height are not negative, got "
            f"{shown(bbox)}."
        )


def _has(entry: Content, key: str) -> bool:
    """Whether an entry has a list or a mapping that is not empty; what else it may have is refused elsewhere."""
    value = entry.get(key)
    return len(value) > 0 if isinstance(value, (str, list, tuple, Mapping)) else value is not None


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return abs(int(value)) < 2**63 if isinstance(value, numbers.Integral) else math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


# ------------------------------------------------------------------ results


def check_results(annotations: Content, results: Sequence[Content], iou_types: Iterable[str]) -> None:
    """Check that results have the keys that an evaluation reads, and belong to the annotations.

    Parameters
    ----------
    annotations : mapping
        What :func:`complete` returns.
    results : sequence of mapping
    iou_types : iterable of {"segm", "bbox"}
        What will be compared. For boxes a result needs a bbox, or a mask that it follows from.

    Raises
    ------
    ValueError
        If a key is missing or its value malformed, or a result is of an image or category that the annotations do not
        have.
    """
    known = {
        "image_id": {image["id"] for image in annotations["images"]},
        "category_id": {category["id"] for category in annotations["categories"]},
    }
    sizes = {image["id"]: "height" in image and "width" in image for image in annotations["images"]}
    for i, result in enumerate(results):
        place = f"results[{i}]"
        _require_keys(place, result, tuple(known))
        for name, ids in known.items():
            if result[name] not in ids:
                raise ValueError(
                    f"{place} has {name} {shown(result[name])}, which the annotations do not have: the results are of "
                    "another data set, or have labels instead of category ids."
                )
        if "score" not in result:
            raise ValueError(f"{place} has no 'score': it has {shown(list(result))}.")
        if not _is_finite_number(result["score"]):
            raise ValueError(f"{place} must have a finite number as its score, got {shown(result['score'])}.")
        if "bbox" in result:
            _check_bbox(place, result["bbox"])
        for name in iou_types:
            follows = name == "bbox" and _has(result, "segmentation") and sizes[result["image_id"]]
            if not _has(result, KEYS[name]) and not follows:
                raise ValueError(f"{place} has no {KEYS[name]!r}: it has {shown(list(result))}.")


def bbox_of(result: Content, image: Content) -> list[float]:
    """Return the bbox of a result, by default the one around its mask."""
    if "bbox" in result:
        return [float(v) for v in result["bbox"]]
    return bboxes_of(masks_of(image, "results", [result]).boxes)[0]


def masks_of(image: Content, kind: str, entries: Sequence[Content]) -> CompressedMasks:
    """Return the masks of an image's annotations or results; ``kind`` says which they are.

    Raises
    ------
    ValueError
        If one is malformed or of another size than the image.
    """
    try:
        return CompressedMasks.from_coco([e["segmentation"] for e in entries], (image["height"], image["width"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Of the {kind} of image {image['id']}, {error}") from error


def by_image(entries: Iterable[Content], images: Iterable[Content]) -> dict[int, list[Content]]:
    """Return the annotations or results of each image, by its id."""
    sorted_by_image: dict[int, list[Content]] = {image["id"]: [] for image in images}
    for entry in entries:
        sorted_by_image[entry["image_id"]].append(entry)
    return sorted_by_image


def check_masks(truth: Content, results: Iterable[Content]) -> None:
    """Check all masks before pycocotools gets them, which does not check them itself.

    Raises
    ------
    ValueError
        If one is malformed or of another size than its image.
    """
    for kind, entries in (("annotations", truth["annotations"]), ("results", results)):
        grouped = by_image(entries, truth["images"])
        for image in truth["images"]:
            masks_of(image, kind, grouped[image["id"]])


def have_masks(truth: Content, results: Iterable[Content]) -> bool:
    """Whether all objects and results have a mask, and all images a size."""
    return (
        all("height" in image and "width" in image for image in truth["images"])
        and all(_has(annotation, "segmentation") for annotation in truth["annotations"])
        and all(_has(result, "segmentation") for result in results)
    )
