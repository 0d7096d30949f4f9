"""YAML as data: what a tag names is never made, and hostile files end in a sentence."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import pytest

from lucid_maskrcnn.weights.formats.yaml_files import Tagged, YamlError, parse_flow, read_yaml


def read(tmp_path: Path, text: str | bytes) -> Any:
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: {b: [1, 2.5, -3, 1e3, 1.0e-3], c: }\n", {"a": {"b": [1, 2.5, -3, "1e3", 0.001], "c": None}}),
        ("ON: yes\n1: 'no'\n", {"ON": True, "1": "no"}),
        ("a: 0x10\nb: 1_000\nc: .inf\n", {"a": 16, "b": 1000, "c": float("inf")}),
        ("d: 2020-01-01\ne: |\n  x\n  y\n", {"d": "2020-01-01", "e": "x\ny\n"}),
        ("a: &x [1]\nb: *x\n", {"a": [1], "b": [1]}),
        ("a: !!python/tuple [1, 2]\nb: !!python/unicode 'x'\nc: !!python/long 7\n", {"a": [1, 2], "b": "x", "c": 7}),
        ("", None),
        ("- 1\n", [1]),
        ("﻿a: 1\n", {"a": 1}),
        ("!!python/object/new:yacs.config.CfgNode\ndictitems:\n  A: 1\nstate: {_x: 2}\n", {"A": 1}),
    ],
)
def test_what_is_data_is_read(tmp_path: Path, text: str, value: object) -> None:
    assert read(tmp_path, text) == value


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a: !!python/object/apply:eval [\"open('made', 'w')\"]", "!!python/object/apply:eval"),
        ("a: !!python/object/apply:os.system ['touch made']", "!!python/object/apply:os.system"),
        ("a: !!python/object/new:os.system [touch made]", "!!python/object/new:os.system"),
        ("a: !!python/object:os.system {x: 1}", "!!python/object:os.system"),
        ("a: !!python/name:os.system", "!!python/name:os.system"),
        ("a: !!python/module:made", "!!python/module:made"),
        ("a: !!binary aGVsbG8=", "!!binary"),
        ("a: !mine [1]", "!mine"),
        ("a: !!set {x}", "!!set"),
    ],
)
def test_tags_of_objects_are_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, tag: str) -> None:
    monkeypatch.chdir(tmp_path)
    value = read(tmp_path, text)["a"]
    assert isinstance(value, Tagged)
    assert value.tag == tag
    assert os.listdir(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "has the key 'a' twice in one section, at line 2."),
        ("a: [1, 2\n", "is not YAML: expected ',' or ']', but got '<stream end>', at line 2."),
        ("a:\n\t- 1\n", "is not YAML: found character '\\t' that cannot start any token, at line 2."),
        ("a: 1\n---\nb: 2\n", "is not YAML: but found another document, at line 2."),
        ("a: *nothing\n", "is not YAML: found undefined alias 'nothing', at line 1."),
        (b"\xff\xfe\x00", "is not YAML: "),
        (b"a: \x00\n", "is not YAML: special characters are not allowed"),
        (b"\x89PNG\r\n\x1a\n", "is not YAML: "),
        ("? [1]\n: 2\n", "has a key that is no text, at line 1."),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "has the merge key '<<', at line 2"),
        ("a: !!int seven\n", "has 'seven' where a number is wanted, at line 1."),
        (f"a: {'7' * 5000}\n", "where a number is wanted, at line 1."),
        (f"a: 1{':1' * 5000}\n", "where a number is wanted, at line 1."),
        (f"a: {'[' * 60}{']' * 60}\n", "is nested more than 40 levels deep, or contains itself."),
        (f"a: {'[' * 5000}{']' * 5000}\n", "is not YAML: it is nested too deeply."),
        ("a: &x [*x]\n", "is nested more than 40 levels deep, or contains itself."),
        (f"a: {'1' * 2**20}\n", "has more than 1 MB, which no configuration has."),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(YamlError) as caught:
        read(tmp_path, text)
    said = str(caught.value)
    assert said.startswith(f"{str(tmp_path / 'config.yaml')!r} ")
    assert message in said
    assert len(said) < len(str(tmp_path)) + 200
    assert "\n" not in said


def test_aliases_that_multiply_are_counted(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]  # ten thousand million
    with pytest.raises(YamlError, match="has more than 50000 values, counting what its aliases repeat"):
        read(tmp_path, "\n".join(lines))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match="is a directory: a YAML file is wanted"):
        read_yaml(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere\.yaml': No such file or directory\."):
        read_yaml(tmp_path / "nowhere.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(YamlError, match="is not a regular file"):
        read_yaml(tmp_path / "pipe.yaml")


def test_lists_in_texts() -> None:
    assert parse_flow("[1, [2, 3]]") == [1, [2, 3]]
    assert parse_flow("[1, ") == "[1, "


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ImportError, match=r"config.yaml' is YAML, which needs PyYAML: pip install 'lucid-maskrcnn\[yaml"
    ):
        read(tmp_path, "a: 1")
