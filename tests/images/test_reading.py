"""Reading images: files, PIL images and arrays to RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lucid import Tensor
from PIL import Image

from lucid_maskrcnn.images import load_checked, load_image, size_on_disk


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_png_comes_back_as_it_went(tmp_path: Path) -> None:
    pixels = noise(5, 7)
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    for source in (path, str(path), Image.open(path), pixels):
        image = load_image(source)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "RGBa", "LAB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    rgb = Image.fromarray(noise(6, 9))
    steps = {"RGBa": ["RGBA"], "PA": ["P"]}.get(mode, [])
    if mode == "LAB":
        image = Image.new("LAB", (9, 6), (128, 128, 128))
    else:
        image = rgb
        for step in (*steps, mode):
            image = image.convert(step)
    out = load_image(image)
    assert out.shape == (6, 9, 3)
    assert out.dtype == np.uint8


def test_grey_is_repeated_and_alpha_dropped(tmp_path: Path) -> None:
    grey = noise(4, 5, 1)
    expected = grey.repeat(3, 2)
    np.testing.assert_array_equal(load_image(grey), expected)
    np.testing.assert_array_equal(load_image(grey[:, :, 0]), expected)
    np.testing.assert_array_equal(load_image(Image.fromarray(grey[:, :, 0])), expected)
    rgba = noise(4, 5, 4)
    np.testing.assert_array_equal(load_image(rgba), rgba[:, :, :3])
    path = save(Image.fromarray(rgba), tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(path), rgba[:, :, :3])


def test_palette_with_transparency_does_not_warn(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 8)).quantize(16)
    path = save(image, tmp_path / "a.png", transparency=bytes(range(16)))
    np.testing.assert_array_equal(load_image(path), np.asarray(image.convert("RGB")))


def test_two_tone_is_black_and_white(tmp_path: Path) -> None:
    mask = noise(8, 8)[:, :, 0] > 127
    path = save(Image.fromarray(mask), tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(path)[:, :, 1], mask * np.uint8(255))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grey_is_scaled_by_its_full_range(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 128, 129, 257, 4095, 65535]], np.uint16)
    path = save(Image.fromarray(values), tmp_path / name)
    np.testing.assert_array_equal(load_image(path)[0, :, 0], [0, 0, 1, 1, 16, 255])


def test_16_bit_grey_with_transparency_is_read(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.full((2, 2), 65535, np.uint16)), tmp_path / "a.png", transparency=0)
    assert (load_image(path) == 255).all()


def test_file_with_several_pages_is_refused_unless_one_is_chosen(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (4, 3), c) for c in ("red", "blue"))
    path = save(first, tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(ValueError, match=r"a\.tif': it has 2 pages; choose one with page=0 to page=1, or page='all'"):
        load_image(path)
    assert (load_image(path, page=0) == (255, 0, 0)).all()
    assert (load_image(path, page=1) == (0, 0, 255)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = noise(4, 6)
    # How the camera stored what is upright, for each value of the tag.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(path), upright)
    with Image.open(path) as image:
        np.testing.assert_array_equal(load_image(image), upright)


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no image file .*nothing\.png"):
        load_image(tmp_path / "nothing.png")


def broken_files(folder: Path) -> dict[str, Path]:
    whole = save(Image.fromarray(noise(60, 60)), folder / "whole.png").read_bytes()
    photo = save(Image.fromarray(noise(60, 60)), folder / "whole.jpg").read_bytes()
    contents = {
        "empty.png": b"",
        "text.jpg": b"not an image at all",
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": photo[: len(photo) // 2],
        "header.png": whole[:20],
        "flipped.png": whole[:60] + b"\0" * 400 + whole[460:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents} | {"folder": folder}


@pytest.mark.parametrize("name", ["empty.png", "text.jpg", "cut.png", "cut.jpg", "header.png", "flipped.png", "folder"])
def test_broken_file_is_named_in_one_sentence(tmp_path: Path, name: str) -> None:
    path = broken_files(tmp_path)[name]
    with pytest.raises(ValueError, match=path.name) as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("1", (100, 100)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb\.png.*10000 pixels.*MAX_IMAGE_PIXELS"):
        load_image(path)


def test_floats_beyond_1_and_integers_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.ones((3, 3), np.float32)), tmp_path / "float.tif")
    assert (load_image(path) == 255).all()
    path = save(Image.fromarray(np.full((3, 3), 1.5, np.float32)), tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif.*floats run from 1.5 to 1.5, beyond the range of floats, 0 to 1"):
        load_image(path)
    path = save(Image.fromarray(np.full((3, 3), 70000, np.int32)), tmp_path / "int.tif")
    with pytest.raises(ValueError, match=r"int\.tif.*70000.*beyond 16 bits"):
        load_image(path)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (
            np.zeros((4, 4, 3), np.complex64),
            TypeError,
            r"bools, integers or floats, got complex64 of shape \(4, 4, 3\)",
        ),
        (np.zeros((4, 4), object), TypeError, "got object"),
        (np.zeros((4, 4, 5), np.uint16), ValueError, "choose one or three of its 5 channels with channels="),
        (np.zeros((3, 8, 9), np.uint8), ValueError, r"got uint8 of shape \(3, 8, 9\)"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"\(4, 4, 2\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), ValueError, r"\(1, 4, 4, 3\)"),
        (np.zeros(5, np.uint8), ValueError, r"\(5,\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"at least one pixel, got an array of shape \(0, 4, 3\)"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_image(array)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Image.new("RGB", (0, 5)), ValueError, "at least one pixel"),
        (7, TypeError, "a path, a PIL image or an array .*, got 7"),
        (None, TypeError, "got None"),
        (b"a.png", TypeError, "got b'a.png'"),
        ([[0, 255]], TypeError, r"got \[\[0, 255\]\]"),
        (Tensor(np.zeros((3, 4, 5), np.float32)), TypeError, r"got float32 of shape \(3, 4, 5\)"),
        ("", ValueError, "image must"),
        (
            Path("https://example.org/a.png"),
            ValueError,
            "got 'https:/example.org/a.png', a URL that lacks",
        ),
    ],
)
def test_other_sources_are_refused(source: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_image(source)  # type: ignore[arg-type]


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (3, False), (6, True), (8, True)])
def test_size_on_disk_is_that_of_the_image_as_it_is_read(tmp_path: Path, orientation: int, turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(noise(4, 6)), tmp_path / "a.jpg", exif=exif)
    assert size_on_disk(path) == (load_image(path).shape[:2], turned)


def test_image_of_another_size_than_said_is_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(noise(4, 6)), tmp_path / "a.png")
    assert load_checked(path, (4, 6), "the annotations say").shape == (4, 6, 3)
    with pytest.raises(ValueError, match=r"a\.png' has 4 × 6 pixels \(height × width\), but the annotations say 5 × 6"):
        load_checked(path, (5, 6), "the annotations say")


def test_exif_orientation_is_named_as_a_reason(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(Image.fromarray(noise(4, 6)), tmp_path / "a.jpg", exif=exif)
    with pytest.raises(ValueError, match="EXIF orientation rotates it"):
        load_checked(path, (4, 6), "the annotations say")


@pytest.mark.parametrize("name", ["empty.png", "text.jpg", "header.png", "folder", "nothing.png"])
def test_size_of_a_broken_file_names_it(tmp_path: Path, name: str) -> None:
    path = broken_files(tmp_path).get(name, tmp_path / name)
    with pytest.raises(ValueError, match="Cannot read the image file") as caught:
        size_on_disk(path)
    assert path.name in str(caught.value)
