"""Learning rates over a run."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..call_answers import answers_wrong_calls
from ..validators import (
    choice,
    fraction,
    non_negative_int,
    non_negative_number,
    open_fraction,
    optional,
    sequence,
    shown,
)

__all__ = ["SCHEDULE_CHECKS", "SCHEDULE_KINDS", "Schedule"]

SCHEDULE_KINDS = ("multistep", "cosine", "constant")


def _milestones(name: str, value: Any) -> tuple[float, ...]:
    found = sequence(name, value, open_fraction)
    if list(found) != sorted(set(found)):
        raise ValueError(f"{name} must be fractions of the run in ascending order, got {shown(value)}.")
    return found


SCHEDULE_CHECKS: dict[str, Any] = {
    "warmup": non_negative_int,
    "warmup_factor": non_negative_number,
    "milestones": _milestones,
    "gamma": non_negative_number,
    "freeze_bn_after": optional(open_fraction),
    "freeze_bn_lr_factor": non_negative_number,
}
"""The checks of the fields that a schedule shares with the settings of a run."""


@answers_wrong_calls
@dataclass(frozen=True)
class Schedule:
    """The factor of the learning rate, as a function of the step and of the run's progress.

    Attributes
    ----------
    kind : {"multistep", "cosine", "constant"}
        Drops at milestones, half a cosine down to 0, or neither.
    warmup, warmup_factor : int, float
        Steps of a linear warm-up to the full rate, and the factor of its first step.
    milestones : sequence of float
        Fractions of the run in ascending order; from each on the rate is multiplied by ``gamma`` once more.
    gamma : float
        That factor.
    freeze_bn_after : float, optional
        Fraction of the run that is the first of two parts, after which batch norm is frozen. The schedule is run
        through once in each part; progress and milestones are fractions of the part.
    freeze_bn_lr_factor : float
        Factor of the second part.

    Raises
    ------
    TypeError, ValueError
        If a field is not as above.

    Examples
    --------
    In a training loop of your own::

        schedule = Schedule("cosine", warmup=100)
        for step in range(steps):
            for group in optimizer.groups:
                group["lr"] = 0.02 * schedule.factor(step, step / steps)
    """

    kind: str = "multistep"
    warmup: int = 0
    warmup_factor: float = 1e-3
    milestones: Sequence[float] = ()
    gamma: float = 0.1
    freeze_bn_after: float | None = None
    freeze_bn_lr_factor: float = 1.0

    def __post_init__(self) -> None:
        for name, check in {"kind": partial(choice, options=SCHEDULE_KINDS), **SCHEDULE_CHECKS}.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))

    def factor(self, step: int, progress: float) -> float:
        """Return the factor of the learning rate at a step.

        Parameters
        ----------
        step : int
            Counted from 0.
        progress : float
            Fraction of the run that is done, from 0 to 1.
        """
        step, progress = non_negative_int("step", step), fraction("progress", progress)
        peak = 1.0
        if self.freeze_bn_after is not None:
            if progress < self.freeze_bn_after:
                progress /= self.freeze_bn_after
            else:
                peak = self.freeze_bn_lr_factor
                progress = (progress - self.freeze_bn_after) / (1 - self.freeze_bn_after)
        if step < self.warmup:
            peak *= self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup
        if self.kind == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * progress))
        return peak * self.gamma ** bisect_right(self.milestones, progress) if self.kind == "multistep" else peak
