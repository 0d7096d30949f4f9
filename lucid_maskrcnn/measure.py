"""Measurements of objects, under the names that scikit-image has for them.

They are computed from the runs of the masks: neither time nor memory depends on the area of the image.

Shapes: G masks of H × W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import Size, open_image
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.parts import placed_runs
from lucid_maskrcnn.validators import instance, optional, pair, positive_number, shown

__all__ = ["measure_objects"]

_MAX_PIXEL_SIZE = 1e6  # micrometers: a meter

_MOST_PIXELS = 2**20  # of a crop of the image that are looked at together
_BAND, _ROWS = 2**24, 256  # bytes of the image that are read at once, in multiples of the usual tiles' rows


@answers_wrong_calls
def measure_objects(
    masks: CompressedMasks, *, image: Any = None, page: int | None = None, pixel_size: Any = None
) -> dict[str, np.ndarray]:
    """Measure objects.

    Parameters
    ----------
    masks : CompressedMasks
        G of them.
    image : path, PIL image or array of shape (H, W) or (H, W, C), optional
        What the intensities are measured in, as it is: of a file the samples, of any type, not the 8 bits that the
        network gets. Without it there are no intensities.
    page : int, optional
        Of a file with several, counted from 0.
    pixel_size : number or (height, width), optional
        Of a pixel in µm. By default what the image's file says (OME and ImageJ TIFF do); if nothing says it, there are
        no columns in µm.

    Returns
    -------
    dict of str to ndarray of shape (G,)
        ``area`` in pixels; ``centroid_x``, ``centroid_y``, in pixels of which number i covers ``[i, i + 1)``, so that
        they are 0.5 more than scikit-image's; ``equivalent_diameter_area``, of the circle of that area;
        ``axis_major_length``, ``axis_minor_length`` and ``eccentricity``, of the ellipse with the same second moments;
        ``touches_edge``, whether a pixel lies at the image's edge; ``intensity_mean_0``, …, one for each channel; and,
        if the size of a pixel is known, ``area_um2``, ``centroid_x_um``, ``centroid_y_um``,
        ``equivalent_diameter_area_um``, ``axis_major_length_um`` and ``axis_minor_length_um``. An empty mask has the
        area and the diameter 0, and NaN for everything else that is a number.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the image has another size than the masks.
    FileNotFoundError
        If there is no such image.
    """
    instance("masks", masks, CompressedMasks, "CompressedMasks")
    pixel_size = optional(_pixel_size)("pixel_size", pixel_size)
    means = None
    if image is not None:
        with open_image(image) as handle:
            means = _intensities(masks, *handle.sample_regions(page=page))
            pixel_size = handle.pixel_size if pixel_size is None else pixel_size
    elif page is not None:
        raise ValueError(f"page is of the image, and there is no image: give image= too, got page={page}.")
    return _measured(masks, means, pixel_size)


def _pixel_size(name: str, value: Any) -> tuple[float, float]:
    height, width = pair(name, value, positive_number)
    if max(height, width) > _MAX_PIXEL_SIZE:
        raise ValueError(f"{name} must be in micrometers, at most {_MAX_PIXEL_SIZE:g}, got {shown(value)}.")
    return height, width


def _measured(
    masks: CompressedMasks, means: np.ndarray | None, pixel_size: tuple[float, float] | None
) -> dict[str, np.ndarray]:
    area = masks.areas
    with np.errstate(invalid="ignore", divide="ignore"):  # empty masks
        x, y, xx, yy, xy = _moments(masks, area)
        found: dict[str, np.ndarray] = {"area": area, "centroid_x": x, "centroid_y": y}
        found["equivalent_diameter_area"] = np.sqrt(4 * area / np.pi)
        major, minor = _axes(xx, yy, xy)
        found["axis_major_length"], found["axis_minor_length"] = major, minor
        found["eccentricity"] = np.where(major == 0, 0.0, np.sqrt(np.maximum(1 - (minor / major) ** 2, 0)))
    found["touches_edge"] = masks.touch_edge
    if means is not None:
        found |= {f"intensity_mean_{channel}": means[:, channel] for channel in range(means.shape[1])}
    if pixel_size is not None:
        height, width = pixel_size
        found["area_um2"] = area * (height * width)
        found["centroid_x_um"], found["centroid_y_um"] = x * width, y * height
        found["equivalent_diameter_area_um"] = np.sqrt(4 * found["area_um2"] / np.pi)
        axes = _axes(xx * width**2, yy * height**2, xy * (height * width))
        found["axis_major_length_um"], found["axis_minor_length_um"] = axes
    return found


def _moments(masks: CompressedMasks, area: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the mean x and y of each mask's pixels, and the mean squares and product of their distances from it."""
    owner, column, top, bottom = placed_runs(masks)
    num = len(masks)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values, num) / area

    length, x, y = bottom - top, column + 0.5, (top + bottom) / 2  # of each run its pixels and its middle
    mean_x, mean_y = mean(length * x), mean(length * y)
    dx, dy = x - mean_x[owner], y - mean_y[owner]
    within = length * (length.astype(np.float64) ** 2 - 1) / 12  # squares of the distances from the run's own middle
    return mean_x, mean_y, mean(length * dx**2), mean(length * dy**2 + within), mean(length * dx * dy)


def _axes(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the axes of the ellipses with some second moments, the longer ones first."""
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return 4 * np.sqrt(middle + spread), 4 * np.sqrt(np.maximum(middle - spread, 0))


def _intensities(masks: CompressedMasks, size: Size, read: Callable[[slice, slice], np.ndarray]) -> np.ndarray:
    """Return the mean of each channel in each mask: (G, C), float64; NaN for an empty one.

    The image is read in bands of rows: of a large file only one of them is in memory.
    """
    if size != masks.image_size:
        (height, width), (h, w) = masks.image_size, size
        raise ValueError(f"image must be of the masks' size, {height} × {width} pixels, got {h} × {w}.")
    height, width = size
    corner = read(slice(0, 1), slice(0, 1))
    total = np.zeros((len(masks), corner.shape[2]))
    boxes, area = masks.boxes.astype(np.int64), masks.areas
    step = max(_BAND // max(width * corner.nbytes, 1) // _ROWS, 1) * _ROWS
    for start in range(0, height, step):
        stop = min(start + step, height)
        inside = np.flatnonzero((area > 0) & (boxes[:, 1] < stop) & (boxes[:, 3] > start))
        if not len(inside):
            continue
        band = read(slice(start, stop), slice(0, width))
        for i in inside.tolist():
            x1, y1, x2, y2 = boxes[i].tolist()
            for rows in _parts(max(y1, start), min(y2, stop), x2 - x1):
                mask = masks.decode_region(i, rows, slice(x1, x2))
                pixels = band[rows.start - start : rows.stop - start, x1:x2]
                total[i] += pixels[mask].sum(axis=0, dtype=np.float64)
    return np.divide(total, area[:, None], out=np.full_like(total, np.nan), where=area[:, None] > 0)


def _parts(start: int, stop: int, width: int) -> Iterator[slice]:
    """Yield rows from start to stop, so many at once that the memory for one object stays small."""
    step = max(1, _MOST_PIXELS // width)
    for row in range(start, stop, step):
        yield slice(row, min(row + step, stop))
