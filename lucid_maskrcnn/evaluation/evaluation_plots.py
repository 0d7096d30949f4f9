"""Plots of an evaluation: score thresholds, precision against recall, confusion. They need matplotlib, an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.plotting import GRID, INK, new_figure, save_figure, style_axes
from lucid_maskrcnn.text_tables import printable

from .average_precision import Precision
from .confusion import ConfusionMatrix
from .score_thresholds import ThresholdCurve

__all__ = ["plot_confusion", "plot_precision_recall", "plot_thresholds"]

_RECALLS = np.linspace(0, 1, 101)  # pycocotools'
_IOUS = {"IoU 0.5": 0, "IoU 0.75": 5}
_MOST_NAMED = 10  # categories in a legend
_MOST_WRITTEN = 30  # categories whose counts are written into the matrix
_LONGEST = 24  # characters of a name


def plot_thresholds(curve: ThresholdCurve, path: Path) -> None:
    """Plot precision, recall, F1 and AP_t against the score threshold."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for name, values, style in (
        ("precision", curve.precision, {"linewidth": 1.4}),
        ("recall", curve.recall, {"linewidth": 1.4}),
        ("F1", curve.f1, {"linewidth": 2.2, "color": INK}),
        (f"AP_{curve.iou_thresh:g}", curve.accuracy, {"linewidth": 1.4, "linestyle": "--"}),
    ):
        axes.plot(curve.thresholds, values, label=name, **style)
    if not np.isnan(curve.best):
        axes.axvline(curve.best, color=INK, linewidth=0.8, linestyle=":")
        axes.set_title(f"best F1 {np.nanmax(curve.f1):.3f} at a score threshold of {curve.best:g}", fontsize="medium")
    axes.set(xlabel="score threshold", ylabel=f"masks, IoU {curve.iou_thresh:g}", xlim=(0, 1), ylim=(0, 1.02))
    style_axes(axes)
    axes.legend(frameon=False, fontsize="small", loc="lower center", ncols=4)
    save_figure(figure, path)


def plot_precision_recall(precision: Precision, names: dict[int, str], kind: str, path: Path) -> None:
    """Plot COCO's precision against recall: the mean of the categories, and each of them.

    Parameters
    ----------
    precision : Precision
    names : dict of int to str
        Of the category ids.
    kind : str
        What is compared, in words: "masks" or "boxes".
    path : Path
    """
    known = precision.precision[:, :, :, 0, -1]  # (T, R, K)
    has_objects = [k for k in range(known.shape[2]) if (known[0, :, k] > -1).all()]
    figure = new_figure(11 if len(has_objects) > 1 else 6, 4.8)
    columns = figure.subplots(1, 2 if len(has_objects) > 1 else 1, squeeze=False)[0]
    for name, t in _IOUS.items():
        _plot_curve(columns[0], known[t][:, has_objects].mean(axis=1) if has_objects else None, name)
    mean = known[:, :, has_objects].mean(axis=(0, 2)) if has_objects else None
    _plot_curve(columns[0], mean, "mean of IoU 0.5 to 0.95", color=INK, linewidth=2.2)
    if len(has_objects) > 1:
        _plot_categories(columns[1], known[0], has_objects, [names[i] for i in precision.category_ids])
        columns[1].set_title(f"each category, {kind}, IoU 0.5", fontsize="medium")
    columns[0].set_title(f"all categories, {kind}" if len(has_objects) > 1 else kind, fontsize="medium")
    for axes in columns:
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        style_axes(axes)
        axes.legend(framealpha=0.8, edgecolor="none", fontsize="small", loc="lower left")
    save_figure(figure, path)


def _plot_curve(axes: Any, values: np.ndarray | None, name: str, **style: Any) -> None:
    if values is None:
        axes.plot([], [], label=f"{name}: no objects", **style)
    else:
        axes.plot(_RECALLS, values, label=f"{name}: {values.mean():.3f}", **style)


def _plot_categories(axes: Any, curves: np.ndarray, rows: list[int], names: list[str]) -> None:
    """Plot each category; the best and the worst have names if there are many."""
    ranked = sorted(rows, key=lambda k: -curves[:, k].mean())
    half = _MOST_NAMED // 2
    named = ranked if len(ranked) <= _MOST_NAMED else [*ranked[:half], *ranked[-half:]]
    for k in ranked:
        if k in named:
            axes.plot(_RECALLS, curves[:, k], linewidth=1.4, label=f"{_short(names[k])}: {curves[:, k].mean():.3f}")
        else:
            axes.plot(_RECALLS, curves[:, k], linewidth=0.7, color=GRID, zorder=0)


def plot_confusion(matrix: ConfusionMatrix, path: Path) -> None:
    """Plot a confusion matrix: colors are fractions of each category's objects, numbers are counts."""
    size = len(matrix.names)
    side = float(np.clip(2.4 + 0.5 * size, 4.5, 18))
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    shown = axes.imshow(matrix.fractions, cmap="Blues", vmin=0, vmax=1)
    names = [_short(name) for name in matrix.names]
    small = {"fontsize": "small" if size <= _MOST_WRITTEN else 7}
    axes.set_xticks(range(size), names, rotation=90 if size > 3 else 0, **small)
    axes.set_yticks(range(size), names, **small)
    axes.set(xlabel="detections", ylabel="objects")
    axes.set_title(f"IoU of masks {matrix.iou_thresh:g}, score {matrix.score_thresh:g} or more", fontsize="medium")
    if size <= _MOST_WRITTEN:
        for (row, column), count in np.ndenumerate(matrix.counts):
            if count:
                color = "white" if matrix.fractions[row, column] > 0.5 else INK
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize="small")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="fraction of the row")
    save_figure(figure, path)


def _short(name: str) -> str:
    """Return a name as matplotlib shows it: not too long, and without control characters and mathematics."""
    name = printable(name)
    short = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return short.replace("$", r"\$")
