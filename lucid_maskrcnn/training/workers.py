"""The work of a step: on this rank, or shared among forked processes of this machine.

NumPy's threads share one interpreter: where a model and its arrays are small, they wait for each other longer than they
compute. Processes do not.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from typing import Any

import lucid.nn as nn
import numpy as np
from threadpoolctl import ThreadpoolController

from .batch_gradients import BatchGradients
from .groups import ForkedGroup, Group, GroupError
from .shared_steps import SharedSteps, StepResult
from .step_batches import StepBatches

__all__ = ["WorkerPool", "check_processes", "start_workers"]


def check_processes(processes: int, model: nn.Module, group: Group) -> None:
    """Raise ValueError where a run cannot have more than one process."""
    if processes == 1:
        return
    if group.size > 1:
        raise ValueError(
            f"processes must be 1 in a group of {group.size} ranks, got {processes}: start more ranks on each machine."
        )
    if sys.platform != "linux":
        raise ValueError(f"processes must be 1 on {sys.platform}, got {processes}: only Linux forks them safely.")
    if any(p.is_gpu() for p in model.parameters()):
        raise ValueError(f"processes must be 1 for a model on the gpu, got {processes}: they divide the cpu's cores.")


def start_workers(
    gradients: BatchGradients, batches: StepBatches, processes: int, group: Group
) -> SharedSteps | WorkerPool:
    """Return what computes the steps of a run; with more than one process, these are started."""
    return SharedSteps(gradients, batches, group) if processes == 1 else WorkerPool(gradients, batches, processes)


class WorkerPool:
    """Forked processes that compute gradients beside this one; they end with it, however it ends.

    They are a group of which this process has rank 0. Before each step they get its weights and buffers.

    Parameters
    ----------
    gradients : BatchGradients
        Of a model on cpu; each process has its own.
    batches : StepBatches
    processes : int
        Including this one.
    """

    def __init__(self, gradients: BatchGradients, batches: StepBatches, processes: int) -> None:
        self._variables = list(gradients.model.state_dict(keep_vars=True).values())
        values = sum(variable.size + 8 for variable in self._variables)
        self._group = ForkedGroup(processes, 2 * 8 * values)  # gradients and statistics in float64
        self._steps = SharedSteps(gradients, batches, self._group)
        self._blas = ThreadpoolController()
        self._threads = max(1, len(os.sched_getaffinity(0)) // processes)
        self._processes: list[Any] = []
        context: Any = multiprocessing.get_context("fork")
        for rank in range(1, processes):
            process = context.Process(target=self._serve, args=(rank,), daemon=True)
            with warnings.catch_warnings():
                # Python warns that locks held by other threads stay locked in the child. Those that matter here, of
                # OpenBLAS and of this package's threads and memory, are made anew there.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            self._processes.append(process)
        self._group.enter_main(self._how_it_ended)

    # -------------------------------------------------------------- in the process that trains

    def compute(self, step: int, *, bn_frozen: bool, interrupted: bool = False) -> StepResult:
        """As :meth:`SharedSteps.compute`.

        Raises
        ------
        Exception
            What a worker raised.
        ChildProcessError
            If a worker has ended.
        """
        try:
            self._group.broadcast([np.array([step, bn_frozen])])
            self._group.broadcast([variable.data for variable in self._variables])
            with self._blas.limit(limits=self._threads, user_api="blas"):
                return self._steps.compute(step, bn_frozen=bn_frozen, interrupted=interrupted)
        except GroupError as error:
            raise ChildProcessError(
                f"Step {step + 1}: {error}. If memory is short, resume with fewer processes: the system ends those "
                "that need too much."
            ) from None

    def close(self) -> None:
        """End the workers, whatever they do, and the loading thread."""
        for process in self._processes:
            process.kill()
            process.join()
        self._group.close()
        self._steps.close()

    def _how_it_ended(self, rank: int) -> str:
        process = self._processes[rank - 1]
        process.join()
        return f"has ended, with code {process.exitcode}"

    # -------------------------------------------------------------- in a worker

    def _serve(self, rank: int) -> None:
        self._group.enter_worker(rank)
        for name in (signal.SIGINT, signal.SIGTERM):  # they reach all processes; the one that trains ends the run
            signal.signal(name, signal.SIG_IGN)
        with ThreadpoolController().limit(limits=self._threads, user_api="blas"):
            while True:
                try:
                    self._serve_step()
                except GroupError:  # the process that trains has ended
                    return
                except Exception:  # which that process raises, too
                    continue

    def _serve_step(self) -> None:
        step, bn_frozen = (int(n) for n in self._group.broadcast([np.empty(0)])[0])
        shared = self._group.broadcast([])
        for variable, array in zip(self._variables, shared, strict=True):
            variable.data = array.copy()  # a new array: what was computed from the old one is stale
        self._steps.compute(step, bn_frozen=bool(bn_frozen), assign=False)
