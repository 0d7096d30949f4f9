"""Batches of images and targets, each determined by its number alone: a run that is resumed sees the same ones.

Shapes: N images of the data set, B of a batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Batch", "Loader", "LoadingError"]

_ORDER, _DRAW, _AUGMENT = range(3)  # what random numbers are for: each use has its own
_BINS = 8  # bins of the aspect ratio in each doubling: images of a bin differ by 9 % at most
_KEPT = 2  # epochs whose order is remembered


class LoadingError(ValueError):
    """An image or its target could not be made; the message names the image, the cause is its ``__cause__``."""


class Batch(NamedTuple):
    """What one step is trained on.

    Attributes
    ----------
    images : list of ndarray of shape (H, W, 3), uint8
    targets : list of dict
    image_ids : list of int
    indices : list of int
        Their places in the data set.
    """

    images: list[np.ndarray]
    targets: list[dict[str, Any]]
    image_ids: list[int]
    indices: list[int]


class Loader:
    """Makes batches of a data set.

    An epoch is every image once, in an order that the seed and the epoch's number give; its last batch has what is
    left. With ``sample_weights`` each batch is drawn anew, and an epoch is as many batches as there would be.

    Parameters
    ----------
    dataset : sequence of (image, target)
        :class:`CocoInstances`, :class:`LabelImages`, or anything with a length whose items are uint8 arrays
        (H, W, 3) and mappings with ``"boxes"``, ``"labels"`` and ``"masks"``. Its attributes ``sizes``, ``image_ids``
        and ``file_names`` are used if it has them. Items should not be random themselves.
    batch_size : int
        Images of a batch.
    seed : int
        From 0 on. The same seed gives the same batches.
    shuffle : bool
        Whether the order is random; otherwise it is that of the data set.
    augment : callable, optional
        Called as ``augment(image, target, rng)``, such as :class:`Augmentation`.
    group_by_shape : bool
        Whether the images of a batch have about the same aspect ratio, so that little is padded. It takes the
        ``sizes`` of the data set, and does nothing in the data set's order or where ``augment`` crops to a fixed
        window.
    sample_weights : sequence of float, optional
        How often each image is drawn, with replacement, relative to the others.
    workers : int
        Threads of :meth:`iterate`.
    prefetch : int
        Batches that are made ahead.

    Attributes
    ----------
    dataset, batch_size, seed, shuffle, augment, group_by_shape, sample_weights, workers, prefetch
        As given.

    Raises
    ------
    ValueError
        If there are no images, or an argument is out of range.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        augment: Callable[..., Any] | None = None,
        group_by_shape: bool = True,
        sample_weights: Sequence[float] | np.ndarray | None = None,
        workers: int = 1,
        prefetch: int = 2,
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("workers", workers, 1)):
            _require_integer(name, value, least)
        _require_integer("prefetch", prefetch, 0)
        if len(dataset) == 0:
            raise ValueError("dataset must have at least one image, got none.")
        self.dataset, self.batch_size, self.seed, self.shuffle = dataset, batch_size, seed, shuffle
        self.augment, self.group_by_shape, self.sample_weights = augment, group_by_shape, sample_weights
        self.workers, self.prefetch = workers, prefetch
        self._probabilities = None if sample_weights is None else _probabilities(sample_weights, len(dataset))
        sizes = getattr(dataset, "sizes", None)
        fixed = getattr(augment, "crop_size", None) is not None
        self._log_ratios = None  # (N,), where they count
        if group_by_shape and sizes is not None and not fixed and (shuffle or sample_weights is not None):
            self._log_ratios = np.log2([height / width for height, width in sizes])
        self._orders: dict[int, list[np.ndarray]] = {}
        self._lock = threading.Lock()

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in which every image comes once."""
        return -(-len(self.dataset) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """Return one batch, the same whenever it is asked for.

        Parameters
        ----------
        step : int
            From 0 on; epochs follow each other.

        Raises
        ------
        LoadingError
            If one of its images cannot be loaded or augmented.
        """
        _require_integer("step", step, 0)
        images, targets, image_ids = [], [], []
        indices = self._indices(step).tolist()
        for place, index in enumerate(indices):
            image, target = self._load(index, step, place)
            images.append(image)
            targets.append(target)
            image_ids.append(self._image_id(index, target))
        return Batch(images, targets, image_ids, indices)

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches ``start`` to ``stop - 1``, made by threads while others are being used.

        The threads end with the iterator: when it is exhausted or closed, or an exception has left it.

        Raises
        ------
        LoadingError
            In the place of the batch that cannot be made.
        """
        ahead = max(self.prefetch, self.workers)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="lucid_maskrcnn_loader")
        pending: deque[Future[Batch]] = deque()
        try:
            for step in range(start, stop):
                while len(pending) < min(ahead + 1, stop - step):
                    pending.append(pool.submit(self.batch, step + len(pending)))
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    # -------------------------------------------------------------- one image

    def _load(self, index: int, step: int, place: int) -> tuple[np.ndarray, dict[str, Any]]:
        try:
            image, target = self.dataset[index]
            if self.augment is not None:
                rng = np.random.default_rng((self.seed, _AUGMENT, step, place))
                image, target = self.augment(image, target, rng)
        except Exception as error:
            reason = f"{error}" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
            raise LoadingError(f"Step {step} cannot load {self._name(index)}: {reason}") from error
        return image, target

    def _name(self, index: int) -> str:
        for attribute in ("file_names", "image_ids"):
            if hasattr(self.dataset, attribute):
                return f"image {getattr(self.dataset, attribute)[index]}"
        return f"image {index} of the data set"

    def _image_id(self, index: int, target: dict[str, Any]) -> int:
        ids = getattr(self.dataset, "image_ids", None)
        return target.get("image_id", index) if ids is None else ids[index]

    # -------------------------------------------------------------- which images

    def _indices(self, step: int) -> np.ndarray:
        if self._probabilities is not None:
            return self._drawn(step)
        epoch, place = divmod(step, self.steps_per_epoch)
        with self._lock:
            if epoch not in self._orders:
                for old in list(self._orders)[: 1 - _KEPT]:
                    del self._orders[old]
                self._orders[epoch] = self._order(epoch)
            return self._orders[epoch][place]

    def _order(self, epoch: int) -> list[np.ndarray]:
        """Return the batches of an epoch, each image in one of them."""
        count = len(self.dataset)
        if not self.shuffle:
            return _cut(np.arange(count), self.batch_size)
        rng = np.random.default_rng((self.seed, _ORDER, epoch))
        order = rng.permutation(count)
        if self._log_ratios is None:
            return _cut(order, self.batch_size)
        bins = self._bins(rng)
        batches = _cut(order[np.argsort(bins[order], kind="stable")], self.batch_size)
        # The last of them may be short, and is so in the end too.
        last = batches.pop() if len(batches[-1]) < self.batch_size else None
        mixed = [batches[i] for i in rng.permutation(len(batches))]
        return mixed if last is None else [*mixed, last]

    def _drawn(self, step: int) -> np.ndarray:
        """Draw a batch by weights, with grouping from one bin: the bin of the first image."""
        rng = np.random.default_rng((self.seed, _DRAW, step))
        first = rng.choice(len(self.dataset), p=self._probabilities)
        probabilities = self._probabilities
        if self._log_ratios is not None and probabilities is not None:
            bins = self._bins(rng)
            probabilities = np.where(bins == bins[first], probabilities, 0)
            probabilities = probabilities / probabilities.sum()
        others = rng.choice(len(self.dataset), self.batch_size - 1, p=probabilities)
        return np.concatenate([[first], others])

    def _bins(self, rng: np.random.Generator) -> np.ndarray:
        """Return the bin of each image's aspect ratio; bounds are drawn, so that neighbours meet in other epochs."""
        assert self._log_ratios is not None
        return np.floor(self._log_ratios * _BINS + rng.random())


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _require_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}.")


def _probabilities(weights: Any, count: int) -> np.ndarray:
    array = np.asarray(weights, np.float64)
    if array.shape != (count,):
        raise ValueError(f"sample_weights must be one number for each of {count} images, got shape {array.shape}.")
    if not np.isfinite(array).all() or (array < 0).any() or not array.sum() > 0:
        raise ValueError("sample_weights must be finite, from 0 on and not all 0.")
    return array / array.sum()
