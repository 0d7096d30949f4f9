"""docs/messages.toml has the cause and the remedy of every message in the source, and of nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import lucid_maskrcnn.data
from lucid_maskrcnn.validators import positive_int

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

sys.path.insert(0, str(DOCS))  # the extensions of the documentation, as conf.py does

from extensions.message_sources import Message, collect  # noqa: E402
from extensions.message_table import Entry, assigned, read_table  # noqa: E402
from extensions.messages import TABLE, markdown_of, messages  # noqa: E402

HOW = (
    "Write why people meet it and what they do then into docs/messages.toml, or make a pattern there match it: "
    "an entry has title, match, cause and remedy, and * in a pattern stands for a value."
)


@pytest.fixture(scope="module")
def said() -> list[Message]:
    return messages()


@pytest.fixture(scope="module")
def table(said: list[Message]) -> tuple[list[Entry], list[Message], list[tuple[Entry, str]]]:
    entries = read_table(TABLE)
    left, idle = assigned(entries, said)
    return entries, left, idle


def test_every_message_has_a_cause_and_a_remedy(table):
    _, left, _ = table
    listed = "\n".join(f"  {m.module}.py, line {m.line}: {m.template}" for m in left)
    assert not left, f"{len(left)} messages have no entry. {HOW}\n{listed}"


def test_every_pattern_has_a_message(table):
    _, _, idle = table
    listed = "\n".join(f"  {entry.title}: {pattern}" for entry, pattern in idle)
    assert not idle, (
        f"Patterns of docs/messages.toml that no message of the source needs, change or delete them:\n{listed}"
    )


def test_entries_are_complete_and_their_anchors_are_unique(table):
    entries, _, _ = table
    assert len({entry.anchor for entry in entries}) == len(entries) > 200
    for entry in entries:
        assert len(entry.cause) > 40, entry.title
        assert len(entry.remedy) > 7, entry.title
        assert (DOCS / "reference" / "messages" / f"{entry.group}.md").is_file(), entry.group


def test_pages_that_entries_point_to_exist(table):
    entries, _, _ = table
    for entry in entries:
        for page in re.findall(r"\{doc\}`(?:[^`<]*<)?/([^`>]+)>?`", entry.cause + entry.remedy):
            if page != "reference/api/index":  # made at the build
                assert (DOCS / f"{page}.md").is_file(), f"{entry.title}: {page}"


@pytest.mark.parametrize("page", sorted(p.stem for p in (DOCS / "reference" / "messages").glob("*.md")))
def test_pages_have_their_entries(page, table):
    entries, _, _ = table
    if page in ("index", "other_software"):
        assert not markdown_of(page)
        return
    written = markdown_of(page)
    for entry in entries:
        if entry.group == page:
            assert f"({entry.anchor})=\n\n## {entry.title}\n" in written


def templates_that_fit(sentence: str, said: list[Message]) -> list[str]:
    """Return the templates that a real sentence is of."""
    found = []
    for message in said:
        parts = re.split(r"\{[^{}]+\}", message.template)
        if re.fullmatch(".*".join(map(re.escape, parts)), sentence) and len("".join(parts)) > 20:
            found.append(message.template)
    return found


@pytest.mark.parametrize(
    "call",
    [
        lambda: positive_int("batch_size", 0),
        lambda: lucid_maskrcnn.mask_rcnn_resnet_50_fpn(num_clases=3),
        lambda: lucid_maskrcnn.mask_rcnn_resnet_18_fpn(weights="NUCLEEI"),
        lambda: lucid_maskrcnn.MaskRCNN.from_file("/no/such/file.pth"),
        lambda: lucid_maskrcnn.ImageConfig(min_size=900, max_size=800),
        lambda: lucid_maskrcnn.predict_files([], "out"),
        lambda: lucid_maskrcnn.data.CocoInstances("images", {"images": []}),
    ],
)
def test_what_is_raised_is_among_the_messages(call, said):
    with pytest.raises((TypeError, ValueError, OSError)) as caught:
        call()
    found = templates_that_fit(str(caught.value), said)
    assert found, str(caught.value)
    assert any(type(caught.value).__name__ in m.kind for m in said if m.template in found)


def test_sentences_are_followed_to_where_they_are_written(tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "__init__.py").write_text('from .checks import check\n\n__all__ = ["check"]\n')
    (tmp_path / "room" / "words.py").write_text(
        'WANTED = "a number above"\n\n\ndef hint(near):\n    return f" Did you mean {near!r}?" if near else ""\n'
    )
    (tmp_path / "room" / "checks.py").write_text(
        "from .words import WANTED, hint\n\n\n"
        "def check(name, value, near):\n"
        "    kind = 'zero'\n"
        "    if near:\n"
        "        kind = 'one'\n"
        "    if value < 0:\n"
        '        refuse(name, f"{WANTED} {kind}, got {value:g}")\n'
        '    raise ValueError(f"{name} is wrong." + hint(near))\n\n\n'
        "def refuse(name, problem):\n"
        '    raise TypeError(f"{name} must be {problem}.")\n\n\n'
        "def internal():\n"
        "    try:\n"
        '        raise AssertionError("never seen by anyone")\n'
        "    except KeyError:\n"
        "        raise\n"
    )
    found = {(m.kind, m.template, m.module, m.origins) for m in collect(tmp_path)}
    place, origin = "room/checks", ("lucid_maskrcnn.room.check",)
    assert found == {
        ("TypeError", "{name} must be a number above zero, got {value}.", place, origin),
        ("TypeError", "{name} must be a number above one, got {value}.", place, origin),
        ("ValueError", "{name} is wrong.", place, origin),
        ("ValueError", "{name} is wrong. Did you mean {near}?", place, origin),
    }
