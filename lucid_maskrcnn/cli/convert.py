"""``convert`` and ``info``: converting files of weights, and describing them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import file_path, say

if TYPE_CHECKING:
    from lucid_maskrcnn.config import ModelConfig
    from lucid_maskrcnn.weights import PublishedWeights, WeightsFile

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add them to the subparsers of the command line."""
    convert = commands.add_parser(
        "convert",
        help="turn a checkpoint into a .safetensors file",
        description="Read weights of torchvision, detectron2 or this package, in .safetensors, .pth or .pkl, and write "
        "them as .safetensors with the model's configuration in the header.",
    )
    convert.add_argument("source", metavar="IN", help="a file, or a name that info lists")
    convert.add_argument("target", type=file_path, metavar="OUT.safetensors")
    convert.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of filters and matrices")
    convert.add_argument(
        "--to",
        choices=("lucid_maskrcnn", "torchvision"),
        default="lucid_maskrcnn",
        help="the library whose names are written",
    )
    convert.set_defaults(run=_convert)

    info = commands.add_parser(
        "info", help="describe a file of weights, or list the published weights", description=_INFO
    )
    info.add_argument("weights", nargs="?", metavar="FILE|NAME")
    info.set_defaults(run=_info)


_INFO = "Describe a file of weights and its model, or published weights. Without an argument: list those."


def _convert(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.config import architecture_of
    from lucid_maskrcnn.weights import locate, read_weights_file, write_converted

    if args.target.suffix != ".safetensors":
        raise ValueError(f"OUT must end in .safetensors, got {str(args.target)!r}.")
    if args.target.is_dir() or not args.target.absolute().parent.is_dir():
        raise ValueError(f"OUT {str(args.target)!r} is a directory, or is in none.")
    file = read_weights_file(locate(args.source))
    write_converted(file, args.target, to=args.to, dtype=args.dtype)
    model = (file.config and architecture_of(file.config)) or "an unknown architecture"
    size = args.target.stat().st_size / 1e6
    say(f"{args.target}: {model}, {file.source}'s weights under {args.to}'s names, {size:.1f} MB")


def _info(args: argparse.Namespace) -> None:
    from lucid_maskrcnn.weights import list_weights, read_weights_file
    from lucid_maskrcnn.weights.download import cached
    from lucid_maskrcnn.weights.registry import find_by_name

    if args.weights is None:
        for line in _overview(list_weights()):
            say(line)
        return
    entries = find_by_name(args.weights)
    for entry in entries:
        path = cached(entry)
        facts = _published(entry, path)
        if path is not None and entry.categories:
            facts = _described(read_weights_file(path), path) | facts
        _show(facts)
    if not entries:
        path = Path(args.weights)
        _show(_described(read_weights_file(path), path))


def _overview(entries: Iterable[PublishedWeights]) -> Iterable[str]:
    from lucid_maskrcnn.text_tables import align_columns

    rows = [("name", "of", "metrics, %", "licence")]
    rows += [(e.name, e.architecture, _metrics(e.metrics), e.licence.split(" (")[0]) for e in entries]
    return align_columns(rows, left=(1,))


def _published(entry: PublishedWeights, path: Path | None) -> dict[str, str]:
    facts = {
        "name": entry.name,
        "architecture": entry.architecture,
        "metrics": f"{_metrics(entry.metrics)} (in per cent, as published)",
        "trained on": entry.dataset,
        "licence": entry.licence,
        "source": entry.source,
        "conventions": entry.conventions,
        "file": str(path) if path else f"not on this machine; {entry.url}",
    }
    if entry.num_parameters:
        facts["parameters"] = f"{entry.num_parameters:,}"
    if entry.size:
        facts["size"] = f"{entry.size / 1e6:.1f} MB"
    return facts


def _described(file: WeightsFile, path: Path) -> dict[str, str]:
    """Return the facts in a file's header, and those that its names and shapes determine."""
    sizes = [a.size for n, a in file.arrays.items() if not n.endswith(("running_mean", "running_var"))]
    facts = {
        "file": str(path),
        "format": f"{file.kind}, {file.source}'s names",
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "parameters": f"{sum(sizes):,}",
        **(_of_config(file.config) if file.config else {"architecture": "unknown"}),
    }
    known = {"dataset": "trained on", "licence": "licence", "source": "source"}
    facts |= {label: file.metadata[key] for key, label in known.items() if key in file.metadata}
    if "metrics" in file.metadata:
        facts["metrics"] = _metrics(_parsed(file.metadata["metrics"]))
    return facts


def _of_config(config: ModelConfig) -> dict[str, str]:
    """Return the architecture, and every setting that is not the architecture's or the conventions'."""
    from lucid_maskrcnn.config import architecture_of, conventions_of

    conventions, differences = conventions_of(config)
    facts = {
        "architecture": architecture_of(config) or "a backbone that is not a ResNet-FPN of this package",
        "classes": _classes(config),
        "conventions": f"{conventions.name}: {_CONVENTIONS[conventions.name]}",
    }
    if differences:
        facts["conventions"] += "; except for the settings below"
    special = _special(config) | differences
    if special:
        facts["settings"] = ", ".join(f"{name}={json.dumps(value)}" for name, value in special.items())
    return facts


def _special(config: ModelConfig) -> dict[str, Any]:
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
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _show(facts: dict[str, str]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        # A file's metadata could otherwise send control sequences to the terminal.
        printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
        say(f"{name:{width}}  {printable}")
    say()
