"""Validating a data set before training: what it contains, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import read_annotations
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import Size, load_image
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.targets import Target
from lucid_maskrcnn.text_tables import count_of, printable
from lucid_maskrcnn.validators import flag, function, path

from .coco_dataset import CocoInstances
from .coco_reader import CocoReader
from .dataset import Dataset, check_dataset, load_pair
from .issues import Issue, cannot_be_used, group_issues
from .label_image_dataset import LabelImages, LabelReader
from .opened_images import open_image, while_opening

__all__ = ["ValidatedImage", "ValidationReport", "issues_of_counts", "validate"]

_SMALL, _MEDIUM = 32**2, 96**2  # pixels, COCO's limits


@dataclass(frozen=True)
class ValidatedImage:
    """An image that could be read, as :func:`validate` passes it to ``on_image``.

    Attributes
    ----------
    index, total : int
        Its position among the images of the data set, and their number.
    file_name : str
        As the data set calls the image.
    pixels : ndarray of shape (H, W, 3), uint8
        The image in RGB.
    target : mapping
        ``"boxes"``, ``"labels"`` and ``"masks"`` of its objects.
    categories : mapping of int to str
        Label -> name.
    """

    __repr__ = fields_repr

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
        Faults, warnings and notes. Without faults and warnings the data set is sound.
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

    __repr__ = fields_repr

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
            *(printable(f"  {name}: {count}") for name, count in self.category_counts.most_common()),
            *([f"  {sizes}"] if total else []),
        ]

    def issue_lines(self) -> list[str]:
        """Return one line for each kind of issue, with its number and the first places."""
        return group_issues(self.issues)

    @property
    def is_sound(self) -> bool:
        """Whether there are no faults and no warnings."""
        return all(issue.level == "note" for issue in self.issues)


@answers_wrong_calls
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
        return validator.coco(source.reader)
    if isinstance(source, LabelImages):
        return validator.label_images(LabelReader(source.images_dir, source.labels_dir), source.categories[1])
    if not is_folder:
        return validator.pairs(check_dataset("source", source))
    folder = path("source", source)
    if labels is not None:
        return validator.label_images(LabelReader(folder, path("labels", labels), progress=progress), "object")
    assert annotations is not None
    return validator.coco(CocoReader(read_annotations(annotations), folder))


class _Validator:
    """Goes through a data set once, with one method for each kind of data set."""

    def __init__(self, progress: bool, on_image: Callable[[ValidatedImage], object] | None) -> None:
        self.progress, self.on_image = progress, on_image
        self.report = ValidationReport()

    def coco(self, reader: CocoReader) -> ValidationReport:
        report = self.report
        report.issues += reader.issues
        for index, annotated in enumerate(while_opening(reader.images, len(reader.images), self.progress)):
            target = annotated.target()
            report.num_crowds += len(annotated.crowds)
            self._count(target, reader.categories)
            if annotated.id not in reader.unopened:  # an issue of the reader's
                file = reader.images_dir / annotated.file_name
                pixels = self._open(annotated.place, file, annotated.size, annotated.said_by)
                self._visit(index, len(reader.images), annotated.file_name, pixels, target, reader.categories)
        counts = {name: report.category_counts[name] for name in reader.categories.values()}
        report.issues += issues_of_counts(report.num_images, counts, report.num_crowds, report.num_empty)
        return report

    def label_images(self, reader: LabelReader, category: str) -> ValidationReport:
        report = self.report
        report.issues += reader.issues
        for index in while_opening(reader.sound, len(reader.sound), self.progress):
            file, masks = reader.pairs[index][0], reader.masks[index]
            target = {"masks": masks, "boxes": masks.boxes, "labels": np.ones(len(masks), np.int32)}
            self._count(target, {1: category})
            pixels = self._open(f"image {file.name!r}", file, masks.image_size, "its label image has")
            self._visit(index, len(reader.pairs), file.name, pixels, target, {1: category})
        if reader.pairs:
            report.issues += issues_of_counts(report.num_images, dict(report.category_counts), 0, report.num_empty)
        return report

    def pairs(self, dataset: Dataset) -> ValidationReport:
        """Validate the pairs of any other data set, as ``get_loss`` would."""
        categories = dict(getattr(dataset, "categories", {}))
        names = getattr(dataset, "file_names", None)
        # Without categories any label is valid.
        limit = max(categories, default=int(np.iinfo(np.int32).max))
        for i in while_opening(range(len(dataset)), len(dataset), self.progress):
            try:
                image, target = load_pair(dataset, i)
                pixels = load_image(image)
                size = (pixels.shape[0], pixels.shape[1])
                checked = Target.from_mapping(target, index=i, image_size=size, num_classes=limit)
            except Exception as error:  # a user's code may raise anything, and one image must not hide the others
                reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                self._add_issue(f"item {i}", cannot_be_used(reason), "item")
                continue
            own = {
                "masks": CompressedMasks.of(checked.masks, size),
                "boxes": checked.boxes.data,
                "labels": checked.labels.data,
            }
            self._count(own, categories)
            self._visit(i, len(dataset), str(i) if names is None else str(names[i]), pixels, own, categories)
        report = self.report
        report.issues += issues_of_counts(report.num_images, dict(report.category_counts), 0, report.num_empty)
        return report

    # -------------------------------------------------------------- parts

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

    def _open(self, place: str, file: Path, size: Size, said_by: str | None) -> np.ndarray | None:
        """Return the pixels of an image, or None after adding issues."""
        pixels, issues = open_image(place, file, size, said_by)
        self.report.issues += issues
        return pixels

    def _visit(self, index: int, total: int, name: str, pixels: np.ndarray | None, *values: Any) -> None:
        if self.on_image is not None and pixels is not None:
            self.on_image(ValidatedImage(index, total, name, pixels, *values))

    def _add_issue(self, place: str, problem: str, kind: str) -> None:
        self.report.issues.append(Issue(place, problem, kind=kind))


def issues_of_counts(num_images: int, objects: Mapping[str, int], num_crowds: int, num_empty: int) -> list[Issue]:
    """Return what the numbers of a data set say: nothing to train on, categories and images without objects."""
    if not sum(objects.values()):
        if not num_images:
            return [Issue("the data set", "has no images that can be used", kind="nothing")]
        if num_crowds:
            problem = f"has no objects, but {count_of(num_crowds, 'crowd')}, which are neither trained on nor counted"
            return [Issue("the data set", problem, remedy="set iscrowd to 0 where one object is meant", kind="nothing")]
        return [Issue("the data set", "has no objects: there is nothing to train on or to evaluate", kind="nothing")]
    unused = [name for name, count in objects.items() if not count]
    issues = [Issue(f"category {name!r}", "has no objects", "note", kind="unused category") for name in unused]
    if num_empty > num_images / 2:
        problem = f"has {num_empty} of {count_of(num_images, 'image')} without objects, which are background"
        issues.append(Issue("the data set", problem, "note", "if nobody has annotated them, leave them out", "empty"))
    return issues
