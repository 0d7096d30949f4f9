"""The pages of docs/ and the README, as far as that can be said without running them.

Their blocks run with ``uv run pytest docs``; here are those that are skipped there, too, options of commands, and
links.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lucid_maskrcnn.cli import build_parser
from lucid_maskrcnn.cli.parser import Parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^ *(?P=fence) *$", re.M | re.S)
SKIP = re.compile(r"^ *% skip: (?P<what>.*)$", re.M)
MOST_SKIPPED = 40  # blocks of all pages together that are not run
HOSTS = {
    "arxiv.org",
    "bbbc.broadinstitute.org",
    "cocodataset.org",
    "detectron2.readthedocs.io",
    "dl.fbaipublicfiles.com",
    "docs.pytorch.org",
    "docs.ray.io",
    "docs.ultralytics.com",
    "doi.org",
    "download.pytorch.org",
    "filesystem-spec.readthedocs.io",
    "github.com",
    "huggingface.co",
    "imagej.net",
    "keepachangelog.com",
    "learn.microsoft.com",
    "lucid-api.github.io",
    "ml-explore.github.io",
    "numpy.org",
    "openaccess.thecvf.com",
    "pytorch.org",
    "qupath.github.io",
    "qupath.readthedocs.io",
    "semver.org",
    "supervision.roboflow.com",
}


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, *languages: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, language and text of the fenced blocks of a page."""
    text = text_of(name)
    for match in FENCE.finditer(text):
        language = match["language"].strip().removeprefix("{code-block}").strip()
        if language in languages:
            yield text[: match.start()].count("\n") + 2, language, textwrap.dedent(match["code"])


@pytest.mark.parametrize("name", NAMES)
def test_python_is_python(name: str) -> None:
    for line, _, code in blocks(name, "python"):
        try:
            ast.parse(code)
        except SyntaxError as error:
            pytest.fail(f"{name}:{line + (error.lineno or 1) - 1}: {error.msg}")


# ------------------------------------------------------------------ commands


def commands(name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line and arguments of each call of ``lucid-maskrcnn``: in ``console`` only lines with a prompt."""
    for line, language, code in blocks(name, "sh", "console"):
        joined = re.sub(r"\\\n", lambda _: "  ", code)
        for offset, row in enumerate(joined.splitlines()):
            if language == "console":
                if not re.match(r"\s*[$#] ", row):
                    continue
                row = re.sub(r"^\s*[$#] ", "", row)
            for arguments in called(row):
                yield line + offset, arguments


def called(row: str) -> Iterator[list[str]]:
    """Yield the arguments of each call in a line of shell: up to a pipe, a redirection or a comment."""
    lexer = shlex.shlex(row, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = list(lexer)
    for start, word in enumerate(words):
        if Path(word).name != "lucid-maskrcnn":
            continue
        arguments: list[str] = []
        for argument in words[start + 1 :]:
            if set(argument) <= set("|&;<>()"):
                break
            arguments.append(argument)
        yield arguments


@cache
def parsers() -> dict[str, Parser]:
    (action,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def refused(arguments: list[str]) -> str | None:
    """Return what is wrong with a call, as far as its words say; files need not exist."""
    if not arguments or arguments[0].startswith("-") or arguments[0] in ("help", "version", "COMMAND"):
        return None
    command, *rest = arguments
    if command not in parsers():
        return f"there is no command {command!r}"
    options = parsers()[command]._option_string_actions
    for argument in rest:
        option = argument.partition("=")[0]
        if re.match(r"--?[a-zA-Z]", option) and option not in options:
            return f"{command} has no option {option!r}"
    for option, value in itertools.zip_longest(rest, rest[1:]):
        if option in options and options[option].nargs != 0 and (value is None or value in options):
            return f"{command} {option} lacks its value"
        choices = options[option].choices if option in options else None
        if choices is not None and value is not None and value not in choices and "…" not in value:
            return f"{command} {option} takes {', '.join(map(str, choices))}, got {value!r}"
    return None


@pytest.mark.parametrize("name", NAMES)
def test_commands_have_the_options_that_the_parser_knows(name: str) -> None:
    wrong = [f"{name}:{line}: {why}" for line, arguments in commands(name) if (why := refused(arguments))]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_command_is_refused() -> None:
    (arguments,) = called("cd x && lucid-maskrcnn predict a.png --score 0.5 > log")
    assert arguments == ["predict", "a.png", "--score", "0.5"]
    assert refused(arguments) == "predict has no option '--score'"
    assert refused(["predct"]) == "there is no command 'predct'"
    assert refused(["predict", "a.png", "--out"]) == "predict --out lacks its value"
    assert "takes jsonl, parquet" in str(refused(["predict", "a", "--format", "csv"]))
    assert refused(["predict", "a.png", "--out", "found"]) is None


def test_commands_are_found() -> None:
    assert sum(1 for name in NAMES for _ in commands(name)) > 40


# ------------------------------------------------------------------ skipped blocks


def test_skipped_blocks_have_a_reason_and_are_few() -> None:
    skips = [(name, match["what"]) for name in NAMES for match in SKIP.finditer(text_of(name))]
    without = [f"{name}: {what}" for name, what in skips if what != "end" and not re.search(r'"[^"]{8,}"', what)]
    assert not without, without
    assert len(skips) <= MOST_SKIPPED, f"{len(skips)} blocks are not run"


# ------------------------------------------------------------------ links


def links(name: str) -> Iterator[str]:
    text = FENCE.sub("", text_of(name))
    yield from re.findall(r"\]\(<?([^)\s>]+)>?\)", re.sub(r"`[^`\n]*`", "", text))


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for link in links(name):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("http", "https", "mailto"), f"{name}: {link}"
            assert parts.hostname in HOSTS, f"{name}: {link}: another host; see HOSTS"
        elif parts.path:
            base = DOCS if parts.path.startswith("/") else (ROOT / name).parent
            target = base / parts.path.lstrip("/")
            assert target.exists() or target.with_suffix(".md").exists() or "notebooks" in target.parts, (
                f"{name}: {link}"
            )


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_pages_exist(name: str) -> None:
    text = (
        re.sub(r"^(`{4,})[^\n]*\n.*?^\1", "", text_of(name), flags=re.M | re.S)
        if name == "README.md"
        else text_of(name)
    )
    for path in re.findall(r"^ *```\{image\} (\S+)", text, flags=re.M):
        assert (DOCS / path.lstrip("/")).exists() if path.startswith("/") else ((ROOT / name).parent / path).exists(), (
            path
        )
    for path in re.findall(r"\{doc\}`(?:[^`<]*<)?(/[^`>]+)>?`", text):
        assert (DOCS / f"{path.lstrip('/')}.md").exists() or path.startswith("/notebooks/"), f"{name}: {path}"


def test_the_page_on_installing_has_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", text_of("docs/start/install.md"), flags=re.M))
    brings = {
        extra: [re.split("[>=]", need)[0] for need in needs]
        for extra, needs in project["optional-dependencies"].items()
    }
    assert {extra: row.strip().split(", ") for extra, row in rows.items()} == brings
