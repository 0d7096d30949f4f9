"""The published weights that this package knows: where they are, their metrics and conventions.

All metrics are the publishers' own; ``source`` is the page that states them. Nothing is downloaded here, but by
:func:`lucid_maskrcnn.weights.download.fetch`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .. import validators
from ..call_answers import answers_wrong_calls
from ..reprs import fields_repr
from .formats import file_in_folder

__all__ = [
    "PublishedWeights",
    "file_hash",
    "find_by_name",
    "find_published",
    "identify",
    "identify_by_hash",
    "list_weights",
    "locate",
]


@dataclass(frozen=True)
class PublishedWeights:
    """A published file of weights.

    Attributes
    ----------
    name : str
        As ``weights=`` takes it; unique among those of one architecture.
    architecture : str
        The factory's name, such as ``"mask_rcnn_resnet_50_fpn"``; ``"resnet18"``, ``"resnet50"`` or ``"resnet101"``
        for backbones.
    url : str or None
        Of the file; None for a file that comes with the package.
    file : str
        Its name in the download folder, or in the package.
    size : int or None
        Approximate, in bytes: torchvision publishes megabytes, detectron2 nothing. For display, not for checks.
    hash_kind : {"sha256", "md5"} or None
        None if the publisher states none; the file is then not checked.
    hash_prefix : str or None
        The first digits of the file's hash, in lower case, from the publisher's file name.
    num_parameters : int or None
        Of the published network, with background rows, without frozen batch norm; None if unknown.
    metrics : dict of str to float
        In per cent: average precision on COCO val2017, single-crop accuracy on ImageNet's validation set.
    dataset : str
        The training data.
    licence : str
        Of the weights, as far as the publisher states it.
    source : str
        The publisher's page.
    categories : str or None
        Name of the list of categories that its labels have, such as ``"COCO"``; None for a backbone.
    conventions : {"torchvision", "detectron2"}
        The library whose names, input, anchors, RoIAlign and rounding the weights were trained with.
    norm_eps : float
        Added to the variance in batch norm: 1e-5, but 0 for torchvision's ``COCO_V1``, which was trained before
        torchvision's frozen batch norm had an epsilon.
    """

    __repr__ = fields_repr

    name: str
    architecture: str
    url: str | None
    file: str
    size: int | None
    hash_kind: Literal["sha256", "md5"] | None
    hash_prefix: str | None
    num_parameters: int | None
    metrics: dict[str, float] = field(hash=False)
    dataset: str
    licence: str
    source: str
    categories: str | None = None
    conventions: Literal["torchvision", "detectron2"] = "torchvision"
    norm_eps: float = 1e-5


_MODELS = "https://pytorch.org/vision/stable/models/generated/torchvision.models"
_TORCHVISION_LICENCE = "BSD-3-Clause (torchvision); terms of the training images may apply"
_MIB = 2**20


def _torchvision(
    name: str,
    architecture: str,
    file: str,
    mebibytes: float,
    num_parameters: int,
    metrics: dict[str, float],
    page: str,
    *,
    norm_eps: float = 1e-5,
) -> PublishedWeights:
    """Return torchvision's weights, whose file name ends in eight digits of the SHA-256."""
    detector = "box AP" in metrics
    return PublishedWeights(
        name=name,
        architecture=architecture,
        url=f"https://download.pytorch.org/models/{file}",
        file=file,
        size=round(mebibytes * _MIB),
        hash_kind="sha256",
        hash_prefix=file.removesuffix(".pth").rpartition("-")[2],
        num_parameters=num_parameters,
        metrics=metrics,
        dataset="COCO train2017" if detector else "ImageNet-1K",
        licence=_TORCHVISION_LICENCE,
        source=f"{_MODELS}.{page}.html",
        categories="COCO" if detector else None,
        norm_eps=norm_eps,
    )


_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2"
_DETECTRON2_LICENCE = "CC-BY-SA-3.0"
_DETECTRON2_ZOO = "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"


def _detectron2(
    name: str, architecture: str, path: str, size: int | None, num_parameters: int, metrics: dict[str, float]
) -> PublishedWeights:
    """Return detectron2's weights, whose file name ends in six digits of the MD5."""
    file = path.rpartition("/")[2]
    return PublishedWeights(
        name=name,
        architecture=architecture,
        url=f"{_DETECTRON2}/COCO-InstanceSegmentation/{path}",
        file=file,
        size=size,
        hash_kind="md5",
        hash_prefix=file.removesuffix(".pkl").rpartition("_")[2],
        num_parameters=num_parameters,
        metrics=metrics,
        dataset="COCO train2017",
        licence=_DETECTRON2_LICENCE,
        source=_DETECTRON2_ZOO,
        categories="COCO_CONTIGUOUS",
        conventions="detectron2",
    )


def _msra(architecture: str, file: str, metrics: dict[str, float]) -> PublishedWeights:
    """Return MSRA's backbone: no hash is published, and other backbones have the same file name, so it gets a prefix.

    The metrics are those of the original, https://github.com/KaimingHe/deep-residual-networks.
    """
    return PublishedWeights(
        name="MSRA",
        architecture=architecture,
        url=f"{_DETECTRON2}/ImageNetPretrained/MSRA/{file}",
        file=f"MSRA-{file}",
        size=None,
        hash_kind=None,
        hash_prefix=None,
        num_parameters=None,
        metrics=metrics,
        dataset="ImageNet-1K",
        licence=_DETECTRON2_LICENCE,
        source=_DETECTRON2_ZOO,
        conventions="detectron2",
    )


_WEIGHTS = (
    PublishedWeights(
        name="NUCLEI",
        architecture="mask_rcnn_resnet_18_fpn",
        url=None,
        file="nuclei_resnet18_fpn.safetensors",
        size=8_157_924,
        hash_kind="sha256",
        hash_prefix="4599ba0d",
        num_parameters=4_051_589,
        # on 66 held-out images; COCO counts 100 detections an image, crowded images need more
        metrics={
            "mask AP": 59.1,
            "mask AP50": 81.0,
            "mask AP @400": 64.3,
            "mask AP50 @400": 89.5,
            "AP_0.5": 81.0,
            "AP_0.7": 65.0,
        },
        dataset="BBBC038v1",
        licence="MIT; trained on images in the public domain (CC0-1.0)",
        source="https://bbbc.broadinstitute.org/bbbc038",
        categories="NUCLEI",
    ),
    _torchvision(
        "COCO_V1",
        "mask_rcnn_resnet_50_fpn",
        "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        169.84,
        44_401_393,
        {"box AP": 37.9, "mask AP": 34.6},
        "detection.maskrcnn_resnet50_fpn",
        norm_eps=0.0,
    ),
    _detectron2(
        "COCO_D2_1X",
        "mask_rcnn_resnet_50_fpn",
        "mask_rcnn_R_50_FPN_1x/137260431/model_final_a54504.pkl",
        None,
        44_343_216,
        {"box AP": 38.6, "mask AP": 35.2},
    ),
    _detectron2(
        "COCO_D2_3X",
        "mask_rcnn_resnet_50_fpn",
        "mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
        177_841_981,
        44_343_216,
        {"box AP": 41.0, "mask AP": 37.2},
    ),
    # in torchvision: MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    _torchvision(
        "COCO_V2",
        "mask_rcnn_resnet_50_fpn_v2",
        "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
        177.219,
        46_359_409,
        {"box AP": 47.4, "mask AP": 41.8},
        "detection.maskrcnn_resnet50_fpn_v2",
    ),
    _detectron2(
        "COCO_D2_3X",
        "mask_rcnn_resnet_101_fpn",
        "mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
        254_000_000,
        63_283_120,
        {"box AP": 42.9, "mask AP": 38.6},
    ),
    _torchvision(
        "IMAGENET1K_V1",
        "resnet18",
        "resnet18-f37072fd.pth",
        44.661,
        11_689_512,
        {"acc@1": 69.758, "acc@5": 89.078},
        "resnet18",
    ),
    _torchvision(
        "IMAGENET1K_V1",
        "resnet50",
        "resnet50-0676ba61.pth",
        97.781,
        25_557_032,
        {"acc@1": 76.130, "acc@5": 92.862},
        "resnet50",
    ),
    _torchvision(
        "IMAGENET1K_V2",
        "resnet50",
        "resnet50-11ad3fa6.pth",
        97.79,
        25_557_032,
        {"acc@1": 80.858, "acc@5": 95.434},
        "resnet50",
    ),
    _msra("resnet50", "R-50.pkl", {"acc@1": 75.3, "acc@5": 92.2}),
    _torchvision(
        "IMAGENET1K_V1",
        "resnet101",
        "resnet101-63fe2227.pth",
        170.511,
        44_549_160,
        {"acc@1": 77.374, "acc@5": 93.546},
        "resnet101",
    ),
    _torchvision(
        "IMAGENET1K_V2",
        "resnet101",
        "resnet101-cd907fc2.pth",
        170.53,
        44_549_160,
        {"acc@1": 81.886, "acc@5": 95.780},
        "resnet101",
    ),
    _msra("resnet101", "R-101.pkl", {"acc@1": 76.4, "acc@5": 92.9}),
)


# ------------------------------------------------------------------ from a name to an entry


@answers_wrong_calls
def list_weights(architecture: str | None = None) -> list[PublishedWeights]:
    """Return the published weights, of one architecture or of all.

    Parameters
    ----------
    architecture : str, optional
        ``"mask_rcnn_resnet_50_fpn"``, ``"resnet50"``, …; for one without published weights the list is empty.
    """
    validators.optional(validators.text)("architecture", architecture)
    return [entry for entry in _WEIGHTS if architecture in (None, entry.architecture)]


def find_published(name: str, architecture: str) -> PublishedWeights:
    """Return the weights called ``name`` of ``architecture``.

    Raises
    ------
    ValueError
        If there are none; the message lists those of this architecture, and the architectures that have the name.
    """
    validators.text("name", name)
    known = {entry.name: entry for entry in list_weights(validators.text("architecture", architecture))}
    if name in known:
        return known[name]
    if known:
        wanted = f"weights of {architecture} must be one of {_quoted(known)}, got {name!r}"
    else:
        wanted = f"No weights are published for {architecture!r}, only for {_quoted(e.architecture for e in _WEIGHTS)}"
    others = _quoted(entry.architecture for entry in _WEIGHTS if entry.name == name)
    raise ValueError(f"{wanted}; {name!r} exists for {others}." if known and others else f"{wanted}.")


def find_by_name(weights: str | Path) -> list[PublishedWeights]:
    """Return all published weights of a name; none if ``weights`` is a path.

    A name that several architectures have can follow one of them: ``mask_rcnn_resnet_50_fpn/COCO_D2_3X``.
    """
    validators.path("weights", weights)
    architecture, _, name = os.fspath(weights).rpartition("/")
    return [entry for entry in list_weights(architecture or None) if entry.name == name]


def _resolve_name(weights: str | Path, architecture: str | None) -> PublishedWeights | None:
    """Return the published weights of a name, None if ``weights`` must be a path."""
    entries = find_by_name(weights)
    fitting = [entry for entry in entries if architecture in (None, entry.architecture)]
    if len(fitting) > 1:
        choices = " or ".join(repr(f"{entry.architecture}/{entry.name}") for entry in fitting)
        raise ValueError(f"weights {str(weights)!r} exist for several architectures: pass {choices}.")
    if fitting:
        return fitting[0]
    if entries and architecture is not None and "/" not in str(weights):
        return find_published(str(weights), architecture)  # raises and names the architectures that have it
    return None


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, dict.fromkeys(names)))


# ------------------------------------------------------------------ from a name or a path to a file


@answers_wrong_calls
def locate(weights: str | Path, architecture: str | None = None) -> Path:
    """Return the file of ``weights``, downloading it if necessary.

    Parameters
    ----------
    weights : str or Path
        A name that :func:`list_weights` has, a path, or a folder with a model under the names of Hugging Face's
        libraries.
    architecture : str, optional
        The architecture to which a name belongs: ``"mask_rcnn_resnet_50_fpn"``, ``"resnet50"``, …

    Raises
    ------
    FileNotFoundError
        If it is neither, or the file must be downloaded and ``LUCID_WEIGHTS_OFFLINE=1`` forbids it.
    ValueError
        If the name is of another architecture, or of several; if the path is a directory.
    OSError
        If a download fails.
    """
    path = validators.path("weights", weights)
    validators.optional(validators.text)("architecture", architecture)
    entry = _resolve_name(weights, architecture)
    if entry is not None:
        from .download import fetch  # here, as most models are built without a file

        return fetch(entry)
    if os.path.isdir(path):  # Path.is_dir raises for a long name
        inside = file_in_folder(path)
        if inside is not None:
            return inside
        raise ValueError(f"weights must be a name or the path of a file: {str(path)!r} is a directory.")
    if not os.path.exists(path):
        entries = [e for e in list_weights(architecture) if architecture or e.categories]  # detectors, unless asked
        names = list(dict.fromkeys(entry.name for entry in entries))
        near = None if path.suffix else validators.nearest(str(weights), names)
        raise FileNotFoundError(
            f"weights must be one of {_quoted(names) or 'none, as no names are known here,'} or the path of a file; "
            f"there is no file {str(path)!r}." + (f" Did you mean {near!r}?" if near else validators.near_file(path))
        )
    return path


# ------------------------------------------------------------------ from a file to an entry


def identify(path: str | Path) -> PublishedWeights | None:
    """Return the published weights whose file name this is, or None.

    Only the publisher's name counts, since it holds digits of the hash, and the form that browsers give it at a second
    download: ``resnet50-0676ba61 (1).pth``. Fine-tuned weights often have a similar name.
    """
    name = re.sub(r" ?\(\d+\)(?=\.\w+$)", "", validators.path("path", path).name)
    return next((entry for entry in _WEIGHTS if entry.file == name), None)


def identify_by_hash(path: str | Path) -> PublishedWeights | None:
    """Return the published weights whose hash a file has, or None; the file is read once for each kind of hash."""
    kinds = {entry.hash_kind for entry in _WEIGHTS} - {None}
    hashes = {kind: file_hash(path, str(kind)) for kind in kinds}
    known = (entry for entry in _WEIGHTS if entry.hash_prefix is not None)
    return next((e for e in known if hashes[e.hash_kind].startswith(str(e.hash_prefix))), None)


def file_hash(path: str | Path, kind: str) -> str:
    """Return the hash of a file, in hexadecimal; ``kind`` is ``"sha256"`` or ``"md5"``."""
    validators.choice("kind", kind, ("sha256", "md5"))
    with open(validators.path("path", path), "rb") as file:
        # not for security: detectron2 publishes MD5, which some systems forbid for security
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
