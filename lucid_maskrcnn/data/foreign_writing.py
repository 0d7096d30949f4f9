"""Writing records in the formats that :mod:`lucid_maskrcnn.annotation_formats` has.

A writer gets an empty place, a file or a folder, and returns sentences on what the format could not hold.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats import cvat, labelme, via, voc, yolo
from lucid_maskrcnn.annotation_formats.coco import bboxes_of
from lucid_maskrcnn.annotation_formats.label_images import labels_of_masks
from lucid_maskrcnn.annotation_formats.records import ImageRecord, ObjectRecord, parts_of
from lucid_maskrcnn.masks import CompressedMasks

from .foreign_reading import OBJECTS_TABLE

__all__ = ["SUFFIX_OF_FILE", "WRITTEN_SUFFIXES", "Settled", "write_foreign"]

SUFFIX_OF_FILE = {"coco": ".json", "via": ".json", "cvat": ".xml"}  # the others are folders
WRITTEN_SUFFIXES: Mapping[str, frozenset[str]] = {
    "yolo": frozenset({".txt", ".yaml"}),
    "labelme": frozenset({".json"}),
    "voc": frozenset({".xml", ".png", ".txt"}),
    "label-images": frozenset({".png", ".tif", ".csv"}),
}


@dataclass
class Settled:
    """What is written.

    Attributes
    ----------
    records : list of ImageRecord
        With sizes and with masks that have pixels.
    ids : list of int
        Of the images.
    categories : dict of str to int
        Name -> id.
    images_dir : Path
        The folder that file names are relative to.
    target : Path
        Where it will be, for paths from there to the images.
    found : set of str
        File names of the images that are there.
    copied : bool
        Whether the images are copied into the folder.
    lost : dict of str to int
        What the format could not hold -> how many objects.
    """

    records: list[ImageRecord]
    ids: list[int]
    categories: dict[str, int]
    images_dir: Path
    target: Path
    found: set[str]
    copied: bool = False
    lost: dict[str, int] = field(default_factory=dict)

    def lose(self, what: str, count: int) -> None:
        """Count objects that the format cannot hold."""
        if count:
            self.lost[what] = self.lost.get(what, 0) + count


def write_foreign(data: Settled, format: str, place: Path) -> None:
    """Write records to a file or an empty folder."""
    if format != "coco":
        _leave_out(data, "a crowd", lambda o: o.crowd)
    _WRITERS[format](data, place)


def _leave_out(data: Settled, what: str, is_lost: Callable[[ObjectRecord], bool]) -> None:
    for record in data.records:
        kept = [o for o in record.objects if not is_lost(o)]
        data.lose(f"left out: {what}", len(record.objects) - len(kept))
        record.objects = kept


def _masks(record: ImageRecord) -> CompressedMasks:
    return CompressedMasks.from_coco([o.segmentation for o in record.objects], record.size or (0, 0))


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("utf-8"))


def _stem(record: ImageRecord) -> str:
    folder, slash, last = record.file_name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


def _image_from(folder: Path, data: Settled, record: ImageRecord) -> str:
    """Return the path of an image from a folder of the target."""
    image = data.target / "images" / record.file_name if data.copied else data.images_dir / record.file_name
    try:
        return Path(os.path.relpath(image.absolute(), folder.absolute())).as_posix()
    except ValueError:  # another drive
        return image.absolute().as_posix()


# ------------------------------------------------------------------ COCO


def _write_coco(data: Settled, place: Path) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    taken = {o.extra["id"] for record in data.records for o in record.objects if "id" in o.extra}
    unused = (n for n in range(1, 2**62) if n not in taken)
    for image_id, record in zip(data.ids, data.records, strict=True):
        height, width = record.size or (0, 0)
        images.append({"id": image_id, "file_name": record.file_name, "height": height, "width": width})
        masked = [o for o in record.objects if o.segmentation is not None]
        masks = CompressedMasks.from_coco([o.segmentation for o in masked], (height, width))
        shapes = dict(zip(map(id, masked), zip(bboxes_of(masks.boxes), masks.areas.tolist(), strict=True), strict=True))
        annotations += [
            {
                "id": found.extra.get("id") or next(unused),
                "image_id": image_id,
                "category_id": data.categories[found.name],
                **_geometry(found, shapes.get(id(found))),
                "iscrowd": int(found.crowd),
                **{key: value for key, value in found.extra.items() if key != "id"},
            }
            for found in record.objects
        ]
    categories = [{"id": number, "name": name} for name, number in data.categories.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write_text(place, json.dumps(content, allow_nan=False))


def _geometry(found: ObjectRecord, shape: tuple[list[float], int] | None) -> dict[str, Any]:
    if shape is None:
        (bbox,) = bboxes_of(np.array([found.box]))
        return {"bbox": bbox, "area": bbox[2] * bbox[3], "segmentation": []}
    segmentation = found.segmentation
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        if isinstance(counts, bytes):
            counts = counts.decode("ascii")
        plain: Any = {
            "size": list(segmentation["size"]),
            "counts": counts if isinstance(counts, str) else list(map(int, counts)),
        }
    else:
        plain = [np.asarray(polygon, float).tolist() for polygon in segmentation]
    return {"bbox": shape[0], "area": shape[1], "segmentation": plain}


# ------------------------------------------------------------------ outlines


def _write_yolo(data: Settled, place: Path) -> None:
    masked = any(o.segmentation is not None for record in data.records for o in record.objects)
    if masked:  # Ultralytics drops the outlines of a data set that has boxes, too
        _leave_out(data, "a box without a mask", lambda o: o.segmentation is None)
    number = {name: i for i, name in enumerate(data.categories)}
    for record in data.records:
        size = record.size or (1, 1)
        classes = [number[o.name] for o in record.objects]
        if masked:
            parts = [parts_of(o.segmentation, size) for o in record.objects]
            joined = sum(sum(map(len, own)) > 1 for own in parts)
            data.lose("with parts or holes joined to one outline", joined)
            text = yolo.make_yolo(parts, classes, size)
        else:
            boxes = [o.box or (0, 0, 0, 0) for o in record.objects]
            text = yolo.make_yolo_boxes(boxes, classes, size)
        _write_text(place / "labels" / f"{_stem(record)}.txt", text)
    _write_text(place / "data.yaml", yolo.make_data_yaml(list(data.categories)))


def _write_labelme(data: Settled, place: Path) -> None:
    for record in data.records:
        size = record.size or (0, 0)
        masked = [o for o in record.objects if o.segmentation is not None]
        boxes = [o for o in record.objects if o.segmentation is None]
        file = f"{_stem(record)}.json"
        content = labelme.make_labelme(
            [parts_of(o.segmentation, size) for o in masked],
            [o.name for o in masked],
            size,
            file_name=_image_from((data.target / file).parent, data, record),
            boxes=[(o.name, o.box) for o in boxes if o.box is not None],
        )
        _write_text(place / file, json.dumps(content, ensure_ascii=False, indent=2))


def _write_via(data: Settled, place: Path) -> None:
    joined = 0
    for record in data.records:
        own = [parts_of(o.segmentation, record.size or (0, 0)) for o in record.objects if o.segmentation is not None]
        joined += sum(sum(map(len, parts)) > 1 for parts in own)
    data.lose("with parts or holes joined to one outline", joined)
    sizes = {name: (data.images_dir / name).stat().st_size for name in data.found}
    content = via.make_via(data.records, list(data.categories), sizes)
    _write_text(place, json.dumps(content, ensure_ascii=False))


def _write_cvat(data: Settled, place: Path) -> None:
    _write_text(place, cvat.make_cvat(data.records, list(data.categories)))


# ------------------------------------------------------------------ pictures with numbers


def _save_picture(file: Path, labels: np.ndarray, palette: np.ndarray | None = None) -> None:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    picture.save(file, "PNG")


def _count_covered(data: Settled, masks: CompressedMasks, labels: np.ndarray) -> None:
    left = np.bincount(labels.ravel(), minlength=len(masks) + 1)[1:]
    data.lose("lost under others", int((left == 0).sum()))
    data.lose("with pixels lost where others lie on top", int(((left > 0) & (left < masks.areas)).sum()))


def _write_label_images(data: Settled, place: Path) -> None:
    _leave_out(data, "a box without a mask", lambda o: o.segmentation is None)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file", "number", "category"])
    for record in data.records:
        masks = _masks(record)
        labels = labels_of_masks(masks)
        _count_covered(data, masks, labels)
        file = f"{_stem(record)}.png" if labels.dtype == np.uint16 else f"{_stem(record)}.tif"
        if file.endswith(".png"):
            _save_picture(place / file, labels)
        else:
            import tifffile

            (place / file).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(place / file, labels, compression="zlib")
        rows.writerows((file, number, o.name) for number, o in enumerate(record.objects, start=1))
    _write_text(place / OBJECTS_TABLE, table.getvalue())


def _write_voc(data: Settled, place: Path) -> None:
    masked = any(o.segmentation is not None for record in data.records for o in record.objects)
    if masked:
        _leave_out(data, "a box without a mask", lambda o: o.segmentation is None)
    names = list(data.categories)
    if masked and len(names) > voc.MAX_OBJECTS:
        raise ValueError(
            f"VOC's pictures hold {voc.MAX_OBJECTS} classes, and these are {len(names)}: choose another --to."
        )
    number = {name: i for i, name in enumerate(names, start=1)}
    palette = voc.voc_palette()
    for record in data.records:
        stem = _stem(record)
        boxes: Any = [o.box for o in record.objects]
        if masked:
            if len(record.objects) > voc.MAX_OBJECTS:
                raise ValueError(
                    f"VOC's pictures hold {voc.MAX_OBJECTS} objects, but image {record.file_name!r} has "
                    f"{len(record.objects)}: write label-images instead."
                )
            masks = _masks(record)
            labels = labels_of_masks(masks).astype(np.uint8)
            _count_covered(data, masks, labels)
            of_class = np.array([0, *(number[o.name] for o in record.objects)], np.uint8)
            _save_picture(place / "SegmentationObject" / f"{stem}.png", labels, palette)
            _save_picture(place / "SegmentationClass" / f"{stem}.png", of_class[labels], palette)
            boxes = masks.boxes.tolist()
        _write_text(place / "Annotations" / f"{stem}.xml", voc.make_voc(record, boxes, segmented=masked))
    listed = "".join(f"{_stem(record)}\n" for record in data.records)
    _write_text(place / "ImageSets" / ("Segmentation" if masked else "Main") / "default.txt", listed)
    _write_text(place / "labelmap.txt", voc.make_label_map(names))


_WRITERS: Mapping[str, Callable[[Settled, Path], None]] = {
    "coco": _write_coco,
    "yolo": _write_yolo,
    "labelme": _write_labelme,
    "voc": _write_voc,
    "via": _write_via,
    "cvat": _write_cvat,
    "label-images": _write_label_images,
}
