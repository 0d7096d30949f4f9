"""A group of processes that one process has forked, which exchange arrays through shared memory."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ...reprs import described
from .protocol import GroupError

__all__ = ["ForkedGroup"]

_ALIGNMENT = 64  # bytes

# Of each array: its dtype and place in shared memory, and its shape; or None, and the array.
type _Message = list[tuple[Any, Any]]


class ForkedGroup:
    """A process and its forked workers, rank 0 and the ranks from 1 on; it is made before the fork.

    Parameters
    ----------
    size : int
        The number of processes, including this one.
    capacity : int
        Bytes of shared memory for each of them. Arrays that do not fit go through a pipe.
    """

    def __init__(self, size: int, capacity: int) -> None:
        self.rank, self.size = 0, size
        context: Any = multiprocessing.get_context("fork")
        pairs = [context.Pipe() for _ in range(1, size)]
        self._pipes: list[Connection] = [own for own, _ in pairs]
        self._others: list[Connection] = [other for _, other in pairs]
        self._slots = [_SharedMemory(capacity) for _ in range(size)]  # that of rank 0 has the results
        self._ended: Callable[[int], str] = lambda rank: "has ended"

    @described
    def __repr__(self) -> str:
        return f"ForkedGroup(rank {self.rank} of {self.size})"

    def enter_worker(self, rank: int) -> None:
        """Make this the group of a worker: called once in it, first."""
        # While a copy of a pipe's end is open, nobody would notice that its process has ended.
        for pipe in (*self._pipes, *self._others[: rank - 1], *self._others[rank:]):
            pipe.close()
        self.rank, self._pipes = rank, [self._others[rank - 1]]

    def enter_main(self, ended: Callable[[int], str]) -> None:
        """Make this the group of rank 0: called once the workers are started. ``ended`` says how a rank has ended."""
        for pipe in self._others:
            pipe.close()
        self._ended = ended

    def all_reduce(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the sums over all ranks, added in their order."""
        if self.rank:
            self._send(self._pipes[0], self._slots[self.rank].put(arrays))
            return self._slots[0].get(self._receive(0))
        messages = [self._receive(rank) for rank in range(1, self.size)]
        others = [slot.get(message) for slot, message in zip(self._slots[1:], messages, strict=True)]
        sums, message = self._slots[0].room_for(arrays)
        for total, own, *more in zip(sums, arrays, *others, strict=True):
            if any(array.shape != own.shape or array.dtype != own.dtype for array in more):
                raise ValueError("all_reduce needs arrays of the same shapes and dtypes on all ranks.")
            np.add(own, more[0], out=total)
            for array in more[1:]:
                total += array
        self._send_to_all(message)
        return sums

    def broadcast(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the arrays of rank 0."""
        if self.rank:
            self._send(self._pipes[0], [])
            return self._slots[0].get(self._receive(0))
        for rank in range(1, self.size):  # what they were given before, they have read now
            self._receive(rank)
        self._send_to_all(self._slots[0].put(arrays))
        return list(arrays)

    def barrier(self) -> None:
        """Wait until all are here."""
        self.broadcast([])

    def close(self) -> None:
        """Close the pipes: workers that wait for something end."""
        for pipe in self._pipes:
            pipe.close()

    def _send_to_all(self, message: _Message) -> None:
        for pipe in self._pipes:
            self._send(pipe, message)

    def _send(self, pipe: Connection, message: _Message) -> None:
        try:
            pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._lost(pipe) from None

    def _receive(self, rank: int) -> _Message:
        pipe = self._pipes[max(rank - 1, 0)]
        try:
            message: _Message = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._lost(pipe) from None
        return message

    def _lost(self, pipe: Connection) -> GroupError:
        if self.rank:
            return GroupError("The process that trains has ended.")
        return GroupError(f"one of the processes of this run {self._ended(self._pipes.index(pipe) + 1)}")


class _SharedMemory:
    """Memory of one process that those forked from it see, too."""

    def __init__(self, capacity: int) -> None:
        self._memory = mmap.mmap(-1, max(capacity, 1))
        self._capacity = capacity

    def room_for(self, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], _Message]:
        """Return arrays of these shapes and dtypes, in this memory as far as they fit, and the message with them."""
        rooms: list[np.ndarray] = []
        message: _Message = []
        at = 0
        for array in arrays:
            shared = at + array.nbytes <= self._capacity
            room = np.ndarray(array.shape, array.dtype, self._memory, at) if shared else np.empty_like(array)
            rooms.append(room)
            message.append(((array.dtype.str, at), array.shape) if shared else (None, room))
            at += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT if shared else 0
        return rooms, message

    def put(self, arrays: Sequence[np.ndarray]) -> _Message:
        """Copy arrays, and return the message that tells another process where they are."""
        rooms, message = self.room_for(arrays)
        for room, array in zip(rooms, arrays, strict=True):
            np.copyto(room, array)
        return message

    def get(self, message: _Message) -> list[np.ndarray]:
        """Return the arrays of a message."""
        return [
            what if place is None else np.ndarray(what, np.dtype(place[0]), self._memory, place[1])
            for place, what in message
        ]
