"""What ``lucid-maskrcnn`` alone prints: the commands by what they are for, and examples."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping

from .parser import Parser, commands_of

__all__ = ["EXAMPLES", "GROUPS", "MainParser"]

GROUPS: Mapping[str, tuple[str, ...]] = {
    "find objects in images": ("demo", "predict", "app"),
    "train and measure": ("train", "evaluate"),
    "prepare data": ("check-data", "convert-data", "split-data", "suggest"),
    "files of weights": ("info", "convert", "export"),
    "this installation": ("env", "completion"),
}
"""The commands, by headings of the overview."""

EXAMPLES: Mapping[str, str] = {
    "the nuclei in an image that comes with the package": "demo",
    "all images of a folder: drawings and results in the folder found": "predict images --out found",
    "everyday objects, with weights that are downloaded once": "predict images --weights COCO_V1 --out objects",
    "a data set, in COCO's format: what is wrong with it": "check-data images data.json",
    "training on it, from the weights for nuclei": "train images data.json --weights NUCLEI --epochs 2 --out run",
    "the accuracy of the trained weights": "evaluate images data.json --weights run/weights.safetensors",
    "what to paste into a bug report": "env",
}
"""What the examples show, and their arguments, in an order in which they run beside a folder of annotated images."""


class MainParser(Parser):
    """The parser of ``lucid-maskrcnn`` itself, whose help is the overview."""

    def format_help(self) -> str:
        """Return the overview, as wide as the terminal."""
        width = max(shutil.get_terminal_size().columns - 2, 40)
        return "\n".join(self._lines(width)) + "\n"

    def brief_usage(self) -> str:
        """Return how any command is called."""
        return f"usage: {self.prog} COMMAND ..."

    def _lines(self, width: int) -> Iterator[str]:
        commands = {name: text for name, (text, _) in commands_of(self).items()}
        column = max(map(len, commands)) + 4
        yield f"{self.brief_usage()}\n"
        yield f"{textwrap.fill(self.description or '', width)}\n"
        for heading, names in GROUPS.items():
            present = [name for name in names if name in commands]
            if present:
                yield f"{heading}:"
            for name in present:
                yield _entry(name, commands[name], column, width)
            if present:
                yield ""
        yield "options:"
        yield _entry("--help", "print this, or after a command all its options", column, width)
        yield _entry("--version", "print the version, and those of what results depend on", column, width)
        yield "\nexamples:"
        for what, arguments in EXAMPLES.items():
            yield textwrap.fill(what, width, initial_indent="  ", subsequent_indent="  ")
            yield f"    {self.prog} {arguments}"
        yield f"\n{self.prog} COMMAND --help has the options of a command."


def _entry(name: str, text: str, column: int, width: int) -> str:
    start = f"  {name}".ljust(column)
    return textwrap.fill(text, width, initial_indent=start, subsequent_indent=" " * column)
