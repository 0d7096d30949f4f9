"""What the ranks of a group compare and share, so that all of them train the same."""

from __future__ import annotations

import os
import platform
import socket
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
from lucid.nn import Module
from threadpoolctl import threadpool_info

from ..ops import dtype_name
from ..user_warnings import warn_user
from ..validators import shown
from ..version import __version__
from .groups import Group, exchange_values, share_value
from .shared_errors import error_from_message, message_of_error

__all__ = ["check_group", "check_same_weights", "on_main", "shake_hands", "threads_per_rank"]

_MOST_DIFFERENCES = 5  # that a message has
_SILENT = ("settings.processes",)  # of one machine


def check_group(name: str, group: Any) -> Group:
    """Return a group if it is one."""
    methods = ("all_reduce", "broadcast", "barrier")
    rank, size = (getattr(group, n, None) for n in ("rank", "size"))
    if isinstance(group, type) or not all(callable(getattr(group, n, None)) for n in methods):
        raise TypeError(f"{name} must be a group, as init_group returns it, got {shown(group)}.")
    if not isinstance(rank, int) or not isinstance(size, int) or not 0 <= rank < size:
        raise ValueError(f"{name} must have a rank below its size, got rank {rank} and size {size}.")
    checked: Group = group
    return checked


def shake_hands(group: Group, description: Mapping[str, Any], model: Module) -> None:
    """Compare what determines a run on all ranks.

    Parameters
    ----------
    group : Group
    description : mapping
        What :func:`~lucid_maskrcnn.training.state.describe` returns, and more of the kind.
    model : Module
        Names, shapes and dtypes of its parameters and buffers, and which of them are trained, must be the same.

    Raises
    ------
    ValueError
        On all ranks, if one of them differs.

    Warns
    -----
    UserWarning
        If processors or numbers of BLAS threads differ: products are rounded in another way there, so that the weights
        differ from those of another number of ranks by rounding.
    """
    if group.size == 1:
        return
    mine = {**_flat(description), **_versions(), **_variables(model), "size of the group": group.size}
    machine = {"processor": _processor(), "BLAS threads": _blas_threads()}
    answers = exchange_values(group, {"run": mine, "machine": machine, "name": socket.gethostname()})
    for rank, answer in enumerate(answers):
        found = _differences(answers[0]["run"], answer["run"])
        if found:
            more = f"; and {len(found) - _MOST_DIFFERENCES} more" if len(found) > _MOST_DIFFERENCES else ""
            raise ValueError(
                f"Rank {rank} on {answer['name']} differs from rank 0 on {answers[0]['name']}: "
                f"{'; '.join(found[:_MOST_DIFFERENCES])}{more}. All ranks must train the same."
            )
    for name in machine if group.rank == 0 else ():
        values = Counter(str(answer["machine"][name]) for answer in answers)
        if len(values) > 1:
            warn_user(
                f"The ranks have different values of {name} ({', '.join(values)}): the weights depend on them, and on "
                "the number of ranks, by rounding."
            )


def threads_per_rank(group: Group) -> int | None:
    """Return the number of threads for each rank of this machine; None if a rank may use them all."""
    if group.size == 1:
        return None
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    here = [socket.gethostname(), own]
    sharing = exchange_values(group, here).count(here)  # not those that a launcher has bound to other cores
    return None if sharing == 1 else max(1, (len(own) or os.cpu_count() or 1) // sharing)


def on_main(group: Group, function: Callable[[], Any]) -> Any:
    """Return on all ranks what a function returns on rank 0, in JSON values; it is called there only.

    Raises
    ------
    Exception
        What it raises, on all ranks.
    """
    if group.size == 1:
        return function()
    answer: dict[str, Any] | None = None
    failure: BaseException | None = None
    if group.rank == 0:
        try:
            answer = {"result": function()}
        except Exception as error:
            failure, answer = error, {"error": message_of_error(error)}
        except BaseException as error:  # Ctrl-C
            failure, answer = error, {"stopped": type(error).__name__}
    answer = share_value(group, answer)
    if failure is not None:
        raise failure
    if "error" in answer:
        raise error_from_message(answer["error"])
    if "stopped" in answer:
        raise KeyboardInterrupt
    return answer["result"]


def check_same_weights(group: Group, model: Module, step: int) -> None:
    """Raise RuntimeError if the weights of the ranks are not the same: a processor or an engine is at fault."""
    if group.size == 1:
        return
    checksum = 0
    for variable in model.state_dict(keep_vars=True).values():
        checksum = zlib.crc32(np.ascontiguousarray(variable.data).reshape(-1).view(np.uint8), checksum)
    answers = exchange_values(group, checksum)
    different = [rank for rank, answer in enumerate(answers) if answer != answers[0]]
    if different:
        raise RuntimeError(
            f"Step {step}: the weights of rank {different[0]} are no longer those of rank 0. Resume from the last "
            "checkpoint; if it happens again, train on machines with processors of one kind."
        )


# ------------------------------------------------------------------ what is compared


def _versions() -> dict[str, str]:
    return {"lucid_maskrcnn": __version__, **{name: metadata.version(name) for name in ("lucid-dl", "numpy", "mlx")}}


def _variables(model: Module) -> dict[str, str]:
    return {
        f"model.{name}": f"{tuple(v.shape)} {dtype_name(v)}{' trained' if getattr(v, 'requires_grad', False) else ''}"
        for name, v in model.state_dict(keep_vars=True).items()
    }


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{before}{name}.") if nested else {f"{before}{name}": value}
    return flat


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = [*first, *(name for name in other if name not in first)]
    return [
        f"{name} is {_said(other, name)} and {_said(first, name)} there"
        for name in names
        if name not in _SILENT and first.get(name, ...) != other.get(name, ...)
    ]


def _said(values: Mapping[str, Any], name: str) -> str:
    return shown(values[name]) if name in values else "absent"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def _blas_threads() -> list[int]:
    return sorted({int(library["num_threads"]) for library in threadpool_info() if library["user_api"] == "blas"})
