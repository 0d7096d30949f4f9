"""What each rank of a group does in a step: the gradients of its share of the batches, and the sum over all ranks.

Ranks are the processes of one machine (``processes``) or those that a launcher has started on several: the sum is the
same code, and on cpu it gives the same gradients for any number of them, bit for bit.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import lucid.nn as nn
import numpy as np

from ..ops import array_module, device_array, dtype_name, evaluate, is_device_array
from ..ops.distributed import join_arrays, split_array
from .batch_gradients import BatchGradients, BatchLosses
from .divergence import DivergenceError
from .gradients import GradientMean
from .groups import Group, exchange, exchange_values
from .shared_errors import error_from_message, message_of_error
from .step_batches import StepBatches

__all__ = ["SharedSteps", "StepResult"]


@dataclass(frozen=True)
class StepResult:
    """What the ranks have computed in a step.

    Attributes
    ----------
    losses : list of (int, dict)
        Of each batch of the step, in order: its number of images, and its losses by name.
    interrupted : bool
        Whether any rank has been asked to stop.
    """

    losses: list[BatchLosses]
    interrupted: bool


class SharedSteps:
    """Computes this rank's share of each step, and adds the gradients of all ranks up.

    Parameters
    ----------
    gradients : BatchGradients
    batches : StepBatches
    group : Group
    """

    def __init__(self, gradients: BatchGradients, batches: StepBatches, group: Group) -> None:
        self._gradients, self._batches, self._group = gradients, batches, group
        self._iterator: Generator[tuple[Any, ...]] | None = None
        variables = gradients.model.state_dict(keep_vars=True).values()
        self._buffers = [variable for variable in variables if isinstance(variable, nn.Buffer)]
        self._vector = np.empty(0, np.float32)  # the gradients of all parameters, on cpu

    def compute(self, step: int, *, bn_frozen: bool, interrupted: bool = False, assign: bool = True) -> StepResult:
        """Set the parameters' gradients to the mean over a step's batches.

        Buffers, such as the running statistics of batch norm, become the mean of what the ranks have.

        Parameters
        ----------
        step : int
            Counted from 0; steps follow each other.
        bn_frozen : bool
            Whether batch norm uses its running statistics.
        interrupted : bool
            Whether this rank is asked to stop after the step.
        assign : bool
            Whether this rank needs the gradients.

        Raises
        ------
        Exception
            What has been raised on one of the ranks, on all of them.
        GroupError
            If a rank has ended, or does not answer.
        """
        mean = GradientMean(self._gradients.params)
        before = [b.data if is_device_array(b.data) else b.data.copy() for b in self._buffers]
        try:
            if self._group.size == 1:
                losses = self._own(step, bn_frozen, mean)
            else:
                losses, interrupted = self._shared(step, bn_frozen, interrupted, mean, before)
        except BaseException:
            for b, old in zip(self._buffers, before, strict=True):
                b.data = old  # a checkpoint that is written now is of the step before
            raise
        if assign:
            mean.assign_mean()
        return StepResult(losses, interrupted)

    def close(self) -> None:
        """End the threads of the loader."""
        if self._iterator is not None:
            self._iterator.close()

    # -------------------------------------------------------------- on this rank

    def _own(self, step: int, bn_frozen: bool, mean: GradientMean) -> list[BatchLosses]:
        batches, rank = self._batches, self._group.rank
        if self._iterator is None:
            single = self._group.size == 1
            self._iterator = batches.iterate(step) if single else batches.iterate_shard(rank, step)
        self._gradients.set_mode(bn_frozen=bn_frozen)
        return self._gradients.compute(next(self._iterator), step, batches.shard(rank)[0], mean)

    # -------------------------------------------------------------- with the others

    def _shared(
        self, step: int, bn_frozen: bool, interrupted: bool, mean: GradientMean, before: list[Any]
    ) -> tuple[list[BatchLosses], bool]:
        failure: Exception | None = None
        message: dict[str, Any] = {"interrupted": interrupted}
        try:
            message["losses"] = self._own(step, bn_frozen, mean)
            message["count"] = mean.count
            message["has_gradient"] = "".join("01"[total is not None] for total in mean.sums)
            message["moved"] = not all(_same(b.data, old) for b, old in zip(self._buffers, before, strict=True))
        except Exception as error:
            failure, message = error, {"error": message_of_error(error)}
        answers = exchange_values(self._group, message)
        failed = next((rank for rank, answer in enumerate(answers) if "error" in answer), None)
        if failed is not None:
            raise self._error_of(failed, answers[failed]["error"], failure)
        has_gradient = [any(flags) for flags in zip(*(map(int, a["has_gradient"]) for a in answers), strict=True)]
        self._add_up(mean, has_gradient, moved=any(answer["moved"] for answer in answers))
        mean.count = sum(answer["count"] for answer in answers)
        losses = [(number, values) for answer in answers for number, values in answer["losses"]]
        return losses, any(answer["interrupted"] for answer in answers)

    def _error_of(self, rank: int, message: dict[str, Any], own: Exception | None) -> Exception:
        """Return the error of a rank; rank 0 writes the batches of one that writes no files."""
        error = own if own is not None and rank == self._group.rank else error_from_message(message)
        packed = exchange(self._group, getattr(error, "packed", None) or b"")[rank]  # which is in no message
        if packed and self._group.rank == 0 and isinstance(error, DivergenceError):
            error.packed = packed
            error = self._gradients.guard.write_packed(error)
        return error

    def _add_up(self, mean: GradientMean, has_gradient: list[bool], *, moved: bool) -> None:
        """Replace the sums of this rank by those over all ranks, and the buffers by their mean."""
        params = [p for p, has in zip(mean.params, has_gradient, strict=True) if has]
        own = [total for total, has in zip(mean.sums, has_gradient, strict=True) if has]
        shapes = [tuple(p.shape) for p in params]
        on_gpu = any(p.is_gpu() for p in params)
        vector = self._joined_on_gpu(params, own) if on_gpu else self._joined(params, own)
        statistics = (
            [np.concatenate([np.asarray(b.data, np.float64).reshape(-1) for b in self._buffers])] if moved else []
        )
        total, *statistics = self._group.all_reduce([vector, *statistics])
        sums = iter(split_array(total, shapes) if on_gpu else _views(total, shapes))
        if on_gpu:  # what is not computed yet keeps the arrays of the batches alive
            evaluate([total])
        mean.sums = [next(sums) if has else None for has in has_gradient]
        for values in statistics:
            parts = _views(values / self._group.size, [tuple(b.data.shape) for b in self._buffers])
            for b, part in zip(self._buffers, parts, strict=True):
                b.data = device_array(part.astype(dtype_name(b)), b.device)

    def _joined(self, params: list[Any], sums: list[Any]) -> np.ndarray:
        """Return the sums as one vector, 0 where this rank has none: hundreds of messages would take longer."""
        # The sum of two float32 values is rounded once, whatever it is computed in.
        exact = self._batches.count <= 2 and all(p.data.dtype == np.float32 for p in params)
        dtype, length = (np.float32 if exact else np.float64), sum(p.size for p in params)
        if self._vector.dtype != dtype or self._vector.size != length:
            self._vector = np.empty(length, dtype)
        for part, total in zip(_views(self._vector, [tuple(p.shape) for p in params]), sums, strict=True):
            part[...] = 0 if total is None else total
        return self._vector

    def _joined_on_gpu(self, params: list[Any], sums: list[Any]) -> Any:
        zeros = array_module(params[0].data).zeros
        return join_arrays(
            [zeros(tuple(p.shape), dtype=p.data.dtype) if s is None else s for p, s in zip(params, sums, strict=True)]
        )


def _same(array: Any, before: Any) -> bool:
    return array is before if is_device_array(array) else np.array_equal(array, before)


def _views(vector: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Return the parts of a vector in these shapes, one after the other."""
    found, at = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        found.append(vector[at : at + size].reshape(shape))
        at += size
    return found
