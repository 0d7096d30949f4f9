"""All that a run is, beside its model: what a checkpoint holds, and what may differ when it is resumed."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from lucid.nn import Module

from ..config import ImageConfig, ModelConfig, config_from_version_0
from .checkpoints import read_arrays, read_header, write_checkpoint
from .ema import EMA
from .settings import TrainerSettings
from .sgd import SGD

__all__ = ["RunState", "changes", "describe", "load_state", "save_state", "taken_over"]

# Settings that may change on resume: the weights do not depend on them (on "processes" by rounding only).
_FREE = {"processes", "save_every", "keep_last", "eval_every", "keep_best", "patience"}
_MAY_GROW = ("steps", "minutes")
_CHOSEN_BY_DEFAULT = ("lr", "warmup")
# Names in checkpoints that earlier versions wrote, by the part of the header.
_RENAMED = {
    "settings": {"clip": "max_grad_norm", "settle": "freeze_bn_after", "settle_lr": "freeze_bn_lr_factor"},
    "state": {"settled": "bn_frozen", "figures": "metrics"},
}
_PARTS = ("image", "rpn", "heads", "backbone")  # of a model's configuration


@dataclass
class RunState:
    """Where a run is.

    Attributes
    ----------
    step, seconds : int, float
        Done so far, over all parts of the run.
    bn_frozen : bool
        Whether batch norm uses its running statistics by now.
    evaluated, metrics : int, dict
        The step of the last evaluation, and what it gave.
    best, best_step : float, int
        The highest figure of ``keep_best`` so far and its step.
    stale : int
        Evaluations since.
    """

    step: int = 0
    seconds: float = 0.0
    bn_frozen: bool = False
    evaluated: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int = 0
    stale: int = 0


# ------------------------------------------------------------------ in a file


def save_state(
    path: Path,
    model: Module,
    optimizer: SGD,
    ema: EMA | None,
    numbers: Mapping[str, Any],
    inspect: Callable[[str, np.ndarray], None],
) -> None:
    """Write a checkpoint; ``inspect`` sees each array before."""
    arrays = dict(_arrays(model, optimizer, ema))
    write_checkpoint(path, arrays, {**numbers, "ema_updates": ema.updates if ema else 0}, inspect)


def load_state(path: Path, model: Module, optimizer: SGD, ema: EMA | None) -> RunState:
    """Take a checkpoint over; return where its run was.

    Raises
    ------
    ValueError
        If it is of another model; this one stays as it is.
    """
    numbers, shapes = read_checkpoint_header(path)
    variables = model.state_dict(keep_vars=True)
    wanted = {f"model.{name}": tuple(variable.shape) for name, variable in variables.items()}
    held = {name: shape for name, shape in shapes.items() if name.startswith("model.")}
    if held != wanted:
        wrong = sorted(name for name in held | wanted if held.get(name) != wanted.get(name))[0]
        raise ValueError(
            f"{str(path)!r} is of another model: {wrong.removeprefix('model.')} has shape {held.get(wrong)} there, "
            f"{wanted.get(wrong)} here."
        )
    averages: dict[str, np.ndarray] = {}
    momenta: dict[str, np.ndarray] = {}
    for full_name, array in read_arrays(path):
        kind, _, name = full_name.partition(".")
        if kind == "model":
            # A new array, not new contents: what was computed from the old one is known to be stale.
            variables[name].data = mx.array(array) if variables[name].is_gpu() else array
        else:
            (averages if kind == "ema" else momenta)[name] = array
    names = _names(model)
    optimizer.momenta = [momenta.get(names[id(p)]) for p in optimizer.params]
    if ema is not None and averages:
        ema.load_state_dict(averages, numbers["ema_updates"])
    return RunState(**numbers["state"])


def read_checkpoint_header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Read a checkpoint's header; names that earlier versions wrote become those of today."""
    numbers, shapes = read_header(path)
    for part, names in _RENAMED.items():
        numbers[part] = {names.get(name, name): value for name, value in numbers[part].items()}
    return numbers, shapes


def _arrays(model: Module, optimizer: SGD, ema: EMA | None) -> Iterator[tuple[str, Any]]:
    for name, variable in model.state_dict(keep_vars=True).items():
        yield f"model.{name}", variable.data
    names = _names(model)
    for p, velocity in zip(optimizer.params, optimizer.momenta, strict=True):
        if velocity is not None:
            yield f"momentum.{names[id(p)]}", velocity
    for name, average in ema.averages.items() if ema else ():
        yield f"ema.{name}", average


def _names(model: Module) -> dict[int, str]:
    return {id(variable): name for name, variable in model.state_dict(keep_vars=True).items()}


# ------------------------------------------------------------------ the same run?


def describe(settings: TrainerSettings, loader: Any, model: Module, image_config: ImageConfig | None = None) -> Any:
    """Return what determines a run, as JSON values."""
    config = getattr(model, "config", None)
    if image_config is None and isinstance(config, ModelConfig):
        image_config = config.image
    described = {
        "settings": dataclasses.asdict(settings),
        "data": _describe_data(loader),
        "config": config.to_dict() if isinstance(config, ModelConfig) else {},
        "image_config": {f"image_config.{n}": v for n, v in image_config.to_dict().items()} if image_config else {},
        "machine": {"device": model.device, "numpy": np.__version__},
    }
    return json.loads(json.dumps(described))


def _describe_data(loader: Any) -> dict[str, Any]:
    """Return what determines the batches, as far as the loader tells."""
    told: dict[str, Any] = {"batch_size": loader.batch_size}
    told |= {n: getattr(loader, n) for n in ("seed", "shuffle", "group_by_shape") if hasattr(loader, n)}
    # A function's repr has its address, which says nothing in another process.
    told |= {n: re.sub(r" at 0x\w+", "", repr(getattr(loader, n))) for n in ("augment",) if hasattr(loader, n)}
    if getattr(loader, "sample_weights", None) is not None:
        told["sample_weights"] = zlib.crc32(np.asarray(loader.sample_weights, np.float64).tobytes())
    dataset = getattr(loader, "dataset", None)
    if dataset is not None:
        told["images"] = len(dataset)
        told["image_ids"] = zlib.crc32(json.dumps([str(i) for i in getattr(dataset, "image_ids", ())]).encode())
        told["categories"] = {str(label): name for label, name in getattr(dataset, "categories", {}).items()}
    return told


def taken_over(settings: TrainerSettings, path: Path) -> TrainerSettings:
    """Fill what ``settings`` leave to the default with what the run of a checkpoint began with."""
    before = read_checkpoint_header(path)[0]["settings"]
    return dataclasses.replace(settings, **{n: before[n] for n in _CHOSEN_BY_DEFAULT if getattr(settings, n) is None})


def changes(path: Path, now: Mapping[str, Any], *, allowed: bool) -> list[str]:
    """Return in words what is not as it was when the run of a checkpoint began.

    Parameters
    ----------
    path : Path
        The checkpoint.
    now : mapping
        What :func:`describe` returns.
    allowed : bool
        Whether it may make another run.

    Raises
    ------
    ValueError
        If it does and may not.
    """
    before = _as_described_now(read_checkpoint_header(path)[0], now)
    grave: list[str] = []  # what makes another run
    light: list[str] = []
    for part in ("settings", "data", "config", "image_config", "machine"):
        old, new = _flat(before[part]), _flat(now[part])
        for name in [*old, *(n for n in new if n not in old)]:
            was, is_ = old.get(name), new.get(name)
            if was == is_ or (part == "settings" and name in _FREE):
                continue
            grown = part == "settings" and name in _MAY_GROW and was is not None and is_ is not None and is_ > was
            (light if grown or part == "machine" else grave).append(_in_words(part, name, was, is_))
    if grave and not allowed:
        raise ValueError(
            f"The run in {str(path.parent)!r} cannot go on with other settings: {'; '.join(grave)}. Take the old ones, "
            "or begin in another folder, or allow changes."
        )
    return light + grave


def _as_described_now(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's description; those of version 0 had a factory's arguments in place of the configuration."""
    if "arguments" not in before:
        return dict(before)
    config = config_from_version_0(before["arguments"])
    known = {} if config is None else config.to_dict() | {"categories": now["config"].get("categories", [])}
    return {**before, "config": known, "image_config": now["image_config"]}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one, with dots in the names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value and name in _PARTS
        flat |= {f"{name}.{n}": v for n, v in value.items()} if nested else {name: value}
    return flat


def _in_words(part: str, name: str, was: Any, is_: Any) -> str:
    if part == "data" and name in ("image_ids", "sample_weights"):
        return f"the {name.replace('_', ' ')} of the data are others"
    return f"{name} was {was} and is {is_}"
