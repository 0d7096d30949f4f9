"""Letters of any script: which font has them, how much room a text takes, and writing it.

A font is looked for in this order: the user's own, DejaVu Sans, which comes with the package (Latin, Greek, Cyrillic,
Hebrew, Arabic, Armenian, Georgian, mathematical signs), and those installed on this computer.
"""

from __future__ import annotations

import math
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont, features

from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.validators import path as checked_path

__all__ = ["Lettering", "plain_text"]

type Run = tuple[Path, str]  # letters that follow each other in one font

_OWN_FONT = Path(__file__).parent.parent / "assets" / "fonts" / "DejaVuSans.ttf"
_SUFFIXES = {".ttf", ".otf", ".ttc"}
# Upright fonts of usual weight; those of the last resort have a box for each script in place of its letters.
_UNUSUAL = re.compile(r"bold|italic|oblique|light|thin|black|heavy|condensed|lastresort|emoji|symbol", re.IGNORECASE)
# Large fonts for people's names of things, on Linux, macOS and Windows; others are tried after these.
_USUAL = re.compile(
    "notosans|arial ?uni|wqy|droidsansfallback|pingfang|hiragino|stheiti|applesd|msyh|meiryo|yugoth|malgun|nirmala",
    re.IGNORECASE,
)
_MISSING = "?"
_NO_LETTER = "\U0010fffe"  # not a character, so a font draws what it draws for all that it lacks

_said: set[str] = set()  # missing letters that were named in a warning


class Lettering:
    """Writes text in one size or another, each letter in the first font that has it.

    Parameters
    ----------
    font : str or Path, optional
        A TrueType or OpenType file that is asked first.

    Raises
    ------
    TypeError, ValueError
        If ``font`` is not such a file.
    """

    def __init__(self, font: Any = None) -> None:
        self._first = [] if font is None else [_checked_font(font)]
        self._runs: dict[str, list[Run]] = {}
        self._boxes: dict[tuple[str, int], tuple[int, int, int, int]] = {}
        self._missing: set[str] = set()

    def box(self, text: str, size: int) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) of a text's ink, from the start of its baseline, in pixels."""
        key = text, size
        if key not in self._boxes:
            boxes, x = [(0.0, 0.0, 0.0, 0.0)], 0.0
            for font, letters in self._runs_of(text):
                loaded = _loaded(font, size)
                left, top, right, bottom = loaded.getbbox(letters, anchor="ls")
                boxes.append((x + left, top, x + right, bottom))
                x += loaded.getlength(letters)
            lefts, tops, rights, bottoms = zip(*(boxes[1:] or boxes), strict=True)
            ends = math.ceil(max(rights)), math.ceil(max(bottoms))
            self._boxes[key] = (math.floor(min(lefts)), math.floor(min(tops)), *ends)
        return self._boxes[key]

    def write(self, pen: ImageDraw.ImageDraw, start: tuple[float, float], text: str, size: int, color: Any) -> None:
        """Write a text whose baseline starts at (x, y)."""
        x, y = start
        for font, letters in self._runs_of(text):
            loaded = _loaded(font, size)
            pen.text((x, y), letters, font=loaded, fill=color, anchor="ls")
            x += loaded.getlength(letters)

    def warn_of_missing(self) -> None:
        """Name, once, the letters that no font has, and what the computer lacks to join letters."""
        new = sorted(self._missing - _said)
        if new:
            _said.update(new)
            shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in new[:8]) + (" …" if len(new) > 8 else "")
            warn_user(
                f"No font here has {shown}, drawn as {_MISSING!r}: give a font that has, such as "
                "font='…/NotoSansCJK.ttc', or install one on this computer."
            )
        if any(map(_is_joined, self._runs)) and not _joins_letters() and "" not in _said:
            _said.add("")
            warn_user(
                "Letters of right-to-left and joined scripts may stand in the wrong order and form, as Pillow finds no "
                "Raqm and FriBiDi here: install FriBiDi (libfribidi)."
            )

    def _runs_of(self, text: str) -> list[Run]:
        if text not in self._runs:
            self._runs[text] = self._split(text)
        return self._runs[text]

    def _split(self, text: str) -> list[Run]:
        """Return a text in parts of one font each: in one part if one font has it all."""
        known = [*self._first, _OWN_FONT]
        for font in known:
            if all(_has(font, c) for c in text):
                return [(font, text)]
        runs: list[Run] = []
        for c in text:
            # A mark stays with its letter, and a space or a sign with the letters before it.
            before = [runs[-1][0]] if runs else []
            found = next((font for font in (*before, *known) if _has(font, c)), None) or _font_of_system(c)
            if found is None:
                self._missing.add(c)
                found, c = _OWN_FONT, _MISSING
            runs[-1:] = [(found, runs[-1][1] + c)] if before == [found] else [*runs[-1:], (found, c)]
        return runs


def plain_text(text: str, longest: int = 40) -> str:
    """Return text for one line of a picture: no line ends or control characters, and shortened."""
    kept = (" " if _breaks(c) else c for c in unicodedata.normalize("NFC", text) if not _is_hidden(c))
    words = " ".join("".join(kept).split())
    return words if len(words) <= longest else words[: longest - 1].rstrip() + "…"


def _breaks(c: str) -> bool:
    return unicodedata.category(c) in {"Cc", "Zl", "Zp"}


def _is_hidden(c: str) -> bool:
    """Whether this turns the direction of what follows, or is a byte that is no text; joiners are part of words."""
    return unicodedata.category(c) in {"Cf", "Cs"} and c not in "\u200c\u200d"


def _is_joined(text: str) -> bool:
    """Whether a text has letters that stand from right to left, or with marks around them."""
    return any(unicodedata.bidirectional(c) in {"R", "AL"} or unicodedata.category(c) in {"Mn", "Mc"} for c in text)


@cache
def _joins_letters() -> bool:
    return bool(features.check("raqm") and features.check("fribidi"))


# ------------------------------------------------------------------ fonts


def _checked_font(font: Any) -> Path:
    path = checked_path("font", font)
    try:
        _loaded(path, 16)
    except OSError as error:
        raise ValueError(f"font must be a TrueType or OpenType file, but {str(path)!r} is none: {error}.") from None
    return path


@lru_cache(maxsize=64)
def _loaded(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=1 << 14)
def _has(font: Path, c: str) -> bool:
    """Whether a font has a letter: whether it draws it otherwise than what it lacks."""
    if c.isspace() or unicodedata.category(c) == "Cf":
        return True
    return _ink(font, c) != _ink(font, _NO_LETTER)


@lru_cache(maxsize=256)
def _ink(font: Path, c: str) -> tuple[Any, bytes]:
    # Without the joining of letters, which would draw a mark on a dotted circle that it may have or not.
    plain = ImageFont.truetype(font, 24, layout_engine=ImageFont.Layout.BASIC)
    mask, offset = plain.getmask2(c, "1")
    return (mask.size, offset), bytes(mask)


@lru_cache(maxsize=1 << 12)
def _font_of_system(c: str) -> Path | None:
    for font in _fonts_of_system():
        try:
            if _has(font, c):
                return font
        except OSError:  # a font of fixed sizes, or one that this FreeType cannot read
            continue
    return None


@cache
def _fonts_of_system() -> tuple[Path, ...]:
    found = {path for folder in _font_folders() for path in _files_below(folder)}
    usual = [path for path in found if not _UNUSUAL.search(path.name)]
    return tuple(sorted(usual, key=lambda path: (not _USUAL.search(path.name), path.name, path)))


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if Path(name).suffix.lower() in _SUFFIXES)


def _font_folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        roots = (
            os.environ.get("WINDIR", "C:/Windows"),
            Path(os.environ.get("LOCALAPPDATA", home), "Microsoft/Windows"),
        )
        return [Path(root, "Fonts") for root in roots]
    if sys.platform == "darwin":
        return [Path(root, "Library/Fonts") for root in ("/System", "/", home)]
    data = os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":")
    own = os.environ.get("XDG_DATA_HOME", home / ".local/share")
    return [*(Path(folder, "fonts") for folder in (own, *data) if folder), home / ".fonts"]
