"""Reading images: files, PIL images and arrays to RGB pixels, and the size of a file without decoding it.

Shapes: H × W pixels. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lucid_maskrcnn.array_arguments import described
from lucid_maskrcnn.validators import image_size
from lucid_maskrcnn.validators import path as checked_path

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SUFFIXES", "Size", "exif_orientation", "load_checked", "load_image", "size_mismatch", "size_on_disk"]

type Size = tuple[int, int]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_ORIENTATION = 0x0112  # of EXIF; from 5 on width and height change places


def load_image(source: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """Read an image as RGB.

    The EXIF orientation is applied, the first of several frames is read, and an alpha channel is
    dropped, as ``convert("RGB")`` does for torchvision and detectron2. 16-bit gray is scaled
    by its full range, 65535 to 255. Data of 12 bits in 16 come out 16 times too dark: a range
    guessed from the pixels would make brightness depend on the content. Scale such
    data and pass an array. Float images have no known range and are refused.

    Parameters
    ----------
    source : str, Path, PIL.Image.Image or np.ndarray
        A file that Pillow reads, an image, or a uint8 array of shape (H, W), (H, W, 1),
        (H, W, 3) or (H, W, 4), RGB.

    Returns
    -------
    np.ndarray of shape (H, W, 3), uint8
        May share memory with ``source``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a readable image, the image is empty, or the array has another shape.
    TypeError
        If ``source`` is something else, or an array of another element type.
    """
    from PIL import Image  # here, as it takes as long to import as all of this package

    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, f"the PIL image of mode {source.mode!r}")
    if isinstance(source, (str, Path)):
        if str(source).startswith(("http://", "https://")):
            raise ValueError(f"An image is read from a file, got the address {str(source)!r}: download it first.")
        return _from_file(checked_path("image", source))
    raise TypeError(f"An image must be a path, a PIL image or a uint8 array (H, W, 3), got {described(source)}.")


def _from_array(array: np.ndarray) -> np.ndarray:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not is_image:
        raise (ValueError if array.dtype == np.uint8 else TypeError)(
            "An image array must be uint8 of shape (H, W, 3), (H, W, 4), (H, W, 1) or (H, W) with values "
            f"0 to 255, got {array.dtype} of shape {array.shape}."
        )
    if array.size == 0:
        raise ValueError(f"An image must have at least one pixel, got an array of shape {array.shape}.")
    if array.ndim == 2:
        array = array[:, :, None]
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]


def _from_file(path: Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"There is no image file {str(path)!r}.")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a directory, not an image file: pass the files in it.")
    from PIL import Image

    name = f"the image file {str(path)!r}"
    with _named_errors(name):
        image = Image.open(path)
    with image:
        return _from_pil(image, name)


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turn any error of Pillow's, whose plugins raise anything, into one sentence that begins with ``name``."""
    from PIL import Image

    try:
        yield
    except Image.DecompressionBombError as error:
        reason = str(error).split(",")[0]
        raise ValueError(f"Cannot read {name}: {reason}; if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS.") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"Cannot read {name}: it is not an image.") from error
    except Exception as error:
        raise ValueError(f"Cannot read {name}: {str(error).rstrip('.')}.") from error


def _from_pil(image: Image.Image, name: str) -> np.ndarray:
    if 0 in image.size:
        raise ValueError(f"An image must have at least one pixel, {name} has size {image.size}.")
    if image.mode == "F":
        raise ValueError(
            f"Cannot read {name}: its pixels are floats of unknown range; scale them to 0 to 255 and pass a "
            "uint8 array."
        )
    from PIL import ImageOps

    with _named_errors(name):
        image = ImageOps.exif_transpose(image)
        if image.mode == "P":  # Pillow warns when a palette's alpha is dropped directly
            image = image.convert("RGBA")
        pixels = np.asarray(image if image.mode.startswith("I") else image.convert("RGB"))
    return _from_16_bit(pixels, name) if pixels.ndim == 2 else pixels


def _from_16_bit(gray: np.ndarray, name: str) -> np.ndarray:
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 65535:  # mode "I" is 32 bits, signed
        raise ValueError(
            f"Cannot read {name}: its integers run from {low} to {high}, beyond 16 bits; scale them to 0 to "
            "255 and pass a uint8 array."
        )
    eight = ((gray.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(eight[:, :, None], 3, axis=2)


# ------------------------------------------------------------------ sizes


def size_on_disk(path: Path) -> tuple[Size, bool]:
    """Return (height, width) of an image file as :func:`load_image` reads it, and whether EXIF swaps the two.

    Raises
    ------
    ValueError
        If it is not a readable image.
    """
    from PIL import Image

    path = checked_path("path", path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            # A PNG may have EXIF after its pixels; nobody does that, and it would mean decoding every file.
            has_exif = image.format != "PNG" or "exif" in image.info
            turned = has_exif and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # Pillow's plugins raise anything
        reason = "it is not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error).rstrip(".")
        raise ValueError(f"Cannot read the image file {str(path)!r}: {reason}.") from error
    return ((width, height) if turned else (height, width)), turned


def exif_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image file, which :func:`load_image` applies; 1 is upright, or none given.

    Raises
    ------
    ValueError
        If it is not a readable image.
    """
    from PIL import Image

    path = checked_path("path", path)
    with _named_errors(f"the image file {str(path)!r}"), Image.open(path) as image:
        has_exif = image.format != "PNG" or "exif" in image.info  # as in size_on_disk
        orientation = image.getexif().get(_ORIENTATION, 1) if has_exif else 1
    return int(orientation) if orientation in range(1, 9) else 1


def load_checked(path: Path, size: Size, said_by: str) -> np.ndarray:
    """Read an image as RGB and check its size.

    Parameters
    ----------
    path : Path
    size : (height, width)
    said_by : str
        Who says that it has this size, for the message: "the annotations say".

    Raises
    ------
    ValueError
        If it cannot be read or has another size.
    """
    path, size = checked_path("path", path), image_size("size", size)
    pixels = load_image(path)
    if pixels.shape[:2] != size:
        raise ValueError(f"The image {str(path)!r} {size_mismatch(path, pixels.shape[:2], size, said_by)}.")
    return pixels


def size_mismatch(path: Path, found: tuple[int, ...], said: Size, said_by: str) -> str:
    """Return how a sentence about an image goes on that has another size than ``said``, with a possible reason."""
    sentence = f"has {found[0]} × {found[1]} pixels (height × width), but {said_by} {said[0]} × {said[1]}"
    if tuple(found) == said[::-1] and size_on_disk(path)[1]:
        sentence += ": its EXIF orientation rotates it, but the annotations are of the image as stored; save it without"
    return sentence
