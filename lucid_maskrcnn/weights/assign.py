"""Copying arrays into the parameters and buffers of a module: all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lucid
import lucid.nn as nn
import numpy as np

from .. import ops
from ..call_answers import answers_wrong_calls
from ..text_tables import printable
from ..validators import instance, shown, text
from .formats.stored_arrays import StoredArray

__all__ = ["as_arrays", "assign", "check_fit", "check_values"]

# No training gives larger weights: filters are about 1, means of activations below 1e6, variances below its square.
_MAX_WEIGHT = 1e12
_MAX_VARIANCE = 1e24


def as_arrays(weights: Mapping[str, Any], argument: str = "weights") -> dict[str, Any]:
    """Return a user's mapping with NumPy arrays as values; arrays of other libraries are converted.

    Parameters
    ----------
    weights : mapping of str to array
        Arrays of NumPy, MLX or another library, tensors, numbers, or arrays that are still in a file.
    argument : str
        What messages call the mapping.

    Raises
    ------
    TypeError
        If it is not a mapping, a key is not a string, or a value is not numeric.
    """
    instance(argument, weights, Mapping, "a mapping of names to arrays or the path of a file")
    return {
        instance(f"a key of {argument}", name, str, "a string"): _as_array(f"{argument}[{shown(name)}]", array)
        for name, array in weights.items()
    }


def _as_array(name: str, array: Any) -> Any:
    if isinstance(array, StoredArray):
        return array
    try:
        converted = ops.host(array) if isinstance(array, lucid.Tensor) else np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array of numbers, got {shown(array)}.") from error
    if converted.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be an array of numbers, got {shown(array)}.")
    return converted


@answers_wrong_calls
def check_fit(
    module: nn.Module,
    arrays: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    source: str = "These weights",
) -> None:
    """Compare names, shapes and dtypes with every parameter and buffer of ``module``.

    Parameters
    ----------
    module : nn.Module
        Only the shapes of its parameters and buffers are used.
    arrays : mapping of str to array
        Those that are still in a file are not read.
    names : mapping of str to str, optional
        What messages call an entry, if the source has other names.
    source : str
        What messages call the weights.

    Raises
    ------
    ValueError
        If entries are missing, unexpected, of another shape or not floating point; the message lists them.
    """
    instance("module", module, nn.Module, "an nn.Module")
    instance("arrays", arrays, Mapping, "a mapping of names to arrays")
    instance("names", names, (Mapping, type(None)), "a mapping of names to names")
    text("source", source)
    arrays = as_arrays({name: array for name, array in arrays.items() if not hasattr(array, "dtype")}, "arrays") | {
        name: array for name, array in arrays.items() if hasattr(array, "dtype")
    }
    own = module.state_dict(keep_vars=True)
    called = names or {}
    problems = []
    missing, unexpected = own.keys() - arrays.keys(), arrays.keys() - own.keys()
    if missing:
        problems.append(f"missing: {_listed(called.get(n, n) for n in own if n in missing)}")
    if unexpected:
        problems.append(f"unexpected: {_listed(called.get(n, n) for n in arrays if n in unexpected)}")
    shared = {name: arrays[name] for name in own if name in arrays}
    shapes = [
        f"{called.get(n, n)} has {tuple(a.shape)}, wanted {tuple(own[n].shape)}"
        for n, a in shared.items()
        if tuple(a.shape) != tuple(own[n].shape)
    ]
    if shapes:
        problems.append(f"wrong shapes: {_listed(shapes)}")
    not_floating = [f"{called.get(n, n)} is {a.dtype}" for n, a in shared.items() if np.dtype(a.dtype).kind != "f"]
    if not_floating:
        problems.append(f"not floating point: {_listed(not_floating)}, as in a quantized model, which cannot be used")
    if problems:
        raise ValueError(f"{source} do not fit the model; {'; '.join(problems)}.")


def check_values(arrays: Mapping[str, Any], *, names: Mapping[str, str] | None = None, source: str) -> None:
    """Refuse weights that no training can have made.

    Parameters
    ----------
    arrays : mapping of str to array
        By this package's names. Those that are still in a file are read block by block.
    names, source
        As for :func:`check_fit`.

    Raises
    ------
    ValueError
        If a value is NaN, infinite as float32 or absurdly large, or a running variance negative; the message names the
        entries.
    """
    problems = []
    for name, array in arrays.items():
        problem = _problem(name, array)
        if problem is not None:
            problems.append(f"{(names or {}).get(name, name)} {problem}")
    if problems:
        raise ValueError(
            f"{source} cannot be used, as no training can have made these: {_listed(problems)}; they are damaged, or "
            "the training that made them diverged."
        )


def _problem(name: str, array: Any) -> str | None:
    """Return in words what is wrong with an array's values, None if nothing is."""
    lowest, highest = 0.0, 0.0
    for block in array.blocks() if isinstance(array, StoredArray) else [_as_float32(array)]:
        if block.size:
            # NaN is the least and the greatest of any values that have one.
            lowest, highest = np.minimum(lowest, block.min()), np.maximum(highest, block.max())
    is_variance = name.endswith("running_var")
    if np.isnan(lowest):
        return "has NaN"
    if np.isinf(lowest) or np.isinf(highest):
        return "has infinite values"
    if is_variance and lowest < 0:
        return f"has the negative variance {lowest:.4g}"
    if max(-lowest, highest) > (_MAX_VARIANCE if is_variance else _MAX_WEIGHT):
        return f"has the value {highest if highest > -lowest else lowest:.4g}"
    return None


def _as_float32(array: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # float64 1e300 becomes infinite
        return np.asarray(array).astype(np.float32, copy=False)


@answers_wrong_calls
def assign(
    module: nn.Module,
    arrays: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    source: str = "These weights",
) -> None:
    """Set every parameter and buffer of ``module``.

    Parameters
    ----------
    module : nn.Module
        Unchanged if anything does not fit.
    arrays : mapping of str to array
        One for each entry of the module's ``state_dict``, of the same shape and a floating dtype. They are copied as
        float32, or as float16 or bfloat16 where the module has those, into its own arrays; those that are still in a
        file are read one at a time.
    names, source
        As for :func:`check_fit`.

    Raises
    ------
    ValueError
        As :func:`check_fit`, and for values that no training can have made, such as NaN.
    """
    check_fit(module, arrays, names=names, source=source)
    own = module.state_dict(keep_vars=True)
    check_values({name: arrays[name] for name in own}, names=names, source=source)
    _check_range_of_halves(own, arrays, names or {}, source)
    for name, variable in own.items():
        target = variable.data
        if isinstance(target, np.ndarray) and target.dtype == np.float32:
            # In place: new arrays would fragment the memory.
            np.copyto(target, np.asarray(arrays[name]), casting="same_kind")
        else:
            ops.set_values(variable, np.array(arrays[name], np.float32))


def _check_range_of_halves(
    own: Mapping[str, Any], arrays: Mapping[str, Any], names: Mapping[str, str], source: str
) -> None:
    """Refuse values that a float16 parameter would make infinite."""
    halves = [name for name, variable in own.items() if ops.dtype_name(variable) == "float16"]
    beyond = [names.get(n, n) for n in halves if not ops.fits_float16(arrays[n])]
    if beyond:
        raise ValueError(
            f"{source} do not fit a model in float16, whose largest number is 65504: {_listed(beyond)}; call "
            "model.float() before they are loaded."
        )


def _listed(items: Iterable[str], most: int = 12) -> str:
    entries = [item if len(item) <= 200 else f"{item[:197]}..." for item in map(printable, items)]
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more
