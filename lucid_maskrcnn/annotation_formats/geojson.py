"""GeoJSON as QuPath reads it: one feature for each object, with its class, color and measurements.

Coordinates are pixels of the whole image, of which number i covers ``[i, i + 1)``, as in QuPath.

Shapes: n objects of one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lucid_maskrcnn.masks import CompressedMasks, trace_parts
from lucid_maskrcnn.validators import choice, instance

__all__ = ["OBJECT_TYPES", "make_feature_collection"]

OBJECT_TYPES = ("detection", "annotation")


def make_feature_collection(
    masks: CompressedMasks,
    *,
    ids: Sequence[int],
    names: Sequence[str],
    colors: Sequence[Sequence[int]],
    measurements: Mapping[str, np.ndarray],
    object_type: Literal["detection", "annotation"] = "detection",
    made_by: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return objects as a GeoJSON ``FeatureCollection``.

    Parameters
    ----------
    masks : CompressedMasks
        Outlines follow the edges of the pixels and keep holes; the area of a geometry is that of its mask. Each is a
        ``Polygon``, or a ``MultiPolygon`` of parts that are apart or touch at a corner only, and valid: no ring
        touches itself. An empty mask has no geometry, and so no feature.
    ids : sequence of int
        Of each object; also its name in QuPath.
    names : sequence of str
        The class of each object.
    colors : sequence of (red, green, blue)
        The color of the class of each object, from 0 to 255.
    measurements : mapping of str to array of shape (n,)
        Those that are NaN or infinite, which JSON does not have, are left out.
    object_type : {"detection", "annotation"}
        What QuPath makes of them: detections are many and fixed, annotations can be edited.
    made_by : mapping of str to str, optional
        Program and weights; programs that read GeoJSON skip it.

    Returns
    -------
    dict
        Plain Python, for ``json.dump``.

    Raises
    ------
    TypeError, ValueError
        If ``masks`` or ``object_type`` is something else.
    """
    instance("masks", masks, CompressedMasks, "CompressedMasks")
    choice("object_type", object_type, OBJECT_TYPES)
    columns = {name: np.asarray(values).tolist() for name, values in measurements.items()}
    features = []
    for row, (parts, number, name, color) in enumerate(zip(trace_parts(masks), ids, names, colors, strict=True)):
        if not parts:
            continue
        measured = {key: _plain(values[row]) for key, values in columns.items()}
        features.append(
            {
                "type": "Feature",
                "id": int(number),
                "geometry": _geometry(parts),
                "properties": {
                    "objectType": object_type,
                    "name": str(number),
                    "classification": {"name": name, "color": [int(part) for part in color]},
                    "measurements": {key: value for key, value in measured.items() if math.isfinite(value)},
                },
            }
        )
    return {"type": "FeatureCollection", **({"made_by": dict(made_by)} if made_by else {}), "features": features}


def _plain(value: float | bool) -> float:
    return int(value) if isinstance(value, bool) else value


def _geometry(parts: list[list[list[tuple[int, int]]]]) -> dict[str, Any]:
    polygons = [[[*map(list, ring), list(ring[0])] for ring in rings] for rings in parts]  # closed, as GeoJSON wants
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}
