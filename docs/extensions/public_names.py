"""The public names of the package: what stands in ``__all__`` of its public modules, by its shortest path."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from types import ModuleType
from typing import Any

PACKAGE = "lucid_maskrcnn"
MODULES = (
    PACKAGE,
    *(
        f"{PACKAGE}.{name}"
        for name in (
            "annotation_formats",
            "app",
            "config",
            "data",
            "detections",
            "evaluation",
            "export",
            "images",
            "inference",
            "masks",
            "measure",
            "models",
            "ops",
            "targets",
            "training",
            "transforms",
            "visualization",
            "weights",
        )
    ),
)


@cache
def paths() -> dict[str, tuple[str, ...]]:
    """Return the path that people import of each public name, and its other public paths.

    The path is the shortest one. A module in ``__all__`` (``lucid_maskrcnn.ops``) is no name of its own.
    """
    by_value: dict[Any, list[str]] = {}
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            if not isinstance(value, ModuleType):
                # Constants are equal by chance: only what has a name of its own is known again by what it is.
                key = id(value) if inspect.isroutine(value) or inspect.isclass(value) else f"{module}.{name}"
                by_value.setdefault(key, []).append(f"{module}.{name}")
    ordered = [sorted(found, key=lambda path: path.count(".")) for found in by_value.values()]
    return {first: tuple(others) for first, *others in ordered}


@cache
def value_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@cache
def shorter_names() -> dict[str, str]:
    """Return, of each other path of a public name, that in a private module too, the path that people import."""
    found = {alias: path for path, aliases in paths().items() for alias in aliases}
    for path in paths():
        value = value_of(path)
        if inspect.isroutine(value) or inspect.isclass(value):
            found[f"{value.__module__}.{value.__qualname__}"] = path
    return {name: path for name, path in found.items() if name != path}


def public_path(name: str) -> str:
    """Return the public path of a name or of a class's member, the name itself if there is none."""
    parts = name.split(".")
    for end in range(len(parts), 1, -1):
        head = ".".join(parts[:end])
        if head in shorter_names():
            return ".".join([shorter_names()[head], *parts[end:]])
    return name


@cache
def by_short_name() -> dict[str, str]:
    """Return the path of each public name by its last word, where only one has it."""
    found: dict[str, list[str]] = {}
    for path in paths():
        found.setdefault(path.rpartition(".")[2], []).append(path)
    return {name: these[0] for name, these in found.items() if len(these) == 1}


def is_public(name: str) -> bool:
    """Return whether a name, a class's member or a module is public."""
    parts = name.split(".")
    heads = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    aliases = {alias for others in paths().values() for alias in others}
    return name in MODULES or bool(heads & (paths().keys() | aliases))
