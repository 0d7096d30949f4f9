"""The state of a run in a checkpoint, and which settings may change when it is resumed."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lucid.nn import Module

from .. import ops
from ..config import ImageConfig, ModelConfig, config_from_version_0
from .checkpoints import StoredArray, has_checksum, read_arrays, read_header, write_checkpoint
from .ema import EMA
from .optimizer import Optimizer
from .run_state import RunState
from .saved_runs import check_arrays, check_header, check_values
from .settings import TrainerSettings

__all__ = ["changes", "chosen", "describe", "describe_data", "load_state", "save_state", "taken_over"]

# Settings that may change on resume: the weights do not depend on them (on "processes" by rounding only).
_FREE = {"processes", "save_every", "keep_last", "eval_every", "keep_best", "patience"}
_MAY_GROW = ("steps", "minutes")
_ADDED_SETTINGS = ("optimizer", "betas", "loss_weights", "class_weights")  # which earlier versions did not have
_CHOSEN_BY_DEFAULT = ("lr", "warmup")
# Names in checkpoints that earlier versions wrote, by the part of the header.
_RENAMED = {
    "settings": {"clip": "max_grad_norm", "settle": "freeze_bn_after", "settle_lr": "freeze_bn_lr_factor"},
    "state": {"settled": "bn_frozen", "figures": "metrics"},
}
_PARTS = ("image", "rpn", "heads", "backbone")  # of a model's configuration


# ------------------------------------------------------------------ in a file


def save_state(
    path: Path,
    model: Module,
    optimizer: Optimizer,
    ema: EMA | None,
    header: Mapping[str, Any],
    inspect: Callable[[str, np.ndarray], None],
) -> None:
    """Write a checkpoint; ``inspect`` is called with each array before."""
    arrays = dict(_arrays(model, optimizer, ema))
    header = {**header, "ema_updates": ema.updates if ema else 0}
    if optimizer.kind == "adamw":  # whose averages are corrected by the number of steps
        names = _names(model)
        header["optimizer_steps"] = {
            names[id(p)]: n for p, n in zip(optimizer.params, optimizer.counts, strict=True) if n
        }
    write_checkpoint(path, arrays, header, inspect)


def load_state(path: Path, model: Module, optimizer: Optimizer, ema: EMA | None) -> RunState:
    """Load a checkpoint into model, optimizer and averages, and return the state of its run.

    What another optimizer remembered is left out: this one begins anew.

    Raises
    ------
    ValueError
        If it is of another model or damaged; this model stays as it is.
    """
    header, stored = read_checkpoint_header(path)
    variables = model.state_dict(keep_vars=True)
    check_arrays(path, header, stored, variables)
    others: dict[str, dict[str, np.ndarray]] = {}
    for full_name, array in read_arrays(path):
        kind, _, name = full_name.partition(".")
        if kind == "model":
            # A new array, not new values in the old one: what was computed from that is recognized as stale.
            variables[name].data = ops.device_array(array, variables[name].device)
        else:
            others.setdefault(kind, {})[name] = array
    if header["settings"].get("optimizer", "sgd") == optimizer.kind:
        names = [_names(model)[id(p)] for p in optimizer.params]
        for slot in optimizer.slots:
            arrays = others.get(slot, {})
            optimizer._restore(slot, [arrays.get(name) for name in names])
        optimizer.counts = [header.get("optimizer_steps", {}).get(name, 0) for name in names]
    if ema is not None and "ema" in others:
        ema.restore(others["ema"], header["ema_updates"])
    return RunState(**header["state"])


def read_checkpoint_header(path: Path) -> tuple[dict[str, Any], dict[str, StoredArray]]:
    """Read a checkpoint's header, with today's names for those that earlier versions wrote, and check it."""
    header, stored = read_header(path)
    check_header(path, header)
    for part, names in _RENAMED.items():
        header[part] = {names.get(name, name): value for name, value in header[part].items()}
    header["state"].setdefault("metrics_before", {})  # which earlier versions did not measure
    check_values(path, header)
    return header, stored


def _arrays(model: Module, optimizer: Optimizer, ema: EMA | None) -> Iterator[tuple[str, Any]]:
    for name, variable in model.state_dict(keep_vars=True).items():
        yield f"model.{name}", variable.data
    names = _names(model)
    for slot, arrays in optimizer.slots.items():
        for p, array in zip(optimizer.params, arrays, strict=True):
            if array is not None:
                yield f"{slot}.{names[id(p)]}", array
    for name, average in ema.averages.items() if ema else ():
        yield f"ema.{name}", average


def _names(model: Module) -> dict[int, str]:
    return {id(variable): name for name, variable in model.state_dict(keep_vars=True).items()}


# ------------------------------------------------------------------ the same run?


def describe(
    settings: TrainerSettings, data: Mapping[str, Any], model: Module, image_config: ImageConfig | None = None
) -> Any:
    """Return all that determines a run, as JSON values; ``data`` is what :func:`describe_data` returns."""
    config = getattr(model, "config", None)
    if image_config is None and isinstance(config, ModelConfig):
        image_config = config.image
    described = {
        "settings": dataclasses.asdict(settings),
        "data": data,
        "config": config.to_dict() if isinstance(config, ModelConfig) else {},
        "image_config": {f"image_config.{n}": v for n, v in image_config.to_dict().items()} if image_config else {},
        "machine": {"device": model.device, "numpy": np.__version__},
    }
    return json.loads(json.dumps(described))


def describe_data(loader: Any) -> dict[str, Any]:
    """Return all that determines the batches, as far as the loader has attributes for it.

    It goes through all annotations, so it is called once a run and not at each checkpoint.
    """
    described: dict[str, Any] = {"batch_size": loader.batch_size}
    described |= {n: getattr(loader, n) for n in ("seed", "shuffle", "group_by_shape") if hasattr(loader, n)}
    # The repr of a function has its address, which differs from process to process.
    described |= {n: re.sub(r" at 0x\w+", "", repr(getattr(loader, n))) for n in ("augment",) if hasattr(loader, n)}
    for name in ("sample_weights", "repeat_factors"):
        if getattr(loader, name, None) is not None:
            described[name] = zlib.crc32(np.asarray(getattr(loader, name), np.float64).tobytes())
    dataset = getattr(loader, "dataset", None)
    if dataset is not None:
        described["images"] = len(dataset)
        described["image_ids"] = zlib.crc32(json.dumps([str(i) for i in getattr(dataset, "image_ids", ())]).encode())
        described["categories"] = {str(label): name for label, name in getattr(dataset, "categories", {}).items()}
        if callable(getattr(dataset, "coco", None)):
            described["annotations"] = zlib.crc32(json.dumps(dataset.coco()["annotations"], default=str).encode())
    return described


def taken_over(settings: TrainerSettings, path: Path) -> TrainerSettings:
    """Return settings whose defaults are replaced by what the run of a checkpoint began with."""
    before = read_checkpoint_header(path)[0]["settings"]
    if before.get("optimizer", "sgd") != settings.optimizer:  # whose learning rate would be another's
        return settings
    return dataclasses.replace(settings, **{n: before[n] for n in _CHOSEN_BY_DEFAULT if getattr(settings, n) is None})


def chosen(settings: TrainerSettings) -> dict[str, Any]:
    """Return those of the settings that :func:`taken_over` may change."""
    return {name: getattr(settings, name) for name in _CHOSEN_BY_DEFAULT}


def changes(path: Path, now: Mapping[str, Any], *, allowed: bool) -> list[str]:
    """Return the changes since the run of a checkpoint began, in words, and whether nothing could verify it.

    Parameters
    ----------
    path : Path
        The checkpoint.
    now : mapping
        What :func:`describe` returns.
    allowed : bool
        Whether changes are allowed on which the weights depend.

    Raises
    ------
    ValueError
        If there are such changes and they are not allowed.
    """
    before = _as_described_now(read_checkpoint_header(path)[0], now)
    fatal: list[str] = []  # changes on which the weights depend
    harmless = [] if has_checksum(path) else [f"{path.name} is of an earlier version without a checksum: not verified"]
    for part in ("settings", "data", "config", "image_config", "machine"):
        old, new = _flat(before[part]), _flat(now[part])
        for name in [*old, *(n for n in new if n not in old)]:
            was, is_ = old.get(name), new.get(name)
            if was == is_ or (part == "settings" and name in _FREE):
                continue
            grown = part == "settings" and name in _MAY_GROW and was is not None and is_ is not None and is_ > was
            (harmless if grown or part == "machine" else fatal).append(_in_words(part, name, was, is_))
    if fatal and not allowed:
        raise ValueError(
            f"The run in {str(path.parent)!r} cannot continue with other settings: {'; '.join(fatal)}. Restore them, "
            "start in another folder, or allow changes (allow_changes=True, --allow-changes)."
        )
    return harmless + fatal


def _as_described_now(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's description; those of version 0 had a factory's arguments in place of the configuration."""
    data = dict(before["data"])
    fields = TrainerSettings.__dataclass_fields__.values()
    earlier = {f.name: f.default for f in fields if f.name in _ADDED_SETTINGS}
    before = {**before, "settings": json.loads(json.dumps(earlier)) | before["settings"]}
    if "annotations" in now["data"]:  # which earlier versions did not record
        data.setdefault("annotations", now["data"]["annotations"])
    if "arguments" not in before:
        config = before["config"] and json.loads(json.dumps(ModelConfig.from_dict(before["config"]).to_dict()))
        return {**before, "data": data, "config": config}
    if isinstance(data.get("augment"), str):
        renamed = data["augment"].replace("ImageSettings(", "ImageConfig(")
        data["augment"] = re.sub(r"\bcrop=(\d+)", r"crop=(\1, \1)", renamed)
    config = _config_as_described_now(before["arguments"], now["config"])
    return {**before, "data": data, "config": config, "image_config": now["image_config"]}


def _config_as_described_now(arguments: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in a header of version 0; what it leaves at the default may not have been recorded."""
    config = config_from_version_0(arguments)
    default = config_from_version_0({"depth": arguments.get("depth")})
    if config is None or default is None:
        return dict(now)
    defaults = _flat(default.to_dict())
    recorded = {name: v for name, v in _flat(config.to_dict()).items() if v != defaults[name]}
    return {**_flat(now), **json.loads(json.dumps(recorded))}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one, with dots in the names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value and name in _PARTS
        flat |= {f"{name}.{n}": v for n, v in value.items()} if nested else {name: value}
    return flat


def _in_words(part: str, name: str, was: Any, is_: Any) -> str:
    if part == "data" and name in ("image_ids", "sample_weights", "repeat_factors"):
        return f"the {name.replace('_', ' ')} of the data have changed"
    return f"{name} was {was} and is {is_}"
