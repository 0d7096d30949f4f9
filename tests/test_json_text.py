"""JSON of others: whatever is wrong with it is one sentence that names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lucid_maskrcnn.annotation_formats.coco import read_annotations, read_results
from lucid_maskrcnn.json_text import parse_json, read_json


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "it is empty"),
        (b"[1,", "Expecting value, at line 1, column 4"),
        (b"[" * 100_000, "its brackets are nested too deeply"),
        (b'{"a":' * 100_000, "its brackets are nested too deeply"),
        (b"[NaN]", "it has NaN, which is no number in JSON"),
        (b'{"score": -Infinity}', "it has -Infinity, which is no number in JSON"),
        (b'[{"id": 1, "id": 2}]', "an object has the key 'id' twice"),
        (b'{"images": [1], "a": {}, "images": []}', "an object has the key 'images' twice"),
        (b"9" * 5000, "it has a number of thousands of digits"),
        (b'{"name": "\xe9"}', "byte 10 is not text in UTF-8; save it as UTF-8"),
        (b"\xff\xfeA", "byte 2 is not text in UTF-16"),
    ],
)
def test_json_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, text: bytes, reason: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(text)
    message = re.escape(f"{str(file)!r} is not JSON: {reason}")
    for read in (read_json, read_annotations, read_results):
        with pytest.raises(ValueError, match=message) as caught:
            read(file)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_read_in_any_unicode_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes('{"name": "Zelle µ"}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"name": "Zelle µ"}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json': No such file or directory\."):
        read_json(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_json(tmp_path)
    with pytest.raises(ValueError, match="cannot be read: File name too long"):
        read_json(tmp_path / ("a" * 1000))
    with pytest.raises(ValueError, match="cannot be read: embedded null byte"):
        read_json(tmp_path / "a\0b")


def test_values_are_those_of_json() -> None:
    text = '{"a": [1, 2.5, null, true, "\\u00b5"], "b": {}}'
    assert parse_json("it", text) == {"a": [1, 2.5, None, True, "µ"], "b": {}}
