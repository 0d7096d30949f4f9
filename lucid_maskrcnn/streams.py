"""Writing to standard output and standard error, whose reader may have gone away."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

__all__ = ["shows_progress", "with_progress", "write_text"]


def write_text(text: str, stream: TextIO | None) -> None:
    """Write to a stream at once; the work goes on if nobody reads it.

    Parameters
    ----------
    text : str
        Characters that the stream cannot encode are written as escapes.
    stream : text stream or None
        None, as Python has it where the shell has closed one (``>&-``), takes nothing. One whose reader has gone away
        (``| head``) takes nothing from then on.

    Raises
    ------
    OSError
        If standard output cannot be written to for another reason, such as a full disk; from then on it takes nothing.
    """
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    try:
        with _beside_progress_bars(stream):
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
    except OSError as error:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        if stream is not sys.stderr and not isinstance(error, BrokenPipeError):
            raise


def shows_progress(wanted: bool) -> bool:
    """Return whether to show a progress bar: if it is wanted, and standard error is a terminal."""
    return wanted and sys.stderr is not None and sys.stderr.isatty()


def with_progress[T](items: Iterable[T], total: int, wanted: bool, *, desc: str, unit: str) -> Iterable[T]:
    """Return the items, behind a progress bar on a terminal.

    Parameters
    ----------
    items : iterable
    total : int
        Their number.
    wanted : bool
        Whether to show a bar.
    desc, unit : str
        What the bar says before and after its numbers.
    """
    if not shows_progress(wanted):
        return items
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, total=total, desc=desc, unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False)
    return bar


def _beside_progress_bars(stream: TextIO) -> AbstractContextManager[object]:
    """Return a context in which a progress bar on the same terminal makes room."""
    if "tqdm" not in sys.modules:
        return nullcontext()
    from tqdm import tqdm

    context: AbstractContextManager[object] = tqdm.external_write_mode(file=stream)
    return context
