"""From what a user calls weights to a file on this machine."""

from __future__ import annotations

from pathlib import Path

from .registry import PublishedWeights, find_published, list_weights

__all__ = ["locate", "named"]


def named(weights: str | Path, architecture: str | None = None) -> PublishedWeights | None:
    """Return the published weights of that name, or None if it must be a path.

    A name that several architectures have can be written after one of them: ``mask_rcnn_resnet_50_fpn/COCO_D2_3X``.

    Raises
    ------
    ValueError
        If the name exists, but for other architectures, or, without an ``architecture``, for several.
    """
    owner, _, name = str(weights).rpartition("/")
    if owner in {entry.architecture for entry in list_weights()} and architecture in (None, owner):
        architecture = owner
    elif owner:
        return None
    entries = [entry for entry in list_weights() if entry.name == name]
    if not entries:
        return None
    if architecture is not None:
        return find_published(name, architecture)
    if len(entries) > 1:
        owners = " or ".join(repr(f"{entry.architecture}/{name}") for entry in entries)
        raise ValueError(f"weights {name!r} exist for several architectures: say {owners}.")
    return entries[0]


def locate(weights: str | Path, architecture: str | None = None) -> Path:
    """Return the file of ``weights``, downloading it if need be.

    Parameters
    ----------
    weights : str or Path
        A name that :func:`~lucid_maskrcnn.weights.list_weights` knows, or a path.
    architecture : str, optional
        Whose weights the name is: ``"mask_rcnn_resnet_50_fpn"``, ``"resnet50"``, …

    Raises
    ------
    FileNotFoundError
        If it is neither, or a download is needed and forbidden.
    ValueError
        If the name is of another architecture, or of several.
    OSError
        If a download fails.
    """
    entry = named(weights, architecture)
    if entry is not None:
        from .cache import fetch  # here, as most models are built without a file

        return fetch(entry)
    path = Path(weights)
    if not path.is_file():
        entries = [e for e in list_weights(architecture) if architecture or e.categories]  # detectors, unless asked
        known = ", ".join(dict.fromkeys(repr(entry.name) for entry in entries))
        raise FileNotFoundError(
            f"weights must be one of {known or 'none, as no names are known here,'} or the path of a file; there is "
            f"no file {str(path)!r}."
        )
    return path
