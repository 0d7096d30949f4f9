"""Checks of arguments, the same ones everywhere.

Each takes the argument's name and value and returns the value as plain Python, or raises one sentence that names the
argument, what was wanted and what was given: a ``TypeError`` for the wrong kind of value, a ``ValueError`` for one out
of range. NumPy's scalars are numbers, and so are arrays and tensors without axes; bools are not.
"""

from __future__ import annotations

import itertools
import math
import numbers
import os
import re
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

__all__ = [
    "channel_numbers",
    "check_keywords",
    "choice",
    "class_labels",
    "flag",
    "fraction",
    "fraction_below_one",
    "function",
    "image_size",
    "instance",
    "integer",
    "intensity_rule",
    "is_url",
    "label_names",
    "near_file",
    "nearest",
    "non_negative_int",
    "non_negative_number",
    "number",
    "open_fraction",
    "optional",
    "page_number",
    "pair",
    "path",
    "positive_fraction",
    "positive_int",
    "positive_number",
    "reading",
    "sequence",
    "shown",
    "text",
]

type Check[T] = Callable[[str, Any], T]

_MAX_COMPARED = 5000  # names of a folder, for a misspelt one: about a tenth of a second
MAX_PIXELS = 2**31 - 1  # of an image: they are counted in int32

_brief = reprlib.Repr(maxstring=80, maxother=80, maxlist=6, maxtuple=6, maxdict=4)


def shown(value: object) -> str:
    """Return a value as messages show it: its ``repr``, shortened and on one line."""
    text = _brief.repr(value)
    return " ".join(text.split()) if "\n" in text else text


# ------------------------------------------------------------------ numbers


def _scalar(value: Any) -> Any:
    """Return the number in an array or tensor without axes; anything else as it is."""
    no_axes = not isinstance(value, np.generic) and getattr(value, "ndim", None) == 0
    return value.tolist() if no_axes and hasattr(value, "tolist") else value


def integer(name: str, value: Any, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return an integer from ``minimum`` to ``maximum``, both included; None is no limit."""
    if type(value) is not int:  # plain integers, the usual case, are the quickest
        value = _scalar(value)
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name} must be {_integer_range(minimum, maximum)}, got {shown(value)}.")
        value = int(value)
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        raise ValueError(f"{name} must be {_integer_range(minimum, maximum)}, got {shown(value)}.")
    return value


def _integer_range(minimum: int | None, maximum: int | None) -> str:
    if maximum is not None:
        return f"an integer from {minimum} to {maximum}" if minimum is not None else f"an integer up to {maximum}"
    return {None: "an integer", 0: "a non-negative integer", 1: "a positive integer"}.get(
        minimum, f"an integer from {minimum} on"
    )


def positive_int(name: str, value: Any, maximum: int | None = None) -> int:
    """Return an integer from 1 on."""
    return integer(name, value, 1, maximum)


def non_negative_int(name: str, value: Any, maximum: int | None = None) -> int:
    """Return an integer from 0 on."""
    return integer(name, value, 0, maximum)


def number(name: str, value: Any, wanted: str = "a finite number") -> float:
    """Return a finite number; an integer stays one."""
    value = _scalar(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {wanted}, got {shown(value)}.")
    plain = int(value) if isinstance(value, numbers.Integral) else float(value)
    try:
        finite = math.isfinite(plain)
    except OverflowError:  # an integer beyond float64
        finite = False
    if not finite:
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}.")
    return plain


def _within(name: str, value: Any, holds: Callable[[float], bool], wanted: str) -> float:
    plain = number(name, value, wanted)
    if not holds(plain):
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}.")
    return plain


def positive_number(name: str, value: Any) -> float:
    """Return a finite number above 0."""
    return _within(name, value, lambda v: v > 0, "a number above 0")


def non_negative_number(name: str, value: Any) -> float:
    """Return a finite number from 0 on."""
    return _within(name, value, lambda v: v >= 0, "a number of at least 0")


def fraction(name: str, value: Any) -> float:
    """Return a number from 0 to 1, both included."""
    return _within(name, value, lambda v: 0 <= v <= 1, "a number between 0 and 1")


def fraction_below_one(name: str, value: Any) -> float:
    """Return a number from 0 to 1, 1 excluded."""
    return _within(name, value, lambda v: 0 <= v < 1, "a number of at least 0 and below 1")


def positive_fraction(name: str, value: Any) -> float:
    """Return a number above 0 and at most 1."""
    return _within(name, value, lambda v: 0 < v <= 1, "a number above 0 and at most 1")


def open_fraction(name: str, value: Any) -> float:
    """Return a number between 0 and 1, both excluded."""
    return _within(name, value, lambda v: 0 < v < 1, "a number above 0 and below 1")


# ------------------------------------------------------------------ other single values


def flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}.")
    return bool(value)


def text(name: str, value: Any) -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {shown(value)}.")
    if not value:
        raise ValueError(f"{name} must not be an empty string.")
    return str(value)


_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # one letter is a drive of Windows
_URL_AS_PATH = re.compile(r"(?:https?|ftp|s3|gs|gcs|az|abfss?|hdfs|memory|file|data):/", re.IGNORECASE)


def is_url(value: Any) -> bool:
    """Whether a value is a string such as ``s3://bucket/a.png``."""
    return isinstance(value, str) and _URL.match(value) is not None


def path(name: str, value: Any) -> Path:
    """Return the path of a string or ``os.PathLike``; an empty string would be the current folder.

    A URL is refused: as a path it would be a folder ``s3:`` on this machine.
    """
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(plain, str):
        raise TypeError(f"{name} must be a path as str or Path, got {shown(value)}.")
    if is_url(plain):
        raise ValueError(
            f"{name} must be a path on this machine, got the URL {shown(plain)}; only images and jobs of predict "
            "can be at URLs."
        )
    if _URL_AS_PATH.match(plain):
        raise ValueError(
            f"{name} must be a path, got {shown(plain)}, a URL that lacks a slash: give it as a str, since a Path "
            "leaves one of the two."
        )
    if "\0" in plain:
        raise ValueError(f"{name} must be a path, got {shown(plain)} with a null character, which no path has.")
    return Path(text(name, plain))


def choice[T](name: str, value: T, options: Collection[T]) -> T:
    """Return one of ``options``; the message lists them, and the nearest one to a misspelt string."""
    is_flag = isinstance(value, (bool, np.bool_))
    found = [o for o in options if not is_flag and isinstance(value, type(o)) and value == o]
    if not found:
        listed = ", ".join(map(repr, options))
        near = nearest(value, [o for o in options if isinstance(o, str)]) if isinstance(value, str) else None
        hint = f" Did you mean {near!r}?" if near else ""
        kind = ValueError if not is_flag and any(isinstance(value, type(o)) for o in options) else TypeError
        raise kind(f"{name} must be one of {listed}, got {shown(value)}.{hint}")
    return found[0]


def instance[T](name: str, value: Any, kind: type[T] | tuple[type, ...], wanted: str) -> T:
    """Return an object of a class; ``wanted`` describes it in words, with its article."""
    if not isinstance(value, kind):
        given = f"the class {value.__name__}" if isinstance(value, type) else f"{shown(value)}"
        raise TypeError(f"{name} must be {wanted}, got {given}.")
    return value  # type: ignore[return-value]


def function(name: str, value: Any, wanted: str) -> Callable[..., Any]:
    """Return something that can be called and is no class; ``wanted`` shows the call."""
    if isinstance(value, type) or not callable(value):
        given = f"the class {value.__name__}" if isinstance(value, type) else f"{shown(value)}"
        raise TypeError(f"{name} must be called as {wanted}, got {given}.")
    called: Callable[..., Any] = value
    return called


def optional[T](check: Check[T]) -> Check[T | None]:
    """Return a check that lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


# ------------------------------------------------------------------ several values


def sequence[T](
    name: str, value: Any, check: Check[T], *, length: int | None = None, minimum: int = 0
) -> tuple[T, ...]:
    """Return a tuple of a list, tuple, range or 1-D array whose every element passes ``check``.

    ``length`` is the number of elements wanted, ``minimum`` the least.
    """
    wanted = f"a sequence of {length} values" if length is not None else "a sequence"
    one_axis = isinstance(value, np.ndarray) and value.ndim == 1
    if not isinstance(value, (list, tuple, range)) and not one_axis:
        raise TypeError(f"{name} must be {wanted}, got {shown(value)}.")
    if length is not None and len(value) != length:
        raise ValueError(f"{name} must be {wanted}, got {len(value)}: {shown(value)}.")
    if len(value) < minimum:
        least = "at least one value" if minimum == 1 else f"at least {minimum} values"
        raise ValueError(f"{name} must have {least}, got {shown(value)}.")
    return tuple(check(f"{name}[{i}]", v) for i, v in enumerate(value))


def pair[T](name: str, value: Any, check: Check[T]) -> tuple[T, T]:
    """Return two values, for height and width; a single number is both."""
    value = _scalar(value)
    if isinstance(value, numbers.Number):
        one = check(name, value)
        return one, one
    first, second = sequence(name, value, check, length=2)
    return first, second


def inner_slice(name: str, value: Any, length: int) -> slice:
    """Return a slice of rows or columns inside an image of ``length``, with start and stop."""
    ends = (value.start, value.stop) if isinstance(value, slice) else (None, None)
    if not all(isinstance(n, (int, np.integer)) for n in ends):
        raise TypeError(f"{name} must be a slice with integers as start and stop, got {shown(value)}.")
    if value.step not in (None, 1):
        raise ValueError(f"{name} must be a slice without a step, got {shown(value)}.")
    if not 0 <= value.start <= value.stop <= length:
        raise ValueError(f"{name} must be inside the image, from 0 to {length}, got {shown(value)}.")
    return slice(int(value.start), int(value.stop))


def image_size(name: str, value: Any, minimum: int = 1) -> tuple[int, int]:
    """Return (height, width) of an image below 2³¹ pixels, whose sides are from ``minimum`` on; one number is both."""
    height, width = pair(name, value, lambda side, n: integer(side, n, minimum))
    if max(height, width, height * width) > MAX_PIXELS:
        raise ValueError(f"{name} must be below 2³¹ pixels in all, got {height} × {width}.")
    return height, width


# ------------------------------------------------------------------ what of an image file is read


def page_number(name: str, value: Any) -> int | str:
    """Return the number of a page, counted from 0, or ``"all"``."""
    wanted = "a page, counted from 0, or 'all'"
    if isinstance(value, str):
        if value != "all":
            raise ValueError(f"{name} must be {wanted}, got {shown(value)}.")
        return "all"
    try:
        return non_negative_int(name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be {wanted}, got {shown(value)}.") from None


def channel_numbers(name: str, value: Any) -> tuple[int, ...]:
    """Return one or three numbers of channels, counted from 0; a single number is one channel."""
    wanted = "one or three channels, counted from 0, such as 2 or (2, 1, 0)"
    single = not isinstance(value, (str, bytes)) and isinstance(_scalar(value), numbers.Number)
    try:
        chosen = sequence(name, [_scalar(value)] if single else value, non_negative_int)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be {wanted}, got {shown(value)}.") from None
    if len(chosen) not in (1, 3):
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}.")
    return chosen


def intensity_rule(name: str, value: Any) -> Literal["full", "max"] | tuple[float, float]:
    """Return how more than 8 bits become 8: ``"full"``, ``"max"``, or the percentiles that become black and white."""
    wanted = "'full', 'max' or two percentiles from 0 to 100, such as (0.1, 99.9)"
    if isinstance(value, str):
        for rule in ("full", "max"):
            if value == rule:
                return rule
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}.")
    try:
        low, high = sequence(name, value, non_negative_number, length=2)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be {wanted}, got {shown(value)}.") from None
    if not low < high <= 100:
        raise ValueError(f"{name} must be {wanted}, the lower one first, got {shown(value)}.")
    return float(low), float(high)


def reading(channels: Any, intensity: Any) -> dict[str, Any]:
    """Return ``channels`` and ``intensity``, each of which may be None, as keywords of a function that reads images."""
    return {
        "channels": optional(channel_numbers)("channels", channels),
        "intensity": optional(intensity_rule)("intensity", intensity),
    }


# ------------------------------------------------------------------ names


def nearest(name: str, known: Iterable[str], similarity: float = 0.5) -> str | None:
    """Return the known name that a misspelt one is most like, None if there is none as similar, from 0 to 1."""
    import difflib  # here, as most names are right

    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=similarity)
    return by_lower[found[0]] if found else None


def near_file(path: str | Path) -> str:
    """Return the end of a sentence on a file that there is not: " Did you mean 'a.png'?", or nothing if none is near.

    The folder is looked for first, then the name in it.
    """
    folder, name = os.path.split(os.path.normpath(path))
    if folder and not os.path.isdir(folder):
        return near_file(folder)
    try:
        with os.scandir(folder or ".") as entries:
            known = [entry.name for entry in itertools.islice(entries, _MAX_COMPARED)]
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return ""
    near = nearest(name, known, 0.7)
    return f" Did you mean {os.path.join(folder, near)!r}?" if near and near != name else ""


def label_names(name: str, value: Any) -> Mapping[int, str] | None:
    """Return a mapping of labels, from 1 on, to names, or None; as it was given."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must map labels to names, such as {{1: 'cell', 2: 'nucleus'}}, got {shown(value)}.")
    for label, category in value.items():
        positive_int(f"a label of {name}", label)
        text(f"the name of label {label} in {name}", category)
    return value


def class_labels(
    name: str, value: Any, categories: Mapping[int, str] | None, num_classes: int | None = None
) -> tuple[int, ...]:
    """Return the labels of classes that are given by name or label, ascending.

    Parameters
    ----------
    name : str
        What the message calls the argument.
    value : str, int, or sequence of them
        A name stands for all labels that have it.
    categories : mapping of int to str, optional
        Names of the labels.
    num_classes : int, optional
        Labels are 1 to this; by default those of ``categories``, if there are any.

    Raises
    ------
    TypeError, ValueError
        If there is no such class; the message has the nearest name.
    """
    plain = _scalar(value)
    if isinstance(plain, (str, numbers.Number)):
        value = [plain]
    elif isinstance(value, (set, frozenset)):
        value = list(value)
    known = categories or {}

    def labels_of(place: str, one: Any) -> list[int]:
        if isinstance(one, str):
            found = [label for label, category in known.items() if category == one]
            if not found:
                near = nearest(one, known.values())
                hint = f"did you mean {near!r}?" if near else f"there are {shown(list(known.values()))}."
                raise ValueError(
                    f"{place}: there is no class {one!r}; {hint if known else 'classes have no names here.'}"
                )
            return found
        label = integer(place, one, 1, num_classes)
        if num_classes is None and known and label not in known:
            raise ValueError(f"{place}: there is no class {label}; there are {shown(dict(known))}.")
        return [label]

    found = sequence(name, value, labels_of, minimum=1)
    return tuple(sorted({label for labels in found for label in labels}))


def check_keywords(
    owner: str, given: Iterable[str], known: Collection[str], others: Mapping[str, str] | None = None
) -> None:
    """Refuse keywords that ``owner`` does not have, with the nearest one that it has.

    Parameters
    ----------
    owner : str
        What the message calls the function: ``"mask_rcnn_resnet_50_fpn()"``.
    given, known : collection of str
        The keywords of a call, and those there are.
    others : mapping of str to str, optional
        Names from other libraries, and what they are called here.

    Raises
    ------
    TypeError
        If one is not known.
    """
    for name in given:
        if name not in known:
            near = (others or {}).get(name) or nearest(name, known)
            hint = f"; did you mean {near!r}?" if near else "."
            raise TypeError(f"{owner} has no argument {name!r}{hint}")
