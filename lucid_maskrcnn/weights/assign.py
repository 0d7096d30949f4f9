"""Putting arrays into a module: all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lucid.nn as nn
import numpy as np

from .. import ops

__all__ = ["as_arrays", "assign", "check_fit"]


def as_arrays(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return a user's mapping with arrays, or what has their shape and type, as values.

    Raises
    ------
    TypeError
        If it is no mapping.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights must be a mapping of names to arrays or the path of a file, got {type(weights).__name__}."
        )
    return {name: array if hasattr(array, "shape") else np.asarray(array) for name, array in weights.items()}


def check_fit(
    module: nn.Module,
    arrays: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    source: str = "These weights",
) -> None:
    """Compare names, shapes and types with every parameter and buffer of ``module``.

    Parameters
    ----------
    module : nn.Module
        Only the shapes of its parameters and buffers are looked at.
    arrays : mapping of str to array
        Not read, where they are still in a file.
    names : mapping of str to str, optional
        What to call an entry in messages, where the source has other names.
    source : str
        What to call the arrays in messages.

    Raises
    ------
    ValueError
        If entries are missing, unexpected, mis-shaped or not numbers; the message lists them.
    """
    own = module.state_dict(keep_vars=True)
    called = names or {}
    problems = []
    missing, unexpected = own.keys() - arrays.keys(), arrays.keys() - own.keys()
    if missing:
        problems.append(f"missing: {_listed(called.get(n, n) for n in own if n in missing)}")
    if unexpected:
        problems.append(f"unexpected: {_listed(n for n in arrays if n in unexpected)}")
    shared = {name: arrays[name] for name in own if name in arrays}
    shapes = [
        f"{called.get(n, n)} has {tuple(a.shape)}, wanted {tuple(own[n].shape)}"
        for n, a in shared.items()
        if tuple(a.shape) != tuple(own[n].shape)
    ]
    if shapes:
        problems.append(f"wrong shapes: {_listed(shapes)}")
    no_floats = [f"{called.get(n, n)} is {a.dtype}" for n, a in shared.items() if np.dtype(a.dtype).kind != "f"]
    if no_floats:
        problems.append(f"not floating point: {_listed(no_floats)}")
    if problems:
        raise ValueError(f"{source} do not fit the model; {'; '.join(problems)}.")


def assign(module: nn.Module, arrays: Mapping[str, Any], *, names: Mapping[str, str] | None = None) -> None:
    """Set every parameter and buffer of ``module``.

    Parameters
    ----------
    module : nn.Module
        Left as it was if anything does not fit.
    arrays : mapping of str to array
        One per entry of the module's ``state_dict``, floating, of the same shape. They are copied, as
        float32, into the module's own arrays; those that are still in a file are read one at a time.
    names : mapping of str to str, optional
        What to call an entry in messages, where the source has other names.

    Raises
    ------
    ValueError
        As :func:`check_fit`.
    """
    check_fit(module, arrays, names=names)
    for name, variable in module.state_dict(keep_vars=True).items():
        target = variable.data
        if isinstance(target, np.ndarray) and target.dtype == np.float32:
            # In place: new arrays would leave holes of the old ones' size.
            np.copyto(target, np.asarray(arrays[name]), casting="same_kind")
        else:
            variable.data = ops.device_array(np.array(arrays[name], np.float32), variable.device)


def _listed(items: Iterable[str], most: int = 12) -> str:
    entries = list(items)
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more
