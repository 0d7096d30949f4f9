"""Which files are read, and what is said of the others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.images import load_image, size_on_disk

READERS = [load_image, size_on_disk]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "a PostScript file, .*save it as PNG"),
        (b"\xc5\xd0\xd3\xc6" + bytes(40), "a PostScript file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image, .*pillow-heif"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "an AVIF image, .*save it as PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"%PDF-1.7\n", "a PDF document, .*pages as PNG"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\x93NUMPY\1\0v\0", "a NumPy array, .*np.load"),
        (bytes(128) + b"DICM", "a DICOM file, .*pydicom"),
        (b"ZISRAWFILE" + bytes(90), "a Zeiss CZI file, .*OME-TIFF"),
        (b"\xda\xce\xbe\x0a" + bytes(90), "a Nikon ND2 file"),
        (b"II*\0\x10\0\0\0CR\x02\0", r"a camera's raw file \(CR2\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page: download"),
        (b"", "an empty file"),
    ],
)
def test_content_that_is_no_image_is_told_under_any_name(tmp_path: Path, read, content: bytes, message: str) -> None:
    for name in ("a.png", "a.tif", "a.jpg"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"Cannot read the image file '.*{name}': .*{message}") as caught:
            read(path)
        assert str(caught.value).count("\n") == 0


def test_png_under_another_name_is_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.eps")
    np.testing.assert_array_equal(load_image(tmp_path / "a.eps"), pixels)


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_pipe_device_and_socket_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    code = (
        "import sys\nfrom lucid_maskrcnn.images import load_image, size_on_disk\n"
        "for read in (load_image, size_on_disk):\n"
        "    for path in sys.argv[1:]:\n"
        "        try: read(path)\n"
        "        except ValueError as error: print(error)\n"
    )
    with socket.socket(socket.AF_UNIX) as one:
        monkeypatch.chdir(tmp_path)  # the paths of sockets are short
        one.bind("socket.png")
        paths = ["pipe.png", "/dev/zero", "socket.png"]
        done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 6
    for line, kind in zip(said, ["a pipe (FIFO)", "a device", "a socket"] * 2, strict=True):
        assert f"it is {kind}, and images are read from regular files." in line


def test_animation_is_refused_and_a_frame_is_a_choice(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), color) for color in ("red", "lime", "blue")]
    for name in ("a.gif", "a.png", "a.webp"):
        path = tmp_path / name
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        for read in READERS:
            with pytest.raises(ValueError, match=r"it has 3 pages; choose one with page=0 to page=2"):
                read(path)
        np.testing.assert_array_equal(load_image(path, page=1)[0, 0], [0, 255, 0])
        with pytest.raises(ValueError, match=r"page must be from 0 to 2 .*, got 3"):
            load_image(path, page=3)


def test_phones_jpeg_with_a_preview_is_its_first_picture(tmp_path: Path) -> None:
    first, preview = (Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    assert load_image(tmp_path / "a.jpg")[0, 0, 0] > 250
    assert size_on_disk(tmp_path / "a.jpg") == ((16, 16), False)
