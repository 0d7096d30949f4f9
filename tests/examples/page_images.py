"""Small image files of every kind that a browser is given."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_bytes(pixels: np.ndarray, *, interlaced: bool = False, size: tuple[int, int] | None = None) -> bytes:
    """Return RGB pixels of 8 bits as a PNG, whose header may name another (width, height)."""
    height, width = pixels.shape[:2]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    parts = [pixels[y::dy, x::dx] for x, y, dx, dy in passes]
    lines = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", *(size or (width, height)), 8, 2, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def write_readable(folder: Path) -> list[Path]:
    """Write images that a browser reads, of one frame, and return their paths."""
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (21, 34, 4), np.uint8)
    deep = rng.integers(0, 1 << 16, (21, 34, 4), np.uint16)
    rgba = Image.fromarray(color)
    image, gray = rgba.convert("RGB"), rgba.convert("L")
    image.save(folder / "color.png")
    rgba.save(folder / "alpha.png")
    gray.save(folder / "gray.png")
    rgba.convert("LA").save(folder / "gray_alpha.png")
    gray.convert("1").save(folder / "bits.png")
    image.quantize(13).save(folder / "palette4.png", bits=4)
    image.quantize(200).save(folder / "palette.png", transparency=3)
    (folder / "interlaced.png").write_bytes(png_bytes(color[..., :3], interlaced=True))
    cv2.imwrite(str(folder / "deep.png"), deep[..., :3])
    cv2.imwrite(str(folder / "deep_alpha.png"), deep)
    cv2.imwrite(str(folder / "deep_gray.png"), deep[..., 0])
    cv2.imwrite(str(folder / "dark_gray.png"), deep[..., 0] >> 5)
    image.save(folder / "color.bmp")
    image.save(folder / "color.webp", lossless=True)
    image.quantize(100).save(folder / "one_frame.gif")
    smooth = Image.fromarray(cv2.GaussianBlur(color[..., :3], (9, 9), 0))
    smooth.convert("L").save(folder / "gray.jpg", quality=95)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        smooth.save(folder / f"turned_{orientation}.jpg", quality=95, exif=exif)
    image.save(folder / "turned.webp", lossless=True, exif=exif)
    image.save(folder / "turned.png", exif=exif)
    return sorted(folder.iterdir())


def write_animations(folder: Path) -> list[Path]:
    """Write images with three frames, and return their paths."""
    rng = np.random.default_rng(1)
    frames = [Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)) for _ in range(3)]
    for suffix, options in ((".gif", {}), (".png", {}), (".webp", {"lossless": True})):
        frames[0].save(folder / f"animated{suffix}", save_all=True, append_images=frames[1:], **options)
    return sorted(folder.iterdir())


def write_unreadable(folder: Path) -> dict[Path, str]:
    """Write files that are refused, and return their paths with what the page says of them."""
    rng = np.random.default_rng(2)
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    for suffix in ("png", "jpg", "gif", "webp", "bmp", "tif"):
        image.save(folder / f"whole.{suffix}")
    whole = {path.suffix[1:]: path.read_bytes() for path in folder.iterdir()}
    damaged = bytearray(whole["png"])
    damaged[len(damaged) // 2] ^= 255
    contents = {
        "empty.png": (b"", "it is an empty file."),
        "text.png": (b"not an image at all", "it is not an image, or of a kind that browsers do not read"),
        "page.png": (b"<!DOCTYPE html><html></html>", "it is not an image, but a web page"),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "it is an SVG drawing"),
        "deep.tif": (whole["tif"], "it is a TIFF file, which browsers do not read: save it as PNG"),
        "paper.pdf": (b"%PDF-1.7 " + bytes(99), "it is a PDF document"),
        "cut.png": (whole["png"][:3000], "it is truncated."),
        "damaged.png": (bytes(damaged), "its part IDAT is damaged."),
        "cut.jpg": (whole["jpg"][:1500], "it is truncated."),
        "cut.gif": (whole["gif"][:900], "it is truncated."),
        "cut.webp": (whole["webp"][:900], "it is truncated."),
        "cut.bmp": (whole["bmp"][:900], "it is damaged."),
        "header.png": (whole["png"][:20], "its header is missing."),
        "huge.png": (png_bytes(np.zeros((1, 1, 3), np.uint8), size=(60000, 50000)), "it has 60000 × 50000 pixels"),
        "huge.gif": (whole["gif"][:6] + struct.pack("<HH", 60000, 50000) + whole["gif"][10:], "3000 million"),
    }
    for path in list(folder.iterdir()):
        path.unlink()
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    with open(folder / "many_bytes.png", "wb") as file:
        file.truncate(101_000_000)
    said = {folder / name: sentence for name, (_, sentence) in contents.items()}
    return {**said, folder / "many_bytes.png": "it has 101 MB, and this page takes 100 MB."}
