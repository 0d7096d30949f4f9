"""Decoding one tile or strip of a TIFF file by Pillow: as a TIFF file of its own, in memory.

So parts of files are read that tifffile does not decode without imagecodecs, LZW and JPEG above all, by the decoder
that reads all of them otherwise.
"""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO

import numpy as np

from .file_kinds import PILLOW_FORMATS
from .pillow_files import samples_of

__all__ = ["decode_segment", "has_segments"]

_OLD_JPEG = 6  # whose segments do not stand by themselves
# Bits, compression, colors, fill order, samples, planes, options of the codecs, predictor, palette, alpha, sample
# format, and JPEG's tables and subsampling.
_TAGS = (258, 259, 262, 266, 277, 284, 292, 293, 317, 320, 338, 339, 347, 529, 530, 531, 532)
_WIDTH, _HEIGHT, _OFFSETS, _ROWS_PER_STRIP, _BYTE_COUNTS = 256, 257, 273, 278, 279
_LONG = 4
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # of TIFF's types in bytes


def has_segments(image: Any) -> bool:
    """Whether the tiles or strips of an image can be decoded one by one.

    Parameters
    ----------
    image : tifffile.TiffPage
        One that Pillow decodes.
    """
    if image.keyframe is not image or int(image.compression) == _OLD_JPEG or int(image.imagedepth) > 1:
        return False
    return all(int(image.tags[code].dtype) in _SIZES for code in _TAGS if code in image.tags)


def decode_segment(image: Any, file: BinaryIO, index: int, height: int, width: int) -> np.ndarray:
    """Return the samples of a tile or strip, (height, width, C), as Pillow reads them in the whole.

    Parameters
    ----------
    image : tifffile.TiffPage
        For which :func:`has_segments` is true.
    file : file
        The image's.
    index : int
        Of the segment.
    height, width : int
        Of the segment.

    Raises
    ------
    Exception
        Whatever Pillow raises for damaged data.
    """
    from PIL import Image

    file.seek(image.dataoffsets[index])
    data = file.read(image.databytecounts[index])
    order = image.parent.byteorder
    entries = {
        code: (_LONG, 1, struct.pack(order + "I", value))
        for code, value in ((_WIDTH, width), (_HEIGHT, height), (_ROWS_PER_STRIP, height), (_BYTE_COUNTS, len(data)))
    }
    for code in _TAGS:
        if (tag := image.tags.get(code)) is not None:
            file.seek(tag.valueoffset)
            entries[code] = (int(tag.dtype), tag.count, file.read(tag.count * _SIZES[int(tag.dtype)]))
    with Image.open(io.BytesIO(_file_of(order, entries, data)), formats=PILLOW_FORMATS) as opened:
        return samples_of(opened)


def _file_of(order: str, entries: dict[int, tuple[int, int, bytes]], data: bytes) -> bytes:
    """Return a TIFF file with one image of one strip.

    Parameters
    ----------
    order : {"<", ">"}
    entries : dict
        Type, count and bytes of each tag but that of the offset.
    data : bytes
        Of the strip.
    """
    start = 8 + len(data) + len(data) % 2  # of the directory
    values = b""
    after = start + 2 + 12 * (len(entries) + 1) + 4
    directory = struct.pack(order + "H", len(entries) + 1)
    entries = {**entries, _OFFSETS: (_LONG, 1, struct.pack(order + "I", 8))}
    for code, (kind, count, content) in sorted(entries.items()):
        directory += struct.pack(order + "HHI", code, kind, count)
        if len(content) <= 4:
            directory += content.ljust(4, b"\0")
        else:
            directory += struct.pack(order + "I", after + len(values))
            values += content + b"\0" * (len(content) % 2)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    body = data + b"\0" * (len(data) % 2)
    return magic + struct.pack(order + "I", start) + body + directory + struct.pack(order + "I", 0) + values
