"""Draw the plots of docs/reference/speed.md from the records: ``uv run --group bench python docs/make_speed_plots.py``.

Reads ``benchmarks/records/cpu.json`` and writes each plot twice, for light and for dark pages.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "images"
OURS, PLAIN = "lucid_maskrcnn", "lucid_maskrcnn, without Winograd"
COLORS = {OURS: "#1b9e77", PLAIN: "#8fd3bd", "torchvision": "#d95f02", "torchvision, channels-last": "#f0a868"}
PREDICT, TRAIN = "predict, one image of 800 × 1216, with masks", "training step, two images of 512 × 768"
THEMES = {"light": "#24292f", "dark": "#d0d4d8"}  # the color of text and lines; the background is the page's


def draw_ratios(machines: list[dict[str, Any]]) -> Any:
    """Bars of the median times over torchvision's, with the range of minimum and maximum."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.4), sharey=True, layout="constrained")
    for axis, task in zip(axes, (PREDICT, TRAIN), strict=True):
        labels = [n for n in COLORS if n in machines[0][task]]
        for m, machine in enumerate(machines):
            unit = machine[task]["torchvision"]["median"]
            for n, name in enumerate(labels):
                row = {k: v / unit for k, v in machine[task][name].items()}
                place = m * (len(labels) + 1) + n
                axis.bar(place, row["median"], color=COLORS[name], label=name if not m else None)
                spread = [[row["median"] - row["min"]], [row["max"] - row["median"]]]
                axis.errorbar(place, row["median"], spread, color=plt.rcParams["text.color"], lw=1)
                axis.text(place, 0.03, f"{row['median']:.2f}", ha="center", color="#111111", fontsize=8)
        step = len(labels) + 1
        axis.set_xticks([m * step + (len(labels) - 1) / 2 for m in range(len(machines))], [m["name"] for m in machines])
        axis.set_title(task, fontsize=9)
    axes[0].set_ylabel("time over torchvision's")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def draw_stages(machine: dict[str, Any]) -> Any:
    """Bars of the seconds of each stage of predict."""
    figure, axis = plt.subplots(figsize=(6.4, 3), layout="constrained")
    names = list(machine["stages"])
    left = [0.0] * len(names)
    shades = plt.colormaps["tab20c"]([0, 1, 2, 4, 5, 6, 8, 9, 12])
    for stage, shade in zip(machine["stages"][names[0]], shades, strict=True):
        seconds = [machine["stages"][name][stage] for name in names]
        axis.barh(names, seconds, left=left, label=stage, color=shade)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("seconds")
    figure.legend(loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure


def draw_growth(machine: dict[str, Any]) -> Any:
    """Lines of the seconds of predict over the size of its task."""
    figure, axes = plt.subplots(1, 3, figsize=(6.4, 2.9), layout="constrained")
    for axis, (what, rows) in zip(axes, machine["growth"].items(), strict=True):
        for name in [n for n in rows if n != "values"]:
            axis.plot(rows["values"], rows[name], "o-", color=COLORS[name], label=name, ms=4)
        axis.set_title(what, fontsize=9)
        axis.set_ylim(0, None)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("seconds")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def main() -> None:
    machines = json.loads((ROOT / "benchmarks/records/cpu.json").read_text(encoding="utf-8"))["machines"]
    plots = {
        "ratios": (draw_ratios, machines),
        "stages": (draw_stages, machines[0]),
        "growth": (draw_growth, machines[0]),
    }
    for theme, color in THEMES.items():
        keys = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
        style = dict.fromkeys(keys, color) | {"svg.hashsalt": "speed", "axes.facecolor": "none"}
        with plt.rc_context(style | {"axes.spines.top": False, "axes.spines.right": False}):
            for name, (draw, record) in plots.items():
                path = OUT / f"speed_{name}_{theme}.svg"
                draw(record).savefig(path, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
