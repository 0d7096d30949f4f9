"""COCO's format: the dicts of annotations and results, as they stand in its JSON files.

Shapes: n objects of one image.

Names: a *bbox* is ``[x, y, width, height]``, a *box* is ``(x1, y1, x2, y2)``; both in pixels of the image.
A *segmentation* is a run-length encoding or a list of polygons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.array_arguments import numeric_array
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.json_text import read_json
from lucid_maskrcnn.masks import CompressedMasks, trace_parts
from lucid_maskrcnn.validators import image_size, instance, integer, number, path, sequence, shown

from .foreign import foreign_content, foreign_file

__all__ = [
    "bboxes_of",
    "complete_annotation",
    "make_annotations",
    "make_data_set",
    "make_results",
    "read_annotations",
    "read_results",
]


@answers_wrong_calls
def read_annotations(annotations: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of an annotation file: a mapping with the three lists of COCO's format.

    Parameters
    ----------
    annotations : str, Path or mapping
        The JSON file, or its content. The entries of the lists are not checked.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if isinstance(annotations, (Mapping, list)):
        content: Any = annotations
        name = "annotations"
    else:
        file = path("annotations", annotations)
        name = repr(str(file))
        try:
            content = read_json(file)
        except (ValueError, OSError) as error:
            what = foreign_file(file) if file.is_dir() or isinstance(error, ValueError) else None
            if what is None:
                raise
            raise ValueError(f"{name} is no JSON file of COCO instances, but {what}.") from error
    what = foreign_content(content)
    if what is not None:
        raise ValueError(f"{name} is not COCO instances, but {what}.")
    if isinstance(content, list):
        raise ValueError(f"{name} is a list, as results are: annotations are a mapping with 'images'.")
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{name} must be a mapping with 'images', 'annotations' and 'categories', got {shown(content)}."
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), (list, tuple)):
            raise ValueError(f"{name} has no list of {key!r}: it has {shown(list(content))}.")
    return content


@answers_wrong_calls
def read_results(results: str | Path | Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return results as a list.

    Parameters
    ----------
    results : str, Path or iterable of mapping
        The JSON file, or its content. The keys of the mappings are not checked.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    wanted = "a list of results, each a mapping with 'image_id', 'category_id' and 'score'"
    if isinstance(results, (str, Path)):
        file = path("results", results)
        name, content = repr(str(file)), read_json(file)
        if not isinstance(content, list):
            raise ValueError(f"{name} must be {wanted}, got {shown(content)}.")
    elif isinstance(results, Mapping) or not isinstance(results, Iterable) or getattr(results, "ndim", 1) == 0:
        raise TypeError(f"results must be {wanted}, got {shown(results)}.")
    else:
        name, content = "results", list(results)
    wrong = next((i for i, entry in enumerate(content) if not isinstance(entry, Mapping)), None)
    if wrong is not None:
        kind = ValueError if isinstance(results, (str, Path)) else TypeError
        raise kind(f"{name} must be {wanted}, got {shown(content[wrong])} at [{wrong}].")
    return content


@answers_wrong_calls
def bboxes_of(boxes: np.ndarray) -> list[list[float]]:
    """Return boxes (n, 4) as COCO's bboxes. The differences are taken in float64: ``x + width`` is ``x2`` again."""
    array = numeric_array("boxes", boxes, "numbers of shape (n, 4)", shape=(None, 4))
    bboxes = array.astype(np.float64)
    bboxes[:, 2:] -= bboxes[:, :2]
    return bboxes.tolist()


def _crowd(name: str, value: Any) -> int:
    return integer(name, int(value) if isinstance(value, (bool, np.bool_)) else value, 0, 1)


def _segmentation(name: str, value: Any) -> Any:
    return instance(name, value, (Mapping, list, tuple), "a run-length encoding or a list of polygons")


@answers_wrong_calls
def make_annotations(
    masks: CompressedMasks,
    *,
    image_id: int,
    category_ids: Sequence[int],
    first_id: int,
    boxes: np.ndarray | None = None,
    iscrowd: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Return the annotations of one image.

    Parameters
    ----------
    masks : CompressedMasks
        One of each object, n.
    image_id : int
        Id of the image in the file.
    category_ids : sequence of int
        The category of each object.
    first_id : int
        Id of the first annotation; the others count up. COCO's evaluation takes an id of 0 for no object.
    boxes : ndarray of shape (n, 4), optional
        Corners; by default those around the masks.
    iscrowd : sequence of int, optional
        1 for a group of objects, 0 (by default) for one.

    Returns
    -------
    list of dict
        ``id``, ``image_id``, ``category_id``, ``bbox``, ``area``, ``iscrowd`` and ``segmentation`` (compressed run
        lengths) of each object, as plain Python.
    """
    count = len(instance("masks", masks, CompressedMasks, "CompressedMasks"))
    integer("image_id", image_id)
    category_ids = sequence("category_ids", category_ids, integer, length=count)
    first_id = integer("first_id", first_id)
    if iscrowd is not None:
        iscrowd = sequence("iscrowd", iscrowd, _crowd, length=count)
    bboxes = bboxes_of(masks.boxes if boxes is None else boxes)
    if len(bboxes) != count:
        raise ValueError(f"boxes must be one for each of {count} masks, got {len(bboxes)}.")
    columns = zip(
        category_ids,
        bboxes,
        masks.areas.tolist(),
        [0] * len(masks) if iscrowd is None else iscrowd,
        masks.to_rle(),
        strict=True,
    )
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": bbox,
            "area": area,
            "iscrowd": int(crowd),
            "segmentation": rle,
        }
        for number, (category_id, bbox, area, crowd, rle) in enumerate(columns, start=first_id)
    ]


@answers_wrong_calls
def make_data_set(
    masks: CompressedMasks,
    *,
    image: Mapping[str, Any],
    categories: Mapping[int, str],
    category_ids: Sequence[int],
    boxes: np.ndarray,
    scores: Sequence[float],
    info: Mapping[str, str],
) -> dict[str, Any]:
    """Return one image's objects as a whole data set, which annotation tools open and which can be trained on.

    Parameters
    ----------
    masks : CompressedMasks
        One of each object, n. Those without holes become polygons along the edges of their pixels, which pycocotools
        makes the same mask of; the others are run-length encodings. An empty mask has no annotation.
    image : mapping
        ``id`` and ``file_name``.
    categories : mapping of int to str
        Names of the category ids.
    category_ids, scores
        Of each object. The score becomes a key of its annotation, which programs skip that do not know it.
    boxes : ndarray of shape (n, 4)
        Corners.
    info : mapping
        On the data set.

    Returns
    -------
    dict
        ``info``, ``licenses``, ``images``, ``annotations`` and ``categories``. The annotations' ids are 1 to n in the
        order given.
    """
    instance("masks", masks, CompressedMasks, "CompressedMasks")
    if not isinstance(image, Mapping) or not {"id", "file_name"} <= image.keys():
        raise TypeError(f"image must be a mapping with 'id' and 'file_name', got {shown(image)}.")
    instance("categories", categories, Mapping, "a mapping of category ids to names")
    instance("info", info, Mapping, "a mapping of names to text")
    scores = sequence("scores", scores, number, length=len(masks))
    image_id, (height, width) = image["id"], masks.image_size
    annotations = make_annotations(masks, image_id=image_id, category_ids=category_ids, first_id=1, boxes=boxes)
    kept = []
    for annotation, parts, score in zip(annotations, trace_parts(masks), scores, strict=True):
        if parts:
            annotation["score"] = score
            if all(len(rings) == 1 for rings in parts):
                annotation["segmentation"] = [[float(v) for point in rings[0] for v in point] for rings in parts]
            kept.append(annotation)
    return {
        "info": dict(info),
        "licenses": [],
        "images": [{"id": image_id, "file_name": image["file_name"], "height": height, "width": width}],
        "annotations": kept,
        "categories": [{"id": number, "name": categories[number]} for number in sorted(categories)],
    }


@answers_wrong_calls
def make_results(
    *,
    image_id: int,
    category_ids: Iterable[int],
    boxes: np.ndarray,
    scores: Iterable[float],
    segmentations: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the detections of one image as results.

    Parameters
    ----------
    image_id : int
        Id of the image in the annotations that the results are evaluated with.
    category_ids, scores, segmentations
        One of each detection.
    boxes : ndarray of shape (n, 4)
        Corners.

    Returns
    -------
    list of dict
        ``image_id``, ``category_id``, ``bbox``, ``score`` and ``segmentation``, as pycocotools' ``loadRes`` takes them.
    """
    integer("image_id", image_id)
    bboxes = bboxes_of(boxes)
    category_ids = sequence("category_ids", category_ids, integer, length=len(bboxes))
    scores = sequence("scores", scores, number, length=len(bboxes))
    segmentations = sequence("segmentations", segmentations, _segmentation, length=len(bboxes))
    columns = zip(category_ids, bboxes, scores, segmentations, strict=True)
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score, "segmentation": segmentation}
        for category_id, bbox, score, segmentation in columns
    ]


@answers_wrong_calls
def complete_annotation(annotation: Mapping[str, Any], size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return an annotation with all the keys that an evaluation reads.

    Parameters
    ----------
    annotation : mapping
        Not modified.
    size : (height, width), optional
        Of its image, which masks need.

    Returns
    -------
    dict
        With ``"iscrowd"`` (by default 0), ``"bbox"`` (by default that around the mask) and ``"area"`` (by default the
        number of pixels of the mask, or the bbox's area where there is no mask).

    Raises
    ------
    ValueError
        If it has neither a segmentation nor a bbox, or the segmentation is malformed.
    """
    instance("annotation", annotation, Mapping, "a mapping")
    size = None if size is None else image_size("size", size)
    whole = {"iscrowd": 0, **{key: value for key, value in annotation.items() if value is not None}}
    if "area" in whole and "bbox" in whole:
        return whole
    segmentation = whole.get("segmentation")
    if segmentation is not None and not (isinstance(segmentation, (list, tuple)) and not segmentation) and size:
        mask = CompressedMasks.from_coco([segmentation], size)
        whole.setdefault("bbox", bboxes_of(mask.boxes)[0])
        whole.setdefault("area", float(mask.areas[0]))
    elif "bbox" in whole:
        whole.setdefault("area", float(whole["bbox"][2] * whole["bbox"][3]))
    else:
        raise ValueError(f"annotation {whole.get('id')} must have a segmentation or a bbox and an area.")
    return whole
