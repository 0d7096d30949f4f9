"""``export``: a model as an ONNX file for other runtimes."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_score_thresh, add_top_k, check_output_file, file_path, fraction, say

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    export = commands.add_parser(
        "export",
        help="write a model as an ONNX file, for other runtimes and languages",
        description="Write a model as an ONNX file that does all that 'predict' does, from the pixels of an image of "
        "any size to boxes, scores, labels and masks, in ONNX Runtime, OpenVINO or a browser.",
    )
    export.add_argument("weights", metavar="WEIGHTS", help="a file, or a name that 'lucid-maskrcnn info' lists")
    export.add_argument("target", type=file_path, metavar="OUT", help="file to write, .onnx")
    export.add_argument(
        "--full-masks",
        action="store_true",
        help="return masks of the size of the image, too, and not only those on the grid of each box",
    )
    export.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="element type of filters and matrices: float32 or float16, half the size; it is computed in float32 "
        "(default: float32)",
    )
    add_score_thresh(export, 0.05)
    export.add_argument(
        "--nms-thresh",
        type=fraction,
        metavar="T",
        help="of two detections of a class with a greater IoU only the better is kept (default: the model's own "
        "setting)",
    )
    add_top_k(export)
    export.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.export import to_onnx
    from lucid_maskrcnn.models import MaskRCNN

    if args.target.suffix != ".onnx":
        raise ValueError(f"OUT must end in .onnx, got {str(args.target)!r}.")
    check_output_file("OUT", args.target)
    to_onnx(
        MaskRCNN.from_file(args.weights),
        args.target,
        score_thresh=args.score_thresh,
        nms_thresh=args.nms_thresh,
        top_k=args.top_k,
        full_masks=args.full_masks,
        dtype=args.dtype,
    )
    say(f"{args.target}: {args.weights} as ONNX, {args.target.stat().st_size / 1e6:.1f} MB")
