"""Reading annotations of any format that :mod:`lucid_maskrcnn.annotation_formats` has, recognized by their content.

Names: a *record* is an image with its objects, as :mod:`lucid_maskrcnn.annotation_formats.records` has them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats import cvat, label_images, labelme, via, voc, yolo
from lucid_maskrcnn.annotation_formats.coco import read_annotations
from lucid_maskrcnn.annotation_formats.records import AnnotationError, ImageRecord, ObjectRecord
from lucid_maskrcnn.annotation_formats.xml_text import parse_xml
from lucid_maskrcnn.images import size_on_disk
from lucid_maskrcnn.json_text import read_json
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.text_tables import count_of

from .coco_reader import CocoReader
from .image_finder import ImageFinder
from .image_folder import walk
from .issues import Issue, cannot_be_used, unreadable
from .label_image_dataset import LabelReader

__all__ = ["FORMATS", "OBJECTS_TABLE", "ForeignData", "Source", "read_foreign", "recognize"]

FORMATS = ("coco", "yolo", "labelme", "voc", "via", "cvat", "label-images")
OBJECTS_TABLE = "objects.csv"  # beside label images: the category of each of their numbers
_NO_LABELS = (
    "classes.txt",
    "readme.txt",
    "license.txt",
    "train.txt",
    "val.txt",
    "test.txt",
    "labelmap.txt",
    "obj.names",
)


@dataclass(frozen=True)
class Source:
    """What is read, and how.

    Attributes
    ----------
    path : Path
        A file or a folder.
    images_dir : Path or None
        The folder of the images; None for where the format has them.
    names : tuple of str
        The categories, if they were given.
    attribute : str or None
        Of VIA's regions, which has their category.
    """

    path: Path
    images_dir: Path | None = None
    names: tuple[str, ...] = ()
    attribute: str | None = None


@dataclass
class ForeignData:
    """What was read.

    Attributes
    ----------
    records : list of ImageRecord
    images_dir : Path
        The folder that file names are looked up in.
    categories : dict of str to int
        Name -> id.
    issues : list of Issue
    notes : list of str
        Sentences on what was not read.
    ids : list of int
        Of the images; empty where the format has none.
    """

    records: list[ImageRecord]
    images_dir: Path
    categories: dict[str, int] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    finder: ImageFinder | None = None


# ------------------------------------------------------------------ recognizing


def recognize(path: Path) -> str:
    """Return the format of a file or folder, one of ``FORMATS``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is none of them.
    """
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r}: No such file or directory.")
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if found is None:
        raise ValueError(
            f"{str(path)!r} is not recognized as annotations: give the format with --from (from_format=), one of "
            f"{', '.join(FORMATS)}."
        )
    return found


def _of_file(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return "yolo"
    if suffix == ".csv":
        return "via"
    if suffix == ".xml":
        return "cvat" if parse_xml(_bytes(path), repr(str(path))).tag == "annotations" else "voc"
    if suffix != ".json":
        return None
    content = read_json(path)
    if not isinstance(content, Mapping):
        return "coco"  # whose reader says what it is
    if "shapes" in content:
        return "labelme"
    values = [value for value in content.values() if isinstance(value, Mapping)]
    if "_via_img_metadata" in content or any("filename" in value and "regions" in value for value in values):
        return "via"
    return "coco"


def _of_folder(path: Path) -> str | None:
    if (path / "SegmentationObject").is_dir() or (path / "Annotations").is_dir():
        return "voc"
    names = [name for _, name in zip(range(5000), walk(path), strict=False)]
    suffixes = {Path(name).suffix.lower() for name in names}
    if suffixes & {".yaml", ".yml"} or any(Path(n).name.lower() == "classes.txt" for n in names):
        return "yolo"
    for suffix in (".json", ".xml"):
        first = next((name for name in names if name.lower().endswith(suffix)), None)
        if first is not None:
            return _of_file(path / first)
    if any(n.lower().endswith(".txt") and Path(n).name.lower() not in _NO_LABELS for n in names):
        return "yolo"
    return "label-images" if suffixes & label_images.SUFFIXES else None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{str(path)!r} is not text: byte {error.start} is not UTF-8.") from None


# ------------------------------------------------------------------ reading


def read_foreign(source: Source, format: str) -> ForeignData:
    """Return what a source of a format has; what is wrong with an entry is an issue, with all of it an error."""
    data = _READERS[format](source)
    if not data.categories:
        found = {o.name for record in data.records for o in record.objects}
        names = source.names or (voc.CLASSES if format == "voc" and found <= set(voc.CLASSES) else sorted(found))
        data.categories = {name: number for number, name in enumerate(names, start=1)}
    return data


def _folder_of(source: Source, *candidates: Path) -> Path:
    """Return the folder of the images: that given, or the first that is there."""
    return source.images_dir or next((folder for folder in candidates if folder.is_dir()), candidates[-1])


def _each(files: Sequence[Path], read: Callable[[Path], ImageRecord], issues: list[Issue]) -> list[ImageRecord]:
    """Return the records of some files, and add an issue for each that cannot be read."""
    records = []
    for file in files:
        try:
            records.append(read(file))
        except AnnotationError as error:
            issues.append(_refused(error))
        except ValueError as error:  # no JSON
            issues.append(_refused(error))
    return records


def _refused(error: Exception) -> Issue:
    return Issue("an entry", cannot_be_used(error), kind="entry")


def _files(folder: Path, *suffixes: str) -> list[Path]:
    return [folder / name for name in walk(folder) if Path(name).suffix.lower() in suffixes]


_BOX_KEYS = frozenset({"image_id", "category_id", "bbox", "area", "segmentation", "iscrowd"})


def _read_coco(source: Source) -> ForeignData:
    content = read_annotations(source.path)
    images_dir = _folder_of(source, source.path.parent)
    boxes: list[Any] = []
    rest: list[Any] = []
    for entry in content["annotations"]:
        is_box = isinstance(entry, Mapping) and not entry.get("segmentation") and _is_bbox(entry.get("bbox"))
        (boxes if is_box else rest).append(entry)
    reader = CocoReader({**content, "annotations": rest}, images_dir)
    missing = f"is not in {str(images_dir)!r}"
    given = source.images_dir is not None
    places = {image.place for image in reader.images if image.id in reader.unopened}
    issues = [i for i in reader.issues if given or i.kind != missing or i.place not in places]
    names = {number: reader.categories[label] for label, number in reader.category_ids.items()}
    records = {}
    for image in reader.images:
        if any(i.fatal and i.place == image.place for i in issues):
            continue
        record = records[image.id] = ImageRecord(image.file_name, image.size, source=str(source.path))
        for a in image.annotations:
            extra = {"id": a.id, **a.extra}
            record.objects.append(
                ObjectRecord(
                    names[a.category_id], a.segmentation, place=f"annotation {a.id}", crowd=a.crowd, extra=extra
                )
            )
    for a in boxes:
        ids = [a.get("image_id"), a.get("category_id")]
        known, name = (None, None) if any(type(i) is not int for i in ids) else (records.get(ids[0]), names.get(ids[1]))
        if known is None or name is None:
            issues.append(Issue(f"annotation {a.get('id')}", "has no such image or category", kind="ids of box"))
            continue
        x, y, width, height = (float(value) for value in a["bbox"])
        box = (x, y, x + width, y + height)
        extra = {key: value for key, value in a.items() if key not in _BOX_KEYS}
        crowd = a.get("iscrowd") in (1, True)
        known.objects.append(ObjectRecord(name, box=box, place=f"annotation {a.get('id')}", crowd=crowd, extra=extra))
    categories = {name: number for number, name in names.items()}
    return ForeignData(list(records.values()), images_dir, categories, issues, ids=list(records))


def _is_bbox(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(v) in (int, float) and abs(v) < 1e9 for v in value)
        and value[2] > 0
        and value[3] > 0
    )


def _read_labelme(source: Source) -> ForeignData:
    files = _files(source.path, ".json") if source.path.is_dir() else [source.path]
    issues: list[Issue] = []
    records = _each(files, lambda file: labelme.parse_labelme(read_json(file), repr(str(file))), issues)
    folder = source.path if source.path.is_dir() else source.path.parent
    beside = (files[0].parent / records[0].file_name).parent if records else folder
    outside = [beside] if records and records[0].file_name.startswith("../") and beside.is_dir() else []
    return ForeignData(records, _folder_of(source, *outside, folder), issues=issues)


def _read_via(source: Source) -> ForeignData:
    path = source.path
    if path.is_dir():
        found = [file for file in _files(path, ".json", ".csv") if recognize(file) == "via"]
        if len(found) != 1:
            raise ValueError(f"{str(path)!r} has {count_of(len(found), 'file')} of VIA: give one of them.")
        path = found[0]
    name = repr(str(path))
    if path.suffix.lower() == ".csv":
        records = via.parse_via_csv(_text(path), name, source.attribute)
    else:
        records = via.parse_via(read_json(path), name, source.attribute)
    return ForeignData(records, _folder_of(source, path.parent))


def _read_cvat(source: Source) -> ForeignData:
    path = source.path
    if path.is_dir():
        found = _files(path, ".xml")
        if len(found) != 1:
            raise ValueError(f"{str(path)!r} has {count_of(len(found), 'XML file')}: give the one of CVAT.")
        path = found[0]
    records, labels = cvat.parse_cvat(_bytes(path), repr(str(path)))
    used = {o.name for record in records for o in record.objects}
    names = source.names or [*labels, *sorted(used - set(labels))]
    categories = {name: number for number, name in enumerate(names, start=1)}
    return ForeignData(records, _folder_of(source, path.parent / "images", path.parent), categories)


# ------------------------------------------------------------------ YOLO


def _read_yolo(source: Source) -> ForeignData:
    root = source.path if source.path.is_dir() else source.path.parent
    labels = root / "labels" if (root / "labels").is_dir() else root
    if labels == root and root.name == "labels" and (root.parent / "images").is_dir():
        root = root.parent  # the labels of a data set whose folder, with data.yaml, is the one above
    images_dir = _folder_of(source, root / "images", root)
    finder = ImageFinder(images_dir)
    data = ForeignData([], images_dir, finder=finder)
    names = _yolo_names(source, root, labels)
    files = [f for f in _files(labels, ".txt") if f.name.lower() not in _NO_LABELS]
    if any("labels" in f.relative_to(labels).parts[:-1] for f in files):  # train/labels beside train/images
        files = [f for f in files if "labels" in f.relative_to(labels).parts[:-1]]
    found: dict[str, Path] = {}
    for file in files:
        stem = file.relative_to(labels).with_suffix("").as_posix()
        place = f"{file.relative_to(labels).as_posix()!r}"
        images = finder.find_stem("/".join("images" if part == "labels" else part for part in stem.split("/")))
        if len(images) == 1 and images[0] in found:
            problem = f"is of the image {images[0]!r}, as {found[images[0]].relative_to(labels).as_posix()!r} is"
            data.issues.append(Issue(place, problem, kind="labelled twice"))
        elif len(images) == 1:
            found[images[0]] = file
        else:
            several = f"has {len(images)} images of its name in {str(images_dir)!r}"
            problem = several if images else f"has no image in {str(images_dir)!r}"
            remedy = "YOLO's numbers are fractions of its size: give the folder of the images with --images"
            data.issues.append(Issue(place, problem, remedy="" if images else remedy, kind=problem))
    for name in finder.names:
        record = _yolo_record(name, found.get(name), images_dir, data.issues)
        if record is not None:
            data.records.append(record)
    data.categories = _name_classes(data, names)
    return data


def _yolo_record(name: str, file: Path | None, folder: Path, issues: list[Issue]) -> ImageRecord | None:
    try:
        size = size_on_disk(folder / name)[0]
    except ValueError as error:
        issues.append(unreadable(f"image {name!r}", error))
        return None
    record = ImageRecord(name, size, source=str(file or folder / name))
    if file is not None:
        try:
            record.objects = yolo.parse_yolo(_text(file), size, repr(str(file)))
        except AnnotationError as error:
            issues.append(_refused(error))
            return None
    return record


def _yolo_names(source: Source, root: Path, labels: Path) -> dict[int, str]:
    if source.names:
        return dict(enumerate(source.names))
    given = [source.path] if source.path.suffix.lower() in (".yaml", ".yml") else []
    found = [*given, *sorted(root.glob("*.yaml")), *sorted(root.glob("*.yml"))]
    if found:
        return yolo.parse_data_yaml(_text(found[0]), repr(str(found[0])))
    for file in (labels / "classes.txt", root / "classes.txt"):
        if file.is_file():
            return {i: line.strip() for i, line in enumerate(_text(file).splitlines()) if line.strip()}
    return {}


def _name_classes(data: ForeignData, names: Mapping[int, str]) -> dict[str, int]:
    """Name the objects, whose names are numbers; return the categories."""
    used = sorted({int(o.name) for record in data.records for o in record.objects})
    if not names:
        if used:
            data.notes.append("The classes have no names (data.yaml, classes.txt or --names): they are 'class 0', ….")
        names = {number: f"class {number}" for number in range(max(used, default=-1) + 1)}
    for record in data.records:
        for found in record.objects:
            number = int(found.name)
            if number not in names:
                raise AnnotationError(f"{found.place}: is of class {number}, but the names are of 0 to {max(names)}.")
            found.name = names[number]
    return {name: number + 1 for number, name in names.items()}


# ------------------------------------------------------------------ pictures with numbers


def _read_voc(source: Source) -> ForeignData:
    root = source.path
    single = root.is_file()
    folder = root.parent if single else root / "Annotations" if (root / "Annotations").is_dir() else root
    if folder.name == "Annotations":
        root = folder.parent
    files = [source.path] if single else _files(folder, ".xml")
    stems = {f.relative_to(folder).with_suffix("").as_posix(): f for f in files}
    data = ForeignData([], _folder_of(source, root / "JPEGImages", root / "images", root))
    pictures = _by_stem(root / "SegmentationObject")
    classes = _by_stem(root / "SegmentationClass")
    names = dict(enumerate(voc.CLASSES, start=1))
    if (root / "labelmap.txt").is_file():
        names = voc.parse_label_map(_text(root / "labelmap.txt"), repr(str(root / "labelmap.txt")))
        data.categories = {name: i for i, name in enumerate(source.names or names.values(), start=1)}
    wanted = [s for s in stems if s in pictures or not pictures] + [
        s for s in pictures if s not in stems and not single
    ]
    if len(wanted) < len(stems):
        data.notes.append(f"{count_of(len(stems) - len(wanted), 'image')} without a picture of objects left out.")
    pictures_of_objects = ("SegmentationObject", "SegmentationClass")  # not to be taken for the images
    finder = data.finder = ImageFinder(data.images_dir, without=pictures_of_objects)

    def read(stem: Path) -> ImageRecord:
        key = stem.as_posix()
        record = _voc_boxes(key, stems.get(key), finder)
        if key in pictures:
            objects = voc.read_indices(pictures[key])
            if record.size is not None and record.size != objects.shape:
                raise AnnotationError(f"{str(pictures[key])!r} has another size than the XML file says.")
            record.size = (objects.shape[0], objects.shape[1])
            of_class = voc.read_indices(classes[key]) if key in classes else None
            source_name = repr(str(pictures[key]))
            record.objects = voc.voc_objects(objects, of_class, record.objects, names, source_name)
        return record

    data.records = _each([Path(stem) for stem in sorted(wanted)], read, data.issues)
    return data


def _by_stem(folder: Path) -> dict[str, Path]:
    files = _files(folder, ".png") if folder.is_dir() else []
    return {f.relative_to(folder).with_suffix("").as_posix(): f for f in files}


def _voc_boxes(stem: str, file: Path | None, finder: ImageFinder) -> ImageRecord:
    if file is None:
        return ImageRecord(next(iter(finder.find_stem(stem)), f"{stem}.jpg"), None)
    return voc.parse_voc(_bytes(file), repr(str(file)))


def _read_label_images(source: Source) -> ForeignData:
    if source.images_dir is None:
        raise ValueError("Label images need the folder of their images: give it with --images (images_dir=).")
    data = ForeignData([], source.images_dir)
    table = source.path / OBJECTS_TABLE
    of_objects = _read_objects(table) if table.is_file() else {}
    only = source.names[0] if len(source.names) == 1 else "object"
    names = [name for name in walk(source.path) if Path(name).suffix.lower() in label_images.SUFFIXES]
    for folder in sorted({Path(name).parent for name in names} or {Path()}):
        reader = LabelReader(source.images_dir / folder, source.path / folder)
        data.issues += reader.issues
        for i in reader.sound:
            image, label = reader.pairs[i]
            file = (folder / label.name).as_posix()
            record = ImageRecord((folder / image.name).as_posix(), reader.masks[i].image_size, source=str(label))
            own = {number: name for (of_file, number), name in of_objects.items() if of_file == file}
            _add_numbered(record, label, reader.masks[i], own, only)
            data.records.append(record)
    return data


def _add_numbered(
    record: ImageRecord, label: Path, masks: CompressedMasks, names: Mapping[int, str], other: str
) -> None:
    """Add the objects of a label image, whose numbers may have categories of their own."""
    numbers = np.unique(label_images.read_label_image(label)) if names else np.arange(len(masks) + 1)
    for number, rle in zip(numbers[numbers != 0].tolist(), masks.to_rle(), strict=True):
        place = f"{str(label)!r}, number {number}"
        record.objects.append(ObjectRecord(names.get(number, other), rle, place=place))


def _read_objects(table: Path) -> dict[tuple[str, int], str]:
    """Return the category of each number in the label images beside a table."""
    rows = csv.DictReader(_text(table).splitlines())
    if not {"file", "number", "category"} <= set(rows.fieldnames or ()):
        raise AnnotationError(f"{str(table)!r} must have the columns file, number, category.")
    found = {}
    for row in rows:
        number = row["number"] or ""
        if not number.isascii() or not number.isdigit() or len(number) > 10 or not row["category"]:
            raise AnnotationError(f"{str(table)!r}, line {rows.line_num}: must have a number and a category.")
        found[row["file"], int(number)] = row["category"]
    return found


_READERS: Mapping[str, Callable[[Source], ForeignData]] = {
    "coco": _read_coco,
    "yolo": _read_yolo,
    "labelme": _read_labelme,
    "voc": _read_voc,
    "via": _read_via,
    "cvat": _read_cvat,
    "label-images": _read_label_images,
}
