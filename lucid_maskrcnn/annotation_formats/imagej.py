"""ImageJ's regions of interest (ROI), as its ROI manager opens them from a zip file.

Outlines lie on the edges of the pixels, as ImageJ's own do: areas are those of the masks.

Shapes: n objects of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lucid_maskrcnn.masks import CompressedMasks, trace_parts
from lucid_maskrcnn.text_tables import printable
from lucid_maskrcnn.validators import instance

if TYPE_CHECKING:
    from roifile import ImagejRoi

__all__ = ["make_rois", "require_roifile", "write_roi_zip"]

_LARGEST = 2**15 - 1  # of a coordinate in 16 bits
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # steps of a path


def make_rois(
    masks: CompressedMasks,
    *,
    ids: Sequence[int],
    colors: Sequence[Sequence[int]],
    properties: Sequence[Mapping[str, Any]],
) -> list[ImagejRoi]:
    """Return a region for each object, with roifile.

    Parameters
    ----------
    masks : CompressedMasks
        One part without holes becomes a traced polygon, anything else a composite. An empty mask has no region.
    ids : sequence of int
        Of each object: the name of its region.
    colors : sequence of (red, green, blue)
        Of each outline, from 0 to 255.
    properties : sequence of mapping
        What else is known of each object, such as its class and score; ImageJ lists it under "Properties".

    Returns
    -------
    list of roifile.ImagejRoi

    Raises
    ------
    ImportError
        If roifile is not installed.
    TypeError
        If ``masks`` are something else.
    """
    instance("masks", masks, CompressedMasks, "CompressedMasks")
    require_roifile()
    found = []
    for parts, number, color, known in zip(trace_parts(masks), ids, colors, properties, strict=True):
        if not parts:
            continue
        roi = _region([ring for rings in parts for ring in rings])
        roi.name = str(number)
        roi.stroke_color = bytes([255, *color])
        roi.props = "".join(f"{_escaped(key)}: {_escaped(str(value))}\n" for key, value in known.items())
        found.append(roi)
    return found


def require_roifile() -> None:
    """Raise ``ImportError`` with the command that installs roifile, if it is missing."""
    try:
        import roifile  # noqa: F401
    except ImportError as error:
        raise ImportError("ImageJ's regions need roifile: pip install 'lucid-maskrcnn[imagej]'.") from error


def _region(rings: list[list[tuple[int, int]]]) -> ImagejRoi:
    from roifile import ROI_TYPE, ImagejRoi

    points = np.array([point for ring in rings for point in ring])
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    # The bounds of what lies beyond 16 bits are not read: a composite's path has the place.
    edges = (min(edge, _LARGEST) for edge in (left, top, right, bottom))
    roi = ImagejRoi(**dict(zip(("left", "top", "right", "bottom"), edges, strict=True)))
    if len(rings) == 1 and max(right, bottom) <= _LARGEST and len(points) < 2**16:
        roi.roitype, roi.n_coordinates = ROI_TYPE.TRACED, len(points)
        roi.integer_coordinates = (points - (left, top)).astype(np.int32)
        return roi
    path = [step for ring in rings for step in _path(ring)]
    roi.roitype, roi.shape_roi_size = ROI_TYPE.RECT, len(path)
    roi.multi_coordinates = np.array(path, np.float32)
    return roi


def _path(ring: list[tuple[int, int]]) -> list[float]:
    steps = [number for x, y in ring for number in (_LINE, float(x), float(y))]
    return [_MOVE, *steps[1:], _CLOSE]


def _escaped(text: str) -> str:
    """Return text as Java's properties files have it: one line, in which no backslash begins an escape."""
    return printable(text.replace("\\", "\\\\"))


def write_roi_zip(file: BinaryIO, rois: Sequence[ImagejRoi]) -> None:
    """Write regions as a zip file, under their names; equal ones give equal bytes."""
    import zipfile  # here, as it brings three ways of compression along

    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for roi in rois:
            archive.writestr(zipfile.ZipInfo(f"{roi.name}.roi"), roi.tobytes(), zipfile.ZIP_DEFLATED)
