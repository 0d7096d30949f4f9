"""Issues of a data set: what is wrong with it, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Issue", "cannot_be_used", "raise_first_fatal"]


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong.

    Attributes
    ----------
    place : str
        Where: ``"annotation 7"``, ``"image 12 (a.png)"``.
    problem : str
        The rest of the sentence, without its full stop.
    fatal : bool
        Whether the data set cannot be used for training. Other issues cost an object, or part of an evaluation.
    """

    place: str
    problem: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.place} {self.problem}."


def cannot_be_used(reason: Exception | str) -> str:
    """Return the :attr:`Issue.problem` of something that could not be read, for the reason given."""
    return f"cannot be used: {str(reason).rstrip('.')}"


def raise_first_fatal(source: str, issues: Sequence[Issue]) -> None:
    """Raise ``ValueError`` for the first fatal issue, if there is one.

    Parameters
    ----------
    source : str
        The file or folder that the issues are in.
    issues : sequence of Issue
    """
    fatal = [issue for issue in issues if issue.fatal]
    if not fatal:
        return
    rest = len(fatal) - 1
    more = f" There {'is' if rest == 1 else 'are'} {rest} more: lucid-maskrcnn check-data lists them." if rest else ""
    raise ValueError(f"In {source}, {fatal[0]}{more}")
