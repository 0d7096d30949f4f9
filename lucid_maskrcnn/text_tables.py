"""Plain text: tables and counts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["align_columns", "count_of"]


def align_columns(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return the rows of a table as lines of equal length, with two spaces between columns.

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
