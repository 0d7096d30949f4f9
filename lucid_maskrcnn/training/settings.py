"""The settings of a training run, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..call_answers import answers_wrong_calls
from ..validators import (
    choice,
    flag,
    fraction_below_one,
    instance,
    integer,
    non_negative_number,
    optional,
    pair,
    positive_int,
    positive_number,
    shown,
    text,
)
from .schedules import SCHEDULE_CHECKS, SCHEDULE_KINDS, Schedule

__all__ = ["LR_PER_IMAGE", "OPTIMIZERS", "TrainerSettings"]

OPTIMIZERS = ("sgd", "adamw")

LR_PER_IMAGE = 0.02 / 16  # He et al. 2017, section 3.1: 0.02 for 16 images a step; linear scaling for others
# What detectors are commonly trained with by AdamW at 16 images a step (Liu et al. 2021, section 4.2); the size of its
# steps does not depend on that of the gradients, whose noise falls with the square root of the images.
_ADAMW_LR, _ADAMW_IMAGES = 1e-4, 16
_WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 0.05}
# Weights that are right already are moved by the noise of the gradients, with the square of the rate times the images
# that are seen, and a few images cannot lead them back: this keeps that product constant; docs/do/train.md has the
# runs.
_FINE_TUNING_SHARES = (1 / 20, 1 / 5)  # of LR_PER_IMAGE, least and most
_FINE_TUNING_IMAGES = 120  # up to so many seen images it is the most


def _factors(name: str, value: Any) -> dict[Any, float]:
    wanted = "a mapping of names to factors"
    for key in instance(name, value, Mapping, wanted):
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise TypeError(f"{name} must be {wanted}, got the key {shown(key)}.")
    return {key: non_negative_number(f"{name}[{key!r}]", factor) for key, factor in value.items()}


_CHECKS: dict[str, Any] = {
    "steps": optional(positive_int),
    "minutes": optional(positive_number),
    "seed": partial(integer, minimum=0, maximum=2**31 - 1),
    "accumulate": positive_int,
    "processes": positive_int,
    "lr": optional(positive_number),
    "optimizer": partial(choice, options=OPTIMIZERS),
    "momentum": fraction_below_one,
    "betas": partial(pair, check=fraction_below_one),
    "weight_decay": optional(non_negative_number),
    "decay_norms": optional(flag),
    "loss_weights": optional(_factors),
    "class_weights": optional(_factors),
    "schedule": partial(choice, options=SCHEDULE_KINDS),
    **SCHEDULE_CHECKS,
    "warmup": optional(SCHEDULE_CHECKS["warmup"]),
    "max_grad_norm": optional(positive_number),
    "ema": optional(fraction_below_one),
    "save_every": positive_int,
    "keep_last": positive_int,
    "eval_every": optional(positive_int),
    "keep_best": optional(text),
    "patience": optional(positive_int),
}


@answers_wrong_calls
@dataclass(frozen=True)
class TrainerSettings:
    """Settings of a :class:`Trainer`: the length of the run, the optimizer, and what is kept.

    Attributes
    ----------
    steps, minutes : int, float
        Length of the run, in steps of the optimizer or in time; give one of the two. A run of given steps is
        reproducible; one of given minutes is not, as its schedule follows the clock.
    seed : int
        Of the random sampling of anchors and RoIs and of dropout; each step has a seed of its own.
    accumulate : int
        Batches per step: the optimizer takes the mean of their gradients.
    processes : int
        Number of processes that compute these batches, at most ``accumulate``; more than one on Linux and for a model
        on cpu only. Each has an equal part of the cores, and needs the memory of a step. Small models gain most, as
        their threads wait for each other longer than they compute. Gradients are added in float64 and rounded once, so
        that the weights are those of one process whose BLAS has as many threads; with live batch norm they differ by
        its statistics, which each process updates separately before their mean is taken.
    lr : float, optional
        Highest learning rate; by default 0.00125 for each image of a step, over all of its batches (0.02 for 16). In
        fine-tuning, that is, if all of the model's layers have weights of a detector, it is a fifth of that for runs
        that see up to 120 images, and falls with the square root of their number to a twentieth. With AdamW it is
        0.0001 for 16 images of a step, times the square root of their number over 16, and the same share of that in
        fine-tuning.
    optimizer : {"sgd", "adamw"}
        :class:`SGD`, as in the paper, or :class:`AdamW`.
    momentum : float
        Of SGD.
    betas : pair of float
        Of AdamW.
    weight_decay : float, optional
        By default 0.0001, and 0.05 with AdamW.
    decay_norms : bool, optional
        Whether weight decay applies to biases and the norms' scales and shifts too: by default with SGD, as in the
        paper, and not with AdamW.
    loss_weights : mapping of str to float, optional
        Factors of the losses by their names, as :meth:`MaskRCNN.get_loss` takes them.
    class_weights : mapping of str or int to float, optional
        What a class counts in the classification loss, by name or label, as :meth:`MaskRCNN.get_loss` takes them.
    schedule : {"multistep", "cosine", "constant"}
        The learning rate drops at the milestones, follows half a cosine down to 0, or stays.
    milestones, gamma : tuple of float, float
        Fractions of the run at which the learning rate drops, and the factor of each drop.
    warmup, warmup_factor : int, float
        Steps of linear warm-up and the factor of its first step; by default a tenth of the run (a fifth in
        fine-tuning) and at most 1000 steps, or 200 if the run is limited by time.
    max_grad_norm : float, optional
        Gradients are scaled down to this norm of all of them together; None for no limit.
    ema : float, optional
        Decay of an exponential moving average of the weights, which then is what is evaluated and kept; None for no
        average.
    freeze_bn_after : float, optional
        Fraction of the run after which live batch norm uses its running statistics, as in prediction; averaged weights
        start anew there. Batches of a few images have statistics of their own, which the model does not see again in
        prediction. Without effect if batch norm is frozen anyway.
    freeze_bn_lr_factor : float
        With ``freeze_bn_after`` the schedule runs once before and once after it, then multiplied by this factor.
    save_every : int
        Steps between checkpoints.
    keep_last : int
        Number of checkpoints kept.
    eval_every : int, optional
        Steps between evaluations; by default there is one at the end.
    keep_best : str, optional
        Name of a metric of the evaluation, such as ``"segm/AP"``: the weights with the highest value are kept too, or
        with the lowest, if the metric's name ends in ``loss``.
    patience : int, optional
        The run ends after this number of evaluations in a row without a better ``keep_best``.

    Raises
    ------
    TypeError, ValueError
        If a setting is not as above, or contradicts another.
    """

    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    accumulate: int = 1
    processes: int = 1
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    decay_norms: bool | None = None
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
    optimizer: str = "sgd"
    betas: tuple[float, float] = (0.9, 0.999)
    loss_weights: Mapping[str, float] | None = None
    class_weights: Mapping[str | int, float] | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        self._check_relations()

    def _check_relations(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(f"Give steps or minutes, one of them, got steps={self.steps}, minutes={self.minutes}.")
        if self.steps is not None and (self.warmup or 0) >= self.steps:
            raise ValueError(f"warmup must be less than the {self.steps} steps of the run, got {self.warmup}.")
        if self.processes > self.accumulate:
            raise ValueError(
                f"processes must be at most accumulate, {self.accumulate}, got {self.processes}: each process computes "
                "at least one batch of a step."
            )
        defaults = TrainerSettings.__dataclass_fields__
        other, name = ("adamw", "betas") if self.optimizer == "sgd" else ("sgd", "momentum")
        if getattr(self, name) != defaults[name].default:
            raise ValueError(
                f"{name} is of optimizer={other!r}, got {name}={getattr(self, name)} with "
                f"optimizer={self.optimizer!r}: set the other's, or leave it out."
            )
        if self.patience is not None and self.keep_best is None:
            raise ValueError("patience needs keep_best, the name of the metric that should grow.")

    def completed(self, images_per_step: int, *, fine_tuning: bool = False) -> TrainerSettings:
        """Return the settings with the defaults of the learning rate, the warm-up and weight decay filled in.

        Parameters
        ----------
        images_per_step : int
            Images of all batches of a step.
        fine_tuning : bool
            Whether all layers of the model have weights of a detector.
        """
        images = positive_int("images_per_step", images_per_step)
        share = self._fine_tuning_share(images) if flag("fine_tuning", fine_tuning) else 1.0
        usual = LR_PER_IMAGE * share * images
        if self.optimizer == "adamw":
            usual = _ADAMW_LR * share * math.sqrt(images / _ADAMW_IMAGES)
        default = 200 if self.steps is None else min(1000, self.steps // (5 if fine_tuning else 10))
        return replace(
            self,
            lr=usual if self.lr is None else self.lr,
            warmup=default if self.warmup is None else self.warmup,
            weight_decay=_WEIGHT_DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay,
            decay_norms=self.optimizer == "sgd" if self.decay_norms is None else self.decay_norms,
        )

    def _fine_tuning_share(self, images_per_step: int) -> float:
        least, most = _FINE_TUNING_SHARES
        if self.steps is None:
            return least
        return min(most, max(least, most * math.sqrt(_FINE_TUNING_IMAGES / (self.steps * images_per_step))))

    @property
    def lr_schedule(self) -> Schedule:
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
