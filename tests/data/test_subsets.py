"""Parts of a data set: subsets, slices and random splits."""

import re

import data_sets
import numpy as np
import pytest

from lucid_maskrcnn.data import CocoInstances, Loader, Subset, split


@pytest.fixture
def dataset(tmp_path):
    return CocoInstances(*data_sets.write(tmp_path))


@pytest.mark.parametrize("indices", [[2, 0, -1], (2, 0, 3), np.array([2, 0, -1]), iter([2, 0, 3]), [np.int64(2), 0, 3]])
def test_subset_has_the_images_in_the_order_given(dataset, indices):
    subset = Subset(dataset, indices)
    assert subset.image_ids == [30, 10, 40]
    assert subset.file_names == ["c.png", "a.png", "d.png"]
    assert [image["id"] for image in subset.coco()["images"]] == [10, 30, 40]
    assert subset[0][1]["image_id"] == subset[-3][1]["image_id"] == 30
    assert subset.categories == dataset.categories


def test_subset_of_a_subset(dataset):
    inner = Subset(Subset(dataset, [3, 2, 1]), [2, 0])
    assert inner.image_ids == [20, 40]
    assert inner[1:].image_ids == [40]


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([0.5], TypeError, "indices[0] must be an integer from -4 to 3, got 0.5."),
        ([True, False], TypeError, "indices[0] must be an integer from -4 to 3, got True."),
        ([0, 4], ValueError, "indices[1] must be an integer from -4 to 3, got 4."),
        (["a"], TypeError, "indices[0] must be an integer from -4 to 3, got 'a'."),
        ("01", TypeError, "indices must be integers, got '01'."),
        ({0: 1}, TypeError, "indices must be integers, got {0: 1}."),
        (2, TypeError, "indices must be integers, got 2."),
        (None, TypeError, "indices must be integers, got None."),
    ],
)
def test_indices_are_checked(dataset, indices, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Subset(dataset, indices)


@pytest.mark.parametrize("of", [lambda d: d, lambda d: Subset(d, range(len(d)))], ids=["CocoInstances", "Subset"])
def test_slice_of_a_data_set_is_a_subset(dataset, of):
    part = of(dataset)[1:3]
    assert isinstance(part, Subset)
    assert part.image_ids == [20, 30]
    assert of(dataset)[::-2].image_ids == [40, 20]
    assert len(of(dataset)[9:]) == 0


@pytest.mark.parametrize("of", [lambda d: d, lambda d: Subset(d, range(len(d)))], ids=["CocoInstances", "Subset"])
def test_index_of_a_data_set(dataset, of):
    assert of(dataset)[np.int64(-1)][1]["image_id"] == 40
    assert [target["image_id"] for _, target in of(dataset)] == [10, 20, 30, 40]  # which an IndexError ends
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"There is no image {index}: the data set has 4 images."):
            of(dataset)[index]
    for wrong in ("a", 0.0, None, True, [0, 1]):
        with pytest.raises(TypeError, match="The index of a data set must be an integer or a slice, got "):
            of(dataset)[wrong]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "dataset must have categories, as CocoInstances and LabelImages have, got [1, 2]: of a list of pairs"),
        (
            "images",
            "dataset must be a data set, a sequence of (image, target) pairs such as CocoInstances, got 'images'.",
        ),
        (Loader([0], 1), "pass its dataset, the attribute dataset.dataset."),
    ],
)
def test_subsets_are_of_data_sets(value, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        Subset(value, [0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1,), ValueError, "fraction must be a number above 0 and below 1, got 1."),
        ((0.0,), ValueError, "fraction must be a number above 0 and below 1, got 0.0."),
        ((float("nan"),), ValueError, "fraction must be a number above 0 and below 1, got nan."),
        (("0.5",), TypeError, "fraction must be a number above 0 and below 1, got '0.5'."),
        ((True,), TypeError, "fraction must be a number above 0 and below 1, got True."),
        ((0.5, -1), ValueError, "seed must be a non-negative integer, got -1."),
        ((0.5, 1.5), TypeError, "seed must be a non-negative integer, got 1.5."),
    ],
)
def test_arguments_of_split_are_checked(dataset, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        split(dataset, *arguments)


def test_one_image_cannot_be_split(dataset):
    with pytest.raises(ValueError, match=r"dataset must have at least two images to be split, got 1\."):
        split(Subset(dataset, [0]), 0.5)


def test_split_divides_all_images(dataset):
    train, val = split(dataset, 0.5, seed=1)
    assert len(train) == len(val) == 2
    assert sorted(train.image_ids + val.image_ids) == dataset.image_ids
    assert split(dataset, 0.5, seed=1)[0].image_ids == train.image_ids
    assert train.categories == dataset.categories
    for part in (train, val):
        assert [part[i][1]["image_id"] for i in range(2)] == part.image_ids
        assert [part[i][0].shape[:2] for i in range(2)] == part.sizes
        assert [len(part[i][1]["boxes"]) for i in range(2)] == part.object_counts
        assert [image["id"] for image in part.coco()["images"]] == part.image_ids
    assert [len(part) for part in split(dataset, 0.01)] == [3, 1]
    with pytest.raises(AttributeError, match="nonsense"):
        train.nonsense  # noqa: B018
