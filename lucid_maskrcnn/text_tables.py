"""Plain text for people: tables, counts, and names as a terminal may show them."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

__all__ = ["align_columns", "count_of", "printable"]

# Controls (C0 and C1), text direction, undecodable bytes of file names, line and paragraph separators.
_CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
    """Return text with escapes in place of control characters: a name must not be able to clear a terminal.

    Also of characters that turn the direction of the text around them, and of bytes of a file name that are no text,
    which cannot be encoded.
    """
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in _CONTROL else c for c in text)


def align_columns(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return the rows of a table as lines of equal length, with two spaces between columns; names are printable.

    Parameters
    ----------
    rows : sequence of sequences of str
        All of the same length.
    left : collection of int
        The columns that are aligned to the left; the others are aligned to the right.

    Returns
    -------
    list of str
        One line a row; ``[]`` without rows.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def count_of(count: int, noun: str) -> str:
    """Return ``"no issues"``, ``"1 issue"``, ``"2 issues"``."""
    return f"{count or 'no'} {noun}{'s' * (count != 1)}"
