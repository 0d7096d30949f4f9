"""Looking through a data set before anything is trained on it: what is there, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.images import load_image, size_mismatch
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.targets import Target

from .coco_dataset import CocoInstances, Picture, Reader, read_json, target_of
from .issues import Fault, no_good
from .label_image_dataset import LabelImages, pair, read_labels

__all__ = ["Survey", "check", "survey"]

_SMALL, _MEDIUM = 32**2, 96**2  # pixels, COCO's limits
_NEAR = 2  # pixels; a box so near to its mask's is never wrong
_LIKE = 0.5  # IoU of a box and its mask's, from which on it is right
type Shown = Callable[[Any], Iterable[Any]]
type Seen = Callable[[int, str, np.ndarray, Mapping[str, Any], Mapping[int, str]], None]


@dataclass
class Survey:
    """What a data set has.

    Attributes
    ----------
    faults : list of Fault
    num_images : int
        Those that annotations could be read of.
    objects : Counter
        Number of objects of each category, by name.
    sizes : Counter
        Number of ``"small"``, ``"medium"`` and ``"large"`` objects, by COCO's limits of 32² and 96² pixels.
    num_empty : int
        Images without objects.
    num_crowds : int
        Crowd regions, which are not trained on.
    """

    faults: list[Fault] = field(default_factory=list)
    num_images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    num_empty: int = 0
    num_crowds: int = 0

    def count(self, target: Mapping[str, Any], categories: Mapping[int, str]) -> None:
        """Take an image into account."""
        masks: CompressedMasks = target["masks"]
        self.num_images += 1
        self.num_empty += len(masks) == 0
        self.objects.update(categories.get(label, str(label)) for label in np.asarray(target["labels"]).tolist())
        areas = masks.areas
        for name, low, high in (("small", 0, _SMALL), ("medium", _SMALL, _MEDIUM), ("large", _MEDIUM, np.inf)):
            self.sizes[name] += int(((areas >= low) & (areas < high)).sum())

    def lines(self) -> list[str]:
        """Return the counts in words."""
        total = self.objects.total()
        empty = f", {self.num_empty} without objects" if self.num_empty else ""
        crowds = f" and {many(self.num_crowds, 'crowd')}" if self.num_crowds else ""
        sizes = ", ".join(f"{count} {name}" for name, count in self.sizes.items())
        return [
            f"{many(self.num_images, 'image')}{empty}; {many(total, 'object')}{crowds}",
            *(f"  {name}: {count}" for name, count in self.objects.most_common()),
            *([f"  {sizes}"] if total else []),
        ]


def many(count: int, noun: str) -> str:
    """Return ``"no faults"``, ``"1 fault"``, ``"2 faults"``."""
    return f"{count or 'no'} {noun}{'s' * (count != 1)}"


def check(source: Any, annotations: Any = None, *, labels: str | Path | None = None) -> list[Fault]:
    """Look through a data set, opening every picture, and return all that is wrong with it.

    Parameters
    ----------
    source : data set, str or Path
        A :class:`CocoInstances`, :class:`LabelImages` or any other sequence of (image, target) pairs; or a folder of
        pictures.
    annotations : str, Path or mapping, optional
        The COCO file that belongs to the folder. It may have faults for which ``CocoInstances`` refuses it.
    labels : str or Path, optional
        Or the folder of its label images.

    Returns
    -------
    list of Fault
        None if the data set is sound.
    """
    return survey(source, annotations, labels=labels).faults


def survey(
    source: Any,
    annotations: Any = None,
    *,
    labels: str | Path | None = None,
    shown: Shown = iter,
    seen: Seen | None = None,
) -> Survey:
    """Look through a data set and count what is there.

    Parameters
    ----------
    source, annotations, labels
        As for :func:`check`.
    shown : callable
        Gets a sequence and passes it on item by item, such as a progress bar.
    seen : callable, optional
        Called as ``seen(position, file_name, image, target, categories)`` for every picture that could be read.

    Returns
    -------
    Survey
    """
    look = _Look(shown, seen)
    if isinstance(source, CocoInstances):
        return look.at_coco(source.images_dir, source.source)
    if isinstance(source, LabelImages):
        return look.at_labels(source.images_dir, source.labels_dir, source.categories[1])
    if not isinstance(source, (str, Path)):
        return look.at_items(source)
    if (annotations is None) == (labels is None):
        raise ValueError("A folder of pictures needs annotations or labels, one of them.")
    if labels is not None:
        return look.at_labels(Path(source), Path(labels), "object")
    return look.at_coco(Path(source), annotations)


class _Look:
    """One way through a data set of each kind."""

    def __init__(self, shown: Shown, seen: Seen | None) -> None:
        self.shown, self.seen = shown, seen
        self.found = Survey()

    def _fault(self, place: str, what: str) -> None:
        self.found.faults.append(Fault(place, what))

    def _tell(self, position: int, name: str, image: np.ndarray, target: Any, categories: Mapping[int, str]) -> None:
        if self.seen is not None:
            self.seen(position, name, image, target, categories)

    def at_coco(self, images_dir: Path, annotations: Any) -> Survey:
        reader = Reader(read_json(annotations), images_dir)
        self.found.faults += reader.faults
        for position, picture in enumerate(self.shown(reader.pictures)):
            target = target_of(picture)
            self.found.num_crowds += len(picture.crowds)
            self.found.count(target, reader.categories)
            self.found.faults += _faults_of_objects(picture, target)
            if picture.id in reader.unopened:
                continue  # the reader has said so
            image = self._open(images_dir / picture.file_name, f"image {picture.id} ({picture.file_name})")
            if image is not None and image.shape[:2] == picture.size:  # the reader has said so if not
                self._tell(position, picture.file_name, image, target, reader.categories)
        return self.found

    def at_labels(self, images_dir: Path, labels_dir: Path, category: str) -> Survey:
        pairs, faults = pair(images_dir, labels_dir)
        self.found.faults += faults
        for position, (path, label) in enumerate(self.shown(pairs)):
            place = f"picture {path.name!r}"
            try:
                masks = CompressedMasks.from_labels(read_labels(label))
            except ValueError as error:
                self._fault(place, no_good(error))
                continue
            target = {"masks": masks, "boxes": masks.boxes, "labels": np.ones(len(masks), np.int32)}
            self.found.count(target, {1: category})
            image = self._open(path, place)
            if image is None:
                continue
            if image.shape[:2] == masks.image_size:
                self._tell(position, path.name, image, target, {1: category})
            else:
                self._fault(place, size_mismatch(path, image.shape[:2], masks.image_size, "its label image has"))
        return self.found

    def _open(self, path: Path, place: str) -> np.ndarray | None:
        """Return a picture, or None and a fault."""
        try:
            return load_image(path)
        except ValueError as error:
            self._fault(place, no_good(error))
            return None

    def at_items(self, dataset: Any) -> Survey:
        """Look at items of whatever makes them, as ``get_loss`` would."""
        categories = dict(getattr(dataset, "categories", {}))
        names = getattr(dataset, "file_names", None)
        # Without a table of categories any label will do.
        limit = max(categories, default=int(np.iinfo(np.int32).max))
        for i in self.shown(range(len(dataset))):
            try:
                image, target = dataset[i]
                image = load_image(image)
                size = (image.shape[0], image.shape[1])
                checked = Target.from_mapping(target, index=i, image_size=size, num_classes=limit)
            except Exception as error:  # anybody's code, and one picture should not hide the faults of the others
                reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                self._fault(f"item {i}", no_good(reason))
                continue
            own = {
                "masks": CompressedMasks.of(checked.masks, size),
                "boxes": checked.boxes.data,
                "labels": checked.labels.data,
            }
            self.found.count(own, categories)
            self._tell(i, str(i) if names is None else names[i], image, own, categories)
        return self.found


# ------------------------------------------------------------------ annotations beside each other


def _faults_of_objects(picture: Picture, target: Mapping[str, Any]) -> list[Fault]:
    faults: list[Fault] = []
    seen: dict[Any, int] = {}
    masks: CompressedMasks = target["masks"]
    boxes, tight, areas = target["boxes"], masks.boxes, masks.areas
    for i, annotation in enumerate(picture.objects):
        place = f"annotation {annotation.id}"
        if not areas[i]:
            faults.append(Fault(place, "has a segmentation that covers no pixel", grave=False))
            continue
        if not _alike(boxes[i], tight[i]):
            box, around = (", ".join(f"{v:g}" for v in corners.tolist()) for corners in (boxes[i], tight[i]))
            what = f"has a box from its bbox, ({box}), that is not the one around its segmentation, ({around})"
            faults.append(Fault(place, f"{what}; a bbox is x, y, width, height", grave=False))
        first, last = masks.offsets[i], masks.offsets[i + 1]
        pixels = (annotation.label, masks.starts[first:last].tobytes(), masks.stops[first:last].tobytes())
        if pixels in seen:
            faults.append(Fault(place, f"covers the same pixels as annotation {seen[pixels]}", grave=False))
        seen.setdefault(pixels, annotation.id)
    return faults


def _alike(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes are about the same; boxes of small objects may be a pixel or two off."""
    if np.abs(box - other).max() <= _NEAR:
        return True
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    both = float(sides.clip(0).prod())
    either = sum(float((b[2:] - b[:2]).prod()) for b in (box, other)) - both
    return both >= _LIKE * either
