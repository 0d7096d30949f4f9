"""Stochastic gradient descent, its schedule, gradient clipping and averaged weights.

Lucid's own SGD leaves weight decay out of the first momentum step, and its schedulers lag one step
behind. These follow PyTorch's rules. None of them writes into an array that somebody else may hold:
a parameter gets a new array each step, so that loaded weights stay as they were and anything computed
from a weight can be recognised as stale by identity.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from lucid import Tensor
from lucid.nn import Module

from . import ops

__all__ = ["EMA", "SGD", "WarmupMultiStep", "clip_gradients", "decay_groups"]

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
                self._momenta[i] = ops.descend(
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
        for i, (p, v) in enumerate(zip(params, momenta, strict=True)):
            if v is not None and tuple(v.shape) != tuple(p.shape):
                raise ValueError(
                    f"The state's momentum {i} has shape {tuple(v.shape)}, its parameter {tuple(p.shape)}."
                )
        self._momenta = [
            v if v is None else mx.array(v) if p.is_gpu() else np.array(v, np.float32)
            for p, v in zip(params, momenta, strict=True)
        ]
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


def clip_gradients(params: Iterable[Tensor], max_norm: float) -> float:
    """Scale the gradients down together so that their common L2 norm is at most ``max_norm``.

    Parameters
    ----------
    params : iterable of Parameter
        Those without a gradient are passed over. Each gets a new gradient array where one is scaled.
    max_norm : float
        Above 0; ``inf`` only measures.

    Returns
    -------
    float
        The norm before. Where it is not finite the gradients are left alone: look before you step.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}.")
    owners = [p for p in params if p.grad is not None]
    on_gpu = [mx.sum(mx.square(p.grad)) for p in owners if p.is_gpu()]
    squares = math.fsum(float(np.vdot(p.grad, p.grad)) for p in owners if p.is_cpu())
    if on_gpu:
        squares += float(np.asarray(mx.sum(mx.stack(on_gpu))))  # one wait for all
    norm = math.sqrt(squares)
    if math.isfinite(norm) and norm > max_norm:
        scale = max_norm / (norm + 1e-6)
        for p in owners:
            p.grad = p.grad * scale
    return norm


class WarmupMultiStep:
    """The learning rate of Mask R-CNN's training: a linear warm-up, then drops at milestones.

    The rates that the optimizer holds are the base; its first step already has the warm-up's first
    rate, ``warmup_factor`` times the base. Call :meth:`step` after each step of the optimizer.

    Parameters
    ----------
    optimizer : SGD
        Its groups' ``"lr"`` are written.
    warmup_steps : int
        Steps until the base rate; 0 for none.
    milestones : sequence of int
        Steps, ascending, from which on the rate is multiplied by ``gamma`` once more.
    gamma, warmup_factor : float
        The factors.
    """

    def __init__(
        self,
        optimizer: SGD,
        warmup_steps: int,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 1e-3,
    ) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}.")
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones must ascend, got {list(milestones)}.")
        self.optimizer = optimizer
        self.warmup_steps, self.milestones = warmup_steps, list(milestones)
        self.gamma, self.warmup_factor = gamma, warmup_factor
        self._base = [group["lr"] for group in optimizer.groups]
        self._set(0)

    def factor(self, step: int) -> float:
        """Return what the base rate is multiplied by at ``step``, counted from 0."""
        factor = self.gamma ** bisect_right(self.milestones, step)
        if step < self.warmup_steps:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        return factor

    def step(self) -> None:
        """Move on to the next step's rate."""
        self._set(self.last_step + 1)

    def _set(self, step: int) -> None:
        self.last_step = step
        for group, base in zip(self.optimizer.groups, self._base, strict=True):
            group["lr"] = base * self.factor(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the step and the base rates."""
        return {"step": self.last_step, "base": list(self._base)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._base = list(state["base"])
        self._set(state["step"])


class EMA:
    """Exponential moving average of a model's weights and buffers: steadier than the last step's.

    Parameters
    ----------
    model : Module
        Its present state is the start.
    decay : float
        Share of the average that an update keeps, in [0, 1). The first updates keep less,
        ``(1 + n) / (10 + n)`` after n, so that the start is soon forgotten.
    """

    def __init__(self, model: Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}.")
        self.decay, self.updates = decay, 0
        self._average = {name: v.data + 0 for name, v in model.state_dict(keep_vars=True).items()}

    def update(self, model: Module) -> None:
        """Take in the model's present state."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, variable in model.state_dict(keep_vars=True).items():
            average = self._average[name]
            self._average[name] = average + (variable.data - average) * (1 - keep)
        mx.eval([a for a in self._average.values() if isinstance(a, mx.array)])

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the averages under the model's names: copies that ``model.load_state_dict`` takes."""
        return {name: np.array(average) for name, average in self._average.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray], updates: int) -> None:
        """Go on from averages that :meth:`state_dict` returned after so many updates."""
        on_gpu = any(isinstance(a, mx.array) for a in self._average.values())
        self._average = {name: mx.array(a) if on_gpu else np.array(a) for name, a in state.items()}
        self.updates = updates
