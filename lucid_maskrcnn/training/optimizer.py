"""What all optimizers have: groups of parameters, and arrays for each that checkpoints hold.

A parameter gets a new array each step: arrays that were loaded from a file or belong to the caller are never written
to, and values that were computed from a weight can be recognized as stale by the identity of its array.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from lucid import Tensor
from lucid.nn import Module

from .. import ops
from ..call_answers import answers_wrong_calls
from ..reprs import described
from ..validators import check_keywords, non_negative_int, non_negative_number, shown
from .parameters import is_iterable, parameter_list

__all__ = ["Optimizer", "decay_groups"]

type Array = Any  # np.ndarray or mx.array


_SHOWN_GROUPS = 4


@answers_wrong_calls
class Optimizer(ABC):
    """Groups of parameters with settings of their own, and what is remembered of each parameter.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        A dict is a group: its ``"params"`` and any of the settings, for these parameters alone.
    settings, checks : mapping
        Of all groups that do not have their own, by name, and the checks of their values.
    slots : sequence of str
        Names of the arrays that are kept for each parameter, as checkpoints have them.
    """

    kind: str  # as the settings of a run call it

    def __init__(
        self, params: Any, settings: Mapping[str, Any], checks: Mapping[str, Any], slots: Sequence[str]
    ) -> None:
        seen: set[int] = set()
        self.groups = [_make_group(entry, settings, checks, seen) for entry in _entries(params)]
        if not seen:
            raise ValueError("params must have at least one parameter, got none: pass model.parameters().")
        count = len(self.params)
        self._slots: dict[str, list[Array | None]] = {name: [None] * count for name in slots}
        self._counts = [0] * count

    @described
    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}("]
        for group in self.groups[:_SHOWN_GROUPS]:
            settings = ", ".join(f"{name}={value}" for name, value in group.items() if name != "params")
            lines.append(f"{len(group['params'])} parameters: {settings}")
        more = len(self.groups) - _SHOWN_GROUPS
        return "\n  ".join([*lines, *([f"… {more} more groups"] if more > 0 else [])]) + "\n)"

    @property
    def params(self) -> list[Tensor]:
        """All parameters, group by group."""
        return [p for group in self.groups for p in group["params"]]

    @property
    def slots(self) -> dict[str, list[Array | None]]:
        """The arrays that are kept for each of ``params``, by name: not copies, and None before its first step."""
        return {name: list(arrays) for name, arrays in self._slots.items()}

    @property
    def counts(self) -> list[int]:
        """The number of steps that each of ``params`` has taken."""
        return list(self._counts)

    @counts.setter
    def counts(self, counts: Sequence[int]) -> None:
        if not isinstance(counts, (list, tuple)) or len(counts) != len(self._counts):
            raise ValueError(
                f"counts must have one number for each of {len(self._counts)} parameters, got {shown(counts)}."
            )
        self._counts = [non_negative_int(f"counts[{i}]", count) for i, count in enumerate(counts)]

    def _restore(self, slot: str, arrays: Sequence[Array | None], *, name: str | None = None) -> None:
        """Give each of ``params`` its array of a slot, to continue an earlier optimizer; the arrays are copied.

        Parameters
        ----------
        slot : str
            One of ``slots``.
        arrays : list of arrays or None
            One for each of ``params``.
        name : str, optional
            What messages call the arrays; by default the slot.
        """
        name, params = name or slot, self.params
        if not isinstance(arrays, (list, tuple)):
            raise TypeError(f"{name} must be a list of arrays, got {shown(arrays)}.")
        if len(arrays) != len(params):
            raise ValueError(f"{name} must have one entry for each of {len(params)} parameters, got {len(arrays)}.")
        for i, (p, v) in enumerate(zip(params, arrays, strict=True)):
            if v is not None and tuple(v.shape) != tuple(p.shape):
                raise ValueError(f"{name}[{i}] must have its parameter's shape {tuple(p.shape)}, got {tuple(v.shape)}.")
        self._slots[slot] = [
            None if v is None else ops.device_array(np.array(v, np.float32), p.device)
            for p, v in zip(params, arrays, strict=True)
        ]

    def zero_grad(self) -> None:
        """Remove the gradients of all parameters."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient; a gpu is not waited for."""
        start = 0
        for group in self.groups:
            params = group["params"]
            rows = [i for i, p in enumerate(params, start) if p.grad is not None]
            for i in rows:
                self._counts[i] += 1
            before = {
                name: [_beside(params[i - start], arrays[i]) for i in rows] for name, arrays in self._slots.items()
            }
            after = self._update(group, [params[i - start] for i in rows], before, [self._counts[i] for i in rows])
            for name, arrays in after.items():
                for i, array in zip(rows, arrays, strict=True):
                    self._slots[name][i] = array
            start += len(params)
        kept = [a for arrays in self._slots.values() for a in arrays if a is not None]
        ops.begin([p.data for p in self.params] + kept)

    @abstractmethod
    def _update(
        self,
        group: Mapping[str, Any],
        params: Sequence[Tensor],
        slots: Mapping[str, Sequence[Array | None]],
        counts: Sequence[int],
    ) -> Mapping[str, Sequence[Array | None]]:
        """Move parameters of a group by a step, and return their new arrays of each slot."""


def _beside(param: Tensor, array: Array | None) -> Array | None:
    """Return an array on its parameter's device: the model may have been moved since."""
    if array is None or ops.is_device_array(array) == ops.is_device_array(param.data):
        return array
    return ops.device_array(np.array(array), param.device)


@answers_wrong_calls
def decay_groups(params: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups for :class:`SGD` or :class:`AdamW`: with weight decay, and without it for biases and norms.

    Biases and the scales and shifts of norms are the parameters with one axis.

    Raises
    ------
    TypeError, ValueError
        If ``params`` are no parameters, or ``weight_decay`` is no number of at least 0.
    """
    params = parameter_list("params", params)
    return [
        {
            "params": [p for p in params if p.ndim > 1],
            "weight_decay": non_negative_number("weight_decay", weight_decay),
        },
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _entries(params: Any) -> list[Any]:
    """Return the groups that ``params`` describe, as given."""
    if isinstance(params, Mapping):
        raise TypeError("params must be a list of groups, got a single one: pass [group].")
    if is_iterable(params) and not isinstance(params, (Module, Tensor)):
        params = list(params)
        if any(isinstance(entry, Mapping) for entry in params):
            return params
    return [{"params": params}]


def _make_group(entry: Any, common: Mapping[str, Any], checks: Mapping[str, Any], seen: set[int]) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or "params" not in entry:
        raise TypeError(f"A parameter group must be a dict with 'params', got {type(entry).__name__}.")
    check_keywords("A parameter group", entry, ["params", *common])
    group = {name: check(name, entry.get(name, common[name])) for name, check in checks.items()}
    group["params"] = parameter_list("params", entry["params"])
    for i, p in enumerate(group["params"]):
        if id(p) in seen:
            raise ValueError(
                f"params must have each parameter once, but params[{i}], of shape {tuple(p.shape)}, comes a second "
                "time: a module that is used twice lists its own twice; pass list({id(p): p for p in params}.values())."
            )
        seen.add(id(p))
    return group
