"""Repeat-factor sampling: the factors, how often images are seen, and that a step determines its batch."""

import itertools
import math
from pathlib import Path

import data_sets
import numpy as np
import pytest

from lucid_maskrcnn.data import CocoInstances, Loader, Subset, split
from lucid_maskrcnn.data.repeat_factors import repeat_factors

# Of 8 images: label 1 is in all but the last, 2 in two of them, 3 in one.
LABELS = [[1], [1], [1, 1], [1, 2], [1, 2, 2], [1], [1, 2, 3][::2], []]


def pairs(labels=LABELS):
    return [(np.full((8, 8, 3), i, np.uint8), {"labels": np.array(v, np.int32)}) for i, v in enumerate(labels)]


def epochs(loader, count):
    """Return the indices of each epoch, from the batches of successive steps."""
    orders = []
    step = 0
    for epoch in range(count):
        length = len(loader._order(epoch))
        orders.append(list(itertools.chain(*(loader.batch(step + i).indices for i in range(length)))))
        step += length
    return orders


def test_factors_by_hand():
    # f is 7/8, 2/8 and 1/8; of the threshold 1/2 the factors are 1, sqrt(2) and 2.
    expected = [1, 1, 1, math.sqrt(2), math.sqrt(2), 1, 2, 1]
    np.testing.assert_allclose(Loader(pairs(), 2, repeat_thresh=0.5).repeat_factors, expected)
    np.testing.assert_allclose(repeat_factors(pairs(), 0.125), 1)
    assert Loader(pairs(), 2).repeat_factors is None


def test_factors_of_annotations_are_those_of_the_loaded_targets(tmp_path: Path):
    dataset = CocoInstances(*data_sets.write(tmp_path))
    loaded = [dataset[i] for i in range(len(dataset))]
    for threshold in (0.3, 0.6, 1):
        found = repeat_factors(dataset, threshold)
        np.testing.assert_array_equal(found, repeat_factors(loaded, threshold))
    assert found.max() > 1
    chosen = [len(dataset) - 1, 0, 0]
    part = Subset(dataset, chosen)
    np.testing.assert_array_equal(repeat_factors(part, 1), repeat_factors([dataset[i] for i in chosen], 1))
    assert len(repeat_factors(split(dataset, 0.5)[0], 1)) == len(split(dataset, 0.5)[0])


def test_images_are_seen_as_often_as_the_factors_say():
    loader = Loader(pairs(), 3, repeat_thresh=0.5)
    count = 2000
    seen = np.array([np.bincount(order, minlength=8) for order in epochs(loader, count)])
    assert (seen >= np.floor(loader.repeat_factors)).all()
    assert (seen <= np.ceil(loader.repeat_factors)).all()
    # The mean of a rounded number has a standard deviation of at most 0.5 / sqrt(count): five of them are allowed.
    np.testing.assert_allclose(seen.mean(0), loader.repeat_factors, atol=5 * 0.5 / math.sqrt(count))
    assert abs(np.corrcoef(seen[:, 3], seen[:, 4])[0, 1]) < 0.12  # rounded independently


def test_an_order_is_determined_by_seed_and_epoch():
    loader = Loader(pairs(), 3, seed=4, repeat_thresh=0.5)
    orders = epochs(loader, 6)
    assert len({tuple(order) for order in orders}) > 3
    later = Loader(pairs(), 3, seed=4, repeat_thresh=0.5)  # as a resumed run asks: a step from the middle first
    for step in (11, 2, 17, 0):
        assert later.batch(step).indices == loader.batch(step).indices
    assert epochs(Loader(pairs(), 3, seed=5, repeat_thresh=0.5), 6) != orders


@pytest.mark.parametrize("workers", [1, 4])
def test_threads_give_the_same_batches(workers):
    loader = Loader(pairs(), 2, repeat_thresh=0.5, workers=workers)
    alone = Loader(pairs(), 2, repeat_thresh=0.5)
    found = [batch.indices for batch in loader.iterate(7, 40)]
    assert found == [alone.batch(step).indices for step in range(7, 40)]


def test_without_rare_categories_the_order_is_the_usual_one():
    usual = Loader(pairs(), 3, seed=1)
    loader = Loader(pairs(), 3, seed=1, repeat_thresh=0.01)
    assert [loader.batch(i).indices for i in range(20)] == [usual.batch(i).indices for i in range(20)]


def test_without_shuffling_repeated_images_follow_each_other():
    order = epochs(Loader(pairs(), 3, shuffle=False, repeat_thresh=0.5), 1)[0]
    assert order == sorted(order)
    assert order.count(6) == 2


def test_batches_of_an_epoch_on_average():
    assert Loader(pairs(), 2, repeat_thresh=0.5).steps_per_epoch == 5  # of 9.83 images
    assert Loader(pairs(), 2).steps_per_epoch == 4
