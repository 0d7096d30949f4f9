"""TIFF files: layout, metadata and most pixels by tifffile, the rest by Pillow.

Without imagecodecs tifffile does not decode LZW, JPEG and others; Pillow does, where a page is of a kind that it
knows. A page here is what the user chooses: an image of a time series, of a stack or of a file with several series.
Channels are none, whether they are stored in one image or in several; nor are thumbnails, pyramids and masks.

Shapes: H × W pixels, C channels.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from .file_kinds import PILLOW_FORMATS, check_pixel_count, named_errors
from .handles import ImageHandle, Samples, Size, stored_view
from .pillow_files import samples_of
from .tiff_regions import has_regions, region_by_pillow, region_of_image, region_of_stored

__all__ = ["TiffHandle"]

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its messages come as errors, or not at all

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR, _CIELAB = 0, 1, 2, 3, 5, 6, 8
_CAMERA_RAW = (32803, 34892)  # color filter array, linear raw
_PACKBITS = 32773  # which tifffile decodes in Python
_DNG_VERSION, _ORIENTATION = 50706, 274
# (photometric, samples, bits, sample format) of pages that Pillow reads as this package would.
_GRAY_OF_PILLOW = {(p, 1, bits, 1) for p in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) for bits in (1, 2, 4, 8, 16)}
_OF_PILLOW = _GRAY_OF_PILLOW | {
    (_BLACK_IS_ZERO, 1, 12, 1),
    (_BLACK_IS_ZERO, 1, 32, 3),
    *((_PALETTE, 1, bits, 1) for bits in (1, 2, 4, 8)),
    *((p, n, 8, 1) for p, n in ((_RGB, 3), (_RGB, 4), (_SEPARATED, 4), (_YCBCR, 3), (_CIELAB, 3))),
}
_MAX_BYTES_PER_PIXEL = 8  # of the limit of pixels: what a page may take in memory
_OTHER_SERIES = ("thumbnail", "label", "macro", "map", "overview")  # of slide scanners
_MICROMETERS = {"µm": 1, "μm": 1, "um": 1, "micron": 1, "microns": 1, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


@dataclass(frozen=True)
class _Plane:
    """What a page consists of: one stored image, or one for each channel.

    ``depth`` is the number of the plane in a stored image with several; ``stored`` the whole series and the plane's
    numbers in it where only the first of its images has a directory (large ImageJ stacks).
    """

    images: tuple[Any, ...]
    depth: int | None = None
    stored: tuple[Any, tuple[int, ...]] | None = None


class TiffHandle(ImageHandle):
    """A TIFF file, which is closed with the handle."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        import tifffile

        self.name, self._file = name, file
        try:
            with named_errors(name):
                self._tiff = tifffile.TiffFile(
                    file, name="image.tif", _multifile=False
                )  # no other files that OME's XML names
                self._planes = list(_planes(self._tiff))
            if not self._planes:
                raise ValueError(f"Cannot read {name}: it has no image.")
            with named_errors(name):
                self._describe()
        except BaseException:
            file.close()
            raise

    def _describe(self) -> None:
        plane, first = self._planes[0], _keyframe(self._planes[0])
        height, width = int(first.imagelength), int(first.imagewidth)
        if height * width == 0:
            raise ValueError("it has no pixel")
        tag = first.tags.get(_ORIENTATION)
        self.orientation = int(tag.value) if tag is not None and tag.value in range(1, 9) else 1
        self.turned = self.orientation >= 5
        self.shape = (width, height) if self.turned else (height, width)
        self.dtype = np.dtype(first.dtype if first.dtype is not None else "uint8")
        self.pages = len(self._planes)
        count = len(plane.stored[1]) if plane.stored else len(plane.images)
        gray = int(first.photometric or 0) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
        self.channels = count * (int(first.samplesperpixel) if gray else 3)
        self.pixel_size = _pixel_size(self._tiff, first)

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()
        self._file.close()

    def _samples(self, page: int) -> Samples:
        plane = self._planes[page]
        first = _keyframe(plane)
        with named_errors(self.name):
            self._check(plane, first, int(first.imagelength) * int(first.imagewidth))
            how = _decoder(first, plane)
            if how == "pillow":
                return Samples(self._by_pillow(first), int(first.bitspersample))
            arrays = [_with_channels(a, first) for a in _stored(plane, self._file)]
            array = _colors(arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=2), first)
            return Samples(self._upright(array), _said_bits(first))

    def _size(self, page: int) -> Size:
        first = _keyframe(self._planes[page])
        size = int(first.imagelength), int(first.imagewidth)
        return size[::-1] if self.turned else size

    def _reads_regions(self, page: int) -> bool:
        plane = self._planes[page]
        first = _keyframe(plane)
        with named_errors(self.name):
            if self.orientation != 1:
                return False
            if _decoder(first, plane) == "pillow":
                return has_regions(plane.images[0], by_pillow=True)
            return plane.stored is not None or all(image is not None and has_regions(image) for image in plane.images)

    def _region(self, page: int, rows: slice, columns: slice) -> Samples:
        plane = self._planes[page]
        first = _keyframe(plane)
        depth = plane.depth or 0
        with named_errors(self.name):
            self._check(plane, first, (rows.stop - rows.start) * (columns.stop - columns.start))
            if _decoder(first, plane) == "pillow":
                by_pillow = region_by_pillow(plane.images[0], self._file, rows, columns)
                return Samples(by_pillow, int(first.bitspersample))
            if plane.stored is None:
                arrays = [region_of_image(image, self._file, depth, rows, columns) for image in plane.images]
            else:
                series, numbers = plane.stored
                size = math.prod(first.shape) * first.dtype.itemsize
                places = [series.dataoffset + number * size for number in numbers]
                arrays = [region_of_stored(first, self._file, place, depth, rows, columns) for place in places]
            array = _colors(arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=2), first)
            return Samples(array, _said_bits(first))

    def _check(self, plane: _Plane, first: Any, pixels: int) -> None:
        """Raise for what must not be decoded: too many pixels at once, of no known meaning, or cut off."""
        check_pixel_count(pixels)
        samples, depth = int(first.samplesperpixel), int(first.imagedepth)
        count = len(plane.stored[1]) if plane.stored else len(plane.images)
        size = np.dtype(first.dtype or "uint8").itemsize * samples * count
        check_pixel_count(pixels * depth * -(-size // _MAX_BYTES_PER_PIXEL))
        photometric = int(first.photometric or 0)
        if photometric in _CAMERA_RAW or first.tags.get(_DNG_VERSION) is not None:
            raise ValueError("it is a camera's raw file: develop it to TIFF or JPEG")
        known = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR, _CIELAB)
        if photometric not in known:
            raise ValueError(f"its colors are stored as {_name_of(first.photometric)}: convert it to RGB")
        if first.dtype is not None and first.dtype.kind == "c":
            raise ValueError("its pixels are complex numbers: save their absolute values")
        end = self._file.seek(0, 2)
        if plane.stored is None:
            for image in plane.images:
                _check_segments(image, end)

    def _by_pillow(self, first: Any) -> np.ndarray:
        from PIL import Image

        self._file.seek(0)
        image = Image.open(self._file, formats=PILLOW_FORMATS)
        image.seek(int(first.index))
        return samples_of(image)

    def _upright(self, array: np.ndarray) -> np.ndarray:
        if self.orientation == 1:
            return array
        shape = (array.shape[1], array.shape[0]) if self.turned else array.shape[:2]
        upright = np.empty((*shape, array.shape[2]), array.dtype)
        stored_view(upright, self.orientation)[:] = array
        return upright


# ------------------------------------------------------------------ pages


def _planes(tiff: Any) -> Iterator[_Plane]:
    """Yield the pages of a file."""
    series = [s for s in tiff.series if not _is_other(s)]
    if all(s.kind in ("generic", "uniform") for s in series):
        images = list(tiff.pages)
        full = [image for image in images if not _is_reduced(image)]
        if not full and any(getattr(image, "subifds", None) for image in images):
            raise ValueError("it has nothing but thumbnails, as a camera's raw file: develop it to TIFF or JPEG")
        for image in full or images:
            yield from _of_image(image)
        return
    for one in series:
        yield from _of_series(one)


def _is_other(series: Any) -> bool:
    return _is_reduced(series.keyframe) or str(series.name).lower() in _OTHER_SERIES


def _is_reduced(image: Any) -> bool:
    kind = int(getattr(image.keyframe, "subfiletype", 0) or 0) if hasattr(image, "keyframe") else 0
    return bool(kind & 0b101)  # a smaller version, or a transparency mask


def _of_image(image: Any) -> Iterator[_Plane]:
    depth = int(image.keyframe.imagedepth)
    for z in range(depth):
        yield _Plane((image,), depth=z if depth > 1 else None)


def _of_series(series: Any) -> Iterator[_Plane]:
    """Yield the pages of a series: one for each step along the axes that are neither of the image nor channels."""
    inner = series.keyframe.axes
    leading = [(a, int(n)) for a, n in zip(series.axes, series.shape, strict=True) if a not in "YXS" and a not in inner]
    shape = tuple(n for _, n in leading)
    total = math.prod(shape)
    numbers = np.arange(total).reshape(shape)
    channel_axes = [i for i, (a, _) in enumerate(leading) if a == "C"]
    groups = np.moveaxis(numbers, channel_axes, range(numbers.ndim - len(channel_axes), numbers.ndim))
    channels = math.prod(shape[i] for i in channel_axes)
    images = series.pages
    for group in groups.reshape(-1, channels).tolist():
        if len(images) == total:
            chosen = tuple(images[i] for i in group)
            if any(image is None for image in chosen):
                raise ValueError("some of its images are in other files: save it as one file")
            if len(chosen) == 1:
                yield from _of_image(chosen[0])
            else:
                yield _Plane(chosen)
        elif len(images) == 1 and series.dataoffset is not None:
            yield _Plane((images[0],), stored=(series, tuple(group)))
        else:
            raise ValueError(f"it has {len(images)} images, but its metadata say {total}")


def _keyframe(plane: _Plane) -> Any:
    return plane.images[0].keyframe


# ------------------------------------------------------------------ decoding


def _decoder(image: Any, plane: _Plane) -> str:
    """Return who decodes an image: "tifffile" or "pillow".

    Raises
    ------
    ValueError
        If neither can.
    """
    import tifffile

    codecs = tifffile.TIFF.DECOMPRESSORS, tifffile.TIFF.UNPREDICTORS
    decodable = int(image.compression) in codecs[0] and int(image.predictor) in codecs[1]
    plain = int(image.photometric or 0) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE)
    whole = image.dtype is not None and image.bitspersample in (1, 8, 16, 32, 64)
    slow = int(image.compression) == _PACKBITS or image.compression in (6, 7)
    of_pillow = _suits_pillow(image) and len(plane.images) == 1 and plane.stored is None and plane.depth is None
    if of_pillow and (slow or not (decodable and plain and whole)):
        return "pillow"
    if decodable and plain and (whole or _has_imagecodecs()):
        return "tifffile"
    if decodable and not plain and whole:
        raise ValueError(f"its colors are stored as {_name_of(image.photometric)}: convert it to RGB of 8 bits")
    raise ValueError(
        f"its compression, {_name_of(image.compression)} of {_layout(image)}, needs the package imagecodecs: install "
        "lucid-maskrcnn[tiff], or save it without compression"
    )


def _suits_pillow(image: Any) -> bool:
    samples, bits = int(image.samplesperpixel), image.bitspersample
    if not isinstance(bits, int) or (int(image.planarconfig or 1) != 1 and samples > 1):
        return False
    kind = (int(image.photometric or 0), samples, bits, int(image.sampleformat or 1))
    return kind in _OF_PILLOW and image.index is not None and isinstance(image.index, int)


def _has_imagecodecs() -> bool:
    from importlib.util import find_spec

    return find_spec("imagecodecs") is not None


def _name_of(value: Any) -> str:
    return getattr(value, "name", str(value))


def _layout(image: Any) -> str:
    predictor = "" if int(image.predictor) == 1 else f" with predictor {_name_of(image.predictor)}"
    return f"{image.samplesperpixel} × {image.bitspersample} bits{predictor}"


def _check_segments(image: Any, end: int) -> None:
    """Raise if a part of an image lies beyond the end of the file, or nowhere."""
    if image is None:
        raise ValueError("some of its images are in other files: save it as one file")
    offsets, sizes = image.dataoffsets, image.databytecounts
    if not offsets or len(offsets) != len(sizes):
        raise ValueError("the list of its strips or tiles is damaged")
    if any(offset + size > end for offset, size in zip(offsets, sizes, strict=True)):
        raise ValueError("it is truncated: pixels are said to be beyond the end of the file")
    if any(offset <= 0 or size <= 0 for offset, size in zip(offsets, sizes, strict=True)):
        raise ValueError("it is incomplete: some of its strips or tiles have no data")
    keyframe = image.keyframe
    if int(keyframe.compression) == 1 and isinstance(keyframe.bitspersample, int) and not keyframe.is_tiled:
        pixels = int(keyframe.imagewidth) * int(keyframe.imagelength) * int(keyframe.imagedepth)
        needed = pixels * int(keyframe.samplesperpixel) * int(keyframe.bitspersample) // 8
        if int(keyframe.photometric or 0) != _YCBCR and sum(sizes) < needed:
            raise ValueError("it is truncated: it has fewer bytes than pixels")


def _stored(plane: _Plane, file: BinaryIO) -> Iterator[np.ndarray]:
    """Yield the stored images of a page."""
    if plane.stored is None:
        for image in plane.images:
            array = image.asarray().reshape(image.keyframe.shape)
            if plane.depth is not None:
                array = np.take(array, plane.depth, axis=image.keyframe.axes.index("Z"))
            yield array
        return
    series, numbers = plane.stored
    keyframe = series.keyframe
    dtype = keyframe.dtype.newbyteorder(keyframe.parent.byteorder)
    size = math.prod(keyframe.shape) * dtype.itemsize
    for number in numbers:
        file.seek(series.dataoffset + number * size)
        content = file.read(size)
        if len(content) < size:
            raise ValueError("it is truncated: pixels are said to be beyond the end of the file")
        yield np.frombuffer(content, dtype).reshape(keyframe.shape)


def _with_channels(array: np.ndarray, image: Any) -> np.ndarray:
    """Return a stored image as (H, W, C)."""
    axes = image.axes.replace("Z", "") if int(image.imagedepth) > 1 else image.axes
    if "S" not in axes:
        return array.reshape(int(image.imagelength), int(image.imagewidth), 1)
    return np.moveaxis(array, axes.index("S"), -1)


def _colors(array: np.ndarray, image: Any) -> np.ndarray:
    """Return the samples (H, W, C) that are meant: white is large, palettes are looked up, alpha is left out."""
    photometric = int(image.photometric or 0)
    if photometric == _PALETTE and image.colormap is not None and array.dtype.kind == "u":
        return _looked_up(array[:, :, 0], np.asarray(image.colormap))
    alpha = sum(int(e) in (1, 2) for e in image.extrasamples)
    samples = int(image.samplesperpixel)
    if photometric == _RGB and array.shape[2] == samples == 4:
        alpha = 1  # of whatever kind
    if alpha and array.shape[2] == samples:
        array = array[:, :, : samples - alpha]
    return _inverted(array, image) if photometric == _WHITE_IS_ZERO else array


def _looked_up(codes: np.ndarray, colormap: np.ndarray) -> np.ndarray:
    # Colors of 16 bits, as in Pillow by their first byte; some programs write 8 bits.
    colors = colormap if int(colormap.max(initial=0)) < 256 else colormap >> 8
    return colors.T.astype(np.uint8)[codes]


def _inverted(array: np.ndarray, image: Any) -> np.ndarray:
    if array.dtype.kind == "b":
        return ~array
    if array.dtype.kind == "f":
        return array.dtype.type(1) - array
    bits = _said_bits(image)
    largest = np.iinfo(array.dtype).max if bits is None else 2**bits - 1
    return array.dtype.type(largest) - array


def _said_bits(image: Any) -> int | None:
    """Return the bits of a sample, if the file says that there are fewer than its type has."""
    bits, dtype = image.bitspersample, image.dtype
    if dtype is None or dtype.kind != "u":
        return None
    tag = image.tags.get(281)  # MaxSampleValue
    values = (tag.value if isinstance(tag.value, Sequence) else (tag.value,)) if tag is not None else ()
    for value in values:  # a sensor's range; other values are mostly the largest sample
        if isinstance(value, int) and 255 <= value < 2 ** (8 * dtype.itemsize) - 1 and (value + 1) & value == 0:
            return value.bit_length()
    return bits if isinstance(bits, int) and bits < 8 * dtype.itemsize else None


# ------------------------------------------------------------------ pixel size


def _pixel_size(tiff: Any, image: Any) -> tuple[float, float] | None:
    """Return height and width of a pixel in µm, from the metadata of OME or ImageJ.

    The resolution of other files is that of a printer or screen, mostly.
    """
    if tiff.is_ome:
        found = [_of_ome(tiff.ome_metadata or "", axis) for axis in "YX"]
    elif tiff.is_imagej:
        unit = str((tiff.imagej_metadata or {}).get("unit", "")).encode().decode("unicode_escape", "replace")
        found = [_of_imagej(image, unit, axis) for axis in "YX"]
    else:
        return None
    height, width = found
    return None if height is None or width is None else (height, width)


def _of_ome(xml: str, axis: str) -> float | None:
    size = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', xml)
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', xml)
    return _micrometers(size[1], unit[1] if unit else "µm") if size else None


def _of_imagej(image: Any, unit: str, axis: str) -> float | None:
    tag = image.tags.get(f"{axis}Resolution")
    if tag is None or not isinstance(tag.value, Sequence) or len(tag.value) != 2 or not all(tag.value):
        return None
    return _micrometers(tag.value[1] / tag.value[0], unit)


def _micrometers(size: Any, unit: str) -> float | None:
    factor = _MICROMETERS.get(unit.strip())
    try:
        length = float(size) * factor if factor else math.nan
    except ValueError:
        return None
    return length if math.isfinite(length) and length > 0 else None
