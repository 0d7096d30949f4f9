"""Stochastic gradient descent.

Lucid's own SGD leaves weight decay out of the first momentum step; this one follows PyTorch's rule. A parameter gets a
new array each step: arrays that were loaded from a file or belong to the caller are never written to, and values that
were computed from a weight can be recognized as stale by the identity of its array.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from lucid import Tensor
from lucid.nn import Module

from .. import ops
from ..call_answers import answers_wrong_calls
from ..validators import check_keywords, flag, fraction_below_one, non_negative_number, shown
from .parameters import is_iterable, parameter_list

__all__ = ["SGD", "decay_groups"]

type Array = Any  # np.ndarray or mx.array

_CHECKS: dict[str, Any] = {
    "lr": non_negative_number,
    "momentum": fraction_below_one,
    "weight_decay": non_negative_number,
    "nesterov": flag,
}


@answers_wrong_calls
class SGD:
    """Stochastic gradient descent with momentum and weight decay, by PyTorch's rule.

    ``g = grad + weight_decay · p``, ``v = momentum · v + g`` (``v = g`` at first),
    ``p = p - lr · v``, or ``p - lr · (g + momentum · v)`` with Nesterov's momentum. A parameter
    without a gradient stays as it is, and so does its momentum.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        A dict is a group: its ``"params"`` and any of the settings below, for these parameters alone.
    lr : float
        Learning rate.
    momentum, weight_decay : float
        Of the rule above; at least 0, and the momentum below 1.
    nesterov : bool
        Whether the momentum is Nesterov's.

    Attributes
    ----------
    groups : list of dict
        ``"params"``, ``"lr"``, ``"momentum"``, ``"weight_decay"`` and ``"nesterov"``. A schedule sets ``"lr"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, there are no parameters, or one comes twice.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        nesterov: bool = False,
    ) -> None:
        common = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        seen: set[int] = set()
        self.groups = [_make_group(entry, common, seen) for entry in _entries(params)]
        if not seen:
            raise ValueError("params must have at least one parameter, got none: pass model.parameters().")
        self._momenta: list[Array | None] = [None] * len(self.params)

    @property
    def params(self) -> list[Tensor]:
        """All parameters, group by group."""
        return [p for group in self.groups for p in group["params"]]

    @property
    def momenta(self) -> list[Array | None]:
        """The momentum of each of ``params``: not a copy, and None before its first step.

        Setting it resumes an earlier optimizer; the arrays are copied.
        """
        return list(self._momenta)

    @momenta.setter
    def momenta(self, arrays: Sequence[Array | None]) -> None:
        params = self.params
        if not isinstance(arrays, (list, tuple)):
            raise TypeError(f"momenta must be a list of arrays, got {shown(arrays)}.")
        if len(arrays) != len(params):
            raise ValueError(f"momenta must have one entry for each of {len(params)} parameters, got {len(arrays)}.")
        for i, (p, v) in enumerate(zip(params, arrays, strict=True)):
            if v is not None and tuple(v.shape) != tuple(p.shape):
                raise ValueError(
                    f"momenta[{i}] must have its parameter's shape {tuple(p.shape)}, got {tuple(v.shape)}."
                )
        self._momenta = [
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
            rows = [i for i, p in enumerate(group["params"], start) if p.grad is not None]
            velocities = ops.sgd_update(
                [group["params"][i - start] for i in rows],
                [_beside(group["params"][i - start], self._momenta[i]) for i in rows],
                **{name: group[name] for name in _CHECKS},
            )
            for i, velocity in zip(rows, velocities, strict=True):
                self._momenta[i] = velocity
            start += len(group["params"])
        ops.begin([p.data for p in self.params] + [v for v in self._momenta if v is not None])


def _beside(param: Tensor, momentum: Array | None) -> Array | None:
    """Return a momentum on its parameter's device: the model may have been moved since."""
    if momentum is None or ops.is_device_array(momentum) == ops.is_device_array(param.data):
        return momentum
    return ops.device_array(np.array(momentum), param.device)


@answers_wrong_calls
def decay_groups(params: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups for :class:`SGD`: one whose weights decay, one without weight decay for biases and norms.

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


def _make_group(entry: Any, common: Mapping[str, Any], seen: set[int]) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or "params" not in entry:
        raise TypeError(f"A parameter group must be a dict with 'params', got {type(entry).__name__}.")
    check_keywords("A parameter group", entry, ["params", *common])
    group = {name: check(name, entry.get(name, common[name])) for name, check in _CHECKS.items()}
    if group["nesterov"] and not group["momentum"]:
        raise ValueError("nesterov=True needs a momentum above 0.")
    group["params"] = parameter_list("params", entry["params"])
    for i, p in enumerate(group["params"]):
        if id(p) in seen:
            raise ValueError(
                f"params must have each parameter once, but params[{i}], of shape {tuple(p.shape)}, comes a second "
                "time: a module that is used twice lists its own twice; pass list({id(p): p for p in params}.values())."
            )
        seen.add(id(p))
    return group
