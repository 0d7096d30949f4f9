"""Predicting on one image of a job: its row, its drawing and its exports, in whatever process that happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.remote_files import path_or_url
from lucid_maskrcnn.reprs import fields_repr

from .drawings import save_drawing
from .job_exports import save_export
from .job_list import ListedImage
from .job_storage import JobStorage
from .sources import located
from .tiles import predict_tiled

__all__ = ["ImagePrediction", "ImageWork"]

# What one image can be the reason of, such as its size; anything else is a defect, and stops the job.
_IMAGE_ERRORS = (ValueError, OSError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class ImagePrediction:
    """What :func:`predict_files` found in one image.

    Attributes
    ----------
    image_id : int
        In the files of the job.
    path : Path or str
        The image; a str if it is at a URL, as is what follows.
    drawing : Path, str or None
        The drawing of what was found; None if there is none.
    detections : Detections
        In pixels of the image.
    seconds : float
        Taken by ``predict``.
    exports : tuple of Path or str
        The other files about it.
    """

    __repr__ = fields_repr

    image_id: int
    path: Path | str
    drawing: Path | str | None
    detections: Detections
    seconds: float
    exports: tuple[Path | str, ...] = ()


@dataclass(frozen=True)
class ImageWork:
    """What is done with each image of a job; it can be sent to another process.

    Attributes
    ----------
    storage : JobStorage
        The job's folder.
    sources_from : str
        Folder in which relative sources begin, "" for the current one.
    weights : mapping
        Their name and SHA-256.
    options : mapping
        Keywords of ``predict``; of :func:`predict_tiled` if there is ``"tiles"`` among them.
    filters : mapping
        Keywords of :meth:`Detections.filter`.
    read : mapping
        Keywords of :func:`~lucid_maskrcnn.images.load_image`.
    progress : bool
        Whether a tiled image has a bar of its own, on a terminal or in a notebook.
    """

    storage: JobStorage
    sources_from: str
    weights: Mapping[str, Any]
    options: Mapping[str, Any]
    filters: Mapping[str, Any]
    read: Mapping[str, Any]
    progress: bool

    def path_of(self, image: ListedImage) -> str:
        """Return the file of an image."""
        return located(self.sources_from, image.source)

    def do(
        self,
        image: ListedImage,
        model: Any,
        *,
        write_row: Callable[[Mapping[str, Any]], None] | None,
        may_write: Callable[[str], bool],
    ) -> tuple[ImagePrediction | None, list[str]]:
        """Predict on an image, write its row unless it has one, then its other files.

        Parameters
        ----------
        image : ListedImage
        model : MaskRCNN
            Or any object with such a ``predict``.
        write_row : callable or None
            Takes what the row has besides the image: ``size`` and ``detections``, or ``error``. None for an image that
            has its row, of which other files are missing: those that are there are kept.
        may_write : callable
            Whether a file of that name in the folder may be written.

        Returns
        -------
        prediction : ImagePrediction or None
            None if it cannot be predicted on.
        problems : list of str
            Why files could not be written.
        """
        path, problems = self.path_of(image), list[str]()
        try:
            pixels, found, seconds = self._found_in(path, model)
            found = found.filter(**self.filters)
            row = {"size": found.image_size, "detections": found.to_coco(image.id)}
        except _IMAGE_ERRORS as error:
            if write_row is None:
                return None, [f"{image.source!r}: its drawing or an export is missing. {_reason(error)}"]
            write_row({"error": _reason(error)})
            return None, []
        if write_row is not None:
            write_row(row)
        load = cache(lambda: load_image(path, **self.read) if pixels is None else pixels)
        files: dict[str, Path | str] = {}
        for format, name, save in self._wanted(image, found, load):
            if not (write_row is None and self.storage.exists(name)):
                problem = self._written(name, format, save, may_write)
                if problem is not None:
                    problems.append(f"{image.source!r}: its {problem}")
                    continue
            files[format] = self.storage.address(name)
        drawing = files.pop("drawing", None)
        where = path_or_url("source", path)
        return ImagePrediction(image.id, where, drawing, found, seconds, tuple(files.values())), problems

    def _found_in(self, path: str, model: Any) -> tuple[np.ndarray | None, Detections, float]:
        """Return the pixels of an image, None where they are read tile by tile; what is in it; and seconds."""
        options = dict(self.options)
        tiles = options.pop("tiles", False)
        pixels = None if tiles else load_image(path, **self.read)
        started = time.perf_counter()
        if pixels is None:
            found = predict_tiled(model, path, **options, **self.read, progress=self.progress)
        else:
            found = model.predict(pixels, **options, keep_image=False)[0]
        return pixels, found, time.perf_counter() - started

    def _wanted(
        self, image: ListedImage, found: Detections, load: Callable[[], np.ndarray]
    ) -> Iterator[tuple[str, str, Callable[[Path], None]]]:
        """Yield format, name and writer of each file about an image."""
        options = {"page": self.read["page"], "image_id": image.id, "weights": self.weights}
        source = self.path_of(image)
        for format, name in image.exports.items():
            yield format, name, partial(save_export, format, found, source=source, load=load, options=options)
        if image.drawing is not None:
            yield "drawing", image.drawing, lambda path: save_drawing(path, load(), found)

    def _written(
        self, name: str, format: str, save: Callable[[Path], None], may_write: Callable[[str], bool]
    ) -> str | None:
        """Write a file about an image; return why that cannot be done."""
        what = "drawing" if format == "drawing" else f"export as {format}"
        if not may_write(name):
            return f"{what} would replace {str(self.storage.address(name))!r}, which has appeared meanwhile."
        try:
            save(self.storage.folder / name)
            self.storage.publish(name)
        except (OSError, ValueError, MemoryError) as error:
            return f"{what} could not be written. {_reason(error)}"
        return None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{str(error.filename)!r}: {error.strerror}."
    if isinstance(error, MemoryError):
        return "There is not enough memory for it."
    return str(error) or type(error).__name__
