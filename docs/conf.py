"""Sphinx: uv run sphinx-build -W --keep-going -b html docs docs/_build/html."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "lucid_maskrcnn"
author = "the lucid_maskrcnn authors"
copyright = f"2026, {author}"
release = version = version_of("lucid-maskrcnn")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
default_role = "code"

# Classes that subclass lucid.nn.Module show what they add, not what Lucid gives them: no inherited-members.
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # defaults as written: ImageConfig(), not its repr
napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes are documented by their class alone, not once more as members
napoleon_use_rtype = False
maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"lucid_maskrcnn {release}"
html_copy_source = False


def skip_generated(app: object, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leave out fields of named tuples: "Alias for field number 0" says less than their class does."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: object) -> None:
    app.connect("autodoc-skip-member", skip_generated)  # type: ignore[attr-defined]
