"""What the commands share: the parser and its one-sentence errors, types of arguments, output."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lucid_maskrcnn import validators
from lucid_maskrcnn.ops import DEVICES, DTYPES, device_name, gpu_backend
from lucid_maskrcnn.streams import write_text
from lucid_maskrcnn.text_tables import printable

__all__ = [
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
    "check_output_file",
    "check_output_folder",
    "file_path",
    "fraction",
    "non_negative_int",
    "positive_int",
    "positive_number",
    "say",
    "say_device",
    "warn",
]

# ------------------------------------------------------------------ output


def say(line: str = "", *, to_stderr: bool = False) -> None:
    """Print a line to stdout; a reader that has gone away (``| head``) does not stop the work."""
    write_text(f"{printable(line)}\n", sys.stderr if to_stderr else sys.stdout)


def warn(sentence: str) -> None:
    """Print a sentence to stderr, on one line."""
    one_line = " ".join(line.strip() for line in sentence.split("\n"))  # two spaces may be those of a file's name
    write_text(f"{printable(one_line)}\n", sys.stderr)


# ------------------------------------------------------------------ parser


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence on stderr, and exit code 2.

    The sentence names the option and, where an option, a command or a choice is misspelt, the nearest one there is.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)  # an abbreviation would change its meaning with a new option

    def check_options(self, arguments: Sequence[str]) -> None:
        """Exit if one of the arguments is an option that this parser does not have."""
        for argument in itertools.takewhile(lambda a: a != "--", arguments):
            name = argument.partition("=")[0]
            if re.match("--?[a-zA-Z]", name) and name not in self._option_string_actions:
                near = validators.nearest(name, (o for o in self._option_string_actions if o.startswith("--")))
                hint = f"did you mean {near!r}?" if near else f"'{self.prog} --help' lists them."
                self.error(f"there is no option {name!r}; {hint}")

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit."""
        message = re.sub("^argument (.+?): (?=must )", r"\1 ", message).removeprefix("argument ")
        message = re.sub(
            "^the following arguments are required: (.*)", rf"missing: \1; see '{self.prog} --help'", message
        )
        warn(f"{self.prog}: {message}" + ("" if message.endswith((".", "?")) else "."))
        sys.exit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            try:
                validators.choice("", value, list(action.choices))
            except (TypeError, ValueError) as error:
                raise argparse.ArgumentError(action, str(error).strip()) from error

    def _print_message(self, message: str, file: Any = None) -> None:
        write_text(message, file or sys.stdout)


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


def say_device(device: str) -> None:
    """Say on stderr what computes, if it is not the cpu that the user named: a GPU, or what "auto" has chosen."""
    backend, chosen = gpu_backend(), device_name("--device", device)
    if chosen == "gpu" and backend.kind != "cpu":  # of MLX's CPU code there is a warning
        say(f"gpu: {backend}", to_stderr=True)
    elif device == "auto":
        say(f"--device auto: cpu, as MLX has no GPU here ({backend.name})", to_stderr=True)


# ------------------------------------------------------------------ where results go


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
