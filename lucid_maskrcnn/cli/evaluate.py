"""``evaluate``: COCO's average precision and instance accuracy of a model on annotated images."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from .common import (
    add_device,
    add_dtype,
    add_reading,
    add_score_thresh,
    add_top_k,
    add_weights,
    check_dtype,
    check_image_folder,
    check_output_folder,
    file_path,
    positive_int,
    say,
    say_device,
)
from .data_options import add_on_fault, describe_data, open_data

__all__ = ["add_commands"]

_SHOWN = 9  # images on a contact sheet
_OBJECT_SCORE = 0.5


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure the accuracy of a model on annotated images",
        description="Print COCO's average precision, and instance accuracy, TP / (TP + FP + FN), of all images and "
        "of each 'kind' of image if the annotations have that key.",
    )
    evaluate.add_argument("images", type=file_path, metavar="IMAGES", help="folder of the images")
    evaluate.add_argument(
        "annotations", type=file_path, nargs="?", metavar="ANNOTATIONS", help="COCO instances, a JSON file"
    )
    evaluate.add_argument(
        "--labels", type=file_path, metavar="DIR", help="folder of label images, instead of ANNOTATIONS"
    )
    add_weights(evaluate)
    evaluate.add_argument(
        "--results",
        type=file_path,
        metavar="FILE",
        help="measure these detections (COCO results, a JSON file of any program) instead of those of --weights",
    )
    add_top_k(evaluate)
    add_score_thresh(evaluate, 0.05)
    evaluate.add_argument(
        "--out",
        type=file_path,
        metavar="DIR",
        help="folder for detections.json (COCO results), evaluation.json, sheets of the worst and best images, and "
        "plots of score thresholds, precision against recall and the confusion matrix",
    )
    evaluate.add_argument("--limit", type=positive_int, metavar="N", help="evaluate only the first N images")
    evaluate.add_argument(
        "--without-coco", action="store_true", help="instance accuracy only, which does not need pycocotools"
    )
    add_on_fault(evaluate)
    add_reading(evaluate)
    add_device(evaluate)
    add_dtype(evaluate)
    evaluate.add_argument("--quiet", action="store_true", help="no progress bar")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    _check(args)
    common = {
        "object_score": max(_OBJECT_SCORE, args.score_thresh),
        "iou_types": () if args.without_coco else ("segm", "bbox"),
    }
    dataset, found = (_of_model if args.results is None else _of_results)(args, common)
    say()
    for line in found.table():
        say(line)
    if found.instance_accuracy is not None:
        say()
        say(found.threshold_curve().sentence())
    if args.out is not None:
        _write(args.out, dataset, found)


def _of_model(args: argparse.Namespace, common: dict[str, Any]) -> tuple[Any, Any]:
    """Return the data set, and the evaluation of what a model finds in it."""
    from lucid_maskrcnn.evaluation import evaluate
    from lucid_maskrcnn.evaluation.category_mapping import category_ids_of
    from lucid_maskrcnn.models import MaskRCNN

    say_device(args.device)
    model = MaskRCNN.from_file(args.weights).to(args.device, args.dtype)
    dataset = _dataset(args, model)
    ids = category_ids_of(model, dataset.categories, dataset.category_ids)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    found = evaluate(
        model,
        dataset,
        top_k=args.top_k,
        score_thresh=args.score_thresh,
        category_ids=ids,
        progress=not args.quiet,
        **common,
    )
    seconds = time.perf_counter() - started
    say(f"{args.weights} on {_described(args, dataset)}: {seconds / len(dataset):.2f} s each")
    return dataset, found


def _of_results(args: argparse.Namespace, common: dict[str, Any]) -> tuple[Any, Any]:
    """Return the data set, and the evaluation of existing detections on it."""
    from lucid_maskrcnn.evaluation import evaluate_results

    if args.limit is not None:
        raise ValueError(f"--limit must be left out with --results, got {args.limit}: all detections count.")
    dataset = _dataset(args, None)
    found = evaluate_results(dataset.coco(), args.results, max_detections=args.top_k, **common)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    say(f"{args.results} on {_described(args, dataset)}")
    return dataset, found


def _described(args: argparse.Namespace, dataset: Any) -> str:
    return f"{len(dataset)} images of {args.annotations or args.labels}"


def _check(args: argparse.Namespace) -> None:
    """Check the arguments before anything is read."""
    from lucid_maskrcnn.evaluation.average_precision import require_pycocotools

    check_image_folder(args.images)
    check_dtype(args.device, args.dtype)
    if args.out is not None:
        check_output_folder("--out", args.out)
    if args.without_coco:
        return
    try:
        require_pycocotools()
    except ImportError as error:
        raise ValueError(f"{error} Or use --without-coco.") from error


def _intensity_of(model: Any) -> Any:
    """Return how the images of more than 8 bits were read that a model was trained on; None if it does not say."""
    config = getattr(model, "config", None)
    return None if config is None else config.image.intensity


def _dataset(args: argparse.Namespace, model: Any) -> Any:
    """Return the data set, and say what there is to say about it if it is not sound."""
    from lucid_maskrcnn.data import Subset

    names = list((getattr(model, "categories", None) or {}).values())
    dataset = open_data(
        args.images,
        args.annotations,
        args.labels,
        ("ANNOTATIONS", "--labels"),
        on_fault=args.on_fault,
        category=names[0] if len(names) == 1 else "object",  # label images have no names
        channels=args.channels,
        intensity=args.intensity or _intensity_of(model),
    )
    lines = describe_data(args.annotations or args.labels, dataset, "evaluate on")
    for line in lines if dataset.issues else []:
        say(line)
    return dataset if args.limit is None else Subset(dataset, range(min(args.limit, len(dataset))))


def _write(out: Path, dataset: Any, found: Any) -> None:
    from lucid_maskrcnn.atomic import replacing, write_json
    from lucid_maskrcnn.evaluation import contact_sheet

    write_json(out / "detections.json", found.results)
    found.to_json(out / "evaluation.json")
    for name, images in (("worst", found.worst(_SHOWN)), ("best", found.best(_SHOWN))):
        with replacing(out / f"{name}.png") as file:
            contact_sheet(dataset, found, images).save(file, "PNG")
    plots, missing = _plot(out, found)
    written = ["detections.json", "evaluation.json", "worst.png", "best.png", *plots]
    say()
    say(f"Written to {out}: {', '.join(written)}")
    for sentence in missing:
        say(sentence)


def _plot(out: Path, found: Any) -> tuple[list[str], list[str]]:
    """Write the plots, and return their names, and why others are missing."""
    plots = {"thresholds.png": found.plot_thresholds, "confusion.png": found.plot_confusion}
    if found.precisions:
        plots["precision_recall.png"] = found.plot_precision_recall
    try:
        for name, plot in plots.items():
            plot(out / name)
    except ImportError as error:
        return [], [f"No plots: {error}"]
    return list(plots), []
