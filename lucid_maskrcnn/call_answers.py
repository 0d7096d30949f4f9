"""Calls that do not fit a signature, answered in this package's words instead of Python's.

Python says ``Loader.__init__() takes 3 positional arguments but 4 were given``, counting ``self``, and before 3.13 it
does not say which keyword was meant.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lucid_maskrcnn.validators import check_keywords, shown

__all__ = ["answers_wrong_calls"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def answers_wrong_calls[T](definition: T) -> T:
    """Decorate a function, or a class with all of its public methods; what is called, and how fast, stays as it is.

    A misspelt or missing argument, or too many of them, is then a ``TypeError`` in one sentence: it begins with the
    name of the function or class and names the argument, and the one that was probably meant.

    Parameters
    ----------
    definition : function or class
        A class is changed in place. Decorate a dataclass above ``@dataclass``.

    Returns
    -------
    function or class
        A function is a new one, under the same name and with the same signature.
    """
    if not isinstance(definition, type):
        return _answering(definition, bound=False)
    for name, member in list(vars(definition).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(member, classmethod):
            setattr(definition, name, classmethod(_answering(member.__func__, bound=True)))
        elif inspect.isfunction(member):
            setattr(definition, name, _answering(member, bound=True))
    return definition


def _answering(function: Any, *, bound: bool) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:  # the function has begun
                raise
            owner = _owner(function.__name__, args[0] if bound and args else None)
            answer = _answer(function, owner, args[bound:], kwargs, bound=bound)
            if answer is None:
                raise
            raise TypeError(answer) from None

    return call


def _owner(name: str, bound_to: Any) -> str:
    """Return what is called: a function, a class, or a method with the class that it is called on."""
    if bound_to is None:
        return f"{name}()"
    kind = bound_to.__name__ if isinstance(bound_to, type) else type(bound_to).__name__
    return kind if name == "__init__" else f"{kind}.{name}()"


def _answer(
    function: Callable[..., Any], owner: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, bound: bool
) -> str | None:
    """Return what is wrong with the arguments of a call, None if they fit."""
    parameters = list(inspect.signature(function).parameters.values())[bound:]
    kinds = {p.kind for p in parameters}
    by_position = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        try:
            check_keywords(owner, kwargs, [p.name for p in parameters if p.kind in _NAMED])
        except TypeError as error:
            return str(error)
    if len(args) > len(by_position) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        taken = f"{len(by_position)} argument{'s' * (len(by_position) != 1)} without a name"
        which = f", {', '.join(by_position)}" if by_position else ""
        return f"{owner} takes {taken}{which}, got {len(args)}: name the others."
    for name, value in zip(by_position, args, strict=False):
        if name in kwargs:
            return f"{owner} got {name} twice: {shown(value)} and {shown(kwargs[name])}."
    given = {*by_position[: len(args)], *kwargs}
    missing = [p.name for p in parameters if p.default is p.empty and p.kind in _NAMED and p.name not in given]
    return (
        f"{owner} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} missing." * bool(missing)
        or None
    )
