"""``check-data``: what a data set contains, and what is wrong with it."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import check_image_folder, check_output_folder, file_path, positive_int, say

if TYPE_CHECKING:
    from lucid_maskrcnn.data import Issue, ValidatedImage

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    check = commands.add_parser(
        "check-data",
        help="look for issues in images and their annotations",
        description="Open every image, count what is annotated, and print what is wrong: a line for each kind, with "
        "the number and the first places. A FAULT stops train and evaluate, unless told to leave out what has it. With "
        "a WARNING the data is used as the line says. A NOTE is nothing wrong. The exit code is 1 if there are faults "
        "or warnings, and 0 otherwise.",
    )
    check.add_argument("images", type=file_path, metavar="IMAGES", help="folder of the images")
    check.add_argument(
        "annotations", type=file_path, nargs="?", metavar="ANNOTATIONS", help="COCO instances, a JSON file"
    )
    check.add_argument("--labels", type=file_path, metavar="DIR", help="folder of label images, instead of ANNOTATIONS")
    check.add_argument("--draw", type=file_path, metavar="DIR", help="save drawings of annotated images to this folder")
    check.add_argument("--limit", type=positive_int, default=8, metavar="N", help="at most N drawings (default: 8)")
    check.add_argument("--all", action="store_true", help="print every issue on a line of its own")
    check.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from lucid_maskrcnn.data import validate
    from lucid_maskrcnn.text_tables import count_of

    if (args.annotations is None) == (args.labels is None):
        raise ValueError("Give ANNOTATIONS or --labels, one of them.")
    check_image_folder(args.images)
    drawer = None if args.draw is None else _Drawer(args.draw, args.limit, args.images)
    report = validate(args.images, args.annotations, labels=args.labels, on_image=drawer)
    for line in report.lines():
        say(line)
    for line in map(_line_of, report.issues) if args.all else report.issue_lines():
        say(line)
    if drawer is not None:
        say(f"{count_of(drawer.count, 'image')} drawn in {drawer.folder}")
    levels = Counter(issue.level for issue in report.issues)
    counts = [count_of(levels[level], level) for level in ("fault", "warning", "note") if levels[level]]
    say(", ".join([*(["no issues"] if report.is_sound else []), *counts]))
    return 0 if report.is_sound else 1


def _line_of(issue: Issue) -> str:
    return f"{issue.level.upper()} {issue}"


class _Drawer:
    """Draws some of the images, evenly spread over the data set."""

    def __init__(self, folder: Path, limit: int, images: Path) -> None:
        from lucid_maskrcnn.inference.drawings import DrawingNames

        check_output_folder("--draw", folder)
        if folder.resolve() == images.resolve():
            raise ValueError("--draw must be another folder than that of the images.")
        self.folder, self.limit, self.count = folder, limit, 0
        self.names = DrawingNames([])

    def _is_chosen(self, index: int, total: int) -> bool:
        number = min(self.limit, total)
        return index in {total * i // number for i in range(number)}

    def __call__(self, image: ValidatedImage) -> None:
        if not self._is_chosen(image.index, image.total):
            return
        from lucid_maskrcnn.atomic import replacing
        from lucid_maskrcnn.data.image_folder import safe_stem
        from lucid_maskrcnn.visualization import draw_target

        self.folder.mkdir(parents=True, exist_ok=True)
        drawn = draw_target(image.pixels, image.target, categories=image.categories)
        with replacing(self.folder / self.names.give(f"{safe_stem(image.file_name)}_annotated")) as file:
            drawn.save(file, "PNG")
        self.count += 1
