"""The table of causes and remedies, docs/messages.toml, and which messages of the source each of its entries has."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from extensions.message_sources import Message

__all__ = ["Entry", "assigned", "read_table", "slug"]


@dataclass
class Entry:
    """One message or a family of them, with what it means.

    Attributes
    ----------
    group, title, cause, remedy : str
    match : list of str
        Patterns of sentences; ``*`` is anything.
    where : list of str
        Only sentences of these modules, or of modules in these folders: ``"training/"``; by default of all.
    messages : list of Message
        Those of the source that it has.
    """

    group: str
    title: str
    match: list[str]
    cause: str
    remedy: str
    where: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return f"message-{slug(self.title)}"


def slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def read_table(path: Path) -> list[Entry]:
    """Return the entries of the table, in its order."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    where = table.pop("where")
    return [Entry(group, **{"where": where.get(group, []), **row}) for group, rows in table.items() for row in rows]


def assigned(entries: list[Entry], messages: list[Message]) -> tuple[list[Message], list[tuple[Entry, str]]]:
    """Give each message to the first entry that matches it.

    Returns
    -------
    left : list of Message
        Those that none matches.
    idle : list of (Entry, str)
        Patterns that no message needs.
    """
    patterns = [(entry, text, text.split("*")) for entry in entries for text in entry.match]
    left, used = [], set()
    for message in messages:
        found = next(
            ((e, t) for e, t, parts in patterns if _is_in(message, e.where) and _matches(parts, message.template)), None
        )
        if found is None:
            left.append(message)
            continue
        used.add((id(found[0]), found[1]))
        found[0].messages.append(message)
    return left, [(entry, text) for entry, text, _ in patterns if (id(entry), text) not in used]


def _is_in(message: Message, where: list[str]) -> bool:
    return not where or message.module.startswith(tuple(where))


def _matches(parts: list[str], text: str) -> bool:
    """Whether a text is these parts in their order, with anything between them."""
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return text == first
    if not text.startswith(first) or not text.endswith(last):
        return False
    at = len(first)
    for part in parts[1:-1]:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return at <= len(text) - len(last)
