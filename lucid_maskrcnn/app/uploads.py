"""Image files that are sent to the page: their bounds, decided before anything is decoded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from lucid_maskrcnn.images import ImageHandle, open_image

from .app_errors import AppError
from .app_options import AppOptions

__all__ = ["describe_image", "receive_file", "shown_name"]

_PATIENCE = 30.0  # seconds for the next bytes
_LONGEST_NAME = 120  # characters
_BYTES_OF_PIXEL = 16  # of all channels: four of float32


async def receive_file(chunks: AsyncIterator[bytes], path: Path, most: int) -> int:
    """Write a file as it comes, and return its bytes.

    Raises
    ------
    AppError
        If it has more than ``most`` bytes, or stops coming.
    """
    nbytes = 0
    iterator = aiter(chunks)
    with open(path, "xb") as file:
        while True:
            try:
                chunk = await asyncio.wait_for(anext(iterator), _PATIENCE)
            except StopAsyncIteration:
                return nbytes
            except TimeoutError:
                raise AppError(408, f"The file stopped coming: no bytes in {_PATIENCE:g} seconds.") from None
            nbytes += len(chunk)
            if nbytes > most:
                raise AppError(413, too_large(most))
            file.write(chunk)


def too_large(most: int) -> str:
    """Return the sentence about a file of too many bytes."""
    return f"The file is larger than {most / 1e6:g} MB, the bound of this server (lucid-maskrcnn app --max-upload)."


def describe_image(path: Path, options: AppOptions) -> dict[str, Any]:
    """Return what the page must know of an image, from the file's header.

    Raises
    ------
    AppError
        If it has too many pixels.
    ValueError
        If it is no readable image.
    """
    with open_image(path) as image:
        _check_pixels(image, options.max_pixels)
        return {
            "height": image.shape[0],
            "width": image.shape[1],
            "pages": image.pages,
            "channels": image.channels,
            "deep": image.dtype.itemsize > 1,
        }


def _check_pixels(image: ImageHandle, most: int) -> None:
    height, width = image.shape
    if height * width > most:
        raise AppError(
            413,
            f"The image has {height} × {width} pixels, {height * width / 1e6:.0f} million: this server takes "
            f"{most / 1e6:g} million (lucid-maskrcnn app --max-pixels).",
        )
    nbytes = height * width * image.channels * image.dtype.itemsize
    if nbytes > most * _BYTES_OF_PIXEL:
        raise AppError(
            413,
            f"A page of the image has {image.channels} channels of {image.dtype}, {nbytes / 1e6:.0f} MB: this server "
            f"takes {most * _BYTES_OF_PIXEL / 1e6:.0f} MB (lucid-maskrcnn app --max-pixels).",
        )


def shown_name(name: str) -> str:
    """Return the name of a file as its sender calls it, without folders and what cannot be printed."""
    last = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(c if c.isprintable() else "_" for c in last).strip()
    return plain[:_LONGEST_NAME] or "image"
