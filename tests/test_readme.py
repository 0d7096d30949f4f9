"""The README: its example runs as it stands, its commands stay, its links lead somewhere."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "lucid_maskrcnn" / "assets" / "nuclei_fluorescence_small.png", tmp_path / "cells.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert len(BLOCKS) == 1
    exec(compile(ast.parse(BLOCKS[0]), "README.md", "exec"), names)
    assert len(names["sure"]) > 20  # type: ignore[arg-type]
    assert (tmp_path / "found.png").stat().st_size > 10_000
    assert (tmp_path / "found.geojson").stat().st_size > 1000


def test_the_two_commands_stand_verbatim() -> None:
    commands = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)[0]
    assert [line.split("  ")[0] for line in commands.splitlines()] == [
        "python3 -m pip install uv && uv run lucid-maskrcnn demo",
        "python3 -m pip install uv && uv run pytest",
    ]


def test_links_and_pictures_exist() -> None:
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", README) if not t.startswith("https://")]
    assert len(targets) > 20
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_it_fits_on_a_screen_or_two() -> None:
    assert len(README.splitlines()) < 90
