"""The ground truth of a data set: its categories, and its annotations in COCO's format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.annotation_formats.coco import make_annotations
from lucid_maskrcnn.data.dataset import load_pair
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.targets import Target
from lucid_maskrcnn.validators import instance, integer, positive_int, shown

from .category_mapping import brief, category_ids_of
from .coco_results import check_masks, complete

__all__ = ["GroundTruth"]


class GroundTruth:
    """The categories and annotations of a data set.

    The annotations are the data set's own if it has ``coco()``. Otherwise they are made of its targets. :meth:`read`
    must be called before :meth:`coco`.

    Parameters
    ----------
    dataset : sequence of (image, target)
    model : MaskRCNN
        Its categories are used if the data set has none.

    Raises
    ------
    ValueError
        If there is no image, an image id is not unique, or attributes of the data set contradict each other.
    """

    def __init__(self, dataset: Any, model: Any) -> None:
        count = len(dataset)
        if not count:
            raise ValueError("dataset must have at least one image, got none.")
        names = getattr(dataset, "categories", None) or getattr(model, "categories", None)
        num_classes = getattr(model, "num_classes", 1)
        self.categories: dict[int, str] = dict(names or {n: f"class {n}" for n in range(1, num_classes + 1)})
        self.named = names is not None
        self.category_ids: dict[int, int] = dict(getattr(dataset, "category_ids", {n: n for n in self.categories}))
        self.image_ids: list[int] = np.asarray(getattr(dataset, "image_ids", range(1, count + 1))).tolist()
        self.file_names: list[str] = list(getattr(dataset, "file_names", map(str, self.image_ids)))
        self._check(count)
        self._dataset = dataset
        self._coco = complete(dataset.coco(), ["segm"]) if hasattr(dataset, "coco") else None
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def _check(self, count: int) -> None:
        missing = [label for label in self.categories if label not in self.category_ids]
        if missing:
            raise ValueError(f"dataset.category_ids must have all labels of dataset.categories, not {missing[0]!r}.")
        for name, values in (("image_ids", self.image_ids), ("file_names", self.file_names)):
            if len(values) != count:
                raise ValueError(f"dataset.{name} must have one entry for each of {count} images, got {len(values)}.")
        if len(set(self.image_ids)) < count:
            twice = next(i for i, times in Counter(self.image_ids).items() if times > 1)
            raise ValueError(f"dataset.image_ids must have each id once, got {twice!r} twice.")

    def label_ids(self, model: Any, category_ids: Mapping[int, int] | None) -> dict[int, int]:
        """Return the category id of each of the model's labels.

        Parameters
        ----------
        model : MaskRCNN
        category_ids : mapping of int to int, optional
            The user's choice, which is checked. By default names decide.
        """
        if category_ids is not None:
            return self._check_category_ids(model, category_ids)
        return category_ids_of(model, self.categories, self.category_ids) if self.named else self.category_ids

    def _check_category_ids(self, model: Any, category_ids: Any) -> dict[int, int]:
        instance("category_ids", category_ids, Mapping, "a mapping of the model's labels to category ids")
        ids = {
            positive_int("A label of category_ids", label): integer(f"category_ids[{label!r}]", number)
            for label, number in category_ids.items()
        }
        if not ids:
            raise ValueError("category_ids must have at least one label.")
        labels = getattr(model, "categories", None) or range(1, getattr(model, "num_classes", max(ids)) + 1)
        for label, number in ids.items():
            if label not in labels:
                raise ValueError(
                    f"category_ids has the label {label}, which the model does not have: it has {shown([*labels])}."
                )
            if number not in self.category_ids.values():
                known = shown(sorted(self.category_ids.values()))
                raise ValueError(f"category_ids[{label}] must be a category id of the data set, {known}, got {number}.")
        return ids

    def read(self) -> None:
        """Read the targets of a data set without annotations of its own, and check the masks of the others.

        Raises
        ------
        TypeError, ValueError
            If there is a fault that an evaluation would stop at when the work is done.
        """
        if self._coco is not None:
            check_masks(self._coco, [])
            return
        for index in range(len(self._dataset)):
            image, target = load_pair(self._dataset, index)
            height, width = load_image(image).shape[:2]
            self._collect(index, target, (height, width))

    def _collect(self, index: int, target: Mapping[str, Any], size: tuple[int, int]) -> None:
        """Add the annotations of an image's target."""
        image_id = self.image_ids[index]
        self._images.append({"id": image_id, "file_name": self.file_names[index], "height": size[0], "width": size[1]})
        checked = Target.from_mapping(target, index=index, image_size=size, num_classes=max(self.categories, default=0))
        masks = CompressedMasks.of(checked.masks, size)
        labels = host(checked.labels).tolist()
        unknown = next((label for label in labels if label not in self.category_ids), None)
        if unknown is not None:
            raise ValueError(f"dataset[{index}] has the label {unknown}, which dataset.categories does not have.")
        iscrowd = target.get("iscrowd", np.zeros(len(masks)))
        iscrowd = host(iscrowd) if isinstance(iscrowd, Tensor) else np.asarray(iscrowd)
        if iscrowd.shape != (len(masks),):
            raise ValueError(
                f"dataset[{index}] must have one iscrowd for each of {len(masks)} objects, got shape {iscrowd.shape}."
            )
        self._annotations += make_annotations(
            masks,
            image_id=image_id,
            category_ids=[self.category_ids[label] for label in labels],
            first_id=len(self._annotations) + 1,
            boxes=host(checked.boxes),
            iscrowd=iscrowd.astype(bool).tolist(),
        )

    def coco(self) -> dict[str, Any]:
        """Return the annotations."""
        if self._coco is not None:
            return self._coco
        categories = [{"id": self.category_ids[label], "name": name} for label, name in self.categories.items()]
        return {"images": self._images, "annotations": self._annotations, "categories": categories}

    def notes(self, model: Any, ids: Mapping[int, int]) -> list[str]:
        """Say which of the model's categories are left out."""
        others = [name for label, name in (getattr(model, "categories", None) or {}).items() if label not in ids]
        if not others:
            return []
        return [f"Detections of categories that the data set does not have are left out: {brief(others)}."]
