"""What the commands print: lines, sentences, and tables that fit the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Mapping, Sequence

from lucid_maskrcnn.streams import write_text
from lucid_maskrcnn.text_tables import align_columns, pair_lines, printable

__all__ = ["say", "say_pairs", "say_table", "table_lines", "table_width", "warn"]


def say(line: str = "", *, to_stderr: bool = False) -> None:
    """Print a line to stdout; a reader that has gone away (``| head``) does not stop the work."""
    write_text(f"{printable(line)}\n", sys.stderr if to_stderr else sys.stdout)


def warn(sentence: str) -> None:
    """Print a sentence to stderr, on one line."""
    one_line = " ".join(line.strip() for line in sentence.split("\n"))  # two spaces may be those of a file's name
    write_text(f"{printable(one_line)}\n", sys.stderr)


def table_width() -> int | None:
    """Return the columns of the terminal behind stdout; None where it is a file or a pipe, which get tables whole."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def table_lines(rows: Sequence[Sequence[str]], left: Collection[int] = (0,), indent: str = "") -> list[str]:
    """Return the lines of a table; for a terminal long cells are shortened to its width."""
    width = table_width()
    aligned = align_columns(rows, left, width=None if width is None else width - len(indent))
    return [f"{indent}{line}".rstrip() for line in aligned]


def say_table(rows: Sequence[Sequence[str]], left: Collection[int] = (0,), indent: str = "") -> None:
    """Print a table; on a terminal long cells are shortened to its width."""
    for line in table_lines(rows, left, indent):
        say(line)


def say_pairs(table: Mapping[str, str]) -> None:
    """Print names and values; on a terminal long values go on in the next line, and lose nothing."""
    for line in pair_lines(table, width=table_width()):
        say(line)
