"""Reading JSON that others wrote: one sentence for whatever is wrong with it.

What :mod:`json` lets pass and what would be a wrong answer later is refused: a key that comes twice in an object, of
which the last one would silently win, and the names NaN and Infinity, which JSON does not have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .validators import near_file

__all__ = ["parse_json", "read_json"]


def read_json(file: Path) -> Any:
    """Return the content of a JSON file, in UTF-8, UTF-16 or UTF-32, with a byte order mark or without.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, or is not JSON; the message names the file.
    """
    name = repr(str(file))
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: No such file or directory.{near_file(file)}") from None
    except (OSError, ValueError) as error:  # a name with a NUL character is a ValueError
        raise ValueError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    return parse_json(name, content)


def parse_json(name: str, text: str | bytes) -> Any:
    """Return the value of a JSON text; ``name`` is what messages call it.

    Raises
    ------
    ValueError
        If it is not JSON, has a key twice in one object, NaN or Infinity, a number of thousands of digits, or is
        nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        reason = "its brackets are nested too deeply"
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not text in {error.encoding.upper()}; save it as UTF-8"
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, at line {error.lineno}, column {error.colno}" if text else "it is empty"
    except ValueError as error:
        too_long = "integer string conversion" in str(error)
        reason = "it has a number of thousands of digits" if too_long else str(error)
    raise ValueError(f"{name} is not JSON: {reason}.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of some keys and values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"an object has the key {twice!r} twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"it has {name}, which is no number in JSON")
