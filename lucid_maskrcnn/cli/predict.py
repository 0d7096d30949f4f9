"""``demo`` and ``predict``: images in, drawings and results out."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.config import VIEW_SCORE
from lucid_maskrcnn.remote_files import joined, path_or_url
from lucid_maskrcnn.text_tables import count_of

from .common import (
    Parser,
    add_device,
    add_dtype,
    add_page,
    add_reading,
    add_score_thresh,
    add_selection,
    add_top_k,
    add_weights,
    argument_type,
    check_dtype,
    check_output_file,
    check_output_folder,
    file_path,
    fraction,
    positive_int,
    say,
    say_device,
    say_table,
    warn,
)

if TYPE_CHECKING:
    from lucid_maskrcnn.detections import Detections
    from lucid_maskrcnn.inference import ImagePrediction, JobResult, JobStart

__all__ = ["add_commands"]

_ASSETS = Path(__file__).parent.parent / "assets"
_SHOWN_FAILURES = 5
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
    add_score_thresh(demo, VIEW_SCORE)
    demo.set_defaults(run=_demo)

    predict = commands.add_parser(
        "predict",
        help="find the objects in your images",
        description="Write a row for each image to DIR/results, a drawing of each, small ones enlarged, and for all of "
        "them detections.json (COCO results) and images.json (image ids, file names, categories). Exit code: 0, 1 if "
        "some images failed, 2 for wrong arguments or files, 130 when interrupted.",
    )
    predict.add_argument(
        "images",
        type=argument_type(str, validators.text),
        nargs="*",
        metavar="IMAGE",
        help="an image file, a folder, a pattern such as 'a/*.png', also at a URL such as s3://bucket/folder, or - for "
        "a list of files on standard input, one a line or separated by NUL; each file once. With --resume it may be "
        "left out",
    )
    add_weights(predict)
    predict.add_argument(
        "--out",
        type=argument_type(str, path_or_url),
        default=Path("out"),
        metavar="DIR",
        help="folder to write to, also at a URL such as s3://bucket/found; created if it does not exist (default: out)",
    )
    add_score_thresh(predict, VIEW_SCORE)
    add_selection(predict)
    predict.add_argument(
        "--mask-thresh",
        type=fraction,
        default=0.5,
        metavar="P",
        help="pixels of a mask have a higher probability (default: 0.5)",
    )
    add_top_k(predict)
    add_page(predict)
    add_reading(predict)
    predict.add_argument(
        "--tiles", action="store_true", help="for large images: predict on overlapping tiles, and merge what they have"
    )
    predict.add_argument(
        "--tile-size",
        type=positive_int,
        metavar="N",
        help="side of the tiles in pixels of the image (default: from the scale of the weights)",
    )
    predict.add_argument(
        "--overlap",
        type=positive_int,
        metavar="N",
        help="pixels that neighboring tiles share, more than most objects have across (default: a quarter of a tile)",
    )
    predict.add_argument(
        "--export",
        type=argument_type(lambda text: text.split(","), _check_exports),
        default=(),
        metavar="F[,F…]",
        help="further files for each image, beside its drawing: label-image (.tif), csv (measurements), geojson "
        "(QuPath), imagej (.zip), yolo (.txt), coco or labelme (.json), crops (a folder)",
    )
    predict.add_argument("--no-draw", dest="draw", action="store_false", help="write no drawings")
    predict.add_argument(
        "--format",
        choices=("jsonl", "parquet"),
        default="jsonl",
        help="what DIR/results holds, lines of JSON or Parquet (default: jsonl)",
    )
    predict.add_argument(
        "--shard-size",
        type=positive_int,
        metavar="N",
        help="images in a file of results (default: 1000, with --engine ray fewer of few images; resumed, as it was)",
    )
    _add_engine(predict)
    predict.add_argument(
        "--resume",
        action="store_true",
        help="go on with what DIR holds, and add the images that it does not have; begin where there is nothing",
    )
    predict.add_argument(
        "--overwrite",
        action="store_true",
        help="delete what an earlier run has written to DIR, and replace other files",
    )
    add_device(predict)
    add_dtype(predict)
    predict.add_argument("--quiet", action="store_true", help="no progress bar, and no line for each image")
    predict.set_defaults(run=partial(_predict, parser=predict))


def _add_engine(parser: Parser) -> None:
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="what predicts: this process, or workers of a Ray cluster (default: local)",
    )
    parser.add_argument(
        "--address",
        type=argument_type(str, validators.text),
        metavar="A",
        help="of the cluster: auto, HOST:PORT or ray://HOST:PORT (default: $RAY_ADDRESS, or this machine alone)",
    )
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="of Ray (default: as many as the cluster has room for)"
    )
    parser.add_argument(
        "--threads-per-worker", type=positive_int, metavar="T", help="CPUs that a worker of Ray takes (default: 1)"
    )


def _check_exports(name: str, value: Any) -> tuple[str, ...]:
    from lucid_maskrcnn.inference import check_exports

    return check_exports(name, value)


def _demo(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.images import load_image
    from lucid_maskrcnn.inference import DRAWING_FORMATS, save_drawing
    from lucid_maskrcnn.models import MaskRCNN

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
    rows = _rows(found)
    say_table(rows, left=(1,), indent="  ")
    if len(found) >= len(rows):
        say(f"  … {len(found) + 1 - len(rows)} more")
    say()
    say(f"{count_of(len(found), 'object')} with a score over {args.score_thresh:g}")
    say(f"load {loaded - started:.2f} s, predict {predicted - loaded:.2f} s on cpu")
    save_drawing(args.out, pixels, found)
    say(f"drawing: {args.out}")


def _rows(found: Detections, limit: int = 10) -> list[tuple[str, ...]]:
    """Return a table of the best detections, with its heading."""
    from lucid_maskrcnn.masks.rle import rle_area

    areas = [str(rle_area(rle)) for rle in found[:limit].to_rle()]
    rows = [(*row, area) for row, area in zip(found.rows(limit), areas, strict=True)]
    return [("#", "name", "score", "x1", "y1", "x2", "y2", "area"), *rows]


def _predict(args: argparse.Namespace, parser: Parser) -> int:
    from lucid_maskrcnn.inference import holds_job, predict_files

    if isinstance(args.out, Path):
        check_output_folder("--out", args.out)
    check_dtype(args.device, args.dtype)
    if not args.images and not (args.resume and holds_job(args.out)):
        parser.error("the following arguments are required: IMAGE")
    paths, report = list(_paths(args.images)), _Report()
    if not args.quiet:
        say_device(args.device)
    try:
        with _stopped_by_signals():
            job = predict_files(
                paths,
                args.weights,
                args.out,
                engine=args.engine,
                address=args.address,
                workers=args.workers,
                threads_per_worker=args.threads_per_worker,
                format=args.format,
                shard_size=args.shard_size,
                resume=args.resume,
                overwrite=args.overwrite,
                tiles=args.tiles,
                tile_size=args.tile_size,
                overlap=args.overlap,
                export=args.export,
                draw=args.draw,
                device=args.device,
                dtype=args.dtype,
                score_thresh=args.score_thresh,
                nms_thresh=args.nms_thresh,
                top_k=args.top_k,
                mask_thresh=args.mask_thresh,
                classes=args.classes,
                class_agnostic_nms=args.class_agnostic_nms,
                mask_nms=args.mask_nms,
                min_area=args.min_area,
                max_area=args.max_area,
                exclude_edge=args.exclude_edge,
                page=args.page,
                channels=args.channels,
                intensity=args.intensity,
                progress=not args.quiet,
                on_start=report.start,
                on_image=None if args.quiet else report.image,
            )
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, _Stopped) else signal.SIGINT
        why = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        kept = f"what was predicted is kept in {str(args.out)!r}, and --resume goes on from there"
        warn(f"lucid-maskrcnn: {why}; {kept if report.has_begun else 'nothing has been written'}.")
        return 128 + number
    return report.end(job)


def _paths(arguments: list[str]) -> Iterator[str]:
    """Yield the arguments, the files in place of patterns, and in place of ``-`` what is listed on standard input."""
    from lucid_maskrcnn.inference import expand_pattern, split_list

    for argument in arguments:
        if argument != "-":
            yield from expand_pattern(argument)
        elif sys.stdin is None:
            raise ValueError("There is no list on standard input, which is closed.")
        else:
            listed = split_list(sys.stdin.buffer.read())
            if not listed:
                raise ValueError("The list of images on standard input is empty.")
            yield from listed


class _Report:
    """Says what a job does. A standard output that cannot be written to is an error at the end, when all is saved."""

    def __init__(self) -> None:
        self._error: OSError | None = None
        self.has_begun = False  # whether there is a folder

    def _say(self, line: str) -> None:
        try:
            say(line)
        except OSError as error:
            self._error = error

    def start(self, start: JobStart) -> None:
        self.has_begun = True
        if start.resumed:
            new = f", {start.n_new} of them new" if start.n_new else ""
            images = count_of(start.n_images, "image")
            say(f"resuming {start.out}: {images}{new}, {start.n_done} have their results", to_stderr=True)

    def image(self, image: ImagePrediction) -> None:
        drawn = "" if image.drawing is None else f", drawn in {image.drawing}"
        self._say(f"{image.path}: {count_of(len(image.detections), 'object')} in {image.seconds:.2f} s{drawn}")

    def end(self, job: JobResult) -> int:
        """Return the exit code."""
        self._say(f"{count_of(job.n_objects, 'detection')} in {joined(job.out, 'detections.json')}")
        if job.n_failed:
            warn(f"lucid-maskrcnn: {job.n_failed} of {count_of(job.n_images, 'image')} could not be predicted on.")
        elif job.failures:
            warn("lucid-maskrcnn: some drawings or exports could not be written; --resume tries again.")
        for failure in job.failures[:_SHOWN_FAILURES]:
            say(f"  {failure}", to_stderr=True)
        if job.n_failed > _SHOWN_FAILURES:
            say(f"  … all are in {joined(job.out, 'results')}, as 'error'", to_stderr=True)
        if self._error is not None:
            raise self._error
        return 1 if job.failures else 0


# ------------------------------------------------------------------ signals


class _Stopped(KeyboardInterrupt):
    """The process is asked to end by another signal than Ctrl-C's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C does, so that it can tidy up; ignored ones stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) == signal.SIG_DFL}

    def stop(number: int, _: FrameType | None) -> None:
        raise _Stopped(number)

    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
