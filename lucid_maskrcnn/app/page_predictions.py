"""Predicting for the page: what may be asked for, whether in tiles, and the progress of these."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from lucid_maskrcnn import validators
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.images import open_image
from lucid_maskrcnn.inference import predict_tiled
from lucid_maskrcnn.inference.tile_grid import TileGrid, default_overlap, default_tile_size
from lucid_maskrcnn.models import MaskRCNN

from .page_results import PageResult, make_result
from .prediction_queue import Job
from .weights_menu import WeightsMenu

__all__ = ["LOWEST_SCORE", "checked_request", "predict_for_page"]

LOWEST_SCORE = 0.05  # that the page can show; its slider begins at VIEW_SCORE


def checked_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page asks for as arguments of a prediction.

    Raises
    ------
    TypeError, ValueError
        If they are not as :meth:`MaskRCNN.predict` takes them.
    """
    fraction, flag = validators.fraction, validators.flag
    page = validators.optional(validators.non_negative_int)("page", request.get("page"))
    return {
        "tiles": validators.choice("tiles", request.get("tiles", "auto"), ("auto", "on", "off")),
        "tile_size": validators.optional(_tile_size)("tile_size", request.get("tile_size")),
        "predict": {
            "score_thresh": LOWEST_SCORE,
            "nms_thresh": validators.optional(fraction)("nms_thresh", request.get("nms_thresh")),
            "mask_thresh": fraction("mask_thresh", request.get("mask_thresh", 0.5)),
            "top_k": validators.optional(validators.positive_int)("top_k", request.get("top_k")),
            "class_agnostic_nms": flag("class_agnostic_nms", request.get("class_agnostic_nms", False)),
            "mask_nms": flag("mask_nms", request.get("mask_nms", False)),
        },
        "read": {"page": page, **validators.reading(request.get("channels"), request.get("intensity"))},
    }


def _tile_size(name: str, value: Any) -> int:
    return validators.integer(name, value, 64, 8192)


def predict_for_page(job: Job, menu: WeightsMenu) -> PageResult:
    """Return the result of a job; its state and its progress are kept."""
    model = menu.model(job.options["weights"])
    job.check()
    job.state = "running"
    started = time.perf_counter()
    read = dict(job.options["read"])
    if read["intensity"] is None:
        read["intensity"] = model.config.image.intensity
    with open_image(job.path) as image:
        pixels = image.read_rgb(**read)
    tile_size = _chosen_tile_size(job.options, pixels, model)
    if tile_size is None:
        found = model.predict(pixels, **job.options["predict"], keep_image=False)[0]
    else:
        found = _predict_tiles(job, model, pixels, tile_size)
    about = {
        "name": job.name,
        "weights": job.options["weights_title"],
        "seconds": round(time.perf_counter() - started, 2),
        "tiles": job.total,
        "tile_size": tile_size,
    }
    return make_result(found, pixels, about)


def _chosen_tile_size(options: Mapping[str, Any], pixels: np.ndarray, model: MaskRCNN) -> int | None:
    """Return the side of the tiles, None for none.

    By itself the page takes tiles for weights with a fixed scale, in images of more than twice the area of a tile:
    there may be more objects than the network can find at a time, or it would have to shrink the image. Other weights
    are those of photographs: a large one shows no more people than a small one.
    """
    config = model.config.image
    tile_size = options["tile_size"] or default_tile_size(config)
    height, width = pixels.shape[:2]
    if max(height, width) <= tile_size or options["tiles"] == "off":
        return None
    automatic = config.scale is not None and height * width > 2 * tile_size**2
    return tile_size if options["tiles"] == "on" or automatic else None


def _predict_tiles(job: Job, model: MaskRCNN, pixels: np.ndarray, tile_size: int) -> Detections:
    height, width = pixels.shape[:2]
    overlap = default_overlap(tile_size)
    job.total = len(TileGrid.of((height, width), tile_size, overlap))
    counted: Any = _Counted(model, job)
    return predict_tiled(
        counted, pixels, tile_size=tile_size, overlap=overlap, **job.options["predict"], progress=False
    )


class _Counted:
    """A model that counts its predictions, one a tile, and stops when nobody waits for them."""

    def __init__(self, model: MaskRCNN, job: Job) -> None:
        self._model, self._job = model, job

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, image: Any, **options: Any) -> list[Detections]:
        self._job.check()
        found = self._model.predict(image, **options)
        self._job.done += 1
        return found
