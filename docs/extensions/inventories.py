"""Links into other libraries' documentation, without a network: their inventories are made from ``docs/inventories``.

``docs/inventories/NAME.txt`` has the address of the documentation in its first line, then lines ``name role page`` of
what these pages link to; ``$`` in a page stands for the name. ``sphinx.ext.intersphinx`` reads what this makes.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

SOURCE = Path(__file__).parents[1] / "inventories"
HEAD = """\
# Sphinx inventory version 2
# Project: {name}
# Version:
# The remainder of this file is compressed using zlib.
"""


def make_inventory(source: Path, target: Path) -> str:
    """Write the inventory of a list of names, and return the address that its pages are under."""
    address, *lines = [line for line in source.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    entries = [line.split() for line in lines]
    text = "".join(f"{name} py:{role} 1 {page} -\n" for name, role, page in entries)
    target.write_bytes(HEAD.format(name=source.stem).encode() + zlib.compress(text.encode()))
    return address


def _make_all(app: Sphinx, config: Config) -> None:
    folder = Path(app.doctreedir) / "inventories"
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(SOURCE.glob("*.txt")):
        target = folder / f"{source.stem}.inv"
        config.intersphinx_mapping[source.stem] = (make_inventory(source, target), str(target))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", _make_all, priority=100)  # before intersphinx checks what it is given
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
