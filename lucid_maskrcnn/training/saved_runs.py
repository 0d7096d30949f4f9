"""What a checkpoint must hold; a damaged one is refused before anything of the run is changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lucid.nn as nn
import numpy as np

from ..config import config_from_version_0
from ..ops import dtype_name
from ..validators import check_keywords, integer, non_negative_int, positive_number, shown
from .checkpoints import StoredArray, damaged, read_arrays, step_of
from .run_state import RunState
from .settings import TrainerSettings

__all__ = ["check_arrays", "check_header", "check_values"]

_SECTIONS = ("settings", "data", "machine", "state")
_CONFIGS = ("config", "image_config")
_OF_OPTIMIZER = {"momentum": "momentum", "squares": "mean square"}  # arrays, and what messages call them


# ------------------------------------------------------------------ the header


def check_header(path: Path, header: Mapping[str, Any]) -> None:
    """Raise ValueError if a section of a header is missing or is no mapping."""
    # Version 0 had a factory's arguments in place of the configuration.
    configs = ("arguments",) if "arguments" in header else _CONFIGS
    for name in (*_SECTIONS, *configs, "ema_updates"):
        if name not in header:
            raise damaged(path, f"its header has no {name!r}")
    for name in (*_SECTIONS, *configs):
        if not isinstance(header[name], Mapping):
            raise damaged(path, f"{name} must be a mapping, got {shown(header[name])}")


def check_values(path: Path, header: Mapping[str, Any]) -> None:
    """Raise ValueError if a value in the sections of a header is not what a run writes there."""
    try:
        _check_settings(header["settings"])
        state = _checked_state(header["state"])
        _check_steps(path, state, header)
        if "arguments" in header:
            config_from_version_0(header["arguments"])
    except (TypeError, ValueError, OverflowError) as error:
        raise damaged(path, str(error).removesuffix(".")) from error


def _check_settings(settings: Mapping[str, Any]) -> None:
    check_keywords("settings", settings, list(TrainerSettings.__dataclass_fields__))
    _require("settings", settings, ("lr", "warmup"))
    positive_number("lr", settings["lr"])  # a run fills in these two
    non_negative_int("warmup", settings["warmup"])
    TrainerSettings(**settings)


def _checked_state(state: Mapping[str, Any]) -> RunState:
    names = list(RunState.__dataclass_fields__)
    check_keywords("state", state, names)
    _require("state", state, names)
    return RunState(**state)


def _require(section: str, values: Mapping[str, Any], names: Any) -> None:
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{section} has no {missing[0]!r}")


def _check_steps(path: Path, state: RunState, header: Mapping[str, Any]) -> None:
    in_name = step_of(path)
    if in_name is not None and state.step != in_name:
        raise ValueError(f"step must be that of the file's name, {in_name}, got {state.step}")
    most = state.step if header["settings"].get("ema") is not None else 0
    non_negative_int("ema_updates", header["ema_updates"], most)
    if header["settings"].get("optimizer", "sgd") == "adamw":
        counts = header.get("optimizer_steps")
        if not isinstance(counts, Mapping):
            raise ValueError(f"optimizer_steps must be a mapping of names to steps, got {shown(counts)}")
        for name, count in counts.items():
            integer(f"optimizer_steps[{name!r}]", count, 1, state.step)


# ------------------------------------------------------------------ the arrays


def check_arrays(
    path: Path, header: Mapping[str, Any], stored: Mapping[str, StoredArray], variables: Mapping[str, Any]
) -> None:
    """Raise ValueError if the arrays are of another model, or are not what a run writes.

    Parameters
    ----------
    path : Path
        The checkpoint.
    header, stored : mapping
        Of the checkpoint.
    variables : mapping of str to Tensor
        Parameters and buffers of the model that continues.
    """
    _check_kinds(path, header, stored)
    _check_model(path, stored, variables)
    for full_name, array in stored.items():
        kind, _, name = full_name.partition(".")
        variable = variables[name]
        if kind in _OF_OPTIMIZER and isinstance(variable, nn.Buffer):
            raise damaged(path, f"{full_name} is the {_OF_OPTIMIZER[kind]} of a buffer")
        dtypes = _dtypes(kind, variable)
        if array.dtype not in dtypes:
            raise damaged(path, f"{full_name} must be {' or '.join(dtypes)}, got {array.dtype}")
    for full_name, values in read_arrays(path):
        if not np.isfinite(values).all():
            raise damaged(path, f"{full_name} is not finite")


def _check_kinds(path: Path, header: Mapping[str, Any], stored: Mapping[str, StoredArray]) -> None:
    """Check that the arrays of a file agree with each other, whatever the model is."""
    adamw = header["settings"].get("optimizer", "sgd") == "adamw"
    kinds = ("model", "momentum", "ema", *(("squares",) if adamw else ()))
    names: dict[str, set[str]] = {kind: set() for kind in kinds}
    for full_name, array in stored.items():
        kind, _, name = full_name.partition(".")
        of_model = stored.get(f"model.{name}")
        if kind not in names or of_model is None:
            raise damaged(path, f"it has an unknown array {full_name!r}")
        if array.shape != of_model.shape:
            raise damaged(path, f"{full_name} must have the shape of model.{name}, {of_model.shape}, got {array.shape}")
        names[kind].add(name)
    stepped = set(header["optimizer_steps"]) if adamw else set()
    for kind in ("momentum", "squares") if adamw else ():
        if names[kind] != stepped:
            name = min(names[kind] ^ stepped)
            raise damaged(path, f"it has no {_OF_OPTIMIZER[kind]} or no number of steps of {name!r}")
    averaged = names["model"] if header["settings"].get("ema") is not None else set()
    if names["ema"] != averaged:
        name = min(names["ema"] ^ averaged)
        problem = "an average of" if name in names["ema"] else "no average of"
        raise damaged(path, f"it has {problem} {name!r}")


def _check_model(path: Path, stored: Mapping[str, StoredArray], variables: Mapping[str, Any]) -> None:
    wanted = {f"model.{name}": tuple(variable.shape) for name, variable in variables.items()}
    held = {name: array.shape for name, array in stored.items() if name.startswith("model.")}
    if held != wanted:
        wrong = min(name for name in held | wanted if held.get(name) != wanted.get(name))
        raise ValueError(
            f"{str(path)!r} is of another model: {wrong.removeprefix('model.')} has shape {held.get(wrong)} there, "
            f"{wanted.get(wrong)} here. If it is the same model, the file is damaged: delete it to continue from the "
            "one before, if there is one."
        )


def _dtypes(kind: str, variable: Any) -> list[str]:
    """Return the dtypes that an array of a variable may have."""
    own = dtype_name(variable)
    if kind in _OF_OPTIMIZER and own != "float32":
        return [own, "float32"]  # what a resumed optimizer has
    if kind == "ema" and "float" not in own:
        return [own, "float32", "float64"]  # the average of integers
    return [own]
