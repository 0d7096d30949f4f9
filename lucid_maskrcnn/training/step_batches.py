"""The batches of a run's steps, and which of them each rank of a group computes."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from ..validators import shown

__all__ = ["BatchSource", "StepBatches"]


class BatchSource(Protocol):
    """What a trainer needs of a loader; :class:`lucid_maskrcnn.data.Loader` is one."""

    batch_size: int

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the batches ``start`` to ``stop - 1``, the same ones at every call.

        Each has ``images`` and ``targets``, as :meth:`MaskRCNN.get_loss` takes them, and ``image_ids``.
        """


class StepBatches:
    """The batches of each step, and how they are divided among the ranks of a group.

    Parameters
    ----------
    loader : BatchSource
    accumulate, size : int
        Batches per step, and ranks that compute them.
    num_steps : int
        Length of the run.

    Attributes
    ----------
    count : int
        ``accumulate``.
    """

    def __init__(self, loader: BatchSource, accumulate: int, size: int, num_steps: int) -> None:
        self._loader, self.count, self._size, self._num_steps = loader, accumulate, size, num_steps

    def shard(self, rank: int) -> tuple[int, int]:
        """Return which batches of a step a rank computes: the first index, and the one past the last."""
        return self.count * rank // self._size, self.count * (rank + 1) // self._size

    def load(self, step: int, first: int = 0, stop: int | None = None) -> tuple[Any, ...]:
        """Return the batches ``first`` to ``stop - 1`` of a step, by default all.

        Raises
        ------
        ValueError
            If the loader has fewer.
        """
        stop = self.count if stop is None else stop
        found = tuple(self._iterate(step * self.count + first, step * self.count + stop))
        return self._complete(found, stop - first, step)

    def iterate(self, start: int) -> Generator[tuple[Any, ...]]:
        """Yield all batches of each step from ``start`` on, by one iteration over the loader."""
        batches = self._iterate(start * self.count, self._num_steps * self.count)
        try:
            for step in range(start, self._num_steps):
                yield self._complete(tuple(itertools.islice(batches, self.count)), self.count, step)
        finally:
            getattr(batches, "close", lambda: None)()  # ends a generator's threads

    def iterate_shard(self, rank: int, start: int) -> Generator[tuple[Any, ...]]:
        """Yield a rank's batches of each step from ``start`` on; a thread loads them during the step before."""
        shard = self.shard(rank)
        with ThreadPoolExecutor(1, thread_name_prefix="lucid_maskrcnn_shard") as pool:
            ahead = pool.submit(self.load, start, *shard)
            for step in range(start, self._num_steps):
                batches = ahead.result()
                if step + 1 < self._num_steps:
                    ahead = pool.submit(self.load, step + 1, *shard)
                yield batches

    def _iterate(self, start: int, stop: int) -> Iterator[Any]:
        batches = self._loader.iterate(start, stop)
        if not isinstance(batches, Iterable):
            raise TypeError(
                f"The loader's iterate(start, stop) must return an iterator of batches, got {shown(batches)}."
            )
        return iter(batches)

    def _complete(self, batches: tuple[Any, ...], count: int, step: int) -> tuple[Any, ...]:
        if len(batches) < count:
            raise ValueError(
                f"The loader has no batches for step {step + 1}: iterate(start, stop) must yield stop - start of them."
            )
        for batch in batches:
            for name in ("images", "targets", "image_ids"):
                if not hasattr(batch, name):
                    raise TypeError(
                        f"Step {step + 1}: a batch of the loader must have images, targets and image_ids, got "
                        f"{shown(batch)} without {name}."
                    )
        return batches
