"""Learning rates over a run."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .sgd import SGD

__all__ = ["Schedule", "WarmupMultiStep", "warm_up"]


def warm_up(step: int, steps: int, first: float) -> float:
    """Return the linear warm-up's factor: from ``first`` at step 0 to 1 from ``steps`` on."""
    return 1.0 if step >= steps else first + (1 - first) * step / steps


@dataclass(frozen=True)
class Schedule:
    """What the learning rate is multiplied by, as a function of the step and of the run's progress.

    Attributes
    ----------
    shape : {"multistep", "cosine", "constant"}
        Drops at milestones, half a cosine down to 0, or neither.
    warmup, warmup_factor : int, float
        Steps until the full rate, and where they begin.
    milestones : sequence of float
        Fractions of the run, ascending, from which on the rate is multiplied by ``gamma`` once more.
    gamma : float
        That factor.
    freeze_bn_after : float, optional
        The fraction of the run that is the first of two parts. The shape runs once in each; progress
        and milestones are those of the part.
    freeze_bn_lr_factor : float
        The factor of the second part.
    """

    shape: str = "multistep"
    warmup: int = 0
    warmup_factor: float = 1e-3
    milestones: Sequence[float] = ()
    gamma: float = 0.1
    freeze_bn_after: float | None = None
    freeze_bn_lr_factor: float = 1.0

    def factor(self, step: int, progress: float) -> float:
        """Return the factor at ``step``, counted from 0, when ``progress`` (0 to 1) of the run is done."""
        peak = 1.0
        if self.freeze_bn_after is not None:
            if progress < self.freeze_bn_after:
                progress /= self.freeze_bn_after
            else:
                peak, progress = (
                    self.freeze_bn_lr_factor,
                    (progress - self.freeze_bn_after) / (1 - self.freeze_bn_after),
                )
        peak *= warm_up(step, self.warmup, self.warmup_factor)
        if self.shape == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * progress))
        return peak * self.gamma ** bisect_right(self.milestones, progress) if self.shape == "multistep" else peak


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
        warm = warm_up(step, self.warmup_steps, self.warmup_factor)
        return warm * self.gamma ** bisect_right(self.milestones, step)

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
