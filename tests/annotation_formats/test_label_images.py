"""Label images: read from each kind of file, and made of masks."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odd_masks import dense_masks, odd_detections
from PIL import Image

from lucid_maskrcnn.annotation_formats.label_images import labels_of_masks, read_label_image, read_label_image_size
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.masks import CompressedMasks

LABELS = np.array([[0, 1, 1], [300, 300, 2]])


def write(labels, path):
    if path.suffix == ".npy":
        np.save(path, labels)
    else:
        Image.fromarray(labels).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.png", np.uint16),
        ("a.tif", np.uint16),
        ("a.TIFF", np.int32),
        ("a.npy", np.int64),
        ("a.npy", np.uint8),
        ("a.png", np.uint8),
    ],
)
def test_every_kind_of_file_gives_the_numbers(tmp_path, name, dtype):
    labels = LABELS.astype(dtype)
    path = write(labels, tmp_path / name)
    for source in (path, str(path)):
        np.testing.assert_array_equal(read_label_image(source), labels)
        assert read_label_image_size(source) == (2, 3)


def test_palette_gives_its_indices(tmp_path):
    image = Image.fromarray(LABELS.astype(np.uint8)).convert("P")
    image.putdata([0, 1, 1, 3, 3, 2])
    image.save(tmp_path / "a.png")
    assert read_label_image(tmp_path / "a.png").tolist() == [[0, 1, 1], [3, 3, 2]]


@pytest.mark.parametrize(
    ("labels", "name", "message"),
    [
        (np.zeros((2, 3, 3), np.uint8), "a.png", r"a.png' is in color \(mode RGB\), but one channel is wanted"),
        (np.zeros((2, 3), bool), "a.png", "is black and white only"),
        (np.zeros((2, 3), np.float32), "a.tif", "numbers of type float32"),
        (np.zeros((2, 3, 1), int), "a.npy", r"has shape \(2, 3, 1\)"),
        (np.zeros((0, 3), int), "a.npy", r"has shape \(0, 3\)"),
        (-np.ones((2, 3), int), "a.npy", "negative numbers, -1"),
        (np.array([[object()]]), "a.npy", "Cannot read the label image"),
    ],
)
def test_what_is_no_label_image_is_refused(tmp_path, labels, name, message):
    path = write(labels, tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        read_label_image(path)
    assert str(path) in str(caught.value)


def test_missing_and_broken_files_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    for name in ("a.png", "b.tif", "c.npy"):
        for read in (read_label_image, read_label_image_size):
            with pytest.raises(ValueError, match=rf"Cannot read the label image .*{name}"):
                read(tmp_path / name)


def test_array_with_more_axes_has_no_size(tmp_path):
    assert read_label_image_size(write(np.zeros((2, 3, 1), int), tmp_path / "a.npy")) is None


# ------------------------------------------------------------------ made of masks


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint16, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.integers(0, 5)))
def test_labels_come_back_numbered_from_one(labels):
    numbers, again = np.unique(np.append(labels, 0), return_inverse=True)
    found = labels_of_masks(CompressedMasks.from_labels(labels))
    assert found.dtype == np.uint16
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, again[:-1].reshape(labels.shape))
    assert found.max(initial=0) == len(numbers) - 1


def test_first_mask_lies_on_top():
    masks = np.array([[[0, 1, 1, 0]], [[1, 1, 0, 0]]], bool)
    assert labels_of_masks(CompressedMasks.from_dense(masks)).tolist() == [[2, 1, 1, 0]]


def test_more_than_65535_instances_need_32_bits():
    masks = CompressedMasks.from_labels(np.arange(1, 2**16 + 1).reshape(256, 256))
    found = labels_of_masks(masks)
    assert (found.dtype, found[-1, -1]) == (np.uint32, 2**16)


def test_no_masks_give_background():
    assert labels_of_masks(CompressedMasks.from_coco([], (2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("read", [read_label_image, read_label_image_size])
@pytest.mark.parametrize(("path", "error"), [(None, TypeError), (7, TypeError), ("", ValueError)])
def test_path_must_be_a_path(read, path, error):
    with pytest.raises(error, match="path must"):
        read(path)


@pytest.mark.parametrize("masks", [None, np.ones((1, 2, 3), bool), "a.png"])
def test_label_images_are_made_of_compressed_masks_only(masks):
    with pytest.raises(TypeError, match="masks must be CompressedMasks"):
        labels_of_masks(masks)


# ------------------------------------------------------------------ written


def overlapping():
    masks = np.zeros((3, 6, 8), bool)
    masks[0, :4, :4], masks[1, 2:, 2:6], masks[2, 3:5, 3:5] = True, True, True
    return masks


@pytest.mark.parametrize(("scores", "order"), [((0.5, 0.9, 0.7), (0, 2, 1)), ((0.7, 0.7, 0.9), (1, 0, 2))])
def test_better_score_lies_on_top(scores, order):
    masks = overlapping()
    wanted = np.zeros((6, 8), int)
    for row in order:  # the worst first
        wanted[masks[row]] = row + 1
    found = Detections.from_masks(masks, scores=scores).to_label_image()
    assert found.tolist() == wanted.tolist()
    assert found.dtype == np.uint16
    assert found.flags.c_contiguous


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.png"])
@pytest.mark.parametrize("dtype", [None, "uint8", np.uint16])
def test_files_are_read_back(tmp_path, name, dtype):
    found = odd_detections()
    found.save(tmp_path / name, format="label-image", **({} if dtype is None else {"dtype": dtype}))
    labels = read_label_image(tmp_path / name)
    assert labels.dtype == (dtype or np.uint16)
    np.testing.assert_array_equal(labels, found.to_label_image())
    for row, mask in enumerate(dense_masks()[:6]):
        np.testing.assert_array_equal(labels == row + 1, mask)
    if name != "a.png":
        np.testing.assert_array_equal(tifffile.imread(tmp_path / name), labels)
        with tifffile.TiffFile(tmp_path / name) as file:
            assert file.pages[0].software.startswith("lucid-maskrcnn ")


def strips(num):
    """Detections of single pixels."""
    starts = np.arange(num, dtype=np.int32)
    masks = CompressedMasks(starts, starts + 1, np.arange(num + 1), (300, 300))
    return Detections.from_masks(masks)


def test_seventy_thousand_objects_have_32_bits(tmp_path):
    found = strips(70000)
    labels = found.to_label_image()
    assert labels.dtype == np.uint32
    assert np.array_equal(labels.T.ravel()[:70000], np.arange(1, 70001))
    found.save(tmp_path / "a.tif")
    for read in (tifffile.imread(tmp_path / "a.tif"), read_label_image(tmp_path / "a.tif")):
        assert (read.max(), len(np.unique(read))) == (70000, 70001)
    with pytest.raises(ValueError, match="A PNG holds numbers up to 65535, and the label image goes up to 70000"):
        found.save(tmp_path / "a.png", format="label-image")
    assert not (tmp_path / "a.png").exists()


def test_png_holds_65535_objects(tmp_path):
    found = strips(65535)
    assert found.to_label_image().dtype == np.uint16
    found.save(tmp_path / "a.png", format="label-image")
    assert read_label_image(tmp_path / "a.png").max() == 65535
    assert strips(65536).to_label_image().dtype == np.uint32


@pytest.mark.parametrize(
    ("dtype", "error", "message"),
    [
        ("uint8", ValueError, "dtype uint8 holds numbers up to 255, and there are 300 objects"),
        (np.float32, ValueError, "dtype must be a NumPy type of integers, such as 'uint16' or 'uint32', got float32"),
        ("uint17", TypeError, "dtype must be a NumPy type of integers.*got 'uint17'"),
    ],
)
def test_type_that_cannot_hold_the_numbers_is_refused(dtype, error, message):
    with pytest.raises(error, match=message):
        strips(300).to_label_image(dtype=dtype)


@pytest.mark.parametrize(
    ("masks", "options", "error", "message"),
    [
        (None, {}, TypeError, "masks must be CompressedMasks, got None"),
        (CompressedMasks.from_dense(overlapping()), {"order": [0, 1]}, ValueError, "order must have each of the 3"),
        (CompressedMasks.from_dense(overlapping()), {"order": [0, 1, 1]}, ValueError, "order must have each of the 3"),
        (CompressedMasks.from_dense(overlapping()), {"order": "x"}, TypeError, "masks are selected by an integer"),
    ],
)  # fmt: skip
def test_wrong_masks_and_orders_are_refused(masks, options, error, message):
    with pytest.raises(error, match=message):
        labels_of_masks(masks, **options)
