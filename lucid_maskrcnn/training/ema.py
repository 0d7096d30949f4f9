"""Averaged weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from lucid.nn import Module

from .. import ops
from ..call_answers import answers_wrong_calls
from ..reprs import described
from ..validators import fraction_below_one, instance, non_negative_int

__all__ = ["EMA"]


@answers_wrong_calls
class EMA:
    """Exponential moving average of a model's weights and buffers: steadier than the last step's.

    Parameters
    ----------
    model : Module
        The averages start with its present weights and buffers.
    decay : float
        Fraction of the average that an update keeps, in [0, 1). The first updates keep less,
        ``(1 + n) / (10 + n)`` after n updates, so that the start is soon forgotten.

    Attributes
    ----------
    updates : int
        Number of calls of :meth:`update`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """

    def __init__(self, model: Module, decay: float = 0.999) -> None:
        instance("model", model, Module, "a module")
        self.decay, self.updates = fraction_below_one("decay", decay), 0
        self._averages = {name: v.data + 0 for name, v in model.state_dict(keep_vars=True).items()}
        ops.begin(self._averages.values())

    @described
    def __repr__(self) -> str:
        return f"EMA({len(self._averages)} weights, decay={self.decay}, updates={self.updates})"

    @property
    def averages(self) -> dict[str, Any]:
        """The averages by the model's names, as NumPy or MLX arrays: not copies."""
        return dict(self._averages)

    def update(self, model: Module) -> None:
        """Add the model's present weights and buffers to the averages; a gpu is not waited for."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        variables = self._variables(model)
        values = [variables[name].data for name in self._averages]
        moved = ops.moved_averages(list(self._averages.values()), values, 1 - keep)
        self._averages = dict(zip(self._averages, moved, strict=True))
        self.updates += 1
        ops.begin(moved)

    def apply(self, model: Module) -> None:
        """Set the model's weights and buffers to the averages."""
        for name, variable in self._variables(model).items():
            variable.data = self._averages[name]

    @contextmanager
    def applied(self, model: Module) -> Iterator[None]:
        """Set the model's weights and buffers to the averages for as long as the block lasts."""
        variables = self._variables(model)
        before = {name: variable.data for name, variable in variables.items()}
        try:
            self.apply(model)
            yield
        finally:
            for name, variable in variables.items():
                variable.data = before[name]

    def restore(self, averages: Mapping[str, Any], updates: int) -> None:
        """Continue from the :attr:`averages` and number of updates of an earlier object.

        Parameters
        ----------
        averages : mapping of str to array
            Copied, to this object's device.
        updates : int
            How many updates these averages have had.

        Raises
        ------
        ValueError
            If names or shapes are not those of the model.
        """
        instance("averages", averages, Mapping, "a mapping of names to arrays")
        _require_same_names("averages have", averages, self._averages)
        for name, average in self._averages.items():
            if tuple(averages[name].shape) != tuple(average.shape):
                raise ValueError(
                    f"averages[{name!r}] must have shape {tuple(average.shape)}, got {tuple(averages[name].shape)}."
                )
        self.updates = non_negative_int("updates", updates)
        for name, average in self._averages.items():
            device = "gpu" if ops.is_device_array(average) else "cpu"
            self._averages[name] = ops.device_array(np.array(averages[name]), device)

    def _variables(self, model: Module) -> dict[str, Any]:
        instance("model", model, Module, "a module")
        variables: dict[str, Any] = model.state_dict(keep_vars=True)
        _require_same_names("model has", variables, self._averages)
        return variables


def _require_same_names(what: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if given.keys() != wanted.keys():
        name = min(given.keys() ^ wanted.keys())
        problem = f"{what} {name!r}, which the averaged model does not have" if name in given else f"{what} no {name!r}"
        raise ValueError(f"{problem}: it must be the same model.")
