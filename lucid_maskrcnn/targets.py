"""The ground truth of an image, which training needs: checked once, before anything is computed.

Shapes: G objects of an image of H × W pixels. ``G = 0`` is an image without objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.array_arguments import finite_boxes, numeric_array, refuse_rows, zeros_and_ones
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import Size
from lucid_maskrcnn.masks import CompressedMasks, are_segmentations
from lucid_maskrcnn.ops import as_tensor, dtype_name
from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.transforms import resize_boxes, resize_masks
from lucid_maskrcnn.validators import instance, non_negative_int, pair, positive_int

__all__ = ["Target"]

_OUTWARDS = np.array([-1, -1, 1, 1], np.float32)
_TOLERANCE = 2  # pixels; boxes and masks of one object may be rounded differently
_FIT = 1.5  # pixels; how near another reading of a box must come to the one around its mask
_MIN_WITHIN = 0.5  # of a mask's pixels, in its box
_OVERHANG = 4  # pixels; a box may always stick out of its image by as much


@answers_wrong_calls
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

    __repr__ = fields_repr

    boxes: Tensor
    labels: Tensor
    masks: Tensor | CompressedMasks

    def __post_init__(self) -> None:
        instance("boxes", self.boxes, Tensor, "a tensor of shape (G, 4)")
        instance("labels", self.labels, Tensor, "a tensor of shape (G,)")
        instance("masks", self.masks, (Tensor, CompressedMasks), "CompressedMasks or a tensor of shape (G, H, W)")
        if not dtype_name(self.boxes).startswith("float"):
            raise TypeError(f"boxes must be a tensor of floats, got {dtype_name(self.boxes)}.")
        if not dtype_name(self.labels).startswith("int"):
            raise TypeError(f"labels must be a tensor of integers, got {dtype_name(self.labels)}.")
        if self.boxes.device != self.labels.device:
            raise ValueError(f"boxes are on {self.boxes.device}, labels on {self.labels.device}: move them together.")
        num = len(self.masks) if isinstance(self.masks, CompressedMasks) else self.masks.shape[0]
        if tuple(self.boxes.shape) != (num, 4) or tuple(self.labels.shape) != (num,):
            raise ValueError(
                f"Target must have one box and one label for each mask, got boxes of shape {tuple(self.boxes.shape)}, "
                f"labels of shape {tuple(self.labels.shape)} and {num} masks: Target.from_mapping makes and checks it."
            )

    @classmethod
    def from_mapping(
        cls,
        target: Mapping[str, Any],
        *,
        index: int,
        image_size: Size,
        num_classes: int,
    ) -> Target:
        """Check one element of ``get_loss``'s ``targets``.

        Parameters
        ----------
        target : Mapping
            With ``"boxes"`` (G, 4), ``"labels"`` (G,) and ``"masks"`` (G, H, W) as Lucid tensors,
            NumPy arrays or lists; ``[]`` for each where there is no object. Other keys are
            not read. Masks may also be :class:`~lucid_maskrcnn.masks.CompressedMasks`, or a list of what COCO
            annotations have as ``"segmentation"``: run-length encodings or lists of polygons; these are never
            decoded as a whole.
        index : int
            The image's position in the batch, for the messages.
        image_size : (height, width)
            Size of the image that the target belongs to.
        num_classes : int
            Classes without background.

        Returns
        -------
        Target
            On cpu: what it is compared with is chosen there.

        Raises
        ------
        TypeError
            If ``target`` is not a mapping, boxes or masks are not numbers, or the labels are not integers.
        ValueError
            If a key is missing, shapes or counts disagree, a number is not finite, a box has no area or lies more
            outside of the image than in it, a label is out of range, or a mask is not of zeros and ones, malformed,
            without a pixel, or more outside of its box than in it; boxes that are fractions of the image's sides, or
            (x, y, width, height), are told by their masks. The message names the image, the key and the row.
        """
        place = f"targets[{non_negative_int('index', index)}]"
        image_size, num_classes = pair("image_size", image_size, positive_int), positive_int("num_classes", num_classes)
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
        _check_masks_fit_boxes(masks, boxes, place)
        held = masks if isinstance(masks, CompressedMasks) else as_tensor(masks)
        return cls(as_tensor(boxes), as_tensor(labels), held)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    @property
    def image_size(self) -> Size:
        """(height, width) of the image that the masks cover and whose pixels the boxes are in."""
        if isinstance(self.masks, CompressedMasks):
            return self.masks.image_size
        return self.masks.shape[1], self.masks.shape[2]

    def resized(self, to_size: Size) -> Target:
        """Return the target of the same image at another size: masks by nearest pixel."""
        boxes = resize_boxes(self.boxes, self.image_size, to_size)
        if isinstance(self.masks, CompressedMasks):
            return Target(boxes, self.labels, self.masks.resized(to_size))
        return Target(boxes, self.labels, resize_masks(self.masks, to_size))


# ------------------------------------------------------------------ checks of each part


def _boxes(values: Any, place: str, image_size: Size) -> np.ndarray:
    boxes = finite_boxes(place, values)
    refuse_rows(
        place,
        boxes,
        (boxes[:, 2:] <= boxes[:, :2]).any(axis=1),
        "has no area: x2 must be greater than x1 and y2 than y1. "
        "Boxes are (x1, y1, x2, y2) in pixels; COCO files hold (x, y, width, height)",
    )
    height, width = image_size
    outside = (boxes[:, 2:] <= 0).any(axis=1) | (boxes[:, :2] >= (width, height)).any(axis=1)
    of = f"outside its image of {height} × {width} (height × width)"
    refuse_rows(place, boxes, outside, f"is {of}")
    limits = np.array([width, height, width, height], np.float32)
    inside = boxes.clip(0, limits)
    areas, visible = ((b[:, 2:] - b[:, :2]).astype(np.float64).prod(axis=1) for b in (boxes, inside))
    far = (np.abs(boxes - inside).max(axis=1, initial=0) > _OVERHANG) & (visible < areas / 2)
    refuse_rows(
        place, boxes, far, f"lies for the most part {of}: boxes are (x1, y1, x2, y2) in pixels, cut off at its edges"
    )
    return boxes


def _labels(values: Any, place: str, num_classes: int) -> np.ndarray:
    array = numeric_array(place, values, f"integers of shape (G,), 1 to {num_classes}", kinds="iu", shape=(None,))
    wrong = (array < 1) | (array > num_classes)
    refuse_rows(
        place,
        array,
        wrong,
        f"must be 1 to {num_classes}, the model's num_classes; background is 0 and has no objects",
    )
    return array.astype(np.int32)


def _masks(values: Any, place: str, image_size: Size) -> np.ndarray | CompressedMasks:
    if not isinstance(values, CompressedMasks) and not are_segmentations(values, image_size):
        return _dense_masks(values, place, image_size)
    try:
        return CompressedMasks.of(values, image_size)
    except ValueError as error:  # masks[2] … becomes targets[0]['masks'][2] …
        raise ValueError(f"{place}{str(error).removeprefix('masks')}") from error


def _dense_masks(values: Any, place: str, image_size: Size) -> np.ndarray:
    wanted = f"zeros and ones of the image's size, shape (G, {image_size[0]}, {image_size[1]})"
    array = numeric_array(place, values, wanted, kinds="biuf")
    if array.shape[:1] == (0,):
        return np.zeros((0, *image_size), bool)
    return zeros_and_ones(place, numeric_array(place, array, wanted, kinds="biuf", shape=(None, *image_size)))


# ------------------------------------------------------------------ masks against boxes


def _check_masks_fit_boxes(masks: np.ndarray | CompressedMasks, boxes: np.ndarray, place: str) -> None:
    """Refuse masks that cannot be those of their boxes: boxes in another unit or order, or of another object.

    Only what neither rounding nor a loose box explains is refused. A box may be larger than the one around its mask,
    which may have only what is visible of the object.
    """
    if not isinstance(masks, CompressedMasks):
        masks = CompressedMasks.from_dense(masks)
    areas, tight = masks.areas, masks.boxes
    if not areas.all():
        raise ValueError(
            f"{place}['masks'][{int(areas.argmin())}] has no pixel: leave an object without pixels out, with its box "
            "and its label."
        )
    some, most = (masks.areas_within(boxes + margin * _OUTWARDS) for margin in (1, _TOLERANCE))
    for row in np.flatnonzero((most < areas) | (some == 0)).tolist():
        reading = _reading(boxes[row], tight[row])
        if some[row] and most[row] >= _MIN_WITHIN * areas[row] and not reading:
            continue
        found = f"{most[row]} of its {areas[row]} pixels" if some[row] else "no pixel"
        given, around = (", ".join(f"{v:g}" for v in corners[row].tolist()) for corners in (boxes, tight))
        raise ValueError(
            f"{place}['masks'][{row}] has {found} in its box ({given}), and the box around it is ({around}){reading}: "
            "boxes are (x1, y1, x2, y2) in pixels of the image, in the order of the masks."
        )


def _reading(box: np.ndarray, tight: np.ndarray) -> str:
    """Return how a box must be read to be about the one around its mask, if that is not as it should be."""
    x, y, w, h = np.asarray(box, np.float64).tolist()
    if min(x, y) >= 0 and max(w, h) <= 1:
        return ", so that its numbers seem to be fractions of the image's sides"
    readings = {
        "(x, y, width, height)": (x, y, x + w, y + h),
        "(center x, center y, width, height)": (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
        "(y1, x1, y2, x2)": (y, x, h, w),
    }
    name = next((name for name, corners in readings.items() if np.abs(corners - tight).max() <= _FIT), None)
    return f", so that it seems to be {name}" if name else ""
