"""COCO's run-length encoding of masks: the lengths of alternating runs of zeros and ones.

The pixels are read column by column (down, then right), and the first run is one of zeros, of
length 0 if need be. The compressed form writes every length as a number of 5-bit digits in
printable ASCII, and from the fourth on the difference to the last length but one. The strings
are, byte for byte, those of pycocotools.

Shapes: R runs of a mask, D digits of all strings, S strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lucid_maskrcnn.array_arguments import numeric_array, zeros_and_ones
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.masks.runs import run_lengths, runs_of_mask
from lucid_maskrcnn.validators import image_size, non_negative_int, sequence, shown

__all__ = ["decode_rle", "encode_rle", "parse_rle", "rle_area"]

_MAX_DENSE_PIXELS = 2**28  # decoded, a byte each: far more than any image that fits a network
_MAX_DIGITS = 7  # 35 bits, and an image has less than 2³¹ pixels


@answers_wrong_calls
def encode_rle(mask: Any) -> dict[str, Any]:
    """Encode a mask as a compressed COCO run-length encoding.

    Parameters
    ----------
    mask : array or Tensor of shape (H, W), bool or numbers
        Numbers must be 0 or 1.

    Returns
    -------
    dict
        ``{"size": [H, W], "counts": str}``, ready for JSON and for pycocotools.

    Raises
    ------
    TypeError
        If ``mask`` is not an array of bools or numbers.
    ValueError
        If it is not two-dimensional or holds anything but 0 and 1.
    """
    pixels = numeric_array("mask", mask, "one mask of shape (H, W)", kinds="biuf", shape=(None, None))
    pixels = zeros_and_ones("mask", pixels)
    lengths = run_lengths(*runs_of_mask(pixels, pixels.shape[0]), pixels.size)
    return {"size": list(pixels.shape), "counts": encode_counts(lengths)}


@answers_wrong_calls
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
    TypeError
        If ``rle`` is not a mapping, or ``size`` or ``counts`` is of another type.
    ValueError
        If a key is missing, ``counts`` is malformed, or its lengths do not add up to ``H · W``; or if ``H · W``
        is above 2²⁸, as a few bytes could ask for any amount of memory: :class:`CompressedMasks` reads larger masks.
    """
    lengths, (height, width) = parse_rle(rle)
    if height * width > _MAX_DENSE_PIXELS:
        raise ValueError(
            f"rle['size'] must have at most 2²⁸ pixels to be decoded, got {height} × {width}: "
            "CompressedMasks.from_coco reads larger masks."
        )
    ones = np.arange(len(lengths)) % 2 == 1
    return np.ascontiguousarray(np.repeat(ones, lengths).reshape(width, height).T)


@answers_wrong_calls
def rle_area(rle: Mapping[str, Any]) -> int:
    """Count the pixels of a mask without decoding it.

    Parameters
    ----------
    rle : mapping
        As for :func:`decode_rle`, which says what is raised.
    """
    lengths, _ = parse_rle(rle)
    return int(lengths[1::2].sum())


def parse_rle(rle: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the run lengths of a checked encoding, (R,) int64, and the size of its image.

    Parameters
    ----------
    rle : mapping
        As for :func:`decode_rle`, which says what is raised.
    """
    if not isinstance(rle, Mapping):
        raise TypeError(f"rle must be a mapping with keys 'size' and 'counts', got {shown(rle)}.")
    if not {"size", "counts"} <= rle.keys():
        raise ValueError(f"rle must be a mapping with keys 'size' and 'counts', got {shown(dict(rle))}.")
    sequence("rle['size']", rle["size"], non_negative_int, length=2)
    height, width = image_size("rle['size']", rle["size"], minimum=0)
    counts = rle["counts"]
    if isinstance(counts, (str, bytes)):
        lengths, _ = decode_counts([counts])
    else:
        wanted = "a string or a list of integers"
        lengths = numeric_array("rle['counts']", counts, wanted, kinds="iu", shape=(None,)).astype(np.int64)
    if (lengths < 0).any():
        raise ValueError(f"rle['counts'] holds a run of negative length, {lengths.min()}.")
    # Compared one by one first: the sum of absurd lengths would wrap around.
    if (lengths > height * width).any() or lengths.sum() != height * width:
        raise ValueError(f"rle['counts'] does not cover the {height} × {width} pixels of rle['size'].")
    return lengths, (height, width)


# ------------------------------------------------------------------ strings


def encode_counts(lengths: np.ndarray) -> str:
    """Return run lengths, (R,) int64, as a compressed string."""
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


def decode_counts(strings: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the run lengths that compressed strings hold.

    All at once: ten times faster than one by one, as the strings of small objects are short.

    Parameters
    ----------
    strings : sequence of str or bytes, S of them

    Returns
    -------
    lengths : ndarray, int64
        Of one string after the other. Some may be negative.
    num : ndarray of shape (S,), int64
        How many of them are of each string.

    Raises
    ------
    ValueError
        If a string is malformed.
    """
    raw = [s.encode("utf-8", "surrogatepass") if isinstance(s, str) else s for s in strings]
    digits = np.frombuffer(b"".join(raw), np.uint8).astype(np.int64) - 48  # (D,)
    bounds = np.cumsum([0, *map(len, raw)])  # (S + 1,)
    last = digits < 32  # of its number
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))[: len(ends)]
    num_digits = ends - starts + 1
    _check_digits(strings, digits, bounds, num_digits)
    place = np.arange(len(digits)) - np.repeat(starts, num_digits)
    # reduceat takes no empty list of starts.
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


def _check_digits(
    strings: Sequence[str | bytes], digits: np.ndarray, bounds: np.ndarray, num_digits: np.ndarray
) -> None:
    """Raise ``ValueError`` for strings that hold no numbers: they name the first such string."""
    odd = (digits < 0) | (digits > 63)
    not_empty = np.diff(bounds) > 0
    unfinished = np.zeros(len(strings), bool)
    unfinished[not_empty] = digits[bounds[1:][not_empty] - 1] >= 32
    if odd.any():
        row, what = _string_of(bounds, odd.argmax()), "characters that no compressed encoding has"
    elif unfinished.any():
        row, what = int(unfinished.argmax()), "an unfinished number at its end"
    elif (num_digits > _MAX_DIGITS).any():
        end = np.cumsum(num_digits)[(num_digits > _MAX_DIGITS).argmax()] - 1
        row, what = _string_of(bounds, end), "a number too large for an image"
    else:
        return
    raise ValueError(f"rle['counts'] holds {what}: {shown(strings[row])}.")


def _string_of(bounds: np.ndarray, position: np.integer[Any]) -> int:
    return int(np.searchsorted(bounds, position, side="right")) - 1
