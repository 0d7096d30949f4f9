"""A plot of a run: its losses, and the metrics of its evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import validators
from ..call_answers import answers_wrong_calls
from ..plotting import INK, new_figure, plot_path, save_figure, style_axes
from .log import headline, read_log

__all__ = ["draw_curves"]


@answers_wrong_calls
def draw_curves(log: str | Path, path: str | Path) -> None:
    """Plot the log of a run: losses, and the main metrics if there were evaluations.

    Parameters
    ----------
    log : str or Path
        A run's ``log.jsonl``.
    path : str or Path
        The plot, a ``.png``, ``.pdf`` or ``.svg`` file; written whole or not at all.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    FileNotFoundError
        If there is no such log.
    ValueError
        If ``log`` is not the log of a run or has no steps, or ``path`` has another suffix.
    """
    log, path = validators.path("log", log), plot_path("path", path)
    records = read_log(log)
    steps = [r for r in records if "evaluation" not in r and "stopped_early" not in r]
    evaluations = [r for r in records if "evaluation" in r]
    if not steps:
        raise ValueError(f"{str(log)!r} has no steps to draw.")

    figure = new_figure(10, 4 if evaluations else 4.5)
    axes = figure.subplots(1, 2 if evaluations else 1, squeeze=False)[0]
    _draw_losses(axes[0], steps, evaluations)
    if evaluations:
        _draw_evaluations(axes[1], evaluations)
    save_figure(figure, path)


def _draw_losses(axes: Any, steps: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> None:
    span = max(1, len(steps) // 50)
    x = _moving_average([r["step"] for r in steps], span)
    for name in [name for name in steps[0] if name.endswith("_loss")]:
        y = _moving_average([r.get(name) for r in steps], span)
        total = name == "total_loss"
        style = {"color": INK, "linewidth": 2} if total else {"linewidth": 1.2}
        axes.plot(x, y, label=name.removesuffix("_loss"), **style)
    validated = [r for r in evaluations if "val/total_loss" in r["evaluation"]]
    if validated:
        y = _moving_average([r["evaluation"]["val/total_loss"] for r in validated], 1)
        style = {"color": INK, "linestyle": "--", "marker": "o", "markersize": 3}
        axes.plot([r["step"] for r in validated], y, label="total, validation", **style)
    axes.set(xlabel="step", ylabel="loss" if span == 1 else f"loss, mean of {span} steps", ylim=(0, None))
    _style(axes)


def _draw_evaluations(axes: Any, evaluations: Sequence[dict[str, Any]]) -> None:
    x = [r["step"] for r in evaluations]
    results = [r["evaluation"] for r in evaluations]
    for name in headline(results[-1]):
        if name.startswith("val/"):  # is beside the training losses
            continue
        axes.plot(
            x, _moving_average([metrics.get(name) for metrics in results], 1), marker="o", markersize=3, label=name
        )
    axes.set(xlabel="step", ylabel="evaluation")
    _style(axes)


def _moving_average(values: Sequence[float | None], span: int) -> np.ndarray:
    """Return the means of ``span`` values each; None makes a gap."""
    numbers = np.array([np.nan if v is None else v for v in values], float)
    return np.convolve(numbers, np.full(span, 1 / span), "valid")


def _style(axes: Any) -> None:
    style_axes(axes)
    axes.legend(frameon=False, fontsize="small")
