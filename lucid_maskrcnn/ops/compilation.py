"""Modules of this package compiled by MLX, for shapes of inputs that come again.

``mx.compile`` fuses element-wise operations and skips the description of the graph in Python. It looks at a function
once for each shape, which takes longer than to run it once, and forgets none: so a shape is compiled when it comes a
second time, and only so many shapes are kept in each thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lucid
import lucid.nn as nn
import mlx.core as mx
from lucid import Tensor

from lucid_maskrcnn.validators import flag, function

from ._checks import tensors
from .backend import gpu_kind
from .kept_gpu import kept
from .tracing_gpu import Recording, StandIns, current, tracing

__all__ = ["compiled", "compiling"]

_MOST_SHAPES = 8  # that a thread keeps
_PACKAGE = __name__.partition(".")[0]
_CONTAINERS = (nn.Sequential, nn.ModuleList)
_SIMPLE = (int, float, bool, str, type(None))


class _Switch:
    """Whether to compile: None for where there is a GPU."""

    enabled: bool | None = None


class _Thread(threading.local):
    def __init__(self) -> None:
        self.known: OrderedDict[Hashable, _Known] = OrderedDict()


_thread = _Thread()


@contextmanager
def compiling(enabled: bool | None) -> Iterator[None]:
    """Compile modules, or do not, in all threads for as long as the block lasts.

    By default body, pyramid and the region proposal network's head of a model of this package are compiled on Metal
    and CUDA, in prediction, once a shape of images comes the second time. Results are those of the modules themselves
    but for rounding.

    Parameters
    ----------
    enabled : bool or None
        None is the default. True compiles on MLX's CPU backend too, for tests: there it takes seconds a shape.
    """
    before, _Switch.enabled = _Switch.enabled, enabled if enabled is None else flag("enabled", enabled)
    try:
        yield
    finally:
        _Switch.enabled = before


def compiled(module: nn.Module, inputs: Tensor | Sequence[Tensor]) -> Any:
    """Return ``module(inputs)``, compiled where that is worth it and possible.

    Parameters
    ----------
    module : nn.Module
        It takes a tensor, or a list of them, and returns tensors in lists and tuples. Only modules that consist of
        this package's are compiled: they see their weights through operators alone. Others are called.
    inputs : Tensor or sequence of Tensor
        What the module takes; of a sequence it gets a list.

    Returns
    -------
    Tensor, or lists and tuples of them
        As the module does.

    Raises
    ------
    TypeError, ValueError
        If ``inputs`` are not tensors, at least one.
    """
    given = [inputs] if isinstance(inputs, Tensor) else tensors("inputs", inputs)
    function("module", module, "module(inputs)")
    if not isinstance(module, nn.Module) or not _wanted(given):
        return module(inputs)
    description = _description(module)
    if description is None:
        return module(inputs)
    arrays = [t.data for t in (*module.parameters(), *module.buffers())]
    pixels = [t.data for t in given]
    key = (*description, type(inputs), *_shapes(pixels), None, *_shapes(arrays), None, *_aliases(arrays))
    known = _thread.known.pop(key, None)
    if known is None:
        recording = Recording(arrays)
        with tracing(recording):
            result = module(inputs)
        recording.finish()
        known = _Known(recording, isinstance(inputs, Tensor))
    else:
        result = known(module, pixels, arrays)
    _thread.known[key] = known
    while len(_thread.known) > _MOST_SHAPES:
        _thread.known.popitem(last=False)
    return result


def _wanted(inputs: list[Tensor]) -> bool:
    return not lucid.grad_enabled() and not current() and all(t.is_gpu() for t in inputs) and worth_compiling()


def worth_compiling() -> bool:
    """Return whether functions of MLX arrays are to be compiled: where there is a GPU, unless told otherwise."""
    return gpu_kind() != "cpu" if _Switch.enabled is None else _Switch.enabled


class _Known:
    """A function of inputs, weights and what is kept of the weights, for one shape of each."""

    def __init__(self, recording: Recording, single: bool) -> None:
        self.recording, self.single = recording, single
        # MLX keeps the function that it looked at, and must not keep a module with it: any other of its kind is served.
        self._look: list[Callable[..., Any]] = []
        self._run = mx.compile(lambda *args: self._look[0](*args))

    def __call__(self, module: nn.Module, pixels: list[mx.array], arrays: list[mx.array]) -> Any:
        """Return the result of the module, whose weights are ``arrays``, for ``pixels``."""

        def look(pixels: list[mx.array], inputs: list[mx.array], of_inputs: list[list[mx.array]]) -> Any:
            tensors = [Tensor(p) for p in pixels]
            with tracing(StandIns(arrays, inputs, of_inputs)):
                return _each(lambda t: t.data, module(tensors[0] if self.single else tensors))

        self._look.append(look)
        try:
            return _each(Tensor, self._run(pixels, arrays, self.recording.results(kept, arrays)))
        finally:
            self._look.clear()


def _description(module: nn.Module) -> tuple[Hashable, ...] | None:
    """Return all that decides what the module computes, but for its weights; None if not all of it is known."""
    found: list[Any] = []
    rest = [module]
    while rest:
        part = rest.pop()
        kind, settings = type(part), vars(part)
        own = kind.__module__.partition(".")[0] == _PACKAGE
        if not (own or kind in _CONTAINERS) or settings["_forward_hooks"]:
            return None
        found.append(kind)
        for name, value in settings.items():
            if isinstance(value, _SIMPLE):
                found += [name, value]
            elif callable(value) and not isinstance(value, (nn.Module, Tensor)):
                return None
        children = settings["_modules"]
        found += [*children, None]
        rest += children.values()
    return tuple(found)


def _shapes(arrays: list[mx.array]) -> list[Hashable]:
    return [(a.dtype, a.shape) for a in arrays]


def _aliases(arrays: list[mx.array]) -> list[int]:
    """Return for each array the first place where it stands: two that are one must not become two unnoticed."""
    first: dict[int, int] = {}
    return [first.setdefault(id(a), i) for i, a in enumerate(arrays)]


def _each(convert: Callable[[Any], Any], result: Any) -> Any:
    """Apply a function to what lies in lists and tuples."""
    if isinstance(result, (list, tuple)):
        return type(result)(_each(convert, r) for r in result)
    return convert(result)
