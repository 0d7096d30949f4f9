"""What goes wrong in a request, and how the page says it."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from lucid_maskrcnn.text_tables import printable

__all__ = ["AppError", "sentence_of"]

_OURS = (ImportError, OSError, TypeError, ValueError)


class AppError(Exception):
    """An answer other than 200: the status, and a sentence for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def sentence_of(error: BaseException, names: dict[str | Path, str]) -> str:
    """Return what the page says of an error: the package's own sentence, without the paths of this machine.

    Parameters
    ----------
    error : BaseException
        A defect's traceback goes to stderr.
    names : dict of str or Path to str
        What stands in place of a path.
    """
    if isinstance(error, MemoryError):
        return "There is not enough memory for this on the server: try a smaller image, or tiles."
    if not isinstance(error, _OURS) or not _raised_here(error):
        traceback.print_exception(error, file=sys.stderr)
        return f"The server made a mistake ({type(error).__name__}); its terminal says more."
    return with_names(str(error), names)


def with_names(sentence: str, names: dict[str | Path, str]) -> str:
    """Return a sentence with names in place of paths, on one line."""
    for path, name in sorted(names.items(), key=lambda item: -len(str(item[0]))):
        sentence = sentence.replace(str(path), name)
    return printable(" ".join(sentence.split()))


def _raised_here(error: BaseException) -> bool:
    """Whether this package raised it: an answer to what was asked. Any other is a defect."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(place.tb_frame.f_globals.get("__name__", "")).startswith("lucid_maskrcnn")
