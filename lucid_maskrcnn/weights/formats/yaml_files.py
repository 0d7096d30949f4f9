"""Reading YAML that others wrote, as data: no tag constructs anything, whatever it names.

PyYAML parses the text into nodes; what they stand for is decided here. A tag such as ``!!python/object/apply:eval``
gives a :class:`Tagged` with what follows it, so that a reader can refuse it by its key, or pass it over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...validators import near_file, shown

__all__ = ["Tagged", "YamlError", "parse_flow", "read_yaml"]

_MAX_BYTES = 2**20  # of a file; configurations have a few thousand
_MAX_VALUES = 50_000  # in a file, those of its aliases included, which can name each other a billion times
_MAX_DEPTH = 40
_MAX_DIGITS = 100  # of a number: base 60 takes the square of the time
_STANDARD = "tag:yaml.org,2002:"
_TEXTS = {"str", "timestamp", "value", "python/str", "python/unicode"}
_NUMBERS = {"bool": "bool", "int": "int", "float": "float"}
_NUMBERS |= {f"python/{name}": kind for name, kind in {**_NUMBERS, "long": "int"}.items()}
_LISTS = {"seq", "python/tuple", "python/list"}
_MAPPINGS = {"map", "python/dict"}


class YamlError(ValueError):
    """What is wrong with a YAML file; the message names it."""


@dataclass(frozen=True)
class Tagged:
    """A value with a tag that is not data: an object that the text asks to be made, and is not.

    Attributes
    ----------
    tag : str
        As it is written, such as ``"!!python/object/apply:eval"``.
    content : str, list or dict
        What follows it.
    """

    tag: str
    content: Any


def read_yaml(file: Path) -> Any:
    """Return the content of a YAML file: dicts by str, lists, str, int, float, bool, None and :class:`Tagged`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If PyYAML is not installed.
    YamlError
        If it cannot be read, is not one YAML document, has a key twice in one mapping, or is too large or too deep.
    """
    name = repr(str(file))
    try:
        if file.is_dir():
            raise YamlError(f"{name} is a directory: a YAML file is wanted.")
        if file.exists() and not file.is_file():
            raise YamlError(f"{name} is not a regular file.")
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: No such file or directory.{near_file(file)}") from None
    except OSError as error:
        raise YamlError(f"{name} cannot be read: {error.strerror or error}.") from error
    if len(content) > _MAX_BYTES:
        raise YamlError(f"{name} has more than {_MAX_BYTES >> 20} MB, which no configuration has.")
    return _parse(content, name)


def parse_flow(text: str) -> Any:
    """Return the list or mapping in a text such as ``[1, 2]``; the text itself if it is none.

    Raises
    ------
    ImportError
        If PyYAML is not installed.
    """
    try:
        return _parse(text, "the text")
    except YamlError:
        return text


def _parse(content: str | bytes, name: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"{name} is YAML, which needs PyYAML: pip install 'lucid-maskrcnn[yaml]'.") from error
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)  # nodes alone: nothing is constructed
    except RecursionError:
        raise YamlError(f"{name} is not YAML: it is nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a character whose number is beyond Unicode
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", at line {mark.line + 1}"
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise YamlError(f"{name} is not YAML: {' '.join(reason.split())}{where}.") from None
    return None if root is None else _Reader(name)(root, 0)


class _Reader:
    """Turns nodes into values, and counts them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0

    def __call__(self, node: Any, depth: int) -> Any:
        self.count += 1
        if self.count > _MAX_VALUES:
            raise YamlError(f"{self.name} has more than {_MAX_VALUES} values, counting what its aliases repeat.")
        if depth > _MAX_DEPTH:
            raise YamlError(f"{self.name} is nested more than {_MAX_DEPTH} levels deep, or contains itself.")
        kind = node.tag.removeprefix(_STANDARD)
        if node.id == "scalar":
            return self._scalar(node, kind)
        if node.id == "mapping":
            return self._mapping(node, kind, depth)
        items = [self(item, depth + 1) for item in node.value]
        return items if kind in _LISTS else Tagged(_written(node.tag), items)

    def _scalar(self, node: Any, kind: str) -> Any:
        if kind in _TEXTS:
            return node.value
        if kind in ("null", "python/none"):
            return None
        if kind not in _NUMBERS:
            return Tagged(_written(node.tag), node.value)
        from yaml.constructor import SafeConstructor

        try:
            if len(node.value) > _MAX_DIGITS:
                raise ValueError(node.value)
            return getattr(SafeConstructor(), f"construct_yaml_{_NUMBERS[kind]}")(node)
        except (ValueError, KeyError, IndexError):
            raise YamlError(
                f"{self.name} has {shown(node.value)} where a number is wanted, at line {_line(node)}."
            ) from None

    def _mapping(self, node: Any, kind: str, depth: int) -> Any:
        values: dict[str, Any] = {}
        for key, value in node.value:
            if key.id != "scalar":
                raise YamlError(f"{self.name} has a key that is no text, at line {_line(key)}.")
            if key.tag == f"{_STANDARD}merge":
                raise YamlError(f"{self.name} has the merge key '<<', at line {_line(key)}: write out what it merges.")
            if key.value in values:
                raise YamlError(
                    f"{self.name} has the key {shown(key.value)} twice in one section, at line {_line(key)}."
                )
            values[key.value] = self(value, depth + 1)  # a key is its text: ON is not True
        if kind in _MAPPINGS:
            return values
        # A dict of a class of its own, as yaml.dump() writes detectron2's CfgNode.
        if kind.startswith("python/object/new:") and isinstance(values.get("dictitems"), dict):
            return values["dictitems"]
        return Tagged(_written(node.tag), values)


def _written(tag: str) -> str:
    return f"!!{tag.removeprefix(_STANDARD)}" if tag.startswith(_STANDARD) else tag


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
