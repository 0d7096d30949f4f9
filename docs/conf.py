"""Sphinx: uv run --group docs sphinx-build -W --keep-going -b html docs docs/_build/html."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parent))  # the extensions of these pages, in extensions/

project = "lucid_maskrcnn"
author = "the lucid_maskrcnn authors"
copyright = f"2026, {author}"
release = version = version_of("lucid-maskrcnn")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",  # MyST Markdown, and the notebooks
    "sphinx_copybutton",
    "sphinx_design",
    "extensions.samples",  # docs/do/samples.zip, the files that the pages use
    "extensions.messages",  # docs/reference/messages, from the package's source and messages.toml
    "extensions.api_reference",
    "extensions.inventories",
    "extensions.weights_table",
    "extensions.command_reference",
]
exclude_patterns = ["_build", "_extra"]
# The page that start/try.md is about becomes part of these, if it was built: by
# uv run python examples/browser/build.py docs/_extra/try
if (Path(__file__).parent / "_extra" / "try").is_dir():
    html_extra_path = ["_extra"]
    tags.add("try_page")  # type: ignore[name-defined]  # noqa: F821 - Sphinx gives this file its tags
default_role = "code"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
# Numbers that scripts in this folder compute: pages write {{ num_anchors }}.
myst_substitutions = {
    name: value
    for file in (Path(__file__).parent / "understand").glob("*_numbers.json")
    for name, value in json.loads(file.read_text(encoding="utf-8")).items()
}
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute the notebooks; their outputs are in them
suppress_warnings = ["mystnb.unknown_mime_type"]

# Classes that subclass lucid.nn.Module show what they add, not what Lucid gives them: no inherited-members.
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # defaults as written: ImageConfig(), not its repr
napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes are documented by their class alone, not once more as members
napoleon_preprocess_types = True  # by extensions/api_reference.py
napoleon_use_rtype = False
maximum_signature_line_length = 88

nitpicky = True  # links that lead nowhere are errors, but for:
nitpick_ignore_regex = [
    # records that parts of the network hand each other, and that no public function takes
    (
        "py:class",
        r"lucid_maskrcnn\..*\.(RPNOutput|AnchorSamples|RoISamples|MaskReader|PredictOptions|LaunchedGroup|Body|Naming|_Composed)",
    ),
    ("py:(obj|class)", r"(typing\.TypeVar|.*ImagejRoi|pyarrow\..*|.*\bT)"),  # not in the inventories: seldom
]

html_theme = "furo"
html_title = f"lucid_maskrcnn {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css", "notebooks.css"]
copybutton_exclude = ".linenos, .gp, .go"  # prompts and outputs are not copied


def skip_generated(app: object, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leave out fields of named tuples: "Alias for field number 0" says less than their class does."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def bring_notebooks(app: object) -> None:
    """Copy the notebooks of examples/, and a picture of each for its card: of the cell tagged "card", or the first."""
    folder = Path(__file__).parent / "notebooks"
    for old in [*folder.glob("*.ipynb"), *folder.glob("cards/*")]:
        old.unlink()
    (folder / "cards").mkdir(exist_ok=True)
    for path in sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = notebook["cells"]
        _name_pictures(cells)
        (folder / path.name).write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")
        cells = sorted(cells, key=lambda cell: "card" not in cell["metadata"].get("tags", ()))
        outputs = (output.get("data", {}) for cell in cells for output in cell.get("outputs", ()))
        picture = next((found for data in outputs if (found := _picture(data))), None)
        if picture is None:
            raise RuntimeError(f"{path.name} has no picture: run examples/run_notebooks.py {path.stem}")
        small = Image.open(io.BytesIO(picture)).convert("RGB")
        near = 1.1 < small.width / small.height < 2.2  # another shape is shown whole, on white as plots are
        small = ImageOps.fit(small, (560, 350)) if near else ImageOps.pad(small, (560, 350), color="white")
        small.save(folder / "cards" / f"{path.stem}.jpg", quality=85)


def _name_pictures(cells: list[dict[str, Any]]) -> None:
    """Give the pictures of cells an alternative text; Sphinx would give them the name of a file."""
    heading = ""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            for found in re.findall(r"^#+ (?:\d+\. )?(.+)$", "".join(cell["source"]), flags=re.MULTILINE):
                heading = found.replace("`", "")
        else:
            image = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
            image.setdefault("alt", f"Picture of the section “{heading}”")


def _picture(data: dict[str, Any]) -> bytes | None:
    """Return the first picture in an output of a cell."""
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return base64.b64decode("".join(data[kind]))
    inside = re.search(r"data:image/\w+;base64,([^\"]*)", "".join(data.get("text/html", "")))
    return base64.b64decode(inside[1]) if inside else None


def setup(app: object) -> None:
    app.connect("builder-inited", bring_notebooks)  # type: ignore[attr-defined]
    app.connect("autodoc-skip-member", skip_generated)  # type: ignore[attr-defined]
