"""What a trainer needs of a group of processes, and messages made of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

__all__ = ["Group", "GroupError", "SingleGroup", "exchange", "exchange_values", "share", "share_value"]


class GroupError(ConnectionError):
    """Another process of the group has ended, does not answer, or has stopped for a reason that the message tells."""


class Group(Protocol):
    """The processes that train one model together; :func:`init_group` joins one.

    Each method is called by all of them, in the same order and with arrays of the same shapes and dtypes, and returns
    once all have called it. What it returns is valid until the next call.

    Attributes
    ----------
    rank : int
        Of this process, from 0 on.
    size : int
        The number of processes.
    """

    rank: int
    size: int

    def all_reduce(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the sums over all ranks of NumPy or MLX arrays, which may be overwritten.

        Raises
        ------
        GroupError
            If another process has ended or does not answer.
        """

    def broadcast(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the NumPy arrays of rank 0; those of the others say shapes and dtypes."""

    def barrier(self) -> None:
        """Wait until all are here."""


class SingleGroup:
    """A process that trains alone."""

    def __repr__(self) -> str:
        return "SingleGroup(rank 0 of 1)"

    rank, size = 0, 1

    def all_reduce(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the arrays."""
        return list(arrays)

    def broadcast(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the arrays."""
        return list(arrays)

    def barrier(self) -> None:
        """Do not wait."""


def exchange(group: Group, message: bytes) -> list[bytes]:
    """Return the messages of all ranks, which may be of any length, by two sums of arrays."""
    lengths = np.zeros(group.size, np.int64)
    lengths[group.rank] = len(message)
    lengths = np.array(group.all_reduce([lengths])[0])
    ends = np.cumsum(lengths).tolist()
    # Each rank's bytes stand in a place of their own, and what is added there is 0.
    everything = np.zeros(max(1, ends[-1]), np.uint8)
    everything[ends[group.rank] - len(message) : ends[group.rank]] = np.frombuffer(message, np.uint8)
    content = np.asarray(group.all_reduce([everything])[0]).tobytes()
    return [content[start:end] for start, end in itertools.pairwise([0, *ends])]


def share(group: Group, message: bytes | None) -> bytes:
    """Return the message of rank 0; that of the others is ignored."""
    return exchange(group, message or b"")[0] if group.size > 1 else message or b""


def exchange_values(group: Group, value: Any) -> list[Any]:
    """Return the values of all ranks, as JSON has them."""
    return [json.loads(message) for message in exchange(group, json.dumps(value).encode())]


def share_value(group: Group, value: Any) -> Any:
    """Return the value of rank 0, as JSON has it; that of the others is ignored."""
    return json.loads(share(group, json.dumps(value).encode() if group.rank == 0 else None))
