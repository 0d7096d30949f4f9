"""The parallel loop: every task once, within the limits that the user sets, also after a fork."""

import contextlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from lucid_maskrcnn.ops import _memory, _parallel, chunks, num_threads, parallel_for, split_evenly


def blas_threads() -> list[int]:
    numpys = ("numpy.libs", "numpy/.dylibs", "numpy.core")  # others may be loaded on the way, such as SciPy's
    libraries = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    own = [lib for lib in libraries if any(folder in lib["filepath"] for folder in numpys)]
    return [lib["num_threads"] for lib in own or libraries]


def test_parallel_for_runs_every_task_once_with_one_blas_thread() -> None:
    before, seen, inside = blas_threads(), [], []

    def run(task: int) -> None:
        seen.append(task)
        inside.append(max(blas_threads()))

    parallel_for(range(50), run)
    assert sorted(seen) == list(range(50))
    if num_threads() > 1:
        assert set(inside) == {1}
    assert blas_threads() == before


def test_an_exception_in_a_task_is_raised() -> None:
    def run(task: int) -> None:
        if task == 7:
            raise RuntimeError("seven")

    before = blas_threads()
    with pytest.raises(RuntimeError, match="seven"):
        parallel_for(range(20), run)
    assert blas_threads() == before


def test_blas_has_its_threads_back_after_two_threads_computed() -> None:
    """threadpoolctl lets only the thread that came first change their number, and ignores the others."""
    before, seen = (num_threads(), blas_threads()), set()

    def compute() -> None:
        for _ in range(200):
            seen.add(num_threads())
            parallel_for(range(4), lambda i: sum(range(500)))

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {before[0]}
    assert (num_threads(), blas_threads()) == before


def test_a_single_task_has_one_blas_thread_too() -> None:
    """Else the last bits of its products would depend on whether another thread computes at the moment."""
    inside: list[int] = []
    parallel_for(range(1), lambda i: inside.append(max(blas_threads())))
    assert inside == [1]


@pytest.mark.skipif(num_threads() < 2, reason="one thread")
def test_threadpool_limits_hold() -> None:
    def threads() -> set[int]:
        found = set()
        wait = threading.Barrier(2)

        def run(task: int) -> None:
            found.add(threading.get_ident())
            with contextlib.suppress(threading.BrokenBarrierError):  # nobody else comes if there is one thread
                wait.wait(timeout=5 if num_threads() > 1 else 0.01)

        parallel_for(range(2), run)
        return found

    assert len(threads()) == 2
    with threadpool_limits(1):
        assert num_threads() == 1
        assert len(threads()) == 1
    assert num_threads() > 1


def test_environment_variables_limit_the_threads() -> None:
    program = "from lucid_maskrcnn import ops; print(ops.num_threads())"
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "1"


@pytest.mark.parametrize(("count", "parts"), [(0, 3), (1, 4), (10, 3), (7, 7), (5, 9), (100, 1)])
def test_split_evenly_covers_all_rows(count: int, parts: int) -> None:
    found = split_evenly(count, parts)
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(count))
    sizes = [part.stop - part.start for part in found]
    assert not sizes or (min(sizes) >= 1 and max(sizes) - min(sizes) <= 1)


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 4), (10, 3), (9, 3), (5, 1)])
def test_chunks_cover_all_rows(count: int, size: int) -> None:
    found = chunks(count, size)
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start == size for part in found[:-1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: chunks(-1, 2), ValueError, "count must be a non-negative integer, got -1"),
        (lambda: chunks(3, 1.5), TypeError, "size must be a positive integer, got 1.5"),
        (lambda: split_evenly("3", 2), TypeError, "count must be a non-negative integer, got '3'"),
        (lambda: split_evenly(3, None), TypeError, "parts must be a positive integer, got None"),
        (lambda: chunks(10, -1), ValueError, "size must be a positive integer, got -1"),
        (lambda: chunks(10, 0), ValueError, "size must be a positive integer, got 0"),
        (lambda: chunks(10**30, 3), ValueError, "count must be at most 2²⁴ times size, 3"),
        (lambda: split_evenly(4, 0), ValueError, "parts must be a positive integer, got 0"),
        (lambda: split_evenly(10**30, 10**30), ValueError, "parts must be at most 2²⁴"),
        (lambda: parallel_for([1], int), TypeError, r"run must be called as run\(task\), got the class int"),
        (lambda: parallel_for(iter([1]), print), TypeError, "tasks must be a sequence .* got list_iterator"),
        (lambda: parallel_for([1], None), TypeError, r"run must be called as run\(task\), got None"),
    ],
)
def test_wrong_arguments_are_named(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 2, 1, 0)])
def test_add_and_copy(order: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((3, 40, 50, 64), np.float32).transpose(order) for _ in range(2))
    np.testing.assert_array_equal(_parallel.add(a, b), a + b)
    np.testing.assert_array_equal(_parallel.add(a, np.ascontiguousarray(b)), a + b)
    copied = _parallel.copy(a)
    assert copied.flags.c_contiguous
    assert not np.shares_memory(copied, a)
    np.testing.assert_array_equal(copied, a)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_parallel_for_after_a_fork() -> None:
    """Even if a thread of the parent held a lock at that moment."""
    held = _memory.empty((1 << 20,), np.float32)
    held.fill(1)
    parallel_for(range(4), lambda task: None)
    assert _memory._arena is not None
    with _memory._arena.lock, _parallel._blas()._lock:
        child = os.fork()
        if child == 0:
            try:
                a = np.ones((300, 300), np.float32)
                fine = (_parallel.matmul(a, a) == 300).all() and (_memory.empty((1 << 20,), np.float32).size == 1 << 20)
                os._exit(0 if fine and (held == 1).all() else 1)
            except BaseException:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


FORKS = """
import os, sys, threading, warnings
import numpy as np
from lucid_maskrcnn.ops import num_threads, parallel_for
from lucid_maskrcnn.ops._parallel import matmul
warnings.simplefilter("ignore")  # a fork with threads
a, stop, threads = np.ones((400, 400), np.float32), threading.Event(), num_threads()

def compute():
    while not stop.is_set():
        matmul(a, a)
        parallel_for(range(1), lambda i: a @ a)

def child():
    try:
        return 0 if num_threads() == threads and (matmul(a, a) == 400).all() else 1
    except BaseException:
        return 2

others = [threading.Thread(target=compute) for _ in range(2)]
for other in others:
    other.start()
for _ in range(15):
    pid = os.fork()
    if pid == 0:
        os._exit(child())
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for other in others:
    other.join()
inside = []

def fork_inside(task):
    pid = os.fork()
    if pid == 0:
        os._exit(child())
    inside.append(os.waitpid(pid, 0)[1])

parallel_for(range(3), fork_inside)
assert inside == [0] * 3 and num_threads() == threads
print("forked")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_while_another_thread_computes_freezes_neither() -> None:
    """OpenBLAS ends its threads before a fork, under a product that used them; and the child kept one thread."""
    run = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "forked\n"), run.stderr
