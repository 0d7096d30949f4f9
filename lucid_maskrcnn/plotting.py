"""Plots with matplotlib, an extra: what they have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.atomic import replacing

__all__ = ["GRID", "INK", "new_figure", "plot_path", "save_figure", "style_axes"]

INK, GRID = "#333333", "#dddddd"
_FORMATS = {".png": "png", ".pdf": "pdf", ".svg": "svg"}


def plot_path(name: str, path: Any) -> Path:
    """Return the path of a plot to write.

    Raises
    ------
    TypeError, ValueError
        If it is no path, or does not end in ``.png``, ``.pdf`` or ``.svg``.
    """
    file = validators.path(name, path)
    if file.suffix.lower() not in _FORMATS:
        raise ValueError(f"{name} must end in {', '.join(map(repr, _FORMATS))}, got {str(file)!r}.")
    return file


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of so many inches, that no window shows.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'lucid-maskrcnn[plot]'.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Any) -> None:
    """Draw a light grid, and only the left and lower frame."""
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, whole or not at all."""
    with replacing(path) as file:
        figure.savefig(file, format=_FORMATS[path.suffix.lower()], dpi=120)
