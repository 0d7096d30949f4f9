"""A model's parameters as an argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lucid import Tensor
from lucid.nn import Module

from ..validators import shown

__all__ = ["is_iterable", "parameter_list"]


def is_iterable(value: Any) -> bool:
    """Return whether a value is an iterable of objects: no string, and no array without axes."""
    return isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1) > 0


def parameter_list(name: str, params: Any) -> list[Tensor]:
    """Return an iterable of parameters as a list.

    Raises
    ------
    TypeError
        If it is a model, a single tensor, or has an element that is no tensor.
    """
    if isinstance(params, Module):
        raise TypeError(f"{name} must be parameters, got the model {type(params).__name__}: pass model.parameters().")
    if isinstance(params, Tensor):
        raise TypeError(f"{name} must be an iterable of parameters, got a single tensor: pass it in a list.")
    if not is_iterable(params):
        raise TypeError(f"{name} must be an iterable of parameters, got {shown(params)}: pass model.parameters().")
    found = list(params)
    for i, p in enumerate(found):
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}[{i}] must be a parameter, got {type(p).__name__}: pass model.parameters().")
    return found
