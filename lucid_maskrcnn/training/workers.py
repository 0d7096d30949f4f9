"""Several processes for the batches of one step.

NumPy's threads share one interpreter: where a model is small and its arrays with it, they wait for each other
longer than they compute. Processes do not. Each computes the gradients of its own shard of a step's batches,
and the process that trains adds them up.
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
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any

import lucid.nn as nn
import numpy as np
from lucid import Tensor
from threadpoolctl import ThreadpoolController

from .gradients import GradientMean

__all__ = ["WorkerPool", "check_processes"]

_ALIGNMENT = 64  # bytes


def check_processes(processes: int, model: nn.Module) -> None:
    """Raise ValueError where a run cannot have more than one process."""
    if processes > 1 and sys.platform != "linux":
        raise ValueError(f"processes must be 1 on {sys.platform}, got {processes}: only Linux forks them safely.")
    if processes > 1 and any(p.is_gpu() for p in model.parameters()):
        raise ValueError(f"processes must be 1 for a model on the gpu, got {processes}: they share out a cpu's cores.")


class WorkerPool:
    """Forked processes that compute gradients beside this one; they end with it, however it ends.

    Parameters
    ----------
    model : Module
        On the cpu. Each process has its own; before each step it gets this one's weights and buffers.
    params : sequence of Parameter
        Those that have gradients.
    workers : int
        How many processes to start: this one works too.
    work : callable
        ``work(number, step, bn_frozen, mean)`` runs in worker ``number``, counted from 1: it computes its shard of the
        step's batches, adds their gradients to ``mean``, and returns one (n_images, losses) per batch.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Sequence[Tensor],
        workers: int,
        work: Callable[[int, int, bool, GradientMean], list[Any]],
    ) -> None:
        self._work, self._params = work, list(params)
        self._variables = list(model.state_dict(keep_vars=True).values())
        self._weights = _shared(self._variables)
        buffers = [i for i, variable in enumerate(self._variables) if isinstance(variable, nn.Buffer)]
        self._buffers = [self._variables[i] for i in buffers]
        self._sent = [self._weights[i] for i in buffers]  # what they were before the step
        self._gradients = [_shared(self._params) for _ in range(workers)]
        self._moved = [_shared(self._buffers) for _ in range(workers)]
        self._blas = ThreadpoolController()
        self._threads = max(1, len(os.sched_getaffinity(0)) // (workers + 1))
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._step = 0
        context: Any = multiprocessing.get_context("fork")
        for number in range(1, workers + 1):
            own, other = context.Pipe()
            self._pipes.append(own)
            process = context.Process(target=self._serve, args=(number, other), daemon=True)
            with warnings.catch_warnings():
                # Python warns that other threads' locks may stay locked in the child. Those that matter here, of
                # OpenBLAS and of this package's pool and memory, are made anew there.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            other.close()
            self._processes.append(process)

    def limit_threads(self) -> AbstractContextManager[Any]:
        """Hold this process to its shard of the cores, while the workers use theirs."""
        return self._blas.limit(limits=self._threads, user_api="blas")

    def begin(self, step: int, bn_frozen: bool) -> None:
        """Let the workers compute their shard of a step, from this process's weights."""
        self._step = step
        for variable, shared in zip(self._variables, self._weights, strict=True):
            np.copyto(shared, variable.data)
        for pipe in self._pipes:
            try:
                pipe.send((step, bn_frozen))
            except BrokenPipeError:
                raise self._lost(pipe) from None

    def finish(self, mean: GradientMean) -> list[Any]:
        """Wait for the workers, add their gradients to ``mean``, and return what they say of their batches.

        Buffers, as the statistics of batch norm, become the mean of what the processes have made of them.

        Raises
        ------
        Exception
            What a worker raised.
        ChildProcessError
            If a worker is gone.
        """
        said: list[Any] = []
        for i, pipe in enumerate(self._pipes):
            try:
                answer = pipe.recv()
            except (EOFError, ConnectionResetError):
                raise self._lost(pipe) from None
            if isinstance(answer, Exception):
                raise answer
            count, given, parts = answer
            mean.add([g if has else None for g, has in zip(self._gradients[i], given, strict=True)], count)
            said += parts
        for buffer, sent, *others in zip(self._buffers, self._sent, *self._moved, strict=True):
            if not np.array_equal(buffer.data, sent):
                buffer.data = np.mean([buffer.data, *others], axis=0, dtype=buffer.data.dtype)
        return said

    def close(self) -> None:
        """End the workers, whatever they do."""
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.join()
            pipe.close()

    def _lost(self, pipe: Connection) -> ChildProcessError:
        process = self._processes[self._pipes.index(pipe)]
        process.join()
        return ChildProcessError(
            f"Step {self._step + 1}: one of the processes of this run has ended, with code {process.exitcode}. If "
            "memory is short, resume with fewer: the system ends what takes too much."
        )

    # -------------------------------------------------------------- in a worker

    def _serve(self, number: int, pipe: Connection) -> None:
        for own in self._pipes:  # as long as a copy of it is open, no end of this run would be noticed
            own.close()
        for name in (signal.SIGINT, signal.SIGTERM):  # sent to all; the training process ends the run in good order
            signal.signal(name, signal.SIG_IGN)
        with ThreadpoolController().limit(limits=self._threads, user_api="blas"):
            while True:
                try:
                    step, bn_frozen = pipe.recv()
                    pipe.send(self._answer(number, step, bn_frozen))
                except (EOFError, OSError):  # the training process is gone
                    return

    def _answer(self, number: int, step: int, bn_frozen: bool) -> Any:
        """Return the number of batches, which parameters have gradients, and what ``work`` returned; or an error."""
        try:
            for variable, shared in zip(self._variables, self._weights, strict=True):
                variable.data = shared.copy()  # a new array: what was computed from the old one is stale
            mean = GradientMean(self._params)
            parts = self._work(number, step, bn_frozen, mean)
            for total, shared in zip(mean.sums, self._gradients[number - 1], strict=True):
                if total is not None:
                    np.copyto(shared, total)
            for buffer, shared in zip(self._buffers, self._moved[number - 1], strict=True):
                np.copyto(shared, buffer.data)
            return mean.count, [total is not None for total in mean.sums], parts
        except Exception as error:
            error.add_note(traceback.format_exc())
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                return RuntimeError(f"{type(error).__name__}: {error}")
            return error


def _shared(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Return arrays of the same shapes, in memory that forked processes share."""
    sizes = [-(-t.data.nbytes // _ALIGNMENT) * _ALIGNMENT for t in tensors]
    *starts, end = itertools.accumulate(sizes, initial=0)
    memory = mmap.mmap(-1, max(end, 1))
    return [np.ndarray(t.data.shape, t.data.dtype, memory, at) for t, at in zip(tensors, starts, strict=True)]
