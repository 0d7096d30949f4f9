"""Parts of the images in a TIFF file, without reading the rest: rows of plain ones, the tiles or strips of others.

Shapes: S separately stored samples, D planes, H × W pixels, C samples stored together, h × w a part of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from .tiff_segments import decode_segment, has_segments

__all__ = ["has_regions", "region_by_pillow", "region_of_image", "region_of_stored"]

_MOST_OF_HEIGHT = 4  # a strip that is a greater part of the image than this divisor's, is not worth decoding again


def has_regions(image: Any, *, by_pillow: bool = False) -> bool:
    """Whether a part of an image can be read for less than all of it.

    Parameters
    ----------
    image : tifffile.TiffPage or TiffFrame
    by_pillow : bool
        Whether Pillow decodes it, or tifffile.
    """
    if by_pillow:
        return has_segments(image) and _is_divided(image)
    return _is_plain(image) or (int(image.keyframe.tiledepth or 1) <= 1 and _is_divided(image.keyframe))


def _is_divided(keyframe: Any) -> bool:
    return _segment_size(keyframe)[0] * _MOST_OF_HEIGHT <= int(keyframe.imagelength)


def region_of_image(image: Any, file: BinaryIO, depth: int, rows: slice, columns: slice) -> np.ndarray:
    """Return a part of an image.

    Parameters
    ----------
    image : tifffile.TiffPage or TiffFrame
        For which :func:`has_regions` is true.
    file : file
        The image's.
    depth : int
        Which of its D planes.
    rows, columns : slice
        With start and stop, inside the image as it is stored.

    Returns
    -------
    ndarray of shape (h, w, S · C)

    Raises
    ------
    ValueError
        If it is damaged.
    """
    if _is_plain(image):
        return region_of_stored(image.keyframe, file, int(image.dataoffsets[0]), depth, rows, columns)
    return _of_segments(image, file, depth, rows, columns)


def region_of_stored(keyframe: Any, file: BinaryIO, offset: int, depth: int, rows: slice, columns: slice) -> np.ndarray:
    """Return a part of an image that is stored plainly from ``offset`` on; see :func:`region_of_image`."""
    separate, planes, height, width, contiguous = (int(n) for n in keyframe.shaped)
    dtype = keyframe.dtype.newbyteorder(keyframe.parent.byteorder)
    h = rows.stop - rows.start
    region = np.empty((h, columns.stop - columns.start, separate * contiguous), keyframe.dtype)
    line = width * contiguous * dtype.itemsize
    for sample in range(separate):
        file.seek(offset + ((sample * planes + depth) * height + rows.start) * line)
        content = file.read(h * line)
        if len(content) < h * line:
            raise ValueError("it is truncated: pixels are said to be beyond the end of the file")
        whole_rows = np.frombuffer(content, dtype).reshape(h, width, contiguous)
        region[:, :, sample * contiguous : (sample + 1) * contiguous] = whole_rows[:, columns]
    return region


def _is_plain(image: Any) -> bool:
    """Whether the rows of an image follow each other in the file, as they are."""
    return bool(image.is_final) and image.dtype is not None and sum(image.databytecounts) == image.keyframe.nbytes


def region_by_pillow(image: Any, file: BinaryIO, rows: slice, columns: slice) -> np.ndarray:
    """Return a part of an image that Pillow decodes, (h, w, C); see :func:`region_of_image`."""
    height, width = int(image.imagelength), int(image.imagewidth)
    tall, wide = _segment_size(image)
    region: np.ndarray | None = None
    for y, x in _touched(image, rows, columns):
        # Strips end with the image, tiles do not.
        high = tall if image.is_tiled else min(tall, height - y * tall)
        decoded = decode_segment(image, file, y * math.ceil(width / wide) + x, high, wide)
        if region is None:
            shape = (rows.stop - rows.start, columns.stop - columns.start, decoded.shape[2])
            region = np.zeros(shape, decoded.dtype)
        _copy_part(decoded, y * tall - rows.start, x * wide - columns.start, region)
    assert region is not None
    return region


def _segment_size(keyframe: Any) -> tuple[int, int]:
    """Return height and width of tiles, or of strips."""
    if keyframe.is_tiled:
        return int(keyframe.tilelength), int(keyframe.tilewidth)
    return int(keyframe.rowsperstrip), int(keyframe.imagewidth)


def _touched(keyframe: Any, rows: slice, columns: slice) -> Iterator[tuple[int, int]]:
    """Yield the row and the column of each tile or strip that a region touches."""
    tall, wide = _segment_size(keyframe)
    for y in range(rows.start // tall, -(-rows.stop // tall)):
        for x in range(columns.start // wide, -(-columns.stop // wide)):
            yield y, x


def _of_segments(image: Any, file: BinaryIO, depth: int, rows: slice, columns: slice) -> np.ndarray:
    """Return a part of an image that is stored in tiles or strips, decoding those that it touches."""
    keyframe = image.keyframe
    separate, planes, height, width, contiguous = (int(n) for n in keyframe.shaped)
    tall, wide = _segment_size(keyframe)
    down, across = math.ceil(height / tall), math.ceil(width / wide)
    more = {"jpegtables": image.jpegtables, "jpegheader": keyframe.jpegheader} if keyframe.compression in (6, 7) else {}
    region = np.zeros((rows.stop - rows.start, columns.stop - columns.start, separate * contiguous), keyframe.dtype)
    for sample in range(separate):
        into = region[:, :, sample * contiguous : (sample + 1) * contiguous]
        for y, x in _touched(keyframe, rows, columns):
            index = ((sample * planes + depth) * down + y) * across + x
            file.seek(image.dataoffsets[index])
            decoded, *_ = keyframe.decode(file.read(image.databytecounts[index]), index, **more)
            _copy_part(decoded[0], y * tall - rows.start, x * wide - columns.start, into)
    return region


def _copy_part(segment: np.ndarray, top: int, left: int, region: np.ndarray) -> None:
    """Copy what a segment (h, w, C), whose first pixel is at row ``top`` and column ``left``, has of a region."""
    bottom, right = min(top + len(segment), len(region)), min(left + segment.shape[1], region.shape[1])
    from_row, from_column = max(top, 0), max(left, 0)
    part = segment[from_row - top : bottom - top, from_column - left : right - left]
    region[from_row:bottom, from_column:right] = part
