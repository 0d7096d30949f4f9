"""What objects look like as text: a line or a few, whatever they hold, and in whatever state they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["brief", "described", "fields_repr"]

_LONGEST = 60  # characters of a value
_MOST = 6  # values of a sequence or mapping


def described[T](describe: Callable[[T], str]) -> Callable[[T], str]:
    """Return a ``__repr__`` that says so of an object that is not made yet, as debuggers show it."""

    @functools.wraps(describe)
    def text(self: T) -> str:
        try:
            return describe(self)
        except AttributeError:
            return f"{type(self).__name__}(not initialized)"

    return text


@described
def fields_repr(self: Any) -> str:
    """Return the name and the fields of a dataclass or a named tuple; arrays as their shape. For ``__repr__``."""
    names = self._fields if isinstance(self, tuple) else self.__dataclass_fields__  # type: ignore[attr-defined]
    return f"{type(self).__name__}({', '.join(f'{name}={brief(getattr(self, name))}' for name in names)})"


def brief(value: Any, longest: int = _LONGEST) -> str:
    """Return a value as text in one short line: arrays and tensors as type and shape, which reads no value."""
    if type(value).__repr__ is object.__repr__:
        return type(value).__name__
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and hasattr(value, "dtype"):
        kind = getattr(value.dtype, "__name__", str(value.dtype)).rpartition(".")[2]
        return f"{kind}{tuple(shape)}" if shape else f"{kind} scalar"
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, Mapping):
        if len(value) > _MOST:
            return f"{{… {len(value)} entries}}"
        return "{" + ", ".join(f"{brief(key)}: {brief(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        if len(value) > _MOST:
            return f"[… {len(value)} entries]"
        inner = ", ".join(map(brief, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    text = " ".join(repr(value).split())
    return text if len(text) <= longest else f"{text[:longest]}…"
