"""NumPy on all cores: a parallel loop, and the element-wise operations and products that use it.

NumPy's element-wise loops use one core, and OpenBLAS's own threads wait for each other by spinning: ten times slower as
soon as something else runs. So blocks of work go to Python threads (NumPy releases the interpreter lock), each with a
single-threaded BLAS.

Names: a ``task`` is one call of a loop's function, ``chunks`` are slices of rows of a given size, ``rows`` run along
the first axis of an array.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from lucid_maskrcnn.validators import function, non_negative_int, positive_int, shown

from ._memory import empty, empty_like

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ThreadPoolExecutor

__all__ = [
    "add",
    "chunks",
    "copy",
    "matmul",
    "num_threads",
    "parallel_for",
    "relu_backward",
    "scratch",
    "split_evenly",
    "sum_rows",
]


_FEW_ROWS = 32  # rows or columns of a matrix product: fewer are not worth a thread
_SUMMED_ROWS = 2048  # rows of a block of a sum
_MAX_SLICES = 1 << 24  # of one loop: more would take minutes to list
_VALUES = 1 << 17  # values of a block of element-wise work
_LONGEST_BLOCK = 30.0  # seconds that a fork waits for a loop in another thread


class _Blas:
    """The BLAS libraries in this process, held to one thread while any block runs."""

    def __init__(self) -> None:
        from threadpoolctl import ThreadpoolController  # here, as it takes its time to import

        self._lock = threading.Condition()
        self._users: Counter[int] = Counter()  # blocks that run, by thread
        self._forks = 0  # that wait for these to end
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._before: list[int] = []

    @property
    def num_threads(self) -> int | None:
        """How many threads BLAS may use when no block runs, None if it does not say."""
        with self._lock:
            found = self._before if self._users.total() else [lib.get_num_threads() for lib in self._libraries]
        return min((n for n in found if n), default=None)

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        me = threading.get_ident()
        with self._lock:
            while self._forks and not self._users[me]:
                self._lock.wait()
            self._users[me] += 1
            if self._users.total() == 1:
                self._before = [lib.get_num_threads() for lib in self._libraries]
                self._set([1] * len(self._libraries))
        try:
            yield
        finally:
            with self._lock:
                self._users[me] -= 1
                if not self._users[me]:
                    del self._users[me]
                if not self._users:
                    self._set(self._before)
                if self._forks:
                    self._lock.notify_all()

    def before_fork(self) -> None:
        """Wait until no other thread runs a block, and let none begin.

        OpenBLAS ends its threads before a fork, and a product that uses them then never ends; and the child would keep
        the one thread of BLAS. A block takes milliseconds; the bound is for one that hangs.
        """
        end = time.monotonic() + _LONGEST_BLOCK
        self._lock.acquire()
        self._forks += 1
        while self._users.keys() - {threading.get_ident()} and time.monotonic() < end:
            self._lock.wait(end - time.monotonic())

    def after_fork(self) -> None:
        """Let blocks begin again."""
        self._forks -= 1
        self._lock.notify_all()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Forget the threads that there are no more."""
        me = threading.get_ident()
        own = self._users[me]
        if self._users.total() > own == 0:  # a block was not waited for
            self._set(self._before)
        self._users = Counter({me: own} if own else {})
        self._lock, self._forks = threading.Condition(), 0

    def _set(self, numbers: list[int]) -> None:
        for lib, number in zip(self._libraries, numbers, strict=True):
            # From threadpoolctl 3.8 on OpenBLAS belongs to the thread that set it last, and what others set is ignored
            # without a word; here the last one to leave need not be the first one that came.
            clear = getattr(lib, "clear_controlling_thread", None)
            if clear is not None:
                clear(force=True)
            lib.set_num_threads(number)
            if clear is not None:
                clear(force=True)


_the_blas: _Blas | None = None
_create = threading.Lock()


def _blas() -> _Blas:
    global _the_blas
    if _the_blas is None:
        with _create:
            if _the_blas is None:
                import concurrent.futures.thread  # noqa: F401 - here, as it brings logging along

                # Before a fork the last one registered is called first: the loops that it waits for need the pool's
                # lock, which `concurrent.futures` takes.
                if hasattr(os, "register_at_fork"):
                    os.register_at_fork(
                        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
                    )
                _the_blas = _Blas()
    return _the_blas


_inside = threading.local()
_scratch = threading.local()
_pool: ThreadPoolExecutor | None = None


_at_fork: list[_Blas] = []  # what waits for a fork that has begun


def _before_fork() -> None:
    if _the_blas is not None and not getattr(_inside, "busy", False):  # a task of a loop cannot wait for its end
        _the_blas.before_fork()
        _at_fork.append(_the_blas)


def _after_fork() -> None:
    if _at_fork:
        _at_fork.pop().after_fork()


def _after_fork_in_child() -> None:
    global _pool
    _pool = None  # its threads do not survive a fork
    _at_fork.clear()
    if _the_blas is not None:
        _the_blas.after_fork_in_child()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads() -> int:
    """Return how many threads :func:`parallel_for` uses now.

    One per core that this process may use, and no more than BLAS may: limits set by ``OMP_NUM_THREADS`` and
    the like, or with threadpoolctl, hold here too.
    """
    cores = _cores()
    return max(1, min(cores, _blas().num_threads or cores))


def chunks(count: int, size: int) -> list[slice]:
    """Cut ``count`` rows into slices of ``size`` rows, the last one shorter; there may be 2²⁴ slices."""
    count, size = non_negative_int("count", count), positive_int("size", size)
    if count > size * _MAX_SLICES:
        raise ValueError(f"count must be at most 2²⁴ times size, {size}, got {shown(count)}.")
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def split_evenly(count: int, parts: int) -> list[slice]:
    """Cut ``count`` rows into ``parts`` slices, or fewer so that none is empty; their sizes differ by one at most."""
    count = non_negative_int("count", count)
    parts = max(min(count, positive_int("parts", parts)), 1)
    if parts > _MAX_SLICES:
        raise ValueError(f"parts must be at most 2²⁴ for {shown(count)} rows, got {shown(parts)}.")
    ends = [count * i // parts for i in range(parts + 1)]
    return [slice(*ends[i : i + 2]) for i in range(parts if count else 0)]


def scratch(name: str, count: int, dtype: Any) -> np.ndarray:
    """Return ``count`` values of memory that this thread reuses under this name: their contents are arbitrary.

    New memory costs more than the work that is done in it. Each caller bounds what it asks for; the memory is freed
    when its thread ends.
    """
    buffers = _scratch.__dict__
    size = count * np.dtype(dtype).itemsize
    if name not in buffers or buffers[name].size < size:
        buffers.pop(name, None)
        buffers[name] = np.empty(size, np.uint8)
    return buffers[name][:size].view(dtype)


def parallel_for[T](tasks: Sequence[T], run: Callable[[T], Any]) -> None:
    """Call a function once for every task, on all cores.

    Parameters
    ----------
    tasks : sequence
        Independent of each other; whichever thread is free takes the next.
    run : callable
        Takes a task; called in several threads at once.
    """
    if not isinstance(tasks, Sequence):
        raise TypeError(f"tasks must be a sequence such as a list or a range, got {type(tasks).__name__}.")
    function("run", run, "run(task)")
    threads = 1 if len(tasks) < 2 or getattr(_inside, "busy", False) else num_threads()
    if threads < 2:
        # One thread here too: a product must not depend on what another thread of the program does.
        with nullcontext() if getattr(_inside, "busy", False) else _blas().one_thread():
            for task in tasks:
                run(task)
        return
    ticket = itertools.count()
    held = [run]  # emptied at the end: a thread that starts later must not keep the arrays of `run` alive

    def drain() -> None:
        _inside.busy = True
        try:
            this = held[0]
            while (i := next(ticket)) < len(tasks):
                this(tasks[i])
        finally:
            _inside.busy = False

    global _pool
    if _pool is None:
        from concurrent.futures import ThreadPoolExecutor  # here, as it brings logging along

        _pool = ThreadPoolExecutor(max(_cores(), threads) - 1, thread_name_prefix="lucid_maskrcnn")
    with _blas().one_thread():
        others = [_pool.submit(drain) for _ in range(min(threads, len(tasks)) - 1)]
        try:
            drain()
        finally:
            for other in others:
                if not other.cancel():  # one that has not started yet is not waited for
                    other.result()
            held.clear()


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the matrix product ``a @ b``; each thread computes some of its columns, or rows if there are more."""
    out = empty((a.shape[0], b.shape[1]), np.result_type(a, b))
    # One part for each thread: BLAS rearranges the other matrix for each part anew.
    parts = min(num_threads(), -(-max(out.shape) // _FEW_ROWS))

    def run(some: slice) -> None:
        if out.shape[1] < out.shape[0]:
            np.matmul(a[some], b, out=out[some])
        else:
            np.matmul(a, b[:, some], out=out[:, some])

    parallel_for(split_evenly(max(out.shape), max(parts, 1)), run)
    return out


def sum_rows(a: np.ndarray) -> np.ndarray:
    """Sum ``a`` (rows, n) over its rows, in blocks: exact enough in float32, the same for any number of threads."""
    blocks = chunks(len(a), _SUMMED_ROWS)
    sums = np.empty((len(blocks), a.shape[1]), a.dtype)

    def run(i: int) -> None:
        np.sum(a[blocks[i]], axis=0, out=sums[i])

    parallel_for(range(len(blocks)), run)
    return sums.sum(axis=0)


def add(a: np.ndarray, b: np.ndarray, *, overwrite: bool = False) -> np.ndarray:
    """Return ``a + b`` of two arrays of the same shape, in the memory order of ``a``, with ``overwrite`` in ``a``."""
    order = np.argsort(a.strides)[::-1]  # slowest axis first
    first, second = a.transpose(order), b.transpose(order)
    if a.dtype != b.dtype or not (first.flags.c_contiguous and second.flags.c_contiguous):
        return a + b
    out = first if overwrite else empty(first.shape, a.dtype)
    flat = (first.reshape(-1), second.reshape(-1), out.reshape(-1))

    def run(some: slice) -> None:
        one, other, total = (v[some] for v in flat)
        np.add(one, other, out=total)

    parallel_for(chunks(out.size, _VALUES), run)
    return out.transpose(np.argsort(order))


def copy(a: np.ndarray) -> np.ndarray:
    """Return a contiguous copy of ``a``, in parallel along its first axis (its second where the first is short)."""
    out = empty(a.shape, a.dtype)
    axis = int(a.ndim > 1 and len(a) < 2 * num_threads())

    def run(part: slice) -> None:
        some = (slice(None),) * axis + (part,)
        out[some] = a[some]

    parallel_for(split_evenly(a.shape[axis], 2 * num_threads()), run)
    return out


def relu_backward(grad: np.ndarray, out: np.ndarray, *, overwrite: bool = False) -> np.ndarray:
    """Return the gradient before a ReLU that gave ``out``, from that after it; both contiguous and of one shape.

    With ``overwrite`` it takes the memory of ``grad``.
    """
    passed = grad if overwrite and grad.dtype == out.dtype else empty_like(out)
    flat = (passed.reshape(-1), grad.reshape(-1), out.reshape(-1))

    def run(some: slice) -> None:
        part, incoming, values = (a[some] for a in flat)
        np.multiply(incoming, values > 0, out=part)

    parallel_for(chunks(out.size, _VALUES), run)
    return passed
