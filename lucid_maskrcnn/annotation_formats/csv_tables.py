"""Tables as comma-separated values, for programs and for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["table_text"]

# What a spreadsheet takes for the beginning of a formula, and runs; also in the full width of East Asian scripts.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def table_text(columns: Mapping[str, Any]) -> str:
    r"""Return columns as comma-separated values (RFC 4180) with a line of headings; lines end in ``\n``.

    Parameters
    ----------
    columns : mapping of str to sequence or array
        Of equal length. Numbers have as many digits as tell them apart, and NaN is an empty cell. Text that a
        spreadsheet would take for a formula gets an apostrophe before it; line breaks and quotes in it are quoted.
    """
    buffer = io.StringIO()
    # \r\n as the end of a line has the writer quote both in cells, in every release of Python.
    writer = csv.writer(_Lines(buffer), lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(zip(*map(_cells, columns.values()), strict=True))
    return buffer.getvalue()


class _Lines:
    """A file that gets its lines with a plain end."""

    def __init__(self, buffer: io.StringIO) -> None:
        self._buffer = buffer

    def write(self, line: str) -> int:
        return self._buffer.write(line.removesuffix("\r\n") + "\n")


def _cells(column: Any) -> list[Any]:
    if isinstance(column, np.ndarray) and column.dtype.kind == "f":
        # Of float32 its own few digits: as Python's float, 0.9 would be 0.8999999761581421.
        return ["" if np.isnan(value) else str(value) for value in column]
    return [_harmless(v) if isinstance(v, str) else v for v in np.asarray(column, object).tolist()]


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
