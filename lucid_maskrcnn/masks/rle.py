"""Run-length encoding of masks, as COCO has it: the lengths of alternating runs of zeros and ones.

The pixels are read column by column (down, then right), and the first run is one of zeros, of
length 0 if need be. The compressed form writes every length as a number of 5-bit digits in
printable ASCII, and from the fourth on the difference to the last length but one. The strings
are, byte for byte, those of pycocotools.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.ops import host

__all__ = ["decode_rle", "encode_rle", "rle_area"]

_MAX_DIGITS = 7  # 35 bits, and an image has less than 2³¹ pixels


def encode_rle(mask: Any) -> dict[str, Any]:
    """Encode a mask as a compressed COCO run-length encoding.

    Parameters
    ----------
    mask : array or Tensor of shape (H, W), bool or integers
        Integers must be 0 or 1.

    Returns
    -------
    dict
        ``{"size": [H, W], "counts": str}``, ready for JSON and for pycocotools.

    Raises
    ------
    ValueError
        If ``mask`` is not two-dimensional or holds anything but 0 and 1.
    """
    pixels = host(mask) if isinstance(mask, Tensor) else np.asarray(mask)
    if pixels.ndim != 2:
        raise ValueError(f"mask must be one mask of shape (H, W), got shape {pixels.shape}.")
    if pixels.dtype != bool:
        if not np.isin(pixels, (0, 1)).all():
            raise ValueError(
                f"mask must hold only 0 and 1, got others ({pixels.dtype}): compare with a threshold first."
            )
        pixels = pixels.astype(bool)
    return {"size": list(pixels.shape), "counts": compress(_run_lengths(pixels))}


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """Decode a COCO run-length encoding, compressed or not.

    Parameters
    ----------
    rle : mapping
        ``size`` is ``[H, W]``; ``counts`` is a compressed string (str or bytes) or a list of lengths.

    Returns
    -------
    ndarray of shape (H, W), bool

    Raises
    ------
    ValueError
        If a key is missing, ``counts`` is malformed, or its lengths do not add up to ``H · W``.
    """
    counts, (height, width) = parse(rle)
    ones = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(ones, counts).reshape(width, height).T)


def rle_area(rle: Mapping[str, Any]) -> int:
    """Count the pixels of a mask without decoding it.

    Parameters
    ----------
    rle : mapping
        As for :func:`decode_rle`, which says what is raised.
    """
    counts, _ = parse(rle)
    return int(counts[1::2].sum())


def bounding_slices(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and the columns that a bool mask (H, W) needs; none for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


# ------------------------------------------------------------------ lengths


def _run_lengths(pixels: np.ndarray) -> np.ndarray:
    """Return the lengths of the runs of a bool mask, zeros first: (R,) int64."""
    height = pixels.shape[0]
    # Only the columns that hold something are transposed: objects are small, images are not.
    _, used = bounding_slices(pixels)
    columns = np.zeros((used.stop - used.start) * height + 2, bool)  # a zero at either end
    columns[1:-1] = pixels[:, used].T.ravel()
    changes = np.flatnonzero(columns[1:] != columns[:-1]) + used.start * height
    lengths = np.diff(changes, prepend=0, append=pixels.size)
    # A mask that ends on a one ends without a run of zeros; an empty image is one run of length 0.
    return lengths[:-1] if len(lengths) > 1 and lengths[-1] == 0 else lengths


def parse(rle: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the run lengths, (R,) int64, and the size of a checked encoding."""
    if not isinstance(rle, Mapping) or not {"size", "counts"} <= rle.keys():
        raise ValueError(f"rle must be a mapping with keys 'size' and 'counts', got {brief(rle)}.")
    try:
        height, width = (operator.index(n) for n in rle["size"])
    except (TypeError, ValueError):
        size = brief(rle["size"])
        raise ValueError(f"rle['size'] must be two integers (height, width), got {size}.") from None
    if height < 0 or width < 0:
        raise ValueError(f"rle['size'] must not be negative, got {[height, width]}.")
    counts = rle["counts"]
    lengths = _decompress(counts) if isinstance(counts, str | bytes) else _integers(counts)
    if (lengths < 0).any():
        raise ValueError(f"rle['counts'] holds a run of negative length, {lengths.min()}.")
    # Compared one by one first: the sum of absurd lengths would wrap around.
    if (lengths > height * width).any() or lengths.sum() != height * width:
        raise ValueError(f"rle['counts'] does not cover the {height} × {width} pixels of rle['size'].")
    return lengths, (height, width)


def _integers(counts: Any) -> np.ndarray:
    try:
        values = np.asarray(counts)
    except ValueError:  # lists of different lengths
        values = np.asarray(None)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"rle['counts'] must be a string or a list of integers, got {brief(counts)}.")
    return values.astype(np.int64)


def brief(value: object) -> str:
    """Return ``repr(value)``, cut short, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------ strings


def compress(lengths: np.ndarray) -> str:
    rest = lengths.copy()
    rest[3:] -= lengths[1:-2]
    digits = np.empty((len(rest), _MAX_DIGITS), np.uint8)
    used = np.empty(digits.shape, bool)
    more = np.ones(len(rest), bool)
    for k in range(_MAX_DIGITS):  # the lowest five bits come first
        digit = rest & 31
        rest >>= 5
        used[:, k] = more
        more = more & (rest != np.where(digit & 16, -1, 0))  # the top bit of the last digit is the sign
        digits[:, k] = digit + 32 * more + 48
    return digits[used].tobytes().decode("ascii")


def _decompress(counts: str | bytes) -> np.ndarray:
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        raw = b"\x00"
    digits = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if ((digits < 0) | (digits > 63)).any():
        raise ValueError(f"rle['counts'] holds characters that no compressed encoding has: {brief(counts)}.")
    last = digits < 32
    if len(digits) and not last[-1]:
        raise ValueError(f"rle['counts'] ends in the middle of a number: {brief(counts)}.")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    num_digits = ends - starts + 1
    if (num_digits > _MAX_DIGITS).any():
        raise ValueError(f"rle['counts'] holds a number too large for an image: {brief(counts)}.")
    place = np.arange(len(digits)) - np.repeat(starts, num_digits)
    # reduceat takes no empty list of starts.
    lengths = np.add.reduceat((digits & 31) << (5 * place), starts) if len(starts) else starts
    lengths = lengths - np.where(digits[ends] & 16, np.int64(1) << (5 * num_digits), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def decompress_all(strings: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths that compressed strings hold, one string after the other, and how many each has.

    Ten times faster than one by one, as the strings of small objects are short.

    Raises
    ------
    ValueError
        If one is malformed; :func:`parse` says how.
    """
    raw = [string.encode() if isinstance(string, str) else string for string in strings]
    digits = np.frombuffer(b"".join(raw), np.uint8).astype(np.int64) - 48
    bounds = np.cumsum([0, *map(len, raw)])
    last = digits < 32
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))[: len(ends)]
    num_digits = ends - starts + 1
    in_range = ((digits >= 0) & (digits <= 63)).all() and (num_digits <= _MAX_DIGITS).all()
    if not in_range or not last[bounds[1:][np.diff(bounds) > 0] - 1].all():
        raise ValueError("rle['counts'] of one of the encodings is malformed.")
    place = np.arange(len(digits)) - np.repeat(starts, num_digits)
    lengths = np.add.reduceat((digits & 31) << (5 * place), starts) if len(starts) else starts
    lengths = lengths - np.where(digits[ends] & 16, np.int64(1) << (5 * num_digits), 0)
    num = np.diff(np.concatenate(([0], np.cumsum(last)))[bounds])
    index = np.arange(len(lengths)) - np.repeat(np.cumsum(num) - num, num)
    for first in (1, 2):  # every second number of each string is a difference to the one before
        some = np.flatnonzero((index >= first) & (index % 2 == first % 2))
        values, begins = lengths[some], np.flatnonzero(index[some] == first)
        total = np.cumsum(values)
        lengths[some] = total - np.repeat(total[begins] - values[begins], np.diff(begins, append=len(some)))
    return lengths, num
