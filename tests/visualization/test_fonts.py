"""Letters: none is a silent box, whatever the script."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw, features

from lucid_maskrcnn.visualization import draw_detections, fonts
from lucid_maskrcnn.visualization.fonts import Lettering, plain_text


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Warn anew in each test, with a computer that has no fonts."""
    monkeypatch.setattr(fonts, "_said", set())
    monkeypatch.setattr(fonts, "_font_folders", list)
    clear()
    yield
    clear()


def clear():
    fonts._fonts_of_system.cache_clear()
    fonts._font_of_system.cache_clear()


@pytest.fixture
def chinese(tmp_path):
    return make_font(tmp_path / "Chinese.ttf", "中文")


def make_font(path, letters):
    """Write a font that has a triangle for each letter, and nothing else."""
    names = [".notdef", *(f"uni{ord(c):04X}" for c in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"uni{ord(c):04X}" for c in letters})
    builder.setupGlyf({name: triangle(0 if name == ".notdef" else 800) for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def triangle(height):
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((900, 0))
    pen.lineTo((450, height))
    pen.closePath()
    return pen.glyph()


def ink(lettering, text, size=40):
    left, top, right, bottom = lettering.box(text, size)
    image = Image.new("L", (right - left + 2, bottom - top + 2))
    lettering.write(ImageDraw.Draw(image), (1 - left, 1 - top), text, size, 255)
    return np.asarray(image) > 100


@pytest.mark.parametrize(
    "text", ["élève", "Straße", "Жук", "κύτταρο", "կրիա", "ღრუბელი", "œil naïf Łódź", "µm²", "tiếng Việt"]
)
def test_letters_of_the_font_of_the_package(text):
    lettering = Lettering()
    assert ink(lettering, text).any()
    lettering.warn_of_missing()  # without a warning
    box = ink(lettering, "\U0010fffe")
    for c in set(text) - {" "}:
        drawn = ink(lettering, c)
        assert drawn.shape != box.shape or (drawn != box).any()


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow joins letters with Raqm only")
@pytest.mark.parametrize("text", ["خلية", "תא"])
def test_right_to_left_scripts_are_written_without_a_warning(text):
    lettering = Lettering()
    assert ink(lettering, text).any()
    lettering.warn_of_missing()


def test_right_to_left_scripts_without_raqm_are_told(monkeypatch):
    monkeypatch.setattr(fonts, "_joins_letters", lambda: False)
    lettering = Lettering()
    lettering.box("תא", 12)
    with pytest.warns(UserWarning, match="install FriBiDi"):
        lettering.warn_of_missing()
    lettering.warn_of_missing()  # once


def test_what_no_font_has_is_said_once_and_drawn_as_a_question_mark():
    lettering = Lettering()
    np.testing.assert_array_equal(ink(lettering, "中"), ink(lettering, "?"))
    with pytest.warns(UserWarning, match=r"No font here has '中' \(U\+4E2D\), drawn as '\?': give a font .* font='"):
        lettering.warn_of_missing()
    lettering.warn_of_missing()
    again = Lettering()
    again.box("中", 12)
    again.warn_of_missing()


def test_a_picture_says_what_its_captions_lack():
    with pytest.warns(UserWarning, match=r"No font here has '文' \(U\+6587\)") as caught:
        draw_detections(
            np.zeros((90, 90, 3), np.uint8), boxes=[[20, 40, 60, 80]], labels=[1], categories={1: "文", 2: "b"}
        )
    assert caught[0].filename == __file__


def test_a_font_of_ones_own_is_asked_first(chinese):
    lettering = Lettering(chinese)
    assert lettering._runs_of("中é文 a") == [
        (chinese, "中"),
        (fonts._OWN_FONT, "é"),
        (chinese, "文 "),
        (fonts._OWN_FONT, "a"),
    ]
    assert (ink(lettering, "中").shape != ink(lettering, "?").shape) or (
        ink(lettering, "中") != ink(lettering, "?")
    ).any()
    lettering.warn_of_missing()


def test_fonts_of_the_computer_are_found(chinese, monkeypatch):
    (chinese.parent / "Broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_font_folders", lambda: [chinese.parent, chinese.parent / "none"])
    clear()
    lettering = Lettering()
    assert lettering._runs_of("a文") == [(fonts._OWN_FONT, "a"), (chinese, "文")]
    lettering.warn_of_missing()


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_each_platform_has_folders_of_fonts(platform, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(fonts.sys, "platform", platform)
    folders = fonts._font_folders()
    assert len(folders) >= 2
    assert all(folder.is_absolute() or platform == "win32" for folder in folders)


def test_text_in_several_fonts_is_as_wide_as_its_parts(chinese):
    lettering = Lettering(chinese)
    left, _, right, _ = lettering.box("中中", 40)
    _, _, one, _ = lettering.box("中a", 40)
    assert right - left > 40
    assert one > 40


def test_a_file_that_is_no_font_is_refused(tmp_path):
    path = tmp_path / "a.ttf"
    path.write_text("no font")
    with pytest.raises(ValueError, match=r"font must be a TrueType or OpenType file, but .*a\.ttf' is none"):
        Lettering(path)


def test_empty_text_takes_no_room():
    assert Lettering().box("", 20) == (0, 0, 0, 0)
    assert plain_text("") == plain_text("\x00\n \u2028") == ""
