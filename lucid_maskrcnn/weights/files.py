"""Weights in safetensors files, with all that is needed to build their model in the header."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lucid.nn as nn
import numpy as np

from ..files import replacing
from .assign import assign

__all__ = ["SHIPPED", "WeightsFile", "find_weights", "load_weights", "read_safetensors", "save_weights"]

SHIPPED = {"NUCLEI": "nuclei_resnet18_fpn.safetensors"}
_FORMAT = "lucid_maskrcnn"


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes
    ----------
    arrays : dict of str to np.ndarray
        Under the names of ``state_dict``, or another library's.
    arguments : dict
        Of the factory that builds the model; empty in files of others.
    categories : dict of int to str
        Names of the labels.
    metadata : dict of str to str
        All that the header says: licence, figures, …
    """

    arrays: dict[str, np.ndarray]
    arguments: dict[str, Any] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def find_weights(weights: str | Path) -> Path:
    """Return the file of weights called ``weights``: a shipped name or a path.

    Raises
    ------
    FileNotFoundError
        If there is neither.
    """
    if str(weights) in SHIPPED:
        return Path(__file__).resolve().parent.parent / "assets" / SHIPPED[str(weights)]
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights must be one of {', '.join(map(repr, SHIPPED))} or the path of a .safetensors file; there is no "
            f"file {str(path)!r}."
        )
    return path


def read_safetensors(weights: str | Path) -> WeightsFile:
    """Read a file of weights, or shipped weights by their name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a safetensors file.
    """
    import safetensors  # here, as most models are built without a file
    from safetensors.numpy import load_file

    path = find_weights(weights)
    try:
        arrays = load_file(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        arguments = json.loads(metadata.get("arguments", "{}"))
        categories = {int(k): str(v) for k, v in json.loads(metadata.get("categories", "{}")).items()}
    except (
        safetensors.SafetensorError,
        struct.error,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
    ) as error:
        raise ValueError(f"{str(path)!r} is not a readable .safetensors file: {error}.") from error
    return WeightsFile(arrays, arguments, categories, metadata)


def load_weights(model: nn.Module, weights: str | Path) -> None:
    """Load a file written by :func:`save_weights` into a model of the same architecture.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it does not fit; the model is left as it was.
    """
    assign(model, read_safetensors(weights).arrays)


def save_weights(
    model: nn.Module,
    path: str | Path,
    *,
    arguments: Mapping[str, Any] | None = None,
    categories: Mapping[int, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: str = "float32",
) -> None:
    """Write a model's weights, whole or not at all.

    Parameters
    ----------
    model : nn.Module
        On either device.
    path : str or Path
        An existing file is replaced once the new one is complete.
    arguments : mapping, optional
        Keyword arguments, JSON values, with which the factory builds this architecture.
    categories : mapping of int to str, optional
        Names of the labels.
    metadata : mapping of str to str, optional
        More for the header: licence, figures, source.
    dtype : {"float32", "float16"}
        Element type of matrices and filters; float16 halves the file and keeps about three decimal digits.
        Vectors stay float32: a running variance may be beyond what float16 holds.

    Raises
    ------
    ValueError
        If ``dtype`` is another.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}.")
    from safetensors.numpy import save

    header = {
        **(metadata or {}),
        "format": _FORMAT,
        "arguments": json.dumps(dict(arguments or {})),
        "categories": json.dumps({str(k): v for k, v in (categories or {}).items()}),
    }
    arrays = {
        name: np.ascontiguousarray(array, dtype if array.ndim > 1 else "float32")
        for name, array in model.state_dict().items()
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(save(arrays, metadata=header))
