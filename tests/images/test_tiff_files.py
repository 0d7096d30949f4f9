"""TIFF files of every layout, written by tifffile and Pillow, without imagecodecs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from lucid_maskrcnn.images import load_image, open_image, size_on_disk

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (37, 50)).astype(np.uint8)
COLOR = RNG.integers(0, 256, (37, 50, 3)).astype(np.uint8)
STACK = RNG.integers(0, 256, (5, 37, 50)).astype(np.uint8)
SAMPLES = {
    "gray": GRAY,
    "gray16": RNG.integers(0, 65536, (37, 50)).astype(np.uint16),
    "int16": RNG.integers(0, 32768, (37, 50)).astype(np.int16),
    "uint32": RNG.integers(0, 65536, (37, 50)).astype(np.uint32),
    "float16": RNG.random((37, 50)).astype(np.float16),
    "float32": RNG.random((37, 50)).astype(np.float32),
    "float64": RNG.random((37, 50)),
    "bool": GRAY > 127,
    "color": COLOR,
    "color16": RNG.integers(0, 65536, (37, 50, 3)).astype(np.uint16),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 5},
    "tiles": {"tile": (16, 16)},
    "bigtiff": {"bigtiff": True},
    "big endian": {"byteorder": ">"},
    "deflate": {"compression": "zlib"},
    "predictor": {"compression": "zlib", "predictor": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_every_layout_and_type_is_read_as_the_array_is(tmp_path: Path, kind: str, layout: str) -> None:
    samples, options = SAMPLES[kind], LAYOUTS[layout]
    if layout == "predictor" and samples.dtype.kind in "fb":
        pytest.skip("not written without imagecodecs")
    photometric = "rgb" if samples.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric=photometric, **options)
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif"), load_image(samples))
    with open_image(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(image.read().squeeze(), samples)
        assert (image.shape, image.pages, image.channels) == ((37, 50), 1, 3 if samples.ndim == 3 else 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P", "1", "YCbCr", "I;16", "F"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4", None])
def test_what_pillow_writes_is_read_as_pillow_reads_it(tmp_path: Path, mode: str, compression: str | None) -> None:
    allowed = {"jpeg": ("L", "RGB", "CMYK", "YCbCr"), "group4": ("1",)}
    if compression in allowed and mode not in allowed[compression]:
        pytest.skip("no such file")
    special = {"I;16": SAMPLES["gray16"], "F": SAMPLES["float32"]}
    image = Image.fromarray(special[mode]) if mode in special else Image.fromarray(COLOR).convert(mode)
    image.save(tmp_path / "a.tif", compression=compression)
    with Image.open(tmp_path / "a.tif") as again:
        wanted = load_image(np.asarray(again) if mode in special else np.asarray(again.convert("RGB")))
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif"), wanted)
    assert size_on_disk(tmp_path / "a.tif") == ((37, 50), False)


def test_planes_and_inverted_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(load_image(path), COLOR)
    for samples in (GRAY, SAMPLES["gray16"]):
        tifffile.imwrite(path, np.iinfo(samples.dtype).max - samples, photometric="miniswhite")
        np.testing.assert_array_equal(load_image(path), load_image(samples))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOR, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    with Image.open(path) as image:
        wanted = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(load_image(path), wanted)
    assert size_on_disk(path) == (wanted.shape[:2], orientation >= 5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metadata": None},
        {"imagej": True, "metadata": {"axes": "TYX"}},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "TYX"}},
        {"compression": "zlib"},
    ],
)
def test_stack_is_refused_unless_a_page_is_chosen(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", **options)
    for read in (load_image, size_on_disk):
        with pytest.raises(ValueError, match="it has 5 pages; choose one with page=0 to page=4"):
            read(path)
    for page in range(5):
        np.testing.assert_array_equal(load_image(path, page=page)[:, :, 1], STACK[page])
    with pytest.raises(ValueError, match=r"page must be from 0 to 4 .* got 5"):
        load_image(path, page=5)


def test_channels_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    hyperstack = RNG.integers(0, 256, (3, 2, 4, 37, 50)).astype(np.uint8)
    tifffile.imwrite(path, hyperstack, imagej=True, metadata={"axes": "TZCYX"})
    with open_image(path) as image:
        assert (image.pages, image.channels) == (6, 4)
    with pytest.raises(ValueError, match="choose one or three of its 4 channels with channels="):
        load_image(path, page=3)
    np.testing.assert_array_equal(load_image(path, page=3, channels=2)[:, :, 0], hyperstack[1, 1, 2])
    wanted = hyperstack[1, 1][[2, 0, 1]].transpose(1, 2, 0)
    np.testing.assert_array_equal(load_image(path, page=3, channels=(2, 0, 1)), wanted)
    for options in (
        {"metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}},
        {"planarconfig": "separate"},
    ):
        tifffile.imwrite(path, STACK, photometric="minisblack", **options)
        with pytest.raises(ValueError, match="choose one or three of its 5 channels"):
            load_image(path)
        np.testing.assert_array_equal(load_image(path, channels=4)[:, :, 0], STACK[4])


def test_pyramids_and_thumbnails_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(COLOR, photometric="rgb", subifds=1, metadata=None)
        writer.write(COLOR[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
        writer.write(COLOR[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(load_image(path), COLOR)


def test_pages_of_different_sizes_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = [GRAY, GRAY[:9, :7], 255 - GRAY]
    with tifffile.TiffWriter(path) as writer:
        for page in pages:
            writer.write(page, metadata=None)
    for i, page in enumerate(pages):
        np.testing.assert_array_equal(load_image(path, page=i)[:, :, 0], page)


def test_pixel_size_of_ome_and_imagej(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(tmp_path / "ome.tif", GRAY, ome=True, metadata=sizes)
    tifffile.imwrite(tmp_path / "ij.tif", GRAY, imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    tifffile.imwrite(tmp_path / "dpi.tif", GRAY, resolution=(72, 72), resolutionunit=2)
    for name, wanted in (("ome.tif", (0.5, 0.25)), ("ij.tif", (0.5, 0.25)), ("dpi.tif", None)):
        with open_image(tmp_path / name) as image:
            assert image.pixel_size == (wanted if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 4}])
def test_truncated_file_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SAMPLES["gray16"], **options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match=r"Cannot read the image file '.*a\.tif': ") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_what_needs_imagecodecs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(COLOR).save(path, compression="tiff_lzw")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(50001)  # WebP, which the bytes are not
    with pytest.raises(ValueError, match=r"Cannot read the image file"):
        load_image(path)
    tifffile.imwrite(path, SAMPLES["color16"], photometric="rgb")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(5)
    with pytest.raises(ValueError, match=r"LZW of 3 × 16 bits, needs the package imagecodecs: install .*\[tiff\]"):
        load_image(path)


def test_large_tiff_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GRAY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match=r"1850 pixels.* exceeds limit of 1000 pixels; .*MAX_IMAGE_PIXELS"):
        load_image(path)
