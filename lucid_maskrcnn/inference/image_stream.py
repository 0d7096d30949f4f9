"""Prediction on images one after the other, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import batched
from typing import Any

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.models.limits import Limits
from lucid_maskrcnn.models.mask_rcnn import MaskRCNN
from lucid_maskrcnn.streams import progress_bar, shows_progress
from lucid_maskrcnn.validators import flag, instance, positive_int, shown

__all__ = ["predict_stream"]


@answers_wrong_calls
def predict_stream(
    model: MaskRCNN,
    images: Iterable[Any],
    *,
    score_thresh: float = 0.05,
    nms_thresh: float | None = None,
    top_k: int | None = None,
    mask_thresh: float = 0.5,
    classes: str | int | Sequence[str | int] | None = None,
    class_agnostic_nms: bool = False,
    mask_nms: bool = False,
    page: int | str | None = None,
    channels: int | Sequence[int] | None = None,
    intensity: str | Sequence[float] | None = None,
    keep_image: bool = False,
    batch_size: int = 1,
    progress: bool = False,
) -> Iterator[Detections]:
    """Predict on images as they come: a list of a million paths, a generator, frames of a camera.

    Only ``batch_size`` images are in memory at a time.

    Parameters
    ----------
    model : MaskRCNN
        The model, on the device that shall compute.
    images : iterable
        Paths, PIL images or arrays, as for :meth:`MaskRCNN.predict <lucid_maskrcnn.MaskRCNN.predict>`. They are asked
        for when the detections of the ones before have been taken.
    score_thresh, nms_thresh, top_k, mask_thresh, classes, class_agnostic_nms, mask_nms, page, channels, intensity
        As for ``predict``.
    keep_image : bool
        Whether the detections carry a copy of their image.
    batch_size : int
        So many images go through the network together.
    progress : bool
        Show a progress bar, on stderr if that is a terminal, or in a notebook.

    Yields
    ------
    Detections
        One an image, in their order; one a page with ``page="all"``.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If an argument is not as above, at once; or an image cannot be read, when its turn comes.

    Warns
    -----
    UserWarning
        As ``predict``, once for all images, at the end.
    """
    instance("model", model, MaskRCNN, "a MaskRCNN")
    if isinstance(images, (str, bytes)) or not isinstance(images, Iterable):
        raise TypeError(f"images must be an iterable of paths, PIL images or arrays, got {shown(images)}.")
    batch_size, shown_bar = (
        positive_int("batch_size", batch_size, 2**31 - 1),
        shows_progress(flag("progress", progress)),
    )
    options = {
        "score_thresh": score_thresh,
        "nms_thresh": nms_thresh,
        "top_k": top_k,
        "mask_thresh": mask_thresh,
        "classes": classes,
        "class_agnostic_nms": class_agnostic_nms,
        "mask_nms": mask_nms,
        "page": page,
        "channels": channels,
        "intensity": intensity,
        "keep_image": keep_image,
        "batch_size": batch_size,
    }
    model.predict_options(**options)  # which raises for wrong ones
    return _stream(model, images, batch_size, shown_bar, options)


def _stream(
    model: MaskRCNN, images: Iterable[Any], batch_size: int, shown_bar: bool, options: dict[str, Any]
) -> Iterator[Detections]:
    if shown_bar:
        images = progress_bar(images, unit="image")
    limits = Limits()
    for number, batch in enumerate(batched(images, batch_size)):
        with limits.collecting(first=number * batch_size):
            found = model.predict(list(batch), **options)
        yield from found
    limits.warn()
