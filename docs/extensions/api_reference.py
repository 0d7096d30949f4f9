"""The API reference: each public name once, under the path that people import; types that are links.

Sphinx names a class after the file that defines it, links types only where they are written with their module, and does
not know the phrases of NumPy's docstrings ("Tensor of shape (R, 4), float32"). This extension

- has references to any other path of a public name lead to the one that people import (``find_obj`` of the domain),
- keeps files of the package out of the inventory and out of the lines "Bases: ...",
- makes links of the types in docstrings, whose names :data:`TYPES` has,
- adds ``.. api-contents::``, the table of what is on a page, with the first sentence of each.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from abc import ABC
from collections.abc import Iterator
from typing import Any, TypeAliasType

import sphinx.ext.napoleon.docstring as napoleon
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry, PythonDomain
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.typing import stringify_annotation

from .public_names import PACKAGE, by_short_name, is_public, paths, public_path, value_of

# What docstrings and annotations call a type, and where it is described.
TYPES = {
    **{kind.__name__: kind.__name__ for kind in (bool, bytes, complex, dict, float, frozenset, int)},
    **{kind.__name__: kind.__name__ for kind in (list, object, set, slice, str, tuple, type)},
    **{name: name for name in ("None", "True", "False", "Ellipsis")},
    **{name: f"collections.abc.{name}" for name in ["Callable", "Iterable", "Iterator", "Mapping", "Sequence"]},
    "callable": "collections.abc.Callable",
    "sequence": "collections.abc.Sequence",
    "iterable": "collections.abc.Iterable",
    "iterator": "collections.abc.Iterator",
    "mapping": "collections.abc.Mapping",
    "Any": "typing.Any",
    "Literal": "typing.Literal",
    "Path": "pathlib.Path",
    "Tensor": "lucid.Tensor",
    "Module": "lucid.nn.Module",
    "nn.Module": "lucid.nn.Module",
    "lucid.nn.Module": "lucid.nn.Module",
    "array": "numpy.ndarray",
    "ndarray": "numpy.ndarray",
    "np.ndarray": "numpy.ndarray",
    "numpy.ndarray": "numpy.ndarray",
    "Generator": "numpy.random.Generator",
    "np.random.Generator": "numpy.random.Generator",
    "numpy.random.Generator": "numpy.random.Generator",
    "Image": "PIL.Image.Image",
    "Image.Image": "PIL.Image.Image",
    "PIL.Image": "PIL.Image.Image",
    "PIL.Image.Image": "PIL.Image.Image",
    "DataFrame": "pandas.DataFrame",
    "pandas.DataFrame": "pandas.DataFrame",
    "supervision.Detections": "supervision.Detections",
    "T": "typing.TypeVar",
    "M": "typing.TypeVar",
    "ImagejRoi": "roifile.ImagejRoi",
    "Rule": "lucid_maskrcnn.images.intensity.Rule",
}
# Where classes say that they are defined, and where their documentation has them.
ELSEWHERE = {
    "lucid._tensor.tensor.Tensor": "lucid.Tensor",
    "lucid.nn.module.Module": "lucid.nn.Module",
    "lucid.nn.parameter.Parameter": "lucid.nn.Parameter",
    "lucid.optim._base.Optimizer": "lucid.optim.Optimizer",
    "numpy.random._generator.Generator": "numpy.random.Generator",
}
_WORD = re.compile(r"(?<![\w.\-\"'])([A-Za-z_][\w.]*\w|[A-Za-z])(?![\w\-\"'])")


def _type_target(word: str) -> str | None:
    """Return what the name of a type in a docstring links to."""
    if word.startswith(f"{PACKAGE}."):
        return public_path(word)
    found = by_short_name().get(word)
    # Functions are named in phrases too ("take", "match"), which are no types.
    if found and isinstance(value_of(found), type):
        return found
    return TYPES.get(word)


class TypeRole(SphinxRole):
    """The type of a parameter or of what is returned: a phrase, in which names of types are links."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        phrase = nodes.inline(classes=["type"])
        end = 0
        for match in _WORD.finditer(self.text):
            target = _type_target(match[1])
            if target is None:
                continue
            phrase += nodes.Text(self.text[end : match.start()])
            phrase += _link(target, nodes.Text(match[1]))
            end = match.end()
        phrase += nodes.Text(self.text[end:])
        return [phrase], []


def _link(target: str, text: nodes.Node) -> addnodes.pending_xref:
    return addnodes.pending_xref(
        "", text, refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True
    )


def _type_phrase(text: str, translations: Any = None, debug_location: str | None = None) -> str:
    """Return a docstring's type as reStructuredText; where it has markup itself, as it is."""
    return text if "`" in text else f":type-phrase:`{text}`" if text.strip() else text


def _attributes_section(self: napoleon.NumpyDocstring, section: str) -> list[str]:
    """List attributes as parameters are: of "tp, fp : int" napoleon makes one, of which "tp" is the type."""
    lines = []
    for names, kind, description in self._consume_fields():
        head = ", ".join(f"**{name.strip()}**" for name in names.replace("`", "").replace("\\", "").split(","))
        first, *others = description or [""]
        lines += [f"   * {head}{f' ({kind})' if kind else ''} -- {first}", *(f"     {line}" for line in others)]
    return [":Attributes:", *lines, ""]


# ------------------------------------------------------------------ names


class PublicNames(PythonDomain):
    """Python's domain, in which every path of a public name leads to its description."""

    def find_obj(
        self, env: Any, modname: str, classname: str, name: str, type: str | None, searchmode: int = 0
    ) -> list[tuple[str, ObjectEntry]]:
        wanted = name.removesuffix("()")
        candidates = [wanted, *([f"{modname}.{wanted}"] if modname else [])]
        head, dot, member = wanted.partition(".")
        if head in by_short_name():
            candidates.append(f"{by_short_name()[head]}{dot}{member}")
        found = super().find_obj(env, modname, classname, public_path(wanted), type, searchmode)
        for candidate in candidates:
            path = public_path(candidate)
            if not found and path in self.objects:
                found = [(path, self.objects[path])]
        return found

    def get_objects(self) -> Iterator[tuple[str, str, str, str, str, int]]:
        """Return what the inventory and the search list: public names, and their other public paths."""
        for entry in super().get_objects():
            if is_public(entry[0]):
                yield entry
        for path, aliases in paths().items():
            found = self.objects.get(path)
            for alias in aliases if found else ():
                yield alias, alias, found.objtype, found.docname, found.node_id, -1


def _elsewhere(app: Sphinx, env: Any, node: addnodes.pending_xref, contnode: nodes.Element) -> nodes.Node | None:
    """Give a type of another library the name that its documentation has, before its inventory is asked.

    Where an annotation has the alias of a type that is private, what it stands for is shown.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    node["reftarget"] = ELSEWHERE.get(target, TYPES.get(target, target))
    alias = _alias(target)
    if alias is None:
        return None
    return nodes.inline(text=_written(alias))


def _written(alias: TypeAliasType) -> str:
    """Return what a private alias stands for; aliases in it too, and classes by their names."""
    if alias.__value__ is Any:
        return "array"

    def short(match: re.Match[str]) -> str:
        inner = _alias(match[0])
        return _written(inner) if inner else match[0].rpartition(".")[2]

    text = stringify_annotation(alias.__value__, "smart").replace("~", "")
    return re.sub(rf"\b{PACKAGE}(?:\.\w+)+|\btyping\.Any\b", short, text)


def _alias(target: str) -> TypeAliasType | None:
    module, _, name = target.rpartition(".")
    if module.startswith(f"{PACKAGE}."):
        found = getattr(sys.modules.get(module), name, None)
    else:
        found = {"Rule": sys.modules[f"{PACKAGE}.images.intensity"].Rule}.get(target)
    return found if isinstance(found, TypeAliasType) else None


def _public_bases(app: Sphinx, name: str, obj: Any, options: Any, bases: list[Any]) -> None:
    """Name the nearest bases that are described, instead of classes that only share code."""
    found: list[Any] = []
    for base in bases:
        found.extend(b for b in _described(base) if b not in found)
    bases[:] = [base for base in found if base not in (object, ABC)] or [object]


def _described(base: Any) -> list[Any]:
    origin = getattr(base, "__origin__", base)
    name = f"{getattr(origin, '__module__', '')}.{getattr(origin, '__qualname__', '')}"
    if not name.startswith(f"{PACKAGE}.") or is_public(public_path(name)):
        return [base]
    return [b for parent in getattr(origin, "__orig_bases__", origin.__bases__) for b in _described(parent)]


def _readable_defaults(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write "..." for a default that a dataclass makes; of "<factory>" a signature is not parsed, nor are its types."""
    return signature and signature.replace("<factory>", "..."), returns


def _back_links(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Lead from source code to the path of a description; viewcode has all of a file under the first one's module."""
    if pagename.startswith("_modules/") and "body" in context:
        module = pagename.removeprefix("_modules/").replace("/", ".")
        context["body"] = re.sub(
            r'(id="([\w.]+)">\s*<a class="viewcode-back" href="[^"#]*#)[^"]*',
            lambda match: match[1] + public_path(f"{module}.{match[2]}"),
            context["body"],
        )


def _tidy(app: Sphinx, domain: str, objtype: str, content: nodes.Element) -> None:
    """Leave out "Bases: object", which says nothing."""
    for paragraph in list(content.findall(nodes.paragraph)):
        if paragraph.parent is content and paragraph.astext() == "Bases: object":
            content.remove(paragraph)


def _defining_module(app: Sphinx, module: str, attribute: str) -> str | None:
    """Return the file that has the source of a public name, for its link to the source."""
    name, _, member = attribute.partition(".")
    value = getattr(importlib.import_module(module), name, None)
    for kind in getattr(value, "__mro__", ()) if member else ():
        if member in vars(kind):
            return str(kind.__module__) if kind is value else None
    return getattr(value, "__module__", None)


# ------------------------------------------------------------------ the table at the head of a page


class ContentsPlace(nodes.General, nodes.Element):
    """Where the table of a page's names goes, when they are known."""


class ApiContents(SphinxDirective):
    """``.. api-contents::``: the names that are described on this page, by section, with their first sentences.

    With lines ``name`` or headings that end in a colon as its content, the table of these names.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        return [ContentsPlace("", names=list(self.content))]


def _fill_tables(app: Sphinx, doctree: nodes.document) -> None:
    for place in list(doctree.findall(ContentsPlace)):
        rows = _listed(place["names"]) if place["names"] else _described_on(doctree)
        place.replace_self(_table(list(rows)))


def _listed(lines: list[str]) -> Iterator[tuple[str, str | None]]:
    """Return headings, and names with their first sentences, from the lines of the directive."""
    for line in filter(None, map(str.strip, lines)):
        if line.endswith(":"):
            yield line.removesuffix(":"), None
        else:
            yield line, _first_sentence(line)


def _described_on(doctree: nodes.document) -> Iterator[tuple[str, str | None]]:
    heading = None
    for description in doctree.findall(addnodes.desc):
        if isinstance(description.parent, nodes.section) and description["domain"] == "py":
            signature = description[0]
            section = description.parent[0].astext()
            if section != heading and isinstance(description.parent.parent, nodes.section):
                heading = section
                yield section, None
            path = f"{signature['module']}.{signature['fullname']}"
            texts = [node.astext() for node in description[-1] if isinstance(node, nodes.paragraph)]
            is_constant = description["objtype"] in ("data", "type")
            yield path, _sentence(texts[0]) if is_constant and texts else _first_sentence(path)


def _first_sentence(path: str) -> str:
    value = value_of(path)
    text = inspect.getdoc(value) or ""
    if not (inspect.isroutine(value) or inspect.isclass(value)):
        text = _comment_of(path)
    return _sentence(text)


def _sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    first = re.split(r"(?<!al)\.(?=\s+[A-Z`])", paragraph)[0].rstrip(".")
    return re.sub(r"^Return\b", "Returns", first)


def _comment_of(path: str) -> str:
    """Return the ``#:`` comment of a constant."""
    from sphinx.pycode import ModuleAnalyzer

    name = path.rpartition(".")[2]
    package = importlib.import_module(path.rpartition(".")[0])
    for module in (package.__name__, *_files_of(package)):
        comments = ModuleAnalyzer.for_module(module)
        comments.analyze()
        if ("", name) in comments.attr_docs:
            return "\n".join(comments.attr_docs["", name])
    return ""


def _files_of(package: Any) -> list[str]:
    import pkgutil

    return [f"{package.__name__}.{m.name}" for m in pkgutil.iter_modules(getattr(package, "__path__", []))]


def _table(rows: list[tuple[str, str | None]]) -> nodes.Element:
    table = nodes.table(classes=["api-contents"])
    group = nodes.tgroup(cols=2)
    group += [nodes.colspec(colwidth=35), nodes.colspec(colwidth=65)]
    body = nodes.tbody()
    for name, sentence in rows:
        row = nodes.row()
        if sentence is None:
            entry = nodes.entry(morecols=1, classes=["api-section"])
            entry += nodes.paragraph("", "", nodes.strong(text=name))
            row += entry
        else:
            shown = nodes.literal(text=name.rpartition(".")[2])
            row += nodes.entry("", nodes.paragraph("", "", _link(name, shown)))
            row += nodes.entry("", nodes.paragraph("", "", *_inline(sentence)))
        body += row
    group += body
    table += group
    return table


def _inline(text: str) -> Iterator[nodes.Node]:
    """Return the nodes of a sentence of a docstring: literals and references as code, the rest as text."""
    for part in re.split(r"(``[^`]+``|:\w+:`[^`]+`)", text):
        if part.startswith("``"):
            yield nodes.literal(text=part.strip("`"))
        elif re.match(r":\w+:`", part):
            yield nodes.literal(text=part.split("`")[1].partition(" <")[0].lstrip("~").rpartition(".")[2])
        else:
            yield nodes.Text(part)


def setup(app: Sphinx) -> dict[str, Any]:
    # napoleon's own conversion takes every word of a phrase for a type.
    napoleon._convert_type_spec = _type_phrase
    napoleon.NumpyDocstring._parse_attributes_section = _attributes_section
    # A property's docstring is a text: what stands before its first colon is no type.
    napoleon.NumpyDocstring._parse_attribute_docstring = lambda self: self._dedent(self._consume_to_end())
    app.add_domain(PublicNames, override=True)
    app.add_role("type-phrase", TypeRole())
    app.add_node(ContentsPlace)
    app.add_directive("api-contents", ApiContents)
    app.connect("autodoc-process-bases", _public_bases)
    app.connect("autodoc-process-signature", _readable_defaults)
    app.connect("html-page-context", _back_links)
    app.connect("object-description-transform", _tidy)
    app.connect("viewcode-follow-imported", _defining_module)
    app.connect("doctree-read", _fill_tables)
    app.connect("missing-reference", _elsewhere, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
