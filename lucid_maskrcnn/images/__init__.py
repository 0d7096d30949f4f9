"""Reading images: files, PIL images and arrays."""

from .file_kinds import SUFFIXES
from .handles import ImageHandle, RGBRegions, Size
from .reading import (
    check_source,
    exif_orientation,
    load_checked,
    load_image,
    load_pages,
    open_image,
    size_mismatch,
    size_on_disk,
)

__all__ = [
    "SUFFIXES",
    "ImageHandle",
    "RGBRegions",
    "Size",
    "check_source",
    "exif_orientation",
    "load_checked",
    "load_image",
    "load_pages",
    "open_image",
    "size_mismatch",
    "size_on_disk",
]
