"""``suggest``: a data set's objects beside a model's settings, and what to set."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from .common import add_weights, check_image_folder, check_output_file, file_path, say
from .data_options import open_data

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    suggest = commands.add_parser(
        "suggest",
        help="compare a data set with a model's anchors, scale and limits: what to set",
        description="Compare the sizes of the objects, as the network sees them, with the model's anchors, and their "
        "number with its limits, and say what to set before training or predicting.",
    )
    suggest.add_argument("images", type=file_path, metavar="IMAGES", help="folder of the images")
    suggest.add_argument(
        "annotations", type=file_path, nargs="?", metavar="ANNOTATIONS", help="COCO instances, a JSON file"
    )
    suggest.add_argument(
        "--labels", type=file_path, metavar="DIR", help="folder of label images, instead of ANNOTATIONS"
    )
    add_weights(suggest)
    suggest.add_argument("--out", type=file_path, metavar="FILE", help="plot of the sizes and counts, a .png file")
    suggest.set_defaults(run=_suggest)


def _suggest(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.data import suggest
    from lucid_maskrcnn.models import MaskRCNN

    check_image_folder(args.images)
    if args.out is not None:
        check_output_file("--out", args.out)
    config = MaskRCNN.from_file(args.weights).config
    dataset = open_data(
        args.images, args.annotations, args.labels, ("ANNOTATIONS", "--labels"), on_fault="skip", category="object"
    )
    found = suggest(dataset, config)
    for line in found.table():
        say(line)
    say()
    for sentence in found.sentences:
        for line in textwrap.wrap(sentence, 100, initial_indent="- ", subsequent_indent="  "):
            say(line)
    if args.out is not None:
        found.plot(args.out)
        say()
        say(f"plot: {args.out}")
