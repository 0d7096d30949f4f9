"""``convert-data``: annotations of one tool in the format of another."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.text_tables import count_of

from .common import argument_type, file_path, say, warn
from .data_options import add_on_fault

if TYPE_CHECKING:
    from lucid_maskrcnn.data import Conversion

__all__ = ["add_commands"]

_FORMATS = ("coco", "yolo", "labelme", "voc", "via", "cvat", "label-images")
_SHOWN_ISSUES = 10


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    convert = commands.add_parser(
        "convert-data",
        help="turn annotations of another tool into COCO's format, or back",
        description="Read annotations of YOLO, LabelMe, Pascal VOC, VIA, CVAT, label images or COCO, check them "
        "against the images, and write them in another of these formats, whole or not at all. What the format "
        "cannot hold is counted and said.",
    )
    convert.add_argument(
        "annotations",
        type=file_path,
        metavar="IN",
        help="a file or folder of annotations: coco (JSON), yolo (a folder, or data.yaml), labelme (a folder), voc (a "
        "folder), via (JSON or CSV), cvat (XML, 'CVAT for images 1.1'), label-images (a folder)",
    )
    convert.add_argument(
        "out", type=file_path, metavar="OUT", help="a .json file (coco, via), an .xml file (cvat), or else a folder"
    )
    convert.add_argument("--to", choices=_FORMATS, default="coco", help="format to write (default: coco)")
    convert.add_argument(
        "--from", choices=_FORMATS, dest="from_format", help="format of IN (default: recognized by its content)"
    )
    convert.add_argument(
        "--images",
        type=file_path,
        metavar="DIR",
        help="folder of the images, which file names are relative to (default: images or JPEGImages beside the "
        "annotations, or their own folder)",
    )
    convert.add_argument(
        "--names",
        type=argument_type(_names, lambda name, value: validators.sequence(name, value, validators.text)),
        metavar="NAME[,NAME]",
        help="the categories in the order of their labels; for YOLO the names of its classes",
    )
    convert.add_argument(
        "--attribute",
        type=argument_type(str, validators.text),
        metavar="KEY",
        help="attribute of VIA's regions that names their category (default: the only one)",
    )
    convert.add_argument(
        "--boxes-as-masks", action="store_true", help="objects that have only a box get a mask that fills it"
    )
    convert.add_argument(
        "--copy-images", action="store_true", help="copy the images into OUT, where its format has a place for them"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    add_on_fault(convert)
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.data import convert_data

    done = convert_data(
        args.annotations,
        args.out,
        to=args.to,
        from_format=args.from_format,
        images_dir=args.images,
        names=args.names,
        attribute=args.attribute,
        boxes_as_masks=args.boxes_as_masks,
        copy_images=args.copy_images,
        overwrite=args.overwrite,
        on_fault=args.on_fault,
    )
    for line in _lines(done):
        say(line)
    if done.issues:
        for issue in done.issues[:_SHOWN_ISSUES]:
            warn(f"lucid-maskrcnn: {issue}")
        if len(done.issues) > _SHOWN_ISSUES:
            warn(f"lucid-maskrcnn: {len(done.issues) - _SHOWN_ISSUES} more of the kind.")


def _lines(done: Conversion) -> Iterator[str]:
    yield (
        f"{done.out}: {count_of(done.num_images, 'image')} with {count_of(done.num_objects, 'object')}, from "
        f"{done.from_format} to {done.to}"
    )
    yield "categories: " + (", ".join(f"{name} ({count})" for name, count in done.categories.items()) or "none")
    yield from done.notes
