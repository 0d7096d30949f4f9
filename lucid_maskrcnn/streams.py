"""Writing to standard output and standard error, whose reader may have gone away; progress bars, also in notebooks."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TextIO

__all__ = ["in_notebook", "progress_bar", "shows_progress", "with_progress", "write_text"]

_SECONDS_BETWEEN_TEXTS = 1.0  # of a bar in a notebook without ipywidgets, which may keep every one of them


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


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, which shows images and widgets."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def shows_progress(wanted: bool) -> bool:
    """Return whether to show a progress bar: if it is wanted, and standard error is a terminal or a notebook's."""
    return wanted and sys.stderr is not None and (sys.stderr.isatty() or in_notebook())


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a bar of tqdm: on standard error, or below a notebook's cell, as a widget where ipywidgets is installed.

    Parameters
    ----------
    items : iterable, optional
        What it goes over; by default it is moved by ``update``.
    **options
        Of tqdm.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm's own, that there is no widget without ipywidgets
        from tqdm.auto import tqdm

    if in_notebook() and not any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__):
        options = {"mininterval": _SECONDS_BETWEEN_TEXTS, **options}
    return tqdm(items, **{"file": sys.stderr, "dynamic_ncols": True, **options})


def with_progress[T](items: Iterable[T], total: int, wanted: bool, *, desc: str, unit: str) -> Iterable[T]:
    """Return the items, behind a progress bar where :func:`shows_progress` says so.

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
    bar: Iterable[T] = progress_bar(items, total=total, desc=desc, unit=unit, leave=False)
    return bar


def _beside_progress_bars(stream: TextIO) -> AbstractContextManager[object]:
    """Return a context in which a progress bar on the same terminal makes room."""
    if "tqdm" not in sys.modules:
        return nullcontext()
    from tqdm import tqdm

    context: AbstractContextManager[object] = tqdm.external_write_mode(file=stream)
    return context
