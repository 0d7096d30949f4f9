"""docs/check_pages.py finds what is wrong in pages, and nothing in pages that are right."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "check_pages.py"
_spec = importlib.util.spec_from_file_location("check_pages", SCRIPT)
assert _spec
assert _spec.loader
check_pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_pages)


def every_public_name() -> list[str]:
    return [name for path, aliases in check_pages.public_names.paths().items() for name in (path, *aliases)]


def described(fields: str, signature: str = "lucid_maskrcnn.Detections(masks)") -> str:
    return f'<dl class="py class"><dt class="sig" id="x">{signature}</dt><dd>{fields}</dd></dl>'


def field(name: str, content: str) -> str:
    return f'<dl class="field-list simple"><dt>{name}<span class="colon">:</span></dt><dd>{content}</dd></dl>'


def built(folder: Path, html: str, names: Iterable[str] | None = None) -> Path:
    """Write a folder as Sphinx does: a page and another one, a picture, and the inventory."""
    (folder / "page.html").write_text(html, encoding="utf-8")
    (folder / "other.html").write_text('<h1 id="here">Other</h1>', encoding="utf-8")
    (folder / "picture.png").write_bytes(b"")
    lines = "".join(f"{name} py:class 1 page.html#$ -\n" for name in (every_public_name() if names is None else names))
    head = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n# zlib\n"
    (folder / "objects.inv").write_bytes(head + zlib.compress(lines.encode()))
    return folder


CLEAN = {
    "code": "<p>Give <code>**options</code>, <code>`a`</code> and <code>:class:</code>.</p><pre>a ** b, |x|</pre>",
    "math": '<p>The norm <span class="math">\\(|x|\\)</span> - or what is near - of x.</p>',
    "list": "<p>Two:</p><ul><li><p>one</p></li><li><p>two</p></li></ul>",
    "printed": '<ul><li><p>Run `ray start`. <span class="message-kind">OSError</span></p></li></ul>',
    "links": '<a href="other.html#here">o</a> <a href="#x">x</a> <a href="https://example.org/#no">w</a><b id="x"></b>',
    "picture": '<img src="picture.png" alt="Cells">',
    "fields": described(
        field("Parameters", "<ul><li><p><strong>a</strong>, <strong>b</strong> (int) – Numbers.</p></li></ul>")
        + field("Parameters", "<p><strong>**options</strong> – As there.</p>")
        + field("Returns", "<p>A number.</p>")
        + field("Raises", "<p><strong>OSError</strong> – If not.</p>")
        + '<p class="rubric">Notes</p>'
    ),
    "names": described("", "lucid_maskrcnn.data.Loader(x)") + "<h2>lucid_maskrcnn.training</h2>",
}
DEFECTS = {
    "role": ("<p>See :class:<code>Detections</code>.</p>", "markup in the text"),
    "MyST role": ("<p>See {doc}<code>predict</code>.</p>", "markup in the text"),
    "backticks": ("<p>Give ``None``.</p>", "markup in the text"),
    "bold": ("<td>This is **bold**.</td>", "markup in the text"),
    "substitution": ("<p>There are |number| of them.</p>", "markup in the text"),
    "variable": ("<p>There are {{ number }} of them.</p>", "markup in the text"),
    "list": ("<p>Two kinds:\n- one\n- two</p>", "a list in a paragraph"),
    "list on a line": ("<p>Two kinds: - one - two</p>", "a list in a paragraph"),
    "parameter": (
        described(field("Parameters", "<ul><li><p><strong>a</strong> (int)</p></li></ul>")),
        "Parameters without a description",
    ),
    "attribute": (
        described(field("Attributes", "<ul><li><p><strong>a</strong> (int) – </p></li></ul>")),
        "Attributes without a description",
    ),
    "spaces": (
        described(field("Parameters", "<p><strong>the image</strong> – Of a cell.</p>")),
        "Parameters with an odd name",
    ),
    "colon": (described(field("Attributes", "<p><strong>a: int</strong> – It.</p>")), "Attributes with an odd name"),
    "returns": (described(field("Returns", "<p></p>")), "Returns without a description"),
    "section": (described("<p>Raises\n------\nValueError</p>"), "a section's name as text"),
    "section's name": (described("<dl class='simple'><dt>Parameters</dt><dd>a</dd></dl>"), "a section's name as text"),
    "file": ('<a href="no.html">o</a>', "no such file: no.html"),
    "place": ('<a href="other.html#there">o</a>', "no such place: other.html#there"),
    "place here": ('<a href="#there">o</a>', "no such place: #there"),
    "lost picture": ('<img src="no.png" alt="Cells">', "no such file: no.png"),
    "silent picture": ('<img src="picture.png">', "a picture without a text"),
    "name of a file": ('<img src="picture.png" alt="_images/picture.png">', "a picture without a text"),
    "signature": (described("", "f(x: lucid_maskrcnn.data.loader.Loader)"), "a private path"),
    "heading": ("<h2>lucid_maskrcnn.ops._operation</h2>", "a private path"),
    "unparsed": (described("", "f(x: ~typing.Any = None)"), "a signature that was not parsed"),
}


@pytest.mark.parametrize("html", CLEAN.values(), ids=CLEAN)
def test_what_is_right_passes(tmp_path: Path, html: str) -> None:
    problems, counts = check_pages.check_folder(built(tmp_path, html))
    assert problems == []
    assert counts["pages"] == 2
    assert counts["names"] == len(every_public_name())


@pytest.mark.parametrize(("html", "problem"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_found_once_with_its_file(tmp_path: Path, html: str, problem: str) -> None:
    (found,) = check_pages.check_folder(built(tmp_path, html))[0]
    assert found.startswith(f"page.html: {problem}")


def test_inventory_has_the_public_names_and_no_others(tmp_path: Path) -> None:
    missing, private = "lucid_maskrcnn.Detections", "lucid_maskrcnn.data.loader.Loader"
    names = [private, *(name for name in every_public_name() if name != missing)]
    assert check_pages.check_folder(built(tmp_path, "", names))[0] == [
        f"objects.inv: a private path: {private}",
        f"objects.inv: a public name is missing: {missing}",
    ]


@pytest.mark.parametrize(("html", "status"), [("<p>Fine.</p>", 0), ("<p>**Bold**</p>", 1)])
def test_as_a_command(tmp_path: Path, html: str, status: int) -> None:
    done = subprocess.run([sys.executable, SCRIPT, built(tmp_path, html)], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert (
        f"checked 2 pages, 0 links, 0 pictures, 1 paragraphs, 0 fields, {len(every_public_name())} names" in done.stdout
    )
    assert ("page.html: markup in the text: '**Bold**'" in done.stdout) == bool(status)


def test_a_folder_without_pages_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: python docs/check_pages.py HTML_FOLDER" in done.stderr
