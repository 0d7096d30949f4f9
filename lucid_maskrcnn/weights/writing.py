"""Writing weights: as safetensors with the model's configuration in the header, and in the forms of other libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lucid.nn as nn
import numpy as np

from .. import validators
from ..atomic import replacing, replacing_together
from ..call_answers import answers_wrong_calls
from ..config import ModelConfig
from ..validators import choice, instance, shown
from .assign import check_values
from .detectron2_code import (
    check_for_detectron2,
    check_replaceable,
    config_file_of,
    detectron2_code,
    detectron2_yaml,
)
from .formats import write_numpy_pickle, write_safetensors, write_torch_zip
from .layouts import class_agnostic_layers, detectron2_arrays, torchvision_arrays
from .shape_checks import check_configuration
from .torchvision_code import check_for_torchvision, torchvision_code
from .weights_file import CONFIG_KEYS, FORMAT, UNUSED, WeightsFile

__all__ = ["FORMATS", "either_of", "has_suffix", "loading_code", "save_weights", "write_converted"]

_DTYPES = ("float32", "float16")
_SAFETENSORS = ".safetensors"
#: The libraries that files can be written for -> the suffixes of their files.
FORMATS: Mapping[str, tuple[str, ...]] = {
    FORMAT: (_SAFETENSORS,),
    "torchvision": (_SAFETENSORS, ".pth", ".pt"),
    "detectron2": (".pkl",),
}


@answers_wrong_calls
def save_weights(
    model: nn.Module,
    path: str | Path,
    *,
    config: ModelConfig | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: str = "float32",
) -> None:
    """Write a model's weights and configuration as safetensors; the file appears only once it is complete.

    Parameters
    ----------
    model : nn.Module
        On either device.
    path : str or Path
        Ends in ``.safetensors``. Missing folders are made; an existing file is replaced.
    config : ModelConfig, optional
        The configuration that builds this model; by default ``model.config``.
    metadata : mapping of str to str, optional
        Further entries of the header, such as licence, metrics and source.
    dtype : {"float32", "float16"}
        Element type of matrices and filters; float16 halves the file and keeps about three decimal digits.
        Vectors stay float32, as a running variance may exceed the range of float16.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or a weight is beyond the range of ``dtype``; nothing is written then.
    """
    instance("model", model, nn.Module, "a model")
    path = _checked_path(path, FORMAT)
    own = getattr(model, "config", None)
    own = own if isinstance(own, ModelConfig) else None
    if config is None:
        config = own
    else:
        instance("config", config, ModelConfig, "a ModelConfig or None")
        if own is not None and (config.num_classes, config.backbone) != (own.num_classes, own.backbone):
            raise ValueError("config must be of this model, got another num_classes or backbone than model.config has.")
    header = _checked_metadata({} if metadata is None else metadata)
    choice("dtype", dtype, _DTYPES)
    _write(path, model.state_dict(), _header(config, {"format": FORMAT, **header}), dtype)


@answers_wrong_calls
def write_converted(weights: WeightsFile, path: str | Path, *, to: str = FORMAT, dtype: str = "float32") -> None:
    """Write weights that were read from any file, for this package or another library.

    The file appears only once it is complete, and for detectron2 together with the configuration that builds the model
    there. Nothing of a model is lost: arrays that only another library has are kept, and restored when converting back;
    the configuration, names of categories and metadata travel in all forms.

    Parameters
    ----------
    weights : WeightsFile
        As :func:`read_weights_file` returns it.
    path : str or Path
        Ends in ``.safetensors``, for torchvision in ``.safetensors`` or ``.pth``, for detectron2 in ``.pkl``: beside
        it the configuration has the same name with ``.yaml``. Missing folders are made; an existing file is replaced,
        but for a ``.yaml`` file that this function has not written.
    to : {"lucid_maskrcnn", "torchvision", "detectron2"}
        The library. :func:`loading_code` returns the lines of Python that load the file there.
    dtype : {"float32", "float16"}
        As for :func:`save_weights`.

    Raises
    ------
    ValueError
        If an argument is not as above, the library cannot have such a model (the message names the settings), or a
        weight is NaN, infinite, absurdly large or beyond the range of ``dtype``; nothing is written then.
    FileExistsError
        If there is another ``.yaml`` file in the way.
    """
    instance("weights", weights, WeightsFile, "what read_weights_file() returns")
    choice("to", to, tuple(FORMATS))
    path = _checked_path(path, to)
    choice("dtype", dtype, _DTYPES)
    floating = {name: array for name, array in weights.arrays.items() if np.dtype(array.dtype).kind == "f"}
    check_values(floating, names=weights.own_names(floating), source="weights")
    if weights.config is not None and weights.config.backbone is not None:
        check_configuration(weights.config, weights.arrays)
    header = _header(weights.config, {**weights.metadata, "format": to})
    if to == "detectron2":
        _write_for_detectron2(path, weights, header, dtype)
    elif to == "torchvision":
        check_for_torchvision(weights.config)
        _write(path, torchvision_arrays(weights.arrays, weights.unused), header, dtype)
    else:
        unused = {UNUSED + name: array for name, array in weights.unused.items()}
        _write(path, weights.arrays | unused, header, dtype)


@answers_wrong_calls
def loading_code(weights: WeightsFile, path: str | Path, *, to: str = FORMAT) -> str:
    """Return the lines of Python that load a file of :func:`write_converted` in the library it was written for.

    They are complete: they import what they need, build the model with all its settings, and load its weights.

    Parameters
    ----------
    weights : WeightsFile
        What was written.
    path : str or Path
        Where.
    to : {"lucid_maskrcnn", "torchvision", "detectron2"}
        The library.

    Returns
    -------
    str
        Ends in a newline.

    Raises
    ------
    ValueError
        As for :func:`write_converted`.
    """
    instance("weights", weights, WeightsFile, "what read_weights_file() returns")
    choice("to", to, tuple(FORMATS))
    path = _checked_path(path, to)
    if to == "torchvision":
        return torchvision_code(check_for_torchvision(weights.config), path)
    if to == "detectron2":
        return detectron2_code(check_for_detectron2(weights.config), path)
    return f"from lucid_maskrcnn import MaskRCNN\n\nmodel = MaskRCNN.from_file({str(path)!r})\n"


# ------------------------------------------------------------------ arguments


def _checked_path(path: str | Path, to: str) -> Path:
    checked = validators.path("path", path)
    suffixes = FORMATS[to]
    if not has_suffix(checked, to):
        library = "" if to == FORMAT else f" for {to}"
        raise ValueError(
            f"path must end in {either_of(suffixes)}, the format that is written{library}, got {str(checked)!r}."
        )
    if checked.is_dir():
        raise ValueError(f"path must be a file, got the directory {str(checked)!r}.")
    return checked


def has_suffix(path: Path, to: str) -> bool:
    """Whether a file has a suffix of those for a library."""
    # detectron2 knows a pickle by its name, and by small letters alone.
    return (path.suffix if to == "detectron2" else path.suffix.lower()) in FORMATS[to]


def either_of(suffixes: Sequence[str]) -> str:
    """Return suffixes in words: ``".safetensors, .pth or .pt"``."""
    *others, last = suffixes
    return f"{', '.join(others)} or {last}" if others else last


def _checked_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    instance("metadata", metadata, Mapping, "a mapping of str to str")
    for key, value in metadata.items():
        instance("a key of metadata", key, str, "a string")
        instance(f"metadata[{key!r}]", value, str, "a string; json.dumps makes one of other values")
        for written in (key, value):
            if any("\ud800" <= character <= "\udfff" for character in written):
                raise ValueError(f"metadata[{key!r}] must be Unicode text, got {shown(written)}.")
        if key in CONFIG_KEYS:
            raise ValueError(f"metadata must not have the key {key!r}: config= writes the configuration.")
    return dict(metadata)


# ------------------------------------------------------------------ the file


def _header(config: ModelConfig | None, metadata: Mapping[str, str]) -> dict[str, str]:
    return {**metadata} if config is None else {**metadata, "config": json.dumps(config.to_dict())}


def _write(path: Path, arrays: Mapping[str, Any], header: dict[str, str], dtype: str) -> None:
    """Write one file, as safetensors or in PyTorch's form."""
    written = {name: _as_written(name, array, dtype) for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        if path.suffix.lower() == _SAFETENSORS:
            write_safetensors(file, written, header)
        else:
            write_torch_zip(file, written, header)


def _write_for_detectron2(path: Path, weights: WeightsFile, header: dict[str, str], dtype: str) -> None:
    """Write the pickle and the configuration beside it, both or none."""
    config = check_for_detectron2(weights.config)
    config_path = config_file_of(path)
    check_replaceable(config_path)
    arrays = detectron2_arrays(weights.arrays, weights.unused)
    written = {name: _as_written(name, array, dtype) for name, array in arrays.items()}
    text = detectron2_yaml(config, path, class_agnostic_layers(weights.arrays))
    author = header.get("__author__", FORMAT)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_together(path, config_path) as (file, config_file):
        write_numpy_pickle(file, written, author, header)
        config_file.write(text.encode("utf-8"))


def _as_written(name: str, array: Any, dtype: str) -> np.ndarray:
    """Return an array in the file's dtype: ``dtype`` for matrices, float32 for other floats, else its own."""
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return np.asarray(array, order="C")  # ascontiguousarray would give a counter an axis
    stored = np.dtype(dtype if array.ndim > 1 else "float32")
    with np.errstate(over="ignore"):
        written = np.asarray(array, stored, order="C")
    if stored.itemsize < array.dtype.itemsize:
        _check_range(name, array, written)
    return written


def _check_range(name: str, array: np.ndarray, written: np.ndarray) -> None:
    """Refuse an array that a narrower dtype cannot hold: some values become infinite, or most become zero."""
    wanted = f"dtype {str(written.dtype)!r} cannot hold {name}, which has"
    largest = array.flat[np.abs(array).argmax()] if array.size else 0
    if np.isinf(written).any() and not np.isinf(array).any():
        raise ValueError(f"{wanted} the value {largest:.4g}: use 'float32'.")
    smallest = np.finfo(written.dtype).smallest_normal
    if 0 < abs(largest) < smallest or np.count_nonzero(written) < np.count_nonzero(array) / 2:
        raise ValueError(f"{wanted} values that are mostly below {smallest:.2g}: use 'float32'.")
