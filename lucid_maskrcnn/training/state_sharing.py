"""The state of a run, from rank 0 to the other ranks of its group, which read no files."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from lucid.nn import Module

from ..ops import device_array
from .ema import EMA
from .groups import Group, share_value
from .optimizer import Optimizer
from .run_state import RunState

__all__ = ["share_state"]


def share_state(group: Group, state: RunState, model: Module, optimizer: Optimizer, ema: EMA | None) -> RunState:
    """Give all ranks the model's weights and buffers, the optimizer's memory, the averages and the state of rank 0.

    Returns
    -------
    RunState
        That of rank 0.
    """
    if group.size == 1:
        return state
    header = {
        "state": dataclasses.asdict(state),
        "slots": {name: [array is not None for array in arrays] for name, arrays in optimizer.slots.items()},
        "counts": optimizer.counts,
        "ema_updates": ema.updates if ema else 0,
    }
    header = share_value(group, header)
    variables = list(model.state_dict(keep_vars=True).values())
    for variable, array in zip(variables, _shared(group, [v.data for v in variables]), strict=True):
        variable.data = device_array(array, variable.device)
    for name, present in header["slots"].items():
        own = optimizer.slots[name]
        wanted = [i for i, has in enumerate(present) if has]
        given = [optimizer.params[i].data if own[i] is None else own[i] for i in wanted]
        arrays = dict(zip(wanted, _shared(group, given), strict=True))
        optimizer._restore(name, [arrays.get(i) for i in range(len(present))])
    optimizer.counts = header["counts"]
    if ema is not None:
        names = list(ema.averages)
        ema.restore(dict(zip(names, _shared(group, list(ema.averages.values())), strict=True)), header["ema_updates"])
    return RunState(**header["state"])


def _shared(group: Group, arrays: list[Any]) -> list[np.ndarray]:
    return [np.array(array) for array in group.broadcast([np.asarray(array) for array in arrays])]
