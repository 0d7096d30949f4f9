"""Predicting on the images of a job in this process, one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.models.limits import Limits
from lucid_maskrcnn.streams import shows_progress

from .drawings import save_drawing
from .job_exports import save_export
from .job_folder import JobFolder
from .job_list import ListedImage
from .tiles import predict_tiled

__all__ = ["ImagePrediction", "predict_locally"]

# What one image can be the reason of, such as its size; anything else is a defect, and stops the job.
_IMAGE_ERRORS = (ValueError, OSError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class ImagePrediction:
    """What :func:`predict_files` found in one image.

    Attributes
    ----------
    image_id : int
        In the files of the job.
    path : Path
        The image.
    drawing : Path or None
        The drawing of what was found; None if there is none.
    detections : Detections
        In pixels of the image.
    seconds : float
        Taken by ``predict``.
    exports : tuple of Path
        The other files about it.
    """

    image_id: int
    path: Path
    drawing: Path | None
    detections: Detections
    seconds: float
    exports: tuple[Path, ...] = ()


def predict_locally(
    folder: JobFolder,
    model: Any,
    options: Mapping[str, Any],
    filters: Mapping[str, Any],
    read: Mapping[str, Any],
    *,
    on_image: Callable[[ImagePrediction], None] | None,
    progress: bool,
) -> list[str]:
    """Predict on the images of a job that have no row yet, and write drawings and exports that are missing.

    Parameters
    ----------
    folder : JobFolder
    model : MaskRCNN
        Or any object with such a ``predict``.
    options : mapping
        Keywords of ``predict``; of :func:`predict_tiled` if there is ``"tiles"`` among them.
    filters : mapping
        Keywords of :meth:`Detections.filter`.
    read : mapping
        Keywords of :func:`~lucid_maskrcnn.images.load_image`.
    on_image : callable, optional
        Called with an :class:`ImagePrediction` after each image that could be read.
    progress : bool
        Whether to show a bar, on a terminal.

    Returns
    -------
    list of str
        Why drawings and exports could not be written.

    Raises
    ------
    OSError
        If a row cannot be written.
    """
    problems: list[str] = []
    with _progress_bar(len(folder.job.images), folder.n_done, progress) as advance:
        for image in folder.job.images:
            is_new = not folder.has_row(image)
            if is_new or folder.lacks_files(image):
                with Limits() as limits:  # one warning an image, after its row is written
                    limits.name = repr(image.source)
                    done = _predict(folder, image, model, {**options, "progress": progress}, filters, read, problems)
                if done is not None and on_image is not None:
                    on_image(done)
                if is_new:
                    advance()
    return problems


def _predict(
    folder: JobFolder,
    image: ListedImage,
    model: Any,
    options: Mapping[str, Any],
    filters: Mapping[str, Any],
    read: Mapping[str, Any],
    problems: list[str],
) -> ImagePrediction | None:
    """Predict on an image, write its row unless it has one, and its other files; None if it cannot be predicted on."""
    is_new, path = not folder.has_row(image), folder.path_of(image)
    try:
        pixels, found, seconds = _found_in(path, model, options, read)
        found = found.filter(**filters)
        row = {"size": found.image_size, "detections": found.to_coco(image.id)}
    except _IMAGE_ERRORS as error:
        if is_new:
            folder.append(image, {"error": _reason(error)})
        else:
            problems.append(f"{image.source!r}: its drawing or an export is missing. {_reason(error)}")
        return None
    if is_new:
        folder.append(image, row)
    load = cache(lambda: load_image(path, **read) if pixels is None else pixels)
    files = dict(_files(folder, image, found, load, read["page"], problems, keep=not is_new))
    drawing = files.pop("drawing", None)
    return ImagePrediction(image.id, Path(path), drawing, found, seconds, tuple(files.values()))


def _found_in(
    path: str, model: Any, options: Mapping[str, Any], read: Mapping[str, Any]
) -> tuple[np.ndarray | None, Detections, float]:
    """Return the pixels of an image, None where they are read tile by tile; what is in it; and seconds."""
    options = dict(options)
    progress, tiles = options.pop("progress"), options.pop("tiles", False)
    pixels = None if tiles else load_image(path, **read)
    started = time.perf_counter()
    if pixels is None:
        found = predict_tiled(model, path, **options, **read, progress=progress)
    else:
        found = model.predict(pixels, **options, keep_image=False)[0]
    return pixels, found, time.perf_counter() - started


def _files(
    folder: JobFolder,
    image: ListedImage,
    found: Detections,
    load: Callable[[], np.ndarray],
    page: int | None,
    problems: list[str],
    *,
    keep: bool,
) -> Iterator[tuple[str, Path]]:
    """Write the files about an image, all or with ``keep`` those that are missing, and yield what is there then."""
    options = {"page": page, "image_id": image.id, "weights": folder.job.settings.weights}
    source = folder.path_of(image)
    wanted: dict[str, tuple[str, Callable[[Path], None]]] = {
        format: (name, partial(save_export, format, found, source=source, load=load, options=options))
        for format, name in image.exports.items()
    }
    if image.drawing is not None:
        wanted["drawing"] = (image.drawing, lambda path: save_drawing(path, load(), found))
    for format, (name, save) in wanted.items():
        if (keep and (folder.path / name).exists()) or _write(folder, image, name, format, save, problems):
            yield format, folder.path / name


def _write(
    folder: JobFolder, image: ListedImage, name: str, format: str, save: Callable[[Path], None], problems: list[str]
) -> bool:
    """Write a file about an image; False, and a problem more, if it cannot be written."""
    file = folder.path / name
    what = "drawing" if format == "drawing" else f"export as {format}"
    if not folder.may_write(name):
        problems.append(f"{image.source!r}: its {what} would replace {str(file)!r}, which has appeared meanwhile.")
        return False
    try:
        save(file)
    except (OSError, ValueError, MemoryError) as error:
        problems.append(f"{image.source!r}: its {what} could not be written. {_reason(error)}")
        return False
    return True


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{str(error.filename)!r}: {error.strerror}."
    if isinstance(error, MemoryError):
        return "There is not enough memory for it."
    return str(error) or type(error).__name__


@contextmanager
def _progress_bar(total: int, done: int, shown: bool) -> Iterator[Callable[[], object]]:
    if not shows_progress(shown):
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, unit="image", file=sys.stderr, dynamic_ncols=True) as bar:
        yield bar.update
