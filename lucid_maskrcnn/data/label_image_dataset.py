"""Data sets of label images: the pixels of each instance have a number of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats import label_images
from lucid_maskrcnn.annotation_formats.coco import make_annotations
from lucid_maskrcnn.annotation_formats.foreign import foreign_folder
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import SUFFIXES, load_checked, size_mismatch, size_on_disk
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.reprs import described
from lucid_maskrcnn.validators import choice, flag, path, reading, text

from .dataset import check_index
from .issues import Issue, cannot_be_used, raise_first_fault, warn_of_left_out
from .label_image_checks import LabelFacts, check_label_images, facts_of
from .opened_images import issues_of_files, while_opening
from .subsets import Subset

__all__ = ["LabelImages", "LabelReader"]

_THREADS = 4  # Pillow decodes without the interpreter's lock


@answers_wrong_calls
class LabelImages:
    """Images and label images of the same names, in two folders: ``cells/a.jpg`` and ``labels/a.png``.

    A label image has one channel of integers, 0 for background and another number for each instance: a PNG or TIFF
    of 8, 16 or 32 bits, a PNG with a palette, whose indices are read, or an array (H, W) in an ``.npy`` file. Items
    are like those of :class:`CocoInstances`, with boxes around the masks; all objects are of one category. The label
    images are read once, when the data set is made, and held as compressed masks.

    Parameters
    ----------
    images_dir, labels_dir : str or Path
        Their files are paired by name without suffix; files that are no images are ignored.
    category : str
        Name of the category of all objects.
    on_fault : {"stop", "skip"}
        What a fault does: ``"stop"`` raises, ``"skip"`` leaves out the image, which ``issues`` has.
    open_images : bool
        Whether every image is decoded now, too, so that a file that is cut off is not found in the middle of an epoch.
    channels, intensity
        How images are read that have not three channels of 8 bits, as in
        :func:`~lucid_maskrcnn.images.load_image`. Give the ``intensity`` of the model,
        ``model.config.image.intensity``.
    progress : bool
        Whether to show a progress bar, on a terminal or in a notebook.

    Attributes
    ----------
    categories, category_ids : dict
        ``{1: category}`` and ``{1: 1}``.
    image_ids : list of int
        1, 2, … in the order of the file names.
    file_names : list of str
        File name of each image, in order.
    sizes : list of (height, width)
        Of each image, in pixels.
    object_counts : list of int
        Number of objects of each image.
    category_counts : dict of str to int
        Number of objects of the category.
    issues : list of Issue
        What is wrong with the files; faults only if they were skipped.
    num_listed : int
        Images and label images of one name, with those that were left out.
    num_crowds, num_left_out : int
        0: such a data set has no crowds, and an image is used whole or not.

    Warns
    -----
    UserWarning
        If an image is left out, skipped for a fault.

    Raises
    ------
    DataFaultError
        A ``ValueError``: if there is a fault and ``on_fault`` is ``"stop"``. A folder does not exist, has no images or
        is both; an image has no label image or several, or one of another size; a label image cannot be read, has
        colors, is a picture, or has one number for many objects.
    """

    def __init__(
        self,
        images_dir: str | Path,
        labels_dir: str | Path,
        *,
        category: str = "object",
        on_fault: str = "stop",
        open_images: bool = False,
        channels: int | Sequence[int] | None = None,
        intensity: str | Sequence[float] | None = None,
        progress: bool = True,
    ) -> None:
        self._read = reading(channels, intensity)
        self.images_dir, self.labels_dir = path("images_dir", images_dir), path("labels_dir", labels_dir)
        category, open_images = text("category", category), flag("open_images", open_images)
        choice("on_fault", on_fault, ("stop", "skip"))
        reader = LabelReader(self.images_dir, self.labels_dir, progress=flag("progress", progress))
        if open_images:
            reader.open_images(self._read)
        self.issues: list[Issue] = reader.issues
        if on_fault == "stop" or not reader.pairs:
            raise_first_fault(repr(str(self.images_dir)), self.issues)
        warn_of_left_out(repr(str(self.images_dir)), len(reader.pairs) - len(reader.sound), 0)
        self._held = [reader.masks[i] for i in reader.sound]
        self.file_names = [reader.pairs[i][0].name for i in reader.sound]
        self.image_ids = list(range(1, len(self._held) + 1))
        self.sizes = [masks.image_size for masks in self._held]
        self.object_counts = [len(masks) for masks in self._held]
        self.num_listed, self.num_crowds, self.num_left_out = len(reader.pairs), 0, 0
        self.categories, self.category_ids = {1: category}, {1: 1}

    @property
    def category_counts(self) -> dict[str, int]:
        """Number of objects of the category, by name."""
        return {self.categories[1]: sum(self.object_counts)}

    def __len__(self) -> int:
        return len(self._held)

    @described
    def __repr__(self) -> str:
        return f"LabelImages({len(self)} images, category {self.categories[1]!r})"

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Subset(self, range(len(self))[index])
        index = check_index(index, len(self))
        masks = self._held[index]
        file = self.images_dir / self.file_names[index]
        image = load_checked(file, masks.image_size, "its label image has", **self._read)
        target = {
            "boxes": masks.boxes,
            "labels": np.ones(len(masks), np.int32),
            "masks": masks,
            "iscrowd": np.zeros(len(masks), np.uint8),
            "image_id": self.image_ids[index],
        }
        return image, target

    def coco(self) -> dict[str, Any]:
        """Return the annotations in COCO's format, as an evaluation needs them."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i, (image_id, name, (height, width)) in enumerate(
            zip(self.image_ids, self.file_names, self.sizes, strict=True)
        ):
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            masks = self._held[i]
            annotations += make_annotations(
                masks, image_id=image_id, category_ids=[1] * len(masks), first_id=len(annotations) + 1
            )
        categories = [{"id": 1, "name": self.categories[1]}]
        return {"images": images, "annotations": annotations, "categories": categories}


class LabelReader:
    """Reads two folders once, and collects their issues.

    Attributes
    ----------
    pairs : list of (Path, Path)
        Images and their label images.
    masks : list of CompressedMasks or None
        Those of each pair; None where the label image cannot be used.
    issues : list of Issue
        In the order in which they are found. They raise nothing here.
    sound : list of int
        The pairs without faults.
    """

    def __init__(self, images_dir: Path, labels_dir: Path, *, progress: bool = True) -> None:
        self.progress = progress
        self.pairs, self.issues = _pair_files(images_dir, labels_dir)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="lucid_maskrcnn_labels") as pool:
            read = list(while_opening(pool.map(_read, self.pairs), len(self.pairs), progress))
        found = [entry for entry in read if isinstance(entry, tuple)]
        issues = [entry for entry in read if isinstance(entry, Issue)]
        issues += check_label_images([facts for _, facts in found])
        self.masks: list[Any] = [entry[0] if isinstance(entry, tuple) else None for entry in read]
        self._settle(issues)

    def _settle(self, issues: Sequence[Issue]) -> None:
        """Add issues, and count the pairs that have none of them as sound."""
        self.issues += issues
        wrong = {issue.place for issue in self.issues if issue.fatal}
        self.sound = [i for i, (image, _) in enumerate(self.pairs) if _place(image) not in wrong]

    def open_images(self, read: Mapping[str, Any]) -> None:
        """Decode the images of the sound pairs, and add their issues."""
        chosen = ((self.pairs[i][0], self.masks[i].image_size) for i in self.sound)
        files = [(_place(image), image, size, "its label image has") for image, size in chosen]
        found = issues_of_files(files, self.progress, read)
        self._settle([issue for issues in found for issue in issues])


def _place(image: Path) -> str:
    return f"image {image.name!r}"


def _read(pair: tuple[Path, Path]) -> tuple[CompressedMasks, LabelFacts] | Issue:
    """Return the masks of a label image, and what its checks need; or the issue of a pair that cannot be used."""
    image, label = pair
    place = _place(image)
    try:
        size = size_on_disk(image)[0]
        said = label_images.read_label_image_size(label)
        if said is not None and said != size:
            remedy = "its height and width are swapped" if said == size[::-1] else ""
            return Issue(place, size_mismatch(image, size, said, "its label image has"), "fault", remedy, "other size")
        labels = label_images.read_label_image(label)
        masks = CompressedMasks.from_labels(labels)
        return masks, facts_of(place, labels, masks)
    except ValueError as error:
        kind = str(error).replace(repr(str(label)), "").replace(repr(str(image)), "")
        return Issue(place, cannot_be_used(error), kind=kind)


def _pair_files(images_dir: Path, labels_dir: Path) -> tuple[list[tuple[Path, Path]], list[Issue]]:
    """Return the images with their label images, and the issues of the others."""
    issues = [
        Issue("the folder", f"{str(folder)!r} does not exist")
        for folder in (images_dir, labels_dir)
        if not folder.is_dir()
    ]
    if issues:
        return [], issues
    if images_dir.resolve() == labels_dir.resolve():
        problem = f"{str(images_dir)!r} has the images, so that each would be its own label image"
        return [], [Issue("the folder", problem, remedy="give the folder of the label images")]
    images, labels = _by_stem(images_dir, SUFFIXES), _by_stem(labels_dir, label_images.SUFFIXES)
    jpegs = _by_stem(labels_dir, SUFFIXES)
    for folder, found, suffixes in ((images_dir, images, SUFFIXES), (labels_dir, labels, label_images.SUFFIXES)):
        if not found:
            inner = next((f for f in sorted(folder.iterdir()) if f.is_dir() and _by_stem(f, suffixes)), None)
            known = foreign_folder(folder) if folder == labels_dir else None
            remedy = "" if known is None else f"it is {known}"
            remedy = "save them as PNG or TIFF, without loss" if folder == labels_dir and jpegs else remedy
            remedy = remedy if inner is None else f"{str(inner)!r} has some, give that"
            what = "images" if folder == images_dir else "label images"
            problem = f"{str(folder)!r} has no {what} ({', '.join(sorted(suffixes))})"
            return [], [Issue("the folder", problem, remedy=remedy)]
    pairs = []
    for stem in sorted(images | labels):
        own, of_label = images.get(stem, []), labels.get(stem, [])
        if len(own) == len(of_label) == 1:
            pairs.append((own[0], of_label[0]))
        elif not of_label:
            problem = f"has no label image in {str(labels_dir)!r}"
            issues.append(Issue(_place(own[0]), problem, remedy=_hint(stem, labels, labels_dir), kind="no label image"))
        elif not own:
            problem = f"has no image in {str(images_dir)!r}"
            issues.append(Issue(f"label image {of_label[0].name!r}", problem, kind="no image"))
        else:
            names = ", ".join(repr(file.name) for file in (own if len(own) > 1 else of_label))
            problem = f"cannot be paired: {names} have the same name"
            issues.append(Issue(_place(own[0]), problem, kind="several of one name"))
    return pairs, issues


def _hint(stem: str, labels: Mapping[str, Sequence[Path]], labels_dir: Path) -> str:
    """Return what a label image should be called, if one of nearly this name is there."""
    other_format = next(
        (s for s in sorted(SUFFIXES - label_images.SUFFIXES) if (labels_dir / f"{stem}{s}").exists()), None
    )
    if other_format is not None:
        return f"{stem + other_format!r} is there: save it as PNG or TIFF, without loss"
    near = next((other for other in labels if stem and stem in other), None)
    return "" if near is None else f"{labels[near][0].name!r} is there: both must have one name, without suffix"


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file():
            found.setdefault(file.stem, []).append(file)
    return found
