"""What a network is taught about an image: checked once, before anything is computed.

Shapes: G objects of an image of H × W pixels. ``G = 0`` is an image without objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.images import Size
from lucid_maskrcnn.masks import CompressedMasks, are_segmentations
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.transforms import resize_boxes, resize_masks

__all__ = ["Target"]


@dataclass(frozen=True, eq=False)
class Target:
    """The objects of one image.

    Attributes
    ----------
    boxes : Tensor of shape (G, 4), float32
        (x1, y1, x2, y2) in pixels of the image that the masks cover.
    labels : Tensor of shape (G,), int32
        1 to ``num_classes``; 0 would be background.
    masks : Tensor of shape (G, H, W), bool, or CompressedMasks
        The pixels of each object. Compressed ones stay so, through :meth:`resized` as well.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | CompressedMasks

    @classmethod
    def from_mapping(
        cls,
        target: Mapping[str, Any],
        *,
        index: int,
        image_size: Size,
        num_classes: int,
        device: str = "cpu",
    ) -> Target:
        """Check one element of ``get_loss``'s ``targets``.

        Parameters
        ----------
        target : Mapping
            With ``"boxes"`` (G, 4), ``"labels"`` (G,) and ``"masks"`` (G, H, W) as Lucid tensors,
            NumPy arrays or lists. ``[]`` will do for each where there is no object. Other keys are
            not read. Masks may also be :class:`~lucid_maskrcnn.masks.CompressedMasks`, or a list of what COCO
            annotations have as ``"segmentation"``: run-length encodings or lists of polygons; then no stack of
            masks is made.
        index : int
            The image's place in the batch, for the messages.
        image_size : (height, width)
            Size of the image that the target belongs to.
        num_classes : int
            Classes without background.
        device : {"cpu", "gpu"}
            Where the tensors are to be.

        Returns
        -------
        Target

        Raises
        ------
        TypeError
            If ``target`` is not a mapping or the labels are not integers.
        ValueError
            If a key is missing, shapes or counts disagree, a number is not finite, a box has no area
            or lies wholly outside the image, a label is out of range or a mask is not of zeros and
            ones or malformed. The message names the image, the key and the row.
        """
        place = f"targets[{index}]"
        if not isinstance(target, Mapping):
            raise TypeError(
                f"{place} must be a mapping with 'boxes', 'labels' and 'masks', got {type(target).__name__}."
            )
        missing = [key for key in ("boxes", "labels", "masks") if key not in target]
        if missing:
            raise ValueError(f"{place} has no {' and no '.join(map(repr, missing))}: it has {list(target)}.")
        boxes = _boxes(target["boxes"], f"{place}['boxes']", image_size)
        labels = _labels(target["labels"], f"{place}['labels']", num_classes)
        masks = _masks(target["masks"], f"{place}['masks']", image_size)
        if not len(boxes) == len(labels) == len(masks):
            raise ValueError(
                f"{place} must have one label and one mask for each box, got {len(boxes)} boxes, "
                f"{len(labels)} labels and {len(masks)} masks."
            )
        held = masks if isinstance(masks, CompressedMasks) else as_tensor(masks, device)
        return cls(as_tensor(boxes, device), as_tensor(labels, device), held)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    @property
    def image_size(self) -> Size:
        """(height, width) of the image that boxes and masks are measured in."""
        if isinstance(self.masks, CompressedMasks):
            return self.masks.image_size
        return self.masks.shape[1], self.masks.shape[2]

    def resized(self, to_size: Size) -> Target:
        """Return the target of the same image at another size: masks by nearest pixel."""
        boxes = resize_boxes(self.boxes, self.image_size, to_size)
        if isinstance(self.masks, CompressedMasks):
            return Target(boxes, self.labels, self.masks.resized(to_size))
        return Target(boxes, self.labels, resize_masks(self.masks, to_size))


def _array(values: Any, place: str) -> np.ndarray:
    if isinstance(values, Tensor):
        return host(values)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{place} must be an array, got rows of different lengths.") from error


def _boxes(values: Any, place: str, image_size: Size) -> np.ndarray:
    array = _array(values, place)
    if array.shape == (0,):
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iuf":
        raise ValueError(f"{place} must be numbers of shape (G, 4), got {array.dtype} of shape {array.shape}.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported as that
        boxes = array.astype(np.float32)
    _refuse(~np.isfinite(boxes).all(1), boxes, place, "is not finite")
    _refuse(
        (boxes[:, 2:] <= boxes[:, :2]).any(1),
        boxes,
        place,
        "has no area: x2 must be greater than x1 and y2 than y1. "
        "Boxes are (x1, y1, x2, y2) in pixels; COCO files hold (x, y, width, height)",
    )
    height, width = image_size
    outside = (boxes[:, 2:] <= 0).any(1) | (boxes[:, :2] >= (width, height)).any(1)
    _refuse(outside, boxes, place, f"lies wholly outside its image of {height} × {width} (height × width)")
    return boxes


def _refuse(bad: np.ndarray, boxes: np.ndarray, place: str, what: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        box = ", ".join(f"{v:g}" for v in boxes[row].tolist())
        raise ValueError(f"{place}[{row}] = ({box}) {what}.")


def _labels(values: Any, place: str, num_classes: int) -> np.ndarray:
    array = _array(values, place)
    if array.ndim != 1:
        raise ValueError(f"{place} must have shape (G,), got {array.shape}.")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{place} must be integers, 1 to {num_classes}, got {array.dtype}.")
    bad = (array < 1) | (array > num_classes)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{place}[{row}] = {array[row]} must be 1 to {num_classes}, the model's num_classes; "
            "background is 0 and is not labelled."
        )
    return array.astype(np.int32)


def _masks(values: Any, place: str, image_size: Size) -> np.ndarray | CompressedMasks:
    if not isinstance(values, CompressedMasks) and not are_segmentations(values, image_size):
        return _dense_masks(values, place, image_size)
    try:
        return CompressedMasks.of(values, image_size)
    except ValueError as error:
        raise ValueError(
            f"{place}{str(error).removeprefix('masks')}"
        ) from error  # masks[2] … -> targets[0]['masks'][2]


def _dense_masks(values: Any, place: str, image_size: Size) -> np.ndarray:
    array = _array(values, place)
    if array.shape[:1] == (0,):
        return np.zeros((0, *image_size), bool)
    if array.ndim != 3 or array.shape[1:] != image_size or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{place} must be of zeros and ones and of the image's size, shape (G, {image_size[0]}, "
            f"{image_size[1]}), got {array.dtype} of shape {array.shape}."
        )
    if array.dtype == bool:
        return array
    masks = array != 0
    odd = masks & (array != 1)
    if odd.any():
        row = int(odd.any((1, 2)).argmax())
        value = array[row][odd[row]][0]
        raise ValueError(f"{place}[{row}] must be of zeros and ones, got {value}: pass masks > 0, say.")
    return masks
