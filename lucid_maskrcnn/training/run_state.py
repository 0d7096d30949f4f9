"""The progress of a run."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..validators import flag, non_negative_int, non_negative_number, shown

__all__ = ["RunState"]


@dataclass
class RunState:
    """The progress of a run.

    Attributes
    ----------
    step, seconds : int, float
        Steps taken and time spent so far, resumed parts included.
    bn_frozen : bool
        Whether batch norm uses its running statistics.
    evaluated, metrics : int, dict
        Step and result of the last evaluation.
    metrics_before : dict
        Result of an evaluation before the first step; empty if there was none.
    best, best_step : float, int
        The best value of ``keep_best`` so far, and its step: 0 if that was before the first.
    stale : int
        Number of evaluations since.

    Raises
    ------
    TypeError, ValueError
        If a field is not as above, or one counts more steps than ``step``.
    """

    step: int = 0
    seconds: float = 0.0
    bn_frozen: bool = False
    evaluated: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    metrics_before: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.step = non_negative_int("step", self.step)
        self.seconds = non_negative_number("seconds", self.seconds)
        self.bn_frozen = flag("bn_frozen", self.bn_frozen)
        for name in ("evaluated", "best_step", "stale"):
            setattr(self, name, non_negative_int(name, getattr(self, name), self.step))
        for name in ("metrics", "metrics_before"):
            setattr(self, name, _metrics(name, getattr(self, name)))
        if self.best is not None and math.isnan(_metric("best", self.best)):
            raise ValueError("best must be a number or None, got nan.")
        first = 0 if self.metrics_before else 1
        if (self.best_step < first) if self.best is not None else self.best_step:
            raise ValueError(f"best and best_step must be given together, got {self.best} and {self.best_step}.")


def _metrics(name: str, values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise TypeError(f"{name} must be a mapping of names to numbers, got {shown(values)}.")
    return {str(key): _metric(f"{name}[{key!r}]", value) for key, value in values.items()}


def _metric(name: str, value: Any) -> float:
    """Return a number, which may be NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}.")
    return float(value)
