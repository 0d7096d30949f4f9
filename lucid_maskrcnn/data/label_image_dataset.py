"""Data sets of label images: the pixels of each instance have a number of their own."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats import label_images
from lucid_maskrcnn.annotation_formats.coco import make_annotations
from lucid_maskrcnn.images import SUFFIXES, Size, load_checked, size_mismatch, size_on_disk
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.validators import path, text

from .dataset import check_index
from .issues import Issue, cannot_be_used, raise_first_fatal
from .subsets import Subset

__all__ = ["LabelImages"]


class LabelImages:
    """Images and label images of the same names, in two folders: ``cells/a.jpg`` and ``labels/a.png``.

    A label image has one channel of integers, 0 for background and another number for each instance: a PNG or TIFF
    of 8, 16 or 32 bits, a PNG with a palette, whose indices are read, or an array (H, W) in an ``.npy`` file. Items
    are like those of :class:`CocoInstances`, with boxes around the masks; all objects are of one category.

    Parameters
    ----------
    images_dir, labels_dir : str or Path
        Their files are paired by name without suffix; files that are no images are ignored.
    category : str
        Name of the category of all objects.

    Attributes
    ----------
    categories, category_ids : dict
        ``{1: category}`` and ``{1: 1}``.
    image_ids : list of int
        1, 2, … in the order of the file names.
    file_names : list of str
    sizes : list of (height, width)
    object_counts : list of int
        Number of objects of each image; the first access reads all label images.

    Raises
    ------
    ValueError
        If a folder does not exist or has no images, or an image has no label image or several, or one of another
        size.
    """

    def __init__(self, images_dir: str | Path, labels_dir: str | Path, *, category: str = "object") -> None:
        self.images_dir, self.labels_dir = path("images_dir", images_dir), path("labels_dir", labels_dir)
        category = text("category", category)
        pairs, issues = pair_files(self.images_dir, self.labels_dir)
        raise_first_fatal(repr(str(self.images_dir)), issues)
        self._labels = [label for _, label in pairs]
        self.file_names = [image.name for image, _ in pairs]
        self.image_ids = list(range(1, len(pairs) + 1))
        self.sizes = [size_on_disk(image)[0] for image, _ in pairs]
        raise_first_fatal(repr(str(self.images_dir)), _issues_of_sizes(pairs, self.sizes))
        self.categories, self.category_ids = {1: category}, {1: 1}

    def __len__(self) -> int:
        return len(self._labels)

    def __repr__(self) -> str:
        return f"LabelImages({len(self)} images, category {self.categories[1]!r})"

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Subset(self, range(len(self))[index])
        index = check_index(index, len(self))
        masks = self._masks(index)
        image = load_checked(self.images_dir / self.file_names[index], masks.image_size, "its label image has")
        target = {
            "boxes": masks.boxes,
            "labels": np.ones(len(masks), np.int32),
            "masks": masks,
            "iscrowd": np.zeros(len(masks), np.uint8),
            "image_id": self.image_ids[index],
        }
        return image, target

    def _masks(self, index: int) -> CompressedMasks:
        return CompressedMasks.from_labels(label_images.read_label_image(self._labels[index]))

    @cached_property
    def object_counts(self) -> list[int]:
        """Number of objects of each image."""
        return [len(self._masks(i)) for i in range(len(self))]

    def coco(self) -> dict[str, Any]:
        """Return the annotations in COCO's format, as an evaluation needs them; reads all label images."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i, (image_id, name, (height, width)) in enumerate(
            zip(self.image_ids, self.file_names, self.sizes, strict=True)
        ):
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            masks = self._masks(i)
            annotations += make_annotations(
                masks, image_id=image_id, category_ids=[1] * len(masks), first_id=len(annotations) + 1
            )
        categories = [{"id": 1, "name": self.categories[1]}]
        return {"images": images, "annotations": annotations, "categories": categories}


def pair_files(images_dir: Path, labels_dir: Path) -> tuple[list[tuple[Path, Path]], list[Issue]]:
    """Return the images with their label images, and the issues of the others."""
    issues = [
        Issue("the folder", f"{str(folder)!r} does not exist")
        for folder in (images_dir, labels_dir)
        if not folder.is_dir()
    ]
    if issues:
        return [], issues
    images, labels = _by_stem(images_dir, SUFFIXES), _by_stem(labels_dir, label_images.SUFFIXES)
    if not images:
        return [], [Issue("the folder", f"{str(images_dir)!r} has no images ({', '.join(sorted(SUFFIXES))})")]
    pairs = []
    for stem in sorted(images | labels):
        own, of_label = images.get(stem, []), labels.get(stem, [])
        if len(own) == len(of_label) == 1:
            pairs.append((own[0], of_label[0]))
        elif not of_label:
            issues.append(Issue(f"image {own[0].name!r}", f"has no label image in {str(labels_dir)!r}"))
        elif not own:
            issues.append(Issue(f"label image {of_label[0].name!r}", f"has no image in {str(images_dir)!r}"))
        else:
            names = ", ".join(repr(file.name) for file in (own if len(own) > 1 else of_label))
            issues.append(Issue(f"image {own[0].name!r}", f"cannot be paired: {names} have the same name"))
    return pairs, issues


def _issues_of_sizes(pairs: Iterable[tuple[Path, Path]], sizes: Iterable[Size]) -> list[Issue]:
    """Compare the sizes of images and label images; their pixels are not read."""
    issues = []
    for (image, label), size in zip(pairs, sizes, strict=True):
        place = f"image {image.name!r}"
        try:
            said = label_images.read_label_image_size(label)
        except ValueError as error:
            issues.append(Issue(place, cannot_be_used(error)))
            continue
        if said not in (None, size):
            issues.append(Issue(place, size_mismatch(image, size, said, "its label image has")))
    return issues


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file():
            found.setdefault(file.stem, []).append(file)
    return found
