"""Parts of images, read by themselves where the format allows it."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from lucid_maskrcnn.images import open_image

RNG = np.random.default_rng(0)
SIZE = (137, 150)
SAMPLES = {
    "gray": RNG.integers(0, 256, SIZE).astype(np.uint8),
    "gray16": RNG.integers(0, 65536, SIZE).astype(np.uint16),
    "int16": RNG.integers(0, 32768, SIZE).astype(np.int16),
    "uint32": RNG.integers(0, 60000, SIZE).astype(np.uint32),
    "float32": RNG.random(SIZE).astype(np.float32),
    "bool": RNG.random(SIZE) > 0.5,
    "color": RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8),
    "color16": RNG.integers(0, 65536, (*SIZE, 3)).astype(np.uint16),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, big endian": {"byteorder": ">"},
    "strips": {"rowsperstrip": 5},
    "tiles": {"tile": (32, 48)},
    "tiles, big endian": {"tile": (16, 16), "byteorder": ">"},
    "deflated strips": {"compression": "zlib", "rowsperstrip": 16},
    "deflated tiles": {"compression": "zlib", "tile": (16, 16)},
    "deflated as a whole": {"compression": "zlib", "rowsperstrip": SIZE[0]},
    "predictor": {"compression": "zlib", "predictor": True, "tile": (16, 16)},
}
REGIONS = [(0, 137, 0, 150), (0, 1, 0, 1), (136, 137, 149, 150), (3, 60, 10, 11), (31, 97, 47, 150), (50, 51, 0, 150)]


def check_regions(path: Any, **read: Any) -> None:
    for intensity in ("full", "max", (1, 99)):
        with open_image(path) as image:
            whole, samples = image.read_rgb(intensity=intensity, **read), image.read(**read)
            regions = image.rgb_regions(intensity=intensity, **read)
            assert regions.size == whole.shape[:2]
            for top, bottom, left, right in REGIONS:
                rows, columns = slice(top, bottom), slice(left, right)
                part = regions.read(rows, columns)
                np.testing.assert_array_equal(part, whole[rows, columns])
                assert part.dtype == np.uint8
                np.testing.assert_array_equal(image.read_region(rows, columns, **read), samples[rows, columns])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_region_has_the_pixels_of_the_whole(tmp_path: Path, kind: str, layout: str) -> None:
    samples = SAMPLES[kind]
    if layout == "predictor" and samples.dtype.kind in "fb":
        pytest.skip("not written without imagecodecs")
    color = samples.ndim == 3
    options = {**LAYOUTS[layout], "photometric": "rgb" if color else "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", samples, **options)
    check_regions(tmp_path / "a.tif")
    if color:
        tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(samples, -1, 0), planarconfig="separate", **options)
        check_regions(tmp_path / "b.tif")
        check_regions(tmp_path / "b.tif", channels=(2, 0, 1))


@pytest.mark.parametrize("kind", SAMPLES)
def test_regions_of_arrays(kind: str) -> None:
    check_regions(SAMPLES[kind])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_regions_of_files_that_are_read_whole(tmp_path: Path, name: str) -> None:
    Image.fromarray(SAMPLES["color"]).save(tmp_path / name)
    check_regions(tmp_path / name)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P", "1", "YCbCr", "I;16", "F"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
@pytest.mark.parametrize("rows_per_strip", [8, SIZE[0]])
def test_regions_of_what_pillow_decodes(tmp_path: Path, mode: str, compression: str, rows_per_strip: int) -> None:
    allowed = {"jpeg": ("L", "RGB", "CMYK", "YCbCr"), "group4": ("1",)}
    if mode not in allowed.get(compression, (mode,)):
        pytest.skip("no such file")
    image = Image.fromarray(SAMPLES["color"]).convert(mode) if mode not in ("I;16", "F") else None
    image = image or Image.fromarray(SAMPLES["gray16" if mode == "I;16" else "float32"])
    image.save(tmp_path / "a.tif", compression=compression, strip_size=rows_per_strip * SIZE[1])
    check_regions(tmp_path / "a.tif")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_regions_of_tiles_in_jpeg_as_slide_scanners_write_them(tmp_path: Path, subsampling: str) -> None:
    smooth = np.asarray(Image.fromarray(SAMPLES["color"][:18, :20]).resize(SIZE[::-1], Image.Resampling.BICUBIC))
    padded = np.pad(smooth, ((0, 160 - SIZE[0]), (0, 160 - SIZE[1]), (0, 0)), mode="edge")
    tiles = [padded[y : y + 32, x : x + 32] for y in range(0, 160, 32) for x in range(0, 160, 32)]
    encoded = []
    for tile in tiles:
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "JPEG", subsampling=subsampling, quality=90)
        encoded.append(file.getvalue())
    _write_jpeg_tiles(tmp_path / "a.tif", smooth.shape, (32, 32), encoded, 1 if subsampling == "4:4:4" else 2)
    check_regions(tmp_path / "a.tif")
    with open_image(tmp_path / "a.tif") as image:
        assert image._reads_regions(0)
        assert np.abs(image.read().astype(int) - smooth).mean() < 8


def _write_jpeg_tiles(path: Path, shape: Any, tile: tuple[int, int], encoded: list[bytes], factor: int) -> None:
    """Write a TIFF file of tiles, which neither Pillow nor tifffile without imagecodecs does."""
    places = np.cumsum([8, *map(len, encoded)])
    short, long = ("H", 3), ("I", 4)
    tags = [
        *((256, long, [shape[1]]), (257, long, [shape[0]]), (258, short, [8, 8, 8]), (259, short, [7])),
        *((262, short, [6]), (277, short, [3]), (322, long, [tile[1]]), (323, long, [tile[0]])),
        *((324, long, places[:-1].tolist()), (325, long, list(map(len, encoded))), (530, short, [factor, factor])),
    ]
    start = int(places[-1]) + int(places[-1]) % 2
    directory, values = struct.pack("<H", len(tags)), b""
    after = start + 2 + 12 * len(tags) + 4
    for code, (kind, number), numbers in tags:
        content = struct.pack(f"<{len(numbers)}{kind}", *numbers)
        where = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", after + len(values))
        values += content if len(content) > 4 else b""
        directory += struct.pack("<HHI", code, number, len(numbers)) + where
    data = b"".join(encoded).ljust(start - 8, b"\0")
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + data + directory + b"\0" * 4 + values)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_of_turned_files(tmp_path: Path, orientation: int) -> None:
    extra = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", np.concatenate([SAMPLES["color"]] * 2), photometric="rgb", extratags=extra)
    check_regions(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{}, {"tile": (16, 32)}, {"imagej": True}, {"ome": True}])
def test_regions_of_pages_and_channels(tmp_path: Path, options: dict[str, Any]) -> None:
    stack = RNG.integers(0, 65536, (3, 2, *SIZE)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata={"axes": "ZCYX"}, **options)
    for page in range(3):
        check_regions(tmp_path / "a.tif", page=page, channels=0)


@pytest.mark.parametrize("alpha", [0, 65535])
def test_whether_a_fourth_channel_is_alpha_is_not_decided_anew_for_each_region(alpha: int) -> None:
    samples = np.full((*SIZE, 4), 65535, np.uint16)
    samples[100:, :, 3] = alpha
    with open_image(samples) as image:
        if alpha:
            assert image.rgb_regions().read(slice(0, 9), slice(0, 9)).shape == (9, 9, 3)
        else:
            with pytest.raises(ValueError, match=r"it has 4 channels|must be of shape"):
                image.rgb_regions()


def test_only_what_is_asked_for_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", SAMPLES["color"], tile=(16, 16), compression="zlib")
    with open_image(tmp_path / "a.tif") as image:
        reads: list[int] = []
        read = image._file.read  # type: ignore[attr-defined]
        counted = type("Counted", (), {"read": lambda _, n: reads.append(n) or read(n), "seek": image._file.seek})()  # type: ignore[attr-defined]
        monkeypatch.setattr(image, "_file", counted)
        image.read_region(slice(20, 40), slice(0, 33))
        monkeypatch.undo()
    assert len(reads) == 6  # tiles, of 90


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SAMPLES["gray"])
    path.write_bytes(path.read_bytes()[:-100])
    with open_image(path) as image, pytest.raises(ValueError, match=r"^Cannot read the image file .*a\.tif.*truncated"):
        image.read_region(slice(0, 1), slice(0, 1))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (3, "rows must be a slice with integers as start and stop, got 3."),
        (slice(0, 138), "rows must be inside the image, from 0 to 137"),
        (slice(-1, 3), "rows must be inside the image, from 0 to 137"),
        (slice(0, 4, 2), "rows must be a slice without a step"),
    ],
)
def test_wrong_regions_are_named(rows: Any, message: str) -> None:
    with open_image(SAMPLES["gray"]) as image, pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
        image.read_region(rows, slice(0, 5))
