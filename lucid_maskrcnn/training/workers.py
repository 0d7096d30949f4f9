"""The work of a step: in this process, or shared among several.

NumPy's threads share one interpreter: where a model and its arrays are small, they wait for each other longer than they
compute. Processes do not. Each computes the gradients of a shard of the step's batches, and the process that trains,
which has rank 0, adds them up.
"""

from __future__ import annotations

import itertools
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Protocol

import lucid.nn as nn
import numpy as np
from lucid import Tensor
from threadpoolctl import ThreadpoolController

from ..validators import shown
from .batch_gradients import BatchGradients, BatchLosses
from .gradients import GradientMean

__all__ = ["BatchSource", "SingleWorker", "StepBatches", "WorkerPool", "check_processes", "start_workers"]

_ALIGNMENT = 64  # bytes


class BatchSource(Protocol):
    """What a trainer needs of a loader; :class:`lucid_maskrcnn.data.Loader` is one."""

    batch_size: int

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the batches ``start`` to ``stop - 1``, the same ones at every call.

        Each has ``images`` and ``targets``, as :meth:`MaskRCNN.get_loss` takes them, and ``image_ids``.
        """


def check_processes(processes: int, model: nn.Module) -> None:
    """Raise ValueError where a run cannot have more than one process."""
    if processes > 1 and sys.platform != "linux":
        raise ValueError(f"processes must be 1 on {sys.platform}, got {processes}: only Linux forks them safely.")
    if processes > 1 and any(p.is_gpu() for p in model.parameters()):
        raise ValueError(f"processes must be 1 for a model on the gpu, got {processes}: they divide the cpu's cores.")


# ------------------------------------------------------------------ batches


class StepBatches:
    """The batches of each step, and how they are divided among processes.

    Parameters
    ----------
    loader : BatchSource
    accumulate, processes : int
        Batches per step, and processes that compute them.
    num_steps : int
        Length of the run.
    """

    def __init__(self, loader: BatchSource, accumulate: int, processes: int, num_steps: int) -> None:
        self._loader, self._count, self._processes, self._num_steps = loader, accumulate, processes, num_steps

    def shard(self, rank: int) -> tuple[int, int]:
        """Return which batches of a step the process ``rank`` computes: the first index, and the one past the last."""
        return self._count * rank // self._processes, self._count * (rank + 1) // self._processes

    def load(self, step: int, first: int = 0, stop: int | None = None) -> tuple[Any, ...]:
        """Return the batches ``first`` to ``stop - 1`` of a step, by default all.

        Raises
        ------
        ValueError
            If the loader has fewer.
        """
        stop = self._count if stop is None else stop
        found = tuple(self._iterate(step * self._count + first, step * self._count + stop))
        return self._complete(found, stop - first, step)

    def iterate(self, start: int) -> Generator[tuple[Any, ...]]:
        """Yield all batches of each step from ``start`` on, by one iteration over the loader."""
        batches = self._iterate(start * self._count, self._num_steps * self._count)
        try:
            for step in range(start, self._num_steps):
                yield self._complete(tuple(itertools.islice(batches, self._count)), self._count, step)
        finally:
            getattr(batches, "close", lambda: None)()  # ends a generator's threads

    def iterate_shard(self, rank: int, start: int) -> Generator[tuple[Any, ...]]:
        """Yield a process's batches of each step from ``start`` on; a thread loads them during the step before."""
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


# ------------------------------------------------------------------ one process


def start_workers(gradients: BatchGradients, batches: StepBatches, processes: int) -> SingleWorker | WorkerPool:
    """Return what computes the steps of a run; with more than one process, these are started."""
    return SingleWorker(gradients, batches) if processes == 1 else WorkerPool(gradients, batches, processes)


class SingleWorker:
    """Computes all batches of a step in this process.

    Parameters
    ----------
    gradients : BatchGradients
    batches : StepBatches
    """

    def __init__(self, gradients: BatchGradients, batches: StepBatches) -> None:
        self._gradients, self._batches = gradients, batches
        self._iterator: Generator[tuple[Any, ...]] | None = None

    def compute(self, step: int, *, bn_frozen: bool) -> list[BatchLosses]:
        """Set the parameters' gradients to the mean over a step's batches, and return the losses of each batch.

        Parameters
        ----------
        step : int
            Counted from 0; steps follow each other.
        bn_frozen : bool
            Whether batch norm uses its running statistics.
        """
        if self._iterator is None:
            self._iterator = self._batches.iterate(step)
        mean = GradientMean(self._gradients.params)
        self._gradients.set_mode(bn_frozen=bn_frozen)
        losses = self._gradients.compute(next(self._iterator), step, 0, mean)
        mean.assign_mean()
        return losses

    def close(self) -> None:
        """End the threads of the loader."""
        if self._iterator is not None:
            self._iterator.close()


# ------------------------------------------------------------------ several processes


class WorkerPool:
    """Forked processes that compute gradients beside this one; they end with it, however it ends.

    This process has rank 0 and the others the ranks from 1 on. Before each step they get its weights and buffers.

    Parameters
    ----------
    gradients : BatchGradients
        Of a model on cpu; each process has its own.
    batches : StepBatches
    processes : int
        Including this one.
    """

    def __init__(self, gradients: BatchGradients, batches: StepBatches, processes: int) -> None:
        self._gradients, self._batches = gradients, batches
        self._iterator: Generator[tuple[Any, ...]] | None = None  # over the shard of the process that this runs in
        self._allocate_shared_memory(processes - 1)
        self._blas = ThreadpoolController()
        self._threads = max(1, len(os.sched_getaffinity(0)) // processes)
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        context: Any = multiprocessing.get_context("fork")
        for rank in range(1, processes):
            own, other = context.Pipe()
            self._pipes.append(own)
            process = context.Process(target=self._serve, args=(rank, other), daemon=True)
            with warnings.catch_warnings():
                # Python warns that locks held by other threads stay locked in the child. Those that matter here, of
                # OpenBLAS and of this package's threads and memory, are made anew there.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            other.close()
            self._processes.append(process)

    def _allocate_shared_memory(self, workers: int) -> None:
        """Allocate arrays for what goes to the workers and comes back from them."""
        model, params = self._gradients.model, self._gradients.params
        self._variables = list(model.state_dict(keep_vars=True).values())
        buffers = [i for i, variable in enumerate(self._variables) if isinstance(variable, nn.Buffer)]
        self._buffers = [self._variables[i] for i in buffers]
        self._shared_variables = _shared_arrays(self._variables)
        self._buffers_before = [self._shared_variables[i] for i in buffers]
        self._shared_gradients = [_shared_arrays(params) for _ in range(workers)]
        self._shared_buffers = [_shared_arrays(self._buffers) for _ in range(workers)]

    # -------------------------------------------------------------- in the process that trains

    def compute(self, step: int, *, bn_frozen: bool) -> list[BatchLosses]:
        """As :meth:`SingleWorker.compute`, each process computing its shard of the batches.

        Buffers, such as the running statistics of batch norm, become the mean of what the processes have.

        Raises
        ------
        Exception
            What a worker raised.
        ChildProcessError
            If a worker has ended.
        """
        self._start_step(step, bn_frozen)
        mean = GradientMean(self._gradients.params)
        with self._blas.limit(limits=self._threads, user_api="blas"):
            losses = self._compute_shard(0, step, bn_frozen, mean)
        losses += self._collect(step, mean)
        mean.assign_mean()
        return losses

    def _start_step(self, step: int, bn_frozen: bool) -> None:
        for variable, shared in zip(self._variables, self._shared_variables, strict=True):
            np.copyto(shared, variable.data)
        for pipe in self._pipes:
            try:
                pipe.send((step, bn_frozen))
            except BrokenPipeError:
                raise self._lost(pipe, step) from None

    def _collect(self, step: int, mean: GradientMean) -> list[BatchLosses]:
        """Wait for the workers, add their gradients to ``mean``, average the buffers, and return the losses."""
        losses: list[BatchLosses] = []
        for gradients, pipe in zip(self._shared_gradients, self._pipes, strict=True):
            try:
                answer = pipe.recv()
            except (EOFError, ConnectionResetError):
                raise self._lost(pipe, step) from None
            if isinstance(answer, Exception):
                raise answer
            count, has_gradient, of_shard = answer
            mean.add([g if has else None for g, has in zip(gradients, has_gradient, strict=True)], count)
            losses += of_shard
        for buffer, before, *others in zip(self._buffers, self._buffers_before, *self._shared_buffers, strict=True):
            if not np.array_equal(buffer.data, before):
                buffer.data = np.mean([buffer.data, *others], axis=0, dtype=buffer.data.dtype)
        return losses

    def close(self) -> None:
        """End the workers, whatever they do, and the loading thread."""
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.join()
            pipe.close()
        if self._iterator is not None:
            self._iterator.close()

    def _lost(self, pipe: Connection, step: int) -> ChildProcessError:
        process = self._processes[self._pipes.index(pipe)]
        process.join()
        return ChildProcessError(
            f"Step {step + 1}: one of the processes of this run has ended, with code {process.exitcode}. If memory is "
            "short, resume with fewer processes: the system ends those that need too much."
        )

    # -------------------------------------------------------------- in each process

    def _compute_shard(self, rank: int, step: int, bn_frozen: bool, mean: GradientMean) -> list[BatchLosses]:
        if self._iterator is None:
            self._iterator = self._batches.iterate_shard(rank, step)
        self._gradients.set_mode(bn_frozen=bn_frozen)
        return self._gradients.compute(next(self._iterator), step, self._batches.shard(rank)[0], mean)

    # -------------------------------------------------------------- in a worker

    def _serve(self, rank: int, pipe: Connection) -> None:
        for own in self._pipes:  # while a copy of a pipe is open, nobody would notice that the run has ended
            own.close()
        for name in (signal.SIGINT, signal.SIGTERM):  # they reach all processes; the one that trains ends the run
            signal.signal(name, signal.SIG_IGN)
        with ThreadpoolController().limit(limits=self._threads, user_api="blas"):
            while True:
                try:
                    step, bn_frozen = pipe.recv()
                    pipe.send(self._answer(rank, step, bn_frozen))
                except (EOFError, OSError):  # the process that trains has ended
                    return

    def _answer(self, rank: int, step: int, bn_frozen: bool) -> Any:
        """Return the number of batches, which parameters have gradients, and the losses; or an exception."""
        try:
            for variable, shared in zip(self._variables, self._shared_variables, strict=True):
                variable.data = shared.copy()  # a new array: what was computed from the old one is stale
            mean = GradientMean(self._gradients.params)
            losses = self._compute_shard(rank, step, bn_frozen, mean)
            for total, shared in zip(mean.sums, self._shared_gradients[rank - 1], strict=True):
                if total is not None:
                    np.copyto(shared, total)
            for buffer, shared in zip(self._buffers, self._shared_buffers[rank - 1], strict=True):
                np.copyto(shared, buffer.data)
            return mean.count, [total is not None for total in mean.sums], losses
        except Exception as error:
            error.add_note(traceback.format_exc())
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                return RuntimeError(f"{type(error).__name__}: {error}")
            return error


def _shared_arrays(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Return arrays of the tensors' shapes, in memory that forked processes share."""
    sizes = [-(-t.data.nbytes // _ALIGNMENT) * _ALIGNMENT for t in tensors]
    *starts, end = itertools.accumulate(sizes, initial=0)
    memory = mmap.mmap(-1, max(end, 1))
    return [np.ndarray(t.data.shape, t.data.dtype, memory, at) for t, at in zip(tensors, starts, strict=True)]
