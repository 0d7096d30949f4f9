"""Which library wrote the weights, and which model they belong to: found from names and shapes alone.

Shapes: K classes without background.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..config import ARCHITECTURES, MAX_CELLS, ModelConfig
from ..reprs import fields_repr
from ..validators import shown
from .naming import (
    CAFFE2,
    CAFFE2_BODY,
    DETECTRON2,
    DETECTRON2_BODY,
    DETECTRON2_DEEP_RPN,
    LUCID_BODY,
    TORCHVISION,
    TORCHVISION_BODY,
    TORCHVISION_V2,
    Naming,
)

__all__ = [
    "Body",
    "Translated",
    "class_agnostic_layers",
    "detectron2_arrays",
    "torchvision_arrays",
    "translate",
    "translate_body",
]

type Array = Any  # np.ndarray, or a StoredArray that is still in its file

# Counters of batch norm, of averaged weights and of profilers, a ResNet's classifier, and constants that detectron2
# takes from its configuration.
_IGNORED = re.compile(
    r"(?:.*\.)?(?:num_batches_tracked|total_ops|total_params)|n_averaged|num_updates|fc\.(?:weight|bias)|stem\.fc\.(?:weight|bias)|fc1000_[wb]|conv1_b"
    r"|pixel_(?:mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d+"
)
_CONSTANTS = re.compile(r"pixel_(?:mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d+")  # detectron2's
_COUNTER = "num_batches_tracked"
_NORM = re.compile(r"(?:^|.*\.)(?:bn\d|downsample\.1|(?:inner|layer)_norms\.\d)\.weight")
# Depth of the ResNet by the number of blocks in its third stage, and whether they are bottlenecks.
_DEPTHS = {(2, False): 18, (6, True): 50, (23, True): 101}
_MAX_REPEATED = 64  # size of a repeated class-agnostic layer over that of cls_score, so that memory stays bounded


@dataclass(frozen=True)
class Translated:
    """The weights of a Mask R-CNN under this package's names.

    Attributes
    ----------
    source : {"lucid_maskrcnn", "torchvision", "detectron2", "Detectron"}
        The library whose names they had.
    arrays : dict of str to array
        By this package's names, or their own if this package has no name for them.
    config : ModelConfig or None
        From names and shapes, and for the rest from the source's conventions. None for this package's own names: there
        the file's header states it.
    unused : dict of str to array
        By their own names: counters, and rows of the background that this package does not have.
    naming : Naming or None
        Translates this package's names into the source's; None if the names are this package's.
    """

    source: str
    arrays: dict[str, Array]
    config: ModelConfig | None = None
    unused: dict[str, Array] = field(default_factory=dict)
    naming: Naming | None = None


@dataclass(frozen=True)
class Body:
    """The weights of a ResNet under the names of this package's body.

    Attributes
    ----------
    source : {"torchvision", "detectron2", "Lucid", "Caffe2"}
        The library whose names they had.
    arrays : dict of str to array
        By this package's names.
    depth : {18, 50, 101}
        Number of layers of the ResNet.
    conventions : {"detectron2"} or None
        The library in whose conventions the body expects its input, if the names determine it.
    """

    __repr__ = fields_repr

    source: str
    arrays: dict[str, Array]
    depth: int
    conventions: str | None


def translate(arrays: Mapping[str, Array], name: str, left_out: Iterable[str] = ()) -> Translated:
    """Turn a Mask R-CNN's weights into this package's names, order of classes and rows.

    Parameters
    ----------
    arrays : mapping of str to array
        By this package's, torchvision's, detectron2's or Detectron's names. Of those that are still in their file,
        only the class layers are read.
    name : str
        What messages call the weights.
    left_out : iterable of str
        Further names in the file, by which models of other libraries are recognized.

    Raises
    ------
    ValueError
        If the names match no known Mask R-CNN with a ResNet-FPN.
    """
    if "fc1.weight" in arrays and "cls_score.weight" in arrays:
        return Translated("lucid_maskrcnn", dict(arrays))
    if "roi_heads.box_predictor.cls_score.weight" in arrays:
        if _has_prefix(arrays, "backbone.bottom_up."):
            ours, unused = _from_detectron2(arrays)
            naming = _detectron2_naming(arrays)
            return Translated("detectron2", ours, _config(ours, name, naming, "detectron2"), unused, naming)
        if _has_prefix(arrays, "backbone.body."):
            ours, unused = _from_torchvision(arrays)
            naming = _torchvision_naming(ours)
            return Translated("torchvision", ours, _config(ours, name, naming), unused, naming)
    if "cls_score_w" in arrays and "conv1_w" in arrays:
        ours, unused = _from_detectron(arrays)
        return Translated("Detectron", ours, _config(ours, name, CAFFE2, "detectron2"), unused, CAFFE2)
    for pattern, library in _OTHER_LIBRARIES:
        if any(pattern.match(n) for n in (*arrays, *left_out)):
            raise ValueError(
                f"{name} holds a model of {library}, whose names and conventions are not known here: take weights of "
                "torchvision or detectron2, or train one here."
            )
    if _body_source(arrays) is not None:
        raise ValueError(f"{name} holds a ResNet without the rest of a Mask R-CNN: pass it as weights_backbone.")
    raise ValueError(
        f"{name} holds no Mask R-CNN with a ResNet-FPN under the names of this package, torchvision, detectron2 or "
        f"Detectron: its entries are {_first_names(arrays)}."
    )


# By names that no other library has, behind any prefix.
_OTHER_LIBRARIES = [
    (
        re.compile(r"(?:.*\.)?roi_head\.(?:bbox|mask)_head\.|(?:.*\.)?(?:rpn_head\.rpn_conv|neck\.lateral_convs)\."),
        "mmdetection",
    ),
    (re.compile(r"(?:.*\.)?roi_heads\.box_predictor\.\d+\."), "Cascade R-CNN"),
    (re.compile(r"(?:.*\.)?model\.\d+\.(?:conv|cv\d|m)\."), "Ultralytics YOLO"),
    (re.compile(r"(?:.*\.)?transformer\.(?:en|de)coder\.layers\."), "DETR or another transformer"),
    (re.compile(r"(?:.*\.)?(?:image_encoder|mask_decoder|vision_encoder)\."), "Segment Anything"),
    (re.compile(r"(?:.*\.)?(?:rpn_class_raw|mrcnn_class_conv1|fpn_c5p5)\b"), "Matterport's Mask R-CNN"),
]


def _has_prefix(arrays: Mapping[str, Array], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in arrays)


def _first_names(arrays: Iterable[str]) -> str:
    names = list(arrays)
    return (", ".join(map(shown, names[:3])) + (", …" if len(names) > 3 else "")) or "none"


def _renamed(arrays: Mapping[str, Array], naming: Naming) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the arrays by this package's names, and those that it does not use by their own names."""
    unused = {name: array for name, array in arrays.items() if _IGNORED.fullmatch(name)}
    return {naming.ours(name): array for name, array in arrays.items() if name not in unused}, unused


# ------------------------------------------------------------------ torchvision

_BACKGROUND_ROWS = {"bbox_pred": 4, "mask_head.mask_predictor": 1}


def _from_torchvision(arrays: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return torchvision's arrays by this package's names, and those that it does not use by their own names."""
    ours, unused = _renamed(arrays, TORCHVISION)
    for layer, entry in _class_entries(ours):
        rows = _BACKGROUND_ROWS[layer]
        array = np.asarray(ours[entry])
        ours[entry] = array[rows:]
        unused[TORCHVISION.theirs(entry)] = array[:rows]
    return ours, unused


def _class_entries(arrays: Mapping[str, Array]) -> list[tuple[str, str]]:
    """Return the layers that have rows for the background in torchvision, and their entries."""
    entries = [(layer, f"{layer}.{kind}") for layer in _BACKGROUND_ROWS for kind in ("weight", "bias")]
    return [(layer, entry) for layer, entry in entries if entry in arrays and len(arrays[entry].shape)]


def _torchvision_naming(arrays: Mapping[str, Array]) -> Naming:
    return TORCHVISION_V2 if "box_convs.conv1.weight" in arrays else TORCHVISION


def torchvision_arrays(arrays: Mapping[str, Array], unused: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Turn this package's weights into torchvision's, the inverse of :func:`translate`.

    Parameters
    ----------
    arrays : mapping of str to array
        By this package's names.
    unused : mapping of str to array, optional
        As in :class:`Translated`; without it, rows of the background are zero. What torchvision's models do not have,
        such as counters of profilers, is left out.
    """
    naming = _torchvision_naming(arrays)
    rest = unused or {}
    theirs = {naming.theirs(name): array for name, array in arrays.items()}
    for layer, entry in _class_entries(arrays):
        array = np.asarray(arrays[entry])
        background = rest.get(naming.theirs(entry))
        if background is None:
            background = np.zeros((_BACKGROUND_ROWS[layer], *array.shape[1:]), array.dtype)
        theirs[naming.theirs(entry)] = np.concatenate([np.asarray(background), array])
    return theirs | _counters(rest, theirs)


def _counters(unused: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the counters of the batch norms that there are."""
    norms = {n.removesuffix("running_mean") + _COUNTER for n in theirs if n.endswith(".running_mean")}
    return {name: array for name, array in unused.items() if name in norms}


# ------------------------------------------------------------------ detectron2 and Detectron


def _from_detectron2(arrays: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return detectron2's arrays by this package's names, and those that it does not use by their own names."""
    ours, unused = _renamed(arrays, _detectron2_naming(arrays))
    for entry in ("cls_score.weight", "cls_score.bias"):
        if entry in ours and len(ours[entry].shape):
            ours[entry] = np.roll(np.asarray(ours[entry]), 1, axis=0)  # the background's row moves from last to first
    _repeat_class_agnostic(ours)
    _complete_norms(ours)
    return ours, unused


def _detectron2_naming(arrays: Mapping[str, Array]) -> Naming:
    return DETECTRON2_DEEP_RPN if "proposal_generator.rpn_head.conv.conv0.weight" in arrays else DETECTRON2


def detectron2_arrays(arrays: Mapping[str, Array], unused: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Turn this package's weights into detectron2's, the inverse of :func:`translate`.

    Layers whose rows are the same for every class become class-agnostic, as they were before they were read.

    Parameters
    ----------
    arrays : mapping of str to array
        By this package's names.
    unused : mapping of str to array, optional
        As in :class:`Translated`; what detectron2 does not have is left out.
    """
    naming = DETECTRON2_DEEP_RPN if "rpn.head.conv2.weight" in arrays else DETECTRON2
    theirs = {naming.theirs(name): array for name, array in arrays.items()}
    for entry in ("cls_score.weight", "cls_score.bias"):
        theirs[naming.theirs(entry)] = np.roll(np.asarray(arrays[entry]), -1, axis=0)
    for layer in class_agnostic_layers(arrays):
        for kind in ("weight", "bias"):
            entry = f"{layer}.{kind}"
            theirs[naming.theirs(entry)] = np.asarray(arrays[entry])[: _BACKGROUND_ROWS[layer]]
    rest = unused or {}
    return theirs | _counters(rest, theirs) | {n: a for n, a in rest.items() if _CONSTANTS.fullmatch(n)}


def class_agnostic_layers(arrays: Mapping[str, Array]) -> list[str]:
    """Return the layers whose rows are the same for every class: ``"bbox_pred"``, ``"mask_head.mask_predictor"``."""
    num_classes = arrays["cls_score.weight"].shape[0] - 1
    return [
        layer
        for layer, rows in _BACKGROUND_ROWS.items()
        if all(_repeats(arrays.get(f"{layer}.{kind}"), rows, num_classes) for kind in ("bias", "weight"))
    ]


def _repeats(array: Array | None, rows: int, times: int) -> bool:
    """Whether an array is its first rows again and again."""
    if array is None or times < 2 or array.shape[:1] != (rows * times,):
        return False
    blocks = np.asarray(array).reshape(times, -1)
    return bool((blocks == blocks[0]).all())


def _repeat_class_agnostic(arrays: dict[str, Array]) -> None:
    """Repeat the rows of class-agnostic layers for every class."""
    scores = arrays.get("cls_score.weight")
    if scores is None or not scores.shape:
        return
    num_classes = scores.shape[0] - 1
    for layer, rows in _BACKGROUND_ROWS.items():
        for entry in (f"{layer}.weight", f"{layer}.bias"):
            if entry not in arrays or arrays[entry].shape[:1] != (rows,) or num_classes < 2:
                continue
            if (
                arrays[entry].size * num_classes > _MAX_REPEATED * scores.size
            ):  # not a Mask R-CNN: the shapes will not fit
                continue
            array = np.asarray(arrays[entry])
            arrays[entry] = np.tile(array, (num_classes, *(1,) * (array.ndim - 1)))


def _complete_norms(arrays: dict[str, Array]) -> None:
    """Add the statistics of batch norm that a file may omit: mean 0 and variance 1."""
    for name in [n for n in arrays if _NORM.fullmatch(n)]:
        stem = name.removesuffix("weight")
        for kind, fill in (("running_mean", 0), ("running_var", 1)):
            arrays.setdefault(stem + kind, np.full(arrays[name].shape, fill, np.float32))


def _from_detectron(arrays: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return Detectron's arrays by this package's names, and those that it does not use by their own names."""
    ours, unused = _renamed(arrays, CAFFE2)
    for layer, entry in _class_entries(ours):  # with rows for the background, as in torchvision
        rows = _BACKGROUND_ROWS[layer]
        if ours[entry].shape[0] > rows:
            ours[entry] = np.asarray(ours[entry])[rows:]
    _complete_norms(ours)
    return ours, unused


# ------------------------------------------------------------------ configuration


def _config(arrays: Mapping[str, Array], name: str, naming: Naming, conventions: str = "torchvision") -> ModelConfig:
    """Return the configuration: from the shapes what they determine, the rest from the conventions."""

    def rows(entry: str, axis: int = 0) -> int:
        if entry not in arrays or len(arrays[entry].shape) <= axis:
            raise ValueError(f"{naming.theirs(entry)!r} is missing or has no such axis.")
        return int(arrays[entry].shape[axis])

    is_v2 = "box_convs.conv1.weight" in arrays
    base = ARCHITECTURES["mask_rcnn_resnet_50_fpn_v2" if is_v2 else "mask_rcnn_resnet_50_fpn"]
    try:
        channels = rows("backbone.fpn.inner_blocks.0.weight")
        found = base.changed(
            conventions=conventions,
            num_classes=rows("cls_score.weight") - 1,
            width=rows("backbone.body.conv1.weight"),
            fpn_channels=channels,
            norm="frozen",
            backbone={
                "depth": _depth(arrays, "backbone.body.", name),
                "fpn_norm": "frozen" if "backbone.fpn.inner_norms.0.weight" in arrays else None,
            },
            pool_size=_pool_size(rows("fc1.weight", 1), channels),
            hidden_dim=rows("fc1.weight"),
            mask_hidden_channels=rows("mask_head.deconv.weight", 1),
            rpn_convs=1 + sum(bool(re.fullmatch(r"rpn\.head\.conv\d+\.weight", n)) for n in arrays),
        )
        # None is a value here, and one that changed() passes over: four convolutions may have no norms.
        return replace(found, head_norm="frozen" if "mask_head.bn1.weight" in arrays else None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} holds no Mask R-CNN that can be built: {error}") from error


def _pool_size(inputs: int, channels: int) -> tuple[int, int] | None:
    """Return the size of the pooled features, a square, from the inputs of the box head's first linear layer."""
    cells, rest = divmod(inputs, max(channels, 1))
    side = math.isqrt(cells)
    return (side, side) if not rest and side**2 == cells and 0 < side <= MAX_CELLS else None


def _depth(arrays: Iterable[str], prefix: str, name: str) -> int:
    third = [m for n in arrays if (m := re.fullmatch(re.escape(prefix) + r"layer3\.(\d{1,3})\.conv(\d)\.weight", n))]
    blocks = 1 + max((int(m[1]) for m in third), default=-1)
    depth = _DEPTHS.get((blocks, any(m[2] == "3" for m in third)))
    if depth is None:
        raise ValueError(f"{name} has {blocks} blocks in its third stage: only ResNet-18, -50 and -101 are known.")
    return depth


# ------------------------------------------------------------------ ResNet bodies alone


def _body_source(arrays: Mapping[str, Array]) -> tuple[str, Naming, str] | None:
    """Return the library whose ResNet the arrays are, its naming and the names' prefix; None without a ResNet."""
    for first, source, naming, prefix in (
        ("backbone.body.conv1.weight", "torchvision", TORCHVISION_BODY, "backbone.body."),
        ("backbone.bottom_up.stem.conv1.weight", "detectron2", DETECTRON2_BODY, "backbone.bottom_up."),
        ("stem.conv1.weight", "detectron2", DETECTRON2_BODY, ""),
        ("stem.0.weight", "Lucid", LUCID_BODY, ""),
        ("conv1_w", "Caffe2", CAFFE2_BODY, ""),
        ("conv1.weight", "torchvision", TORCHVISION_BODY, ""),
    ):
        if first in arrays:
            return source, naming, prefix
    return None


def translate_body(arrays: Mapping[str, Array], name: str) -> Body:
    """Translate the weights of a ResNet, alone or in a detector, into the names of this package's body.

    Parameters
    ----------
    arrays : mapping of str to array
        By torchvision's, Lucid's, detectron2's or Caffe2's names. A classifier's last layer, and the rest of a
        detector, are ignored.
    name : str
        What messages call the weights.

    Raises
    ------
    ValueError
        If there is no ResNet among them.
    """
    found = _body_source(arrays)
    if found is None:
        raise ValueError(
            f"{name} holds no ResNet under the names of torchvision, Lucid, detectron2 or Caffe2: its entries are "
            f"{_first_names(arrays)}."
        )
    source, naming, prefix = found
    own = {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}
    body, _ = _renamed(own, naming)
    _complete_norms(body)
    # A torchvision body that was converted for detectron2 keeps torchvision's input; MSRA's expect blue, green, red.
    conventions = "detectron2" if source == "Caffe2" or prefix == "backbone.bottom_up." else None
    return Body(source, body, _depth(body, "", name), conventions)
