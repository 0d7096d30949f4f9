"""``split-data``: annotations in parts for training, validation and test."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.text_tables import align_columns

from .common import SEED, argument_type, check_output_folder, file_path, say

__all__ = ["add_commands"]


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    split = commands.add_parser(
        "split-data",
        help="split annotations into training, validation and test parts",
        description="Write OUT/instances_train.json, OUT/instances_val.json, …: no image is in two of them, and the "
        "categories are spread as evenly as the images allow. The same seed gives the same parts.",
    )
    split.add_argument("annotations", type=file_path, metavar="ANNOTATIONS", help="COCO instances, a JSON file")
    split.add_argument("out", type=file_path, metavar="OUT", help="folder to write to; created if it does not exist")
    split.add_argument(
        "--fractions",
        type=argument_type(_numbers, lambda name, value: validators.sequence(name, value, validators.open_fraction)),
        default=(0.8, 0.2),
        metavar="F,F[,F]",
        help="of the images in each part, whose sum is 1 (default: 0.8,0.2)",
    )
    split.add_argument(
        "--names",
        type=argument_type(_names, lambda name, value: validators.sequence(name, value, validators.text)),
        metavar="NAME,NAME",
        help="of the parts (default: train,val or train,val,test)",
    )
    split.add_argument("--seed", type=SEED, default=0, metavar="N", help="of the choice (default: 0)")
    split.add_argument(
        "--group-by",
        type=argument_type(str, validators.text),
        metavar="RULE",
        help="keep images together: 'folder', or a regular expression whose first group in the file name names the "
        "images' group, such as '^(patient[0-9]+)'",
    )
    split.add_argument("--overwrite", action="store_true", help="replace files that exist")
    split.set_defaults(run=_split)


def _split(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.atomic import write_json
    from lucid_maskrcnn.data import split_coco

    check_output_folder("OUT", args.out)
    parts = split_coco(args.annotations, args.fractions, names=args.names, seed=args.seed, group_by=args.group_by)
    files = [args.out / f"instances_{part.name}.json" for part in parts]
    _check_files(files, args.annotations, overwrite=args.overwrite)
    args.out.mkdir(parents=True, exist_ok=True)
    for file, part in zip(files, parts, strict=True):
        write_json(file, part.content)
    names = list(parts[0].counts)
    rows = [("part", "images", "objects", *names)]
    for part in parts:
        counts = part.counts
        images, objects = len(part.content["images"]), len(part.content["annotations"])
        rows.append((part.name, str(images), str(objects), *(str(counts[name]) for name in names)))
    for line in align_columns(rows):
        say(line)
    say(f"Written to {args.out}: {', '.join(file.name for file in files)}")


def _check_files(files: list[Path], source: Path, *, overwrite: bool) -> None:
    for file in files:
        if file.exists() and source.exists() and file.samefile(source):
            raise ValueError(f"OUT must not have ANNOTATIONS itself under the name of a part, got {str(file)!r}.")
        if file.exists() and not overwrite:
            raise FileExistsError(f"{str(file)!r} exists: give another OUT, or --overwrite.")
