"""Which files are read: regular ones, told by their content, never by their name."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lucid_maskrcnn.remote_files import open_remote
from lucid_maskrcnn.validators import near_file

__all__ = [
    "PILLOW_FORMATS",
    "SUFFIXES",
    "check_pixel_count",
    "is_tiff",
    "named_errors",
    "open_at_url",
    "open_regular",
    "pixel_limit",
]

#: Suffixes of the files that a folder's images are taken to be.
SUFFIXES = frozenset(
    ".bmp .btf .dib .gif .jfif .jpeg .jpg .pbm .pgm .png .pnm .ppm .tf8 .tif .tiff .webp".split()  # noqa: SIM905
)
# Pillow is asked for nothing else: some of its plugins start programs (EPS: Ghostscript) or decode vendors' formats.
PILLOW_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

_CONVERT = "save it as PNG or TIFF"
_ARRAY = "read it with its own library and pass the array"
_BIOFORMATS = "save it as OME-TIFF, with Fiji or bfconvert, or " + _ARRAY
# (offset, bytes, what it is, what to do); the first that fits counts.
_OTHERS = (
    (4, b"ftypcrx ", "a camera's raw file (CR3)", "develop it to TIFF or JPEG"),
    (4, b"ftypqt  ", "a video", "save its frames as PNG"),
    (4, b"ftypisom", "a video", "save its frames as PNG"),
    (4, b"ftypmp4", "a video", "save its frames as PNG"),
    (4, b"ftypavi", "an AVIF image", f"{_CONVERT} (Pillow: Image.open(…).convert('RGB').save('….png'))"),
    (4, b"ftyp", "a HEIC image", f"{_CONVERT} or JPEG, or open it with pillow-heif and pass the PIL image"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _CONVERT),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image", _CONVERT),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", _CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (0, b"%PDF-", "a PDF document", "save its pages as PNG"),
    (0, b"%!PS", "a PostScript file", _CONVERT),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file", _CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", "pass np.load(…)"),
    (128, b"DICM", "a DICOM file", "read it with pydicom and pass its pixel_array"),
    (0, b"ZISRAWFILE", "a Zeiss CZI file", _BIOFORMATS),
    (0, b"\xda\xce\xbe\x0a", "a Nikon ND2 file", _BIOFORMATS),
    (0, b"\x70\0\0\0", "a Leica LIF file", _BIOFORMATS),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE file (Olympus OIB, Zeiss ZVI or an office document)", _BIOFORMATS),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _ARRAY),
    (0, b"CDF\x01", "a NetCDF file", _ARRAY),
    (344, b"n+1\0", "a NIfTI file", _ARRAY),
    (0, b"SIMPLE  =", "a FITS file", _ARRAY),
    (208, b"MAP ", "an MRC file", _ARRAY),
    (0, b"8BPS", "a Photoshop file", _CONVERT),
    (0, b"gimp xcf", "a GIMP file", _CONVERT),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image", _ARRAY),
    (0, b"#?RADIANCE", "a Radiance HDR image", _ARRAY),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)", "develop it to TIFF or JPEG"),
    (0, b"IIU\0", "a camera's raw file (RW2)", "develop it to TIFF or JPEG"),
    (0, b"IIRO", "a camera's raw file (ORF)", "develop it to TIFF or JPEG"),
    (0, b"IIRS", "a camera's raw file (ORF)", "develop it to TIFF or JPEG"),
    (8, b"CR\x02", "a camera's raw file (CR2)", "develop it to TIFF or JPEG"),
    (0, b"\0\0\x01\0", "an icon", _CONVERT),
    (0, b"\x0a\x05\x01", "a PCX image", _CONVERT),
    (0, b"PK\x03\x04", "a zip archive", "unpack it"),
    (0, b"PK\x05\x06", "a zip archive", "unpack it"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it with 'git lfs pull'"),
)
_HEAD = 1024


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Turn any error of a decoder, whose plugins raise anything, into one sentence that begins with ``name``."""
    from PIL import Image

    try:
        yield
    except Image.DecompressionBombError as error:
        reason = str(error).split(",")[0]
        raise ValueError(f"Cannot read {name}: {reason}; if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS.") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"Cannot read {name}: it is not an image.") from error
    except MemoryError as error:
        raise ValueError(f"Cannot read {name}: there is not enough memory for it.") from error
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        reason = "image file is truncated" if reason == "Truncated File Read" else reason
        raise ValueError(f"Cannot read {name}: {reason}.") from error


def pixel_limit() -> int | None:
    """Return how many pixels an image may have: twice ``PIL.Image.MAX_IMAGE_PIXELS``, as in Pillow."""
    from PIL import Image

    return None if Image.MAX_IMAGE_PIXELS is None else max(1, int(2 * Image.MAX_IMAGE_PIXELS))


def check_pixel_count(pixels: int) -> None:
    """Raise Pillow's own error for an image of too many pixels."""
    from PIL import Image

    limit = pixel_limit()
    if limit is not None and pixels > limit:
        raise Image.DecompressionBombError(f"Image size ({pixels} pixels) exceeds limit of {limit} pixels")


def open_regular(path: Path, name: str) -> BinaryIO:
    """Open a file that can be an image: a pipe would block, and a device may never end.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is something else than a regular file, cannot be opened, is empty, or is of a format that is not read.
    """
    try:
        _check_kind(os.stat(path).st_mode, name)
        # Not to block if a pipe takes its place in this moment.
        file = open(path, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise FileNotFoundError(f"There is no image file {str(path)!r}.{near_file(path)}") from error
        raise ValueError(f"Cannot read {name}: {error.strerror}.") from error
    try:
        _check_kind(os.fstat(file.fileno()).st_mode, name)
    except BaseException:
        file.close()
        raise
    return _with_image(file, name)


def open_at_url(url: str, name: str) -> BinaryIO:
    """Open a copy of a file at a URL that can be an image.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it cannot be fetched, is empty, or is of a format that is not read.
    ImportError
        If fsspec or the package for the URL's protocol is missing.
    """
    try:
        file = open_remote("image", url)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no image file {url!r}.") from error
    except OSError as error:
        raise ValueError(f"Cannot read {name}: {error.strerror}.") from error
    return _with_image(file, name)


def _with_image(file: BinaryIO, name: str) -> BinaryIO:
    """Return an open file whose first bytes can be those of an image; any other is closed."""
    try:
        head = file.read(_HEAD)
        file.seek(0)
        _check_content(head, name)
    except OSError as error:
        file.close()
        raise ValueError(f"Cannot read {name}: {error.strerror}.") from error
    except BaseException:
        file.close()
        raise
    return file


def _check_kind(mode: int, name: str) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise ValueError(f"Cannot read {name}: it is a directory: pass the files in it.")
    kinds = {
        stat.S_IFIFO: "a pipe (FIFO)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    kind = kinds.get(stat.S_IFMT(mode), "no regular file")
    raise ValueError(f"Cannot read {name}: it is {kind}, and images are read from regular files.")


def _check_content(head: bytes, name: str) -> None:
    """Refuse a file whose first bytes tell that it is something else than an image that is read."""
    if not head:
        raise ValueError(f"Cannot read {name}: it is not an image, but an empty file.")
    for offset, magic, kind, remedy in _OTHERS:
        if head.startswith(magic, offset):
            raise ValueError(f"Cannot read {name}: it is {kind}, which is not read: {remedy}.")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        raise ValueError(f"Cannot read {name}: it is an SVG drawing, which is not read: {_CONVERT}.")
    if text.startswith((b"<!doctype html", b"<html")):
        raise ValueError(f"Cannot read {name}: it is not an image, but a web page: download the image itself.")


def is_tiff(file: BinaryIO) -> bool:
    """Whether a file is a TIFF, of either byte order, or a BigTIFF."""
    head = file.read(4)
    file.seek(0)
    return head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
