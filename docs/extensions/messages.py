"""Sphinx extension: the pages of messages, docs/reference/messages/, made from the package's source and messages.toml.

A page has the line ``% messages: weights``, in whose place come the entries of that group of the table; the line
``% messages`` stands for the table of contents and for the box in which a message is looked for.
"""

from __future__ import annotations

import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from extensions.message_sources import Message, collect, page_notes
from extensions.message_table import Entry, assigned, read_table

__all__ = ["entries", "markdown_of", "setup"]

ROOT = Path(__file__).parents[2]
PACKAGE, TABLE = ROOT / "lucid_maskrcnn", ROOT / "docs" / "messages.toml"
FOLDER = "reference/messages"
_SHOWN = 5  # sentences of an entry; more of them are behind a heading that opens
# Exceptions that the package catches: what users see, and the word that the sentence then begins with.
_CAUGHT = {
    "CheckpointError": "ValueError",
    "PolygonError": "ValueError",
    "_DownloadError": "ConnectionError",
    "_BrokenConnectionError": "ConnectionError",
    "DecompressionBombError": "ValueError",
}
_KINDS = {"fault": "check-data: fault", "warning": "check-data: warning", "note": "check-data: note"}
_KINDS |= {"usage": "command line", "stderr": "command line", "page": "browser app"}


def messages() -> list[Message]:
    """Return the messages of the package and of the page in the browser."""
    scripts = sorted((PACKAGE / "app" / "static").glob("*.js"))
    return [*collect(PACKAGE), *(note for script in scripts for note in page_notes(script))]


@cache
def entries() -> tuple[Entry, ...]:
    """Return the entries of the table with their messages."""
    table = read_table(TABLE)
    assigned(table, messages())
    return tuple(table)


# ------------------------------------------------------------------ Markdown


def markdown_of(group: str) -> str:
    """Return the entries of a group as Markdown."""
    return "\n\n".join(_entry(entry) for entry in entries() if entry.group == group)


def _entry(entry: Entry) -> str:
    kinds: dict[str, set[str]] = {}
    for message in entry.messages:
        kinds.setdefault(_sentence(message), set()).update(_kind(message))
    kinds = {sentence: kind for sentence, kind in kinds.items() if _without_guess(sentence) not in kinds}
    said = [f"- {{said}}`` {sentence} `` {{kind}}`{', '.join(sorted(kinds[sentence]))}`" for sentence in sorted(kinds)]
    first, more = "\n".join(said[:_SHOWN]), "\n".join(said[_SHOWN:])
    rest = f"\n\n:::{{dropdown}} {len(said) - _SHOWN} more of the kind\n{more}\n:::" if more else ""
    return (
        f"({entry.anchor})=\n\n## {entry.title}\n\n:::{{div}} messages\n{first}\n:::{rest}\n\n"
        f":::{{div}} message-why\nCause\n: {entry.cause}\n\nRemedy\n: {entry.remedy}{_origins(entry)}\n:::"
    )


def _sentence(message: Message) -> str:
    """Return a template as it is shown: what goes on after the name of a file begins with dots."""
    text = message.template
    begins = message.kind in _CAUGHT or not re.search(r"[.?!…]$", text)
    return f"… {text}" if begins and text[0].islower() else text


def _without_guess(sentence: str) -> str | None:
    """Return a sentence without what may have been meant, None if it says nothing of it."""
    shorter = re.sub(r"[.;] [Dd]id you mean [^?]*\?$", ".", sentence)
    return None if shorter == sentence else shorter


def _kind(message: Message) -> list[str]:
    kind = _KINDS.get(message.kind, _CAUGHT.get(message.kind, message.kind))
    return kind.split(" or ")


def _origins(entry: Entry) -> str:
    """Return where its messages arise, if that is few places."""
    names = sorted({name for message in entry.messages for name in message.origins})
    if not names or len(names) > 6:
        return ""
    return "\n\nFrom\n: " + ", ".join(f"{{py:obj}}`~{name}`" for name in names)


# ------------------------------------------------------------------ the index


def search_box() -> str:
    """Return the box that finds the entry of a message that is pasted, as HTML."""
    rows = []
    for entry in entries():
        templates = {message.template for message in entry.messages}
        shown = sorted(t for t in templates if _without_guess(t) not in templates)
        rows += [[template, entry.title, f"{entry.group}.html#{entry.anchor}"] for template in shown]
    script = (Path(__file__).parent / "messages_box.js").read_text(encoding="utf-8")
    data = json.dumps(rows, ensure_ascii=False).replace("</", "<\\/")
    label = html.escape("Paste a message, with or without its traceback")
    return (
        f'<label for="message-box">{label}</label>\n'
        '<textarea id="message-box" rows="3" autocomplete="off" spellcheck="false"></textarea>\n'
        '<ol id="message-found" aria-live="polite"></ol>\n'
        f"<script>const MESSAGES = {data};\n{script}</script>"
    )


def contents() -> str:
    """Return the titles of all entries, by group, as Markdown."""
    groups = list(dict.fromkeys(entry.group for entry in entries()))
    parts = []
    for group in groups:
        titles = "\n".join(f"- [{e.title}](#{e.anchor})" for e in entries() if e.group == group)
        parts.append(f"## {{doc}}`{group}`\n\n{titles}")
    return "\n\n".join(parts)


# ------------------------------------------------------------------ Sphinx


def fill_page(app: Any, page: str, source: list[str]) -> None:
    """Put the entries in the place of their line."""
    if not page.startswith(FOLDER):
        return
    app.env.note_dependency(str(TABLE))
    text = re.sub(r"^% messages: find$", lambda _: f"```{{raw}} html\n{search_box()}\n```", source[0], flags=re.M)
    text = re.sub(r"^% messages: (\w+)$", lambda line: markdown_of(line[1]), text, flags=re.M)
    source[0] = re.sub(r"^% messages$", lambda _: contents(), text, flags=re.M)


def outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Return the pages of messages: any change of the source may change them."""
    return [page for page in env.found_docs if page.startswith(FOLDER)]


def kind_role(
    name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Return the class of a message, which stands behind it in small letters."""
    return [nodes.inline(raw, text, classes=["message-kind"])], []


def said_role(
    name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Return a sentence with the names of its values in italics, and with the quotes and dashes that it has."""
    sentence = nodes.inline(raw, "", support_smartquotes=False)
    for i, part in enumerate(re.split(r"\{([^{}]+)\}", text.strip())):
        sentence += nodes.emphasis("", part, support_smartquotes=False) if i % 2 else nodes.Text(part)
    return [sentence], []


def setup(app: Any) -> dict[str, Any]:
    entries.cache_clear()
    app.add_role("said", said_role)
    app.add_role("kind", kind_role)
    app.connect("source-read", fill_page)
    app.connect("env-get-outdated", outdated)
    app.connect("builder-inited", lambda app: app.config.html_static_path.append(str(Path(__file__).parent / "static")))
    app.add_css_file("messages.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
