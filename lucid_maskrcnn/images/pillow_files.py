"""Images that Pillow decodes.

Pillow holds 4 bytes for each pixel of a color image. A copy of the whole in another mode, the copy upright, and the
bytes on their way to NumPy came to 18 bytes more; here a large image is converted in strips, into the final array.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .file_kinds import PILLOW_FORMATS, check_pixel_count, named_errors
from .handles import ImageHandle, Samples, stored_view

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PillowHandle", "orientation_of", "samples_of"]

_STRIP = 1 << 19  # pixels converted at a time
_ORIENTATION = 0x0112  # of EXIF; from 5 on width and height change places
_DTYPES = {"1": "bool", "I": "int32", "F": "float32"}  # of Pillow's modes; I;16… are uint16, the others uint8


def _dtype_of(mode: str) -> np.dtype:
    return np.dtype("uint16" if mode.startswith("I;") else _DTYPES.get(mode, "uint8"))


def _is_gray(mode: str) -> bool:
    return mode in ("1", "L", "I", "F") or mode.startswith("I;")


class PillowHandle(ImageHandle):
    """A file or an image that Pillow reads.

    Parameters
    ----------
    source : BinaryIO or PIL.Image.Image
        A file is closed with the handle, an image is not.
    name : str
    """

    def __init__(self, source: BinaryIO | Image.Image, name: str) -> None:
        from PIL import Image

        self.name = name
        self._file = None if isinstance(source, Image.Image) else source
        self._first = 0
        try:
            with named_errors(name):
                image = source if isinstance(source, Image.Image) else Image.open(source, formats=PILLOW_FORMATS)
                self._image = image
                self.pages = self._count_pages(image)
                width, height = image.size
                orientation = orientation_of(image)
        except BaseException:
            self.close()
            raise
        if 0 in image.size:
            raise ValueError(f"An image must have at least one pixel, {name} has size {image.size}.")
        self.turned = orientation >= 5
        self.shape = (width, height) if self.turned else (height, width)
        self._deep = None if self._file is None else _deep_bits(image)
        self.dtype = np.dtype("uint16") if self._deep else _dtype_of(image.mode)
        deep_gray = self._deep is not None and image.tile[0].args == "LA;16B"  # type: ignore[attr-defined]
        self.channels = 1 if deep_gray or image.mode in ("LA", "La") or _is_gray(image.mode) else 3

    def _count_pages(self, image: Image.Image) -> int:
        # Further frames of a phone's JPEG are previews, gain maps or the other eye's view.
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if self._file is None and count > 1 and image.tell() > 0:  # an image that was moved to one of its frames
            self._first, count = image.tell(), 1
        return count

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _samples(self, page: int) -> Samples:
        with named_errors(self.name):
            if self.pages > 1 or self._first:
                self._image.seek(self._first + page)
            if self._deep:
                return Samples(self._deep_samples(), self._deep)
            return Samples(samples_of(self._image))

    def _deep_samples(self) -> np.ndarray:
        """Return samples of 16 bits, of which Pillow decodes the first byte only."""
        orientation = orientation_of(self._image)
        if self._image.format == "PPM":
            first, second = self._bytes_of_ppm()
        elif self.channels == 1:
            first, second = self._bytes_of_gray_with_alpha()
        else:  # big-endian samples: the first bytes, and in the other order the second ones
            name = self._image.tile[0].args[:-1]  # type: ignore[attr-defined]
            first, second = (self._decoded(name + order)[:, :, :3] for order in "BL")
        samples = first.astype(np.uint16)
        samples <<= 8
        samples |= second
        if orientation == 1:
            return samples
        upright = np.empty(_upright_shape(samples.shape[:2], orientation, samples.shape[2]), np.uint16)
        stored_view(upright, orientation)[:] = samples
        return upright

    def _decoded(self, raw_mode: str) -> np.ndarray:
        """Decode the file once more, with its bytes taken in another order."""
        image = self._opened_again()
        check_pixel_count(image.width * image.height)
        image.tile = [image.tile[0]._replace(args=raw_mode)]  # type: ignore[attr-defined]
        return np.asarray(image)

    def _bytes_of_gray_with_alpha(self) -> tuple[np.ndarray, np.ndarray]:
        """Decode a PNG of gray and alpha in 16 bits as colors and alpha in 8 bits, which are the same bytes."""
        from PIL import Image

        assert self._file is not None
        self._file.seek(0)
        content = bytearray(self._file.read())
        content[24:26] = 8, 6  # of IHDR, which stands first: bits and kind of color
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        image = Image.open(io.BytesIO(content), formats=("PNG",))
        both = np.asarray(image)
        return both[:, :, :1], both[:, :, 1:2]

    def _bytes_of_ppm(self) -> tuple[np.ndarray, np.ndarray]:
        image = self._opened_again()
        width, height = image.size
        check_pixel_count(width * height)
        assert self._file is not None
        self._file.seek(image.tile[0].offset)  # type: ignore[attr-defined]
        content = self._file.read(width * height * 6)
        if len(content) < width * height * 6:
            raise ValueError("image file is truncated")
        pairs = np.frombuffer(content, np.uint8).reshape(height, width, 3, 2)
        return pairs[..., 0], pairs[..., 1]

    def _opened_again(self) -> Image.Image:
        from PIL import Image

        assert self._file is not None  # as only files are
        self._file.seek(0)
        return Image.open(self._file, formats=PILLOW_FORMATS)


def _deep_bits(image: Image.Image) -> int | None:
    """Return the bits of a file's samples where Pillow keeps 8 of more: PNG with colors or alpha, and PPM."""
    tiles = getattr(image, "tile", [])
    if len(tiles) != 1:
        return None
    if image.format == "PNG" and tiles[0].args in ("RGB;16B", "RGBA;16B", "LA;16B"):
        return 16
    if image.format == "PPM" and tiles[0].codec_name == "ppm" and image.mode == "RGB" and tiles[0].args[1] > 255:
        return int(tiles[0].args[1]).bit_length()
    return None


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, which is applied; 1 is upright, or none given."""
    # A PNG may have EXIF after its pixels; nobody does that, and it would mean decoding every file for its size.
    return _orientation_in_exif(image) if image.format != "PNG" or "exif" in image.info else 1


def _orientation_in_exif(image: Image.Image) -> int:
    orientation = image.getexif().get(_ORIENTATION, 1)
    return int(orientation) if orientation in range(1, 9) else 1


def samples_of(image: Image.Image) -> np.ndarray:
    """Return the samples of an image (H, W, C), upright and without alpha: gray as it is, any colors as RGB."""
    check_pixel_count(image.width * image.height)
    image.load()
    orientation = _orientation_in_exif(image)  # of a PNG also after the pixels; of a TIFF, Pillow has applied it now
    gray = _is_gray(image.mode)
    width, height = image.size
    rows = max(1, _STRIP // width)
    if orientation == 1 and rows >= height:
        array = _converted(image, gray)
        return array[:, :, None] if gray else array
    upright = np.empty(_upright_shape((height, width), orientation, 1 if gray else 3), _dtype_of(image.mode))
    stored = stored_view(upright, orientation)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = _converted(image.crop((0, top, width, bottom)), gray)
        stored[top:bottom] = strip[:, :, None] if gray else strip
    return upright


def _upright_shape(stored: tuple[int, int], orientation: int, channels: int) -> tuple[int, int, int]:
    height, width = stored
    return (width, height, channels) if orientation >= 5 else (height, width, channels)


def _converted(image: Image.Image, gray: bool) -> np.ndarray:
    if gray or image.mode == "RGB":
        return np.asarray(image)
    if image.mode == "P":  # Pillow warns when a palette's alpha is dropped directly
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
