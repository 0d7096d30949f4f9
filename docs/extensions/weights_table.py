"""``published-weights``: a table of the weights that the package knows, from its registry."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lucid_maskrcnn import list_weights
from lucid_maskrcnn.config import ARCHITECTURES
from lucid_maskrcnn.weights import PublishedWeights


def _size(entry: PublishedWeights) -> str:
    return "not stated" if entry.size is None else f"{entry.size / 1e6:.0f} MB"


def _metric(entry: PublishedWeights, name: str) -> str:
    return f"{entry.metrics[name]:g}" if name in entry.metrics else "–"


def _metrics(entry: PublishedWeights) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in entry.metrics.items())


COLUMNS = {
    "models": {
        "factory": lambda e: e.architecture,
        "name": lambda e: e.name,
        "box AP": lambda e: _metric(e, "box AP"),
        "mask AP": lambda e: _metric(e, "mask AP"),
        "file": _size,
        "conventions": lambda e: e.conventions,
        "trained on": lambda e: e.dataset,
        "license": lambda e: e.licence,
        "source": lambda e: e.source,
    },
    "backbones": {
        "backbone": lambda e: e.architecture,
        "name": lambda e: e.name,
        "accuracy, %": _metrics,
        "file": _size,
        "trained on": lambda e: e.dataset,
        "license": lambda e: e.licence,
        "source": lambda e: e.source,
    },
}
CODE = ("factory", "backbone", "name")


class WeightsTable(SphinxDirective):
    """``published-weights`` with ``:kind:`` models or backbones."""

    option_spec = {"kind": lambda text: directives.choice(text, list(COLUMNS))}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        kind = self.options["kind"]
        columns = COLUMNS[kind]
        entries = [e for e in list_weights() if (e.architecture in ARCHITECTURES) == (kind == "models")]
        head = nodes.thead("", nodes.row("", *(_cell(nodes.Text(name)) for name in columns)))
        body = nodes.tbody()
        for entry in entries:
            body += nodes.row("", *(_shown(name, value(entry)) for name, value in columns.items()))
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in columns), head, body, cols=len(columns))
        return [nodes.table("", group)]


def _shown(name: str, text: str) -> nodes.entry:
    if text.startswith("https://"):
        return _cell(nodes.reference(text="page", refuri=text))
    return _cell(nodes.literal(text=text) if name in CODE else nodes.Text(text))


def _cell(content: nodes.Node) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", "", content))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("published-weights", WeightsTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
