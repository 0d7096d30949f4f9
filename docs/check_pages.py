"""Check the built documentation: ``uv run python docs/check_pages.py docs/_build/html``.

Sphinx warns of what it does not understand, and takes for text what it does not recognize. This reads the pages as
readers see them, and fails, with file and text, where one shows markup, a field of a docstring that was read wrongly, a
link or a picture that leads nowhere, or a name that is not the one that people import.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import copy
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

sys.path.insert(0, str(Path(__file__).parent))  # the extensions of these pages, as conf.py does
from extensions import public_names

# What is no prose: code, mathematics, drawings, outputs of notebooks, the theme's parts. The list of the package's
# messages has them as they are printed, with their backticks.
NOT_PROSE = (
    "pre, code, script, style, svg, dt.sig, .math, .cell_output, p:has(.message-kind), "
    ".sidebar-drawer, .toc-drawer, .headerlink"
)
MARKUP = re.compile(
    r":(?:py:)?(?:class|func|meth|mod|attr|data|exc|obj|ref|doc|term|option|math|type-phrase):"
    r"|\{(?:py:)?(?:class|func|meth|mod|attr|data|exc|obj|ref|doc|term|option|math|octicon)\}"
    r"|`|\*\*|\|[A-Za-z_]\w*\||\{\{|\}\}|^:::|^\.\. \w+::"
)
SECTION = re.compile(
    r"(?:Parameters|Attributes|Returns|Raises|Yields|Warns|Notes|Examples|See Also|References)(?:$|:$|\s*:?\s+-{3,})"
)
SWALLOWED_LIST = re.compile(r"\n\s*[-*] \S|^[-*] \S|[:.] - \S.* - \S")
# What fields begin with: a parameter's name, or several that share a description.
FIELD_NAMES = re.compile(r"\*{0,2}[A-Za-z_]\w*(?:, \*{0,2}[A-Za-z_]\w*)*")
NAMED_FIELDS = ("Parameters", "Keyword Arguments", "Attributes", "Raises")
PACKAGE_PATH = re.compile(rf"\b{public_names.PACKAGE}(?:\.\w+)+")
PICTURE_FILE = re.compile(r"\S+\.(?:png|jpe?g|gif|svg|webp)", re.IGNORECASE)


def text_of(tag: Tag) -> str:
    """Return the text on one line."""
    return " ".join(tag.get_text().split())


def without_code(tag: Tag) -> Tag:
    """Return a copy in which only prose is left; code is an empty element, so that its neighbors stay apart."""
    prose = copy(tag)
    for part in prose.select(NOT_PROSE):
        part.clear()
    return prose


def check_markup(page: Tag) -> Iterator[str]:
    """Yield where prose has markup, or a list that became part of a paragraph."""
    for text in page.find_all(string=MARKUP):
        if re.fullmatch(r"\*\*\w+", text) and text.find_parent("dl", class_="field-list"):
            continue  # a parameter's name
        yield f"markup in the text: {_around(str(text), MARKUP)}"
    for paragraph in page.find_all("p"):
        if SWALLOWED_LIST.search(paragraph.get_text()):
            yield f"a list in a paragraph: {_around(paragraph.get_text(), SWALLOWED_LIST)}"


def _around(text: str, pattern: re.Pattern[str]) -> str:
    found = pattern.search(text)
    start = max(0, found.start() - 40) if found else 0
    return repr(" ".join(text[start : start + 100].split()))


def check_fields(page: Tag) -> Iterator[str]:
    """Yield the fields of docstrings that lack a name or a description, and headings that became text."""
    for term in page.select("dl.field-list > dt"):
        name, content = text_of(term).removesuffix(":"), term.find_next_sibling("dd")
        entries = content.select(":scope > ul > li, :scope > ol > li") or [content]
        for entry in entries:
            names, dash, description = text_of(entry).partition("–")  # Sphinx's dash
            bare = re.sub(r"\s*\(.*\)\s*$", "", names.strip())
            if name not in NAMED_FIELDS:
                if not text_of(entry):
                    yield f"{name} without a description"
            elif not (dash and description.strip()):
                yield f"{name} without a description: {text_of(entry)[:100]!r}"
            elif not FIELD_NAMES.fullmatch(bare.replace(".", "_") if name == "Raises" else bare):
                yield f"{name} with an odd name: {text_of(entry)[:100]!r}"
    for text in page.select("dl.py dd p:not(.rubric), dl.py dl.simple:not(.field-list) > dt"):
        if SECTION.match(text_of(text)):
            yield f"a section's name as text: {text_of(text)[:100]!r}"


def check_names(page: Tag) -> Iterator[str]:
    """Yield the names in signatures and headings that are not those that people import."""
    for tag in page.select("dt.sig"):
        if "~" in text_of(tag) or "<factory>" in text_of(tag):
            yield f"a signature that was not parsed: {text_of(tag)[:100]!r}"
    for tag in page.select("dt.sig, h1, h2, h3, h4, h5, h6"):
        for path in PACKAGE_PATH.findall(text_of(tag)):
            if not public_names.is_public(path):
                yield f"a private path: {path} in {text_of(tag)[:100]!r}"


def check_pictures(page: Tag) -> Iterator[str]:
    """Yield the pictures without a text for those who do not see them; Sphinx gives these their file's name."""
    for picture in page.find_all("img"):
        alternative = str(picture.get("alt") or "").strip()
        if not alternative or PICTURE_FILE.fullmatch(alternative):
            yield f"a picture without a text: {str(picture.get('src'))[:80]!r}"


def check_links(page: Tag, file: Path, anchors: dict[Path, set[str]]) -> Iterator[str]:
    """Yield the links and the pictures within the folder that lead to no file, or to no place in it."""
    for tag in page.select("[href], [src]"):
        address = str(tag.get("href") or tag.get("src") or "")
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or not address:
            continue
        target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
        target = target / "index.html" if target.is_dir() else target
        if not target.is_file():
            yield f"no such file: {address}"
        elif parts.fragment and target in anchors and unquote(parts.fragment) not in anchors[target]:
            yield f"no such place: {address}"


def check_inventory(names: Iterable[str]) -> Iterator[str]:
    """Yield the names that other documentation could link to and should not, and the public ones that it cannot."""
    names = set(names)
    for name in sorted(names):
        if PACKAGE_PATH.fullmatch(name) and not public_names.is_public(name):
            yield f"a private path: {name}"
    for path, aliases in public_names.paths().items():
        yield from (f"a public name is missing: {name}" for name in (path, *aliases) if name not in names)


def inventory_names(file: Path) -> list[str]:
    """Return the names of Python's domain in an ``objects.inv``."""
    lines = zlib.decompress(file.read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    return [line.split()[0] for line in lines if line.split()[1].startswith("py:")]


def check_folder(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return what is wrong in a folder of pages, each with its file, and how much was checked."""
    folder = folder.resolve()
    files = sorted(file for file in folder.rglob("*.html") if "_static" not in file.parts)
    pages = {file: BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser") for file in files}
    anchors = {
        file: {str(tag.get("id") or tag.get("name")) for tag in page.select("[id], a[name]")}
        for file, page in pages.items()
    }
    problems, counts = [], Counter(pages=len(pages))
    for file, page in pages.items():
        counts["links"] += len(page.select("[href], [src]"))
        found = [*check_links(page, file, anchors), *check_pictures(page)]
        counts["pictures"] += len(page.find_all("img"))
        if "_modules" not in file.relative_to(folder).parts:  # those are source code
            prose = without_code(page)
            counts["paragraphs"] += len(prose.find_all("p"))
            counts["fields"] += len(page.select("dl.field-list > dt"))
            found += [*check_markup(prose), *check_fields(page), *check_names(page)]
        problems += [f"{file.relative_to(folder).as_posix()}: {problem}" for problem in dict.fromkeys(found)]
    names = inventory_names(folder / "objects.inv")
    counts["names"] = len(names)
    problems += [f"objects.inv: {problem}" for problem in check_inventory(names)]
    return problems, counts


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if len(arguments) == 1 else None
    if folder is None or not (folder / "objects.inv").is_file():
        print("usage: python docs/check_pages.py HTML_FOLDER, a folder that sphinx-build made", file=sys.stderr)
        return 2
    problems, counts = check_folder(folder)
    print("\n".join(problems), end="\n" if problems else "")
    print(f"checked {', '.join(f'{count} {what}' for what, count in counts.items())}: {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
