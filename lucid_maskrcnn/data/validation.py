"""Validating a data set before training: what it contains, and what is wrong with it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import read_annotations
from lucid_maskrcnn.annotation_formats.label_images import read_label_image
from lucid_maskrcnn.images import load_image, size_mismatch
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.ops import as_tensor, box_iou, host
from lucid_maskrcnn.targets import Target
from lucid_maskrcnn.text_tables import count_of
from lucid_maskrcnn.validators import flag, function, path

from .coco_dataset import CocoInstances
from .coco_reader import AnnotatedImage, CocoReader
from .dataset import Dataset, check_dataset, load_pair
from .issues import Issue, cannot_be_used
from .label_image_dataset import LabelImages, pair_files

__all__ = ["ValidatedImage", "ValidationReport", "validate"]

_SMALL, _MEDIUM = 32**2, 96**2  # pixels, COCO's limits
_NEAR = 2  # pixels; a box so near to its mask's is never an issue
_MIN_BOX_IOU = 0.5  # nor is one whose IoU with its mask's is at least this


@dataclass(frozen=True)
class ValidatedImage:
    """An image that could be read, as :func:`validate` passes it to ``on_image``.

    Attributes
    ----------
    index, total : int
        Its position among the images of the data set, and their number.
    file_name : str
    pixels : ndarray of shape (H, W, 3), uint8
    target : mapping
        ``"boxes"``, ``"labels"`` and ``"masks"`` of its objects.
    categories : mapping of int to str
        Label -> name.
    """

    index: int
    total: int
    file_name: str
    pixels: np.ndarray
    target: Mapping[str, Any]
    categories: Mapping[int, str]


@dataclass
class ValidationReport:
    """What a data set contains, and what is wrong with it.

    Attributes
    ----------
    issues : list of Issue
        Empty if the data set is sound.
    num_images : int
        Images whose annotations could be read.
    num_empty : int
        Images without objects.
    num_crowds : int
        Crowd regions, which are not trained on.
    category_counts : Counter
        Number of objects of each category, by name.
    size_counts : Counter
        Number of ``"small"``, ``"medium"`` and ``"large"`` objects, by COCO's limits of 32² and 96² pixels.
    """

    issues: list[Issue] = field(default_factory=list)
    num_images: int = 0
    num_empty: int = 0
    num_crowds: int = 0
    category_counts: Counter[str] = field(default_factory=Counter)
    size_counts: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Return the counts as lines of text."""
        total = self.category_counts.total()
        empty = f", {self.num_empty} without objects" if self.num_empty else ""
        crowds = f" and {count_of(self.num_crowds, 'crowd')}" if self.num_crowds else ""
        sizes = ", ".join(f"{count} {name}" for name, count in self.size_counts.items())
        return [
            f"{count_of(self.num_images, 'image')}{empty}; {count_of(total, 'object')}{crowds}",
            *(f"  {name}: {count}" for name, count in self.category_counts.most_common()),
            *([f"  {sizes}"] if total else []),
        ]


def validate(
    source: Any,
    annotations: str | Path | Mapping[str, Any] | None = None,
    *,
    labels: str | Path | None = None,
    progress: bool = True,
    on_image: Callable[[ValidatedImage], object] | None = None,
) -> ValidationReport:
    """Open every image of a data set, count what is annotated, and list everything that is wrong.

    Parameters
    ----------
    source : data set, str or Path
        A :class:`CocoInstances`, :class:`LabelImages` or any other sequence of (image, target) pairs; or a folder of
        images.
    annotations : str, Path or mapping, optional
        The COCO file that belongs to the folder. It may have issues for which ``CocoInstances`` refuses it.
    labels : str or Path, optional
        Or the folder of its label images.
    progress : bool
        Whether to show a progress bar on a terminal.
    on_image : callable, optional
        Called with a :class:`ValidatedImage` for every image that could be read.

    Returns
    -------
    ValidationReport

    Raises
    ------
    TypeError
        If an argument is of another kind.
    ValueError
        If a folder comes without annotations and labels or with both, or the annotations are no COCO file.
    """
    progress = flag("progress", progress)
    if on_image is not None:
        function("on_image", on_image, "on_image(image)")
    is_folder = isinstance(source, (str, Path))
    if (annotations is not None) + (labels is not None) != is_folder:
        wanted = "annotations or labels, one of them" if is_folder else "no annotations and no labels: it has its own"
        raise ValueError(f"source, {'a folder' if is_folder else 'a data set'}, needs {wanted}.")
    validator = _Validator(progress, on_image)
    if isinstance(source, CocoInstances):
        return validator.coco(source.images_dir, source.source)
    if isinstance(source, LabelImages):
        return validator.label_images(source.images_dir, source.labels_dir, source.categories[1])
    if not is_folder:
        return validator.pairs(check_dataset("source", source))
    if labels is not None:
        return validator.label_images(path("source", source), path("labels", labels), "object")
    return validator.coco(path("source", source), annotations)


class _Validator:
    """Goes through a data set once, with one method for each kind of data set."""

    def __init__(self, progress: bool, on_image: Callable[[ValidatedImage], object] | None) -> None:
        self.progress, self.on_image = progress, on_image
        self.report = ValidationReport()

    def coco(self, images_dir: Path, annotations: Any) -> ValidationReport:
        reader = CocoReader(read_annotations(annotations), images_dir)
        self.report.issues += reader.issues
        for index, annotated in enumerate(self._shown(reader.images)):
            target = annotated.target()
            self.report.num_crowds += len(annotated.crowds)
            self._count(target, reader.categories)
            self.report.issues += _issues_of_objects(annotated, target)
            if annotated.id in reader.unopened:
                continue  # an issue of the reader's
            pixels = self._open(images_dir / annotated.file_name, f"image {annotated.id} ({annotated.file_name})")
            if pixels is not None and pixels.shape[:2] == annotated.size:  # else an issue of the reader's
                self._visit(index, len(reader.images), annotated.file_name, pixels, target, reader.categories)
        return self.report

    def label_images(self, images_dir: Path, labels_dir: Path, category: str) -> ValidationReport:
        paths, issues = pair_files(images_dir, labels_dir)
        self.report.issues += issues
        for index, (file, label) in enumerate(self._shown(paths)):
            place = f"image {file.name!r}"
            try:
                masks = CompressedMasks.from_labels(read_label_image(label))
            except ValueError as error:
                self._add_issue(place, cannot_be_used(error))
                continue
            target = {"masks": masks, "boxes": masks.boxes, "labels": np.ones(len(masks), np.int32)}
            self._count(target, {1: category})
            pixels = self._open(file, place)
            if pixels is None:
                continue
            if pixels.shape[:2] == masks.image_size:
                self._visit(index, len(paths), file.name, pixels, target, {1: category})
            else:
                problem = size_mismatch(file, pixels.shape[:2], masks.image_size, "its label image has")
                self._add_issue(place, problem)
        return self.report

    def pairs(self, dataset: Dataset) -> ValidationReport:
        """Validate the pairs of any other data set, as ``get_loss`` would."""
        categories = dict(getattr(dataset, "categories", {}))
        names = getattr(dataset, "file_names", None)
        # Without categories any label is valid.
        limit = max(categories, default=int(np.iinfo(np.int32).max))
        for i in self._shown(range(len(dataset))):
            try:
                image, target = load_pair(dataset, i)
                pixels = load_image(image)
                size = (pixels.shape[0], pixels.shape[1])
                checked = Target.from_mapping(target, index=i, image_size=size, num_classes=limit)
            except Exception as error:  # a user's code may raise anything, and one image must not hide the others
                reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                self._add_issue(f"item {i}", cannot_be_used(reason))
                continue
            own = {
                "masks": CompressedMasks.of(checked.masks, size),
                "boxes": checked.boxes.data,
                "labels": checked.labels.data,
            }
            self._count(own, categories)
            self._visit(i, len(dataset), str(i) if names is None else names[i], pixels, own, categories)
        return self.report

    # -------------------------------------------------------------- parts

    def _shown[T](self, items: Sequence[T]) -> Iterable[T]:
        """Return the items, behind a progress bar on a terminal."""
        if not self.progress or not sys.stderr.isatty():
            return items
        from tqdm import tqdm

        bar: Iterable[T] = tqdm(items, unit=" images", leave=False)
        return bar

    def _count(self, target: Mapping[str, Any], categories: Mapping[int, str]) -> None:
        masks: CompressedMasks = target["masks"]
        report = self.report
        report.num_images += 1
        report.num_empty += len(masks) == 0
        labels = np.asarray(target["labels"]).tolist()
        report.category_counts.update(categories.get(label, str(label)) for label in labels)
        areas = masks.areas
        for name, low, high in (("small", 0, _SMALL), ("medium", _SMALL, _MEDIUM), ("large", _MEDIUM, np.inf)):
            report.size_counts[name] += int(((areas >= low) & (areas < high)).sum())

    def _open(self, file: Path, place: str) -> np.ndarray | None:
        """Return the pixels of an image, or None after adding an issue."""
        try:
            return load_image(file)
        except ValueError as error:
            self._add_issue(place, cannot_be_used(error))
            return None

    def _visit(self, *values: Any) -> None:
        if self.on_image is not None:
            self.on_image(ValidatedImage(*values))

    def _add_issue(self, place: str, problem: str) -> None:
        self.report.issues.append(Issue(place, problem))


# ------------------------------------------------------------------ objects of an image


def _issues_of_objects(annotated: AnnotatedImage, target: Mapping[str, Any]) -> list[Issue]:
    """Compare each object's box with its mask, and its mask with those of the objects before it."""
    issues: list[Issue] = []
    seen: dict[Any, int] = {}
    masks: CompressedMasks = target["masks"]
    tight, areas = masks.boxes, masks.areas
    for i, annotation in enumerate(annotated.objects):
        place = f"annotation {annotation.id}"
        if not areas[i]:
            issues.append(Issue(place, "has a segmentation that covers no pixel", fatal=False))
            continue
        bbox = np.array(tight[i] if annotation.box is None else annotation.box, np.float32)
        if not _agree(bbox, tight[i]):
            box, around = (", ".join(f"{v:g}" for v in corners.tolist()) for corners in (bbox, tight[i]))
            problem = f"has a box from its bbox, ({box}), that is not the one around its segmentation, ({around})"
            issues.append(Issue(place, f"{problem}; a bbox is x, y, width, height", fatal=False))
        first, last = masks.offsets[i], masks.offsets[i + 1]
        pixels = (annotation.label, masks.starts[first:last].tobytes(), masks.stops[first:last].tobytes())
        if pixels in seen:
            issues.append(Issue(place, f"covers the same pixels as annotation {seen[pixels]}", fatal=False))
        seen.setdefault(pixels, annotation.id)
    return issues


def _agree(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes are about the same; boxes of small objects may be a pixel or two off."""
    if np.abs(box - other).max() <= _NEAR:
        return True
    return float(host(box_iou(as_tensor(box[None]), as_tensor(other[None])))[0, 0]) >= _MIN_BOX_IOU
