"""Groups of processes that a launcher has started, on one machine or on several."""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any

import numpy as np

from ...call_answers import answers_wrong_calls
from ...ops import device_array, is_device_array
from ...ops.distributed import DISTRIBUTED_BACKENDS, DistributedSum
from ...reprs import described
from ...user_warnings import warn_user
from ...validators import choice, positive_number
from .protocol import GroupError, share_value
from .watch import StartLimit, Watch

__all__ = ["LaunchedGroup", "init_group"]

_LAUNCHERS = {
    "ring": "mlx.launch -n N -- COMMAND",
    "mpi": "mpiexec -n N python -m mpi4py -m lucid_maskrcnn … (or a script)",
    "nccl": "mlx.launch -n N --backend nccl -- COMMAND",
    "jaccl": "mlx.launch -n N --backend jaccl -- COMMAND",
}
_LEAST_TIMEOUT = 3.0  # seconds: the processes hear of each other once a second
_RANK_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")  # what launchers of MPI tell their processes


@answers_wrong_calls
def init_group(backend: str, *, timeout: float = 60.0, start_timeout: float = 300.0) -> LaunchedGroup:
    """Join the group of the processes that a launcher has started, for ``Trainer(group=…)``.

    Parameters
    ----------
    backend : {"ring", "mpi", "nccl", "jaccl"}
        "ring": MLX's own engine over TCP, for processes that ``mlx.launch`` has started, or others with ``MLX_RANK``
        and ``MLX_HOSTFILE`` set. "mpi": MPI by mpi4py (``pip install 'lucid-maskrcnn[mpi]'``), for processes started by
        ``mpiexec -n N python -m mpi4py …``; without mpi4py by MLX, if that finds an MPI. "nccl": MLX's for NVIDIA GPUs.
        "jaccl": MLX's between Macs over Thunderbolt.
    timeout : float
        Seconds without an answer after which another process counts as lost.
    start_timeout : float
        Seconds to wait until all processes have started; then this one ends.

    Returns
    -------
    LaunchedGroup
        A context manager: close it when training is over, so that the others do not take this process for lost.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    GroupError
        If this process has not been started by a launcher, or the others cannot be reached.
    ImportError
        If there is no MPI.

    Notes
    -----
    None of the connections is protected by a password or encrypted: use a private network. The processes also connect
    to rank 0 on a port that the system chooses, to watch over each other.
    """
    choice("backend", backend, DISTRIBUTED_BACKENDS)
    if positive_number("timeout", timeout) < _LEAST_TIMEOUT:
        raise ValueError(f"timeout must be at least {_LEAST_TIMEOUT:g} seconds, got {timeout:g}.")
    start_timeout = positive_number("start_timeout", start_timeout)
    sentence = f"lucid-maskrcnn: The other ranks of the group have not started within {start_timeout:g} seconds."
    with StartLimit(start_timeout, sentence):
        engine = _MPI() if backend == "mpi" and _has_mpi4py() else _mlx(backend)
        group = LaunchedGroup(engine, timeout)
    if group.size == 1:
        warn_user(f"The group has this process only: start it with {_LAUNCHERS[backend]}.")
    return group


class LaunchedGroup:
    """The processes that a launcher has started; :func:`init_group` makes it. See :class:`Group` for its methods.

    Attributes
    ----------
    rank, size : int
        Of this process, from 0 on, and the number of processes.
    """

    def __init__(self, engine: Any, timeout: float) -> None:
        self._engine = engine
        self.rank, self.size = engine.rank, engine.size
        self._watch: Watch | None = None  # it is set up by the engine
        if self.size > 1:
            self._watch = Watch(self.rank, self.size, self._share, timeout)
            atexit.register(self._at_exit)

    @described
    def __repr__(self) -> str:
        return f"LaunchedGroup(rank {self.rank} of {self.size})"

    def all_reduce(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the sums over all ranks of NumPy or MLX arrays.

        Raises
        ------
        GroupError
            If another process has ended or does not answer.
        """
        if self.size == 1:
            return list(arrays)
        with nullcontext() if self._watch is None else self._watch.waiting():
            return [self._engine(array) for array in arrays]

    def broadcast(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the NumPy arrays of rank 0."""
        # Where all others have zeros, the sum is that of rank 0. Bytes, as 0.0 + -0.0 is not -0.0.
        own = [np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays]
        sums = self.all_reduce([a if self.rank == 0 else np.zeros_like(a) for a in own])
        return [total.view(a.dtype).reshape(a.shape) for total, a in zip(sums, arrays, strict=True)]

    def barrier(self) -> None:
        """Wait until all are here."""
        self.all_reduce([np.zeros(1, np.uint8)])

    def abort(self, message: str) -> None:
        """Tell the others that this process stops, and why: they stop, too.

        A rank other than 0 waits until rank 0 has ended, which may have a checkpoint to write: launchers end all
        processes once one of them has failed.
        """
        if self._watch is not None:
            self._watch.tell(message)

    @property
    def speaks(self) -> bool:
        """Whether this rank tells the user what has happened: rank 0, and rank 1 if that is lost."""
        return self.rank == 0 if self._watch is None else self._watch.speaks

    def close(self) -> None:
        """Leave the group, once all do."""
        if self._watch is not None and not self._watch.is_closed:
            self._watch.leave()
            self.barrier()
            self._watch.close()

    def __enter__(self) -> LaunchedGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort(f"{kind.__name__}: {error}" if kind is not None and str(error) else type(error).__name__)

    def _share(self, message: dict[str, Any] | None) -> Any:
        return share_value(self, message)

    def _at_exit(self) -> None:
        assert self._watch is not None
        if self._watch.lost is not None:
            self._watch.end_frozen()
            self._engine.leave_at_once()
        elif getattr(sys, "last_exc", None) is None:  # training is over, and close() has been forgotten
            self._watch.close()


# ------------------------------------------------------------------ engines


class _MLX(DistributedSum):
    def leave_at_once(self) -> None:
        """Do nothing: the processes of these engines do not wait for each other at their end."""


def _mlx(backend: str) -> _MLX:
    try:
        return _MLX(backend)
    except RuntimeError as error:
        if backend == "mpi":
            raise ImportError(
                "The group 'mpi' needs mpi4py: pip install 'lucid-maskrcnn[mpi]', and start the processes with "
                f"{_LAUNCHERS['mpi']}."
            ) from error
        raise GroupError(
            f"Cannot join a group {backend!r}: start the processes with {_LAUNCHERS[backend]}. MLX says: "
            f"{str(error).strip()}"
        ) from error


def _has_mpi4py() -> bool:
    return importlib.util.find_spec("mpi4py") is not None


class _MPI:
    """Sums by mpi4py, in place."""

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise ImportError(
                f"mpi4py finds no MPI ({error}): pip install 'lucid-maskrcnn[mpi]', or install the system's."
            ) from error
        self._mpi, self._world = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        started = max((int(n) for name in _RANK_COUNTS if (n := os.environ.get(name, "")).isdecimal()), default=1)
        if self.size == 1 and started > 1:
            raise GroupError(
                f"The launcher has started {started} processes, but each of them sees itself alone: mpiexec is of "
                "another MPI than mpi4py's."
            )

    def __call__(self, array: Any) -> Any:
        on_gpu = is_device_array(array)
        on_host = np.ascontiguousarray(array)
        if on_gpu or not on_host.flags.writeable:
            on_host = on_host.copy()
        self._world.Allreduce(self._mpi.IN_PLACE, on_host)
        return device_array(on_host, "gpu") if on_gpu else on_host

    def leave_at_once(self) -> None:
        """End this process, and with it those that wait for it: MPI would wait for the lost one at the end."""
        self._world.Abort(1)
