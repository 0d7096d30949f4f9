"""A group of forked processes, which exchange arrays through shared memory."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lucid_maskrcnn.training.groups import ForkedGroup, GroupError, exchange

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # that it has threads, and forks
]


def in_group(size: int, capacity: int, function: Callable[[ForkedGroup], Any], worker: Any = None) -> Any:
    """Call a function on each rank of a group of processes, and return what rank 0 returns."""
    group = ForkedGroup(size, capacity)
    context: Any = multiprocessing.get_context("fork")

    def serve(rank: int) -> None:
        group.enter_worker(rank)
        (worker or function)(group)

    processes = [context.Process(target=serve, args=(rank,), daemon=True) for rank in range(1, size)]
    for process in processes:
        process.start()
    group.enter_main(lambda rank: f"{rank} is gone")
    try:
        return function(group)
    finally:
        group.close()
        for process in processes:
            process.join(20)
            process.kill()


@pytest.mark.parametrize("capacity", [0, 100, 1 << 16])
def test_sums_of_arrays_that_fit_or_do_not(capacity: int) -> None:
    def add_up(group: ForkedGroup) -> list[np.ndarray]:
        own = [np.full((3, 5), group.rank + 1, np.float64), np.arange(7, dtype=np.int64) * group.rank, np.empty((0, 2))]
        return [array.copy() for array in group.all_reduce(own)]

    first, second, empty = in_group(3, capacity, add_up)
    np.testing.assert_array_equal(first, np.full((3, 5), 6.0))
    np.testing.assert_array_equal(second, np.arange(7) * 3)
    assert empty.shape == (0, 2)


@pytest.mark.parametrize("capacity", [0, 1 << 16])
def test_messages_and_broadcasts_follow_each_other(capacity: int) -> None:
    def talk(group: ForkedGroup) -> list[Any]:
        heard: list[Any] = []
        for turn in range(5):
            own = np.arange(turn + 1) if group.rank == 0 else np.empty(0)
            heard.append(group.broadcast([own])[0].tolist())
            group.barrier()
            heard += exchange(group, bytes([group.rank, turn]) * turn)
        return heard

    def check(group: ForkedGroup) -> None:
        heard = talk(group)
        assert exchange(group, repr(heard).encode())[0].decode() == repr(heard)

    def compare(group: ForkedGroup) -> bool:
        heard = talk(group)
        return all(answer.decode() == repr(heard) for answer in exchange(group, repr(heard).encode()))

    assert in_group(3, capacity, compare, check)


def test_another_shape_is_refused() -> None:
    def add_up(group: ForkedGroup) -> None:
        group.all_reduce([np.zeros(3 + group.rank)])

    def worker(group: ForkedGroup) -> None:
        with pytest.raises(GroupError):  # rank 0 has raised an error, and its end of the pipe is closed
            add_up(group)

    with pytest.raises(ValueError, match=r"arrays of the same shapes and dtypes on all ranks"):
        in_group(2, 100, add_up, worker)


def test_a_worker_that_ends_is_named() -> None:
    with pytest.raises(GroupError, match=r"one of the processes of this run 1 is gone"):
        in_group(2, 100, lambda group: group.all_reduce([np.zeros(3)]), lambda group: None)
