"""``check-data``: what is in annotated pictures, and what is wrong with them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .common import positive, say

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    check = commands.add_parser(
        "check-data",
        help="look through pictures and their annotations for faults",
        description="Open every picture, count what is annotated, and list every fault in a line of its own. The exit "
        "code is 0 if there are none, and 1 if there are.",
    )
    check.add_argument("images", type=Path, metavar="IMAGES", help="folder of the pictures")
    check.add_argument("annotations", type=Path, nargs="?", metavar="ANNOTATIONS", help="COCO instances, a JSON file")
    check.add_argument("--labels", type=Path, metavar="DIR", help="folder of label images, in place of ANNOTATIONS")
    check.add_argument("--draw", type=Path, metavar="DIR", help="draw annotated pictures into this folder")
    check.add_argument("--limit", type=positive, default=8, metavar="N", help="how many of them (default: 8)")
    check.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from lucid_maskrcnn.data import survey
    from lucid_maskrcnn.data.validation import many

    if (args.annotations is None) == (args.labels is None):
        raise ValueError("Give ANNOTATIONS or --labels, one of them.")
    if not args.images.is_dir():
        raise ValueError(f"There is no folder of pictures {str(args.images)!r}.")
    drawer = None if args.draw is None else _Drawer(args.draw, args.limit, args.images)

    def shown(pictures: Sequence[Any]) -> Iterable[Any]:
        if drawer is not None:
            drawer.choose(len(pictures))
        return tqdm(pictures, unit=" pictures", leave=False, disable=None)  # on a terminal only

    found = survey(args.images, args.annotations, labels=args.labels, shown=shown, seen=drawer)
    for line in found.lines():
        say(line)
    for fault in found.faults:
        say(f"FAULT {fault}")
    if drawer is not None:
        say(f"{many(drawer.count, 'picture')} drawn in {drawer.folder}")
    say(many(len(found.faults), "fault"))
    return 1 if found.faults else 0


class _Drawer:
    """Draws some of the pictures that are looked at, evenly spread over all."""

    def __init__(self, folder: Path, limit: int, images: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--draw {str(folder)!r} is a file, not a directory.")
        if folder.resolve() == images.resolve():
            raise ValueError("--draw must be another folder than that of the pictures.")
        self.folder, self.limit, self.count = folder, limit, 0
        self._chosen: set[int] = set()

    def choose(self, total: int) -> None:
        """Decide which of ``total`` pictures to draw."""
        number = min(self.limit, total)
        self._chosen = {total * i // number for i in range(number)}

    def __call__(self, position: int, name: str, image: Any, target: Any, categories: Any) -> None:
        if position not in self._chosen:
            return
        from lucid_maskrcnn.atomic import replacing
        from lucid_maskrcnn.visualization import draw_target, viewing_scale

        self.folder.mkdir(parents=True, exist_ok=True)
        drawn = draw_target(image, target, categories=categories, scale=viewing_scale(image.shape[:2]))
        flat = "_".join(Path(name).with_suffix("").parts[-3:])  # it may be in a folder of the folder
        with replacing(self.folder / f"{flat}_annotated.png") as file:
            drawn.save(file, "PNG")
        self.count += 1
