"""The command line: ``lucid-maskrcnn COMMAND``.

A user's mistake is one sentence on stderr and exit code 2, found before any work is done. Files
are written whole or not at all.
"""

from __future__ import annotations

import argparse
import atexit
import dis
import gc
import os
import platform
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.ops import gpu_backend
from lucid_maskrcnn.version import __version__

# What takes long to import is imported by the command that needs it: --help answers at once.
from . import (
    browser_app,
    check_data,
    completion,
    convert,
    convert_data,
    env,
    evaluate,
    export_onnx,
    info,
    predict,
    split_data,
    suggest,
    train,
)
from .output import say, warn
from .overview import MainParser
from .parser import Parser, commands_of

__all__ = ["build_parser", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, by default those of the process.

    Returns
    -------
    int
        Exit code: 0, or 1 if ``check-data`` has found issues or ``predict`` has failed on some images, 2 for a mistake
        in the arguments or files, 130 when interrupted.
    """
    if argv is None:
        _open_standard_streams()
        atexit.register(gc.freeze)  # Python would look for cycles as it ends: a tenth of the time of --help
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        code = _run(sys.argv[1:] if argv is None else list(argv))
    if argv is None and code >= 128:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would print a traceback as Python ends
    return code


def _open_standard_streams() -> None:
    """Open what the shell has closed (``>&-``): a file would get the number, and what a library prints."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _run(arguments: list[str]) -> int:
    """Return the exit code of a command, once its errors are told."""
    try:
        return _parse_and_run(arguments)
    except KeyboardInterrupt:
        warn("lucid-maskrcnn: interrupted.")
        return 130
    except OSError as error:
        known = error.filename and error.strerror
        sentence = f"{error.filename!r}: {error.strerror}." if known else str(error)
    except (TypeError, ValueError, ImportError) as error:
        if not _is_answer(error):
            raise
        sentence = str(error)
    warn(f"lucid-maskrcnn: {sentence}")
    return 2


def _parse_and_run(arguments: list[str]) -> int:
    parser = build_parser()
    arguments = _in_words(arguments)
    if not arguments:
        parser.print_help()
        return 0
    commands = {name: command for name, (_, command) in commands_of(parser).items()}
    _check_command(parser, commands, arguments)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands[args.command].error(f"one argument too many: {unknown[0]!r}")
    return args.run(args) or 0


def _in_words(arguments: list[str]) -> list[str]:
    """Return the arguments with ``help [COMMAND]`` and ``version`` as the options that they are elsewhere."""
    if arguments[:1] == ["help"]:
        return [*arguments[1:2], "--help"]
    return ["--version"] if arguments == ["version"] else arguments


def _check_command(parser: Parser, commands: dict[str, Parser], arguments: list[str]) -> None:
    """Exit if the command is none, or does not have an option; its own parser says so."""
    name = next((a for a in arguments if not a.startswith("-")), "")
    if arguments[0] == name and name not in commands:
        listed = ", ".join(map(repr, commands))
        parser.error(f"COMMAND must be one of {listed}, got {validators.shown(name)}.{_meant(name, commands)}")
    commands.get(name, parser).check_options(arguments, [parser, *commands.values()])


def _meant(name: str, commands: Iterable[str]) -> str:
    """Return what may have been meant by a word that is no command."""
    from lucid_maskrcnn.weights.registry import find_by_name

    near = validators.nearest(name, [*commands, "help", "version"], 0.6)
    if name and os.path.exists(name):
        near = f"predict {name}"
    elif name and find_by_name(name):
        near = f"info {name}"
    return f" Did you mean {near!r}?" if near else ""


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    warn(f"lucid-maskrcnn: warning: {message}")


def _is_answer(error: Exception) -> bool:
    """Whether a ``raise`` statement of this package raised it: the answer to a user's mistake.

    Any other is a defect, ours or a dependency's: its traceback must be seen.
    """
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None or not place.tb_frame.f_globals["__name__"].startswith("lucid_maskrcnn"):
        return False
    return dis.opname[place.tb_frame.f_code.co_code[place.tb_lasti]] == "RAISE_VARARGS"


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = MainParser(prog="lucid-maskrcnn", description="Find and outline objects in images with Mask R-CNN.")
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version, and those of what results depend on"
    )
    commands: Any = parser.add_subparsers(required=True, metavar="COMMAND", dest="command", parser_class=Parser)
    for part in (
        predict,
        browser_app,
        train,
        evaluate,
        check_data,
        convert_data,
        split_data,
        suggest,
        info,
        convert,
        export_onnx,
        env,
        completion,
    ):
        part.add_commands(commands)
    return parser


class _Version(argparse.Action):
    """Print the versions of this package and of what its results depend on, unwrapped, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # here, as it brings much along

        packages = [f"{name} {version(name)}" for name in ("lucid-dl", "mlx", "numpy")]
        system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        say(", ".join([f"lucid-maskrcnn {__version__}", *packages, system, f"gpu: {gpu_backend()}"]))
        parser.exit()
