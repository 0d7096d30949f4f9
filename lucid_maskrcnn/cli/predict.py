"""``demo`` and ``predict``: pictures in, drawings and results out."""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .common import file_path, fraction, positive_int, say

__all__ = ["add_commands", "predict_files"]

_ASSETS = Path(__file__).parent.parent / "assets"
_DEMO_IMAGES = {"fluorescence": "nuclei_fluorescence_small.png", "histology": "nuclei_histology_lilac.png"}
_PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def add_commands(commands: Any) -> None:
    """Add them to the subparsers of the command line."""
    demo = commands.add_parser("demo", help="find the nuclei in a picture that comes with the package")
    demo.add_argument("--image", choices=sorted(_DEMO_IMAGES), default="fluorescence", help="which picture")
    demo.add_argument("--out", type=file_path, default=Path("lucid_maskrcnn_demo.png"), metavar="FILE")
    demo.add_argument("--score-thresh", type=fraction, default=0.5, metavar="S")
    demo.set_defaults(run=_demo)

    predict = commands.add_parser(
        "predict",
        help="find the objects in your pictures",
        description="Write a drawing of each picture, small ones enlarged, and for all of them "
        "detections.json (COCO results) and images.json (image ids, file names, categories).",
    )
    predict.add_argument("images", type=file_path, nargs="+", metavar="IMAGE")
    predict.add_argument(
        "--weights",
        default="NUCLEI",
        metavar="NAME|FILE",
        help="NUCLEI, the default, another name that info lists, or a file",
    )
    predict.add_argument("--out", type=file_path, default=Path("out"), metavar="DIR", help="created if need be")
    predict.add_argument("--score-thresh", type=fraction, default=0.5, metavar="S")
    predict.add_argument("--max-detections", type=positive_int, metavar="N", help="per picture")
    predict.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    predict.set_defaults(run=_predict)


def _demo(args: argparse.Namespace) -> None:
    if args.out.suffix.lower() not in _PICTURE_FORMATS:
        raise ValueError(f"--out must end in {', '.join(_PICTURE_FORMATS)}, got {str(args.out)!r}.")
    if args.out.is_dir() or not args.out.absolute().parent.is_dir():
        raise ValueError(f"--out {str(args.out)!r} is a directory, or is in none.")
    from lucid_maskrcnn.images import load_image

    name = _DEMO_IMAGES[args.image]
    pixels = load_image(_ASSETS / name)
    started = time.perf_counter()
    model = _load_model("NUCLEI", "cpu")
    loaded = time.perf_counter()
    found = model.predict(pixels, score_thresh=args.score_thresh)[0]
    predicted = time.perf_counter()

    height, width = found.image_size
    say(f"Mask R-CNN (ResNet-18 with FPN, weights NUCLEI) on {name}, {height} x {width} pixels")
    say()
    for line in _table(found):
        say(f"  {line}")
    say()
    say(f"{len(found)} objects with a score over {args.score_thresh:g}")
    say(f"load {loaded - started:.2f} s, predict {predicted - loaded:.2f} s on cpu")
    _write_picture(args.out, pixels, found)
    say(f"picture: {args.out}")


def _predict(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.images import load_image

    for path in args.images:
        load_image(path)  # a picture that cannot be read should not stop the run half way
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {str(args.out)!r} is a file, not a directory.")
    model = _load_model(args.weights, args.device)
    predict_files(model, args.images, args.out, score_thresh=args.score_thresh, max_detections=args.max_detections)


def predict_files(
    model: Any,
    paths: Sequence[Path],
    out: Path,
    *,
    score_thresh: float = 0.5,
    max_detections: int | None = None,
) -> None:
    """Predict on pictures one by one, and write what was found.

    Parameters
    ----------
    model : MaskRCNN
        Or any object with such a ``predict``.
    paths : sequence of Path
        Pictures; their image ids are 1, 2, … in this order.
    out : Path
        Directory for ``<stem>.png`` of each picture (``<stem>_2.png`` where that name is taken,
        be it by one of the pictures), ``detections.json``, a list of COCO results, and
        ``images.json``, a COCO data set without annotations: ids, file names, categories.
    score_thresh : float
        Detections score more than this.
    max_detections : int, optional
        At most so many for each picture, by default the model's own number.

    Raises
    ------
    ValueError, OSError
        If a picture cannot be read or a file not be written.
    """
    from lucid_maskrcnn.atomic import write_json
    from lucid_maskrcnn.images import load_image

    out.mkdir(parents=True, exist_ok=True)
    limit = {} if max_detections is None else {"top_k": max_detections}
    images: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    for image_id, (path, target) in enumerate(zip(paths, _targets(paths, out), strict=True), start=1):
        pixels = load_image(path)
        started = time.perf_counter()
        found = model.predict(pixels, score_thresh=score_thresh, **limit)[0]
        seconds = time.perf_counter() - started
        _write_picture(target, pixels, found)
        results += found.to_coco(image_id)
        height, width = found.image_size
        images.append({"id": image_id, "file_name": str(path), "height": height, "width": width})
        names.update(found.categories or zip(found.labels.tolist(), found.names, strict=True))
        say(f"{path}: {len(found)} objects in {seconds:.2f} s, drawn in {target}")
    categories = [{"id": label, "name": name} for label, name in sorted(names.items())]
    write_json(out / "detections.json", results)
    write_json(out / "images.json", {"images": images, "annotations": [], "categories": categories})
    say(f"{len(results)} detections in {out / 'detections.json'}")


def _load_model(weights: str, device: str) -> Any:
    from lucid_maskrcnn.models.factories import load_model

    return load_model(weights).to(device)


# ------------------------------------------------------------------ output


def _table(found: Any, shown: int = 10) -> Iterable[str]:
    from lucid_maskrcnn.masks.rle import rle_area
    from lucid_maskrcnn.text_tables import align_columns

    areas = [str(rle_area(rle)) for rle in found[:shown].to_rle()]
    rows = [(*row, area) for row, area in zip(found.rows(shown), areas, strict=True)]
    yield from align_columns([("#", "name", "score", "x1", "y1", "x2", "y2", "area"), *rows], left=(1,))
    if len(found) > shown:
        yield f"… {len(found) - shown} more"


def _write_picture(path: Path, pixels: Any, found: Any) -> None:
    from lucid_maskrcnn.atomic import replacing
    from lucid_maskrcnn.visualization import viewing_scale

    scale = viewing_scale(found.image_size)
    with replacing(path) as file:
        found.draw(pixels, scale=scale).save(file, _PICTURE_FORMATS[path.suffix.lower()], quality=92)


def _targets(paths: Sequence[Path], out: Path) -> list[Path]:
    """Return where each drawing goes: a name of its own, and never in place of one of the pictures."""
    taken = {_identity(path) for path in paths}
    targets = []
    for path in paths:
        names = itertools.chain([f"{path.stem}.png"], (f"{path.stem}_{k}.png" for k in itertools.count(2)))
        target = next(out / name for name in names if _identity(out / name) not in taken)
        taken.add(_identity(target))
        targets.append(target)
    return targets


def _identity(path: Path) -> str:
    return os.path.realpath(path).casefold()  # many file systems do not tell a.png from A.png
