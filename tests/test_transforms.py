"""The network's batch of images, and boxes and masks at another size."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lucid import Tensor

import lucid_maskrcnn
from lucid_maskrcnn.config import DETECTRON2, TORCHVISION, Conventions, ImageConfig
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.transforms import (
    check_normalized,
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
    """Normalize in float64, then look up every output pixel on its own."""
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


def test_unscaled_image_is_only_normalized() -> None:
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
        (None, TypeError, r"images must be a tensor, or a list of tensors .* got None"),
        ("a.png", TypeError, "got 'a.png'"),
        ([np.zeros((8, 8, 3), np.uint8)], TypeError, r"images\[0\] must be .* got uint8 of shape \(8, 8, 3\)"),
        (Tensor(np.zeros((20, 30), np.float32)), ValueError, r"images must be .* got shape \(20, 30\)"),
        (Tensor(np.zeros((3, 0, 30), np.float32)), ValueError, r"got shape \(3, 0, 30\)"),
        (
            [Tensor(np.zeros((1, 3, 8, 8), np.float32))],
            ValueError,
            r"images\[0\] must be a normalized .*\(3, H, W\), got",
        ),
        (Tensor(np.zeros((1, 8, 9), np.float32)), ValueError, "of one channel: repeat it three times"),
        (Tensor(np.zeros((2, 1, 8, 9), np.float32)), ValueError, "of one channel: repeat it three times"),
        (Tensor(np.zeros((4, 8, 9), np.float32)), ValueError, "of four channels: leave out alpha"),
        (Tensor(np.zeros((8, 9, 3), np.float32)), ValueError, "channels come last: transpose it"),
        (Tensor(np.zeros((2, 8, 9, 3), np.float32)), ValueError, "channels come last: transpose it"),
        (
            [Tensor(np.zeros((3, 8, 8), np.float32)), Tensor(np.zeros((1, 8, 8), np.float32))],
            ValueError,
            r"images\[1\]",
        ),
        (Tensor(np.zeros((3, 8, 8), np.int32)), TypeError, r"normalized floats, got int32 of shape \(3, 8, 8\)"),
    ],
)
def test_pad_refuses(images: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pad(images, 32)


@pytest.mark.parametrize(
    ("divisor", "error"), [(0, ValueError), (-32, ValueError), ("32", TypeError), (1.5, TypeError)]
)
def test_divisor_must_be_a_positive_integer(divisor: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="divisor must be an integer from 1 to 4096"):
        pad(as_tensor(np.ones((3, 8, 8), np.float32)), divisor)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"images": noise(8, 9)},
            TypeError,
            r"images must be a list of uint8 arrays .* got uint8 of shape \(8, 9, 3\)",
        ),
        ({"images": "a.png"}, TypeError, "images must be a list .* got 'a.png'"),
        ({"images": [noise(8, 9), None]}, TypeError, r"images\[1\] must be a uint8 array \(H, W, 3\), got None"),
        ({"images": [noise(8, 9).astype(np.float32)]}, TypeError, r"images\[0\] .* got float32 of shape"),
        ({"images": [noise(8, 9, 4)]}, ValueError, r"images\[0\] .* got uint8 of shape \(8, 9, 4\)"),
        ({"images": [noise(8, 9)[None]]}, ValueError, r"images\[0\] .* got uint8 of shape \(1, 8, 9, 3\)"),
        ({"images": [noise(0, 9)]}, ValueError, r"images\[0\] .* got uint8 of shape \(0, 9, 3\)"),
        ({"config": None}, TypeError, "config must be an ImageConfig, got None"),
        ({"config": {"min_size": 8}}, TypeError, "config must be an ImageConfig"),
        (
            {"device": "tpu"},
            ValueError,
            "device must be one of 'cpu', 'gpu', 'cuda', 'mps', 'metal', 'auto', got 'tpu'",
        ),
        ({"device": None}, TypeError, "device must be one of"),
    ],
)
def test_prepare_refuses(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prepare(**{"images": [noise(8, 9)], "config": ImageConfig(), "device": "cpu"} | change)


def test_pad_refuses_two_devices() -> None:
    images = [Tensor(np.zeros((3, 8, 8), np.float32)), as_tensor(np.zeros((3, 8, 8), np.float32), "gpu")]
    with pytest.raises(ValueError, match=r"images\[1\] is on gpu, images\[0\] on cpu"):
        pad(images, 32)


# ------------------------------------------------------------------ tensors that are not normalized


def pixels_of_the_demo() -> np.ndarray:
    return load_image(Path(lucid_maskrcnn.__file__).parent / "assets" / "nuclei_histology_lilac.png")


@pytest.mark.parametrize("conventions", [TORCHVISION, DETECTRON2], ids=lambda c: c.name)
def test_pixels_from_0_to_255_give_a_warning(conventions: Conventions, device: str) -> None:
    raw = as_tensor(pixels_of_the_demo().transpose(2, 0, 1).astype(np.float32), device)
    wanted = {"torchvision": r"between -2\.118 and 2\.64;", "detectron2": r"between -123\.7 and 151\.5;"}
    message = (
        f"images has values from 9 to 216, and does not look normalized: .* {wanted[conventions.name]} pass images"
    )
    with pytest.warns(UserWarning, match=message):
        check_normalized(raw, conventions.image)


@pytest.mark.parametrize("darken", [1, 10])
def test_pixels_from_0_to_1_give_a_warning(darken: int, device: str) -> None:
    """As torchvision's models take them."""
    pixels = load_image(Path(lucid_maskrcnn.__file__).parent / "assets" / "nuclei_fluorescence_small.png")
    raw = as_tensor(pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255 * darken), device)
    for conventions in (TORCHVISION, DETECTRON2):
        with pytest.warns(UserWarning, match=r"images\[1\] has values from 0.* to .*, and does not look normalized"):
            check_normalized([raw - 0.3, raw], conventions.image)


@pytest.mark.parametrize("mean_and_std", [None, (0.5, 0.5), (0.0, 1.0), (0.0, 1 / 255)])
@pytest.mark.parametrize("conventions", [TORCHVISION, DETECTRON2], ids=lambda c: c.name)
def test_normalized_images_give_no_warning(
    conventions: Conventions, mean_and_std: tuple[float, float] | None, device: str
) -> None:
    config = conventions.image
    if mean_and_std is not None:
        config = replace(config, pixel_mean=mean_and_std[:1] * 3, pixel_std=mean_and_std[1:] * 3)
    photo = pixels_of_the_demo()
    for pixels in (photo, photo // 8, 255 - photo // 8, np.zeros_like(photo), np.full_like(photo, 255)):
        check_normalized(prepare([pixels], config, device).tensor, config)  # a warning would be an error


def test_noise_and_zeros_are_no_reason_to_warn(device: str) -> None:
    rng = np.random.default_rng(0)
    check_normalized(as_tensor(rng.standard_normal((2, 3, 64, 64)).astype(np.float32), device), ImageConfig())
    check_normalized(as_tensor(np.zeros((3, 8, 8), np.float32), device), ImageConfig())


def test_values_far_from_any_pixel_give_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"images\[0\] has values from -900 to 1"):
        check_normalized(Tensor(np.float32([[[[1, -900]]] * 3])), ImageConfig())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_tensor_that_is_not_finite_is_refused_by_the_images_name(bad: float, device: str) -> None:
    batch = np.zeros((3, 3, 40, 40), np.float32)
    batch[1, 2, 37, 39] = bad
    with pytest.raises(ValueError, match=r"images\[1\] must be finite, got a tensor with NaN or infinity"):
        check_normalized(as_tensor(batch, device), ImageConfig())
    with pytest.raises(ValueError, match=r"^images must be finite"):
        check_normalized(as_tensor(batch[1], device), ImageConfig())
    with pytest.raises(ValueError, match=r"images\[1\] must be finite"):
        check_normalized([as_tensor(image, device) for image in batch], ImageConfig())


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


def test_one_number_is_both_sides_and_may_be_numpys(device: str) -> None:
    boxes, masks = np.float32([[1, 2, 3, 4]]), np.ones((1, 4, 5), bool)
    np.testing.assert_array_equal(resize_boxes(boxes, 10, np.int64(20)), boxes * 2)
    np.testing.assert_array_equal(resize_boxes([[1, 2, 3, 4]], (10, 10), [20, 20]), boxes * 2)
    assert resize_masks(as_tensor(masks, device), np.int32(7)).shape == (1, 7, 7)
    assert resized_size(np.int64(8), ImageConfig(min_size=8)) == (8, 8)


def test_boxes_of_integers_become_float32(device: str) -> None:
    resized = resize_boxes(as_tensor(np.int32([[1, 2, 3, 4]]), device), (10, 10), (5, 20))
    assert host(resized).dtype == np.float32
    np.testing.assert_array_equal(host(resized), [[2, 1, 6, 2]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: resize_boxes(None, (1, 1), (1, 1)), TypeError, r"boxes must be numbers of shape \(G, 4\), got None"),
        (lambda: resize_boxes(np.zeros(4), (1, 1), (1, 1)), ValueError, r"boxes .* got float64 of shape \(4,\)"),
        (lambda: resize_boxes(Tensor(np.zeros((1, 5))), 1, 1), ValueError, r"boxes .* got float64 of shape \(1, 5\)"),
        (lambda: resize_boxes([["1", "2", "3", "4"]], (1, 1), (1, 1)), TypeError, "boxes must be numbers"),
        (
            lambda: resize_boxes([[1, 2, 3, 4]], (0, 1), (1, 1)),
            ValueError,
            r"from_size\[0\] must be a positive integer",
        ),
        (lambda: resize_boxes([[1, 2, 3, 4]], (1, 1), (1, "1")), TypeError, r"to_size\[1\] must be a positive integer"),
        (lambda: resize_boxes([[1, 2, 3, 4]], (1, 1), (1, 1, 3)), ValueError, "to_size must be a sequence of 2 values"),
        (lambda: resize_boxes([[1, 2, 3, 4]], None, (1, 1)), TypeError, "from_size must be a sequence of 2 values"),
        (
            lambda: resize_masks(None, (1, 1)),
            TypeError,
            r"masks must be a tensor or array of shape \(G, H, W\), got None",
        ),
        (lambda: resize_masks(np.zeros((4, 4)), (1, 1)), ValueError, r"masks .* got float64 of shape \(4, 4\)"),
        (lambda: resize_masks(np.zeros((1, 4, 4)), (0, 1)), ValueError, r"to_size\[0\] must be a positive integer"),
        (lambda: resize_masks(np.zeros((1, 4, 4)), 2.5), TypeError, "to_size must be a positive integer, got 2.5"),
        (lambda: resized_size((8, 0), ImageConfig()), ValueError, r"size\[1\] must be a positive integer, got 0"),
        (lambda: resized_size((8, 8), {"min_size": 8}), TypeError, "config must be an ImageConfig"),
        (lambda: resized_size("ab", ImageConfig()), TypeError, "size must be a sequence of 2 values"),
    ],
)
def test_wrong_boxes_masks_and_sizes_are_named(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
