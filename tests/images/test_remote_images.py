"""Images at URLs are read as files are."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from remote_places import web_server

from lucid_maskrcnn.images import load_image, open_image


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a folder for temporary files, in which nothing may be left."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()
    assert os.listdir(tmp_path / "temporary") == []


def put(name: str, data: bytes) -> str:
    fsspec.filesystem("memory").pipe_file(f"/{name}", data)
    return f"memory://{name}"


def encoded(pixels: np.ndarray, format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(encoded(PIXELS, "PNG"))
    with web_server(tmp_path) as address:
        for url in (put("a.png", encoded(PIXELS, "PNG")), f"{address}/a%20b.png", f"{address}/a%20b.png?version=2"):
            np.testing.assert_array_equal(load_image(url), PIXELS)
    np.testing.assert_array_equal(load_image((tmp_path / "a b.png").as_uri()), PIXELS)


def test_regions_and_pages_of_a_tiff_at_a_url() -> None:
    file, pages = io.BytesIO(), np.random.default_rng(0).integers(0, 9999, (3, 64, 48), np.uint16)
    tifffile.imwrite(file, pages, photometric="minisblack", tile=(16, 16))
    with open_image(put("a.tif", file.getvalue())) as image:
        assert (image.pages, image.shape, image.dtype) == (3, (64, 48), np.uint16)
        region = image.read_region(slice(10, 30), slice(5, 40), page=1)
    np.testing.assert_array_equal(region[:, :, 0], pages[1, 10:30, 5:40])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is not an image, but an empty file"),
        (b"<!doctype html><html>", "it is not an image, but a web page: download the image itself"),
        (b"%PDF-1.7", "it is a PDF document, which is not read: save its pages as PNG"),
        (b"no image", "it is not an image"),
        (encoded(PIXELS, "PNG")[:300], "image file is truncated"),
    ],
    ids=["empty", "page", "pdf", "text", "cut off"],
)
def test_what_is_no_image_is_named(data: bytes, reason: str) -> None:
    url = put("a.png", data)
    with pytest.raises(ValueError, match=rf"^Cannot read the image file '{url}': {reason}"):
        load_image(url)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("memory://gone.png", FileNotFoundError, r"^There is no image file 'memory://gone\.png'\.$"),
        ("http://127.0.0.1:9/a.png", ValueError, r"^Cannot read the image file 'http://127\.0\.0\.1:9/a\.png': .*\.$"),
        ("nosuch://a.png", ValueError, r"^image must be a path or a URL of a protocol that fsspec knows, got 'nosuch:"),
        ("dropbox://a.png", ImportError, r"^image 'dropbox://a\.png' needs the package of dropbox: .*\.$"),
        ("file://elsewhere/a.png", ValueError, r"^image must be on this machine if it begins with file://, got 'file"),
        ("memory://", ValueError, r"^Cannot read the image file 'memory://': "),
        (
            Path("s3://bucket/a.png"),
            ValueError,
            r"^image must be a path, got 's3:/bucket/a\.png'",
        ),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(url: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_image(url)


def test_without_fsspec_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(
        ImportError, match=r"^image 's3://b/a\.png' needs fsspec: pip install 'lucid-maskrcnn\[storage\]"
    ):
        load_image("s3://b/a.png")


def test_answer_of_a_web_server_that_is_no_file(tmp_path: Path) -> None:
    with web_server(tmp_path) as address:
        with pytest.raises(FileNotFoundError, match=rf"^There is no image file '{address}/gone\.png'\.$"):
            load_image(f"{address}/gone.png")
        with pytest.raises(ValueError, match="it is not an image, but a web page"):
            load_image(f"{address}/")
