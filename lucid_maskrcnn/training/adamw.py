"""AdamW: steps scaled by the gradients' own size, with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lucid import Tensor

from .. import ops
from ..call_answers import answers_wrong_calls
from ..validators import fraction_below_one, non_negative_number, pair, positive_number
from .optimizer import Array, Optimizer

__all__ = ["AdamW"]

_CHECKS: dict[str, Any] = {
    "lr": non_negative_number,
    "betas": partial(pair, check=fraction_below_one),
    "eps": positive_number,
    "weight_decay": non_negative_number,
}


@answers_wrong_calls
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), by PyTorch's rule.

    ``m = beta1 · m + (1 - beta1) · grad``, ``v = beta2 · v + (1 - beta2) · grad²``, and
    ``p = p · (1 - lr · weight_decay) - lr · m̂ / (√v̂ + eps)`` with ``m̂ = m / (1 - beta1^t)`` and
    ``v̂ = v / (1 - beta2^t)`` in the parameter's step t. A parameter without a gradient stays as it is, and so do its
    averages.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        A dict is a group: its ``"params"`` and any of the settings below, for these parameters alone.
    lr : float
        Learning rate.
    betas : pair of float
        What the averages of the gradients and of their squares keep in a step, below 1.
    eps : float
        Added to the denominator.
    weight_decay : float
        At least 0.

    Attributes
    ----------
    groups : list of dict
        ``"params"``, ``"lr"``, ``"betas"``, ``"eps"`` and ``"weight_decay"``. A schedule sets ``"lr"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, there are no parameters, or one comes twice.
    """

    kind = "adamw"

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
    ) -> None:
        common = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, common, _CHECKS, ["momentum", "squares"])

    def _update(
        self,
        group: Mapping[str, Any],
        params: Sequence[Tensor],
        slots: Mapping[str, Sequence[Array | None]],
        counts: Sequence[int],
    ) -> Mapping[str, Sequence[Array | None]]:
        known = [None if m is None else (m, v) for m, v in zip(slots["momentum"], slots["squares"], strict=True)]
        moved = ops.adamw_update(params, known, counts, **{name: group[name] for name in _CHECKS})
        return {"momentum": [m for m, _ in moved], "squares": [v for _, v in moved]}
