"""Reading images: files, PIL images and arrays to RGB pixels, and the size of a file without decoding it.

There is one reading, whoever reads: the same page, orientation, channels and intensity.

Shapes: H × W pixels. Sizes are (height, width).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lucid_maskrcnn.array_arguments import described
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.remote_files import path_or_url
from lucid_maskrcnn.validators import image_size, non_negative_int, page_number, pair, sequence, text
from lucid_maskrcnn.validators import path as checked_path

from .file_kinds import is_tiff, named_errors, open_at_url, open_regular
from .handles import ArrayHandle, ImageHandle, Size
from .pillow_files import PillowHandle, orientation_of

if TYPE_CHECKING:
    from PIL import Image

    from .intensity import Rule

__all__ = [
    "check_source",
    "exif_orientation",
    "load_checked",
    "load_image",
    "load_pages",
    "open_image",
    "size_mismatch",
    "size_on_disk",
]


@answers_wrong_calls
def check_source(name: str, source: Any) -> None:
    """Raise ``TypeError`` unless it is something that :func:`open_image` takes; nothing is opened."""
    of_pillow = any(kind.__module__.partition(".")[0] == "PIL" for kind in type(source).__mro__)  # without importing it
    if not of_pillow and not isinstance(source, (str, Path, np.ndarray)):
        raise TypeError(f"{name} must be a path, a PIL image or an array (H, W, 3), got {described(source)}.")


@answers_wrong_calls
def open_image(source: str | Path | Image.Image | np.ndarray) -> ImageHandle:
    """Open an image: what it has, before its pixels are read.

    Parameters
    ----------
    source : str, Path, PIL.Image.Image or np.ndarray
        As for :func:`load_image`.

    Returns
    -------
    ImageHandle
        With ``shape``, ``dtype``, ``pages``, ``channels`` and ``pixel_size``; ``read`` returns the unscaled samples
        of a page, ``read_rgb`` what :func:`load_image` returns. Close it, or use it in a ``with`` statement.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a readable image, or the image is empty.
    TypeError
        If ``source`` is something else, or an array of something else than numbers.
    """
    from PIL import Image  # here, as it takes as long to import as all of this package

    if isinstance(source, np.ndarray):
        return ArrayHandle(source)
    if isinstance(source, Image.Image):
        return PillowHandle(source, f"the PIL image of mode {source.mode!r}")
    if isinstance(source, (str, Path)):
        return _open_file(path_or_url("image", source))
    raise TypeError(f"An image must be a path, a PIL image or an array (H, W, 3), got {described(source)}.")


def _open_file(path: Path | str) -> ImageHandle:
    name = f"the image file {str(path)!r}"
    file = open_regular(path, name) if isinstance(path, Path) else open_at_url(path, name)
    if is_tiff(file):
        from .tiff_files import TiffHandle

        return TiffHandle(file, name)
    return PillowHandle(file, name)


@answers_wrong_calls
def load_image(
    source: str | Path | Image.Image | np.ndarray,
    *,
    page: int | None = None,
    channels: int | tuple[int, ...] | None = None,
    intensity: Rule | None = None,
) -> np.ndarray:
    """Read an image as RGB of 8 bits.

    The EXIF orientation is applied, and an alpha channel is dropped, as ``convert("RGB")`` does for torchvision and
    detectron2. A single channel is repeated three times.

    Parameters
    ----------
    source : str, Path, PIL.Image.Image or np.ndarray
        A file (PNG, TIFF, JPEG, WebP, BMP, GIF, PPM; its content counts, not its name), also at a URL that fsspec
        knows, such as ``"s3://bucket/a.png"`` (extra ``storage``); an image; or an array of bools, integers or floats
        of shape (H, W), (H, W, 3) or (H, W, C), RGB. An array (H, W, 4) of 8 bits is RGBA.
    page : int, optional
        Of a file with several (time, depth, series, frames of an animation), counted from 0. By default there must be
        one.
    channels : int or sequence of int, optional
        One or three, counted from 0, to be taken as gray or as red, green and blue. By default there must be one or
        three.
    intensity : "full", "max" or (float, float), optional
        How more than 8 bits become 8: what becomes white.
        ``"full"``, the default, is the type's largest value: 65535, or 1 for floats; unless it is asked for, it warns
        where it makes an image dark. ``"max"`` is the largest value of the chosen page and channels, and a pair are
        the percentiles that become black and white.

    Returns
    -------
    np.ndarray of shape (H, W, 3), uint8
        May share memory with ``source``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a readable image, has several pages or another number of channels and none is chosen, has
        values beyond the range of ``intensity``, or the image is empty.
    TypeError
        If ``source`` is something else, or an array of something else than numbers.

    Warns
    -----
    UserWarning
        If the image comes out dark: its largest value is less than a quarter of the full range, as in files of 12 bits
        in 16.
    """
    with open_image(source) as image:
        return image.read_rgb(page=page, channels=channels, intensity=intensity)


@answers_wrong_calls
def load_pages(source: Any, *, page: Any = None, channels: Any = None, intensity: Any = None) -> list[np.ndarray]:
    """Read one page as :func:`load_image` does, or with ``page="all"`` every page."""
    with open_image(source) as image:
        every = page is not None and page_number("page", page) == "all"
        pages = range(image.pages) if every else (page,)
        return [image.read_rgb(page=p, channels=channels, intensity=intensity) for p in pages]


# ------------------------------------------------------------------ sizes


@answers_wrong_calls
def size_on_disk(path: Path) -> tuple[Size, bool]:
    """Return (height, width) of an image file as :func:`load_image` reads it, and whether EXIF swaps the two.

    Raises
    ------
    ValueError
        If it is not a readable image, or has several pages.
    """
    path = checked_path("path", path)
    try:
        with _open_file(path) as image:
            image.page(None)
            return image.shape, image.turned
    except FileNotFoundError as error:
        raise ValueError(f"Cannot read the image file {str(path)!r}: there is no such file.") from error


@answers_wrong_calls
def exif_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image file, which :func:`load_image` applies; 1 is upright, or none given.

    Raises
    ------
    ValueError
        If it is not a readable image.
    """
    from PIL import Image

    path = checked_path("path", path)
    name = f"the image file {str(path)!r}"
    with open_regular(path, name) as file, named_errors(name):
        if is_tiff(file):
            from .tiff_files import TiffHandle

            return TiffHandle(file, name).orientation
        return orientation_of(Image.open(file))


@answers_wrong_calls
def load_checked(path: Path, size: Size, said_by: str, *, channels: Any = None, intensity: Any = None) -> np.ndarray:
    """Read an image as RGB and check its size.

    Parameters
    ----------
    path : Path
        The image file.
    size : (height, width)
        The size that the image must have, in pixels.
    said_by : str
        Who says that it has this size, for the message: "the annotations say".
    channels, intensity
        As for :func:`load_image`.

    Raises
    ------
    ValueError
        If it cannot be read or has another size.
    """
    path, size = checked_path("path", path), image_size("size", size)
    text("said_by", said_by)
    pixels = load_image(path, channels=channels, intensity=intensity)
    if pixels.shape[:2] != size:
        raise ValueError(f"The image {str(path)!r} {size_mismatch(path, pixels.shape[:2], size, said_by)}.")
    return pixels


@answers_wrong_calls
def size_mismatch(path: Path, found: tuple[int, ...], said: Size, said_by: str) -> str:
    """Return how a sentence about an image goes on that has another size than ``said``, with a possible reason."""
    path = checked_path("path", path)
    found = sequence("found", found, non_negative_int, length=2)
    said = pair("said", said, non_negative_int)
    text("said_by", said_by)
    sentence = f"has {found[0]} × {found[1]} pixels (height × width), but {said_by} {said[0]} × {said[1]}"
    if tuple(found) == said[::-1] and size_on_disk(path)[1]:
        sentence += ": its EXIF orientation rotates it, but the annotations are of the image as stored; save it without"
    return sentence
