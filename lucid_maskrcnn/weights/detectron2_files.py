"""Reading detectron2's ``config.yaml``: one flat mapping of keys, with what its ``_BASE_`` files say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..call_answers import answers_wrong_calls
from ..validators import path as checked_path
from ..validators import shown
from .detectron2_keys import DEFAULTS, IGNORED_SECTIONS
from .formats.yaml_files import Tagged, parse_flow, read_yaml

__all__ = ["NotDetectron2Error", "configs_beside", "read_detectron2_config"]

_BASE = "_BASE_"
_MAX_BASES = 10  # one above another
_MAX_FILES = 100  # in all: lists of bases, each with such a list, are read a billion times
_REMOTE = re.compile(r"[a-zA-Z0-9]+://")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_NAMES = {"True": True, "False": False, "None": None}
_WHOLE = "take the config.yaml that detectron2 wrote into its OUTPUT_DIR, which has every key"


class NotDetectron2Error(ValueError):
    """A YAML file that is no configuration of detectron2; the message names it."""


def configs_beside(weights: Path) -> list[Path]:
    """Return the YAML files beside a checkpoint that may be its configuration: of its name, and ``config.yaml``."""
    found = (weights.with_suffix(".yaml"), weights.with_name("config.yaml"))
    return [file for file in found if file.is_file()]


@answers_wrong_calls
def read_detectron2_config(path: str | Path) -> dict[str, Any]:
    """Return what a configuration of detectron2 sets, by key, such as ``"MODEL.RPN.NMS_THRESH"``.

    Parameters
    ----------
    path : str or Path
        The ``config.yaml`` of a run, or one of a user's own. Files that its ``_BASE_`` names are read first. Nothing in
        it is executed: values with a tag such as ``!!python/object/apply:eval`` are returned as what they are.

    Returns
    -------
    dict of str to Any
        Without detectron2's defaults. Text that stands for a number, a tuple or a list is one, as detectron2 reads it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If PyYAML is not installed.
    NotDetectron2Error
        If it is YAML, but no configuration of detectron2.
    ValueError
        If it cannot be read, or a ``_BASE_`` cannot.
    """
    file = checked_path("config", path)
    content = _with_bases(file, (), [])
    if not isinstance(content.get("MODEL"), Mapping):
        raise NotDetectron2Error(f"config {str(file)!r} is no configuration of detectron2: it has no section MODEL.")
    return {key: _decoded(value) for key, value in _flat(content, "", repr(str(file)))}


def _with_bases(file: Path, above: tuple[Path, ...], read: list[Path]) -> dict[str, Any]:
    """Return a file's content over that of its bases; ``read`` has the files so far, and those of this call then."""
    name = repr(str(file))
    read.append(file)
    if len(read) > _MAX_FILES:
        raise ValueError(f"config {name}: it is one of more than {_MAX_FILES} files that a _BASE_ leads to.")
    is_python = file.suffix == ".py" and file.is_file()
    content = None if is_python else read_yaml(file)
    if is_python or _is_lazy(content):
        raise ValueError(
            f"config {name} is a LazyConfig of detectron2, which names Python objects and not settings: give the "
            "settings as arguments, with conventions='detectron2' for the rest."
        )
    if content is None:
        raise NotDetectron2Error(f"config {name} is empty.")
    if not isinstance(content, dict):
        raise NotDetectron2Error(f"config {name} is no configuration of detectron2, but {shown(content)}.")
    bases = content.pop(_BASE, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        _merge(_with_bases(_base_file(base, file, above), (*above, file.resolve()), read), merged, name)
    _merge(content, merged, name)
    return merged


def _is_lazy(content: Any) -> bool:
    """Whether YAML is of detectron2's other kind of configuration; other programs have a section ``model``, too."""
    model = content.get("model") if isinstance(content, dict) else None
    return isinstance(model, dict) and "_target_" in model


def _base_file(base: Any, file: Path, above: tuple[Path, ...]) -> Path:
    name = repr(str(file))
    if not isinstance(base, str) or not base or "\0" in base:
        raise ValueError(f"config {name}: {_BASE} must be the path of a file, got {shown(base)}.")
    if _REMOTE.match(base):
        raise ValueError(f"config {name}: {_BASE} is {shown(base)}, and no file is downloaded: {_WHOLE}.")
    found = file.parent / (Path(base).expanduser() if base.startswith("~") else base)
    if not found.is_file():
        raise FileNotFoundError(f"config {name}: there is no file {str(found)!r}, its {_BASE}: {_WHOLE}.")
    if found.resolve() in (*above, file.resolve()) or len(above) >= _MAX_BASES:
        raise ValueError(f"config {name}: its {_BASE} {shown(base)} leads back to it, or through too many files.")
    return found


def _merge(values: Mapping[str, Any], into: dict[str, Any], name: str) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise ValueError(f"config {name}: {key} is a section, and in its {_BASE} a value.")
            _merge(value, into[key], name)
        else:
            into[key] = value


def _flat(section: Mapping[str, Any], prefix: str, name: str) -> Iterator[tuple[str, Any]]:
    for own, value in section.items():
        key = f"{prefix}{own}"
        if key in IGNORED_SECTIONS:
            continue
        if "." in own:
            raise ValueError(f"config {name}: {key} has a dot in its name; sections are nested in YAML.")
        if isinstance(value, dict) and key not in DEFAULTS:
            yield from _flat(value, f"{key}.", name)
        else:
            yield key, value


def _decoded(value: Any) -> Any:
    """Return a value with texts as what they stand for: detectron2 evaluates them as Python's literals."""
    if isinstance(value, list):
        return [_decoded(v) for v in value]
    if not isinstance(value, str) or len(value) > 1000:
        return value
    stripped = value.strip()
    if stripped in _NAMES:
        return _NAMES[stripped]
    if _NUMBER.fullmatch(stripped):
        return float(stripped) if re.search(r"[.eE]", stripped) else int(stripped)
    if stripped[:1] in ("(", "[") and stripped[-1:] in (")", "]"):
        read = parse_flow(stripped.translate(str.maketrans("()", "[]")))
        return value if isinstance(read, (str, Tagged)) else _decoded(read)
    return value
