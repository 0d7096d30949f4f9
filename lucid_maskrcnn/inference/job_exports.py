"""Exports of a job: files about each image in the formats of :meth:`Detections.save`, beside its drawing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.detections.saving import EXPORT_FORMATS, is_folder_of_crops, save_detections, suffix_of
from lucid_maskrcnn.validators import choice, shown

__all__ = ["JOB_EXPORTS", "check_exports", "delete_file", "ending_of", "is_export", "save_export"]

#: Formats that a job can write; drawings have an option of their own.
JOB_EXPORTS = tuple(name for name in EXPORT_FORMATS if name != "drawing")


@answers_wrong_calls
def check_exports(name: str, export: Any) -> tuple[str, ...]:
    """Return the formats of an argument, each once, if their files can stand side by side."""
    if isinstance(export, str) or not isinstance(export, (list, tuple)):
        raise TypeError(f"{name} must be a sequence of formats, such as ('csv', 'geojson'), got {shown(export)}.")
    formats = tuple(dict.fromkeys(choice(name, format, JOB_EXPORTS) for format in export))
    endings: dict[str, str] = {}
    for format in formats:
        other = endings.setdefault(ending_of(format), format)
        if other != format:
            raise ValueError(
                f"{name} cannot have both {other!r} and {format!r}: their files would have the same names."
            )
    return formats


def ending_of(format: str) -> str:
    """Return what the name of an export has after the image's stem; that of crops is a folder's."""
    return suffix_of(format) or f"_{format}"


def is_export(format: Any, name: Any) -> bool:
    """Whether ``job.json`` names a file that can be an export in the job's folder: it may be replaced and deleted."""
    return (
        format in JOB_EXPORTS
        and isinstance(name, str)
        and os.path.basename(name) == name
        and name.endswith(ending_of(format))
        and name != ending_of(format)
    )


def save_export(
    format: str,
    found: Detections,
    path: Path,
    *,
    source: str,
    load: Callable[[], np.ndarray],
    options: Mapping[str, Any],
) -> None:
    """Write an export of an image.

    Parameters
    ----------
    format : str
    found : Detections
    path : Path
    source : str
        The image's file: intensities are measured in its unscaled samples.
    load : callable
        Returns its pixels as the network got them.
    options : mapping
        ``page`` of the file, ``image_id`` in the job, and ``weights``, their name and SHA-256.
    """
    chosen = {name: options[name] for name in EXPORT_FORMATS[format].options if options.get(name) is not None}
    image = load() if format == "crops" else source
    save_detections(found, path, format=format, image=image, options=chosen, weights=options["weights"])


def delete_file(path: Path) -> None:
    """Delete a drawing or an export, if it is there; a folder only if it holds nothing but crops."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif is_folder_of_crops(path):
        shutil.rmtree(path)
