"""Write the figures of speed, and draw their plots: ``uv run --group bench python docs/make_speed_plots.py``.

Reads ``benchmarks/records/cpu.json``. README.md and docs/reference/speed.md get their texts, docs/images each plot
twice, for light and for dark pages.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib
import speed_texts

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parent / "images"
LABELS = {
    "ours": "lucid_maskrcnn",
    "plain": "lucid_maskrcnn, without Winograd",
    "torchvision": "torchvision",
    "channels-last": "torchvision, channels-last",
}
COLORS = {"ours": "#1b9e77", "plain": "#8fd3bd", "torchvision": "#d95f02", "channels-last": "#f0a868"}
TASKS = {
    "predict": "predict, one image of 800 × 1216, with masks",
    "train": "training step, two images of 512 × 768",
}
GROWTH = {
    "side": "side of a square image, pixels",
    "batch": "images of 512 × 768 at once",
    "detections": "detections",
}
THEMES = {"light": "#24292f", "dark": "#d0d4d8"}  # the color of text and lines; the background is the page's


def draw_ratios(kinds: dict[str, list[dict[str, Any]]]) -> Any:
    """Bars of the times over torchvision's on each kind of processor: medians of the runs, with their range."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.4), sharey=True, layout="constrained")
    for axis, task in zip(axes, TASKS, strict=True):
        names = [name for name in LABELS if any(name in run[task] for of in kinds.values() for run in of)]
        for k, of in enumerate(kinds.values()):
            for n, name in enumerate(names):
                found = [
                    run[task][name]["median"] / run[task]["torchvision"]["median"] for run in of if name in run[task]
                ]
                place, middle = k * (len(names) + 1) + n, statistics.median(found)
                axis.bar(place, middle, color=COLORS[name], label=None if k else LABELS[name])
                spread = [[middle - min(found)], [max(found) - middle]]
                axis.errorbar(place, middle, spread, color=plt.rcParams["text.color"], lw=1)
                axis.text(place, 0.03, f"{middle:.2f}", ha="center", color="#111111", fontsize=8)
        step = len(names) + 1
        axis.set_xticks([k * step + (len(names) - 1) / 2 for k in range(len(kinds))], list(kinds))
        axis.set_title(TASKS[task], fontsize=9)
    axes[0].set_ylabel("time over torchvision's")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def draw_stages(found: dict[str, Any]) -> Any:
    """Bars of the seconds of each stage of predict."""
    figure, axis = plt.subplots(figsize=(6.4, 3), layout="constrained")
    stages = {name: found[name]["stages"] for name in LABELS if name in found}
    left = [0.0] * len(stages)
    shades = plt.colormaps["tab20c"]([0, 1, 2, 4, 5, 6, 8, 9, 12])
    for stage, shade in zip(stages["ours"], shades, strict=True):
        seconds = [of[stage] for of in stages.values()]
        axis.barh([LABELS[name] for name in stages], seconds, left=left, label=stage, color=shade)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("seconds")
    figure.legend(loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure


def draw_growth(found: dict[str, Any]) -> Any:
    """Lines of the seconds of predict over the size of its task."""
    figure, axes = plt.subplots(1, 3, figsize=(6.4, 2.9), layout="constrained")
    for axis, (what, rows) in zip(axes, found.items(), strict=True):
        for name in next(iter(rows.values())):
            seconds = [row[name]["median"] for row in rows.values()]
            axis.plot([int(value) for value in rows], seconds, "o-", color=COLORS[name], label=LABELS[name], ms=4)
        axis.set_title(GROWTH[what], fontsize=9)
        axis.set_ylim(0, None)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("seconds")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def main() -> None:
    kept = speed_texts.runs()
    for path, text in speed_texts.written(kept).items():
        path.write_text(text, encoding="utf-8")
    plots = {
        "ratios": (draw_ratios, speed_texts.by_kind(kept)),
        "stages": (draw_stages, speed_texts.latest([run for run in kept if "gflop" in run["predict"]])["predict"]),
        "growth": (draw_growth, speed_texts.latest(kept, "growth")["growth"]),
    }
    for theme, color in THEMES.items():
        keys = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
        style = dict.fromkeys(keys, color) | {"svg.hashsalt": "speed", "axes.facecolor": "none"}
        with plt.rc_context(style | {"axes.spines.top": False, "axes.spines.right": False}):
            for name, (draw, found) in plots.items():
                path = OUT / f"speed_{name}_{theme}.svg"
                draw(found).savefig(path, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
