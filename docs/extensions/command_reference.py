"""``command-reference``: every command of the command line with its arguments and options, from its parser."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lucid_maskrcnn.cli import build_parser
from lucid_maskrcnn.cli.parser import commands_of


def command_lines() -> Iterator[str]:
    """Return the description of all commands as reStructuredText."""
    for name, (summary, parser) in commands_of(build_parser()).items():
        yield from (f".. program:: {parser.prog}", "", f".. rubric:: {name}", f"   :name: command-{name}", "")
        yield from (f"{_text(summary[:1].upper() + summary[1:])}.", "", ".. code-block:: text", "")
        yield from (f"   {parser.brief_usage().removeprefix('usage: ')}", "")
        yield from _paragraphs(parser.description or "")
        for group in parser._action_groups:
            shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            if [action for action in shown if action.dest != "help"]:
                yield from (f"**{_text(group.title or '').capitalize().removeprefix('Positional ').capitalize()}**", "")
                yield from itertools.chain.from_iterable(_action(a) for a in shown if a.dest != "help")
        yield from _paragraphs(parser.epilog or "")


def _action(action: argparse.Action) -> Iterator[str]:
    if action.option_strings:
        value = "" if action.nargs == 0 else f" {_value(action)}"
        yield f".. option:: {', '.join(name + value for name in action.option_strings)}"
    else:
        yield f".. option:: {action.metavar or action.dest}"
    yield ""
    yield f"   {_text(' '.join(_help(action).split()))}"
    if action.choices:
        yield from ("", f"   One of {', '.join(f'``{choice}``' for choice in action.choices)}.")
    yield ""


def _value(action: argparse.Action) -> str:
    name = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    return " ".join(name) if isinstance(name, tuple) else str(name)


def _help(action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": "lucid-maskrcnn"}


def _text(text: str) -> str:
    """Return a text without markup as reStructuredText: options, which typography would spoil, are literals."""
    escaped = re.sub(r"([\\*`|_])", r"\\\1", text)
    return re.sub(r"(?<![\w-])(--?[a-z][\w\\-]*)", lambda m: f"``{m[1]}``".replace("\\", ""), escaped)


def _paragraphs(text: str) -> Iterator[str]:
    """Return a description or an epilog: indented lines are examples."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        for example, lines in itertools.groupby(block.splitlines(), lambda line: line.startswith("  ")):
            if example:
                yield from (".. code-block:: sh", "", *(f"   {line.strip()}" for line in lines), "")
            else:
                yield from (_text(" ".join(line.strip() for line in lines)), "")


class CommandReference(SphinxDirective):
    """``command-reference``: all commands."""

    def run(self) -> list[nodes.Node]:
        place = nodes.Element()
        place.document = self.state.document
        self.state.nested_parse(StringList(list(command_lines()), "the parser"), self.content_offset, place)
        return place.children


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-reference", CommandReference)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
