"""The command line: ``lucid-maskrcnn COMMAND``.

A user's mistake is one sentence on stderr and exit code 2, found before any work is done. Files
are written whole or not at all.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

# What takes long to import is imported by the command that needs it: --help answers at once.
from . import check_data, convert, evaluate, predict, train
from .common import say
from .predict import predict_files

__all__ = ["main", "predict_files"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, by default those of the process.

    Returns
    -------
    int
        Exit code: 0, or 1 if ``check-data`` has found faults, 2 for a mistake in the arguments or files, 130 when
        interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        code = args.run(args)
    except KeyboardInterrupt:
        print("lucid-maskrcnn: interrupted.", file=sys.stderr)
        return 130
    except OSError as error:
        about = f"{error.filename}: {error.strerror}." if error.filename and error.strerror else str(error)
        return _complain(about)
    except ValueError as error:
        return _complain(str(error))
    return code or 0


def _complain(sentence: str) -> int:
    print("lucid-maskrcnn:", " ".join(sentence.split()), file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lucid-maskrcnn", description="Find and outline objects in pictures with Mask R-CNN."
    )
    parser.add_argument("--version", action=_PrintVersions, nargs=0, help="print what a bug report needs")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for part in (predict, evaluate, check_data, train, convert):
        part.add_commands(commands)
    return parser


class _PrintVersions(argparse.Action):
    """Print the versions of this package and of what its results depend on, unwrapped, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        packages = [f"{name} {version(name)}" for name in ("lucid-maskrcnn", "lucid-dl", "mlx", "numpy")]
        system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        say(", ".join([*packages, system]))
        parser.exit()
