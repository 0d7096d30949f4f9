"""``info``: describing files of weights, and the published ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucid_maskrcnn.json_text import parse_json

from .common import describe_gpu, say, say_pairs, table_lines

if TYPE_CHECKING:
    from lucid_maskrcnn.config import ModelConfig
    from lucid_maskrcnn.weights import PublishedWeights, WeightsFile

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    info = commands.add_parser(
        "info",
        help="describe a file of weights, or list the published weights",
        description="Describe a file of weights and its model, or published weights. Without an argument: list those, "
        "and say what computes on the gpu.",
    )
    info.add_argument("weights", nargs="?", metavar="NAME|FILE", help="a published name, or a file of weights")
    info.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.weights import list_weights, locate, read_weights_file
    from lucid_maskrcnn.weights.download import cached
    from lucid_maskrcnn.weights.registry import find_by_name

    if args.weights is None:
        say_pairs({"gpu": describe_gpu()})
        _say_overview(list_weights())
        say()
        say("lucid-maskrcnn info NAME says more; --weights takes the name, or a file.")
        return
    tables = []
    for entry in find_by_name(args.weights):
        path = cached(entry)
        table = _describe_published(entry, path)
        if path is not None and entry.categories:
            of_file = _describe_file(read_weights_file(path), path)
            table = of_file | table | {"conventions": of_file.get("conventions", entry.conventions)}
        tables.append(table)
    if not tables:
        path = locate(args.weights)  # of a file: nothing is downloaded
        tables.append(_describe_file(read_weights_file(path), path))
    for i, table in enumerate(tables):
        if i > 0:
            say()
        say_pairs(table)


def _say_overview(entries: Iterable[PublishedWeights]) -> None:
    """Print the published weights, below what they are for."""
    rows = [("name", "architecture", "licence", "metrics, %".ljust(_METRICS_WIDTH))]
    headings: dict[str, list[int]] = {}
    for entry in entries:
        headings.setdefault(_purpose(entry), []).append(len(rows))
        licence = entry.licence.split(" (")[0].split(";")[0]
        metrics = dict(list(entry.metrics.items())[:_METRICS_IN_OVERVIEW])
        rows.append((entry.name, entry.architecture, licence, _metrics(metrics).ljust(_METRICS_WIDTH)))
    heading, *lines = table_lines(rows, left=(0, 1, 2), indent="  ")
    say()
    say(heading)
    for purpose, numbers in headings.items():
        say(f"{purpose}:")
        for number in numbers:
            say(lines[number - 1])


def _purpose(entry: PublishedWeights) -> str:
    """Return what weights are for."""
    if entry.categories is None:
        return "training on your own images, with --weights-backbone"
    return _PURPOSES[entry.categories]


def _describe_published(entry: PublishedWeights, path: Path | None) -> dict[str, str]:
    table = {
        "name": entry.name,
        "for": _purpose(entry),
        "architecture": entry.architecture,
        "metrics": f"{_metrics(entry.metrics)} (percent, as published)",
        "trained on": entry.dataset,
        "licence": entry.licence,
        "source": entry.source,
        "conventions": entry.conventions,
        "file": str(path) if path else f"not on this machine; {entry.url}",
    }
    if entry.num_parameters:
        table["parameters"] = f"{entry.num_parameters:,}"
    if entry.size:
        table["size"] = f"{entry.size / 1e6:.1f} MB"
    return table


def _describe_file(file: WeightsFile, path: Path) -> dict[str, str]:
    """Return what a file's header says, and what its names and shapes determine."""
    sizes = [a.size for n, a in file.arrays.items() if not n.endswith(("running_mean", "running_var"))]
    table = {
        "file": str(path),
        "format": f"{file.kind}, {file.source}'s names",
        **({"weights": _chosen(file)} if file.place else {}),
        "size": f"{file.size / 1e6:.1f} MB",
        "parameters": f"{sum(sizes):,}",
        **(_describe_config(file.config) if file.config else {"architecture": "unknown"}),
        **({"configuration": file.config_file} if file.config_file else {}),
        **(
            {"configuration": "none: settings that no shape shows are assumed, the model zoo's"} if file.assumed else {}
        ),
    }
    known = {"dataset": "trained on", "licence": "licence", "source": "source"}
    table |= {label: file.metadata[key] for key, label in known.items() if key in file.metadata}
    if "metrics" in file.metadata:
        table["metrics"] = _metrics(_parsed(file.metadata["metrics"]))
    return table


def _chosen(file: WeightsFile) -> str:
    """Return where in the file the weights stand, and which others there are."""
    return file.place + (f"; not {' or '.join(file.others[:4])}" if file.others else "")


def _describe_config(config: ModelConfig) -> dict[str, str]:
    """Return the architecture, and every setting that is not the architecture's or the conventions'."""
    from lucid_maskrcnn.config import architecture_of, conventions_of

    conventions, differences = conventions_of(config)
    table = {
        "architecture": architecture_of(config) or "a backbone that is not a ResNet-FPN of this package",
        "classes": _classes(config),
        "conventions": f"{conventions.name}: {_CONVENTIONS[conventions.name]}",
    }
    if differences:
        table["conventions"] += "; except for the settings below"
    changed = _changed_settings(config) | differences
    if changed:
        table["settings"] = ", ".join(f"{name}={json.dumps(value)}" for name, value in changed.items())
    return table


def _changed_settings(config: ModelConfig) -> dict[str, Any]:
    """Return the settings that differ from the architecture's, except for classes and conventions."""
    from lucid_maskrcnn.config import ARCHITECTURES, architecture_of

    usual = ARCHITECTURES.get(architecture_of(config) or "")
    if usual is None:
        return {}
    own, default = config.to_dict(), usual.to_dict()
    passed = ("num_classes", "categories", "image", "rpn", "heads", "backbone", "feat_channels", "config_version")
    found = {name: value for name, value in own.items() if name not in passed and value != default[name]}
    of_backbone = {n: v for n, v in own["backbone"].items() if v != default["backbone"][n] and n != "stride_in_1x1"}
    return found | ({"backbone": of_backbone} if of_backbone else {})


_METRICS_IN_OVERVIEW = 2
_METRICS_WIDTH = 25  # the column is shortened last, as those of numbers, and yet begins on the left
_PURPOSES = {
    "NUCLEI": "nuclei in microscopy images, fluorescence or stained",
    "COCO": "80 kinds of everyday objects in photographs",
    "COCO_CONTIGUOUS": "80 kinds of everyday objects in photographs",
}
_CONVENTIONS = {
    "torchvision": "RGB in [0, 1], stride in the 3×3, RoIAlign not aligned with 2 × 2 samples, whole-pixel anchors",
    "detectron2": "BGR in [0, 255], stride in the 1×1, RoIAlign aligned with adaptive samples, exact anchors",
}


def _classes(config: ModelConfig) -> str:
    names = [c.name for c in config.categories]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{config.num_classes}" + (f" ({shown})" if names else "")


def _metrics(metrics: Any) -> str:
    """Return metrics in a line; nested ones with both names."""
    if not isinstance(metrics, dict):
        return str(metrics)
    parts = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            parts += [f"{name} {key} {_number(v)}" for key, v in value.items()]
        else:
            parts.append(f"{name} {_number(value)}")
    return ", ".join(parts)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parsed(text: str) -> Any:
    try:
        return parse_json("metrics", text)
    except ValueError:
        return text
