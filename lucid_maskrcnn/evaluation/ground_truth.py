"""A data set as an evaluation sees it: COCO annotations, and what its labels are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import make_annotations
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.targets import Target

from .category_mapping import brief, category_ids_of
from .coco_results import complete

__all__ = ["GroundTruth"]


class GroundTruth:
    """A data set's ids and names, and its annotations: its own, or made of the targets as they come by.

    Parameters
    ----------
    dataset : sequence of (image, target)
    model : MaskRCNN
        Its categories are taken if the data set has none.

    Raises
    ------
    ValueError
        If there is no image, or one comes twice.
    """

    def __init__(self, dataset: Any, model: Any) -> None:
        names = getattr(dataset, "categories", None) or getattr(model, "categories", None)
        count = getattr(model, "num_classes", 1)
        self.categories: dict[int, str] = dict(names or {n: f"class {n}" for n in range(1, count + 1)})
        self.named = names is not None
        self.category_ids: dict[int, int] = dict(getattr(dataset, "category_ids", {n: n for n in self.categories}))
        self.image_ids: list[int] = np.asarray(getattr(dataset, "image_ids", range(1, len(dataset) + 1))).tolist()
        if not self.image_ids:
            raise ValueError("dataset must have at least one image, got none.")
        self.file_names: list[str] = list(getattr(dataset, "file_names", map(str, self.image_ids)))
        if len(set(self.image_ids)) < len(self.image_ids):
            raise ValueError("dataset must have each image once, but an image id comes twice.")
        self._truth = complete(dataset.coco(), ["segm"]) if hasattr(dataset, "coco") else None
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def category_ids_of(self, model: Any) -> dict[int, int]:
        """Return the category id of each of the model's labels."""
        return category_ids_of(model, self.categories, self.category_ids) if self.named else self.category_ids

    def checked(self, ids: Mapping[int, int]) -> dict[int, int]:
        """Return ids that the user gave, if the data have them."""
        unknown = sorted(set(ids.values()) - set(self.category_ids.values()))
        if unknown:
            raise ValueError(f"category_ids must be ids of the data, {self.category_ids}, got {unknown[0]!r}.")
        return dict(ids)

    def collect(self, index: int, target: Mapping[str, Any], size: tuple[int, int]) -> None:
        """Take an image's target into the annotations, unless the data set has some."""
        if self._truth is not None:
            return
        image_id = self.image_ids[index]
        self._images.append({"id": image_id, "file_name": self.file_names[index], "height": size[0], "width": size[1]})
        checked = Target.from_mapping(target, index=index, image_size=size, num_classes=max(self.categories, default=0))
        masks = checked.masks if isinstance(checked.masks, CompressedMasks) else CompressedMasks.of(checked.masks, size)
        self._annotations += make_annotations(
            masks,
            image_id=image_id,
            category_ids=[self.category_ids[label] for label in host(checked.labels).tolist()],
            first_id=len(self._annotations) + 1,
            boxes=host(checked.boxes),
            iscrowd=np.asarray(target.get("iscrowd", np.zeros(len(masks))), bool).tolist(),
        )

    def truth(self) -> dict[str, Any]:
        """Return the annotations; those made of targets when all have come by."""
        if self._truth is not None:
            return self._truth
        categories = [{"id": self.category_ids[label], "name": name} for label, name in self.categories.items()]
        return {"images": self._images, "annotations": self._annotations, "categories": categories}

    def notes(self, model: Any, ids: Mapping[int, int]) -> list[str]:
        """Say which of the model's categories are left out."""
        others = [name for label, name in (getattr(model, "categories", None) or {}).items() if label not in ids]
        if not others:
            return []
        return [f"Detections of categories that the data do not have are left out: {brief(others)}."]
