"""Data sets of annotations in COCO's format: one JSON file of images, categories and objects.

What counts as an object is said once, in :mod:`lucid_maskrcnn.data.coco_reader`. Where the references would fail in the
middle of an epoch, the file is refused before training starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import bboxes_of, read_annotations
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import load_checked
from lucid_maskrcnn.reprs import described
from lucid_maskrcnn.text_tables import count_of
from lucid_maskrcnn.validators import choice, flag, path, reading

from .coco_reader import AnnotatedImage, Annotation, CocoReader
from .dataset import check_index
from .issues import Issue, raise_first_fault, warn_of_left_out
from .opened_images import issues_of_files
from .subsets import Subset

__all__ = ["CocoInstances"]

_MAX_SLIVER_SIDE = 1  # pixels; an object whose box is no wider or no higher than this is a sliver


@answers_wrong_calls
class CocoInstances:
    """Images and their objects, from a file in COCO's format.

    ``dataset[i]`` is the image, a uint8 array (H, W, 3), and its target of G objects: ``"boxes"`` (G, 4) float32
    corners in pixels, ``"labels"`` (G,) int32, ``"masks"`` (:class:`~lucid_maskrcnn.masks.CompressedMasks`),
    ``"iscrowd"`` (G,) uint8, all zero, and ``"image_id"``. ``dataset[i:j]`` is a :class:`Subset`.

    Targets and :meth:`coco` have the same objects. Crowds are none: targets are without them, and an evaluation ignores
    what lies on them. Objects whose mask has no pixel within the image are left out of both. Boxes are the annotations'
    own where they fit the mask to a pixel, and otherwise those around the masks. A category without objects that
    others have as their supercategory is no class.

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
    on_fault : {"stop", "skip"}
        What a fault does: ``"stop"`` raises, ``"skip"`` leaves out the annotation or image, which ``issues`` has. An
        object that is left out of an image is background to training.
    open_images : bool
        Whether every image is decoded now, so that a file that is cut off is not found in the middle of an epoch. By
        default only the beginning of each file is read, which its size needs.
    channels, intensity
        How images are read that have not three channels of 8 bits, as in
        :func:`~lucid_maskrcnn.images.load_image`. Give the ``intensity`` of the model,
        ``model.config.image.intensity``.
    progress : bool
        Whether ``open_images`` shows a progress bar, on a terminal or in a notebook.

    Attributes
    ----------
    categories : dict of int to str
        Label -> name.
    category_ids : dict of int to int
        Label -> the id in the file.
    image_ids : list of int
        Id of each image in the file, in the order of the data set.
    file_names : list of str
        File name of each image, relative to ``images_dir``.
    sizes : list of (height, width)
        From the annotations, or from the image file if they have none.
    object_counts : list of int
        Number of objects of each image.
    category_counts : dict of str to int
        Number of objects of each category.
    issues : list of Issue
        What is wrong with the annotations; faults only if they were skipped.
    num_listed : int
        Images that the file has, with those that were left out.
    num_crowds, num_left_out : int
        Crowds, and annotations that were left out, of an image too.
    reader : CocoReader
        What has read the file; :func:`validate` goes on with it.

    Warns
    -----
    UserWarning
        If an image or an annotation is left out: skipped for a fault, or without a pixel.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    ValueError
        If ``categories`` does not fit the file or the file is not in COCO's format.
    DataFaultError
        A ``ValueError``: if the file has a fault and ``on_fault`` is ``"stop"``. An image is missing, outside the
        folder, cannot be opened or has another size, an id is unknown or not unique, a segmentation is missing,
        malformed, outside its image or of another size.
    """

    def __init__(
        self,
        images_dir: str | Path,
        annotations: str | Path | Mapping[str, Any],
        *,
        keep_empty: bool = True,
        categories: Sequence[str] | Mapping[int, str] | None = None,
        on_fault: str = "stop",
        open_images: bool = False,
        channels: int | Sequence[int] | None = None,
        intensity: str | Sequence[float] | None = None,
        progress: bool = True,
    ) -> None:
        self.images_dir = path("images_dir", images_dir)
        self._read = reading(channels, intensity)
        keep_empty, open_images = flag("keep_empty", keep_empty), flag("open_images", open_images)
        choice("on_fault", on_fault, ("stop", "skip"))
        progress = flag("progress", progress)
        content = read_annotations(annotations)
        reader = CocoReader(content, self.images_dir, categories)
        readable = [image for image in reader.images if image.id not in reader.unopened]
        self.issues: list[Issue] = list(reader.issues)
        if open_images:
            readable = self._opened(readable, progress)
        name = "the annotations" if isinstance(annotations, Mapping) else repr(str(annotations))
        if on_fault == "stop":
            raise_first_fault(name, self.issues)
        self.reader = reader
        self.categories, self.category_ids = reader.categories, reader.category_ids
        self._category_entries = reader.category_entries
        self._images = [i for i in readable if keep_empty or not all(map(_is_sliver, i.objects))]
        self.num_listed, self.num_crowds = len(content["images"]), sum(len(image.crowds) for image in self._images)
        self.num_left_out = reader.num_wanted - sum(len(image.annotations) for image in readable)
        warn_of_left_out(name, self.num_listed - len(readable), self.num_left_out)
        self.image_ids = [image.id for image in self._images]
        self.file_names = [image.file_name for image in self._images]
        self.sizes = [image.size for image in self._images]
        self.object_counts = [len(image.objects) for image in self._images]

    def _opened(self, images: list[AnnotatedImage], progress: bool) -> list[AnnotatedImage]:
        """Return the images that can be decoded, and add the issues of the others."""
        files = [(i.place, self.images_dir / i.file_name, i.size, i.said_by) for i in images]
        found = issues_of_files(files, progress, self._read)
        self.issues += [issue for issues in found for issue in issues]
        return [i for i, issues in zip(images, found, strict=True) if not any(issue.fatal for issue in issues)]

    @property
    def category_counts(self) -> dict[str, int]:
        """Number of objects of each category, by name."""
        labels = Counter(a.label for image in self._images for a in image.objects)
        return {name: labels[label] for label, name in self.categories.items()}

    def __len__(self) -> int:
        return len(self._images)

    @described
    def __repr__(self) -> str:
        lost = f", without {count_of(self.num_left_out, 'annotation')}" if self.num_left_out else ""
        categories = f"{len(self.categories)} categories"
        return f"CocoInstances({len(self)} images, {sum(self.object_counts)} objects, {categories}{lost})"

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Subset(self, range(len(self))[index])
        annotated = self._images[check_index(index, len(self))]
        file = self.images_dir / annotated.file_name
        pixels = load_checked(file, annotated.size, "the annotations say", **self._read)
        return pixels, annotated.target()

    def coco(self) -> dict[str, Any]:
        """Return the annotations in COCO's format, as an evaluation needs them.

        They are those that were read when the data set was made, whatever the file has become. They have the images of
        this data set and the annotations of its categories, crowds among them, with further keys of the file; an
        ``"area"``, ``"bbox"`` or ``"iscrowd"`` that is missing or cannot be used is computed.
        """
        images = [
            {"id": i.id, "file_name": i.file_name, "height": i.size[0], "width": i.size[1], **i.extra}
            for i in self._images
        ]
        annotations = [_entry(a, image.id) for image in self._images for a in image.annotations]
        return {"images": images, "annotations": annotations, "categories": list(self._category_entries)}


def _entry(annotation: Annotation, image_id: int) -> dict[str, Any]:
    """Return an annotation as it stands in a file."""
    bbox, segmentation = annotation.bbox, annotation.segmentation
    if isinstance(segmentation, list):
        segmentation = [polygon.tolist() for polygon in segmentation]
    elif isinstance(segmentation.get("counts"), np.ndarray):
        segmentation = {**segmentation, "counts": segmentation["counts"].tolist()}
    return {
        "id": annotation.id,
        "image_id": image_id,
        "category_id": annotation.category_id,
        "bbox": bboxes_of(np.array([annotation.box]))[0] if bbox is None else list(bbox),
        "area": annotation.area,
        "iscrowd": int(annotation.crowd),
        "segmentation": segmentation,
        **annotation.extra,
    }


def _is_sliver(annotation: Annotation) -> bool:
    if annotation.box is None:
        return False
    x1, y1, x2, y2 = annotation.box
    return min(x2 - x1, y2 - y1) <= _MAX_SLIVER_SIDE
