"""From what a user calls weights to a file on this machine."""

from __future__ import annotations

from pathlib import Path

from .registry import PublishedWeights, find_published, list_weights

__all__ = ["locate", "matching", "named"]


def matching(weights: str | Path) -> list[PublishedWeights]:
    """Return the published weights of a name, those of several architectures if need be; none for a path.

    A name that several have can be written after one of them: ``mask_rcnn_resnet_50_fpn/COCO_D2_3X``.
    """
    owner, _, name = str(weights).rpartition("/")
    return [entry for entry in list_weights(owner or None) if entry.name == name]


def named(weights: str | Path, architecture: str | None = None) -> PublishedWeights | None:
    """Return the published weights of that name, as :func:`matching` reads it, or None if it must be a path.

    Raises
    ------
    ValueError
        If the name exists, but for other architectures, or, without an ``architecture``, for several.
    """
    entries = matching(weights)
    fitting = [entry for entry in entries if architecture in (None, entry.architecture)]
    if len(fitting) > 1:
        owners = " or ".join(repr(f"{entry.architecture}/{entry.name}") for entry in fitting)
        raise ValueError(f"weights {str(weights)!r} exist for several architectures: say {owners}.")
    if fitting:
        return fitting[0]
    if entries and architecture is not None and "/" not in str(weights):
        return find_published(str(weights), architecture)  # which says whose the name is
    return None


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
        from .download import fetch  # here, as most models are built without a file

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
