"""Annotations in COCO's format: one JSON file of images, categories and objects.

What is done with odd ones is what torchvision's detection references do, where they do something: crowds
and boxes without area are no objects to train on, several polygons are joined, boxes are cut at the
image. Where those would fail in the middle of an epoch, the file is refused before training starts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import complete_annotation
from lucid_maskrcnn.images import Size, load_checked, size_mismatch, size_on_disk
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.polygons import check_polygon
from lucid_maskrcnn.masks.rle import brief, parse

from .issues import Issue, cannot_be_used, raise_first_fatal

__all__ = ["CocoInstances"]

_SPECK = 1  # pixels; a side no longer than this is none, where images with such boxes only are left out


@dataclass(slots=True)
class Annotation:
    """One object of an image."""

    id: int
    label: int
    box: tuple[float, float, float, float] | None  # x1, y1, x2, y2, cut at the image; None where the file has none
    segmentation: Any  # a run-length encoding, or a list of polygons as arrays
    crowd: bool


@dataclass(slots=True)
class AnnotatedImage:
    """One image, and what is annotated on it."""

    id: int
    file_name: str
    size: Size
    objects: list[Annotation] = field(default_factory=list)
    crowds: list[Annotation] = field(default_factory=list)


class CocoInstances:
    """Images and their objects, from a file in COCO's format.

    ``dataset[i]`` is the image, a uint8 array (H, W, 3), and its target: ``"boxes"`` (G, 4) float32 corners in
    pixels, ``"labels"`` (G,) int32, ``"masks"`` (:class:`~lucid_maskrcnn.masks.CompressedMasks`), ``"iscrowd"``
    (G,) uint8, all zero, and ``"image_id"``.

    Crowds and objects whose box has no area within the image are left out, as torchvision's detection references
    do; :meth:`coco` has them still. Boxes are the annotations' own, or around the mask where there is none.

    Parameters
    ----------
    images_dir : str or Path
        The folder that ``file_name`` starts from.
    annotations : str, Path or mapping
        The JSON file, or its content.
    keep_empty : bool
        Whether images without objects stay. Without, those go too whose objects are all one pixel wide or high.
    categories : sequence of str, or mapping of int to str, optional
        Names of the categories wanted: labels are 1, 2, … in this order, or the mapping's keys. Objects of others are
        left out. By default all, in the order of their ids.

    Attributes
    ----------
    categories : dict of int to str
        Label -> name.
    category_ids : dict of int to int
        Label -> the id in the file.
    image_ids : list of int
    file_names : list of str
    sizes : list of (height, width)
        As the file says; from the image itself where it does not.
    object_counts : list of int
        Number of objects of each image.

    Raises
    ------
    ValueError
        If the file is no such file or has a fatal issue: an image is missing, cannot be opened or has another size,
        ids are unknown or come twice, a segmentation is missing, malformed or of another size than its image, a number
        is not finite.
    """

    def __init__(
        self,
        images_dir: str | Path,
        annotations: str | Path | Mapping[str, Any],
        *,
        keep_empty: bool = True,
        categories: Sequence[str] | Mapping[int, str] | None = None,
    ) -> None:
        self.images_dir = Path(images_dir)
        self.source: Path | Mapping[str, Any] = (
            annotations if isinstance(annotations, Mapping) else Path(annotations).absolute()
        )
        reader = Reader(read_json(annotations), self.images_dir, categories)
        raise_first_fatal(
            "the annotations" if isinstance(annotations, Mapping) else repr(str(annotations)), reader.issues
        )
        self.categories, self.category_ids = reader.categories, reader.category_ids
        self._images = [p for p in reader.images if keep_empty or any(map(_worth_it, p.objects))]
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

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        annotated = self._images[index]
        pixels = load_checked(self.images_dir / annotated.file_name, annotated.size, "the annotations say")
        return pixels, target_of(annotated)

    def coco(self) -> dict[str, Any]:
        """Return what an evaluation needs: the file's images, annotations and categories, as far as they are in use.

        Crowds are among the annotations. Those that lack ``"area"``, ``"bbox"`` or ``"iscrowd"`` have it here.
        """
        source = read_json(self.source)
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


def target_of(image: AnnotatedImage) -> dict[str, Any]:
    """Return the target of an image."""
    objects = image.objects
    masks = CompressedMasks.from_coco([o.segmentation for o in objects], image.size)
    boxes = np.array([o.box or (0, 0, 0, 0) for o in objects], np.float32).reshape(-1, 4)
    unboxed = [i for i, o in enumerate(objects) if o.box is None]
    if unboxed:
        boxes[unboxed] = masks[unboxed].boxes
    return {
        "boxes": boxes,
        "labels": np.array([o.label for o in objects], np.int32),
        "masks": masks,
        "iscrowd": np.zeros(len(objects), np.uint8),
        "image_id": image.id,
    }


def _worth_it(annotation: Annotation) -> bool:
    if annotation.box is None:
        return True
    x1, y1, x2, y2 = annotation.box
    return x2 - x1 > _SPECK and y2 - y1 > _SPECK


# ------------------------------------------------------------------ the file


def read_json(annotations: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of an annotation file: a mapping with the three lists of COCO's format.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if isinstance(annotations, Mapping):
        content: Any = annotations
        name = "annotations"
    else:
        name = repr(str(annotations))
        try:
            content = json.loads(Path(annotations).read_bytes())
        except ValueError as error:  # bytes that are no text too
            raise ValueError(f"{name} is not JSON: {str(error).rstrip('.')}.") from error
    if isinstance(content, list):
        raise ValueError(f"{name} is a list, as results are: annotations are a mapping with 'images'.")
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{name} must be a mapping with 'images', 'annotations' and 'categories', got {brief(content)}."
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), (list, tuple)):
            raise ValueError(f"{name} has no list of {key!r}: it has {list(content)}.")
    return content


class Reader:
    """Goes through a file once and collects what is in it, and what is wrong with it.

    Parameters
    ----------
    content : mapping
        What :func:`read_json` returns.
    images_dir : Path
    categories : sequence of str, or mapping of int to str, optional
        As for :class:`CocoInstances`.

    Attributes
    ----------
    images : list of AnnotatedImage
        In the file's order; without what is faulty.
    categories, category_ids : dict
        Label -> name and id.
    issues : list of Issue
        None of them raises anything here.
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
        self.category_ids = _chosen(names, categories)
        self.categories = {label: names[i] for label, i in self.category_ids.items()}
        self.labels = {i: label for label, i in self.category_ids.items()}
        self.unopened: set[int] = set()
        self._image_ids: set[int] = set()  # with those of faulty images, whose annotations are not to blame
        self.images = list(self._images(content["images"]))
        self.by_id = {image.id: image for image in self.images}
        self._annotations(content["annotations"])
        for image in self.images:
            self._check_encodings(image)

    def _issue(self, place: str, what: str, *, fatal: bool = True) -> None:
        self.issues.append(Issue(place, what, fatal))

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
                self._issue(f"category {number}", f"must have a name, got {brief(entry.get('name'))}")
            else:
                names[number] = entry["name"]
        return dict(sorted(names.items()))

    def _id(self, entry: Any, place: str, taken: Mapping[int, Any] | set[int], kind: str) -> int | None:
        """Return an entry's id if it is one; anything else is an issue."""
        if not isinstance(entry, Mapping):
            self._issue(place, f"must be a mapping, got {brief(entry)}")
            return None
        number = entry.get("id")
        if not _is_integer(number):
            self._issue(place, f"must have an integer as its id, got {brief(number)}")
            return None
        if number in taken:
            self._issue(f"{kind} {number}", "is there twice: every id must be another")
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
                self._issue(f"image {number}", f"must have a file_name, got {brief(name)}")
                continue
            if name in files:
                self._issue(f"image {number}", f"is the same file as image {files[name]}, {name!r}", fatal=False)
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
            self._issue(place, f"must have a height and a width of 1 at least, got {brief(height)} and {brief(width)}")
            return None
        said = int(height), int(width)
        if found is not None and found != said:
            self._issue(place, size_mismatch(path, found, said, "the annotations say"))
        return said

    def _size_on_disk(self, number: int, place: str, path: Path) -> Size | None:
        try:
            if path.is_file():
                return size_on_disk(path)[0]
            self._issue(place, f"is not in {str(self.images_dir)!r}")
        except ValueError as error:
            self._issue(place, cannot_be_used(error))
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
            self._issue(place, "has id 0, which COCO's evaluation takes for no object: count from 1", fatal=False)
        if not _is_integer(category) or category not in self.known:
            self._issue(place, f"has category_id {brief(category)}, which is not among the categories")
            return
        if image is None:
            if not _is_integer(image_id) or image_id not in self._image_ids:
                self._issue(place, f"has image_id {brief(image_id)}, which is not among the images")
            return
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            self._issue(place, f"must have an iscrowd of 0 or 1, got {brief(crowd)}")
            return
        box, boxed = self._box(entry.get("bbox"), place, image.size)
        segmentation = self._segmentation(entry.get("segmentation"), place)
        label = self.labels.get(category)
        if not boxed or segmentation is None or label is None:
            return
        found = Annotation(number, label, box, segmentation, bool(crowd))
        (image.crowds if crowd else image.objects).append(found)

    def _box(self, bbox: Any, place: str, size: Size) -> tuple[tuple[float, float, float, float] | None, bool]:
        """Return an annotation's corners, cut at the image, if it has any, and whether it is an object with them."""
        if bbox is None:
            return None, True
        if not isinstance(bbox, (list, tuple)) or len(bbox) != 4 or not all(map(_is_finite, bbox)):
            self._issue(place, f"must have four finite numbers (x, y, width, height) as its bbox, got {brief(bbox)}")
            return None, False
        x, y, w, h = map(float, bbox)
        height, width = size
        x1, x2 = (min(max(v, 0.0), width) for v in (x, x + w))
        y1, y2 = (min(max(v, 0.0), height) for v in (y, y + h))
        # Of small differences it counts what is left of them in float32, as the model will see them.
        if min(x2 - x1, y2 - y1) < 1 and not (np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)):
            what = f"has the bbox ({x:g}, {y:g}, {w:g}, {h:g}), without area in its image of {height} × {width}"
            self._issue(place, f"{what}: it is left out", fatal=False)
            return None, False
        return (x1, y1, x2, y2), True

    def _segmentation(self, value: Any, place: str) -> Any:
        """Return a segmentation in less memory, polygons as arrays, or None for a faulty one."""
        if value is None or (isinstance(value, (list, tuple, Mapping)) and not value):
            self._issue(place, "has no segmentation: give it polygons or run lengths, or take it out")
            return None
        if isinstance(value, Mapping):
            counts = value.get("counts")
            if isinstance(counts, list) and all(map(_is_integer, counts)) and max(counts, default=0) < 2**31:
                return {"size": value.get("size"), "counts": np.array(counts, np.int32)}
            return value
        if not isinstance(value, (list, tuple)):
            self._issue(place, f"must have polygons or run lengths as its segmentation, got {brief(value)}")
            return None
        try:
            return [check_polygon(polygon) for polygon in value]
        except ValueError as error:
            self._issue(place, f"has a polygon that {error}")
            return None

    def _check_encodings(self, image: AnnotatedImage) -> None:
        """Find run-length encodings that do not fit their image; take them out."""
        encoded = [a for a in (*image.objects, *image.crowds) if isinstance(a.segmentation, Mapping)]
        if not encoded:
            return
        try:
            CompressedMasks.from_coco((a.segmentation for a in encoded), image.size)  # quickly, all of them at once
        except ValueError:
            wrong = {a.id for a in encoded if self._is_wrong(a, image)}
            image.objects = [a for a in image.objects if a.id not in wrong]
            image.crowds = [a for a in image.crowds if a.id not in wrong]

    def _is_wrong(self, annotation: Annotation, image: AnnotatedImage) -> bool:
        place = f"annotation {annotation.id}"
        try:
            _, size = parse(annotation.segmentation)
        except ValueError as error:
            self._issue(place, f"has a segmentation that is malformed: {str(error).rstrip('.')}")
            return True
        if size != image.size:
            (h, w), (height, width) = size, image.size
            what = f"has a segmentation of {h} × {w} pixels (height × width)"
            self._issue(place, f"{what}, but its image {image.id} has {height} × {width}")
        return size != image.size


def _chosen(names: Mapping[int, str], categories: Sequence[str] | Mapping[int, str] | None) -> dict[int, int]:
    """Return label -> id of the categories wanted."""
    if categories is None:
        return dict(enumerate(names, start=1))
    if isinstance(categories, str):
        raise ValueError(f"categories must be a list of names, got the string {categories!r}.")
    wanted = categories if isinstance(categories, Mapping) else dict(enumerate(categories, start=1))
    if any(not _is_integer(label) or label < 1 for label in wanted):
        raise ValueError(f"categories must have labels from 1 on, got {brief(dict(wanted))}.")
    ids = {name: i for i, name in names.items()}
    for name in wanted.values():
        if list(names.values()).count(name) != 1:
            there = "twice" if name in ids else "not"
            raise ValueError(f"categories has {name!r}, which is {there} among those of the file, {brief([*ids])}.")
    return {label: ids[name] for label, name in sorted(wanted.items())}


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
