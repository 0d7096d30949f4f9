"""Reading pictures, the network's batch, and the way back."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lucid import Tensor
from PIL import Image

from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.transforms import (
    pad,
    prepare,
    resize_boxes,
    resize_masks,
    resized_size,
)

RECORDED = np.load(Path(__file__).parent / "data" / "torchvision" / "ops.npz")
RULE = json.loads(str(RECORDED["meta"]))["transform"]
RECORDED_SETTINGS = ImageConfig(min_size=RULE["min_size"], max_size=RULE["max_size"])


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


# ------------------------------------------------------------------ against torchvision


@pytest.mark.parity
def test_batch_is_torchvisions(device: str) -> None:
    images = [RECORDED["tf_image0"], RECORDED["tf_image1"]]
    batch = prepare(images, RECORDED_SETTINGS, device)
    assert batch.tensor.device == device
    assert batch.sizes == [tuple(s) for s in RECORDED["tf_sizes"].tolist()]
    assert batch.original_sizes == [(97, 131), (61, 210)]
    np.testing.assert_allclose(host(batch.tensor), RECORDED["tf_batch"], rtol=0, atol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize("i", [0, 1])
def test_boxes_and_masks_are_torchvisions(i: int, device: str) -> None:
    boxes, masks = RECORDED[f"tf_boxes{i}"], RECORDED[f"tf_masks{i}"]
    from_size, to_size = masks.shape[1:], tuple(RECORDED["tf_sizes"][i].tolist())
    expected = RECORDED[f"tf_out_boxes{i}"]
    np.testing.assert_allclose(resize_boxes(boxes, from_size, to_size), expected, rtol=0, atol=1e-5)
    on_device = resize_boxes(as_tensor(boxes, device), from_size, to_size)
    assert on_device.device == device
    np.testing.assert_allclose(host(on_device), expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(resize_masks(masks, to_size), RECORDED[f"tf_out_masks{i}"])
    on_device = resize_masks(as_tensor(masks.astype(bool), device), to_size)
    assert on_device.device == device
    np.testing.assert_array_equal(host(on_device), RECORDED[f"tf_out_masks{i}"].astype(bool))


@pytest.mark.parity
def test_resized_sizes_and_boxes_resized_back_are_torchvisions() -> None:
    sizes = [resized_size((h, w), ImageConfig()) for h, w in RECORDED["tf_many_in"].tolist()]
    assert sizes == [tuple(s) for s in RECORDED["tf_many_out"].tolist()]
    boxes = resize_boxes(RECORDED["resize_boxes_in"], (256, 341), (240, 320))
    np.testing.assert_allclose(boxes, RECORDED["resize_boxes_out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("antialias", [False, True])
def test_a_scale_holds_for_every_size_up_to_the_longest_side(antialias: bool) -> None:
    settings = ImageConfig(scale=2.5, max_size=1000, antialias=antialias)
    assert resized_size((200, 300), settings) == (500, 750)
    assert resized_size((30, 20), settings) == (75, 50)
    assert resized_size((200, 500), settings) == (400, 1000)
    assert resized_size((1, 3), replace(settings, scale=0.1)) == (1, 1)


@pytest.mark.parametrize("wrong", [{"min_size": 0}, {"max_size": -1}, {"scale": 0.0}, {"scale": float("inf")}])
def test_sizes_out_of_range_are_refused(wrong: dict) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be"):
        ImageConfig(**wrong)


# ------------------------------------------------------------------ prepare, by hand


def slow_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Normalise in float64, then look up every output pixel on its own."""
    settings = ImageConfig()
    pixels = (image / 255.0 - settings.pixel_mean) / settings.pixel_std
    out = np.empty((*size, 3))
    for index in np.ndindex(size):
        cells = []
        for i, n_in, n_out in zip(index, image.shape[:2], size, strict=True):
            step = float(np.float32(n_in) / np.float32(n_out))
            source = max(float(np.float32((i + 0.5) * step - 0.5)), 0.0)
            cell = min(int(source), n_in - 1)
            cells.append((cell, min(cell + 1, n_in - 1), source - cell))
        (y0, y1, fy), (x0, x1, fx) = cells
        top = pixels[y0, x0] * (1 - fx) + pixels[y0, x1] * fx
        bottom = pixels[y1, x0] * (1 - fx) + pixels[y1, x1] * fx
        out[index] = top * (1 - fy) + bottom * fy
    return out


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    min_size=st.integers(1, 40),
    extra=st.integers(0, 30),
)
def test_prepare_is_a_slow_loop(height: int, width: int, min_size: int, extra: int) -> None:
    image = noise(height, width)
    rule = ImageConfig(min_size=min_size, max_size=min_size + extra)
    batch = prepare([image], rule)
    (h, w) = batch.sizes[0]
    assert batch.tensor.shape == (1, 3, -(-h // 32) * 32, -(-w // 32) * 32)
    pixels = host(batch.tensor)[0].transpose(1, 2, 0)
    np.testing.assert_allclose(pixels[:h, :w], slow_bilinear(image, (h, w)), rtol=0, atol=3e-6)
    assert not pixels[h:].any()
    assert not pixels[:, w:].any()


def test_unscaled_image_is_only_normalised() -> None:
    image = noise(64, 96)
    batch = prepare([image], ImageConfig(min_size=64, max_size=96))
    expected = (image / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(host(batch.tensor)[0].transpose(1, 2, 0), expected, rtol=0, atol=1e-6)


def test_batch_of_several_sizes_is_the_images_one_by_one() -> None:
    rule = ImageConfig(min_size=50, max_size=90)
    images = [noise(40, 60), noise(70, 30), noise(50, 50)[::2, ::-1]]
    batch = prepare(images, rule)
    for i, image in enumerate(images):
        alone = prepare([image], rule)
        h, w = batch.sizes[i]
        assert alone.sizes == [(h, w)]
        np.testing.assert_array_equal(host(batch.tensor)[i, :, :h, :w], host(alone.tensor)[0, :, :h, :w])


def test_batch_is_channels_last_float32() -> None:
    data = prepare([noise(30, 40)], ImageConfig(min_size=30, max_size=60)).tensor.data
    assert data.dtype == np.float32
    assert data.transpose(0, 2, 3, 1).flags.c_contiguous


def test_no_images_make_an_empty_batch() -> None:
    batch = prepare([], ImageConfig())
    assert batch.tensor.shape == (0, 3, 32, 32)
    assert batch.sizes == batch.original_sizes == []


def test_very_long_image_keeps_one_pixel() -> None:
    assert resized_size((1, 5000), ImageConfig()) == (1, 1333)


def test_photo_is_never_held_in_float32_at_its_own_size() -> None:
    image = np.zeros((2000, 3000, 3), np.uint8)
    tracemalloc.start()
    prepare([image], ImageConfig())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 800 * 1216 * 3 * 4 + image.nbytes // 4


# ------------------------------------------------------------------ pad


def test_tensor_that_fits_is_passed_on_as_it_is() -> None:
    images = as_tensor(np.ones((2, 3, 32, 64), np.float32))
    batch = pad(images, 32)
    assert batch.tensor is images
    assert batch.sizes == batch.original_sizes == [(32, 64), (32, 64)]


def test_tensors_are_padded_at_the_right_and_below(device: str) -> None:
    images = [np.ones((3, 20, 40), np.float32), np.full((3, 33, 10), 2, np.float64)]
    batch = pad([as_tensor(i, device) for i in images], 32)
    assert batch.tensor.shape == (2, 3, 64, 64)
    assert batch.tensor.device == device
    assert batch.sizes == [(20, 40), (33, 10)]
    out = host(batch.tensor)
    assert out.dtype == np.float32
    assert out.sum() == images[0].sum() + images[1].sum()
    assert (out[0, :, :20, :40] == 1).all()
    assert (out[1, :, :33, :10] == 2).all()


@pytest.mark.parametrize("shape", [(3, 20, 30), (1, 3, 20, 30), (4, 3, 20, 30), (0, 3, 20, 30)])
def test_one_tensor_is_a_batch(shape: tuple[int, ...]) -> None:
    batch = pad(as_tensor(np.ones(shape, np.float32)), 16)
    count = shape[0] if len(shape) == 4 else 1
    assert batch.tensor.shape == (count, 3, 32, 32)
    assert batch.sizes == [(20, 30)] * count


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "at least one"),
        (np.zeros((20, 30), np.float32), ValueError, r"images must be .* got shape \(20, 30\)"),
        (np.zeros((3, 0, 30), np.float32), ValueError, r"got shape \(3, 0, 30\)"),
        (
            [np.zeros((1, 3, 8, 8), np.float32)],
            ValueError,
            r"images\[0\] must be a tensor of shape \(3, H, W\)",
        ),
        ([np.zeros((3, 8, 8), np.float32), np.zeros((1, 8, 8), np.float32)], ValueError, r"images\[1\]"),
        (np.zeros((3, 8, 8), np.int32), TypeError, "normalised floats, got int32"),
    ],
)
def test_pad_refuses(images: object, error: type[Exception], message: str) -> None:
    tensors = [Tensor(i) for i in images] if isinstance(images, list) else Tensor(images)
    with pytest.raises(error, match=message):
        pad(tensors, 32)


def test_pad_refuses_two_devices() -> None:
    images = [Tensor(np.zeros((3, 8, 8), np.float32)), Tensor(mx.zeros((3, 8, 8)))]
    with pytest.raises(ValueError, match=r"images\[1\] is on gpu, images\[0\] on cpu"):
        pad(images, 32)


# ------------------------------------------------------------------ boxes and masks


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 3000)] * 4),
    box=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_boxes_return_from_where_they_went(sizes: tuple[int, int, int, int], box: list[float]) -> None:
    size, other = sizes[:2], sizes[2:]
    boxes = np.array([box], np.float32) * np.float32([size[1], size[0], size[1], size[0]])
    there = resize_boxes(boxes, size, other)
    assert there.dtype == np.float32
    np.testing.assert_allclose(resize_boxes(there, other, size), boxes, rtol=1e-6, atol=1e-6)


def test_no_boxes_and_no_masks(device: str) -> None:
    assert resize_boxes(np.zeros((0, 4), np.float32), (10, 20), (5, 5)).shape == (0, 4)
    assert resize_boxes(as_tensor(np.zeros((0, 4), np.float32), device), (10, 20), (5, 5)).shape == (0, 4)
    assert resize_masks(np.zeros((0, 10, 20), bool), (5, 6)).shape == (0, 5, 6)
    assert resize_masks(as_tensor(np.zeros((0, 10, 20), bool), device), (5, 6)).shape == (0, 5, 6)


def test_masks_at_their_own_size_are_unchanged_and_doubled_ones_repeat() -> None:
    masks = noise(9, 7)[None, :, :, 0] > 127
    np.testing.assert_array_equal(resize_masks(masks, (9, 7)), masks)
    np.testing.assert_array_equal(resize_masks(masks, (18, 14)), masks.repeat(2, 1).repeat(2, 2))


# ------------------------------------------------------------------ load_image


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


def test_first_frame_is_read(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (4, 3), c) for c in ("red", "blue"))
    path = save(first, tmp_path / "a.tif", save_all=True, append_images=[second])
    assert (load_image(path) == (255, 0, 0)).all()


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


def test_float_tiff_and_32_bit_integers_are_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.ones((3, 3), np.float32)), tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif.*floats of unknown range"):
        load_image(path)
    path = save(Image.fromarray(np.full((3, 3), 70000, np.int32)), tmp_path / "int.tif")
    with pytest.raises(ValueError, match=r"int\.tif.*70000.*beyond 16 bits"):
        load_image(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"must be uint8 .* got float32 of shape \(4, 4, 3\)"),
        (np.zeros((4, 4), bool), "got bool"),
        (np.zeros((3, 8, 9), np.uint8), r"got uint8 of shape \(3, 8, 9\)"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
        (np.zeros(5, np.uint8), r"\(5,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"at least one pixel, got an array of shape \(0, 4, 3\)"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image(array)


def test_empty_pil_image_and_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        load_image(Image.new("RGB", (0, 5)))
    with pytest.raises(TypeError, match="got int"):
        load_image(7)  # type: ignore[arg-type]
