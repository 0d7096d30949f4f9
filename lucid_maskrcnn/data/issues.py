"""Issues of a data set: what is wrong with it, one sentence each, and grouped by kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.text_tables import count_of, printable
from lucid_maskrcnn.user_warnings import warn_user

__all__ = [
    "DataFaultError",
    "Issue",
    "cannot_be_used",
    "group_issues",
    "raise_first_fault",
    "unreadable",
    "warn_of_left_out",
]

type Level = Literal["fault", "warning", "note"]

_LEVELS: tuple[Level, ...] = ("fault", "warning", "note")
_SHOWN = 3  # places of a group that are named


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong.

    Attributes
    ----------
    place : str
        Where: ``"annotation 7"``, ``"image 12 (a.png)"``.
    problem : str
        The rest of the sentence, without its full stop.
    level : {"fault", "warning", "note"}
        A fault makes an annotation or an image unusable: reading stops at it, or leaves out what has it
        (``on_fault="skip"``). With a warning the data is used in the way that the sentence says. A note is nothing
        wrong.
    remedy : str
        What to do, without full stop; empty if the problem says it.
    kind : str
        Issues of one kind are shown as a group; by default the problem.
    """

    __repr__ = fields_repr

    place: str
    problem: str
    level: Level = "fault"
    remedy: str = ""
    kind: str = ""

    def __str__(self) -> str:
        return printable(f"{self.place} {self.problem}{': ' * bool(self.remedy)}{self.remedy}.")

    @property
    def fatal(self) -> bool:
        """Whether it is a fault."""
        return self.level == "fault"


class DataFaultError(ValueError):
    """A data set has faults, at which reading it stops.

    Attributes
    ----------
    issues : tuple of Issue
        All of them, not only the one that the message has.
    """

    def __init__(self, message: str, issues: Iterable[Issue] = ()) -> None:
        super().__init__(message)
        self.issues = tuple(issues)

    def __reduce__(self) -> tuple[type[DataFaultError], tuple[str, tuple[Issue, ...]]]:
        return type(self), (str(self), self.issues)


def cannot_be_used(reason: Exception | str) -> str:
    """Return the :attr:`Issue.problem` of something that could not be read, for the reason given."""
    return f"cannot be used: {str(reason).rstrip('.')}"


def unreadable(place: str, error: Exception) -> Issue:
    """Return the issue of an image file that cannot be decoded."""
    remedy = "it is cut off: copy it again, or leave it out" if "truncated" in str(error).lower() else ""
    return Issue(place, cannot_be_used(error), remedy=remedy, kind=f"unreadable {remedy}")


def group_issues(issues: Iterable[Issue]) -> list[str]:
    """Return one line for each kind of issue: its level, number, first sentence and the next places.

    Faults come first, then warnings and notes; within a level in the order in which they were found.
    """
    groups: dict[tuple[str, str], list[Issue]] = {}
    for issue in issues:
        groups.setdefault((issue.level, issue.kind or issue.problem), []).append(issue)
    ordered = sorted(groups.values(), key=lambda group: _LEVELS.index(group[0].level))
    return [f"{group[0].level.upper()} {_sentence(group)}" for group in ordered]


def _sentence(group: Sequence[Issue]) -> str:
    """Return the first sentence of a group, with the number of all and the next places."""
    if len(group) == 1:
        return str(group[0])
    places = list(dict.fromkeys(issue.place for issue in group))
    rest = len(places) - _SHOWN
    more = f" and {rest:,} more" if rest > 0 else ""
    others = f" Also {', '.join(places[1:_SHOWN])}{more}." if len(places) > 1 else ""
    return f"({len(group):,}×) {group[0]}{printable(others)}"


def raise_first_fault(source: str, issues: Sequence[Issue]) -> None:
    """Raise :class:`DataFaultError` with the first kind of fault, if there is a fault.

    Parameters
    ----------
    source : str
        The file or folder that the issues are in.
    issues : sequence of Issue
    """
    faults = [issue for issue in issues if issue.fatal]
    if not faults:
        return
    kind = faults[0].kind or faults[0].problem
    same = [issue for issue in faults if (issue.kind or issue.problem) == kind]
    others = len(faults) - len(same)
    listed = "lucid-maskrcnn check-data lists them"
    more = f" There {'is' if others == 1 else 'are'} {others:,} more of other kinds: {listed}." if others else ""
    advice = "on_fault='skip' (--on-fault skip) leaves out what has a fault."
    raise DataFaultError(f"In {source}, {_sentence(same)}{more} {advice}", faults)


def warn_of_left_out(source: str, num_images: int, num_annotations: int) -> None:
    """Warn of what a data set leaves out of its source, if it does."""
    parts = [count_of(n, noun) for n, noun in ((num_images, "image"), (num_annotations, "annotation")) if n]
    if parts:
        warn_user(f"Left out of {source}: {' and '.join(parts)}; the data set's issues say why.")
