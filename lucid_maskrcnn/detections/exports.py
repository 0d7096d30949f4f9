"""Detections as data of other forms: NumPy, COCO's results, and what other tools read.

Shapes: n detections, H × W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.annotation_formats.coco import make_results
from lucid_maskrcnn.atomic import write_json
from lucid_maskrcnn.config import CategoryNames
from lucid_maskrcnn.masks import CompressedMasks, trace_polygons
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.validators import integer
from lucid_maskrcnn.validators import path as checked_path

from .detection_arguments import checked_category_ids

__all__ = ["DetectionExports"]


class DetectionExports:
    """What :class:`Detections` can be turned into. In every form the number of an object is its row + 1.

    The attributes are those of :class:`Detections`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image_size: tuple[int, int]
    categories: CategoryNames | None
    image: np.ndarray | None

    @property
    def masks(self) -> Tensor:
        """Masks of the size of the image, (n, H, W) bool."""
        raise NotImplementedError

    @property
    def compressed_masks(self) -> CompressedMasks:
        """The masks as runs of pixels."""
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        """Category names of the detections; ``"class 7"`` for a label without one."""
        categories: Mapping[int, str] = self.categories or {}
        return [categories.get(label, f"class {label}") for label in host(self.labels).tolist()]

    @property
    def ids(self) -> np.ndarray:
        """Numbers of the detections, 1 to n, (n,) int64: their ids in everything that is exported from these."""
        return np.arange(1, self.boxes.shape[0] + 1)

    @property
    def category_ids(self) -> np.ndarray:
        """Ids of the detections' categories in the data set that the model was trained on, (n,) int64.

        Raises
        ------
        ValueError
            If a label has no category, and is the id of another one.
        """
        return np.array(self._category_ids(None), np.int64)

    def _category_ids(self, given: Mapping[int, int] | None) -> list[int]:
        labels = host(self.labels).tolist()
        if given is not None:
            chosen = checked_category_ids(given, labels)
            return [chosen[label] for label in labels]
        ids = self.categories.ids if self.categories else {}
        for label in labels:
            if label not in ids and label in ids.values():
                raise ValueError(
                    f"Label {label} has no category, and {label} is the id of another one: give the detections "
                    "categories with that label, or pass category_ids."
                )
        return [ids.get(label, label) for label in labels]

    def numpy(self) -> dict[str, np.ndarray]:
        """Return the four tensors as NumPy arrays of their own: what is written into them changes nothing here."""
        columns = {key: host(getattr(self, key)).copy() for key in ("boxes", "scores", "labels")}
        return {**columns, "masks": self.compressed_masks.to_dense()}

    def _each_mask(self) -> Iterator[np.ndarray]:
        """Yield the mask of each detection, (H, W) bool."""
        masks = self.compressed_masks
        for i in range(len(masks)):
            yield masks.decode(i)

    def to_rle(self) -> list[dict[str, Any]]:
        """Return each mask as a compressed COCO run-length encoding, ``{"size", "counts"}``."""
        return self.compressed_masks.to_rle()

    def to_polygons(self) -> list[list[list[float]]]:
        """Return each mask as COCO polygons.

        Returns
        -------
        list of list of list of float
            For each detection one ring ``[x, y, x, y, ...]`` for each part of its mask, clockwise
            along the edges of its pixels; none for an empty mask. COCO's polygons cannot have holes,
            so holes are filled: :meth:`to_rle` keeps them. Parts that touch at a corner
            only are separate parts.
        """
        return [trace_polygons(mask) for mask in self._each_mask()]

    def to_coco(self, image_id: int, *, category_ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """Return the detections as COCO results.

        Parameters
        ----------
        image_id : int
            The image's id in the ground truth.
        category_ids : mapping of int to int, optional
            The category id of each label, by default that of the data set that the model was trained on
            (:attr:`category_ids`).

        Returns
        -------
        list of dict
            ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score`` and ``segmentation`` (compressed
            run lengths), for ``json.dump`` and pycocotools' ``loadRes``.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or a label has no category id.
        """
        return make_results(
            image_id=integer("image_id", image_id),
            category_ids=self._category_ids(category_ids),
            boxes=host(self.boxes),
            scores=host(self.scores).tolist(),
            segmentations=self.to_rle(),
        )

    def to_json(self, path: str | Path, image_id: int, *, category_ids: Mapping[int, int] | None = None) -> None:
        """Write :meth:`to_coco` to a file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            An existing file is replaced once all is written.
        image_id, category_ids
            As for :meth:`to_coco`.
        """
        write_json(checked_path("path", path), self.to_coco(image_id, category_ids=category_ids))
