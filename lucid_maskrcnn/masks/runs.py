"""The runs of set pixels of a mask, down the columns: what run-length encodings and compressed masks are made of.

Shapes: H × W pixels of the image, h × w of a part of it, R runs.

Names: a run is the pixels from *start* to before *stop*, counted down the columns of the image, so that the pixel in
row y and column x is number ``x · H + y``.
"""

from __future__ import annotations

import numpy as np

__all__ = ["bounding_slices", "run_lengths", "runs_of_mask"]


def bounding_slices(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and the columns that a bool mask (H, W) reaches; both empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def runs_of_mask(mask: np.ndarray, height: int, *, top: int = 0, left: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs of a mask.

    Parameters
    ----------
    mask : ndarray of shape (h, w), bool
        All of an image, or a part of it.
    height : int
        H of the image.
    top, left : int
        Row and column of the part's first pixel.

    Returns
    -------
    starts, stops : ndarrays of shape (R,), int64
        Ascending. A run ends at the end of its column.
    """
    rows, columns = bounding_slices(mask)  # only what is set is transposed: objects are small, images are not
    part = mask[rows, columns]
    h = part.shape[0] + 1
    padded = np.zeros(part.shape[1] * h + 1, bool)  # a zero before the first column and after each
    padded[1:].reshape(part.shape[1], h)[:, :-1] = part.T
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    column, row = np.divmod(changes, h)
    ends = (column + columns.start + left) * height + (row + rows.start + top)
    return ends[0::2], ends[1::2]


def run_lengths(starts: np.ndarray, stops: np.ndarray, num_pixels: int) -> np.ndarray:
    """Return the lengths of alternating runs of zeros and ones that a run-length encoding lists, zeros first.

    Parameters
    ----------
    starts, stops : ndarrays of shape (R,)
        As :func:`runs_of_mask` returns them.
    num_pixels : int
        H · W of the image.

    Returns
    -------
    ndarray, int64
        They add up to ``num_pixels``. A mask that ends with a one has no last run of zeros.
    """
    ends = np.stack([starts, stops], axis=1).ravel().astype(np.int64)
    kept = np.ones(len(ends), bool)
    separate = ends[1:-1:2] != ends[2::2]  # a run that goes on in the next column is one with that
    kept[1:-1:2], kept[2::2] = separate, separate
    lengths = np.diff(ends[kept], prepend=0, append=num_pixels)
    return lengths[:-1] if len(lengths) > 1 and lengths[-1] == 0 else lengths
