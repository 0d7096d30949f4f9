"""Predicting on the images of a job in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lucid_maskrcnn.models.limits import Limits
from lucid_maskrcnn.streams import progress_bar, shows_progress

from .image_work import ImagePrediction, ImageWork
from .job_folder import JobFolder

__all__ = ["counting_images", "predict_locally"]


def predict_locally(
    folder: JobFolder,
    work: ImageWork,
    *,
    model: Any,
    on_image: Callable[[ImagePrediction], None] | None,
    progress: bool,
) -> list[str]:
    """Predict on the images of a job that have no row yet, and write drawings and exports that are missing.

    Parameters
    ----------
    folder : JobFolder
    work : ImageWork
    model : MaskRCNN
        Or any object with such a ``predict``.
    on_image : callable, optional
        Called with an :class:`ImagePrediction` after each image that could be read.
    progress : bool
        Whether to show a bar, on a terminal or in a notebook.

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
    with counting_images(len(folder.job.images), folder.n_done, progress) as advance:
        for image, is_new in folder.unfinished(folder.job.images):
            write_row = partial(folder.append, image) if is_new else None
            with Limits() as limits:  # one warning an image, after its row is written
                limits.name = repr(image.source)
                done, failed = work.do(image, model, write_row=write_row, may_write=folder.may_write)
            problems += failed
            if done is not None and on_image is not None:
                on_image(done)
            if is_new:
                advance()
    return problems


@contextmanager
def counting_images(total: int, done: int, shown: bool) -> Iterator[Callable[[], object]]:
    """Show how many of the images are done, on a terminal or in a notebook; yield what counts one more."""
    if not shows_progress(shown):
        yield lambda: None
        return
    with progress_bar(total=total, initial=done, unit="image") as bar:
        yield bar.update
