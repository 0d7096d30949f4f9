"""Stochastic gradient descent.

Lucid's own SGD leaves weight decay out of the first momentum step; this one follows PyTorch's rule. It
never writes into an array that somebody else may hold: a parameter gets a new array each step, so that
loaded weights stay as they were and anything computed from a weight can be recognised as stale by
identity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor

from .. import ops

__all__ = ["SGD", "decay_groups"]

type Array = Any  # np.ndarray or mx.array


class SGD:
    """Stochastic gradient descent with momentum and weight decay, by PyTorch's rule.

    ``g = grad + weight_decay · p``, ``v = momentum · v + g`` (``v = g`` at first),
    ``p = p - lr · v``, or ``p - lr · (g + momentum · v)`` with Nesterov's momentum. A parameter
    without a gradient stays as it is, its momentum too.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        A dict is a group: its ``"params"`` and any of the settings below, for them alone.
    lr : float
        Learning rate.
    momentum, weight_decay : float
        Settings of the rule above.
    nesterov : bool
        Whether the momentum is Nesterov's.

    Attributes
    ----------
    groups : list of dict
        ``"params"``, ``"lr"``, ``"momentum"``, ``"weight_decay"`` and ``"nesterov"``; a schedule
        writes ``"lr"``.
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
        entries = list(params)
        if not any(isinstance(entry, Mapping) for entry in entries):
            entries = [{"params": entries}]
        seen: set[int] = set()
        self.groups = [_group(entry, common, seen) for entry in entries]
        if not seen:
            raise ValueError("SGD got no parameters: pass model.parameters().")
        self._momenta: list[Array | None] = [None] * len(self.params)

    @property
    def params(self) -> list[Tensor]:
        """All parameters, group by group."""
        return [p for group in self.groups for p in group["params"]]

    @property
    def momenta(self) -> list[Array | None]:
        """What each of ``params`` moves by, the arrays themselves; None before its first step."""
        return list(self._momenta)

    @momenta.setter
    def momenta(self, arrays: Sequence[Array | None]) -> None:
        for i, (p, v) in enumerate(zip(self.params, arrays, strict=True)):
            if v is not None and tuple(v.shape) != tuple(p.shape):
                raise ValueError(
                    f"The state's momentum {i} has shape {tuple(v.shape)}, its parameter {tuple(p.shape)}."
                )
        self._momenta = [
            v if v is None else mx.array(v) if p.is_gpu() else np.array(v, np.float32)
            for p, v in zip(self.params, arrays, strict=True)
        ]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        i = -1
        for group in self.groups:
            lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            for p in group["params"]:
                i += 1
                if p.grad is None:
                    continue
                self._momenta[i] = ops.sgd_update(
                    p, self._momenta[i], lr=lr, momentum=momentum, weight_decay=decay, nesterov=group["nesterov"]
                )
        on_gpu = [p.data for p in self.params if p.is_gpu()]
        mx.eval(on_gpu, [v for v in self._momenta if isinstance(v, mx.array)])

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs.

        Returns
        -------
        dict
            ``"momenta"``: a float32 array, or None before its first step, per parameter in the order of
            ``params``; ``"groups"``: the settings of each group.
        """
        return {
            "momenta": [None if v is None else np.array(v) for v in self._momenta],
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in self.groups],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned for the same parameters.

        Raises
        ------
        ValueError
            If the number of groups or parameters, or a shape, differs.
        """
        params, momenta, groups = self.params, state["momenta"], state["groups"]
        if len(momenta) != len(params) or len(groups) != len(self.groups):
            raise ValueError(
                f"The state is of {len(momenta)} parameters in {len(groups)} groups, the optimizer has "
                f"{len(params)} in {len(self.groups)}: build it from the same model."
            )
        self.momenta = momenta
        for group, settings in zip(self.groups, groups, strict=True):
            group.update(settings)


def _group(entry: Any, common: Mapping[str, Any], seen: set[int]) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or "params" not in entry:
        raise TypeError(f"A parameter group must be a dict with 'params', got {type(entry).__name__}.")
    unknown = sorted(set(entry) - {"params", *common})
    if unknown:
        raise ValueError(f"A parameter group has {unknown}, allowed are 'params' and {list(common)}.")
    group = {**common, **entry, "params": []}
    for name in ("lr", "momentum", "weight_decay"):
        if not 0 <= group[name] < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {group[name]}.")
    if group["nesterov"] and not group["momentum"]:
        raise ValueError("nesterov=True needs a momentum above 0.")
    for p in entry["params"]:
        if not isinstance(p, Tensor):
            raise TypeError(f"SGD takes parameters, got {type(p).__name__}: pass model.parameters().")
        if id(p) not in seen:  # a module registered twice lists its parameters twice
            seen.add(id(p))
            group["params"].append(p)
    return group


def decay_groups(params: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups for :class:`SGD`: weights decay, biases and the norms' scales and shifts do not.

    The latter are the parameters of one axis.
    """
    params = list(params)
    return [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
