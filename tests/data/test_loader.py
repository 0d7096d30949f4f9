"""Batches: their content, that they are reproducible, and that threads end."""

import itertools
import re
import threading
import time

import data_sets
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.data import Augmentation, Batch, CocoInstances, Loader, LoadingError
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.transforms import prepare, resized_size

# Height, width and number of the training images of a set of nuclei, a tenth of them.
NUCLEI = [((256, 256), 25), ((256, 320), 9), ((360, 360), 7), ((520, 696), 7), ((1024, 1024), 2), ((485, 1024), 2)]


class Numbers:
    """Images whose pixels say which they are; any index in ``broken`` fails."""

    def __init__(self, sizes, broken=()):
        self.sizes = list(sizes)
        self.image_ids = [100 + i for i in range(len(self.sizes))]
        self.file_names = [f"{i}.png" for i in range(len(self.sizes))]
        self.broken = set(broken)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        if index in self.broken:
            raise ValueError("it is broken.")
        image = np.full((*self.sizes[index], 3), index, np.uint8)
        masks = CompressedMasks.from_dense(np.ones((1, *self.sizes[index]), bool))
        return image, {"boxes": masks.boxes, "labels": np.ones(1, np.int32), "masks": masks}


def numbers(count=7, **options):
    return Numbers([(8, 8)] * count, **options)


def assert_same(a, b):
    assert a.indices == b.indices
    assert a.image_ids == b.image_ids
    for one, other in zip(a.images, b.images, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(a.targets, b.targets, strict=True):
        np.testing.assert_array_equal(one["boxes"], other["boxes"])
        np.testing.assert_array_equal(one["masks"].to_dense(), other["masks"].to_dense())


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("lucid_maskrcnn_loader")]


# ------------------------------------------------------------------ which images


@pytest.mark.parametrize(("count", "size", "steps"), [(7, 3, 3), (6, 3, 2), (2, 2, 1), (1, 1, 1)])
def test_an_epoch_has_every_image_once(count, size, steps):
    loader = Loader(numbers(count), size)
    assert loader.steps_per_epoch == steps
    orders = []
    for epoch in range(4):
        batches = [loader.batch(epoch * steps + i).indices for i in range(steps)]
        assert [len(b) for b in batches[:-1]] == [size] * (steps - 1)
        orders.append(list(itertools.chain(*batches)))
        assert sorted(orders[-1]) == list(range(count))
    if count > 5:
        assert len(set(map(tuple, orders))) > 1


def test_images_targets_and_ids_of_a_batch_correspond():
    batch = Loader(numbers(), 3, seed=5).batch(1)
    assert isinstance(batch, Batch)
    assert [int(image[0, 0, 0]) for image in batch.images] == batch.indices
    assert batch.image_ids == [100 + i for i in batch.indices]
    assert [target["masks"].image_size for target in batch.targets] == [(8, 8)] * 3


def test_a_batch_is_determined_by_seed_and_step():
    augment = Augmentation.microscopy(noise=3)
    one, other = (Loader(numbers(), 3, seed=2, augment=augment) for _ in range(2))
    later = [one.batch(step) for step in (0, 4, 1)]
    for step, batch in zip((0, 4, 1), later, strict=True):
        assert_same(other.batch(step), batch)
    seeds = {tuple(Loader(numbers(50), 50, seed=seed).batch(0).indices) for seed in range(5)}
    assert len(seeds) == 5


def test_each_appearance_of_an_image_varies():
    loader = Loader(numbers(1), 1, augment=Augmentation(noise=20))
    assert (loader.batch(0).images[0] != loader.batch(1).images[0]).any()


def test_order_of_the_data_set():
    loader = Loader(Numbers([(8, 20), (20, 8)] * 3), 4, shuffle=False)
    assert [loader.batch(i).indices for i in range(3)] == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3]]


def test_weights_draw_with_replacement():
    weights = np.array([0, 1, 3])
    loader = Loader(numbers(3), 4, sample_weights=weights)
    drawn = np.bincount(np.concatenate([loader.batch(i).indices for i in range(200)]), minlength=3)
    assert drawn.sum() == 800
    assert drawn[0] == 0
    assert 0.68 < drawn[2] / 800 < 0.82
    assert loader.steps_per_epoch == 1
    assert loader.batch(3).indices == Loader(numbers(3), 4, sample_weights=[0, 1, 3]).batch(3).indices


def test_weights_hold_with_grouping():
    sizes = [(8, 8), (8, 16), (8, 9), (16, 8)]
    loader = Loader(Numbers(sizes), 2, sample_weights=[4, 2, 1, 1])
    batches = [loader.batch(i).indices for i in range(600)]
    fractions = np.bincount(np.concatenate(batches), minlength=4) / 1200
    np.testing.assert_allclose(fractions, [0.5, 0.25, 0.125, 0.125], atol=0.05)
    assert all((1 in batch) == (batch == [1, 1]) for batch in batches)


# ------------------------------------------------------------------ shapes


def padded_pixels(loader, settings=None):
    """Return the fraction of padding in the network's batches of an epoch."""
    settings = settings or ImageConfig()
    total = used = 0
    for step in range(loader.steps_per_epoch):
        sizes = [resized_size(loader.dataset.sizes[i], settings) for i in loader._indices(step).tolist()]
        height, width = np.max(sizes, axis=0)
        total += height * width * len(sizes)
        used += sum(h * w for h, w in sizes)
    return 1 - used / total


@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_grouping_by_shape_pads_less(batch_size):
    sizes = [size for size, count in NUCLEI for _ in range(count)]
    grouped, mixed = (
        np.mean([padded_pixels(Loader(Numbers(sizes), batch_size, seed=s, group_by_shape=g)) for s in range(5)])
        for g in (True, False)
    )
    assert mixed > 0.06
    assert grouped < 0.4 * mixed


def test_grouped_batches_still_differ_between_epochs():
    sizes = [size for size, count in NUCLEI for _ in range(count)]
    loader = Loader(Numbers(sizes), 4)
    epochs = [
        {frozenset(loader._indices(epoch * loader.steps_per_epoch + i).tolist()) for i in range(loader.steps_per_epoch)}
        for epoch in range(3)
    ]
    assert len(epochs[0] & epochs[1]) <= 2
    first = [loader._indices(epoch * loader.steps_per_epoch)[0] for epoch in range(20)]
    assert len({sizes[i] for i in first}) > 2  # the batches too come in any order


def test_crops_of_fixed_size_are_not_grouped():
    loader = Loader(Numbers([(30, 60), (60, 30)] * 10), 4, augment=Augmentation.photographs(crop=24))
    batches = [loader.batch(i) for i in range(loader.steps_per_epoch)]
    assert {image.shape for batch in batches for image in batch.images} == {(24, 24, 3)}
    assert any(len({i % 2 for i in batch.indices}) == 2 for batch in batches)


def test_a_data_set_may_be_a_list():
    plain = [numbers()[i] for i in range(5)]
    batch = Loader(plain, 2, shuffle=False).batch(1)
    assert batch.indices == batch.image_ids == [2, 3]


# ------------------------------------------------------------------ threads


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_iterating_gives_the_batches_in_order(workers, prefetch):
    loader = Loader(numbers(), 2, augment=Augmentation(noise=5), workers=workers, prefetch=prefetch)
    for step, batch in enumerate(loader.iterate(3, 12), start=3):
        assert_same(batch, loader.batch(step))
    assert step == 11
    assert loader_threads() == []
    assert list(loader.iterate(5, 5)) == []


def test_batches_are_made_while_others_are_used():
    asked = []

    class Watched(Numbers):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    batches = Loader(Watched([(8, 8)] * 9), 1, shuffle=False, prefetch=2).iterate(0, 2**40)
    assert next(batches).indices == [0]
    deadline = time.monotonic() + 20
    while len(asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asked == [0, 1, 2]  # and no more than that
    batches.close()
    assert loader_threads() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_image_is_named_at_its_step(workers):
    loader = Loader(numbers(8, broken=[5]), 2, shuffle=False, workers=workers)
    batches = loader.iterate(0, 4)
    assert [next(batches).indices for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(LoadingError, match=r"^Step 2 cannot load image 5.png: it is broken\.$") as caught:
        next(batches)
    assert isinstance(caught.value.__cause__, ValueError)
    assert loader_threads() == []


def test_a_mistake_in_an_augmentation_is_not_hidden():
    def augment(image, target, rng):
        return image + target["nothing"], target

    with pytest.raises(LoadingError, match=r"Step 0 cannot load image [0-6].png: KeyError: 'nothing'"):
        Loader(numbers(), 1, augment=augment).batch(0)
    with pytest.raises(LoadingError, match="cannot load image 0 of the data set"):
        Loader([numbers()[0]], 1, augment=augment).batch(0)


def test_threads_end_when_the_consumer_fails():
    def consume():
        for batch in Loader(numbers(), 2).iterate(0, 100):
            raise RuntimeError(str(batch.indices))

    with pytest.raises(RuntimeError):
        consume()
    assert loader_threads() == []


# ------------------------------------------------------------------ from files to the network


def test_annotated_images_become_the_networks_batches(tmp_path):
    dataset = CocoInstances(*data_sets.write(tmp_path))
    loader = Loader(dataset, 2, augment=Augmentation.photographs())
    for batch in loader.iterate(0, 4):
        assert batch.image_ids == [dataset.image_ids[i] for i in batch.indices]
        assert [target["image_id"] for target in batch.targets] == batch.image_ids
        settings = ImageConfig(min_size=64, max_size=128)
        assert prepare(batch.images, settings).original_sizes == [t["masks"].image_size for t in batch.targets]


def test_data_without_objects_are_refused(tmp_path):
    """A run on nothing but crowds trained the background for hours."""
    content = data_sets.coco()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    dataset = CocoInstances(*data_sets.write(tmp_path, content))
    with pytest.raises(ValueError, match=r"dataset must have at least one object, got none in 4 images\."):
        Loader(dataset, 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0."),
        ({"batch_size": 8}, ValueError, "batch_size must be at most the number of images, 7, got 8."),
        ({"batch_size": 1.5}, TypeError, "batch_size must be a positive integer, got 1.5."),
        ({"batch_size": "2"}, TypeError, "batch_size must be a positive integer, got '2'."),
        ({"batch_size": True}, TypeError, "batch_size must be a positive integer, got True."),
        ({"seed": -1}, ValueError, "seed must be a non-negative integer, got -1."),
        ({"seed": None}, TypeError, "seed must be a non-negative integer, got None."),
        ({"shuffle": "no"}, TypeError, "shuffle must be True or False, got 'no'."),
        ({"group_by_shape": 1}, TypeError, "group_by_shape must be True or False, got 1."),
        ({"workers": 0}, ValueError, "workers must be an integer from 1 to 1024, got 0."),
        ({"prefetch": -1}, ValueError, "prefetch must be a non-negative integer, got -1."),
        ({"augment": "flip"}, TypeError, "augment must be called as augment(image, target, rng), for example"),
        ({"augment": Augmentation}, TypeError, "got the class Augmentation."),
        ({"sample_weights": [1, 2]}, ValueError, "one number for each of 7 images, got shape (2,)."),
        ({"sample_weights": "abc"}, TypeError, "one number for each of 7 images, got 'abc'."),
        ({"sample_weights": [[1], [1, 2]]}, TypeError, "one number for each of 7 images, got [[1], [1, 2]]."),
        ({"sample_weights": [0] * 7}, ValueError, "not all 0"),
        ({"sample_weights": [1, 2, 3, 4, 5, 6, -1]}, ValueError, "of at least 0"),
        ({"repeat_thresh": 0}, ValueError, "repeat_thresh must be a number above 0 and at most 1, got 0."),
        ({"repeat_thresh": 1.5}, ValueError, "repeat_thresh must be a number above 0 and at most 1, got 1.5."),
        ({"repeat_thresh": "0.1"}, TypeError, "repeat_thresh must be a number above 0 and at most 1, got '0.1'."),
        ({"repeat_thresh": 0.1, "sample_weights": [1] * 7}, ValueError, "exclude each other: give one of them."),
        ({"dataset": []}, ValueError, "dataset must have at least one image, got none."),
        ({"dataset": Loader([0], 1)}, TypeError, "pass its dataset, the attribute dataset.dataset."),
        ({"dataset": "images"}, TypeError, "dataset must be a data set, a sequence of (image, target) pairs"),
        ({"dataset": CocoInstances}, TypeError, "got the class CocoInstances."),
    ],
)
def test_arguments_of_a_loader_are_checked(options, error, message):
    arguments = {"dataset": numbers(), "batch_size": 2} | options
    with pytest.raises(error, match=re.escape(message)):
        Loader(**arguments)


def test_numpy_integers_are_integers():
    loader = Loader(numbers(), np.int64(2), seed=np.uint8(3), workers=np.int32(1))
    assert loader.batch(np.int64(1)).indices == Loader(numbers(), 2, seed=3).batch(1).indices


@pytest.mark.parametrize(
    ("step", "error"), [(-1, ValueError), (1.0, TypeError), ("0", TypeError), (None, TypeError), (True, TypeError)]
)
def test_a_step_is_a_non_negative_integer(step, error):
    with pytest.raises(error, match=re.escape(f"step must be a non-negative integer, got {step!r}.")):
        Loader(numbers(), 1).batch(step)


def test_a_loader_with_augmentation_takes_what_it_takes_without(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    target = {"boxes": [[2, 3, 9, 12]], "labels": [1], "masks": [[[2, 3, 9, 3, 9, 12, 2, 12]]]}
    items = [tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(pixels), pixels]
    batches = [
        Loader([(item, target) for item in items], 4, shuffle=False, augment=augment).batch(0)
        for augment in (None, Augmentation(), Augmentation(horizontal_flip=1))
    ]
    assert batches[0].images[0] == items[0]
    for plain, flipped in zip(batches[1].images, batches[2].images, strict=True):
        np.testing.assert_array_equal(plain, pixels)
        np.testing.assert_array_equal(flipped, pixels[:, ::-1])
    floats = Loader([(pixels / 255, target)], 1, augment=Augmentation())
    np.testing.assert_array_equal(floats.batch(0).images[0], pixels)
    wrong = Loader([(pixels * 1.0, target)], 1, augment=Augmentation())
    with pytest.raises(LoadingError, match=r"Step 0 cannot load image 0 of the data set: .*float64 of shape"):
        wrong.batch(0)


@pytest.mark.parametrize(
    ("item", "given"),
    [(np.zeros((2, 3)), "an object of type ndarray"), ((1, 2, 3), "an object of type tuple and length 3")],
)
def test_items_must_be_pairs(item, given):
    with pytest.raises(LoadingError, match=rf"dataset\[0\] must be a pair \(image, target\), got {given}\."):
        Loader([item], 1).batch(0)
    with pytest.raises(LoadingError, match=r"What augment returns must be a pair \(image, target\)"):
        Loader(numbers(1), 1, augment=lambda image, target, rng: item).batch(0)
