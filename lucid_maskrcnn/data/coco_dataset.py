"""Data sets of annotations in COCO's format: one JSON file of images, categories and objects.

Unusual annotations are treated as torchvision's detection references treat them: crowds and boxes without area
are not trained on, several polygons are joined, boxes are clipped to the image. Where the references would fail
in the middle of an epoch, the file is refused before training starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lucid_maskrcnn.annotation_formats.coco import complete_annotation, read_annotations
from lucid_maskrcnn.images import load_checked
from lucid_maskrcnn.validators import flag, path

from .coco_reader import Annotation, CocoReader
from .dataset import check_index
from .issues import raise_first_fatal
from .subsets import Subset

__all__ = ["CocoInstances"]

_MAX_SLIVER_SIDE = 1  # pixels; an object whose box is no wider or no higher than this is a sliver


class CocoInstances:
    """Images and their objects, from a file in COCO's format.

    ``dataset[i]`` is the image, a uint8 array (H, W, 3), and its target of G objects: ``"boxes"`` (G, 4) float32
    corners in pixels, ``"labels"`` (G,) int32, ``"masks"`` (:class:`~lucid_maskrcnn.masks.CompressedMasks`),
    ``"iscrowd"`` (G,) uint8, all zero, and ``"image_id"``. ``dataset[i:j]`` is a :class:`Subset`.

    Crowds and objects whose box has no area within the image are left out of the targets, as in torchvision's
    detection references, but not of :meth:`coco`. Boxes are the annotations' own, or around the mask if it has none.

    Parameters
    ----------
    images_dir : str or Path
        The folder to which ``file_name`` is relative.
    annotations : str, Path or mapping
        The JSON file, or its content.
    keep_empty : bool
        Whether images without objects stay. If not, images go too of which all objects are one pixel wide or high.
    categories : sequence of str, or mapping of int to str, optional
        Names of the categories wanted: labels are 1, 2, … in this order, or the mapping's keys. Objects of other
        categories are left out. By default all categories, in the order of their ids.

    Attributes
    ----------
    categories : dict of int to str
        Label -> name.
    category_ids : dict of int to int
        Label -> the id in the file.
    image_ids : list of int
    file_names : list of str
    sizes : list of (height, width)
        From the annotations, or from the image file if they have none.
    object_counts : list of int
        Number of objects of each image.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    ValueError
        If ``categories`` does not fit the file, the file is not in COCO's format, or it has a fatal issue: an image is
        missing, cannot be opened or has another size, an id is unknown or not unique, a segmentation is missing,
        malformed or of another size than its image, a number is not finite.
    """

    def __init__(
        self,
        images_dir: str | Path,
        annotations: str | Path | Mapping[str, Any],
        *,
        keep_empty: bool = True,
        categories: Sequence[str] | Mapping[int, str] | None = None,
    ) -> None:
        self.images_dir = path("images_dir", images_dir)
        keep_empty = flag("keep_empty", keep_empty)
        reader = CocoReader(read_annotations(annotations), self.images_dir, categories)
        is_file = not isinstance(annotations, Mapping)
        raise_first_fatal(repr(str(annotations)) if is_file else "the annotations", reader.issues)
        self.source = path("annotations", annotations).absolute() if is_file else annotations
        self.categories, self.category_ids = reader.categories, reader.category_ids
        self._images = [i for i in reader.images if keep_empty or not all(map(_is_sliver, i.objects))]
        self.image_ids = [image.id for image in self._images]
        self.file_names = [image.file_name for image in self._images]
        self.sizes = [image.size for image in self._images]
        self.object_counts = [len(image.objects) for image in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def __repr__(self) -> str:
        return (
            f"CocoInstances({len(self)} images, {sum(self.object_counts)} objects, {len(self.categories)} categories)"
        )

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Subset(self, range(len(self))[index])
        annotated = self._images[check_index(index, len(self))]
        pixels = load_checked(self.images_dir / annotated.file_name, annotated.size, "the annotations say")
        return pixels, annotated.target()

    def coco(self) -> dict[str, Any]:
        """Return the annotations in COCO's format, as an evaluation needs them.

        They have the images of this data set and the annotations of its categories, crowds among them; missing
        ``"area"``, ``"bbox"`` and ``"iscrowd"`` are computed.
        """
        source = read_annotations(self.source)
        images, categories = set(self.image_ids), set(self.category_ids.values())
        sizes = dict(zip(self.image_ids, self.sizes, strict=True))
        annotations = [
            complete_annotation(a, sizes[a["image_id"]])
            for a in source["annotations"]
            if a["image_id"] in images and a["category_id"] in categories
        ]
        return {
            "images": [
                {**i, "height": sizes[i["id"]][0], "width": sizes[i["id"]][1]}
                for i in source["images"]
                if i["id"] in images
            ],
            "annotations": annotations,
            "categories": [c for c in source["categories"] if c["id"] in categories],
        }


def _is_sliver(annotation: Annotation) -> bool:
    if annotation.box is None:
        return False
    x1, y1, x2, y2 = annotation.box
    return min(x2 - x1, y2 - y1) <= _MAX_SLIVER_SIDE
