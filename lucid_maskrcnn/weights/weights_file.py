"""Files of weights: reading any library's, and loading them into models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import lucid.nn as nn
import numpy as np

from ..call_answers import answers_wrong_calls
from ..config import BackboneConfig, ModelConfig, architecture_of, config_from_version_0, conventions_of
from ..json_text import parse_json
from ..reprs import fields_repr
from ..user_warnings import warn_user
from ..validators import flag, instance, shown, text
from .assign import as_arrays, assign
from .categories import CATEGORIES
from .detectron2_config import assumption, complete_config, with_unstated
from .detectron2_files import NotDetectron2Error, configs_beside
from .formats import Checkpoint, find_state_dict, open_checkpoint
from .layouts import Body, Translated, translate, translate_body
from .naming import Naming
from .registry import PublishedWeights, identify, identify_by_hash, locate

__all__ = [
    "WeightsFile",
    "find_backbone",
    "load_backbone",
    "load_weights",
    "read_weights_file",
    "warn_if_assumed",
]

FORMAT = "lucid_maskrcnn"  # the name of this package's own files in their headers
_MAX_BYTES = 2**31  # of a model; the largest published Mask R-CNN here has 250 MB
_MAX_HASHED = 2**30  # bytes of a file that may be a published one
UNUSED = "unused."  # prefix of arrays that only another library has
CONFIG_KEYS = ("config", "arguments", "categories")  # of a header; the last two are version 0
OF_DETECTRON = ("detectron2", "Detectron")  # sources whose conventions depend on a file beside them


@answers_wrong_calls
@dataclass(frozen=True)
class WeightsFile:
    """The content of a file of weights.

    Attributes
    ----------
    arrays : dict of str to array
        By the names of ``state_dict``; ``np.asarray`` reads those that are still in the file.
    config : ModelConfig or None
        None if neither the header nor names and shapes determine the model.
    metadata : dict of str to str
        Licence, metrics, data set, …
    source : str
        The library whose names the file has: ``"lucid_maskrcnn"``, ``"torchvision"``, ``"detectron2"`` or
        ``"Detectron"``.
    kind : str
        The file's format: ``"safetensors"``, ``"torch"``, ``"torch legacy"`` or ``"pickle"``.
    unused : dict of str to array
        Arrays that only the other library has, by its names.
    naming : Naming or None
        Translates this package's names into the source's; None if the names are this package's.
    place : str
        Where the weights stand in the file, such as ``"model_ema"`` or ``"state_dict (prefix model.)"``; empty if they
        are all that it holds.
    others : tuple of str
        The places of other weights in the file. Averaged weights (``ema``, ``teacher``, …) are chosen before others,
        then the usual name (``model``, ``state_dict``, …), then the first.
    size : int
        Of the file, or of all files of a model, in bytes.
    config_file : str
        The configuration of detectron2 that ``config`` was completed with; empty if there was none.
    assumed : bool
        Whether the settings that no shape shows are only assumed, to be those of detectron2's model zoo.
    """

    __repr__ = fields_repr

    arrays: dict[str, Any]
    config: ModelConfig | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    source: str = FORMAT
    kind: str = "safetensors"
    unused: dict[str, Any] = field(default_factory=dict)
    naming: Naming | None = None
    place: str = ""
    others: tuple[str, ...] = ()
    size: int = 0
    config_file: str = ""
    assumed: bool = False

    def own_names(self, names: Iterable[str]) -> dict[str, str] | None:
        """Return the file's names of entries by this package's; None if they are the same."""
        if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
            raise TypeError(f"names must be several names of entries, got {shown(names)}.")
        return None if self.naming is None else {name: self.naming.theirs(name) for name in names}


# ------------------------------------------------------------------ reading


def warn_if_assumed(file: WeightsFile, name: str) -> None:
    """Say which settings of a file are assumed, if any are; ``name`` is what the warning calls the weights."""
    if file.assumed:
        warn_user(assumption(name, file.source))


@answers_wrong_calls
def read_weights_file(path: str | Path, *, config: str | Path | None = None, find_config: bool = True) -> WeightsFile:
    """Read the weights of a Mask R-CNN, whichever library wrote them.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, PyTorch's ``.pth`` in the zip or legacy format, or a ``.pkl`` of detectron2 or
        Detectron, with the names of this package, torchvision, detectron2 or Detectron; or the ``.index.json`` of a
        model in several such files. The content decides which, not the file's name. Training checkpoints are read too,
        whatever else they hold: the weights are found in dicts, lists and whole modules, and behind any prefix.
    config : str or Path, optional
        The YAML of the detectron2 run that wrote the file. By default the ``config.yaml`` beside a file under
        detectron2's names, unless it is a published one. Nothing in it is executed.
    find_config : bool
        Whether that ``config.yaml`` is looked for.

    Warns
    -----
    UserWarning
        If the file holds several sets of weights: which one was chosen, by the rule at :class:`WeightsFile`. If the
        configuration has another score threshold than 0.05, as that is an argument of each call here.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If there is a configuration and PyYAML is not installed.
    ValueError
        If the file is damaged, has no Mask R-CNN, or has anything but arrays among its weights; if the configuration
        cannot be read, has a key that is not known or a value that cannot be built, or contradicts the weights.
    """
    flag("find_config", find_config)
    checkpoint = _opened(path)
    arrays = {n: a for n, a in checkpoint.arrays.items() if not n.startswith(UNUSED)}
    found = translate(arrays, repr(str(path)), checkpoint.left_out)
    kept = {n.removeprefix(UNUSED): a for n, a in checkpoint.arrays.items() if n.startswith(UNUSED)}
    metadata = dict(checkpoint.metadata)
    if "figures" in metadata:  # the key of version 0
        metadata.setdefault("metrics", metadata.pop("figures"))
    own = _read_config(metadata, path)
    if config is not None and found.source not in OF_DETECTRON:
        has = "a configuration in its header" if own is not None else f"{found.source}'s names"
        raise ValueError(
            f"config must be given for detectron2's weights alone, and {str(path)!r} has {has}: give settings as "
            "arguments."
        )
    if own is not None and config is not None:
        said = complete_config(found, checkpoint.arrays, checkpoint.path, config)
        completed = _Completed(with_unstated(said, own), metadata, str(config))
    elif own is not None or found.config is None:
        completed = _Completed(own, metadata)
    else:
        completed = _completed(checkpoint, found, metadata, config, find_config)
    return WeightsFile(
        found.arrays,
        completed.config,
        completed.metadata,
        found.source,
        checkpoint.kind,
        found.unused | kept,
        found.naming,
        checkpoint.place,
        checkpoint.others,
        checkpoint.size,
        completed.config_file,
        completed.assumed,
    )


class _Completed(NamedTuple):
    """What is known of weights beyond their names and shapes, and where it is from; see :class:`WeightsFile`."""

    config: ModelConfig | None
    metadata: dict[str, str]
    config_file: str = ""
    assumed: bool = False


def _completed(
    checkpoint: Checkpoint,
    found: Translated,
    metadata: dict[str, str],
    config: str | Path | None,
    find_config: bool,
) -> _Completed:
    """Return what is known of weights that do not say it themselves: they are published, or a YAML file says it."""
    path = checkpoint.path
    assert found.config is not None
    published = identify(path) or _identify_by_content(checkpoint, found)
    if published is not None:
        own, metadata = _as_published(published, found.config, metadata)
        found = replace(found, config=own)
    if config is not None:
        return _Completed(complete_config(found, checkpoint.arrays, path, config), metadata, str(config))
    if published is not None or found.source not in OF_DETECTRON:
        return _Completed(found.config, metadata)
    for beside in configs_beside(path) if find_config and found.source == "detectron2" else ():
        try:
            completed = complete_config(found, checkpoint.arrays, path, beside, beside=True)
            return _Completed(completed, metadata, str(beside))
        except NotDetectron2Error:
            continue  # of another program
    return _Completed(found.config, metadata, assumed=True)


def _opened(path: str | Path) -> Checkpoint:
    """Open a file; a warning says which weights were chosen if it holds several."""
    checkpoint = open_checkpoint(path)
    num_bytes = sum(array.nbytes for array in checkpoint.arrays.values())
    if num_bytes > _MAX_BYTES:
        raise ValueError(f"{str(path)!r} has {num_bytes / 1e9:.1f} GB of weights, more than any model needs.")
    if checkpoint.others:
        _warn_of_choice(repr(str(path)), checkpoint.place, checkpoint.others)
    return checkpoint


def _warn_of_choice(source: str, place: str, others: tuple[str, ...]) -> None:
    warn_user(
        f"{source} holds several sets of weights: {place or 'the outermost entries'} is used, not "
        f"{' or '.join(others[:4])}; to use another, save it alone."
    )


def _read_config(metadata: dict[str, str], path: str | Path) -> ModelConfig | None:
    """Take the configuration out of a header's entries; None if there is none."""
    entries = {key: metadata.pop(key) for key in CONFIG_KEYS if key in metadata}
    if not entries:
        return None
    try:
        values = {key: _json(key, text) for key, text in entries.items()}
        if "config" in values:
            return ModelConfig.from_dict(values["config"])
        named = instance("categories", values.get("categories", {}), Mapping, "a mapping of labels to names")
        categories = {int(label) if label.isdecimal() and len(label) < 10 else label: n for label, n in named.items()}
        arguments = instance("arguments", values.get("arguments", {}), Mapping, "a mapping of a factory's arguments")
        return config_from_version_0(arguments, categories)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} has a header whose configuration is not valid: {error}") from error


def _json(key: str, text: str) -> Any:
    try:
        return parse_json(key, text)
    except ValueError as error:  # a number of thousands of digits, or brackets in brackets
        raise ValueError(f"{key} must be JSON, got {shown(text)}.") from error


def _identify_by_content(checkpoint: Checkpoint, found: Translated) -> PublishedWeights | None:
    """Return the published weights whose hash a file has; only files that may be published are hashed.

    The answer decides more than names: torchvision's ``COCO_V1`` needs another epsilon than all others, and only the
    hash identifies it; and for detectron2's, settings are known of published files alone.
    """
    assert found.config is not None
    source, classes, kind = found.source, found.config.num_classes, checkpoint.kind
    may_be = (source == "torchvision" and classes == 90 and kind != "safetensors") or (
        source == "detectron2" and classes == 80 and kind == "pickle"
    )
    if may_be and checkpoint.size <= _MAX_HASHED:
        return identify_by_hash(checkpoint.path)
    return None


def _as_published(
    published: PublishedWeights, config: ModelConfig, metadata: Mapping[str, str]
) -> tuple[ModelConfig, dict[str, str]]:
    """Return configuration and metadata completed with those of the published weights."""
    names = CATEGORIES[published.categories] if published.categories else None
    facts = {
        "name": published.name,
        "licence": published.licence,
        "dataset": published.dataset,
        "metrics": json.dumps(published.metrics),
        "source": published.source,
    }
    return config.changed(norm_eps=published.norm_eps, categories=names), {**metadata, **facts}


@answers_wrong_calls
def find_backbone(weights: Mapping[str, Any] | str | Path, architecture: str, *, argument: str = "weights") -> Body:
    """Read the weights of a ResNet: of a classifier, or of a detector's body.

    Parameters
    ----------
    weights : mapping, str or Path
        Arrays by name, the name of published weights, which are downloaded if necessary, or a file.
    architecture : str
        The architecture to which a name belongs: ``"resnet50"``, …
    argument : str
        What messages call ``weights``.

    Raises
    ------
    TypeError, FileNotFoundError, ValueError, OSError
        As for :func:`read_weights_file` and :func:`locate`.
    """
    if not isinstance(weights, (str, Path)):
        return translate_body(_passed_arrays(weights, argument), argument)
    text(argument, str(weights))
    path = locate(weights, architecture)
    return translate_body(_opened(path).arrays, repr(str(path)))


def _passed_arrays(weights: Mapping[str, Any], argument: str) -> dict[str, Any]:
    """Return the arrays of a mapping without the prefix of their names; a warning says which of several were chosen."""
    nested = isinstance(weights, Mapping) and any(isinstance(value, Mapping) for value in weights.values())
    content = _converted(weights) if nested else as_arrays(weights, argument)
    if not content:
        return content
    found = find_state_dict(content)
    if found.others:
        _warn_of_choice(argument, found.place, found.others)
    return as_arrays(found.entries, argument) if nested else found.entries


def _converted(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings, such as a checkpoint's, with arrays of other libraries as NumPy's; all else stays."""
    converted: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            converted[str(key)] = _converted(value)
        else:
            converted[str(key)] = np.asarray(value) if hasattr(value, "__array__") else value
    return converted


@answers_wrong_calls
def load_weights(model: nn.Module, weights: Mapping[str, Any] | str | Path) -> None:
    """Load weights into a model of the same architecture.

    Parameters
    ----------
    model : MaskRCNN
        With as many classes as the weights have, background not counted. Unchanged if anything does not fit. Batch
        norm becomes constant, as with ``weights=``, if a factory made it live for want of weights.
    weights : str, Path or mapping of str to array
        A name that :func:`list_weights` has, a file that ``weights=`` of the factories takes, or arrays by the names
        of this package, torchvision, detectron2 or Detectron, also within a checkpoint's mapping. Counters of batch
        norm, and unused rows of the background, are ignored; detectron2's class-agnostic layers are repeated for every
        class.

    Warns
    -----
    UserWarning
        If the weights were trained with detectron2's conventions and the model has torchvision's, or vice versa, as
        the detections are wrong then; or with other settings, as the ``config.yaml`` beside a checkpoint of detectron2
        says.

    Raises
    ------
    TypeError
        If an argument has another type.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or entries are missing, unexpected, of other shapes, or have values that no training can
        have made (NaN, infinite, absurdly large, a negative variance); the message lists them by their names in
        ``weights``.
    """
    instance("model", model, nn.Module, "a model")
    config = getattr(model, "config", None)
    if isinstance(weights, Mapping):
        found = translate(_passed_arrays(weights, "weights"), "weights")
        file = WeightsFile(found.arrays, found.config, naming=found.naming)
        source = "These weights"
    else:
        instance("weights", weights, (str, Path), "a name, the path of a file or a mapping of names to arrays")
        architecture = architecture_of(config) if isinstance(config, ModelConfig) else None
        file = read_weights_file(locate(weights, architecture))
        source = f"weights {str(weights)!r}"
    _warn_of_other_conventions(config, file.config)
    if file.config_file and isinstance(config, ModelConfig) and file.config is not None:
        _warn_of_other_settings(config, file.config, file.config_file)
    names = file.own_names([*model.state_dict(keep_vars=True), *file.arrays])
    assign(model, file.arrays, names=names, source=source)
    if getattr(model, "norm_by_default", False):
        model.freeze_norms(norm_eps=_epsilon(config, file.config))
    if isinstance(config, ModelConfig):
        model.pretrained = True


def _epsilon(config: Any, of_weights: ModelConfig | None) -> float | None:
    """Return the epsilon that weights were trained with, None if that is unknown or the model was given another."""
    if of_weights is None or of_weights.backbone is None or not isinstance(config, ModelConfig):
        return None
    unasked = config.backbone is not None and config.backbone.norm_eps == BackboneConfig().norm_eps
    return of_weights.backbone.norm_eps if unasked else None


def _warn_of_other_conventions(config: Any, of_weights: ModelConfig | None) -> None:
    if of_weights is None or not isinstance(config, ModelConfig):
        return
    wanted, present = conventions_of(of_weights)[0].name, conventions_of(config)[0].name
    if wanted != present:
        warn_user(
            f"The weights were trained with {wanted}'s conventions and the model has {present}'s: build it with "
            f"conventions={wanted!r}, or its detections are wrong."
        )


# What weights of detectron2 are trained for, beside the conventions.
_TRAINED_FOR = (
    *("image.bgr", "image.pixel_mean", "image.pixel_std", "backbone.stride_in_1x1", "anchor_sizes", "aspect_ratios"),
    *("heads.box_weights", "heads.aligned", "heads.sampling_ratio", "mask_pool_size", "pooled_levels"),
)


def _warn_of_other_settings(config: ModelConfig, of_weights: ModelConfig, config_file: str) -> None:
    if config.backbone is None:
        return
    pairs = [(field, attrgetter(field)(of_weights), attrgetter(field)(config)) for field in _TRAINED_FOR]
    differing = [f"{field}={wanted!r}, not {present!r}" for field, wanted, present in pairs if wanted != present]
    if differing:
        warn_user(
            f"The weights were trained with other settings than the model has, as {config_file!r} says: "
            f"{'; '.join(differing)}. MaskRCNN.from_file() builds the model that they belong to."
        )


@answers_wrong_calls
def load_backbone(model: nn.Module, weights: Mapping[str, Any] | str | Path) -> None:
    """Load the weights of a ResNet into the body of ``model.backbone``.

    Parameters
    ----------
    model : MaskRCNN
        With a ResNet-FPN backbone of the same depth. Its batch norm becomes constant, as with ``weights_backbone=``,
        if a factory made it live for want of weights.
    weights : str, Path or mapping of str to array
        Of a classifier, whose last layer is ignored, or of a detector, of which only the body is used: as
        ``weights_backbone=`` of the factories.

    Raises
    ------
    TypeError, FileNotFoundError, ValueError
        As for :func:`load_weights`; ``TypeError`` also if the backbone is not a ResNet-FPN of this package.
    """
    body = getattr(getattr(model, "backbone", None), "body", None)
    config = getattr(model, "config", None)
    if not isinstance(body, nn.Module) or not isinstance(config, ModelConfig) or config.backbone is None:
        raise TypeError("model must be a MaskRCNN on a ResNet-FPN of this package, whose body can be loaded.")
    source = f"weights {str(weights)!r}" if isinstance(weights, (str, Path)) else "These weights"
    assign(body, find_backbone(weights, f"resnet{config.backbone.depth}").arrays, source=source)
    if getattr(model, "norm_by_default", False):
        model.freeze_norms(body_only=True)
