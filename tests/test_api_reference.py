"""Each public name is described once in the API reference, under the path that people import."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGES = DOCS / "reference" / "api"
sys.path.insert(0, str(DOCS))  # the extensions of the documentation, as conf.py does
from extensions import public_names  # noqa: E402

DESCRIBED = re.compile(r"^\.\. (?:auto|py:)(class|exception|function|data|type):: (\S+)", re.MULTILINE)
MEMBERS = re.compile(r"^   \.\. auto(?:method|property):: (\S+)", re.MULTILINE)


def described() -> Counter[str]:
    """Return how often each name is described on the pages, by its full path."""
    found: Counter[str] = Counter()
    for page in PAGES.glob("*.rst"):
        text = page.read_text(encoding="utf-8")
        (module,) = re.findall(r"automodule:: (\S+)", text)
        found.update(name if "." in name else f"{module}.{name}" for _, name in DESCRIBED.findall(text))
    return found


def test_every_public_name_is_described_once_under_its_shortest_path() -> None:
    found = described()
    assert set(found) == set(public_names.paths()), "add it to its page in docs/reference/api"
    assert [name for name, times in found.items() if times > 1] == []


def test_every_public_module_has_its_page() -> None:
    pages = {page.stem for page in PAGES.glob("*.rst")}
    assert pages == {"top", *(module.partition(".")[2] for module in public_names.MODULES[1:])}
    for module in public_names.MODULES:
        assert set(importlib.import_module(module).__all__)


def test_methods_that_are_grouped_are_all_there() -> None:
    """Where a page lists a class's methods in groups, none is forgotten."""
    grouped = 0
    for page in PAGES.glob("*.rst"):
        for block in re.split(r"^(?=\.\. autoclass::)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            path, shown = block.split("\n")[0].split(":: ")[1], MEMBERS.findall(block)
            if shown:
                grouped += 1
                assert Counter(shown) == Counter(_members(public_names.value_of(path))), path
    assert grouped >= 3


def _members(kind: type) -> set[str]:
    """Return the public methods and properties that are the package's, but for what Lucid's repr calls."""
    names = {
        name
        for base in kind.__mro__
        if base.__module__.startswith("lucid_maskrcnn")
        for name, value in vars(base).items()
        if inspect.isfunction(value) or isinstance(value, (classmethod, staticmethod, property))
    }
    return {name for name in names if not name.startswith("_")} - {"extra_repr"}


def test_formats_of_annotations_are_imported_from_their_package() -> None:
    formats = importlib.import_module("lucid_maskrcnn.annotation_formats")
    assert {"read_annotations", "read_label_image", "make_feature_collection", "make_rois"} <= set(formats.__all__)
    assert all(callable(getattr(formats, name)) for name in formats.__all__)


def test_every_command_and_option_is_described() -> None:
    """The page of the command line is made from the parser: each option has a place that a link leads to."""
    from lucid_maskrcnn.cli import build_parser
    from lucid_maskrcnn.cli.parser import commands_of

    command_reference = importlib.import_module("extensions.command_reference")
    lines = list(command_reference.command_lines())
    for name, (_, parser) in commands_of(build_parser()).items():
        start = lines.index(f".. program:: lucid-maskrcnn {name}")
        end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith(".. program::")), len(lines))
        text = "\n".join(line for line in lines[start:end] if line.startswith(".. option::"))
        options = {option for action in parser._actions if action.dest != "help" for option in action.option_strings}
        assert options <= set(re.findall(r"(?<=[ :,])--?[a-z][\w-]*", text)), name
