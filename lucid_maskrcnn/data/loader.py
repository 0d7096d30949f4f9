"""Batches of images and targets. Each is determined by the seed and its step, so that a resumed run sees the same ones.

Random numbers come from NumPy generators of the loader's own seed, never from Lucid's.

Shapes: N images of the data set.
"""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.reprs import brief, described, fields_repr
from lucid_maskrcnn.validators import flag, function, non_negative_int, positive_fraction, positive_int, shown

from .dataset import check_dataset, check_pair, load_pair
from .repeat_factors import repeat_factors, rounded_at_random

__all__ = ["Batch", "Loader", "LoadingError"]

_ORDER, _DRAW, _AUGMENT, _REPEAT = range(4)  # streams of random numbers, one for each use
_BINS_PER_OCTAVE = 8  # bins of the aspect ratio: within a bin it differs by 9 % at most
_MAX_WORKERS = 1024
_CACHED_EPOCHS = 2  # epochs whose order is kept


class LoadingError(ValueError):
    """An image could not be loaded or augmented. The message names it; ``__cause__`` is the error."""


class Batch(NamedTuple):
    """The images and targets of one training step.

    Attributes
    ----------
    images : list of ndarray of shape (H, W, 3), uint8
        Or whatever the data set has, if nothing augments it.
    targets : list of dict
        Of each image its objects, see :class:`~lucid_maskrcnn.Target`.
    image_ids : list of int
        Id of each image in the data set.
    indices : list of int
        Their indices in the data set.
    """

    images: list[np.ndarray]
    targets: list[dict[str, Any]]
    image_ids: list[int]
    indices: list[int]

    def __repr__(self) -> str:
        return fields_repr(self)


@answers_wrong_calls
class Loader:
    """Makes batches of a data set.

    An epoch contains every image once, in an order that depends on the seed and the epoch; its last batch may be
    smaller. With ``sample_weights`` images are drawn with replacement instead, and an epoch has as many batches.
    With ``repeat_thresh`` an epoch contains images with rare categories more than once.

    Parameters
    ----------
    dataset : sequence of (image, target)
        :class:`CocoInstances`, :class:`LabelImages`, or anything with a length whose items are images, of any kind that
        ``get_loss`` takes, and mappings with ``"boxes"``, ``"labels"`` and ``"masks"``. Its attributes ``sizes``,
        ``image_ids`` and ``file_names`` are used if it has them. An item must not vary from one access to the next.
    batch_size : int
        Images per batch; at most as many as the data set has, unless they are drawn with ``sample_weights``.
    seed : int
        A non-negative integer. The same seed gives the same batches.
    shuffle : bool
        Whether the order is random; otherwise it is that of the data set.
    augment : callable, optional
        Called as ``augment(image, target, rng)``, for example an :class:`Augmentation`.
    group_by_shape : bool
        Whether the images of a batch have about the same aspect ratio, so that there is little padding. It needs the
        ``sizes`` of the data set, and has no effect if ``shuffle`` is off or ``augment`` crops to a fixed size.
    sample_weights : sequence of float, optional
        One for each image: how often it is drawn, relative to the others.
    repeat_thresh : float, optional
        Above 0 and at most 1; for example 0.001 for LVIS. Categories that fewer than this fraction of the images have
        are rare, and images that have them are repeated: on average ``max(1, sqrt(repeat_thresh / fraction))`` times,
        by their rarest category, rounded up or down at random in each epoch (repeat-factor sampling). A data set
        without ``coco()`` and ``image_ids`` is loaded once to count them. It excludes ``sample_weights``.
    workers : int
        Threads of :meth:`iterate`.
    prefetch : int
        Batches that are made in advance.

    Attributes
    ----------
    dataset, batch_size, seed, shuffle, augment, group_by_shape, sample_weights, repeat_thresh, workers, prefetch
        As given.
    repeat_factors : ndarray of shape (N,), float64, or None
        How often an epoch contains each image, on average; None without ``repeat_thresh``.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    ValueError
        If there are no images, or no objects in them as far as the data set says (``object_counts``), or an argument is
        out of range.
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
        repeat_thresh: float | None = None,
        workers: int = 1,
        prefetch: int = 2,
    ) -> None:
        if len(check_dataset("dataset", dataset)) == 0:
            raise ValueError("dataset must have at least one image, got none.")
        counts = getattr(dataset, "object_counts", None)
        if counts is not None and not any(counts):
            raise ValueError(f"dataset must have at least one object, got none in {len(dataset)} images.")
        if augment is not None:
            function("augment", augment, "augment(image, target, rng), for example Augmentation.photographs()")
        self.dataset, self.augment, self.sample_weights = dataset, augment, sample_weights
        self.batch_size, self.seed = positive_int("batch_size", batch_size), non_negative_int("seed", seed)
        self.shuffle, self.group_by_shape = flag("shuffle", shuffle), flag("group_by_shape", group_by_shape)
        self.workers, self.prefetch = (
            positive_int("workers", workers, _MAX_WORKERS),
            non_negative_int("prefetch", prefetch),
        )
        self._probabilities = None if sample_weights is None else _probabilities(sample_weights, len(dataset))
        if self._probabilities is None and self.batch_size > len(dataset):
            raise ValueError(f"batch_size must be at most the number of images, {len(dataset)}, got {batch_size}.")
        self.repeat_thresh = None if repeat_thresh is None else _repeat_thresh(repeat_thresh, sample_weights)
        self.repeat_factors = None if self.repeat_thresh is None else repeat_factors(dataset, self.repeat_thresh)
        self._starts = [0]  # first steps of the epochs, as far as known; with repeat_thresh their lengths differ
        self._log_ratios = self._aspect_ratios()
        self._orders: dict[int, list[np.ndarray]] = {}
        self._lock = threading.Lock()

    @described
    def __repr__(self) -> str:
        options: dict[str, Any] = {"seed": self.seed, "augment": self.augment and type(self.augment).__name__}
        options |= {"sample_weights": self.sample_weights, "repeat_thresh": self.repeat_thresh}
        named = "".join(f", {name}={brief(value)}" for name, value in options.items() if value is not None)
        order = "shuffled" if self.shuffle else "in order"
        size = f"batches of {self.batch_size}, {self.steps_per_epoch} an epoch, {order}"
        return f"Loader({brief(self.dataset)}, {size}{named})"

    def _aspect_ratios(self) -> np.ndarray | None:
        """Return the logarithms of height / width (N,), or None if batches are not grouped by them."""
        sizes = getattr(self.dataset, "sizes", None)
        random = self.shuffle or self._probabilities is not None
        fixed = getattr(self.augment, "crop_size", None) is not None
        if not self.group_by_shape or sizes is None or fixed or not random:
            return None
        return np.asarray(np.log2([height / width for height, width in sizes]))

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch; with ``repeat_thresh`` that of an epoch of average length."""
        count = len(self.dataset) if self.repeat_factors is None else round(float(self.repeat_factors.sum()))
        return -(-count // self.batch_size)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, the same at every call.

        Parameters
        ----------
        step : int
            A non-negative integer; epoch follows epoch.

        Raises
        ------
        LoadingError
            If one of its images cannot be loaded or augmented.
        """
        step = non_negative_int("step", step)
        images, targets, image_ids = [], [], []
        indices = self._indices(step).tolist()
        for place, index in enumerate(indices):
            image, target = self._load(index, step, place)
            images.append(image)
            targets.append(target)
            image_ids.append(self._image_id(index, target))
        return Batch(images, targets, image_ids, indices)

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches ``start`` to ``stop - 1``, which threads make in advance.

        The threads end when the iterator is exhausted or closed, or has raised an exception.

        Raises
        ------
        LoadingError
            Instead of a batch that cannot be made.
        """
        start, stop = non_negative_int("start", start), non_negative_int("stop", stop)
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
            image, target = load_pair(self.dataset, index)
            if self.augment is not None:
                rng = np.random.default_rng((self.seed, _AUGMENT, step, place))
                image, target = check_pair("What augment returns", self.augment(image, target, rng))
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
        with self._lock:
            epoch, place = self._epoch_and_place(step)
            if epoch not in self._orders:
                for old in list(self._orders)[: 1 - _CACHED_EPOCHS]:
                    del self._orders[old]
                self._orders[epoch] = self._order(epoch)
            return self._orders[epoch][place]

    def _epoch_and_place(self, step: int) -> tuple[int, int]:
        if self.repeat_factors is None:
            return divmod(step, self.steps_per_epoch)
        while self._starts[-1] <= step:
            count = len(self._images_of(len(self._starts) - 1))
            self._starts.append(self._starts[-1] - (-count // self.batch_size))
        epoch = bisect.bisect_right(self._starts, step) - 1
        return epoch, step - self._starts[epoch]

    def _images_of(self, epoch: int) -> np.ndarray:
        """Return the indices of an epoch's images in the order of the data set, repeated ones side by side."""
        indices = np.arange(len(self.dataset))
        if self.repeat_factors is None:
            return indices
        rng = np.random.default_rng((self.seed, _REPEAT, epoch))
        return np.repeat(indices, rounded_at_random(self.repeat_factors, rng))

    def _order(self, epoch: int) -> list[np.ndarray]:
        """Return the indices of each batch of an epoch."""
        images = self._images_of(epoch)
        if not self.shuffle:
            return _cut(images, self.batch_size)
        rng = np.random.default_rng((self.seed, _ORDER, epoch))
        order = images[rng.permutation(len(images))]
        if self._log_ratios is None:
            return _cut(order, self.batch_size)
        bins = self._bins(rng)
        batches = _cut(order[np.argsort(bins[order], kind="stable")], self.batch_size)
        # A smaller batch stays the last one of the epoch.
        last = batches.pop() if len(batches[-1]) < self.batch_size else None
        mixed = [batches[i] for i in rng.permutation(len(batches))]
        return mixed if last is None else [*mixed, last]

    def _drawn(self, step: int) -> np.ndarray:
        """Draw a batch by the weights; with grouping, all from the bin of the first image."""
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
        """Return the bin of each image's aspect ratio (N,). Bounds are random: other images meet in other epochs."""
        assert self._log_ratios is not None
        return np.floor(self._log_ratios * _BINS_PER_OCTAVE + rng.random())


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _repeat_thresh(value: Any, sample_weights: Any) -> float:
    threshold = positive_fraction("repeat_thresh", value)
    if sample_weights is not None:
        raise ValueError("repeat_thresh and sample_weights exclude each other: give one of them.")
    return threshold


def _probabilities(weights: Any, count: int) -> np.ndarray:
    """Return what each image is drawn with (N,), in float64."""
    wanted = f"one number for each of {count} images"
    try:
        array = np.asarray(weights)
    except ValueError:  # rows of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"sample_weights must be {wanted}, got {shown(weights)}.")
    if array.shape != (count,):
        raise ValueError(f"sample_weights must be {wanted}, got shape {array.shape}.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all() or (array < 0).any() or not array.sum() > 0:
        raise ValueError("sample_weights must be finite numbers of at least 0, not all 0.")
    return np.asarray(array / array.sum())
