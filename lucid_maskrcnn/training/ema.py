"""Averaged weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from lucid.nn import Module

__all__ = ["EMA"]


class EMA:
    """Exponential moving average of a model's weights and buffers: steadier than the last step's.

    Parameters
    ----------
    model : Module
        Its present state is the start.
    decay : float
        Fraction of the average that an update keeps, in [0, 1). The first updates keep less,
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

    @property
    def averages(self) -> dict[str, Any]:
        """The averages under the model's names, themselves and no copies."""
        return dict(self._average)

    def apply(self, model: Module) -> None:
        """Give ``model`` the averages."""
        for name, variable in model.state_dict(keep_vars=True).items():
            variable.data = self._average[name]

    @contextmanager
    def applied(self, model: Module) -> Iterator[None]:
        """Let ``model`` have the averages, and afterwards its own weights and buffers again."""
        variables = model.state_dict(keep_vars=True)
        own = {name: variable.data for name, variable in variables.items()}
        try:
            self.apply(model)
            yield
        finally:
            for name, variable in variables.items():
                variable.data = own[name]

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the averages under the model's names: copies that ``model.load_state_dict`` takes."""
        return {name: np.array(average) for name, average in self._average.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray], updates: int) -> None:
        """Go on from averages that :meth:`state_dict` returned after so many updates."""
        on_gpu = any(isinstance(a, mx.array) for a in self._average.values())
        self._average = {name: mx.array(a) if on_gpu else np.array(a) for name, a in state.items()}
        self.updates = updates
