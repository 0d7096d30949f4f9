"""Files of weights: reading any library's, and writing safetensors with the model's configuration in the header."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lucid.nn as nn
import numpy as np

from ..atomic import replacing
from ..config import TORCHVISION, ModelConfig, architecture_of, config_from_version_0, conventions_of
from ..validators import choice, instance
from .assign import as_arrays, assign
from .categories import CATEGORIES
from .layouts import Body, Translated, torchvision_arrays, translate, translate_body
from .naming import Naming
from .registry import PublishedWeights, identify, identify_by_hash
from .sources import locate

if TYPE_CHECKING:
    from .formats.checkpoint_file import Checkpoint

__all__ = [
    "WeightsFile",
    "find_backbone",
    "load_backbone",
    "load_weights",
    "read_weights_file",
    "save_weights",
    "write_converted",
]

_FORMAT = "lucid_maskrcnn"
_DTYPES = ("float32", "float16")
_UNUSED = "unused."  # in front of what only another library has a place for


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes
    ----------
    arrays : dict of str to array
        Under the names of ``state_dict``; ``np.asarray`` reads those that are still in the file.
    config : ModelConfig or None
        None where neither the header nor names and shapes tell which model it is.
    metadata : dict of str to str
        What is known of the weights: licence, metrics, …
    source : str
        Whose names they had: ``"lucid_maskrcnn"``, ``"torchvision"``, ``"detectron2"`` or ``"Detectron"``.
    kind : str
        Of the file: ``"safetensors"``, ``"torch"``, ``"torch legacy"`` or ``"pickle"``.
    unused : dict of str to array
        Entries under their own names that only the other library has a place for.
    naming : Naming or None
        From this package's names back to the source's; None for this package's own.
    """

    arrays: dict[str, Any]
    config: ModelConfig | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    source: str = _FORMAT
    kind: str = "safetensors"
    unused: dict[str, Any] = field(default_factory=dict)
    naming: Naming | None = None


# ------------------------------------------------------------------ reading


def read_weights_file(path: str | Path) -> WeightsFile:
    """Read the weights of a Mask R-CNN, whichever library wrote them.

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
    from .formats import open_checkpoint  # here, as most models are built without a file

    checkpoint = open_checkpoint(path)
    arrays = {n: a for n, a in checkpoint.arrays.items() if not n.startswith(_UNUSED)}
    found = translate(arrays, repr(str(path)))
    kept = {n.removeprefix(_UNUSED): a for n, a in checkpoint.arrays.items() if n.startswith(_UNUSED)}
    metadata = dict(checkpoint.metadata)
    if "figures" in metadata:  # what version 0 called them
        metadata.setdefault("metrics", metadata.pop("figures"))
    config = _read_config(metadata, path)
    if config is None and found.config is not None:
        config = found.config
        published = identify(path) or _identify_by_content(checkpoint, found)
        if published is not None:
            config, metadata = _as_published(published, config, metadata)
    unused = found.unused | kept
    return WeightsFile(found.arrays, config, metadata, found.source, checkpoint.kind, unused, found.naming)


def _read_config(metadata: dict[str, str], path: str | Path) -> ModelConfig | None:
    """Take the configuration out of a header's entries; None if there is none."""
    entries = {key: metadata.pop(key) for key in ("config", "arguments", "categories") if key in metadata}
    if not entries:
        return None
    try:
        values = {key: json.loads(text) for key, text in entries.items()}
        if "config" in values:
            return ModelConfig.from_dict(values["config"])
        categories = {int(label): name for label, name in dict(values.get("categories", {})).items()}
        return config_from_version_0(dict(values.get("arguments", {})), categories)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} has a header that is no configuration of a model: {error}") from error


def _identify_by_content(checkpoint: Checkpoint, found: Translated) -> PublishedWeights | None:
    """Return the published weights that a file is, by its hash; only those are hashed that might be published.

    It matters for more than names: torchvision's first weights want another epsilon than all others, and
    nothing in the file but its hash tells.
    """
    assert found.config is not None
    if found.source == "torchvision" and found.config.num_classes == 90 and checkpoint.kind != "safetensors":
        return identify_by_hash(checkpoint.path)
    return None


def _as_published(
    published: PublishedWeights, config: ModelConfig, metadata: Mapping[str, str]
) -> tuple[ModelConfig, dict[str, str]]:
    """Return configuration and metadata with what is known of published weights."""
    names = CATEGORIES[published.categories] if published.categories else None
    facts = {
        "name": published.name,
        "licence": published.licence,
        "dataset": published.dataset,
        "metrics": json.dumps(published.metrics),
        "source": published.source,
    }
    return config.changed(norm_eps=published.norm_eps, categories=names), {**metadata, **facts}


def find_backbone(weights: Mapping[str, Any] | str | Path, architecture: str) -> Body:
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
        As for :func:`read_weights_file` and :func:`locate`.
    """
    if not isinstance(weights, (str, Path)):
        return translate_body(as_arrays(weights), "weights_backbone")
    from .formats import open_checkpoint

    path = locate(weights, architecture)
    return translate_body(open_checkpoint(path).arrays, repr(str(path)))


def load_weights(model: nn.Module, weights: Mapping[str, Any] | str | Path) -> None:
    """Load weights into a model of the same architecture.

    Parameters
    ----------
    model : MaskRCNN
        With as many classes as the weights have, background not counted. Left as it was if anything does not fit.
    weights : str, Path or mapping of str to array
        A name that :func:`list_weights` knows, a file that ``weights=`` of the factories takes, or arrays under the
        names of this package, torchvision, detectron2 or Detectron. Counters of batch norm, and rows of the background
        that nothing reads, are left out; detectron2's class-agnostic layers are repeated for every class.

    Warns
    -----
    UserWarning
        If the weights were trained with detectron2's conventions and the model has torchvision's, or the other way
        round: the detections are wrong then.

    Raises
    ------
    TypeError
        If an argument is something else.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or entries are missing, unexpected or mis-shaped: the message lists them by the names
        that they have in ``weights``.
    """
    instance("model", model, nn.Module, "a model")
    config = getattr(model, "config", None)
    if isinstance(weights, Mapping):
        found = translate(as_arrays(weights), "weights")
        of_weights, arrays, naming = found.config, found.arrays, found.naming
    else:
        instance("weights", weights, (str, Path), "a name, the path of a file or a mapping of names to arrays")
        architecture = architecture_of(config) if isinstance(config, ModelConfig) else None
        file = read_weights_file(locate(weights, architecture))
        of_weights, arrays, naming = file.config, file.arrays, file.naming
    _warn_of_other_conventions(config, of_weights)
    own_names = model.state_dict(keep_vars=True)
    assign(model, arrays, names=None if naming is None else {name: naming.theirs(name) for name in own_names})


def _warn_of_other_conventions(config: Any, of_weights: ModelConfig | None) -> None:
    if of_weights is None or not isinstance(config, ModelConfig):
        return
    wanted, present = conventions_of(of_weights)[0].name, conventions_of(config)[0].name
    if wanted != present:
        warnings.warn(
            f"The weights were trained with {wanted}'s conventions and the model has {present}'s: build it with "
            f"conventions={wanted!r}, or its detections are wrong.",
            UserWarning,
            stacklevel=3,
        )


def load_backbone(model: nn.Module, weights: Mapping[str, Any] | str | Path) -> None:
    """Load the weights of a ResNet into the body of ``model.backbone``.

    Parameters
    ----------
    model : MaskRCNN
        With a ResNet-FPN backbone of the same depth.
    weights : str, Path or mapping of str to array
        Of a classifier, whose last layer is left out, or of a detector, of which only the body is taken: as
        ``weights_backbone=`` of the factories.

    Raises
    ------
    TypeError, FileNotFoundError, ValueError
        As for :func:`load_weights`; if the backbone is none of this package's.
    """
    body = getattr(getattr(model, "backbone", None), "body", None)
    config = getattr(model, "config", None)
    if not isinstance(body, nn.Module) or not isinstance(config, ModelConfig) or config.backbone is None:
        raise TypeError("model must be a MaskRCNN on a ResNet-FPN of this package, whose body can be loaded.")
    assign(body, find_backbone(weights, f"resnet{config.backbone.depth}").arrays)


# ------------------------------------------------------------------ writing


def save_weights(
    model: nn.Module,
    path: str | Path,
    *,
    config: ModelConfig | None = None,
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
    config : ModelConfig, optional
        What builds the model again; by default its own.
    metadata : mapping of str to str, optional
        More for the header: licence, metrics, source.
    dtype : {"float32", "float16"}
        Element type of matrices and filters; float16 halves the file and keeps about three decimal digits.
        Vectors stay float32: a running variance may be beyond what float16 holds.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    instance("model", model, nn.Module, "a model")
    choice("dtype", dtype, _DTYPES)
    if config is None:
        config = getattr(model, "config", None)
    _write(path, model.state_dict(), config, metadata or {}, dtype)


def write_converted(weights: WeightsFile, path: str | Path, *, to: str = _FORMAT, dtype: str = "float32") -> None:
    """Write weights that were read from any file as safetensors, whole or not at all.

    Nothing is lost: what only another library has a place for goes along, and comes back.

    Parameters
    ----------
    weights : WeightsFile
        What :func:`read_weights_file` returned.
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
    choice("dtype", dtype, _DTYPES)
    choice("to", to, (_FORMAT, "torchvision"))
    if to == "torchvision":
        _require_torchvisions(weights.config)
        arrays = torchvision_arrays(weights.arrays, weights.unused)
    else:
        arrays = weights.arrays | {_UNUSED + name: array for name, array in weights.unused.items()}
    _write(path, arrays, weights.config, {**weights.metadata, "format": to}, dtype)


def _require_torchvisions(config: ModelConfig | None) -> None:
    if config is None:
        return
    strided = config.backbone is not None and config.backbone.stride_in_1x1
    if conventions_of(config)[0] is not TORCHVISION or strided or config.heads.aligned:
        raise ValueError(
            "to='torchvision' is for weights of torchvision's conventions: these follow detectron2's in their "
            "strides, input or pooling, which torchvision's model does not have."
        )


def _write(
    path: str | Path,
    arrays: Mapping[str, Any],
    config: ModelConfig | None,
    metadata: Mapping[str, str],
    dtype: str,
) -> None:
    from safetensors.numpy import save

    header = {"format": _FORMAT, **metadata}
    if config is not None:
        header["config"] = json.dumps(config.to_dict())
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(save({name: _stored(array, dtype) for name, array in arrays.items()}, metadata=header))


def _stored(array: Any, dtype: str) -> np.ndarray:
    """Return an array as it is written: matrices in ``dtype``, other floats in float32, counters as they are."""
    array = np.asarray(array)
    kept = array.dtype if array.dtype.kind != "f" else np.dtype(dtype if array.ndim > 1 else "float32")
    return np.asarray(array, kept, order="C")  # ascontiguousarray would give a counter an axis
