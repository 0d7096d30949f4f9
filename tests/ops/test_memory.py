"""Memory for large arrays: reused, never while a view of it lives, and bounded."""

import gc
import mmap
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucid_maskrcnn.ops import _memory, release_memory

LARGE = _memory.LARGE


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> _memory.Arena:
    fresh = _memory.Arena(64 * LARGE)
    monkeypatch.setattr(_memory, "_arena", fresh)
    return fresh


def place(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_reused(arena: _memory.Arena) -> None:
    first = _memory.empty((LARGE,), np.float32)
    assert first.shape == (LARGE,)
    assert first.flags.writeable
    where = place(first)
    del first
    assert place(_memory.empty((LARGE // 2, 2), np.float32)) == where


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[3:5],
        lambda a: a.reshape(-1)[::7],
        lambda a: a.T[2:].T.reshape(-1),
        lambda a: a.view(np.int32),
        lambda a: np.asarray(a),
        lambda a: memoryview(a),
    ],
)
def test_memory_is_not_reused_while_a_view_lives(arena: _memory.Arena, view) -> None:
    array = _memory.empty((64, LARGE // 64), np.float32)
    seen = view(array)
    del array
    gc.collect()
    other = _memory.empty((64, LARGE // 64), np.float32)
    assert not np.shares_memory(np.asarray(seen), other)


def test_small_arrays_and_those_beyond_the_arena_are_left_to_the_system(arena: _memory.Arena) -> None:
    assert _memory.empty((3, 4), np.float32).base is None
    held = [_memory.empty((16, LARGE), np.uint8) for _ in range(4)]
    assert all(a.base is not None for a in held)
    assert arena.free == []
    beyond = _memory.empty((LARGE,), np.uint8)
    assert beyond.base is None
    beyond.fill(1)


def test_a_system_that_maps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(_memory.mmap, "mmap", refuse)
    monkeypatch.setattr(_memory, "_arena", None)
    array = _memory.zeros((LARGE,), np.float32)
    assert not array.any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=60))
def test_arrays_never_overlap_and_all_memory_is_returned(steps: list[tuple[bool, int]]) -> None:
    arena = _memory.Arena(64 * LARGE)
    held: list[tuple[np.ndarray, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_memory, "_arena", arena)
        for i, (grow, number) in enumerate(steps):
            if grow or not held:
                array = _memory.empty((number, LARGE + 100), np.uint8)
                array.fill(i)
                held.append((array, i))
            else:
                array, mark = held.pop(number % len(held))
                assert (array == mark).all()
            del array
        assert all((array == mark).all() for array, mark in held)
        held.clear()
        arena.collect()
        assert arena.free == [(0, 64 * LARGE)]


def test_allocation_from_several_threads(arena: _memory.Arena) -> None:
    failures = []

    def work(seed: int) -> None:
        rng, held = np.random.default_rng(seed), []
        for i in range(300):
            array = _memory.empty((int(rng.integers(LARGE, 2 * LARGE)),), np.uint8)
            array.fill(i % 251)
            held.append((array, i % 251))
            if len(held) > 6:
                array, mark = held.pop(int(rng.integers(6)))
                if not (array == mark).all():
                    failures.append(seed)
            del array

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    arena.collect()
    assert arena.free == [(0, 64 * LARGE)]


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system takes no advice")
def test_release_memory_keeps_what_is_in_use(arena: _memory.Arena) -> None:
    held, freed = (_memory.empty((8, LARGE), np.uint8) for _ in range(2))
    held.fill(1)
    freed.fill(2)
    del freed
    release_memory()
    assert (held == 1).all()
    if sys.platform == "linux":  # pages given back are zero when they are touched again
        assert not _memory.empty((8, LARGE), np.uint8)[:, mmap.PAGESIZE : -mmap.PAGESIZE].any()


_GROWTH = """
import resource
import sys

import lucid
import numpy as np

from lucid_maskrcnn import mask_rcnn_resnet_18_fpn

lucid.random.seed(0)
model = mask_rcnn_resnet_18_fpn(2, width=32, fpn_channels=32, min_size=128, max_size=192)
rng = np.random.default_rng(0)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def predict(height, width):
    (found,) = model.predict(rng.integers(0, 256, (height, width, 3), np.uint8), score_thresh=0.0, top_k=5)
    found["masks"]


for _ in range(8):
    predict(128, 192)
start = peak()
for _ in range(50):
    predict(128, 192)
print(peak() - start)
image = rng.integers(0, 256, (4000, 6000, 3), np.uint8)
start = peak()
model.predict(image, score_thresh=0.0, top_k=0)
print(peak() - start)
"""


@pytest.mark.once
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_memory_of_repeated_predictions_does_not_grow() -> None:
    result = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, check=True)
    growth, of_photo = map(int, result.stdout.split())
    assert growth < 4e6  # an array of the image kept by each would be 4.9e6
    assert of_photo < 100e6  # as float32 the photo alone would be 288e6
