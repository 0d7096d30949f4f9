"""Parts of images, read by themselves where the format allows it."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "lzw.tif"])
def test_regions_of_files_that_are_read_whole(tmp_path: Path, name: str) -> None:
    Image.fromarray(SAMPLES["color"]).save(tmp_path / name, **({"compression": "tiff_lzw"} if "tif" in name else {}))
    check_regions(tmp_path / name)


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
