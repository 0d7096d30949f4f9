"""The options of ``train``."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.config import ARCHITECTURES
from lucid_maskrcnn.ops.distributed import DISTRIBUTED_BACKENDS

from .common import SEED, add_device, add_reading, argument_type, file_path, positive_int, positive_number
from .data_options import add_on_fault

__all__ = ["add_options"]

_CROP = argument_type(int, partial(validators.integer, minimum=32))  # smaller inputs are padded to 32 pixels
_REPEAT_THRESH = argument_type(float, validators.positive_fraction)


def add_options(train: argparse.ArgumentParser) -> None:
    """Add the options to the parser of the command, in groups."""
    _add_data(train.add_argument_group("data"), train)
    _add_model(train.add_argument_group("model"))
    _add_length(train.add_argument_group("length"))
    _add_optimizer(train.add_argument_group("optimizer"))
    _add_output(train.add_argument_group("output"))


def _add_data(group: Any, train: argparse.ArgumentParser) -> None:
    train.add_argument("images", type=file_path, metavar="IMAGES", help="folder of the images")
    train.add_argument(
        "annotations", type=file_path, nargs="?", metavar="ANNOTATIONS", help="JSON file of COCO instances; or --labels"
    )
    group.add_argument("--labels", type=file_path, metavar="DIR", help="folder of label images, instead of ANNOTATIONS")
    group.add_argument("--val-images", type=file_path, metavar="DIR", help="images to evaluate on (default: IMAGES)")
    group.add_argument("--val-annotations", type=file_path, metavar="FILE", help="their annotations")
    group.add_argument("--val-labels", type=file_path, metavar="DIR", help="or folder of their label images")
    add_on_fault(group)
    add_reading(group)
    group.add_argument(
        "--batch-size", type=positive_int, metavar="N", help="images per batch (default: 2, at most all)"
    )
    group.add_argument(
        "--augment",
        choices=("photographs", "microscopy", "none"),
        help="random augmentation (default: microscopy for a model that enlarges all images by one factor, as NUCLEI, "
        "and little of it in fine-tuning; else photographs)",
    )
    group.add_argument(
        "--crop",
        type=_CROP,
        metavar="PIXELS",
        help="train on random crops of this size, at about the scale of a prediction",
    )
    group.add_argument(
        "--repeat-thresh",
        type=_REPEAT_THRESH,
        metavar="FRACTION",
        help="repeat images with categories that fewer than this fraction of the images have (default: never)",
    )


def _add_model(group: Any) -> None:
    group.add_argument(
        "--arch",
        choices=tuple(ARCHITECTURES),
        metavar="NAME",
        help=f"{', '.join(ARCHITECTURES)} (default: that of the weights, else mask_rcnn_resnet_50_fpn)",
    )
    group.add_argument("--weights", metavar="NAME|FILE", help="start from weights of a Mask R-CNN")
    group.add_argument("--weights-backbone", metavar="NAME|FILE", help="start from weights of an ImageNet classifier")
    group.add_argument(
        "--trainable-layers",
        type=argument_type(int, partial(validators.integer, minimum=0, maximum=5)),
        metavar="N",
        help="number of the backbone's five layers to train, from the top",
    )
    group.add_argument(
        "--norm",
        choices=("frozen", "batch"),
        help="constant or live batch norm (default: frozen with --weights or --weights-backbone, else batch)",
    )
    group.add_argument("--min-size", type=positive_int, metavar="PIXELS", help="short side of the network's input")
    group.add_argument("--max-size", type=positive_int, metavar="PIXELS", help="maximum of its long side")
    add_device(group)


def _add_length(group: Any) -> None:
    length = group.add_mutually_exclusive_group(required=True)
    length.add_argument("--epochs", type=positive_number, metavar="N", help="passes over the images")
    length.add_argument("--steps", type=positive_int, metavar="N", help="steps of the optimizer")
    length.add_argument("--minutes", type=positive_number, metavar="N", help="time; such a run is not reproducible")
    group.add_argument("--accumulate", type=positive_int, default=1, metavar="K", help="batches per step (default: 1)")
    group.add_argument(
        "--processes",
        type=positive_int,
        default=1,
        metavar="N",
        help="processes that compute the batches of a step; faster for small models (default: 1)",
    )
    group.add_argument(
        "--distributed",
        choices=DISTRIBUTED_BACKENDS,
        help="train in a group of processes, on several machines: started by mlx.launch, or with mpi by "
        "'mpiexec -n N python -m mpi4py -m lucid_maskrcnn train ...'; they share the batches of --accumulate",
    )
    group.add_argument(
        "--distributed-timeout",
        type=positive_number,
        default=60.0,
        metavar="SECONDS",
        help="without an answer, after which another process counts as lost (default: 60)",
    )


def _add_optimizer(group: Any) -> None:
    group.add_argument(
        "--lr",
        type=positive_number,
        help="highest learning rate (default: 0.00125 × images per step, less in fine-tuning: see below; with AdamW "
        "0.0001 × √(images per step / 16))",
    )
    group.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="(default: sgd)")
    group.add_argument("--betas", type=_betas, metavar="A,B", help="of AdamW (default: 0.9,0.999)")
    group.add_argument(
        "--momentum",
        type=argument_type(float, validators.fraction_below_one),
        default=0.9,
        help="of SGD (default: 0.9)",
    )
    group.add_argument(
        "--weight-decay",
        type=argument_type(float, validators.non_negative_number),
        help="(default: 0.0001, with AdamW 0.05)",
    )
    group.add_argument(
        "--decay-norms",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="apply weight decay to norms and biases (default: yes, with AdamW no)",
    )
    group.add_argument(
        "--schedule",
        choices=("multistep", "cosine", "constant"),
        default="multistep",
        help="of the learning rate (default: multistep)",
    )
    group.add_argument(
        "--milestones",
        type=_fractions,
        metavar="A,B",
        help="fractions of the run at which the learning rate drops (default: 2/3 and 8/9)",
    )
    group.add_argument(
        "--warmup",
        type=argument_type(int, validators.non_negative_int),
        metavar="STEPS",
        help="(default: a tenth of the run, in fine-tuning a fifth, at most 1000 steps)",
    )
    group.add_argument(
        "--max-grad-norm",
        type=argument_type(float, validators.non_negative_number),
        default=10.0,
        metavar="NORM",
        help="scale gradients down to this norm (default: 10; 0: never)",
    )
    group.add_argument(
        "--ema",
        type=argument_type(float, validators.fraction_below_one),
        metavar="DECAY",
        help="keep averaged weights, for example with 0.999",
    )
    group.add_argument(
        "--freeze-bn-after",
        type=argument_type(float, validators.fraction_below_one),
        metavar="FRACTION",
        help="of the run, after which live batch norm uses its running statistics and the schedule starts again at "
        "0.3 of the learning rate (default: 0.8; 0: never)",
    )
    group.add_argument(
        "--loss-weights",
        type=_weights,
        metavar="NAME=W,…",
        help="factors of the losses, such as mask_loss=2,rpn_cls_loss=0.5 (default: 1)",
    )
    group.add_argument(
        "--class-weights",
        type=_weights,
        metavar="CLASS=W,…",
        help="what a class counts in the classification loss, by name or label, such as mitosis=4 (default: 1)",
    )
    group.add_argument("--seed", type=SEED, default=0, metavar="N", help="(default: 0)")


def _add_output(group: Any) -> None:
    group.add_argument("--out", type=file_path, required=True, metavar="DIR", help="folder of the run")
    group.add_argument(
        "--save-every", type=positive_int, default=200, metavar="STEPS", help="write a checkpoint (default: 200)"
    )
    group.add_argument("--keep-last", type=positive_int, default=1, metavar="K", help="checkpoints kept (default: 1)")
    group.add_argument(
        "--eval-every", type=positive_int, metavar="STEPS", help="evaluate (default: an epoch, at least 200 steps)"
    )
    group.add_argument(
        "--val-loss",
        action="store_true",
        help="compute the losses of the images to evaluate on, too: one more pass over them (implied by "
        "--keep-best val/total_loss)",
    )
    group.add_argument(
        "--keep-best",
        metavar="METRIC",
        help="best.safetensors gets the weights with the highest (default: segm/AP, or AP_0.5:0.95 without "
        "pycocotools)",
    )
    group.add_argument(
        "--patience", type=positive_int, metavar="N", help="stop after N evaluations without a better one"
    )
    resume = group.add_mutually_exclusive_group()
    resume.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    resume.add_argument("--auto-resume", action="store_true", help="continue if there is a checkpoint, else start")
    group.add_argument("--allow-changes", action="store_true", help="resume with other settings than before")
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    group.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="write event files (default: if TensorBoard is installed)",
    )
    group.add_argument(
        "--wandb", metavar="PROJECT", help="send the run to Weights & Biases (WANDB_MODE=offline: later)"
    )
    group.add_argument("--mlflow", metavar="EXPERIMENT", help="send the run to MLflow, where MLFLOW_TRACKING_URI says")


# ------------------------------------------------------------------ types of arguments


def _fractions(text: str) -> tuple[float, ...]:
    found = tuple(_open_fraction(part) for part in text.split(","))
    if list(found) != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"must be fractions in ascending order, got {text!r}")
    return found


_open_fraction = argument_type(float, validators.open_fraction)


def _betas(text: str) -> tuple[float, ...]:
    betas = _fractions(text)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise argparse.ArgumentTypeError(f"must be two numbers of at least 0 and below 1, got {text!r}")
    return betas


def _weights(text: str) -> dict[str | int, float]:
    found: dict[str | int, float] = {}
    for part in text.split(","):
        name, _, weight = part.rpartition("=")
        name = name.strip()
        try:
            number = validators.non_negative_number("a weight", float(weight))
        except ValueError as error:
            wanted = "must be names and numbers of at least 0, such as name=2,other=0.5"
            raise argparse.ArgumentTypeError(f"{wanted}, got {text!r}") from error
        if not name:
            raise argparse.ArgumentTypeError(f"must have a name before each =, got {text!r}")
        found[int(name) if name.isdecimal() else name] = number
    return found
