"""Label images: one channel of integers, 0 for background and another number for each instance.

Shapes: H × W pixels, G instances.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from lucid_maskrcnn.array_arguments import numeric_array, row_numbers
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import Size
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.validators import choice, instance, shown
from lucid_maskrcnn.validators import path as checked_path

__all__ = ["SUFFIXES", "labels_of_masks", "read_label_image", "read_label_image_size", "write_label_image"]

SUFFIXES = frozenset({".png", ".tif", ".tiff", ".npy"})
_WANTED = "one integer for each instance, 0 for background"


@answers_wrong_calls
def read_label_image(path: str | Path) -> np.ndarray:
    """Read a label image; :meth:`CompressedMasks.from_labels` makes masks of it.

    Parameters
    ----------
    path : str or Path
        A PNG or TIFF of 8, 16 or 32 bits, a PNG with a palette, of which the indices count, or an array in an
        ``.npy`` file.

    Returns
    -------
    ndarray of shape (H, W), integers

    Raises
    ------
    TypeError
        If ``path`` is not a path.
    ValueError
        If it cannot be read, or has colors, fractions, several frames or negative numbers.
    """
    path = checked_path("path", path)
    with _named_errors(path):
        labels, mode = (_array(path), "") if path.suffix.lower() == ".npy" else _pixels(path)
    name = f"The label image {str(path)!r}"
    if labels.ndim != 2 or labels.size == 0:
        what = f"is in color (mode {mode})" if mode else f"has shape {labels.shape}"
        equal = labels.ndim == 3 and labels.size > 0 and bool((labels[:, :, :3] == labels[:, :, :1]).all())
        remedy = " Its channels are equal: save one of them, labels[:, :, 0]." if equal else ""
        raise ValueError(f"{name} {what}, but one channel is wanted: {_WANTED}.{remedy}")
    if labels.dtype == bool:
        raise ValueError(f"{name} is black and white only, but it needs {_WANTED}.")
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has numbers of type {labels.dtype}, but it needs {_WANTED}: save labels.astype(np.uint16)."
        )
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise ValueError(f"{name} has negative numbers, {labels.min()}, but it needs {_WANTED}.")
    return labels


@answers_wrong_calls
def read_label_image_size(path: str | Path) -> Size | None:
    """Return (height, width) of a label image, of which only the beginning is read.

    None for an array that has not two axes: :func:`read_label_image` refuses it.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    from PIL import Image

    path = checked_path("path", path)
    with _named_errors(path):
        if path.suffix.lower() == ".npy":
            shape = _array(path, mmap_mode="r").shape
            return shape if len(shape) == 2 else None
        with Image.open(path) as image:
            return image.height, image.width


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn any error of reading a file into one sentence that names it."""
    try:
        yield
    except Exception as error:  # Pillow's plugins raise anything
        raise ValueError(f"Cannot read the label image {str(path)!r}: {str(error).rstrip('.')}.") from error


def _array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """Return the array of a file."""
    array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    if not isinstance(array, np.ndarray):  # np.load looks at the content, not at the suffix
        array.close()
        raise ValueError("it is an .npz archive under the name .npy; save its array with np.save")
    return array


def _pixels(path: Path) -> tuple[np.ndarray, str]:
    """Return the pixels of an image file, of a palette the indices, and its mode."""
    from PIL import Image

    with Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise ValueError(f"it has {frames} frames, and one is wanted")
        return np.asarray(image), image.mode


@answers_wrong_calls
def labels_of_masks(masks: CompressedMasks, *, order: Any = None, dtype: Any = None) -> np.ndarray:
    """Return the label image of some masks.

    Parameters
    ----------
    masks : CompressedMasks
        Instance *i* becomes the number *i* + 1.
    order : sequence of int, optional
        All rows, that of the mask that lies on top first; by default 0, 1, 2, …: where masks overlap, the first of
        them lies on top.
    dtype : type of integers, optional
        By default uint16, or uint32 for more than 65535 instances.

    Returns
    -------
    ndarray of shape (H, W)

    Raises
    ------
    TypeError, ValueError
        If ``masks`` or ``order`` are something else, or ``dtype`` is no type of integers or cannot hold so many
        numbers.
    """
    instance("masks", masks, CompressedMasks, "CompressedMasks")
    height, width = masks.image_size
    numbers = np.arange(len(masks)) if order is None else row_numbers(order, len(masks), "masks")
    if not np.array_equal(np.sort(numbers), np.arange(len(masks))):
        raise ValueError(f"order must have each of the {len(masks)} masks once, got {shown(order)}.")
    labels = np.zeros(height * width, _label_type(dtype, len(masks)))
    below = masks[numbers[::-1]]
    owner = np.repeat(numbers[::-1] + 1, np.diff(below.offsets))
    for start, stop, number in zip(below.starts.tolist(), below.stops.tolist(), owner.tolist(), strict=True):
        labels[start:stop] = number
    return np.ascontiguousarray(labels.reshape(width, height).T)


def _label_type(dtype: Any, num: int) -> np.dtype:
    if dtype is None:
        return np.dtype(np.uint16 if num < 2**16 else np.uint32)
    wanted = "a NumPy type of integers, such as 'uint16' or 'uint32'"
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be {wanted}, got {shown(dtype)}.") from None
    if found.kind not in "iu":
        raise ValueError(f"dtype must be {wanted}, got {found}.")
    if num > np.iinfo(found).max:
        raise ValueError(f"dtype {found} holds numbers up to {np.iinfo(found).max}, and there are {num} objects.")
    return found


@answers_wrong_calls
def write_label_image(file: BinaryIO, labels: np.ndarray, suffix: str, *, made_by: Mapping[str, str]) -> None:
    """Write a label image.

    Parameters
    ----------
    file : binary file
        Open for writing.
    labels : ndarray of shape (H, W), integers
        Number of the object that each pixel is of, 0 for the background.
    suffix : {".tif", ".tiff", ".png"}
        TIFF of the array's own type, compressed without loss, or PNG of 8 or 16 bits.
    made_by : mapping of str to str
        Program and weights, which the file's description gets.

    Raises
    ------
    ValueError
        If ``labels`` has numbers that PNG cannot hold.
    """
    if not hasattr(file, "write"):
        raise TypeError(f"file must be a binary file that is open for writing, got {shown(file)}.")
    labels = numeric_array("labels", labels, "integers of shape (H, W)", kinds="iu", shape=(None, None))
    choice("suffix", suffix, (".tif", ".tiff", ".png"))
    instance("made_by", made_by, Mapping, "a mapping of names to text")
    if suffix != ".png":
        import tifffile

        buffer = io.BytesIO()  # tifffile wants a file with a name
        tifffile.imwrite(
            buffer,
            labels,
            photometric="minisblack",
            compression="zlib",
            predictor=False,
            description=json.dumps(dict(made_by)),
            software=made_by.get("software"),
            metadata=None,
        )
        file.write(buffer.getbuffer())
        return
    from PIL import Image, PngImagePlugin

    most = int(labels.max(initial=0))
    if most >= 2**16:
        raise ValueError(f"A PNG holds numbers up to 65535, and the label image goes up to {most}: write a .tif.")
    text = PngImagePlugin.PngInfo()
    for key, value in made_by.items():
        text.add_text(key.capitalize(), value)
    eight = labels.dtype.itemsize == 1
    Image.fromarray(labels.astype(np.uint8 if eight else np.uint16)).save(file, "PNG", pnginfo=text)
