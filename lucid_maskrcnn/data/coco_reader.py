"""Reading COCO annotations: the one reading that checking, training and evaluating share.

Every entry is checked, and what is wrong becomes an issue. The rule of what counts as an object is the same for all:

* A crowd is no object: it is not trained on, and an evaluation ignores what lies on it.
* An object needs a mask that has a pixel in its image. Tiny ones without any are left out, with a warning.
* The box of an object is its bbox, clipped to the image, if that fits its mask to a pixel, and otherwise the one around
  its mask. A bbox or an area that is no number, or is missing, is computed from the mask.
* An entry with a fault is left out: everything of an image, or one annotation.

Shapes: G objects of an image.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from lucid_maskrcnn.config import CategoryNames
from lucid_maskrcnn.images import Size, size_mismatch, size_on_disk
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.parts import count_large_parts
from lucid_maskrcnn.masks.polygons import PolygonError, check_polygon, fill_polygons
from lucid_maskrcnn.masks.rle import parse_rle
from lucid_maskrcnn.validators import MAX_PIXELS, positive_int, sequence, shown, text

from .annotation_checks import FAR, Box, check_mask, is_plain, same_pixels
from .image_folder import ImageFolder
from .issues import Issue, Level, unreadable

__all__ = ["AnnotatedImage", "Annotation", "CocoReader"]

_STANDARD = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"})
_GROUP = 500  # annotations whose masks are made at once
_MANY_SPLIT = 4  # objects of several parts that are worth a word
_MAX_NAME = 100  # characters of a file name that a message has
_NO_BOX = (math.nan,) * 4
_NUMBERS_AS_TEXT = "write numbers as numbers, 7 and not '7'"


@dataclass(slots=True)
class Annotation:
    """One object of an image."""

    id: int
    label: int
    category_id: int
    box: Box | None  # x1, y1, x2, y2, clipped to the image; None until it is computed from the mask
    bbox: Any  # as in the file; None if it is not used
    area: float | None  # as in the file; None until it is computed from the mask
    segmentation: Any  # a run-length encoding, or a list of polygons as arrays
    crowd: bool
    extra: Mapping[str, Any]  # the file's other keys


@dataclass(slots=True)
class AnnotatedImage:
    """One image and its annotations."""

    id: int
    file_name: str
    size: Size
    said_by: str | None = "the annotations say"  # who says the size; None if it is the file's own
    extra: Mapping[str, Any] = field(default_factory=dict)  # the file's other keys
    annotations: list[Annotation] = field(default_factory=list)  # in the file's order

    @property
    def place(self) -> str:
        """What messages call it."""
        return _place(self.id, self.file_name)

    @property
    def objects(self) -> list[Annotation]:
        """The annotations that are no crowds."""
        return [a for a in self.annotations if not a.crowd]

    @property
    def crowds(self) -> list[Annotation]:
        """The crowds."""
        return [a for a in self.annotations if a.crowd]

    def target(self) -> dict[str, Any]:
        """Return the target of the image: its objects without the crowds."""
        objects = self.objects
        return {
            "boxes": np.array([o.box for o in objects], np.float32).reshape(-1, 4),  # (G, 4)
            "labels": np.array([o.label for o in objects], np.int32),
            "masks": CompressedMasks.from_coco([o.segmentation for o in objects], self.size),
            "iscrowd": np.zeros(len(objects), np.uint8),
            "image_id": self.id,
        }


class CocoReader:
    """Reads the content of a file once, and collects its issues.

    Parameters
    ----------
    content : mapping
        What :func:`~lucid_maskrcnn.annotation_formats.read_annotations` returns.
    images_dir : Path
    categories : sequence of str, or mapping of int to str, optional
        As for :class:`~lucid_maskrcnn.data.CocoInstances`.

    Attributes
    ----------
    images : list of AnnotatedImage
        In the file's order, without the entries that have faults.
    categories, category_ids : dict
        Label -> name and id.
    category_entries : list of mapping
        Those of the file for these categories.
    issues : list of Issue
        In the order in which they are found. They raise nothing here.
    unopened : set of int
        Ids of the images whose file is missing, cannot be opened or is of another size. They are among ``images``.
    num_wanted : int
        Annotations in the file that are not of a category that was not chosen.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        images_dir: Path,
        categories: Sequence[str] | Mapping[int, str] | None = None,
    ) -> None:
        self.images_dir = images_dir
        self.issues: list[Issue] = []
        self._folder = ImageFolder(images_dir)
        names = self._names(content, chosen=categories is not None)
        self.category_ids = _select_categories(names, categories)
        self.categories = CategoryNames({k: names[i] for k, i in self.category_ids.items()}, self.category_ids)
        others = self.known - set(self.category_ids.values()) if categories is not None else set()
        self.num_wanted = sum(not _has_category(a) or a["category_id"] not in others for a in content["annotations"])
        self.labels = {i: label for label, i in self.category_ids.items()}
        self.category_entries = [entry for i, entry in self._entries.items() if i in self.labels]
        self.unopened: set[int] = set()
        self._image_ids: set[int] = set()  # also those of refused images: their annotations get no issue for it
        self.images = list(self._images(content["images"]))
        self.by_id = {image.id: image for image in self.images}
        self._annotations(content["annotations"])
        self._objects, self._split = 0, 0  # seen, and those of several parts
        self._settle()
        if self._split >= max(_MANY_SPLIT, self._objects / 2):
            problem = f"has {self._split:,} of {self._objects:,} objects that consist of several separate parts"
            remedy = "if a mask has several objects, give each an annotation of its own"
            self._add_issue("the file", problem, remedy, kind="parts", level="warning")

    def _add_issue(self, place: str, problem: str, remedy: str = "", *, kind: str = "", level: Level = "fault") -> None:
        self.issues.append(Issue(place, problem, level, remedy, kind))

    # -------------------------------------------------------------- categories

    def _names(self, content: Mapping[str, Any], *, chosen: bool) -> dict[int, str]:
        """Return id -> name of the categories that can be had, in the order of the ids."""
        self.known: set[int] = set()
        self._entries: dict[int, Mapping[str, Any]] = {}
        names: dict[int, str] = {}
        for k, entry in enumerate(content["categories"]):
            number = self._id(entry, f"categories[{k}]", self.known, "category")
            if number is None:
                continue
            self.known.add(number)
            self._entries[number] = entry
            if not isinstance(entry.get("name"), str) or not entry["name"].strip():
                self._add_issue(f"category {number}", f"must have a name, got {shown(entry.get('name'))}", kind="name")
                continue
            names[number] = entry["name"]
        if not chosen:
            used = {a.get("category_id") for a in content["annotations"] if _has_category(a)}
            self._check_names(names)
            self._drop_parents(names, content["categories"], used)
        return dict(sorted(names.items()))

    def _check_names(self, names: dict[int, str]) -> None:
        """Add an issue for each name that comes twice, and leave the second out."""
        first: dict[str, int] = {}
        for number, name in sorted(names.items()):
            other = first.setdefault(name, number)
            if other != number:
                remedy = "rename one, or give the objects of both one category_id"
                problem = f"has the name {name!r} of category {other}"
                self._add_issue(f"category {number}", problem, remedy, kind="same name")
                del names[number]
        folded: dict[str, str] = {}
        for number, name in sorted(names.items()):
            other_name = folded.setdefault(" ".join(name.casefold().split()), name)
            if other_name != name:
                problem = f"{name!r} and {other_name!r} differ only in case or spaces: they are two classes"
                self._add_issue(f"category {number}", problem, kind="similar name", level="warning")

    def _drop_parents(self, names: dict[int, str], entries: Iterable[Any], used: set[Any]) -> None:
        """Leave out categories without objects that are only the supercategory of others."""
        known = [c for c in entries if _id_of(c) in names and isinstance(c.get("supercategory"), str)]
        parents = {c["supercategory"] for c in known if c["supercategory"] != c.get("name")}
        for number, name in list(names.items()):
            if number not in used and name in parents and len(names) > 1:
                problem = "has no objects and is the supercategory of others: it is no class and is left out"
                self._add_issue(f"category {number} ({name!r})", problem, kind="parent", level="warning")
                del names[number]

    # -------------------------------------------------------------- images

    def _id(self, entry: Any, place: str, taken: Mapping[int, Any] | set[int], kind: str) -> int | None:
        """Return an entry's id, or None after adding an issue."""
        if not isinstance(entry, Mapping):
            self._add_issue(place, f"must be a mapping, got {shown(entry)}", kind="mapping")
            return None
        number = entry.get("id")
        if not _is_integer(number):
            remedy = _remedy_of_number(number, f"number the {kind} entries from 1 on")
            problem = f"must have an integer as its id, got {shown(number)}"
            self._add_issue(place, problem, remedy, kind=f"id of {kind}")
            return None
        if abs(number) >= 2**63:
            self._add_issue(place, f"must have an id of at most 64 bits, got {shown(number)}", kind=f"id of {kind}")
            return None
        if number in taken:
            remedy = "ids must be unique, number them from 1 on"
            self._add_issue(f"{kind} {number}", "is there twice", remedy, kind=f"twice {kind}")
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
                url = entry.get("coco_url")
                last = url.rpartition("/")[2] if isinstance(url, str) else ""
                remedy = f"the last part of its coco_url, {last!r}, may be it" if last else ""
                other = next((key for key in ("filename", "path", "name", "file") if key in entry), None)
                remedy = remedy if other is None else f"it has {other!r}: call that file_name"
                problem = f"must have a file_name, got {shown(name)}"
                self._add_issue(f"image {number}", problem, remedy, kind="file_name")
                continue
            self._check_repeated(number, name, files)
            size = self._size(entry, number, name)
            if size is not None:
                extra = {k: v for k, v in entry.items() if k not in ("id", "file_name", "height", "width")}
                has_size = entry.get("height") is not None or entry.get("width") is not None
                yield AnnotatedImage(number, name, size, "the annotations say" if has_size else None, extra)

    def _check_repeated(self, number: int, name: str, files: dict[str, int]) -> None:
        other = files.setdefault(os.path.normpath(name), number)
        if other != number:
            problem = f"is the same file as image {other}, {name!r}"
            remedy = "give all its annotations one image_id, or its objects are background in the other"
            self._add_issue(f"image {number}", problem, remedy, kind="same file", level="warning")

    def _size(self, entry: Mapping[str, Any], number: int, name: str) -> Size | None:
        place, path = _place(number, name), self.images_dir / name
        found = self._size_on_disk(number, place, name)
        height, width = entry.get("height"), entry.get("width")
        if height is None and width is None:
            return found
        if not (_is_side(height) and _is_side(width) and height * width <= MAX_PIXELS):
            given = f"{shown(height)} and {shown(width)}"
            problem = f"must have a height and a width that are positive integers, got {given}"
            remedy = _NUMBERS_AS_TEXT if isinstance(height, str) or isinstance(width, str) else ""
            self._add_issue(place, problem, remedy or "without both, the file's own size is taken", kind="size")
            return None
        said = int(height), int(width)
        if found is not None and found != said:
            problem = size_mismatch(path, found, said, "the annotations say")
            remedy = "height and width are swapped" if found == said[::-1] and "EXIF" not in problem else ""
            self._add_issue(place, problem, remedy, kind=f"other size {remedy}")
            self.unopened.add(number)
        return said

    def _size_on_disk(self, number: int, place: str, name: str) -> Size | None:
        wrong = self._folder.find(name)
        if wrong is not None:
            self._add_issue(place, *wrong, kind=wrong[0])
        else:
            try:
                return size_on_disk(self.images_dir / name)[0]
            except ValueError as error:
                self.issues.append(unreadable(place, error))
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
        if number == 0:
            problem = "has id 0, which COCO's evaluation takes for a missing object: count from 1"
            self._add_issue(place, problem, level="warning")
        image_id, category = entry.get("image_id"), entry.get("category_id")
        if not _is_integer(category) or category not in self.known:
            remedy = f"their ids are {shown(sorted(self.known))}" if self.known else "the file lists none"
            remedy = _remedy_of_number(category, remedy)
            problem = f"has category_id {shown(category)}, which is not among the categories"
            self._add_issue(place, problem, remedy, kind="category_id")
            return
        if not _is_integer(image_id) or image_id not in self._image_ids:
            remedy = _remedy_of_number(image_id, "")
            problem = f"has image_id {shown(image_id)}, which is not among the images"
            self._add_issue(place, problem, remedy, kind="image_id")
            return
        image, crowd = self.by_id.get(image_id), entry.get("iscrowd")
        if image is None:
            return  # an issue of the image
        if crowd is not None and (isinstance(crowd, (list, tuple, Mapping, str)) or crowd not in (0, 1)):
            self._add_issue(place, f"must have an iscrowd of 0 or 1, got {shown(crowd)}", kind="iscrowd")
            return
        (bbox, box), area = self._bbox(entry, place, image.size), self._area(entry, place)
        segmentation = self._segmentation(entry.get("segmentation"), place)
        label = self.labels.get(category)
        if segmentation is None or label is None:
            return
        extra = {} if _STANDARD.issuperset(entry) else {k: v for k, v in entry.items() if k not in _STANDARD}
        found = Annotation(number, label, int(category), box, bbox, area, segmentation, bool(crowd), extra)
        image.annotations.append(found)

    def _bbox(self, entry: Mapping[str, Any], place: str, size: Size) -> tuple[Any, Box | None]:
        """Return an annotation's bbox, and its corners within the image; None if there is none that can be used."""
        bbox = entry.get("bbox")
        if bbox is None:
            if "bbox" in entry:
                self._add_issue(place, "has no bbox: the box around its segmentation is used", level="warning")
            return None, None
        if not isinstance(bbox, (list, tuple)) or len(bbox) != 4 or not all(map(_is_finite, bbox)):
            problem = f"must have four finite numbers (x, y, width, height) as its bbox, got {shown(bbox)}"
            remedy = "the box around its segmentation is used"
            self._add_issue(place, problem, remedy, kind="bbox", level="warning")
            return None, None
        x1, y1, x2, y2 = _clipped(bbox, size)
        # A small side must still be one in float32, as the model will see it.
        if min(x2 - x1, y2 - y1) < 1 and not (np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)):
            values = ", ".join(f"{v:g}" for v in bbox)
            problem = f"has the bbox ({values}), without area in its image of {size[0]} × {size[1]}"
            remedy = "the box around its segmentation is used"
            self._add_issue(place, problem, remedy, kind="bbox without area", level="warning")
            return None, None
        return bbox, (x1, y1, x2, y2)

    def _area(self, entry: Mapping[str, Any], place: str) -> Any:
        """Return an annotation's area, or None if there is none that can be used."""
        area = entry.get("area")
        if "area" not in entry or (area is not None and _is_finite(area) and area >= 0):
            return area
        problem = f"must have a number of pixels as its area, got {shown(area)}"
        self._add_issue(place, problem, "its segmentation's pixels are counted", kind="area", level="warning")
        return None

    def _segmentation(self, value: Any, place: str) -> Any:
        """Return a segmentation with arrays for lists of numbers, or None after adding an issue."""
        if value is None or (isinstance(value, (list, tuple, Mapping)) and not value):
            remedy = "give it polygons or a run-length encoding, or remove it"
            self._add_issue(place, "has no segmentation", remedy, kind="no segmentation")
            return None
        if isinstance(value, Mapping):
            counts = value.get("counts")
            if isinstance(counts, list) and all(_is_integer(n) and 0 <= n < 2**31 for n in counts):
                return {"size": value.get("size"), "counts": np.array(counts, np.int32)}
            return value
        if not isinstance(value, (list, tuple)):
            problem = f"must have polygons or a run-length encoding as its segmentation, got {shown(value)}"
            remedy = "write the list itself, without quotes" if isinstance(value, str) and "[" in value else ""
            self._add_issue(place, problem, remedy, kind="segmentation")
            return None
        if all(map(_is_number, value)):
            problem = f"has a segmentation that is one flat list of numbers, {shown(value)}"
            self._add_issue(place, problem, "it is a list of polygons, put [ ] around it", kind="flat segmentation")
            return None
        return self._polygons(value, place)

    def _polygons(self, value: Sequence[Any], place: str) -> list[np.ndarray] | None:
        try:
            return [check_polygon(polygon) for polygon in value]
        except ValueError as error:
            first = value[0]
            remedy = ""
            if isinstance(first, (list, tuple)) and first and all(isinstance(p, (list, tuple, Mapping)) for p in first):
                remedy = "write its points one after the other, [x, y, x, y, …], not [[x, y], …]"
            elif isinstance(first, (list, tuple)) and len(first) == 4:
                remedy = "four numbers are a box: write its four corners, or remove the annotation"
            elif isinstance(first, (list, tuple)) and any(isinstance(number, str) for number in first):
                remedy = _NUMBERS_AS_TEXT
            elif all(isinstance(p, (list, tuple)) and len(p) == 2 for p in value):
                remedy = "write its points one after the other, [[x, y, x, y, …]], not [[x, y], …]"
            self._add_issue(place, f"has a polygon that {error}", remedy, kind=f"polygon {remedy or error}")
            return None

    # -------------------------------------------------------------- masks

    def _settle(self) -> None:
        """Compare the boxes with the masks, complete what is missing, and drop what has no mask."""
        by_size: dict[Size, list[AnnotatedImage]] = {}
        for image in self.images:
            if image.annotations:
                by_size.setdefault(image.size, []).append(image)
        found: dict[int, list[Issue]] = {}
        for images in by_size.values():
            for group in _groups(images):
                self._settle_group(group, found)
        self.issues += [issue for image in self.images for issue in found.get(image.id, [])]

    def _settle_group(self, images: Sequence[AnnotatedImage], found: dict[int, list[Issue]]) -> None:
        """Settle images of one size at once, which is faster than one by one; issues are added by image id."""
        size = images[0].size
        pairs = [(a, image.id) for image in images for a in image.annotations]
        plain = is_plain(pairs, size).tolist()
        checked = [pair for pair, skipped in zip(pairs, plain, strict=True) if not skipped]
        try:
            masks = CompressedMasks.from_coco((a.segmentation for a, _ in checked), size)
        except (TypeError, ValueError):
            if len(images) > 1:
                for image in images:
                    self._settle_group([image], found)
            elif self._drop_malformed(images[0]):
                self._settle_group(images, found)
            return
        self._objects += sum(not a.crowd for a, _ in pairs)
        rows = [i for i, (a, _) in enumerate(checked) if not a.crowd and len(a.segmentation) > 1]  # parts or encoded
        self._split += int((count_large_parts(masks[np.array(rows, int)]) > 1).sum())
        self._compare(checked, masks, images, found)
        for image_id, issue in same_pixels(checked, masks):
            found.setdefault(image_id, []).append(issue)

    def _drop_malformed(self, image: AnnotatedImage) -> bool:
        """Take annotations that are no masks out of an image, or all, and return whether some are left."""
        malformed = {a.id for a in image.annotations if self._is_malformed(a, image.id, image.size)}
        if not malformed:
            problem = "has outlines too long to be filled together"
            self._add_issue(image.place, problem, "make its polygons simpler", kind="endless polygons")
            self.unopened.add(image.id)
            malformed = {a.id for a in image.annotations}
        _drop([image], malformed)
        return bool(image.annotations)

    def _compare(
        self,
        pairs: Sequence[tuple[Annotation, int]],
        masks: CompressedMasks,
        images: Sequence[AnnotatedImage],
        found: dict[int, list[Issue]],
    ) -> None:
        """Compare the boxes of annotations with their masks, add issues by image id, and settle box and area."""
        size, tight, areas = masks.image_size, masks.boxes, masks.areas.tolist()
        given = np.array([a.box or _NO_BOX for a, _ in pairs], np.float64).reshape(-1, 4)
        bboxes = np.array([a.bbox or _NO_BOX for a, _ in pairs], np.float64).reshape(-1, 4)
        fits = np.abs(given - tight).max(axis=1, initial=0) <= 1
        far = (bboxes[:, :2] + bboxes[:, 2:]).max(axis=1, initial=0) > min(size) + FAR
        dropped = set()
        for i in np.flatnonzero(far | ~fits | (masks.areas <= 1)).tolist():
            annotation, image_id = pairs[i]
            issue = check_mask(annotation, size, tight[i], areas[i])
            if issue is not None:
                found.setdefault(image_id, []).append(issue)
            if not areas[i] or (issue is not None and issue.fatal):
                dropped.add(annotation.id)
            elif not fits[i]:
                x1, y1, x2, y2 = tight[i].tolist()
                annotation.box, annotation.bbox = (x1, y1, x2, y2), None
        for (annotation, _), area in zip(pairs, areas, strict=True):
            annotation.area = float(area) if annotation.area is None else annotation.area
        _drop(images, dropped)

    def _is_beyond_filling(self, polygons: Sequence[np.ndarray], place: str, size: Size) -> bool:
        """Whether polygons that have been checked still cannot be filled, after adding an issue."""
        try:
            fill_polygons(polygons, size)
        except PolygonError as error:
            self._add_issue(place, f"has a polygon that {error}", kind="endless polygon")
            return True
        return False

    def _is_malformed(self, annotation: Annotation, image_id: int, image_size: Size) -> bool:
        """Whether a segmentation is no mask of its image, after adding an issue."""
        place = f"annotation {annotation.id}"
        if not isinstance(annotation.segmentation, Mapping):
            return self._is_beyond_filling(annotation.segmentation, place, image_size)
        try:
            _, size = parse_rle(annotation.segmentation)
        except (TypeError, ValueError) as error:
            problem = f"has a segmentation that is malformed: {str(error).rstrip('.')}"
            counts = annotation.segmentation.get("counts")
            is_repr = isinstance(counts, str) and counts.startswith(("b'", 'b"'))
            remedy = "write counts.decode(), not str(counts)" if is_repr else ""
            self._add_issue(place, problem, remedy, kind=f"malformed encoding {remedy}")
            return True
        if size != image_size:
            (h, w), (height, width) = size, image_size
            problem = f"has a segmentation of {h} × {w} pixels (height × width)"
            remedy = "its size is [height, width]" if size == image_size[::-1] else ""
            problem = f"{problem}, but its image {image_id} has {height} × {width}"
            self._add_issue(place, problem, remedy, kind="encoding of another size")
        return size != image_size


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


def _drop(images: Iterable[AnnotatedImage], ids: set[int]) -> None:
    """Take annotations out of their images."""
    for image in images if ids else ():
        image.annotations = [a for a in image.annotations if a.id not in ids]


def _groups(images: Sequence[AnnotatedImage]) -> Iterable[list[AnnotatedImage]]:
    """Yield the images in groups of some hundred annotations."""
    group: list[AnnotatedImage] = []
    count = 0
    for image in images:
        group.append(image)
        count += len(image.annotations)
        if count >= _GROUP:
            yield group
            group, count = [], 0
    if group:
        yield group


def _place(number: int, name: str) -> str:
    return f"image {number} ({name if len(name) <= _MAX_NAME else '…' + name[-_MAX_NAME:]})"


def _remedy_of_number(value: Any, otherwise: str) -> str:
    """Return what to do about an id that is no integer."""
    if isinstance(value, (float, np.floating)):
        return "write whole numbers without a point, 7 and not 7.0"
    return _NUMBERS_AS_TEXT if isinstance(value, str) else otherwise


def _clipped(bbox: Sequence[float], size: Size) -> Box:
    """Return the corners of a bbox within its image."""
    x, y, w, h = map(float, bbox)
    height, width = size
    x1, y1 = min(max(x, 0.0), width), min(max(y, 0.0), height)
    return x1, y1, min(max(x + w, 0.0), width), min(max(y + h, 0.0), height)


def _id_of(entry: Any) -> int | None:
    number = entry.get("id") if isinstance(entry, Mapping) else None
    return int(number) if _is_integer(number) else None


def _has_category(entry: Any) -> bool:
    return isinstance(entry, Mapping) and _is_integer(entry.get("category_id"))


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_side(value: Any) -> TypeGuard[int]:
    return _is_integer(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    if isinstance(value, (float, np.floating)):
        return math.isfinite(value)
    return _is_integer(value) and abs(value) < 2**53
