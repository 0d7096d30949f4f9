"""An image that is open: what it has, and reading a page of it.

Shapes: H × W pixels, C channels. Sizes are (height, width).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from lucid_maskrcnn import validators
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.reprs import brief, described, fields_repr

from .intensity import find_levels, scaled, to_8_bit

__all__ = ["ArrayHandle", "ImageHandle", "RGBRegions", "Samples", "Size", "stored_view"]

type Size = tuple[int, int]

_SAMPLES_AT_ONCE = 1 << 22  # of a large image, when it is gone through for its range, or a row of tiles of a file
_ROWS_AT_ONCE = 512


class Samples(NamedTuple):
    """The samples of a page, upright.

    Attributes
    ----------
    array : ndarray of shape (H, W, C)
        Without alpha.
    bits : int or None
        Of each sample, if the file says that there are fewer than the type has.
    """

    array: np.ndarray
    bits: int | None = None

    def __repr__(self) -> str:
        return fields_repr(self)


class RGBRegions(NamedTuple):
    """A page whose parts are read one by one, each as the network takes it.

    Attributes
    ----------
    size : (height, width)
        Of the page.
    read : callable
        Takes two slices with start and stop, rows and columns inside the page, and returns (h, w, 3) uint8: the same
        pixels that :meth:`ImageHandle.read_rgb` has there. As long as the image is open.
    """

    size: Size
    read: Callable[[slice, slice], np.ndarray]

    def __repr__(self) -> str:
        return fields_repr(self)


@answers_wrong_calls
class ImageHandle(ABC):
    """An image that is open; a context manager, which closes it.

    Attributes
    ----------
    name : str
        What messages call it: "the image file 'a.tif'".
    shape : (height, width)
        Of the first page, as it is read.
    dtype : np.dtype
        Of the samples.
    pages : int
        Time, depth, positions or frames; channels are none.
    channels : int
        Without alpha.
    pixel_size : (float, float) or None
        Height and width of a pixel in µm, if the file says so.
    turned : bool
        Whether the file's orientation swaps height and width.
    """

    name: str
    shape: Size
    dtype: np.dtype
    pages: int = 1
    channels: int = 1
    pixel_size: tuple[float, float] | None = None
    turned: bool = False

    @described
    def __repr__(self) -> str:
        return f"{type(self).__name__}({brief(self.name)})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - arrays have nothing to close
        """Close the file."""

    @abstractmethod
    def _samples(self, page: int) -> Samples:
        """Return the samples of a page."""

    def read(self, *, page: int | None = None, channels: Any = None) -> np.ndarray:
        """Return the samples of a page as they are, unscaled.

        Parameters
        ----------
        page : int, optional
            Counted from 0; may be left out if there is one.
        channels : int or sequence of int, optional
            Counted from 0; by default all of them.

        Returns
        -------
        ndarray of shape (H, W, C)

        Raises
        ------
        ValueError
            If there are several pages and none is chosen, there is no such page or channel, or it cannot be read.
        TypeError
            If an argument is not as above.
        """
        array = self._samples(self.page(page)).array
        return array if channels is None else self._chosen(array, validators.channel_numbers("channels", channels))

    def read_rgb(self, *, page: int | None = None, channels: Any = None, intensity: Any = None) -> np.ndarray:
        """Return a page as the network takes it: RGB of 8 bits; see :func:`load_image`.

        Returns
        -------
        ndarray of shape (H, W, 3), uint8
        """
        numbers = None if channels is None else validators.channel_numbers("channels", channels)
        rule = None if intensity is None else validators.intensity_rule("intensity", intensity)
        array, bits = self._samples(self.page(page))
        return _three_channels(to_8_bit(self._colors(array, numbers), rule, self.name, bits))

    def read_region(self, rows: slice, columns: slice, *, page: int | None = None, channels: Any = None) -> np.ndarray:
        """Return the samples of a part of a page, unscaled.

        Of arrays and of TIFF files that are not compressed, or are stored in tiles or in strips of up to a quarter of
        the page, nothing else is read, unless they are turned by their orientation. Of other files the whole page is.

        Parameters
        ----------
        rows, columns : slice
            With start and stop, inside the page.
        page, channels
            As for :meth:`read`, which says what is raised.

        Returns
        -------
        ndarray of shape (h, w, C)
        """
        number = self.page(page)
        height, width = self._size(number)
        rows, columns = validators.inner_slice("rows", rows, height), validators.inner_slice("columns", columns, width)
        if self._reads_regions(number):
            array = self._region(number, rows, columns).array
        else:
            array = self._samples(number).array[rows, columns]
        return array if channels is None else self._chosen(array, validators.channel_numbers("channels", channels))

    def sample_regions(self, *, page: int | None = None) -> tuple[Size, Callable[[slice, slice], np.ndarray]]:
        """Return the size of a page, and what reads the samples of rows and columns of it as :meth:`read_region` does.

        Files whose parts cannot be read by themselves are read now, and kept.
        """
        number = self.page(page)
        if self._reads_regions(number):
            return self._size(number), lambda rows, columns: self._region(number, rows, columns).array
        array = self._samples(number).array
        return (array.shape[0], array.shape[1]), lambda rows, columns: array[rows, columns]

    def rgb_regions(self, *, page: int | None = None, channels: Any = None, intensity: Any = None) -> RGBRegions:
        """Return what reads parts of a page as :meth:`read_rgb` reads all of it.

        With more than 8 bits the image is gone through once, a few rows at a time, for the values that become black
        and white; percentiles of other types than unsigned 16-bit integers need all samples at once. Files whose parts
        cannot be read by themselves (see :meth:`read_region`) are read now, and kept.
        """
        number = self.page(page)
        chosen = None if channels is None else validators.channel_numbers("channels", channels)
        rule = None if intensity is None else validators.intensity_rule("intensity", intensity)
        if not self._reads_regions(number):
            pixels = self.read_rgb(page=number, channels=chosen, intensity=rule)
            return RGBRegions(pixels.shape[:2], lambda rows, columns: pixels[rows, columns])
        size = height, width = self._size(number)
        samples, bits = self._region(number, slice(0, 1), slice(0, 1))
        dtype = self._colors(samples, chosen).dtype
        levels = None
        if dtype.kind in "iuf" and dtype != np.uint8:
            parts = _row_slices(height, width * self.channels)
            everywhere = (self._colors(self._region(number, rows, slice(0, width)).array, chosen) for rows in parts)
            levels = find_levels(everywhere, rule, self.name, bits)

        def read(rows: slice, columns: slice) -> np.ndarray:
            colors = self._colors(self._region(number, rows, columns).array, chosen)
            eight = to_8_bit(colors, rule, self.name) if levels is None else scaled(colors, *levels)
            return _three_channels(eight)

        return RGBRegions(size, read)

    def _size(self, page: int) -> Size:
        """Return the size of a page, as it is read."""
        return self._samples(page).array.shape[:2]

    def _reads_regions(self, page: int) -> bool:
        """Whether a part of a page is read for less than all of it."""
        return False

    def _region(self, page: int, rows: slice, columns: slice) -> Samples:
        """Return the samples of a part of a page for which :meth:`_reads_regions` is true."""
        raise NotImplementedError

    def page(self, page: Any) -> int:
        """Return the number of a page; None is the only one.

        Raises
        ------
        ValueError
            If there are several and none is chosen, or there is no such page.
        """
        if page is None:
            if self.pages > 1:
                raise ValueError(
                    f"Cannot read {self.name}: it has {self.pages} pages; choose one with page=0 to "
                    f"page={self.pages - 1}, or page='all' where several images are taken."
                )
            return 0
        number = validators.page_number("page", page)
        if isinstance(number, str):
            raise ValueError(f"page must be a number here, where one image is read, got {number!r}.")
        if number >= self.pages:
            last = self.pages - 1
            raise ValueError(
                f"page must be from 0 to {last} for {self.name}, got {number}."
                if last
                else f"page must be 0 for {self.name}, which has one page, got {number}."
            )
        return number

    def _colors(self, array: np.ndarray, channels: tuple[int, ...] | None) -> np.ndarray:
        """Return one or three channels; by default all, where there are so many."""
        if channels is not None:
            return self._chosen(array, channels)
        if array.shape[2] in (1, 3):
            return array
        raise ValueError(
            f"{self._wrong_channels(array)} choose one or three of its {array.shape[2]} channels with channels=, such "
            "as channels=0 or channels=(0, 1, 2)."
        )

    def _wrong_channels(self, array: np.ndarray) -> str:
        return f"Cannot read {self.name}: it has {array.shape[2]} channels, and the network takes red, green and blue;"

    def _chosen(self, array: np.ndarray, channels: tuple[int, ...]) -> np.ndarray:
        count = array.shape[2]
        if max(channels) >= count:
            has = "one channel, 0" if count == 1 else f"{count} channels, 0 to {count - 1}"
            raise ValueError(f"channels must be among those of {self.name}, which has {has}, got {max(channels)}.")
        return array if channels == tuple(range(count)) else array[:, :, list(channels)]


class ArrayHandle(ImageHandle):
    """An array (H, W) or (H, W, C) as an image."""

    def __init__(self, array: np.ndarray) -> None:
        given = f"{array.dtype} of shape {array.shape}"
        self.name = f"the array, {given}"
        if array.dtype.kind not in "biuf":
            raise TypeError(f"An image array must hold bools, integers or floats, got {given}.")
        if array.ndim not in (2, 3):
            raise ValueError(f"An image array must have the shape (H, W), (H, W, 3) or (H, W, C), got {given}.")
        if array.size == 0:
            raise ValueError(f"An image must have at least one pixel, got an array of shape {array.shape}.")
        self._array = array if array.ndim == 3 else array[:, :, None]
        self.shape = (array.shape[0], array.shape[1])
        self.dtype, self.channels = array.dtype, self._array.shape[2]

    def _samples(self, page: int) -> Samples:
        return Samples(self._array)

    def _size(self, page: int) -> Size:
        return self.shape

    def _reads_regions(self, page: int) -> bool:
        return True

    def _region(self, page: int, rows: slice, columns: slice) -> Samples:
        return Samples(self._array[rows, columns])

    @cached_property
    def _has_alpha(self) -> bool:
        return self.channels == 4 and _is_rgba(self._array)

    def _colors(self, array: np.ndarray, channels: tuple[int, ...] | None) -> np.ndarray:
        if channels is None and self._has_alpha:
            return array[:, :, :3]
        return super()._colors(array, channels)

    def _wrong_channels(self, array: np.ndarray) -> str:
        given = f"{array.dtype} of shape {array.shape}"
        first = array.shape[0] in (1, 3, 4) and array.shape[2] > 4
        hint = " transpose it if its channels come first, or" if first else ""
        return f"An image array must be of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {given};{hint}"


def _three_channels(array: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) of one or three channels as (H, W, 3)."""
    if array.shape[2] == 3:
        return array
    rgb = np.empty((*array.shape[:2], 3), np.uint8)
    rgb[:] = array
    return rgb


def _row_slices(height: int, samples_per_row: int) -> Iterator[slice]:
    rows = max(_ROWS_AT_ONCE, _SAMPLES_AT_ONCE // max(1, samples_per_row))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _is_rgba(array: np.ndarray) -> bool:
    """Whether four channels are colors and alpha: by convention of 8 bits, else if the fourth is opaque everywhere."""
    if array.dtype == np.uint8:
        return True
    opaque = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    return bool((array[:, :, 3] == opaque).all())


def stored_view(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view of an upright image with the rows and columns of the stored one.

    Parameters
    ----------
    array : ndarray of shape (H, W, C)
        Upright.
    orientation : int
        EXIF's, 1 to 8.
    """
    if orientation >= 5:
        array = array.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    if orientation in (6, 8):
        rows, columns = (-1, 1) if orientation == 6 else (1, -1)
    return array[::rows, ::columns]
