"""Several threads of one process: one predicts while another trains."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import lucid
import numpy as np
import pytest
from tiny_runs import Squares, slim

from lucid_maskrcnn import MaskRCNN, ops


def train(model: MaskRCNN, steps: int) -> int:
    """Train by hand; return in how many steps all trained parameters had a gradient."""
    complete = 0
    with_gradients = None
    for step in range(steps):
        batch = Squares().batch(step)
        lucid.random.seed(step)
        model.get_loss(batch.images, batch.targets)["total_loss"].backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        names = [i for i, p in enumerate(trained) if p.grad is not None]
        with_gradients = names if with_gradients is None else with_gradients
        complete += len(names) > 0 and names == with_gradients
        for p in trained:
            if p.grad is not None:
                p.data = p.data - np.float32(0.01) * p.grad
                p.grad = None
    return complete


@contextmanager
def predicting(model: MaskRCNN) -> Iterator[list[int]]:
    """Predict in another thread all the while."""
    stop, counts = threading.Event(), [0]
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)

    def loop() -> None:
        while not stop.is_set():
            model.predict(image)
            counts[0] += 1

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        while not counts[0]:
            pass
        yield counts
    finally:
        stop.set()
        thread.join()


def test_training_beside_predict_has_all_its_gradients() -> None:
    alone, beside = slim(), slim()
    assert train(alone, 10) == 10
    with predicting(slim(seed=1)) as counts:
        assert train(beside, 10) == 10
    assert counts[0] > 1
    for a, b in zip(alone.parameters(), beside.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)


def test_lucids_no_grad_in_one_thread_leaves_the_other_alone() -> None:
    inside, done, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with lucid.no_grad(), ops.no_grad():
            seen.append(lucid.grad_enabled())
            inside.set()
            done.wait(30)
        seen.append(lucid.grad_enabled())

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(30)
    x = lucid.Tensor(np.ones(2, np.float32), requires_grad=True)
    (x * 2.0).sum().backward()
    done.set()
    thread.join()
    assert seen == [False, True]
    assert x.grad.tolist() == [2, 2]


def test_no_grad_nests_decorates_and_is_left_after_an_error() -> None:
    @lucid.no_grad()
    def inner() -> bool:
        return lucid.grad_enabled()

    assert not inner()

    @lucid.no_grad()
    def failing() -> None:
        with ops.no_grad():
            assert not inner()
        assert not lucid.grad_enabled()
        raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert lucid.grad_enabled()


def test_lucids_own_flag_counts_too() -> None:
    """``from lucid import no_grad`` before this package was imported sets it."""
    script = (
        "from lucid import no_grad; import lucid, lucid_maskrcnn\n"
        "with no_grad(): inside = lucid.grad_enabled()\n"
        "print(inside, lucid.grad_enabled())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]


REFUSED = """
import threading, numpy as np, lucid, lucid_maskrcnn
from lucid_maskrcnn import ops
from tiny_runs import Squares, slim
model, inside, done, said = slim(), threading.Event(), threading.Event(), []
batch = Squares().batch(0)
images, targets = batch.images, batch.targets

def hold(context):
    with context:
        inside.set()
        done.wait(60)

def beside(context, call):
    inside.clear(), done.clear()
    thread = threading.Thread(target=hold, args=(context,))
    thread.start(), inside.wait(60)
    try:
        call()
    except RuntimeError as error:
        said.append(str(error))
    done.set(), thread.join()

beside(ops.no_grad(), lambda: model.get_loss(images, targets))
beside(ops.recording(), lambda: model.predict(images))
assert [s.split(":")[0] for s in said] == ["One thread computes losses while another predicts, and without the repair "
    "of Lucid's engine gradients are on or off in all threads at once"] * 2, said
model.predict(images)
with ops.no_grad():
    model.get_loss(images, targets)
assert lucid.grad_enabled()
model.get_loss(images, targets)["total_loss"].backward()
assert any(p.grad is not None for p in model.parameters())
print("refused")
"""


def test_training_beside_predict_is_refused_without_the_repair() -> None:
    tests = os.path.dirname(os.path.dirname(__file__))
    environment = {**os.environ, "LUCID_MASKRCNN_REPAIR": "0", "PYTHONPATH": tests}
    run = subprocess.run([sys.executable, "-c", REFUSED], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "refused\n"), run.stderr


def in_worker(call: Callable[[], Any]) -> Any:
    """Call a function in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_gpu_results_of_a_worker_thread_can_be_read() -> None:
    """MLX evaluates an array only in the thread that described it."""
    model = in_worker(lambda: slim().to("gpu"))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = in_worker(lambda: model.predict(image, score_thresh=0, top_k=3)[0])
    (here,) = model.predict(image, score_thresh=0, top_k=3)
    for key, values in found.numpy().items():
        np.testing.assert_allclose(values, here.numpy()[key], atol=1e-4)
    pasted = in_worker(lambda: found[:2].masks)
    np.testing.assert_array_equal(np.asarray(pasted), found.numpy()["masks"][:2])


def test_gpu_model_trained_in_a_worker_thread_can_be_used() -> None:
    model = slim().to("gpu").train()  # with live batch norm, whose statistics stay
    batch = Squares(batch_size=1).batch(0)

    def step() -> Any:
        losses = model.get_loss(batch.images, batch.targets)
        losses["total_loss"].backward()
        return losses

    losses = in_worker(step)
    assert np.isfinite([float(value) for value in losses.values()]).all()
    assert all(np.isfinite(values).all() for values in model.state_dict().values())
    assert all(np.isfinite(np.asarray(p.grad)).all() for p in model.parameters() if p.grad is not None)
    assert len(model.eval().predict(batch.images[0], score_thresh=0, top_k=1)) == 1
    x = ops.as_tensor(np.zeros((1, 3, 32, 32), np.float32), "gpu")
    assert all(np.isfinite(np.asarray(out)).all() for out in in_worker(lambda: model(x)))
