"""What the commands share: types of arguments, options of several commands, and where results go."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.ops import DEVICES, DTYPES, device_name, gpu_backend

from .output import say, say_pairs, say_table, table_lines, table_width, warn
from .parser import Parser

__all__ = [
    "SEED",
    "Parser",
    "add_device",
    "add_dtype",
    "add_page",
    "add_reading",
    "add_score_thresh",
    "add_selection",
    "add_top_k",
    "add_weights",
    "argument_type",
    "check_dtype",
    "check_image_folder",
    "check_output_file",
    "check_output_folder",
    "describe_gpu",
    "file_path",
    "fraction",
    "non_negative_int",
    "positive_int",
    "positive_number",
    "say",
    "say_device",
    "say_pairs",
    "say_table",
    "table_lines",
    "table_width",
    "warn",
]

# ------------------------------------------------------------------ types of arguments


def argument_type[T](parse: Callable[[str], Any], check: validators.Check[T]) -> Callable[[str], T]:
    """Return a type of arguments for argparse: the text is parsed, and the value checked as in Python.

    Parameters
    ----------
    parse : callable
        ``int``, ``float`` and the like: takes the text, and raises ``ValueError`` if it cannot be one.
    check : callable
        One of :mod:`lucid_maskrcnn.validators`, or of its kind.
    """

    def convert(text: str) -> T:
        try:
            value = parse(text)
        except ValueError:
            value = text  # of the wrong type, which the check says
        try:
            return check("", value)
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from error

    return convert


positive_int = argument_type(int, validators.positive_int)
non_negative_int = argument_type(int, validators.non_negative_int)
positive_number = argument_type(float, validators.positive_number)
non_negative_number = argument_type(float, validators.non_negative_number)
fraction = argument_type(float, validators.fraction)
SEED = argument_type(int, partial(validators.integer, minimum=0, maximum=2**31 - 1))
file_path: Callable[[str], Path] = argument_type(str, validators.path)


# ------------------------------------------------------------------ options of several commands


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``."""
    parser.add_argument(
        "--weights",
        default="NUCLEI",
        metavar="NAME|FILE",
        help="a name that 'lucid-maskrcnn info' lists, or a file of weights (default: NUCLEI)",
    )


def add_score_thresh(parser: argparse.ArgumentParser, default: float) -> None:
    """Add ``--score-thresh``."""
    parser.add_argument(
        "--score-thresh",
        type=fraction,
        default=default,
        metavar="S",
        help=f"detections have a higher score (default: {default:g})",
    )


def add_top_k(parser: argparse.ArgumentParser) -> None:
    """Add ``--top-k``."""
    parser.add_argument(
        "--top-k",
        type=positive_int,
        metavar="N",
        help="at most N detections per image (default: the model's own setting)",
    )


def _class(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdigit() else text


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options of which detections are kept: classes, suppression, areas, the edge of the image."""
    parser.add_argument(
        "--classes",
        type=lambda text: [_class(part.strip()) for part in text.split(",")],
        metavar="NAME[,NAME]",
        help="find only these, by name or label (default: all)",
    )
    parser.add_argument(
        "--nms-thresh",
        type=fraction,
        metavar="T",
        help="of two detections of a class with a greater IoU only the better is kept (default: the model's own "
        "setting)",
    )
    parser.add_argument(
        "--class-agnostic-nms", action="store_true", help="detections of different classes suppress each other, too"
    )
    parser.add_argument("--mask-nms", action="store_true", help="--nms-thresh is the IoU of masks instead of boxes")
    for option, what in (("--min-area", "at least"), ("--max-area", "at most")):
        parser.add_argument(
            option, type=non_negative_number, metavar="A", help=f"keep objects with {what} so many pixels"
        )
    parser.add_argument("--exclude-edge", action="store_true", help="leave out objects at the edge of the image")


def _numbers(text: str) -> Any:
    """Return the numbers in "0,1,2"."""
    return [float(part) if "." in part else int(part) for part in text.split(",")]


def add_page(parser: Any) -> None:
    """Add ``--page``."""
    parser.add_argument(
        "--page", type=non_negative_int, metavar="N", help="of files with several pages, counted from 0"
    )


def add_reading(parser: Any) -> None:
    """Add ``--channels`` and ``--intensity``."""
    parser.add_argument(
        "--channels",
        type=argument_type(_numbers, validators.channel_numbers),
        metavar="C[,C,C]",
        help="one or three of an image's channels, counted from 0, such as 2 or 2,1,0",
    )
    parser.add_argument(
        "--intensity",
        type=argument_type(_numbers, validators.intensity_rule),
        metavar="RULE",
        help="how more than 8 bits become 8: full (the range of the type), max (the image's own maximum), or "
        "percentiles, such as 0.1,99.9 (default: as the weights were trained, else full)",
    )


def add_device(parser: Any) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="cpu (NumPy); gpu (MLX), also called cuda, mps and metal; auto, gpu where there is one (default: cpu)",
    )


def add_dtype(parser: Any) -> None:
    """Add ``--dtype``."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="what convolutions compute in; float16 and bfloat16 only on gpu (default: float32)",
    )


def describe_gpu() -> str:
    """Return what the gpu is here, or that there is none."""
    backend = gpu_backend()
    if backend.kind == "cpu":
        return f"none: MLX has no GPU here and computes on the CPU ({backend.name}), slower than --device cpu"
    return str(backend)


def say_device(device: str) -> None:
    """Say on stderr what computes, if it is not the cpu that the user named: a GPU, or what "auto" has chosen."""
    backend, chosen = gpu_backend(), device_name("--device", device)
    if chosen == "gpu" and backend.kind != "cpu":  # of MLX's CPU code there is a warning
        say(f"gpu: {backend}", to_stderr=True)
    elif device == "auto":
        say(f"--device auto: cpu, as MLX has no GPU here ({backend.name})", to_stderr=True)


def check_dtype(device: str, dtype: str | None) -> None:
    """Refuse half precision on cpu, before any work is done; what to do depends on whether there is a GPU."""
    if dtype in (None, "float32") or device_name("--device", device) == "gpu":
        return
    backend = gpu_backend()
    if backend.kind != "cpu":
        raise ValueError(f"--dtype {dtype} is computed on gpu only: use --device gpu, which is {backend}.")
    why = "--device auto has found none here" if device == "auto" else "there is none here"
    raise ValueError(
        f"--dtype {dtype} needs a GPU, and {why} (MLX computes on the CPU, {backend.name}): leave out --dtype, and the "
        "cpu computes in float32."
    )


# ------------------------------------------------------------------ where images come from, and results go


def check_image_folder(folder: Path) -> None:
    """Refuse a folder of images that is not there."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder of images {str(folder)!r}.{validators.near_file(folder)}")


def check_output_folder(option: str, folder: Path) -> None:
    """Refuse a folder that can neither be written to nor created, before any work is done."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"{option} {str(folder)!r} cannot be a folder: {str(existing)!r} is a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {str(folder)!r} cannot be written to: no permission for {str(existing)!r}.")


def check_output_file(option: str, file: Path) -> None:
    """Refuse a file that cannot be written, before any work is done."""
    if file.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {str(file)!r}.")
    if not file.absolute().parent.exists():
        raise ValueError(f"{option} {str(file)!r} cannot be written: there is no folder {str(file.parent)!r}.")
    check_output_folder(option, file.absolute().parent)
