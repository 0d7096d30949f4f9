"""From samples of any type to 8 bits: the rules, and their arithmetic.

A rule maps ``low`` to 0 and ``high`` to 255; samples beyond are clipped:
``floor(255 · (sample − low) / (high − low) + 1/2)``, computed exactly for 16 bits and in float64 otherwise. Bools
become 0 and 255, and 8-bit samples stay as they are, whatever the rule.

Shapes: H × W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from lucid_maskrcnn.user_warnings import warn_user

__all__ = ["Rule", "find_levels", "scaled", "to_8_bit"]

type Rule = Literal["full", "max"] | tuple[float, float]

_STRIP = 1 << 20  # samples converted at a time
_DIM = 4  # data that use less than this part of their range come out dark
_REMEDY = "intensity='max' or percentiles, such as intensity=(0.1, 99.9)"


def to_8_bit(samples: np.ndarray, rule: Rule | None, name: str, bits: int | None = None) -> np.ndarray:
    """Return samples as uint8.

    Parameters
    ----------
    samples : ndarray of shape (H, W, C)
        Bools, integers or floats. All channels are scaled alike, so that colors keep their hue.
    rule : "full", "max", (low, high) or None
        ``"full"``: 0 and the largest value of the type: 65535 for 16 bits, 32767 for signed ones, 127 for signed 8
        bits. Integers of 32 and 64 bits are taken as 16-bit ones, and floats are from 0 to 1; what exceeds that is
        refused. ``"max"``: 0 and the largest sample. A pair: these percentiles of the samples, interpolated
        linearly, as ``numpy.percentile`` does. None is ``"full"``, with a warning where it makes the image dark.
    name : str
        What messages call the image.
    bits : int, optional
        Of the samples, where the file says that there are fewer than the type has.

    Returns
    -------
    ndarray of shape (H, W, C), uint8

    Raises
    ------
    TypeError
        If the samples are no numbers.
    ValueError
        If they are beyond the range of the rule, or not finite.
    """
    kind = samples.dtype.kind
    if kind == "b":
        return np.where(samples, np.uint8(255), np.uint8(0))  # Pillow's bools are bytes of 255
    if kind not in "iuf":
        raise TypeError(f"Cannot read {name}: its pixels are of type {samples.dtype}, not integers or floats.")
    if samples.dtype == np.uint8:
        return samples
    return scaled(samples, *find_levels([samples], rule, name, bits))


def find_levels(
    pieces: Iterable[np.ndarray], rule: Rule | None, name: str, bits: int | None = None
) -> tuple[float, float]:
    """Return the samples that become black and white.

    Parameters
    ----------
    pieces : iterable of ndarray of shape (H, W, C)
        Integers of more than 8 bits, or floats, of one type: together they are the image. They are looked at one
        after the other, and only percentiles of other types than unsigned 16-bit integers need all of them at once.
    rule, name, bits
        As for :func:`to_8_bit`, which says what is raised.

    Returns
    -------
    low, high : float
    """
    least, largest, statistics = np.inf, -np.inf, _Statistics()
    for samples in pieces:
        dtype = samples.dtype
        low, high = float(samples.min()), float(samples.max())
        if not np.isfinite(low) or not np.isfinite(high):
            raise ValueError(f"Cannot read {name}: it has pixels that are NaN or infinite; replace them first.")
        least, largest = min(least, low), max(largest, high)
        if isinstance(rule, tuple):
            statistics.add(samples)
    if isinstance(rule, tuple):
        return statistics.percentiles(rule)
    high = largest if rule == "max" else _full_range(dtype, bits)
    _check_range(dtype, least, largest, high, name)
    if rule is None:
        _warn_if_dark(largest, high, dtype, name)
    return 0.0, high


def _full_range(dtype: np.dtype, bits: int | None) -> float:
    if dtype.kind == "f":
        return 1.0
    if bits is not None and dtype.itemsize <= 2:
        return float(2**bits - 1)
    return float(np.iinfo(dtype).max) if dtype.itemsize <= 2 else 65535.0


def _check_range(dtype: np.dtype, least: float, largest: float, high: float, name: str) -> None:
    if least >= 0 and largest <= high:
        return
    what = "floats" if dtype.kind == "f" else "integers"
    extent = f"its {what} run from {least:.10g} to {largest:.10g}"
    if least < 0:
        raise ValueError(
            f"Cannot read {name}: {extent}, and black is 0; set percentiles, such as intensity=(0.1, 99.9)."
        )
    if dtype.kind == "f":
        scale = "divide values of 0 to 255 by 255, or " if largest <= 255 else ""
        raise ValueError(f"Cannot read {name}: {extent}, beyond the range of floats, 0 to 1: {scale}set {_REMEDY}.")
    raise ValueError(f"Cannot read {name}: {extent}, beyond {_bits_of(high)} bits; set {_REMEDY}.")


def _bits_of(high: float) -> int:
    return int(high).bit_length()


def _warn_if_dark(largest: float, high: float, dtype: np.dtype, name: str) -> None:
    if not 0 < largest < (high + (dtype.kind != "f")) / _DIM:
        return
    less = f", as {_bits_of(largest)} bits in {_bits_of(high)} do" if dtype.kind != "f" else ""
    warn_user(
        f"{name[0].upper()}{name[1:]} comes out dark: its largest value is {largest:.10g} of {high:.10g}{less}. Set "
        f"{_REMEDY}, or intensity='full' if it is meant to be dark."
    )


# ------------------------------------------------------------------ arithmetic


def _strips(samples: np.ndarray) -> Iterator[slice]:
    rows = max(1, _STRIP // max(1, samples[:1].size))
    for start in range(0, len(samples), rows):
        yield slice(start, start + rows)


class _Statistics:
    """The samples whose percentiles are asked for: their counts, where that is possible."""

    def __init__(self) -> None:
        self._counts = np.zeros(1 << 16, np.int64)
        self._values: list[np.ndarray] = []

    def add(self, samples: np.ndarray) -> None:
        if samples.dtype.kind == "u" and samples.dtype.itemsize == 2:  # no sorted copy of a large image
            for rows in _strips(samples):
                self._counts += np.bincount(samples[rows].reshape(-1), minlength=1 << 16)
        else:
            self._values.append(samples.astype(np.float32) if samples.dtype == np.float16 else samples)

    def percentiles(self, rule: tuple[float, float]) -> tuple[float, float]:
        if not self._values:
            return _percentile_of_counts(self._counts, rule[0]), _percentile_of_counts(self._counts, rule[1])
        one = self._values[0] if len(self._values) == 1 else np.concatenate([v.reshape(-1) for v in self._values])
        low, high = np.percentile(one, rule)
        return float(low), float(high)


def _percentile_of_counts(counts: np.ndarray, percent: float) -> float:
    below = np.cumsum(counts)
    rank = (int(below[-1]) - 1) * percent / 100
    before, after = (float(np.searchsorted(below, np.floor(r), side="right")) for r in (rank, np.ceil(rank)))
    return before + (after - before) * (rank - np.floor(rank))


def scaled(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return samples of more than 8 bits as uint8, of the same shape: ``low`` is black and ``high`` white."""
    if samples.dtype.itemsize == 2 and samples.dtype.kind in "iu":
        table = _table(samples.dtype, low, high)
        codes = np.ascontiguousarray(samples).astype(samples.dtype.newbyteorder("="), copy=False).view(np.uint16)
        eight = np.empty(samples.shape, np.uint8)
        for rows in _strips(samples):
            np.take(table, codes[rows], out=eight[rows])
        return eight
    eight = np.empty(samples.shape, np.uint8)
    for rows in _strips(samples):
        eight[rows] = _map(samples[rows].astype(np.float64), low, high)
    return eight


def _table(dtype: np.dtype, low: float, high: float) -> np.ndarray:
    """Return the 8-bit value of each code of 16 bits, signed codes in two's complement."""
    codes = np.arange(1 << 16, dtype=np.uint16).view(dtype.newbyteorder("=")).astype(np.int64)
    if low == int(low) and high == int(high) and high > low:
        width = int(high - low)
        exact = (510 * (codes.clip(int(low), int(high)) - int(low)) + width) // (2 * width)
        return exact.astype(np.uint8)
    return _map(codes.astype(np.float64), low, high)


def _map(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if high <= low:  # a constant image has no contrast
        return np.zeros(values.shape, np.uint8)
    values = values.clip(low, high)
    values -= low
    values *= 255.0
    values /= high - low
    values += 0.5
    return np.floor(values, out=values).clip(0, 255).astype(np.uint8)
