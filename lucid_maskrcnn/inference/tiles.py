"""Prediction on an image that is too large for the network: tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lucid_maskrcnn import validators
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.images import RGBRegions, open_image
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.models.limits import Limits
from lucid_maskrcnn.models.mask_rcnn import MaskRCNN
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.streams import with_progress

from .predictors import check_predictor, checked_options, image_config_of, labels_of
from .tile_grid import TileGrid, default_overlap, default_tile_size
from .tile_merging import TiledObjects, merge_tiles

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["check_tiles", "predict_tiled", "predict_tiles"]


@answers_wrong_calls
def predict_tiled(
    model: MaskRCNN,
    image: str | Path | Image.Image | np.ndarray,
    *,
    tile_size: int | None = None,
    overlap: int | None = None,
    merge_thresh: float = 0.5,
    score_thresh: float = 0.05,
    nms_thresh: float | None = None,
    top_k: int | None = None,
    mask_thresh: float = 0.5,
    classes: str | int | Sequence[str | int] | None = None,
    class_agnostic_nms: bool = False,
    mask_nms: bool = False,
    page: int | None = None,
    channels: int | Sequence[int] | None = None,
    intensity: str | Sequence[float] | None = None,
    progress: bool = True,
) -> Detections:
    """Find the objects in a large image by overlapping tiles, each seen at the scale of the weights.

    Tiles are read and predicted on one by one. An object that lies at the border of a tile is seen whole by a neighbor
    if it is smaller than the overlap, and is taken from there; one that is larger is united of its parts. Memory is
    that of one row of tiles and of the objects found, where parts of the image can be read by themselves: arrays, and
    TIFF files that are not compressed, or are stored in tiles or strips. Other files are read whole.

    Parameters
    ----------
    model : MaskRCNN
        Or any object with such a ``predict``.
    image : str, Path, PIL.Image.Image or np.ndarray
        As for :meth:`MaskRCNN.predict <lucid_maskrcnn.MaskRCNN.predict>`; one image.
    tile_size : int, optional
        Side of the tiles in pixels of the image. By default that at which the network sees objects as large as in
        training: ``config.image.min_size``, or with a fixed ``scale`` half of ``max_size / scale``.
    overlap : int, optional
        Pixels that neighboring tiles share, at least 1 and less than ``tile_size``: more than the size of the largest
        usual objects. By default a quarter of ``tile_size``.
    merge_thresh : float
        Detections of two tiles are the same object if the IoU of their masks is at least this, of what both tiles see.
    score_thresh, nms_thresh, mask_thresh, classes, class_agnostic_nms, mask_nms
        As for :meth:`MaskRCNN.predict <lucid_maskrcnn.MaskRCNN.predict>`.
    top_k : int, optional
        At most so many detections per tile, by default the model's own number; an image may have any number.
    page, channels, intensity
        As for :func:`~lucid_maskrcnn.images.load_image`; ``intensity`` is of the whole image, not of a tile.
    progress : bool
        Show a progress bar, on stderr if that is a terminal, or in a notebook.

    Returns
    -------
    Detections
        In pixels of the image, best first, with compressed masks, on the model's device; without the image.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If the image cannot be read or has 2³¹ pixels or more, or an argument is not as above.

    Warns
    -----
    UserWarning
        Once, if objects may be missing in some tiles, see :meth:`MaskRCNN.predict <lucid_maskrcnn.MaskRCNN.predict>`.
    """
    check_predictor("model", model, "a MaskRCNN or another model")
    options = checked_options(score_thresh, nms_thresh, top_k, mask_thresh, class_agnostic_nms, mask_nms)
    if classes is not None:
        options["classes"] = labels_of(model, classes)
    merge_thresh = validators.open_fraction("merge_thresh", merge_thresh)
    sides, config = check_tiles(model, tile_size, overlap), image_config_of(model)
    progress = validators.flag("progress", progress)
    read: dict[str, Any] = {"page": page, **validators.reading(channels, intensity)}
    if read["intensity"] is None and config is not None:
        read["intensity"] = config.intensity
    with open_image(image) as opened:
        pixels = opened.rgb_regions(**read)
        grid = TileGrid.of(validators.image_size("image", pixels.size), *sides)
        found, like = predict_tiles(model, pixels, grid, options, progress=progress)
    merged = merge_tiles(found, grid, merge_thresh, class_agnostic=bool(class_agnostic_nms))
    return Detections(
        as_tensor(merged.boxes, like.boxes),
        merged.scores,
        merged.labels,
        masks=merged.masks,
        categories=like.categories,
        mask_thresh=options["mask_thresh"],
    )


def check_tiles(model: Any, tile_size: Any, overlap: Any) -> tuple[int, int]:
    """Return the side of the tiles and their overlap, checked, or by default what suits the model's weights.

    Raises
    ------
    TypeError, ValueError
        If they are not as :func:`predict_tiled` wants them.
    """
    if tile_size is None:
        config = image_config_of(model)
        if config is None:
            raise ValueError("tile_size must be given: the model has no config.image, which says its scale.")
        tile_size = default_tile_size(config)
    tile_size = validators.integer("tile_size", tile_size, 2)
    if overlap is None:
        return tile_size, default_overlap(tile_size)
    return tile_size, validators.integer("overlap", overlap, 1, tile_size - 1)


def predict_tiles(
    model: Any, pixels: RGBRegions, grid: TileGrid, options: Mapping[str, Any], *, progress: bool
) -> tuple[TiledObjects, Detections]:
    """Return what all tiles have, in pixels of the image, and the detections of the first."""
    columns: list[tuple[np.ndarray, ...]] = []
    masks: list[CompressedMasks] = []
    height, width = grid.image_size
    first: Detections | None = None
    with Limits() as limits:
        limits.tiled, of_image = True, "" if limits.name is None else f" of {limits.name}"
        tiles = with_progress(_tiles(pixels, grid), len(grid), progress, desc="tiles", unit="tile")
        for number, (tile, top, left) in enumerate(tiles):
            limits.name = f"the tile at row {top}, column {left}{of_image}"
            found: Detections = model.predict(tile, **options, keep_image=False)[0]
            first = found if first is None else first
            boxes = host(found.boxes) + np.array([left, top, left, top], np.float32)
            columns.append((boxes, host(found.scores), host(found.labels), np.full(len(found), number)))
            masks.append(found.compressed_masks.cropped(-top, -left, height, width))
    assert first is not None
    boxes, scores, labels, tile_numbers = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return TiledObjects(boxes, scores, labels, CompressedMasks.concatenated(masks), tile_numbers), first


def _tiles(pixels: RGBRegions, grid: TileGrid) -> Iterator[tuple[np.ndarray, int, int]]:
    """Yield the pixels of each tile, (h, w, 3) uint8, and its first row and column; rows of tiles are read at once."""
    height, width = grid.tile_size
    for top in grid.tops:
        row = pixels.read(slice(top, top + height), slice(0, grid.image_size[1]))
        for left in grid.lefts:
            yield row[:, left : left + width], top, left
