"""Errors that one rank tells the others, as text: nothing is unpickled that has come over a network."""

from __future__ import annotations

import builtins
import traceback
from contextlib import suppress
from typing import Any

from .divergence import DivergenceError

__all__ = ["error_from_message", "message_of_error"]


def message_of_error(error: Exception) -> dict[str, Any]:
    """Return an error as JSON values: its class, arguments, and where it was raised."""
    trace = "".join(traceback.format_exception(error))
    message: dict[str, Any] = {"kind": type(error).__name__, "text": str(error), "trace": trace}
    if isinstance(error, DivergenceError):
        message |= {"step": error.step, "term": error.term, "problem": error.problem}
        message["image_ids"] = [i if isinstance(i, int) else str(i) for i in error.image_ids]
    if isinstance(error, OSError) and error.errno is not None:
        message["file"] = [error.errno, error.strerror, None if error.filename is None else str(error.filename)]
    return message


def error_from_message(message: dict[str, Any]) -> Exception:
    """Return the error; one of a class that is not Python's own becomes a RuntimeError that names it."""
    error = _rebuilt(message)
    error.add_note(message["trace"])
    return error


def _rebuilt(message: dict[str, Any]) -> Exception:
    if message["kind"] == DivergenceError.__name__:
        error = DivergenceError(message["text"], message["step"], message["term"], message["image_ids"])
        error.problem = message["problem"]
        return error
    if "file" in message:
        return OSError(*message["file"])
    kind = getattr(builtins, message["kind"], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):  # a class that takes more than a text
            return kind(message["text"])
    return RuntimeError(f"{message['kind']}: {message['text']}")
