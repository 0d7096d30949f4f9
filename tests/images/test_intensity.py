"""More than 8 bits become 8 by a rule."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lucid_maskrcnn.images import load_image, open_image

RNG = np.random.default_rng(0)
GRAY16 = RNG.integers(0, 65536, (23, 31)).astype(np.uint16)
COLOR16 = RNG.integers(0, 65536, (23, 31, 3)).astype(np.uint16)


def by_formula(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(255 * (values.clip(low, high).astype(np.float64) - low) / (high - low) + 0.5).astype(np.uint8)


def write_png(path: Path, samples: np.ndarray, color_type: int) -> Path:
    """Write 16 bits, which Pillow writes in gray only."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples.reshape(height, -1))
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_full_range_of_16_bits_is_that_of_before() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    before = ((every.astype(np.uint32) + 128) // 257).astype(np.uint8)
    np.testing.assert_array_equal(load_image(every)[:, :, 0], before)


@pytest.mark.parametrize(
    ("dtype", "white"),
    [
        *[("uint16", 65535), ("int16", 32767), ("int8", 127), ("int32", 65535), ("int64", 65535), ("uint32", 65535)],
        *[("float16", 1), ("float32", 1), ("float64", 1)],
    ],
)
def test_full_range_of_every_type(dtype: str, white: float) -> None:
    values = (RNG.random((40, 50)) * white).astype(dtype)
    values[0, :2] = 0, white
    out = load_image(values)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out[:, :, 1], by_formula(values, 0, white))
    np.testing.assert_array_equal(load_image(values.astype(values.dtype.newbyteorder(">"))), out)
    np.testing.assert_array_equal(load_image(values[:, ::-1]), out[:, ::-1])


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32", "float64"])
def test_own_maximum_and_percentiles(dtype: str) -> None:
    values = (RNG.random((40, 50, 3)) ** 3 * 3000).astype(dtype)
    np.testing.assert_array_equal(load_image(values, intensity="max"), by_formula(values, 0, float(values.max())))
    low, high = np.percentile(values, (1, 99))
    np.testing.assert_allclose(load_image(values, intensity=(1, 99)), by_formula(values, low, high), atol=1)
    if dtype == "uint16":
        np.testing.assert_array_equal(load_image(values, intensity=(1, 99)), by_formula(values, low, high))


def test_negative_values_are_refused_but_for_percentiles() -> None:
    values = np.array([[-5, 0, 5, 15]], np.int16)
    for rule in (None, "full", "max"):
        with pytest.raises(ValueError, match=r"run from -5 to 15, and black is 0; set percentiles"):
            load_image(values, intensity=rule)
    np.testing.assert_array_equal(load_image(values, intensity=(0, 100))[0, :, 0], [0, 64, 128, 255])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(bad: float) -> None:
    for rule in ("full", "max", (1.0, 99.0)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            load_image(np.array([[0.5, bad]], np.float32), intensity=rule)  # type: ignore[arg-type]


def test_8_bits_and_bools_are_never_scaled() -> None:
    dim = np.array([[0, 3, 20]], np.uint8)
    for rule in (None, "full", "max", (10.0, 90.0)):
        np.testing.assert_array_equal(load_image(dim, intensity=rule)[0, :, 0], dim[0])  # type: ignore[arg-type]
    np.testing.assert_array_equal(load_image(dim > 5)[0, :, 0], [0, 0, 255])


def test_constant_image_is_black_under_percentiles() -> None:
    assert not load_image(np.full((3, 4), 7, np.uint16), intensity=(0.1, 99.9)).any()


def test_12_bits_in_16_give_one_warning_that_says_what_to_set(tmp_path: Path) -> None:
    dim = (GRAY16 % 3501).astype(np.uint16)
    dim[0, 0] = 3500
    tifffile.imwrite(tmp_path / "dim.tif", dim)
    Image.fromarray(dim).save(tmp_path / "dim.png")
    write_png(tmp_path / "color.png", np.dstack([dim] * 3), 2)
    for source in (tmp_path / "dim.tif", tmp_path / "dim.png", tmp_path / "color.png", dim):
        with pytest.warns(
            UserWarning, match=r"largest value is 3500 of 65535, as 12 bits in 16 .*intensity='max'"
        ) as w:
            dark = load_image(source)
        assert len(w) == 1
        assert w[0].filename == __file__
        assert dark.max() == 14
        np.testing.assert_array_equal(load_image(source, intensity="full"), dark)  # asked for: no warning
        np.testing.assert_array_equal(load_image(source, intensity="max")[:, :, 0], by_formula(dim, 0, 3500))


def test_black_image_gives_no_warning() -> None:
    assert not load_image(np.zeros((3, 4), np.uint16)).any()


def test_12_bits_that_the_file_tells_of_are_the_full_range(tmp_path: Path) -> None:
    values = (GRAY16 >> 4).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, extratags=[(281, "H", 1, 4095, True)])  # MaxSampleValue
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_image(tmp_path / "a.tif")[:, :, 0], by_formula(values, 0, 4095))
    color = (COLOR16 >> 4).astype(np.uint16)
    (tmp_path / "a.ppm").write_bytes(b"P6\n31 23\n4095\n" + color.astype(">u2").tobytes())
    np.testing.assert_array_equal(load_image(tmp_path / "a.ppm"), by_formula(color, 0, 4095))


def test_png_of_16_bits_keeps_them_in_color_and_with_alpha(tmp_path: Path) -> None:
    alpha = np.full((23, 31), 65535, np.uint16)
    for name, samples, kind, wanted in [
        ("color.png", COLOR16, 2, COLOR16),
        ("color_alpha.png", np.dstack([COLOR16, alpha]), 6, COLOR16),
        ("gray_alpha.png", np.dstack([GRAY16, alpha]), 4, GRAY16[:, :, None]),
    ]:
        path = write_png(tmp_path / name, samples, kind)
        with open_image(path) as image:
            assert (image.dtype, image.channels) == (np.uint16, wanted.shape[2])
            np.testing.assert_array_equal(image.read(), wanted)
        np.testing.assert_array_equal(load_image(path), np.broadcast_to(by_formula(wanted, 0, 65535), (23, 31, 3)))


@pytest.mark.parametrize("rule", ["auto", (5, 5), (90, 10), (-1, 50), (1, 101), (1, 2, 3), 0.5, True, b"max", {}])
def test_other_rules_are_refused(rule: object) -> None:
    with pytest.raises((TypeError, ValueError), match="intensity must be 'full', 'max' or two percentiles"):
        load_image(GRAY16, intensity=rule)  # type: ignore[arg-type]


def test_channels_are_chosen_from_arrays() -> None:
    many = RNG.integers(0, 256, (9, 8, 29), np.uint8)
    with pytest.raises(ValueError, match="choose one or three of its 29 channels with channels="):
        load_image(many)
    np.testing.assert_array_equal(load_image(many, channels=28)[:, :, 2], many[:, :, 28])
    np.testing.assert_array_equal(load_image(many, channels=(4, 0, 2)), many[:, :, [4, 0, 2]])
    with pytest.raises(ValueError, match=r"channels must be among those .* 29 channels, 0 to 28, got 29"):
        load_image(many, channels=29)
    for wrong in ((0, 1), -1, "0", 1.5, True, ()):
        with pytest.raises((TypeError, ValueError), match="channels must be one or three channels"):
            load_image(many, channels=wrong)  # type: ignore[arg-type]
    four = RNG.integers(1, 60000, (9, 8, 4)).astype(np.uint16)
    with pytest.raises(ValueError, match="4 channels"):
        load_image(four)  # of 16 bits, four are not RGBA, unless the fourth is opaque
    four[:, :, 3] = 65535
    np.testing.assert_array_equal(load_image(four), load_image(four[:, :, :3]))
