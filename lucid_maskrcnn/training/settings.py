"""What a training run is told, as data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .schedules import Schedule

__all__ = ["LR_PER_IMAGE", "TrainerSettings"]

LR_PER_IMAGE = 0.02 / 16  # He et al. 2017, section 3.1: 0.02 for 16 images a step; the linear rule for others
_SHAPES = ("multistep", "cosine", "constant")


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of a :class:`Trainer`: the length of the run, the optimiser, and what is kept of it.

    Attributes
    ----------
    steps, minutes : int, float
        Length of the run, in steps of the optimiser or in time; one of them. A run of given steps is the same on
        every repetition; one of given minutes is not, as its schedule follows the clock.
    seed : int
        Of the samplers, which draw anew at each step.
    accumulate : int
        Batches whose mean gradient makes one step.
    processes : int
        How many processes share out these batches: on Linux, and for a model on cpu. Each takes its part of the cores,
        and the memory of a step once more. Small models gain most, as their threads wait more than they compute. The
        weights differ by rounding, and with live batch norm by its statistics, which each process updates by itself;
        their mean is kept.
    lr : float, optional
        Highest learning rate; by default 0.00125 for each image of a step, all of its batches counted (0.02 for 16).
    momentum, weight_decay : float
        Of the optimiser.
    decay_norms : bool
        Whether biases and the norms' scales and shifts decay too, as in the paper.
    schedule : {"multistep", "cosine", "constant"}
        Drops at the milestones, half a cosine down to 0, or neither.
    milestones, gamma : tuple of float, float
        Fractions of the run at which the rate drops, and the factor.
    warmup, warmup_factor : int, float
        Steps of linear warm-up and the factor of its first step; by default a tenth of the run and at most 1000
        steps, or 200 if the run is limited by time.
    max_grad_norm : float, optional
        Largest norm of all gradients together; None for any.
    ema : float, optional
        Decay of the averaged weights, which then are the ones evaluated and kept; None for no averages.
    freeze_bn_after : float, optional
        From this fraction of the run on live batch norm uses its running statistics, as a prediction does, and
        averages start anew. Batches of a few images have statistics of their own, which the model never sees again;
        without live batch norm there is nothing to freeze.
    freeze_bn_lr_factor : float
        The schedule runs once before and, times this, once after.
    save_every : int
        Steps from one checkpoint to the next.
    keep_last : int
        Number of checkpoints kept.
    eval_every : int, optional
        Steps from one evaluation to the next; by default there is one at the end.
    keep_best : str, optional
        Name of a figure of the evaluation, like ``"segm/AP"``; the weights where it is highest are kept too.
    patience : int, optional
        The run ends after so many evaluations in a row without a higher ``keep_best``.

    Raises
    ------
    ValueError
        If a setting is out of range or lacks its partner.
    """

    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    accumulate: int = 1
    processes: int = 1
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norms: bool = True
    schedule: str = "multistep"
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    gamma: float = 0.1
    warmup: int | None = None
    warmup_factor: float = 1e-3
    max_grad_norm: float | None = 10.0
    ema: float | None = None
    freeze_bn_after: float | None = None
    freeze_bn_lr_factor: float = 0.3
    save_every: int = 200
    keep_last: int = 1
    eval_every: int | None = None
    keep_best: str | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(f"Give steps or minutes, one of them, got steps={self.steps}, minutes={self.minutes}.")
        if self.schedule not in _SHAPES:
            raise ValueError(f"schedule must be one of {', '.join(map(repr, _SHAPES))}, got {self.schedule!r}.")
        for name in ("steps", "accumulate", "processes", "save_every", "keep_last", "eval_every", "patience"):
            self._require(name, lambda v: isinstance(v, int) and v >= 1, "a whole number from 1 on")
        self._require("warmup", lambda v: isinstance(v, int) and v >= 0, "a whole number from 0 on")
        self._require("seed", lambda v: isinstance(v, int) and 0 <= v < 2**31, "a whole number from 0 to 2147483647")
        for name in ("minutes", "lr", "max_grad_norm"):
            self._require(name, lambda v: 0 < v < math.inf, "a number above 0")
        for name in ("weight_decay", "gamma", "warmup_factor", "freeze_bn_lr_factor"):
            self._require(name, lambda v: 0 <= v < math.inf, "a number from 0 on")
        for name in ("momentum", "ema"):
            self._require(name, lambda v: 0 <= v < 1, "at least 0 and below 1")
        self._require("freeze_bn_after", lambda v: 0 < v < 1, "a fraction of the run, between 0 and 1")
        in_order = list(self.milestones) == sorted(self.milestones) and all(0 < m < 1 for m in self.milestones)
        if not in_order:
            raise ValueError(f"milestones must be fractions of the run that ascend from 0 to 1, got {self.milestones}.")
        if self.steps is not None and (self.warmup or 0) >= self.steps:
            raise ValueError(f"warmup must be less than the {self.steps} steps of the run, got {self.warmup}.")
        if self.processes > self.accumulate:
            raise ValueError(
                f"processes must be at most accumulate, {self.accumulate}, got {self.processes}: they share out the "
                "batches of a step."
            )
        if self.patience is not None and self.keep_best is None:
            raise ValueError("patience needs keep_best, the name of the figure that is to grow.")

    def _require(self, name: str, holds: Callable[[Any], bool], wanted: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise ValueError(f"{name} must be {wanted}, got {value}.")

    def completed(self, images: int) -> TrainerSettings:
        """Return the settings with a learning rate and a warm-up, for so many images a step."""
        lr = LR_PER_IMAGE * images if self.lr is None else self.lr
        usual = 200 if self.steps is None else min(1000, self.steps // 10)
        return replace(self, lr=lr, warmup=usual if self.warmup is None else self.warmup)

    @property
    def rates(self) -> Schedule:
        """The schedule of the learning rate."""
        return Schedule(
            self.schedule,
            self.warmup or 0,
            self.warmup_factor,
            self.milestones,
            self.gamma,
            self.freeze_bn_after,
            self.freeze_bn_lr_factor,
        )
