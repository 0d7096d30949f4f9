"""``convert``: turning files of weights into safetensors."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .common import check_output_file, file_path, say

if TYPE_CHECKING:
    from pathlib import Path

    from lucid_maskrcnn.weights import WeightsFile

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    convert = commands.add_parser(
        "convert",
        help="turn a checkpoint into a .safetensors file, or into one of torchvision or detectron2",
        description="Read weights of torchvision, detectron2 or this package, in .safetensors, .pth or .pkl, and write "
        "them as .safetensors with the model's configuration in the header, or for torchvision or detectron2: then the "
        "Python that builds the model and loads the file there is printed.",
    )
    convert.add_argument("source", metavar="IN", help="a file, or a name that 'lucid-maskrcnn info' lists")
    convert.add_argument(
        "target",
        type=file_path,
        metavar="OUT",
        help="file to write: .safetensors; for torchvision also .pth; for "
        "detectron2 .pkl, and the configuration beside it in .yaml",
    )
    convert.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="element type of filters and matrices: float32 or float16, half the size (default: float32)",
    )
    convert.add_argument(
        "--to",
        choices=("lucid_maskrcnn", "torchvision", "detectron2"),
        default="lucid_maskrcnn",
        help="library that the file is for: lucid_maskrcnn, torchvision or detectron2 (default: lucid_maskrcnn)",
    )
    convert.add_argument(
        "--config",
        type=file_path,
        metavar="FILE",
        help="the config.yaml of the detectron2 run that wrote IN; by default the one beside IN",
    )
    convert.add_argument(
        "--categories",
        type=file_path,
        metavar="FILE",
        help="JSON file of COCO's annotations with the names of the classes, which checkpoints do not have",
    )
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.weights import loading_code, locate, read_weights_file, write_converted
    from lucid_maskrcnn.weights.weights_file import warn_if_assumed
    from lucid_maskrcnn.weights.writing import FORMATS, either_of, has_suffix

    if not has_suffix(args.target, args.to):
        with_to = "" if args.to == "lucid_maskrcnn" else f" with --to {args.to}"
        raise ValueError(f"OUT must end in {either_of(FORMATS[args.to])}{with_to}, got {str(args.target)!r}.")
    check_output_file("OUT", args.target)
    source = locate(args.source)
    if args.target.exists() and args.target.samefile(source):
        raise ValueError(f"OUT must be another file than IN, got {str(args.target)!r} for both.")
    file = read_weights_file(source, config=args.config)
    if args.categories is not None:
        file = _with_categories(file, args.categories)
    _check_whole(file, repr(str(source)))
    write_converted(file, args.target, to=args.to, dtype=args.dtype)
    warn_if_assumed(file, repr(str(source)))
    if args.to == "lucid_maskrcnn":
        say(_summary(args, file))
        return
    say(f"# {_summary(args, file)}")  # a comment, so that the output is a program
    for line in loading_code(file, args.target, to=args.to).splitlines():
        say(line)


def _check_whole(file: WeightsFile, source: str) -> None:
    """Refuse weights that no model can be built with, before anything is written."""
    from lucid_maskrcnn.models.factories import check_shapes
    from lucid_maskrcnn.weights.shape_checks import check_configuration

    if file.config is not None and file.config.backbone is not None:  # it is not known what else has been put together
        check_configuration(file.config, file.arrays)  # first, as it says which settings to give
        check_shapes(file, file.config, source)


def _summary(args: argparse.Namespace, file: WeightsFile) -> str:
    from lucid_maskrcnn.config import architecture_of

    model = (file.config and architecture_of(file.config)) or "an unknown architecture"
    size = args.target.stat().st_size / 1e6
    return f"{args.target}: {model}, {file.source}'s weights under {args.to}'s names, {size:.1f} MB"


def _with_categories(file: WeightsFile, categories: Path) -> WeightsFile:
    """Return weights with the names of their classes."""
    from lucid_maskrcnn.weights.coco_categories import categories_of_file

    if file.config is None:
        raise ValueError("--categories must be for weights whose model is known.")
    names = categories_of_file(categories, file.config.num_classes)
    return replace(file, config=file.config.changed(categories=names))
