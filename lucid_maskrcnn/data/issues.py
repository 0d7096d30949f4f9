"""What is wrong with somebody's data, in one sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Fault", "no_good", "refuse"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes
    ----------
    place : str
        Where: ``"annotation 7"``, ``"image 12 (a.png)"``.
    what : str
        The rest of the sentence, without its full stop.
    grave : bool
        Whether nothing can be trained on data with it. Other faults cost an object or a figure of the evaluation.
    """

    place: str
    what: str
    grave: bool = True

    def __str__(self) -> str:
        return f"{self.place} {self.what}."


def no_good(error: Exception | str) -> str:
    """Return what is wrong with something that could not be read, for :attr:`Fault.what`."""
    return f"is no good: {str(error).rstrip('.')}"


def refuse(source: str, faults: Sequence[Fault]) -> None:
    """Raise ``ValueError`` for the first grave fault, if there is one.

    Parameters
    ----------
    source : str
        The file or folder that they are in.
    faults : sequence of Fault
    """
    grave = [fault for fault in faults if fault.grave]
    if not grave:
        return
    rest = len(grave) - 1
    more = f" There {'is' if rest == 1 else 'are'} {rest} more: lucid-maskrcnn check-data lists them." if rest else ""
    raise ValueError(f"In {source}, {grave[0]}{more}")
