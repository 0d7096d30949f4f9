"""``demo`` and ``predict``: images in, drawings and results out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    add_device,
    add_score_thresh,
    add_top_k,
    add_weights,
    check_output_file,
    check_output_folder,
    file_path,
    say,
)

if TYPE_CHECKING:
    from lucid_maskrcnn.detections import Detections
    from lucid_maskrcnn.inference import ImagePrediction

__all__ = ["add_commands"]

_ASSETS = Path(__file__).parent.parent / "assets"
_DEMO_IMAGES = {"fluorescence": "nuclei_fluorescence_small.png", "histology": "nuclei_histology_lilac.png"}


def add_commands(commands: Any) -> None:
    """Add them to the subparsers of the command line."""
    demo = commands.add_parser("demo", help="find the nuclei in an image that comes with the package")
    demo.add_argument(
        "--image", choices=sorted(_DEMO_IMAGES), default="fluorescence", help="which image (default: fluorescence)"
    )
    demo.add_argument(
        "--out",
        type=file_path,
        default=Path("lucid_maskrcnn_demo.png"),
        metavar="FILE",
        help="drawing to write, .png or .jpg (default: lucid_maskrcnn_demo.png)",
    )
    add_score_thresh(demo, 0.5)
    demo.set_defaults(run=_demo)

    predict = commands.add_parser(
        "predict",
        help="find the objects in your images",
        description="Write a drawing of each image, small ones enlarged, and for all of them "
        "detections.json (COCO results) and images.json (image ids, file names, categories).",
    )
    predict.add_argument("images", type=file_path, nargs="+", metavar="IMAGE", help="an image file")
    add_weights(predict)
    predict.add_argument(
        "--out",
        type=file_path,
        default=Path("out"),
        metavar="DIR",
        help="folder to write to; created if it does not exist (default: out)",
    )
    add_score_thresh(predict, 0.5)
    add_top_k(predict)
    add_device(predict)
    predict.set_defaults(run=_predict)


def _demo(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.images import load_image
    from lucid_maskrcnn.inference import DRAWING_FORMATS, save_drawing
    from lucid_maskrcnn.models import MaskRCNN
    from lucid_maskrcnn.text_tables import count_of

    if args.out.suffix.lower() not in DRAWING_FORMATS:
        raise ValueError(f"--out must end in {', '.join(DRAWING_FORMATS)}, got {str(args.out)!r}.")
    check_output_file("--out", args.out)
    name = _DEMO_IMAGES[args.image]
    pixels = load_image(_ASSETS / name)
    started = time.perf_counter()
    model = MaskRCNN.from_file("NUCLEI")
    loaded = time.perf_counter()
    found = model.predict(pixels, score_thresh=args.score_thresh)[0]
    predicted = time.perf_counter()

    height, width = found.image_size
    say(f"Mask R-CNN (ResNet-18 with FPN, weights NUCLEI) on {name}, {height} x {width} pixels")
    say()
    for line in _table(found):
        say(f"  {line}")
    say()
    say(f"{count_of(len(found), 'object')} with a score over {args.score_thresh:g}")
    say(f"load {loaded - started:.2f} s, predict {predicted - loaded:.2f} s on cpu")
    save_drawing(args.out, pixels, found)
    say(f"drawing: {args.out}")


def _table(found: Detections, limit: int = 10) -> Iterator[str]:
    from lucid_maskrcnn.masks.rle import rle_area
    from lucid_maskrcnn.text_tables import align_columns

    areas = [str(rle_area(rle)) for rle in found[:limit].to_rle()]
    rows = [(*row, area) for row, area in zip(found.rows(limit), areas, strict=True)]
    yield from align_columns([("#", "name", "score", "x1", "y1", "x2", "y2", "area"), *rows], left=(1,))
    if len(found) > limit:
        yield f"… {len(found) - limit} more"


def _predict(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.inference import predict_files
    from lucid_maskrcnn.text_tables import count_of

    def report(image: ImagePrediction) -> None:
        objects = count_of(len(image.detections), "object")
        say(f"{image.path}: {objects} in {image.seconds:.2f} s, drawn in {image.drawing}")

    check_output_folder("--out", args.out)
    job = predict_files(
        args.images,
        args.weights,
        args.out,
        score_thresh=args.score_thresh,
        top_k=args.top_k,
        device=args.device,
        on_image=report,
    )
    say(f"{count_of(job.n_objects, 'detection')} in {job.out / 'detections.json'}")
