"""Prediction on many image files: drawings and COCO results on disk."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import validators
from .atomic import replacing, write_json
from .detections import Detections
from .images import load_image
from .models.mask_rcnn import MaskRCNN

__all__ = ["DRAWING_FORMATS", "ImagePrediction", "JobResult", "predict_files", "save_drawing"]

DRAWING_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@dataclass(frozen=True)
class ImagePrediction:
    """What :func:`predict_files` found in one image.

    Attributes
    ----------
    image_id : int
        In both JSON files.
    path : Path
        The image.
    drawing : Path
        The drawing of what was found.
    detections : Detections
        In pixels of the image.
    seconds : float
        Taken by ``predict``.
    """

    image_id: int
    path: Path
    drawing: Path
    detections: Detections
    seconds: float


@dataclass(frozen=True)
class JobResult:
    """What :func:`predict_files` did.

    Attributes
    ----------
    out : Path
        The folder of what was written.
    n_images : int
        Images predicted on.
    n_objects : int
        Detections in all of them.
    """

    out: Path
    n_images: int
    n_objects: int


def predict_files(
    paths: Sequence[str | Path],
    weights: str | Path | MaskRCNN,
    out: str | Path,
    *,
    score_thresh: float = 0.05,
    top_k: int | None = None,
    device: str = "cpu",
    on_image: Callable[[ImagePrediction], None] | None = None,
) -> JobResult:
    """Predict on image files one by one, and write drawings and COCO results.

    Parameters
    ----------
    paths : sequence of str or Path
        The images; their ids are 1, 2, … in this order.
    weights : str, Path or MaskRCNN
        A name that :func:`~lucid_maskrcnn.weights.list_weights` knows, a file, or a model (any object with such a
        ``predict``).
    out : str or Path
        Folder for ``<stem>.png``, the drawing of each image (``<stem>_2.png`` where that name is taken, be it by one
        of the images), ``detections.json``, a list of COCO results, and ``images.json``, a COCO data set without
        annotations: ids, file names, categories. Created if it does not exist.
    score_thresh : float
        Detections have a higher score.
    top_k : int, optional
        The most detections of an image; by default the model's own setting.
    device : {"cpu", "gpu"}
        Of a model that is loaded here. A model that is given stays on its own.
    on_image : callable, optional
        Called with an :class:`ImagePrediction` after each image.

    Returns
    -------
    JobResult

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If an argument is not as above or an image cannot be read; nothing has been written then.
    OSError
        If a file cannot be written.
    """
    sources = _check_paths(paths)
    folder = validators.path("out", out)
    score_thresh = validators.fraction("score_thresh", score_thresh)
    top_k = validators.optional(validators.non_negative_int)("top_k", top_k)
    validators.choice("device", device, ("cpu", "gpu"))
    if on_image is not None and not callable(on_image):
        raise TypeError(f"on_image must be a function, got {validators.shown(on_image)}.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out {str(folder)!r} is a file, not a folder.")
    for path in sources:
        load_image(path)  # an image that cannot be read must not stop the run half way
    model = _load(weights, device)

    folder.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    for image_id, (path, drawing) in enumerate(zip(sources, _drawing_paths(sources, folder), strict=True), start=1):
        pixels = load_image(path)
        started = time.perf_counter()
        found = model.predict(pixels, score_thresh=score_thresh, top_k=top_k)[0]
        seconds = time.perf_counter() - started
        save_drawing(drawing, pixels, found)
        results += found.to_coco(image_id)
        height, width = found.image_size
        images.append({"id": image_id, "file_name": str(path), "height": height, "width": width})
        names.update(found.categories or zip(found.labels.tolist(), found.names, strict=True))
        if on_image is not None:
            on_image(ImagePrediction(image_id, path, drawing, found, seconds))
    categories = [{"id": label, "name": name} for label, name in sorted(names.items())]
    write_json(folder / "detections.json", results)
    write_json(folder / "images.json", {"images": images, "annotations": [], "categories": categories})
    return JobResult(folder, len(images), len(results))


def save_drawing(path: str | Path, pixels: np.ndarray, detections: Detections) -> None:
    """Draw detections on their image and write it as PNG or JPEG; a small image is enlarged."""
    path = validators.path("path", path)
    validators.choice("the suffix of path", path.suffix.lower(), DRAWING_FORMATS)
    validators.instance("detections", detections, Detections, "Detections")
    from .visualization import viewing_scale  # Pillow only where drawings are made

    scale = viewing_scale(detections.image_size)
    with replacing(path) as file:
        detections.draw(pixels, scale=scale).save(file, DRAWING_FORMATS[path.suffix.lower()], quality=92)


def _check_paths(paths: Sequence[str | Path]) -> list[Path]:
    if isinstance(paths, (str, os.PathLike)):
        raise TypeError(f"paths must be a sequence of paths, got {validators.shown(paths)}: put it in a list.")
    return list(validators.sequence("paths", paths, validators.path))


def _load(weights: str | Path | MaskRCNN, device: str) -> Any:
    if isinstance(weights, (str, os.PathLike)):
        return MaskRCNN.from_file(weights).to(device)
    if isinstance(weights, type) or not callable(getattr(weights, "predict", None)):
        given = f"the class {weights.__name__}" if isinstance(weights, type) else validators.shown(weights)
        raise TypeError(f"weights must be a name, a path or a model with a predict method, got {given}.")
    return weights


def _drawing_paths(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Return where each drawing goes: a name of its own, and never in place of one of the images."""
    taken = {_identity(path) for path in sources}
    drawings = []
    for path in sources:
        names = itertools.chain([f"{path.stem}.png"], (f"{path.stem}_{k}.png" for k in itertools.count(2)))
        drawing = next(folder / name for name in names if _identity(folder / name) not in taken)
        taken.add(_identity(drawing))
        drawings.append(drawing)
    return drawings


def _identity(path: Path) -> str:
    return os.path.realpath(path).casefold()  # many file systems do not tell a.png from A.png
