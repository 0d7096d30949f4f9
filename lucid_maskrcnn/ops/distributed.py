"""Sums over the processes of a training run by MLX, which brings engines for it: ring, MPI, NCCL and JACCL."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from lucid_maskrcnn.validators import choice

from ._operation import Array

__all__ = ["DISTRIBUTED_BACKENDS", "DistributedSum", "join_arrays", "split_array"]

DISTRIBUTED_BACKENDS = ("ring", "mpi", "nccl", "jaccl")


class DistributedSum:
    """Joins the processes that a launcher has started, and adds up arrays over them.

    Parameters
    ----------
    backend : {"ring", "mpi", "nccl", "jaccl"}
        Of ``mlx.core.distributed``. It waits until all processes have started.

    Attributes
    ----------
    rank, size : int
        Of this process, from 0 on, and the number of processes.

    Raises
    ------
    RuntimeError
        If the backend is not available, or the process has not been started by its launcher.
    """

    def __init__(self, backend: str) -> None:
        choice("backend", backend, DISTRIBUTED_BACKENDS)
        if not mx.distributed.is_available(backend):
            raise RuntimeError(f"this build of MLX has no backend {backend!r}")
        self._group = mx.distributed.init(strict=True, backend=backend)
        self.rank, self.size = int(self._group.rank()), int(self._group.size())

    def __call__(self, array: Array) -> Array:
        """Return the sum of an array over all processes, where the array is: in NumPy or in MLX.

        All processes must give the same shape and dtype: the ring adds others up to wrong numbers without a word.
        """
        on_host = isinstance(array, np.ndarray)
        given = mx.array(np.ascontiguousarray(array), _MLX_DTYPES.get(array.dtype.name)) if on_host else array
        total = mx.distributed.all_sum(given, group=self._group)
        mx.eval(total)
        return np.asarray(memoryview(total)) if on_host else total


_MLX_DTYPES = {"float64": mx.float64}  # which would become float32


def join_arrays(arrays: Sequence[Array]) -> Array:
    """Return the values of MLX arrays as one vector."""
    return mx.concatenate([array.reshape(-1) for array in arrays])


def split_array(vector: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Return the parts of a vector of MLX, in these shapes, one after the other."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes]).tolist()
    return [part.reshape(shape) for part, shape in zip(mx.split(vector, ends[:-1]), shapes, strict=True)]
