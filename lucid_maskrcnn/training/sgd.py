"""Stochastic gradient descent.

Lucid's own SGD leaves weight decay out of the first momentum step; this one follows PyTorch's rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lucid import Tensor

from .. import ops
from ..call_answers import answers_wrong_calls
from ..validators import flag, fraction_below_one, non_negative_number
from .optimizer import Array, Optimizer, decay_groups

__all__ = ["SGD", "decay_groups"]

_CHECKS: dict[str, Any] = {
    "lr": non_negative_number,
    "momentum": fraction_below_one,
    "weight_decay": non_negative_number,
    "nesterov": flag,
}


@answers_wrong_calls
class SGD(Optimizer):
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

    kind = "sgd"

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        nesterov: bool = False,
    ) -> None:
        common = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, common, _CHECKS, ["momentum"])
        if any(group["nesterov"] and not group["momentum"] for group in self.groups):
            raise ValueError("nesterov=True needs a momentum above 0.")

    @property
    def momenta(self) -> list[Array | None]:
        """The momentum of each of ``params``: not a copy, and None before its first step.

        Setting it resumes an earlier optimizer; the arrays are copied.
        """
        return list(self._slots["momentum"])

    @momenta.setter
    def momenta(self, arrays: Sequence[Array | None]) -> None:
        self._restore("momentum", arrays, name="momenta")

    def _update(
        self,
        group: Mapping[str, Any],
        params: Sequence[Tensor],
        slots: Mapping[str, Sequence[Array | None]],
        counts: Sequence[int],
    ) -> Mapping[str, Sequence[Array | None]]:
        return {"momentum": ops.sgd_update(params, slots["momentum"], **{name: group[name] for name in _CHECKS})}
