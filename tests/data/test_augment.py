"""Augmentations: boxes and masks move with the pixels."""

import math
import re
from dataclasses import replace
from pathlib import Path

import lucid
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import lucid_maskrcnn
from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.data import Augmentation, compose
from lucid_maskrcnn.data.augment import adjust, blur, crop, flip, noise, resize, rotate, tint
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.rle import encode_rle, parse_rle
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.targets import Target
from lucid_maskrcnn.transforms import resized_size

ASSETS = Path(lucid_maskrcnn.__file__).parent / "assets"


def sample(size=(60, 90), count=6, seed=0):
    """Return an image in which object *i* has the color ``[20 · (i + 1), 0, 255]``, and its target."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: size[0], : size[1]]
    image = np.zeros((*size, 3), np.uint8)
    for i in range(count):
        cy, cx, ry, rx = *rng.uniform(0, size), *rng.uniform(3, 14, 2)
        image[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = (20 * (i + 1), 0, 255)
    masks = CompressedMasks.from_dense(np.stack([colors(image) == i for i in range(count)]))
    masks = masks[masks.areas > 0]
    target = {
        "boxes": masks.boxes,
        "labels": np.arange(len(masks), dtype=np.int32) + 1,
        "masks": masks,
        "iscrowd": np.zeros(len(masks), np.uint8),
        "image_id": 7,
    }
    return image, target


def colors(image):
    """Return the object of each pixel, -1 for none."""
    return np.where(image[..., 2] == 255, image[..., 0].astype(int) // 20 - 1, -1)


def assert_in_place(image, target, original):
    """Assert that each mask covers the pixels of one color, and each box surrounds them."""
    masks, painted = target["masks"].to_dense(), colors(image)
    assert masks.shape[1:] == image.shape[:2]
    before = {int(label): i for i, label in enumerate(original["labels"])}
    old = original["masks"]
    for mask, label in zip(masks, target["labels"].tolist(), strict=True):
        (color,) = np.unique(painted[mask])
        np.testing.assert_array_equal(mask, painted == color)
        assert mask.sum() <= old.areas[before[label]]
    np.testing.assert_array_equal(target["boxes"], target["masks"].boxes)
    assert target["boxes"].dtype == np.float32
    assert len(target["labels"]) == len(target["iscrowd"]) == len(masks)


def assert_same(a, b):
    np.testing.assert_array_equal(a[0], b[0])
    assert a[1].keys() == b[1].keys()
    for key, value in a[1].items():
        other = b[1][key]
        if isinstance(value, CompressedMasks):
            value, other = value.to_dense(), other.to_dense()
        np.testing.assert_array_equal(value, other)


# ------------------------------------------------------------------ geometry


@settings(max_examples=20, deadline=None)
@given(st.booleans(), st.booleans(), st.integers(-4, 7), st.integers(0, 50))
def test_flips_and_rotations_move_pixels_boxes_and_masks(horizontal, vertical, turns, seed):
    image, target = sample(seed=seed)
    turned, moved = rotate(*flip(image, target, horizontal=horizontal, vertical=vertical), turns)
    expected = image[:: -1 if vertical else 1, :: -1 if horizontal else 1]
    np.testing.assert_array_equal(turned, np.rot90(expected, turns))
    assert len(moved["labels"]) == len(target["labels"])
    assert_in_place(turned, moved, target)


def test_boxes_of_fractional_pixels_move_exactly():
    image, target = sample((60, 90))
    target["boxes"] = np.float32([[1.5, 2.25, 10.75, 20]] * len(target["labels"]))
    assert flip(image, target, horizontal=True)[1]["boxes"][0].tolist() == [79.25, 2.25, 88.5, 20]
    assert flip(image, target, vertical=True)[1]["boxes"][0].tolist() == [1.5, 40, 10.75, 57.75]
    assert rotate(image, target, 1)[1]["boxes"][0].tolist() == [2.25, 79.25, 20, 88.5]
    assert rotate(image, target, 3)[1]["boxes"][0].tolist() == [40, 1.5, 57.75, 10.75]


@settings(max_examples=40, deadline=None)
@given(st.integers(-30, 70), st.integers(-40, 100), st.integers(1, 80), st.integers(1, 110), st.integers(0, 50))
def test_crops_cut_pixels_and_masks_alike(top, left, height, width, seed):
    image, target = sample(seed=seed)
    part, moved = crop(image, target, top, left, height, width)
    assert part.shape == (height, width, 3)
    wide = np.full((300, 400, 3), (124, 116, 104), np.uint8)
    wide[100:160, 150:240] = image
    np.testing.assert_array_equal(part, wide[100 + top : 100 + top + height, 150 + left : 150 + left + width])
    assert_in_place(part, moved, target)
    visible = target["masks"].cropped(top, left, height, width).areas
    kept = (visible >= 4) & (visible >= 0.1 * target["masks"].areas)
    kept |= (visible > 0) & (visible == target["masks"].areas)
    assert moved["labels"].tolist() == target["labels"][kept].tolist()
    assert moved["image_id"] == 7


def test_boxes_that_a_crop_does_not_cut_are_only_moved():
    image, target = sample((60, 90))
    mask = np.zeros((2, 60, 90), bool)
    mask[0, 10:20, 10:20] = mask[1, 30:45, 5:25] = True
    target |= {
        "masks": CompressedMasks.from_dense(mask),
        "boxes": np.float32([[9.5, 9.5, 20.5, 20.5], [4.5, 29.5, 25.5, 45.5]]),
        "labels": np.int32([1, 2]),
        "iscrowd": np.zeros(2, np.uint8),
        "scores": np.float32([0.5, 0.25]),
    }
    _, moved = crop(image, target, 5, 8, 50, 60)
    assert moved["boxes"].tolist() == [[1.5, 4.5, 12.5, 15.5], [0, 25, 17, 40]]
    _, moved = crop(image, target, 5, 8, 50, 60, min_visible=0.9)
    assert moved["labels"].tolist() == [1]
    assert moved["scores"].tolist() == [0.5]  # whatever there is one of for each object
    _, moved = crop(image, target, 0, 14, 60, 90, min_side=7)
    assert moved["labels"].tolist() == [2]
    _, moved = crop(image, target, 0, 0, 60, 90, min_side=50, min_pixels=1000, min_visible=1)
    assert moved["labels"].tolist() == [1, 2]


def tiny_objects():
    """Return an image whose objects have 1, 2, 3, 4 and 6 pixels, far from its edges."""
    image, _ = sample((60, 90))
    mask = np.zeros((5, 60, 90), bool)
    for i, (height, width) in enumerate([(1, 1), (1, 2), (3, 1), (2, 2), (2, 3)]):
        mask[i, 28 : 28 + height, 40 + 5 * i : 40 + 5 * i + width] = True
    masks = CompressedMasks.from_dense(mask)
    return image, {"boxes": masks.boxes, "labels": np.arange(1, 6, dtype=np.int32), "masks": masks}


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation.photographs(zoom=(0.5, 1.25)),
        Augmentation.microscopy(zoom=(0.5, 1.3)),
        Augmentation.microscopy(zoom=0.3),
        Augmentation(crop=(120, 160), image=ImageConfig(scale=2.0)),
    ],
)
def test_tiny_objects_that_no_crop_touches_are_trained_on(augment):
    image, target = tiny_objects()
    for seed in range(10):
        varied, moved = augment(image, target, np.random.default_rng(seed))
        assert moved["labels"].tolist() == target["labels"].tolist()
        assert len(varied)
        assert (moved["masks"].areas >= target["masks"].areas).all()
        assert (moved["boxes"][:, 2:] > moved["boxes"][:, :2]).all()


def test_slivers_that_a_crop_leaves_of_objects_are_dropped():
    image, target = tiny_objects()
    large = np.zeros((1, 60, 90), bool)
    large[0, 10:30, 10:30] = True
    masks = CompressedMasks.from_dense(np.concatenate([target["masks"].to_dense(), large]))
    target |= {"masks": masks, "boxes": masks.boxes, "labels": np.arange(1, 7, dtype=np.int32)}
    _, moved = crop(image, target, 0, 29, 60, 60, min_side=3, min_visible=0.02)  # one column of the large one is left
    assert moved["labels"].tolist() == [1, 2, 3, 4, 5]
    _, moved = crop(image, target, 0, 41, 60, 49, min_visible=0.02)  # the first object lies to its left
    assert moved["labels"].tolist() == [2, 3, 4, 5]


def test_resizing_keeps_masks_on_their_pixels():
    image, target = sample((60, 90))
    larger, moved = resize(image, target, (150, 180))
    assert larger.shape == (150, 180, 3)
    np.testing.assert_array_equal(moved["boxes"], target["boxes"] * np.float32([2, 2.5, 2, 2.5]))
    covered = moved["masks"].to_dense().any(0)
    assert ((larger[..., 2] > 128) == covered).mean() > 0.97
    assert resize(image, target, (60, 90)) == (image, target)


# ------------------------------------------------------------------ all together


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation(),
        Augmentation(horizontal_flip=1, vertical_flip=1, quarter_turns=True),
        Augmentation(zoom=(0.5, 2), quarter_turns=True, min_visible=0),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_pixels_and_masks_stay_together(augment, seed):
    image, target = sample(seed=seed)
    before = image.copy()
    varied, moved = augment(image, target, np.random.default_rng(seed))
    assert_in_place(varied, moved, target)
    np.testing.assert_array_equal(image, before)
    assert varied.dtype == np.uint8
    assert varied.flags.c_contiguous


@pytest.mark.parametrize("preset", [Augmentation.photographs, Augmentation.microscopy])
def test_the_same_seed_gives_the_same_sample(preset):
    augment = preset(blur=1, noise=5)
    first, second, other = (augment(*sample(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert_same(first, second)
    assert first[0].shape != other[0].shape or (first[0] != other[0]).any()
    assert repr(augment) == repr(preset(blur=1, noise=5))
    assert augment == preset(blur=1, noise=5)


@pytest.mark.parametrize("crop_size", [64, (48, 80)])
@pytest.mark.parametrize("size", [(60, 90), (200, 160), (33, 20)])
def test_crop_of_fixed_size_has_the_scale_of_a_prediction(crop_size, size):
    settings_ = ImageConfig(min_size=120, max_size=200)
    augment = Augmentation.microscopy(crop=crop_size, zoom=(1, 1), image=settings_)
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    image, target = sample(size)
    scale = min(120 / min(size), 200 / max(size))
    for seed in range(6):
        varied, moved = augment(image, target, np.random.default_rng(seed))
        assert varied.shape == (height, width, 3)
        assert moved["masks"].image_size == (height, width)
        if len(moved["labels"]):
            new = dict(zip(moved["labels"].tolist(), moved["masks"].areas.tolist(), strict=True))
            old = dict(zip(target["labels"].tolist(), target["masks"].areas.tolist(), strict=True))
            assert all(area <= 1.4 * scale**2 * old[label] + 20 for label, area in new.items())
    assert augment.crop_size == (height, width)
    assert augment.network == {"min_size": min(height, width), "max_size": max(height, width), "scale": None}
    of_training = replace(ImageConfig(scale=3.0), **augment.network)
    assert resized_size((height, width), of_training) == (height, width)
    assert Augmentation().network == {}


def test_zoom_enlarges_by_the_factor():
    image, target = sample((100, 100))
    for zoom, side in ((2.0, 50), (0.5, 200)):
        varied, _ = Augmentation(zoom=(zoom, zoom))(image, target, np.random.default_rng(0))
        assert varied.shape == (side, side, 3)


def test_masks_may_have_any_form():
    image, target = sample()
    augment = Augmentation.microscopy()
    expected = augment(image, target, np.random.default_rng(3))
    dense = target["masks"].to_dense()
    for masks in (dense, dense.tolist(), [encode_rle(mask) for mask in dense]):
        assert_same(augment(image, target | {"masks": masks}, np.random.default_rng(3)), expected)


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation.photographs(),
        Augmentation.microscopy(),
        Augmentation(zoom=(0.05, 20), quarter_turns=True),
        Augmentation(crop=24, zoom=(0.05, 3), min_visible=0),
    ],
)
def test_augmented_objects_are_targets_that_a_step_takes(augment):
    image, tiny = tiny_objects()
    for seed in range(100):
        pair = (image, tiny) if seed % 2 else sample(count=12, seed=seed)
        varied, moved = augment(*pair, np.random.default_rng(seed))
        size = varied.shape[:2]
        assert len(Target.from_mapping(moved, index=0, image_size=size, num_classes=12)) == len(moved["labels"])


def test_image_without_objects():
    image, _ = sample()
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int32), "masks": []}
    for augment in (Augmentation.photographs(), Augmentation.microscopy(crop=40)):
        varied, moved = augment(image, empty, np.random.default_rng(0))
        assert moved["boxes"].shape == (0, 4)
        assert moved["labels"].shape == (0,)
        assert moved["masks"].to_dense().shape == (0, *varied.shape[:2])


def test_compose_applies_augmentations_in_a_row():
    image, target = sample()
    left = Augmentation(horizontal_flip=1)
    both = compose(left, left)(image, target, np.random.default_rng(0))
    assert_same(both, (image, target))
    assert repr(compose(left)) == repr(compose(left))


@pytest.mark.parametrize("name", ["nuclei_fluorescence_small.png", "nuclei_histology_lilac.png"])
def test_objects_of_a_real_image_stay_on_their_pixels(name):
    image = load_image(ASSETS / name)
    grey = image.mean(2)
    odd = np.abs(grey - np.median(grey))
    mask = odd > np.percentile(odd, 90)
    target = {
        "boxes": CompressedMasks.from_dense(mask[None]).boxes,
        "labels": np.int32([1]),
        "masks": CompressedMasks.from_dense(mask[None]),
    }
    turned = Augmentation.microscopy(crop=160, min_visible=0, exposure=0, gamma=0, channels=0)
    for seed in range(5):
        varied, moved = turned(image, target, np.random.default_rng(seed))
        inside = moved["masks"].to_dense().any(0)
        difference = np.abs(varied.mean(2) - np.median(grey))
        assert difference[inside].mean() > 3 * difference[~inside].mean()


# ------------------------------------------------------------------ colors


def test_tint_adjust_blur_and_noise():
    image = np.tile(np.uint8([50, 100, 200]), (4, 5, 1))
    assert tint(image, np.ones(3), 1.0).tolist() == image.tolist()
    assert tint(image, np.array([2, 1, 2]), 1.0)[0, 0].tolist() == [100, 100, 255]
    assert tint(image, np.ones(3), 2.0)[0, 0].tolist() == [10, 39, 157]
    assert adjust(image, 1, 1, 1).tolist() == image.tolist()
    assert adjust(image, 0.5, 1, 1)[0, 0].tolist() == [25, 50, 100]
    assert np.ptp(adjust(image, 1, 1, 0)[0, 0]) == 0
    assert np.ptp(adjust(sample()[0], 1, 0, 1)) == 0
    assert blur(image, 2).tolist() == image.tolist()
    assert blur(sample()[0], 2).std() < sample()[0].std()
    grey = np.full((100, 100, 3), 128, np.uint8)
    assert abs(noise(grey, 10, np.random.default_rng(0)).std() - 10) < 0.3


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"horizontal_flip": 2}, ValueError, "horizontal_flip must be a number between 0 and 1, got 2."),
        ({"horizontal_flip": "0.5"}, TypeError, "horizontal_flip must be a number between 0 and 1, got '0.5'."),
        ({"vertical_flip": True}, TypeError, "vertical_flip must be a number between 0 and 1, got True."),
        ({"quarter_turns": 1}, TypeError, "quarter_turns must be True or False, got 1."),
        ({"noise": -1}, ValueError, "noise must be a number of at least 0, got -1."),
        ({"blur": None}, TypeError, "blur must be a number of at least 0, got None."),
        ({"zoom": (2, 1)}, ValueError, "zoom must be a range (smallest, largest), got (2, 1)."),
        ({"zoom": 1e308}, ValueError, "zoom must be between 0.01 and 100, got 1e+308."),
        ({"blur": 10**30}, ValueError, "blur must be at most 1000, got 1000000000000000000000000000000."),
        ({"exposure": 11}, ValueError, "exposure must be at most 10, got 11."),
        ({"zoom": 0}, ValueError, "zoom must be a number above 0, got 0."),
        ({"zoom": (1, 2, 3)}, ValueError, "zoom must be a sequence of 2 values, got 3: (1, 2, 3)."),
        ({"crop": 0}, ValueError, "crop must be an integer from 1 to 32768, got 0."),
        ({"crop": (1, 2, 3)}, ValueError, "crop must be a sequence of 2 values, got 3: (1, 2, 3)."),
        ({"crop": "64"}, TypeError, "crop must be a sequence of 2 values, got '64'."),
        ({"crop": (64, 32.5)}, TypeError, "crop[1] must be an integer from 1 to 32768, got 32.5."),
        ({"image": {"min_size": 3}}, TypeError, "image must be an ImageConfig, got {'min_size': 3}."),
        ({"min_visible": math.nan}, ValueError, "min_visible must be a number between 0 and 1, got nan."),
        ({"horizontal_flips": 1}, TypeError, "has no argument 'horizontal_flips'; did you mean 'horizontal_flip'?"),
    ],
)
@pytest.mark.parametrize("make", [Augmentation.photographs, Augmentation.microscopy])
def test_settings_of_an_augmentation_are_checked(make, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(**options)


def test_ready_made_augmentation_suits_the_images_of_a_model():
    fixed = ImageConfig(scale=2.5)
    assert Augmentation.suited_to(ImageConfig()) == Augmentation.photographs()
    assert Augmentation.suited_to(ImageConfig(), fine_tuning=True) == Augmentation.photographs()
    assert Augmentation.suited_to(fixed) == Augmentation.microscopy()
    gentle = Augmentation.suited_to(fixed, fine_tuning=True, noise=3)
    assert gentle == Augmentation.microscopy(zoom=(0.9, 1.1), exposure=0.1, gamma=0.05, channels=0.02, noise=3)
    assert Augmentation.suited_to(fixed, crop=64) == Augmentation.microscopy(crop=64, image=fixed)
    with pytest.raises(TypeError, match=r"^image must be an ImageConfig, such as model\.config\.image, got 2\.5"):
        Augmentation.suited_to(2.5)


def test_one_number_is_both():
    assert Augmentation(zoom=2) == Augmentation(zoom=[2, 2])
    assert Augmentation(crop=np.int64(64)).crop_size == Augmentation(crop=(64, 64)).crop_size == (64, 64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": None}, ValueError, "target has no 'masks': it has ['boxes', 'labels', 'iscrowd', 'image_id']."),
        ({"boxes": np.zeros((3, 5))}, ValueError, "target['boxes'] must be numbers of shape (G, 4), got float64 of"),
        ({"boxes": [[1, 2], [1]]}, ValueError, "target['boxes'] must be an array, got rows of different lengths."),
        (
            {"boxes": np.full((3, 4), np.nan)},
            ValueError,
            "target['boxes'] must be finite, got array([nan, nan, nan, nan]).",
        ),
        ({"labels": ["a"]}, TypeError, "target['labels'] must be integers, got <U1."),
        ({"labels": [1]}, ValueError, "target must have one label and one mask for each box, got "),
    ],
)
@pytest.mark.parametrize(
    "augment",
    [
        lambda image, target: Augmentation()(image, target, np.random.default_rng(0)),
        lambda image, target: flip(image, target, horizontal=True),
        lambda image, target: rotate(image, target, 1),
        lambda image, target: crop(image, target, 0, 0, 5, 5),
        lambda image, target: resize(image, target, (30, 30)),
    ],
    ids=["Augmentation", "flip", "rotate", "crop", "resize"],
)
def test_targets_are_checked(augment, change, error, message):
    image, target = sample()
    target = {key: value for key, value in (target | change).items() if value is not None}
    with pytest.raises(error, match=re.escape(message)):
        augment(image, target)
    with pytest.raises(TypeError, match="target must be a mapping with 'boxes', 'labels' and 'masks', got None"):
        augment(image, None)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("no.png", FileNotFoundError, "There is no image file 'no.png'."),
        (None, TypeError, "An image must be a path, a PIL image or a"),
        (np.full((4, 5, 3), 9.0), ValueError, "float64 of shape (4, 5, 3): its floats run from 9 to 9"),
        (Image.fromarray(np.full((4, 5), 9, np.float32)), ValueError, "beyond the range of floats, 0 to 1"),
        (np.zeros((3, 4, 5), np.uint8), ValueError, "got uint8 of shape (3, 4, 5); transpose it"),
        (
            np.zeros((0, 5, 3), np.uint8),
            ValueError,
            "image must have at least one pixel, got an array of shape (0, 5, 3).",
        ),
        (
            lucid.zeros((3, 4, 5)),
            TypeError,
            "to be augmented, an array, a PIL image or a path, got a tensor of float64",
        ),
    ],
)
@pytest.mark.parametrize(
    "change",
    [
        lambda image: Augmentation()(image, sample()[1], np.random.default_rng(0)),
        lambda image: tint(image, [1, 1, 1], 1),
        lambda image: adjust(image, 1, 1, 1),
        lambda image: blur(image, 1),
        lambda image: noise(image, 1, np.random.default_rng(0)),
    ],
    ids=["Augmentation", "tint", "adjust", "blur", "noise"],
)
def test_images_are_checked(change, image, error, message):
    with pytest.raises(error, match=re.escape(message)):
        change(image)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda i, t: Augmentation()(i, t, 0),
            TypeError,
            "rng must be a NumPy generator such as np.random.default_rng",
        ),
        (lambda i, t: rotate(i, t, 0.5), TypeError, "turns must be an integer, got 0.5."),
        (lambda i, t: crop(i, t, 0, 0, 0, 5), ValueError, "height must be an integer from 1 to 32768, got 0."),
        (lambda i, t: crop(i, t, "0", 0, 5, 5), TypeError, "top must be an integer from -32768 to 32768, got '0'."),
        (lambda i, t: resize(i, t, (0, 5)), ValueError, "size[0] must be an integer from 1 to 32768, got 0."),
        (lambda i, t: flip(i, t, horizontal="yes"), TypeError, "horizontal must be True or False, got 'yes'."),
        (lambda i, t: tint(i, [1, 2], 1), ValueError, "gain must be a sequence of 3 values, got 2: [1, 2]."),
        (lambda i, t: blur(i, -1), ValueError, "sigma must be a number of at least 0, got -1."),
        (lambda i, t: noise(i, 1, None), TypeError, "rng must be a NumPy generator"),
        (
            lambda i, t: compose(Augmentation),
            TypeError,
            "augmentations[0] must be called as augment(image, target, rng)",
        ),
        (lambda i, t: compose("flip"), TypeError, "got 'flip'."),
    ],
)
def test_arguments_are_checked(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(*sample())


def test_labels_in_a_list_lose_dropped_objects_too():
    image, target = sample()
    _, expected = crop(image, target, 0, 0, 30, 40)
    _, moved = crop(image, target | {"labels": target["labels"].tolist()}, 0, 0, 30, 40)
    assert 0 < len(moved["labels"]) < len(target["labels"])
    assert moved["labels"].tolist() == expected["labels"].tolist()


AUGMENT = Augmentation.microscopy(crop=(24, 30), zoom=(0.8, 2), vertical_flip=0.3)


@pytest.mark.parametrize(
    "kind", ["path", "str", "pil", "pil grey", "rgba", "pil rgba", "palette", "grey", "one channel"]
)
def test_augmentation_takes_images_of_any_kind_that_training_takes(tmp_path, kind):
    image, target = sample(seed=4)
    grey = image[..., 0]
    Image.fromarray(image).save(tmp_path / "image.png")
    rgba = np.concatenate([image, np.full((60, 90, 1), 9, np.uint8)], axis=2)
    given, same_as = {
        "path": (tmp_path / "image.png", image),
        "str": (str(tmp_path / "image.png"), image),
        "pil": (Image.fromarray(image), image),
        "pil grey": (Image.fromarray(grey), grey[..., None].repeat(3, 2)),
        "rgba": (rgba, image),
        "pil rgba": (Image.fromarray(rgba), image),
        "palette": (
            Image.fromarray(image).quantize(16),
            np.asarray(Image.fromarray(image).quantize(16).convert("RGB")),
        ),
        "grey": (grey, grey[..., None].repeat(3, 2)),
        "one channel": (grey[..., None], grey[..., None].repeat(3, 2)),
    }[kind]
    for seed in range(4):
        expected = AUGMENT(same_as, target, np.random.default_rng(seed))
        assert_same(AUGMENT(given, target, np.random.default_rng(seed)), expected)
    for change in (
        lambda pixels: tint(pixels, [1.2, 1, 0.9], 1.1),
        lambda pixels: adjust(pixels, 1.2, 0.8, 1.1),
        lambda pixels: blur(pixels, 1.5),
        lambda pixels: noise(pixels, 3, np.random.default_rng(0)),
        lambda pixels: crop(pixels, target, 3, 4, 20, 30)[0],
    ):
        np.testing.assert_array_equal(change(given), change(same_as))


def test_16_bits_are_scaled_and_do_not_wrap():
    image, target = sample()
    wide = Image.fromarray(np.uint16(image[..., 0]) * 257)
    varied, _ = flip(wide, target, horizontal=True)
    np.testing.assert_array_equal(varied, image[:, ::-1, :1].repeat(3, 2))


def dense(target):
    return target["masks"].to_dense()


@pytest.mark.parametrize(
    "given",
    [
        lambda t: {"boxes": t["boxes"].tolist(), "labels": t["labels"].tolist(), "masks": dense(t).tolist()},
        lambda t: {"boxes": tuple(map(tuple, t["boxes"].tolist())), "labels": tuple(t["labels"].tolist())},
        lambda t: {"boxes": t["boxes"].astype(int), "labels": t["labels"].astype(np.uint8)},
        lambda t: {"boxes": list(t["boxes"]), "labels": list(t["labels"]), "masks": list(dense(t))},
        lambda t: {"masks": dense(t).astype(np.float32)},
        lambda t: {"masks": [encode_rle(m) for m in dense(t)]},
        lambda t: {
            "masks": tuple({"size": [60, 90], "counts": parse_rle(encode_rle(m))[0].tolist()} for m in dense(t))
        },
    ],
    ids=["lists", "tuples", "integers", "rows", "float masks", "encodings", "counts"],
)
def test_targets_of_any_form_are_augmented_alike(given):
    image, target = sample(seed=2)
    for seed in range(6):
        expected = AUGMENT(image, target, np.random.default_rng(seed))
        _, moved = AUGMENT(image, target | given(target), np.random.default_rng(seed))
        for key in ("boxes", "labels"):
            np.testing.assert_array_equal(moved[key], expected[1][key])
        np.testing.assert_array_equal(dense(moved), dense(expected[1]))


def test_targets_of_tensors_are_augmented_alike(device):
    image, target = sample(seed=2)
    tensors = {
        "boxes": as_tensor(target["boxes"], device),
        "labels": as_tensor(target["labels"], device),
        "masks": as_tensor(dense(target), device),
        "scores": as_tensor(target["labels"].astype(np.float32), device),
    }
    expected = crop(image, target, 0, 0, 40, 60)[1]
    _, moved = crop(image, target | tensors, 0, 0, 40, 60)
    assert 0 < len(expected["labels"]) < len(target["labels"])
    np.testing.assert_array_equal(moved["boxes"], expected["boxes"])
    np.testing.assert_array_equal(moved["labels"], expected["labels"])
    np.testing.assert_array_equal(dense(moved), dense(expected))
    assert moved["scores"].device == device
    np.testing.assert_array_equal(host(moved["scores"]), expected["labels"])


def test_polygons_are_augmented_as_the_masks_that_they_draw():
    image = np.zeros((60, 90, 3), np.uint8)
    polygons = [[[5, 5, 40, 8, 30, 50]], [[60, 10, 85, 10, 70, 30], [62, 40, 80, 40, 70, 55]]]
    masks = CompressedMasks.from_coco(polygons, (60, 90))
    target = {"boxes": masks.boxes, "labels": [1, 2], "masks": polygons}
    for seed in range(6):
        expected = AUGMENT(image, target | {"masks": masks}, np.random.default_rng(seed))
        assert_same(AUGMENT(image, target, np.random.default_rng(seed)), expected)


def test_rows_of_dropped_objects_go_whatever_holds_them():
    image, target = sample(seed=2)
    num = len(target["labels"])
    extra = {
        "names": [f"object {i}" for i in target["labels"]],
        "ids": tuple(target["labels"].tolist()),
        "area": target["masks"].areas,
        "points": np.zeros((num, 3, 2)),
    }
    of_image = {
        "image_id": num,
        "file_name": "a" * num,
        "size": list(range(num)),
        "note": "x" * num,
        "more": {1: 2},
        "no": None,
    }
    _, moved = crop(image, target | extra | of_image, 0, 0, 40, 60)
    kept = moved["labels"].tolist()
    assert 0 < len(kept) < num
    assert moved["names"] == [f"object {i}" for i in kept]
    assert moved["ids"] == tuple(kept)
    assert moved["points"].shape == (len(kept), 3, 2)
    assert len(moved["area"]) == len(kept)
    assert {key: moved[key] for key in of_image} == of_image


def test_a_composed_crop_has_its_size():
    assert compose(Augmentation(noise=1), Augmentation(crop=32)).crop_size == (32, 32)
    assert compose(Augmentation(crop=32), Augmentation(zoom=2)).crop_size is None
