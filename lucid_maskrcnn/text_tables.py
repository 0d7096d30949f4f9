"""Plain text for people: tables, counts, and names as a terminal may show them.

Widths are counted in cells of a terminal: Chinese, Japanese and Korean characters and most pictures take two, combining
marks none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence

__all__ = ["align_columns", "cell_width", "count_of", "pair_lines", "printable", "shortened"]

# Controls (C0 and C1), text direction, undecodable bytes of file names, line and paragraph separators.
_CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_NO_WIDTH = {"Mn", "Me", "Cf"}  # marks above, below and around the character before them
_NARROWEST = 8  # cells that a shortened column keeps, if the terminal has them
_BESIDE = 24  # cells that values need to stand beside their names, not below


def printable(text: str) -> str:
    """Return text with escapes in place of control characters: a name must not be able to clear a terminal.

    Also of characters that turn the direction of the text around them, and of bytes of a file name that are no text,
    which cannot be encoded.
    """
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in _CONTROL else c for c in text)


# ------------------------------------------------------------------ widths


def cell_width(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def _width_of(character: str) -> int:
    if unicodedata.category(character) in _NO_WIDTH:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> int:
    """Return how many of the first characters fit into so many cells, with the marks that belong to them."""
    taken = 0
    for k, character in enumerate(text):
        taken += _width_of(character)
        if taken > width:
            return k
    return len(text)


def shortened(text: str, width: int) -> str:
    """Return a text of at most so many cells: what is too long has an ellipsis in its middle, and prose at its end.

    Both ends of a path or a name tell most: where it is, and which it is.
    """
    if cell_width(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    if " " in text and not set(text) & set("/\\"):
        return f"{text[: _cut(text, width - 1)].rstrip()}…"
    head = _cut(text, width // 2)
    room = width - 1 - cell_width(text[:head])
    tail = len(text)
    while tail > head and cell_width(text[tail - 1 :]) <= room:
        tail -= 1
    while tail < len(text) and not _width_of(text[tail]):
        tail += 1  # a mark whose character was cut off
    return f"{text[:head]}…{text[tail:]}"


def _ljust(text: str, width: int) -> str:
    return text + " " * (width - cell_width(text))


def _rjust(text: str, width: int) -> str:
    return " " * (width - cell_width(text)) + text


# ------------------------------------------------------------------ tables


def align_columns(
    rows: Sequence[Sequence[str]], left: Collection[int] = (0,), *, width: int | None = None
) -> list[str]:
    """Return the rows of a table as lines of equal length, with two spaces between columns; names are printable.

    Parameters
    ----------
    rows : sequence of sequences of str
        All of the same length.
    left : collection of int
        The columns that are aligned to the left; the others are aligned to the right.
    width : int, optional
        Cells of the terminal: the widest columns are shortened to fit, those aligned to the left first, as the others
        hold numbers. None shortens nothing.

    Returns
    -------
    list of str
        One line a row; ``[]`` without rows.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_width, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        widths = _fitted(widths, left, width)
        rows = [[shortened(cell, w) for cell, w in zip(row, widths, strict=True)] for row in rows]
    return [
        "  ".join(
            _ljust(cell, width) if k in left else _rjust(cell, width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _fitted(widths: list[int], left: Collection[int], total: int) -> list[int]:
    """Return widths that fit: the widest column gives first, one of text before one of numbers."""
    widths = list(widths)
    room = total - 2 * (len(widths) - 1)
    for narrowest, columns in ((_NARROWEST, left), (_NARROWEST, range(len(widths))), (1, range(len(widths)))):
        while sum(widths) > room:
            widest = max((k for k in columns if k < len(widths)), key=lambda k: widths[k], default=None)
            if widest is None or widths[widest] <= narrowest:
                break
            widths[widest] -= 1
    return widths


def pair_lines(table: Mapping[str, str], *, width: int | None = None) -> list[str]:
    """Return a table of names and values as lines.

    Parameters
    ----------
    table : mapping of str to str
    width : int, optional
        Cells of the terminal: a longer value goes on in the next lines, below its beginning. None breaks no value.
    """
    rows = [(printable(name), printable(value)) for name, value in table.items()]
    indent = max((cell_width(name) for name, _ in rows), default=0) + 2
    below = width is not None and width < indent + _BESIDE
    lines = []
    for name, value in rows:
        if width is None:
            lines.append(f"{_ljust(name, indent)}{value}".rstrip())
            continue
        parts = _wrapped(value, width - 2 if below else width - indent)
        first = name if below else f"{_ljust(name, indent)}{next(parts)}".rstrip()
        lines += [first, *(f"{'  ' if below else ' ' * indent}{part}" for part in parts)]
    return lines


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Yield pieces of at most so many cells, broken at spaces, and within words that are longer."""
    width = max(width, 2)  # of the widest character
    while cell_width(text) > width:
        end = max(_cut(text, width), 1)
        space = end if text[end] == " " else text.rfind(" ", 1, end)
        if space > 0:
            yield text[:space].rstrip()
            text = text[space:].lstrip()
        else:
            yield text[:end]
            text = text[end:]
    yield text


def count_of(count: int, noun: str) -> str:
    """Return ``"no issues"``, ``"1 issue"``, ``"2 issues"``."""
    return f"{count or 'no'} {noun}{'s' * (count != 1)}"
