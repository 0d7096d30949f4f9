"""Pictures on disk: their sizes without decoding them, and their pixels, checked against what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lucid_maskrcnn.transforms import Size, load_image

__all__ = ["SUFFIXES", "load_checked", "size_mismatch", "size_on_disk"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_ORIENTATION = 0x0112  # of EXIF; from 5 on width and height change places


def size_on_disk(path: Path) -> tuple[Size, bool]:
    """Return (height, width) of a picture as :func:`load_image` reads it, and whether EXIF swaps the two.

    Raises
    ------
    ValueError
        If it is no readable picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            # A PNG may have it behind its pixels, too; nobody does, and all of them would have to be decoded.
            has = image.format != "PNG" or "exif" in image.info
            turned = has and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # Pillow's plugins raise anything
        reason = "it is not a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error).rstrip(".")
        raise ValueError(f"Cannot read the image file {str(path)!r}: {reason}.") from error
    return ((width, height) if turned else (height, width)), turned


def load_checked(path: Path, size: Size, said_by: str) -> np.ndarray:
    """Read a picture as RGB; ``said_by`` says that it has ``size``.

    Raises
    ------
    ValueError
        If it cannot be read or has another size.
    """
    pixels = load_image(path)
    if pixels.shape[:2] != size:
        raise ValueError(f"The picture {str(path)!r} {size_mismatch(path, pixels.shape[:2], size, said_by)}.")
    return pixels


def size_mismatch(path: Path, found: tuple[int, ...], said: Size, said_by: str) -> str:
    """Return in words that a picture has another size than is said of it, and why that may be."""
    sentence = f"has {found[0]} × {found[1]} pixels (height × width), but {said_by} {said[0]} × {said[1]}"
    if tuple(found) == said[::-1] and size_on_disk(path)[1]:
        sentence += ": its EXIF orientation turns it, and it was annotated unturned; save it without"
    return sentence
