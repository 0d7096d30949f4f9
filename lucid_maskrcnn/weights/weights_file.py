"""Files of weights: reading anybody's, and writing safetensors with all that builds the model in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lucid.nn as nn
import numpy as np

from ..atomic import replacing
from .assign import as_arrays, assign
from .categories import CATEGORIES
from .layouts import Translated, torchvision_arrays, translate, translate_body
from .registry import PublishedWeights, identify, identify_by_hash
from .sources import locate

if TYPE_CHECKING:
    from .formats.checkpoint_file import Checkpoint

__all__ = [
    "WeightsFile",
    "find_backbone",
    "load_weights",
    "read_weights",
    "save_weights",
    "write_converted",
]

_FORMAT = "lucid_maskrcnn"
_UNUSED = "unused."  # in front of what only another library has a place for


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes
    ----------
    arrays : dict of str to array
        Under the names of ``state_dict``; ``np.asarray`` reads those that are still in the file.
    arguments : dict
        Of the factory that builds the model; without ``"depth"`` where the file does not say.
    categories : dict of int to str
        Names of the labels.
    metadata : dict of str to str
        What is known of the weights: licence, figures, …
    source : str
        Whose names they had: ``"lucid_maskrcnn"``, ``"torchvision"``, ``"detectron2"`` or ``"Detectron"``.
    kind : str
        Of the file: ``"safetensors"``, ``"torch"``, ``"torch legacy"`` or ``"pickle"``.
    unused : dict of str to array
        Entries under their own names that only the other library has a place for.
    """

    arrays: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    source: str = _FORMAT
    kind: str = "safetensors"
    unused: dict[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------ reading


def read_weights(path: str | Path) -> WeightsFile:
    """Read the weights of a Mask R-CNN, whoever wrote them.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, torch's ``.pth`` in either form, or a ``.pkl`` of detectron2 or Detectron, under the
        names of this package, torchvision, detectron2 or Detectron. The content counts, not the ending.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, asks for anything but arrays, or holds something else.
    """
    from .formats.checkpoint_file import open_checkpoint  # here, as most models are built without a file

    checkpoint = open_checkpoint(path)
    arrays = {n: a for n, a in checkpoint.arrays.items() if not n.startswith(_UNUSED)}
    found = translate(arrays, repr(str(path)))
    kept = {n.removeprefix(_UNUSED): a for n, a in checkpoint.arrays.items() if n.startswith(_UNUSED)}
    metadata = dict(checkpoint.metadata)
    arguments, categories = _header(metadata, path)
    if not arguments and found.source != _FORMAT:
        arguments = found.arguments
        published = identify(path) or _identify_by_content(checkpoint, found)
        if published is not None:
            arguments, categories, metadata = _as_published(published, arguments, metadata)
    return WeightsFile(
        found.arrays, arguments, categories, metadata, found.source, checkpoint.kind, found.unused | kept
    )


def _header(metadata: Mapping[str, str], path: str | Path) -> tuple[dict[str, Any], dict[int, str]]:
    try:
        arguments = dict(json.loads(metadata.get("arguments", "{}")))
        categories = {int(k): str(v) for k, v in json.loads(metadata.get("categories", "{}")).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} has a header whose arguments or categories are not JSON objects.") from error
    return arguments, categories


def _identify_by_content(checkpoint: Checkpoint, found: Translated) -> PublishedWeights | None:
    """Return what a file is by its hash; only those are hashed that might be published.

    It matters for more than names: torchvision's first weights want another epsilon than all others, and
    nothing in the file but the file itself tells.
    """
    if found.source == "torchvision" and found.arguments["num_classes"] == 90 and checkpoint.kind != "safetensors":
        return identify_by_hash(checkpoint.path)
    return None


def _as_published(
    published: PublishedWeights, arguments: Mapping[str, Any], metadata: Mapping[str, str]
) -> tuple[dict[str, Any], dict[int, str], dict[str, str]]:
    """Return arguments, categories and metadata with what is known of published weights."""
    known = {} if published.norm_eps == 1e-5 else {"norm_eps": published.norm_eps}
    categories = CATEGORIES[published.categories] if published.categories else {}
    facts = {
        "name": published.name,
        "licence": published.licence,
        "dataset": published.dataset,
        "figures": json.dumps(published.metrics),
        "source": published.source,
    }
    return {**arguments, **known}, categories, {**metadata, **facts}


def find_backbone(weights: Mapping[str, Any] | str | Path, architecture: str) -> Translated:
    """Read the weights of a ResNet: a classifier's, or the body of a detector.

    Parameters
    ----------
    weights : mapping, str or Path
        Arrays, the name of published weights, which are downloaded if need be, or a file.
    architecture : str
        Whose the name is: ``"resnet50"``, …

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As for :func:`read_weights` and :func:`locate`.
    """
    if not isinstance(weights, (str, Path)):
        return translate_body(as_arrays(weights), "weights_backbone")
    from .formats.checkpoint_file import open_checkpoint

    path = locate(weights, architecture)
    return translate_body(open_checkpoint(path).arrays, repr(str(path)))


def load_weights(model: nn.Module, weights: str | Path) -> None:
    """Load a file that :func:`read_weights` reads into a model of the same architecture.

    The file's settings are not looked at: detectron2's weights want a model of its conventions.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it does not fit; the model is left as it was.
    """
    assign(model, read_weights(weights).arrays)


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
        Keyword arguments, JSON values, with which the factory builds this architecture; by default those that it
        was built with.
    categories : mapping of int to str, optional
        Names of the labels; by default the model's.
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
    _check_dtype(dtype)
    if arguments is None:
        arguments = getattr(model, "arguments", None) or {}
    if categories is None:
        categories = getattr(model, "categories", None) or {}
    _write(path, model.state_dict(), arguments, categories, metadata or {}, dtype)


def write_converted(weights: WeightsFile, path: str | Path, *, to: str = _FORMAT, dtype: str = "float32") -> None:
    """Write weights that were read from any file as safetensors, whole or not at all.

    Nothing is lost: what only another library has a place for goes along, and comes back.

    Parameters
    ----------
    weights : WeightsFile
        What :func:`read_weights` returned.
    path : str or Path
        An existing file is replaced once the new one is complete.
    to : {"lucid_maskrcnn", "torchvision"}
        Whose names they get.
    dtype : {"float32", "float16"}
        As for :func:`save_weights`.

    Raises
    ------
    ValueError
        If an argument is another, or torchvision has no such model: it strides and pools otherwise than detectron2.
    """
    _check_dtype(dtype)
    if to == "torchvision":
        arguments = weights.arguments
        conventions = arguments.get("conventions", "torchvision")
        aligned = arguments.get("heads", {}).get("aligned")
        if conventions != "torchvision" or arguments.get("stride_in_1x1") or aligned:
            raise ValueError(
                "to='torchvision' is for weights of torchvision's conventions: these follow detectron2's in their "
                "strides, input or pooling, which torchvision's model does not have."
            )
        arrays = torchvision_arrays(weights.arrays, weights.unused)
    elif to == _FORMAT:
        arrays = weights.arrays | {_UNUSED + name: array for name, array in weights.unused.items()}
    else:
        raise ValueError(f"to must be 'lucid_maskrcnn' or 'torchvision', got {to!r}.")
    _write(path, arrays, weights.arguments, weights.categories, {**weights.metadata, "format": to}, dtype)


def _check_dtype(dtype: str) -> None:
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}.")


def _write(
    path: str | Path,
    arrays: Mapping[str, Any],
    arguments: Mapping[str, Any],
    categories: Mapping[int, str],
    metadata: Mapping[str, str],
    dtype: str,
) -> None:
    from safetensors.numpy import save

    header = {
        "format": _FORMAT,
        **metadata,
        "arguments": json.dumps(dict(arguments)),
        "categories": json.dumps({str(k): v for k, v in categories.items()}),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(save({name: _stored(array, dtype) for name, array in arrays.items()}, metadata=header))


def _stored(array: Any, dtype: str) -> np.ndarray:
    """Return an array as it is written: matrices in ``dtype``, other floats in float32, counters as they are."""
    array = np.asarray(array)
    kept = array.dtype if array.dtype.kind != "f" else np.dtype(dtype if array.ndim > 1 else "float32")
    return np.asarray(array, kept, order="C")  # ascontiguousarray would give a counter an axis
