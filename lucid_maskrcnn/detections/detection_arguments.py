"""Checks of what :class:`Detections` are made of.

Shapes: n detections, M × M cells of the mask head, H × W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.array_arguments import described, finite_boxes, numeric_array, refuse_rows
from lucid_maskrcnn.config import CategoryNames
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.validators import image_size, instance, integer, label_names, non_negative_number, shown

__all__ = [
    "checked_areas",
    "checked_boxes",
    "checked_categories",
    "checked_category_ids",
    "checked_image",
    "checked_labels",
    "checked_masks",
    "checked_probs",
    "checked_scores",
]


def checked_categories(categories: Any) -> CategoryNames | None:
    """Return categories of any form that they may have, with their ids."""
    if categories is None or isinstance(categories, Mapping):
        label_names("categories", categories)
    return CategoryNames.of(categories)


def checked_category_ids(category_ids: Any, labels: list[int]) -> dict[int, int]:
    """Return the user's category id of each label."""
    instance("category_ids", category_ids, Mapping, "a mapping of labels to category ids, such as {1: 0, 2: 7}")
    ids = {
        integer("a label of category_ids", label): integer(f"category_ids[{label!r}]", number)
        for label, number in category_ids.items()
    }
    missing = next((label for label in labels if label not in ids), None)
    if missing is not None:
        raise ValueError(f"category_ids must have an id for each label, got none for {missing}: {shown(category_ids)}.")
    return ids


def checked_areas(min_area: Any, max_area: Any) -> dict[str, float]:
    """Return those bounds of areas that are given, by name."""
    given = {name: area for name, area in (("min_area", min_area), ("max_area", max_area)) if area is not None}
    areas = {name: non_negative_number(name, area) for name, area in given.items()}
    if len(areas) == 2 and areas["min_area"] > areas["max_area"]:
        raise ValueError(f"min_area must not be greater than max_area, got {min_area} and {max_area}.")
    return areas


def checked_boxes(boxes: Any) -> np.ndarray:
    """Return boxes as finite corners, (n, 4) float32, that are not swapped."""
    corners = finite_boxes("boxes", boxes)
    swapped = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    refuse_rows("boxes", corners, swapped, "has swapped corners: boxes are (x1, y1, x2, y2) with x1 ≤ x2 and y1 ≤ y2")
    return corners


def checked_scores(scores: Any, num: int) -> Any:
    """Return n scores from 0 to 1."""
    array = numeric_array("scores", scores, f"numbers of shape ({num},), one for each box", shape=(num,))
    refuse_rows("scores", array, ~((array >= 0) & (array <= 1)), "must be from 0 to 1")
    return scores if isinstance(scores, Tensor) else array


def checked_labels(labels: Any, num: int) -> Any:
    """Return n labels from 1 on."""
    wanted = f"integers of shape ({num},), one for each box"
    array = numeric_array("labels", labels, wanted, kinds="iu", shape=(num,))
    wrong = (array < 1) | (array >= 2**31)
    refuse_rows("labels", array, wrong, "must be a label from 1 on; 0 is background, which is never returned")
    return labels if isinstance(labels, Tensor) else array


def checked_probs(probs: Any, num: int) -> Any:
    """Return probabilities (n, M, M)."""
    array = numeric_array("mask_probs", probs, f"numbers of shape ({num}, M, M)", shape=(num, None, None))
    if array.shape == (0, 0, 0):  # given as [], which has no cells
        return np.zeros((0, 1, 1), np.float32)
    if array.shape[1] != array.shape[2] or not array.shape[1]:
        raise ValueError(f"mask_probs must be numbers of shape ({num}, M, M), got {described(array)}.")
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
        row = int((~((array >= 0) & (array <= 1))).any((1, 2)).argmax())
        raise ValueError(
            f"mask_probs[{row}] must be probabilities from 0 to 1, got {array[row].min():g} to {array[row].max():g}: "
            "apply a sigmoid to logits."
        )
    return probs if isinstance(probs, Tensor) else array


def checked_image(image: Any, size: tuple[int, int]) -> np.ndarray:
    """Return a uint8 array (H, W, 3) of a size."""
    wanted = f"a uint8 array of shape ({size[0]}, {size[1]}, 3), as image_size says"
    array = numeric_array("image", image, wanted, kinds="biuf", shape=(*size, 3))
    if array.dtype != np.uint8:
        raise TypeError(f"image must be {wanted}, got {described(array)}.")
    return array


def checked_masks(masks: Any, num: int, size: Any) -> CompressedMasks:
    """Return n masks of the size of the image; by default it is that of the masks."""
    if size is None and not isinstance(masks, CompressedMasks):
        dense = numeric_array(
            "masks", masks, f"CompressedMasks, or zeros and ones of shape ({num}, H, W)", kinds="biuf"
        )
        if dense.ndim != 3:
            raise ValueError(f"masks must be of shape ({num}, H, W), got {described(dense)}.")
        size = dense.shape[1:]
    found = CompressedMasks.of(masks, masks.image_size if size is None else image_size("image_size", size))
    if len(found) != num:
        raise ValueError(f"masks must be one for each box, got {len(found)} masks for {num} boxes.")
    return found
