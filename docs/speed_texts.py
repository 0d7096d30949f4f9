"""What README.md and docs/reference/speed.md say of speed, from the runs in ``benchmarks/records/cpu.json``.

A text of the page stands between ``<!-- speed: NAME -->`` and ``<!-- end -->``; README's is one line.
``make_speed_plots.py`` writes them, and a test compares them with the records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "reference" / "speed.md"
README_LINE = "| **Fast on CPUs** |"
LABELS = {
    "ours": "this package",
    "torchvision": "torchvision",
    "channels-last": "channels-last",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "plain": "without Winograd",
}
TRUNK = "body, pyramid and RPN head alone"
NUCLEI = {size: f"`predict` with the weights NUCLEI, {size}" for size in ("256 × 256", "520 × 696", "1024 × 1024")}
OPERATORS = {
    "roi_align": "`roi_align`, 1000 RoIs of 16 to 112 px, 7 × 7, 256 channels",
    "roi_align backward": "its gradient",
    "roi_align, large RoIs": "`roi_align`, 1000 RoIs of 16 to 800 px",
    "roi_align backward, large RoIs": "its gradient",
    "nms": "`nms` of 2000 dense boxes",
    "batched_nms": "`batched_nms` of 5 × 1000 boxes",
    "paste_masks": "`paste_masks`, 100 masks on 800 × 1216",
}
COMPARED = [  # what, of whom, where it is in a run, and what is compared
    ("`predict`, one image of 800 × 1216", "torchvision", ("predict",), "median"),
    ("", "channels-last", ("predict",), "median"),
    ("", "torchvision", ("predict",), "memory"),
    (TRUNK, "OpenVINO", ("trunk",), "median"),
    ("", "ONNX Runtime", ("trunk",), "median"),
    ("", "channels-last", ("trunk",), "median"),
    *(
        (what if other == "OpenVINO" else "", other, ("nuclei", size), "median")
        for size, what in NUCLEI.items()
        for other in ("OpenVINO", "ONNX Runtime")
    ),
    ("training step, two images of 512 × 768", "torchvision", ("train",), "median"),
    ("", "torchvision", ("train",), "memory"),
    (
        "gradient of `roi_align`, RoIs of 16 to 800 px",
        "torchvision",
        ("ops", "roi_align backward, large RoIs"),
        "median",
    ),
    ("`nms` of 2000 dense boxes", "torchvision", ("ops", "nms"), "median"),
]


def runs() -> list[dict[str, Any]]:
    """Return the runs that are kept, oldest first."""
    return json.loads((ROOT / "benchmarks/records/cpu.json").read_text(encoding="utf-8"))["runs"]


def by_kind(kept: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each kind of processor, by its instructions."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for run in kept:
        kinds.setdefault(run["machine"]["instructions"], []).append(run)
    return dict(sorted(kinds.items(), reverse=True))


def latest(kept: Iterable[dict[str, Any]], *parts: str) -> dict[str, Any]:
    """Return the latest run that has all of these parts, in seconds."""
    return [run for run in kept if "unit" not in run and all(part in run for part in parts)][-1]


def ratios(kept: Iterable[dict[str, Any]], other: str, place: Iterable[str], what: str = "median") -> list[float]:
    """Return this package's figure over another's in each run that has both."""
    found = []
    for run in kept:
        rows: dict[str, Any] = run
        for key in place:
            rows = rows.get(key, {})
        if what in rows.get("ours", {}) and what in rows.get(other, {}):
            found.append(rows["ours"][what] / rows[other][what])
    return found


def span(values: list[float]) -> str:
    """Return the least and the greatest of some ratios."""
    if not values:
        return "–"
    low, high = (f"{value:.2f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


# ------------------------------------------------------------------ the texts


def readme_line(kept: list[dict[str, Any]]) -> str:
    predict, train = (span(ratios(kept, "torchvision", (part,))) for part in ("predict", "train"))
    return (
        f"{README_LINE} {predict} of torchvision's time for a prediction on two cores, {train} for a training step "
        "([speed](docs/reference/speed.md)) |"
    )


def summary(kept: list[dict[str, Any]]) -> str:
    predict, train = (span(ratios(kept, "torchvision", (part,))) for part in ("predict", "train"))
    memory = span([r for part in ("predict", "train") for r in ratios(kept, "torchvision", (part,), "memory")])
    return (
        f"On two cores, a prediction takes {predict} of torchvision's time with the same weights, and a training step\n"
        f"{train} of it, in {memory} of its memory."
    )


def ratio_table(kept: list[dict[str, Any]]) -> str:
    kinds = by_kind(kept)
    names = {label: name for name, label in LABELS.items()}
    heads = [f"{kind}, {len(of)} {'run' if len(of) == 1 else 'runs'}" for kind, of in kinds.items()]
    rows = [["this package over …", "", *heads], ["---"] * (2 + len(kinds))]
    for what, other, place, quantity in COMPARED:
        spans = [span(ratios(of, names[other], place, quantity)) for of in kinds.values()]
        if set(spans) != {"–"}:
            rows.append([what, f"{other}'s {'time' if quantity == 'median' else 'peak memory'}", *spans])
    return table(rows)


def machines(kept: list[dict[str, Any]]) -> str:
    """Return a section on the latest run of each kind of processor."""
    return "\n\n".join(machine(latest(of, "predict", "train")) for of in by_kind(kept).values())


def machine(run: dict[str, Any]) -> str:
    about = run["machine"]
    heading = [f"{about['cores']} cores of an {about['processor']}", about["instructions"], *[about.get("clock")]]
    tasks = [
        ("`predict`, one image of 800 × 1216, with its masks", run["predict"]),
        (TRUNK, run.get("trunk", {})),
        *((what, run.get("nuclei", {}).get(size, {})) for size, what in NUCLEI.items()),
        ("training step, two images of 512 × 768", run["train"]),
    ]
    names = [name for name in LABELS if any(name in found for _, found in tasks)]
    rows = [["", *(LABELS[name] for name in names)], ["---"] * (1 + len(names))]
    for what, found in tasks:
        if found:
            rows.append([what, *(seconds(found.get(name)) for name in names)])
        if "memory" in found.get("ours", {}):
            cells = [f"{found[name]['memory']:.0f} MB" if name in found else "" for name in names]
            rows.append(["peak memory of that process", *cells])
    parts = [f"### {', '.join(filter(None, heading))}, {about['date']}", table(rows), *crowd(run), *scaling(run)]
    return "\n\n".join(parts)


def crowd(run: dict[str, Any]) -> list[str]:
    if "crowd" not in run:
        return []
    one, many = run["crowd"]["1"], run["crowd"]["4000"]
    return [
        f"The losses of an image of 512 × 512 with 4000 objects take {many - one:.0f} MB more than with one object."
    ]


def scaling(run: dict[str, Any]) -> list[str]:
    if "scaling" not in run:
        return []
    rows = [["`predict`, by threads", *run["scaling"]], ["---"] * (1 + len(run["scaling"]))]
    rows += [
        [LABELS[name], *(seconds(f.get(name)) for f in run["scaling"].values())] for name in ("ours", "channels-last")
    ]
    absent = [n for n in ("1", "2", "4", "8") if n not in run["scaling"]]
    note = [f"More threads were not measured: this machine has {run['machine']['cores']} cores."] if absent else []
    return [table(rows), *note]


def floor(kept: list[dict[str, Any]]) -> str:
    run = latest([run for run in kept if "gflop" in run["predict"]], "predict")
    found, about = run["predict"], run["machine"]
    least, took = found["gflop"] / found["gemm"], found["ours"]["median"]
    return (
        f"On an {about['processor']} ({about['instructions']}). The network's arithmetic is {found['gflop']:.0f} "
        f"GFLOP, counted as direct convolutions, for an\nimage with {found['ours']['detections']} detections (496 with "
        "100: {doc}`/understand/factories/resnet_50_fpn`); at the rate of NumPy's fastest matrix\n"
        f"product ({found['gemm']:.0f} GFLOP/s in the same run) it alone would take {least:.1f} s. `predict` takes "
        f"{took:.2f} s, {least / took:.2f} of that rate,\nwith RoIAlign, NMS and pasting included: Winograd "
        "convolutions multiply less ({doc}`/understand/convolutions`)."
    )


def growth(kept: list[dict[str, Any]]) -> str:
    rows = latest(kept, "growth")["growth"]["detections"]
    ours, theirs = (rows["300"][name]["median"] / rows["1"][name]["median"] for name in ("ours", "channels-last"))
    return (
        "At twice the side there are four times the pixels. With 300 detections instead of 1, this package takes "
        f"{ours:.1f} times as long,\nand torchvision {theirs:.1f} times: it pastes slowly (`paste_masks` below)."
    )


def operators(kept: list[dict[str, Any]]) -> str:
    run = latest(kept, "ops")
    rows = [[f"ms, {run['machine']['instructions']}", "this package", "torchvision"], ["---"] * 3]
    for name, what in OPERATORS.items():
        found = run["ops"][name]
        rows.append([what, *(milliseconds(found[other]) for other in ("ours", "torchvision"))])
    return table(rows)


BLOCKS = {
    "summary": summary,
    "ratios": ratio_table,
    "machines": machines,
    "floor": floor,
    "growth": growth,
    "operators": operators,
}


# ------------------------------------------------------------------ cells and files


def table(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


def seconds(row: dict[str, float] | None) -> str:
    return f"{row['median']:.2f} s ({row['min']:.2f} to {row['max']:.2f})" if row else ""


def milliseconds(row: dict[str, float]) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(*(1e3 * row[key] for key in ("median", "min", "max")))


def written(kept: list[dict[str, Any]]) -> dict[Path, str]:
    """Return README.md and the page on speed as they are with the figures of these runs."""
    page = PAGE.read_text(encoding="utf-8")
    for name, text in BLOCKS.items():
        start, end = f"<!-- speed: {name} -->\n", "\n<!-- end -->"
        head, found, rest = page.partition(start)
        if not found:
            raise ValueError(f"{PAGE} has no line {start!r}.")
        page = f"{head}{start}{text(kept)}{end}{rest.partition(end)[2]}"
    readme, count = re.subn(
        f"^{re.escape(README_LINE)}.*$",
        lambda _: readme_line(kept),
        README.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    if count != 1:
        raise ValueError(f"{README} must have one line that begins with {README_LINE!r}.")
    return {PAGE: page, README: readme}
