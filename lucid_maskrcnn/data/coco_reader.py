"""Reading COCO annotations: every entry is checked, and what is wrong becomes an issue.

Shapes: G objects of an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from lucid_maskrcnn.images import Size, size_mismatch, size_on_disk
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.polygons import check_polygon
from lucid_maskrcnn.masks.rle import parse_rle
from lucid_maskrcnn.targets import misses_box
from lucid_maskrcnn.validators import positive_int, sequence, shown, text

from .issues import Issue, cannot_be_used

__all__ = ["AnnotatedImage", "Annotation", "CocoReader"]


@dataclass(slots=True)
class Annotation:
    """One object of an image."""

    id: int
    label: int
    box: tuple[float, float, float, float] | None  # x1, y1, x2, y2, clipped to the image; None without a bbox
    segmentation: Any  # a run-length encoding, or a list of polygons as arrays
    crowd: bool


@dataclass(slots=True)
class AnnotatedImage:
    """One image and its annotations."""

    id: int
    file_name: str
    size: Size
    objects: list[Annotation] = field(default_factory=list)
    crowds: list[Annotation] = field(default_factory=list)

    def target(self) -> dict[str, Any]:
        """Return the target of the image: its objects without the crowds."""
        objects = self.objects
        masks = CompressedMasks.from_coco([o.segmentation for o in objects], self.size)
        boxes = np.array([o.box or (0, 0, 0, 0) for o in objects], np.float32).reshape(-1, 4)  # (G, 4)
        # A bbox that is elsewhere than the segmentation, which check-data reports, is no box of the object.
        from_mask = np.array([o.box is None for o in objects], bool) | misses_box(masks, boxes)
        boxes[from_mask] = masks.boxes[from_mask]
        return {
            "boxes": boxes,
            "labels": np.array([o.label for o in objects], np.int32),
            "masks": masks,
            "iscrowd": np.zeros(len(objects), np.uint8),
            "image_id": self.id,
        }


class CocoReader:
    """Reads the content of a file once, and collects its issues.

    Parameters
    ----------
    content : mapping
        What :func:`~lucid_maskrcnn.annotation_formats.coco.read_annotations` returns.
    images_dir : Path
    categories : sequence of str, or mapping of int to str, optional
        As for :class:`~lucid_maskrcnn.data.CocoInstances`.

    Attributes
    ----------
    images : list of AnnotatedImage
        In the file's order, without the entries that have fatal issues.
    categories, category_ids : dict
        Label -> name and id.
    issues : list of Issue
        In the order in which they are found. They raise nothing here.
    unopened : set of int
        Ids of the images whose file is missing or cannot be opened.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        images_dir: Path,
        categories: Sequence[str] | Mapping[int, str] | None = None,
    ) -> None:
        self.images_dir = images_dir
        self.issues: list[Issue] = []
        names = self._names(content["categories"])
        self.known = set(names)
        self.category_ids = _select_categories(names, categories)
        self.categories = {label: names[i] for label, i in self.category_ids.items()}
        self.labels = {i: label for label, i in self.category_ids.items()}
        self.unopened: set[int] = set()
        self._image_ids: set[int] = set()  # also those of refused images: their annotations get no issue for it
        self.images = list(self._images(content["images"]))
        self.by_id = {image.id: image for image in self.images}
        self._annotations(content["annotations"])
        for image in self.images:
            self._check_encodings(image)

    def _add_issue(self, place: str, problem: str, *, fatal: bool = True) -> None:
        self.issues.append(Issue(place, problem, fatal))

    # -------------------------------------------------------------- categories and images

    def _names(self, entries: Iterable[Any]) -> dict[int, str]:
        """Return id -> name, in the order of the ids."""
        names: dict[int, str] = {}
        for k, entry in enumerate(entries):
            number = self._id(entry, f"categories[{k}]", names, "category")
            if number is None:
                continue
            names[number] = str(number)
            if not isinstance(entry.get("name"), str):
                self._add_issue(f"category {number}", f"must have a name, got {shown(entry.get('name'))}")
            else:
                names[number] = entry["name"]
        return dict(sorted(names.items()))

    def _id(self, entry: Any, place: str, taken: Mapping[int, Any] | set[int], kind: str) -> int | None:
        """Return an entry's id, or None after adding an issue."""
        if not isinstance(entry, Mapping):
            self._add_issue(place, f"must be a mapping, got {shown(entry)}")
            return None
        number = entry.get("id")
        if not _is_integer(number):
            self._add_issue(place, f"must have an integer as its id, got {shown(number)}")
            return None
        if number in taken:
            self._add_issue(f"{kind} {number}", "is there twice: ids must be unique")
            return None
        return int(number)

    def _images(self, entries: Iterable[Any]) -> Iterable[AnnotatedImage]:
        files: dict[str, int] = {}
        for k, entry in enumerate(entries):
            number = self._id(entry, f"images[{k}]", self._image_ids, "image")
            if number is None:
                continue
            self._image_ids.add(number)
            name = entry.get("file_name")
            if not isinstance(name, str) or not name:
                self._add_issue(f"image {number}", f"must have a file_name, got {shown(name)}")
                continue
            if name in files:
                self._add_issue(f"image {number}", f"is the same file as image {files[name]}, {name!r}", fatal=False)
            files.setdefault(name, number)
            size = self._size(entry, number, name)
            if size is not None:
                yield AnnotatedImage(number, name, size)

    def _size(self, entry: Mapping[str, Any], number: int, name: str) -> Size | None:
        place, path = f"image {number} ({name})", self.images_dir / name
        found = self._size_on_disk(number, place, path)
        height, width = entry.get("height"), entry.get("width")
        if height is None and width is None:
            return found
        if not (_is_integer(height) and _is_integer(width) and height > 0 and width > 0):
            self._add_issue(
                place,
                f"must have a height and a width that are positive integers, got {shown(height)} and {shown(width)}",
            )
            return None
        said = int(height), int(width)
        if found is not None and found != said:
            self._add_issue(place, size_mismatch(path, found, said, "the annotations say"))
        return said

    def _size_on_disk(self, number: int, place: str, path: Path) -> Size | None:
        try:
            if path.is_file():
                return size_on_disk(path)[0]
            self._add_issue(place, f"is not in {str(self.images_dir)!r}")
        except ValueError as error:
            self._add_issue(place, cannot_be_used(error))
        self.unopened.add(number)
        return None

    # -------------------------------------------------------------- annotations

    def _annotations(self, entries: Iterable[Any]) -> None:
        ids: set[int] = set()
        for k, entry in enumerate(entries):
            number = self._id(entry, f"annotations[{k}]", ids, "annotation")
            if number is None:
                continue
            ids.add(number)
            self._annotation(number, entry)

    def _annotation(self, number: int, entry: Mapping[str, Any]) -> None:
        place = f"annotation {number}"
        image_id, category = entry.get("image_id"), entry.get("category_id")
        image = self.by_id.get(image_id) if _is_integer(image_id) else None
        if number == 0:
            self._add_issue(
                place, "has id 0, which COCO's evaluation takes for a missing object: count from 1", fatal=False
            )
        if not _is_integer(category) or category not in self.known:
            self._add_issue(place, f"has category_id {shown(category)}, which is not among the categories")
            return
        if image is None:
            if not _is_integer(image_id) or image_id not in self._image_ids:
                self._add_issue(place, f"has image_id {shown(image_id)}, which is not among the images")
            return
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            self._add_issue(place, f"must have an iscrowd of 0 or 1, got {shown(crowd)}")
            return
        box, boxed = self._box(entry.get("bbox"), place, image.size)
        segmentation = self._segmentation(entry.get("segmentation"), place)
        label = self.labels.get(category)
        if not boxed or segmentation is None or label is None:
            return
        found = Annotation(number, label, box, segmentation, bool(crowd))
        (image.crowds if crowd else image.objects).append(found)

    def _box(self, bbox: Any, place: str, size: Size) -> tuple[tuple[float, float, float, float] | None, bool]:
        """Return an annotation's corners, clipped to the image, if it has a bbox, and whether the object is kept."""
        if bbox is None:
            return None, True
        if not isinstance(bbox, (list, tuple)) or len(bbox) != 4 or not all(map(_is_finite, bbox)):
            self._add_issue(
                place, f"must have four finite numbers (x, y, width, height) as its bbox, got {shown(bbox)}"
            )
            return None, False
        x, y, w, h = map(float, bbox)
        height, width = size
        x1, x2 = (min(max(v, 0.0), width) for v in (x, x + w))
        y1, y2 = (min(max(v, 0.0), height) for v in (y, y + h))
        # A small side must still be one in float32, as the model will see it.
        if min(x2 - x1, y2 - y1) < 1 and not (np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)):
            problem = f"has the bbox ({x:g}, {y:g}, {w:g}, {h:g}), without area in its image of {height} × {width}"
            self._add_issue(place, f"{problem}: it is left out", fatal=False)
            return None, False
        return (x1, y1, x2, y2), True

    def _segmentation(self, value: Any, place: str) -> Any:
        """Return a segmentation with arrays for lists of numbers, or None after adding an issue."""
        if value is None or (isinstance(value, (list, tuple, Mapping)) and not value):
            self._add_issue(place, "has no segmentation: give it polygons or a run-length encoding, or remove it")
            return None
        if isinstance(value, Mapping):
            counts = value.get("counts")
            if isinstance(counts, list) and all(_is_integer(n) and 0 <= n < 2**31 for n in counts):
                return {"size": value.get("size"), "counts": np.array(counts, np.int32)}
            return value
        if not isinstance(value, (list, tuple)):
            self._add_issue(
                place, f"must have polygons or a run-length encoding as its segmentation, got {shown(value)}"
            )
            return None
        try:
            return [check_polygon(polygon) for polygon in value]
        except ValueError as error:
            self._add_issue(place, f"has a polygon that {error}")
            return None

    def _check_encodings(self, image: AnnotatedImage) -> None:
        """Remove objects whose run-length encoding is malformed or of another size than the image."""
        encoded = [a for a in (*image.objects, *image.crowds) if isinstance(a.segmentation, Mapping)]
        if not encoded:
            return
        try:
            CompressedMasks.from_coco((a.segmentation for a in encoded), image.size)  # all at once, which is fast
        except (TypeError, ValueError):
            wrong = {a.id for a in encoded if self._is_wrong(a, image)}
            image.objects = [a for a in image.objects if a.id not in wrong]
            image.crowds = [a for a in image.crowds if a.id not in wrong]

    def _is_wrong(self, annotation: Annotation, image: AnnotatedImage) -> bool:
        place = f"annotation {annotation.id}"
        try:
            _, size = parse_rle(annotation.segmentation)
        except (TypeError, ValueError) as error:
            self._add_issue(place, f"has a segmentation that is malformed: {str(error).rstrip('.')}")
            return True
        if size != image.size:
            (h, w), (height, width) = size, image.size
            problem = f"has a segmentation of {h} × {w} pixels (height × width)"
            self._add_issue(place, f"{problem}, but its image {image.id} has {height} × {width}")
        return size != image.size


def _select_categories(
    names: Mapping[int, str], categories: Sequence[str] | Mapping[int, str] | None
) -> dict[int, int]:
    """Return label -> category id of the categories wanted."""
    if categories is None:
        return dict(enumerate(names, start=1))
    if isinstance(categories, Mapping):
        wanted = {positive_int("A label of categories", k): text(f"categories[{k}]", v) for k, v in categories.items()}
    elif isinstance(categories, str) or not isinstance(categories, Sequence):
        raise TypeError(f"categories must be a list of names, or a dict of labels and names, got {shown(categories)}.")
    else:
        wanted = dict(enumerate(sequence("categories", list(categories), text), start=1))
    if not wanted:
        raise ValueError("categories must have at least one name; None means all categories of the file.")
    ids = {name: i for i, name in names.items()}
    for name in wanted.values():
        if list(names.values()).count(name) != 1:
            times = "twice" if name in ids else "not"
            raise ValueError(f"categories has {name!r}, which is {times} among those of the file, {shown([*ids])}.")
        if list(wanted.values()).count(name) > 1:
            raise ValueError(f"categories must have each name once, got {name!r} twice.")
    return {label: ids[name] for label, name in sorted(wanted.items())}


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    if isinstance(value, (float, np.floating)):
        return math.isfinite(value)
    return _is_integer(value) and abs(value) < 2**53
