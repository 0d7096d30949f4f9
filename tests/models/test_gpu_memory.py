"""Many steps and many predictions on gpu: arrays that nothing asks for would keep those of all steps alive."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lucid
import mlx.core as mx
import pytest
from device_waits import pending
from tiny_runs import Batch, Squares, slim, without_objects

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.training import EMA, SGD, Trainer, TrainerSettings

STEPS, EVERY, SETTLED = 28, 4, 3  # steps, of which each 4th is measured, and measurements at the start


class Curve:
    """Active memory and pending operations after some of the steps."""

    def __init__(self) -> None:
        self.calls = 0
        self.memory: list[int] = []
        self.pending: list[int] = []

    def add(self, model: MaskRCNN, *more: Any) -> None:
        """Note what there is now, besides what the model's and these arrays hold."""
        self.calls += 1
        if self.calls % EVERY:
            return
        gc.collect()
        mx.synchronize()
        arrays = [v.data for v in model.state_dict(keep_vars=True).values()]
        self.pending.append(pending(*arrays, *more))
        self.memory.append(mx.get_active_memory())

    def assert_flat(self) -> None:
        """After the first steps nothing is added; the numbers of boxes differ from step to step."""
        assert self.calls >= STEPS
        assert max(self.pending[SETTLED:]) <= max(self.pending[:SETTLED])
        assert max(self.memory[SETTLED:]) < 1.1 * max(self.memory[:SETTLED])


def step_by_hand(model: MaskRCNN, batch: Batch, step: int) -> None:
    """A step of a loop of the user's, which evaluates nothing."""
    lucid.random.seed(step)
    model.get_loss(batch.images, batch.targets)["total_loss"].backward()
    for p in model.parameters():
        if p.grad is not None:
            p.data = p.data - 0.01 * p.grad
            p.grad = None


@pytest.mark.parametrize(
    ("norm", "objects"),
    [("batch", True), pytest.param("batch", False, marks=pytest.mark.slow), ("frozen", False)],
)
def test_training_by_hand_does_not_grow(norm: str, objects: bool) -> None:
    """Without objects the mask head has gradients of zero, and nothing ever asks for its weights."""
    model, curve = slim(norm=norm).to("gpu").train(), Curve()
    for step in range(STEPS):
        batch = Squares(1).batch(step)
        step_by_hand(model, batch if objects else without_objects(batch), step)
        curve.add(model)
    curve.assert_flat()


def test_losses_alone_do_not_grow() -> None:
    """Running statistics move with every call, and neither a backward pass nor an optimizer asks for them."""
    model, curve, batch = slim().to("gpu").train(), Curve(), Squares(1).batch(0)
    for _ in range(STEPS):
        model.get_loss(batch.images, batch.targets)
        curve.add(model)
    curve.assert_flat()
    assert curve.pending[-1] == 0


def test_optimizer_and_averages_do_not_grow() -> None:
    model, curve = slim(head_norm="batch").to("gpu").train(), Curve()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer, averages = SGD(params, 0.01), EMA(model, 0.9)
    for step in range(STEPS):
        batch = Squares(1).batch(step)
        optimizer.zero_grad()
        model.get_loss(batch.images, batch.targets)["total_loss"].backward()
        optimizer.step()
        averages.update(model)
        curve.add(model, *averages.averages.values(), *(v for v in optimizer.momenta if v is not None))
    curve.assert_flat()
    assert curve.pending[-1] == 0


def test_predictions_do_not_grow() -> None:
    model, curve, batch = slim().to("gpu"), Curve(), Squares(1).batch(0)
    for _ in range(STEPS):
        model.predict(batch.images[0], score_thresh=0, top_k=5)
        curve.add(model)
    curve.assert_flat()
    assert curve.pending[-1] == 0


class Watched(Squares):
    """Notes what a run holds whenever it asks for a batch."""

    model: MaskRCNN
    trainer: Trainer
    curve: Curve

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        for batch in super().iterate(start, stop):
            optimizer, ema = self.trainer.optimizer, self.trainer.ema
            averages = ema.averages.values() if ema else []
            self.curve.add(self.model, *averages, *(v for v in optimizer.momenta if v is not None))
            yield batch


@pytest.mark.parametrize("ema", [pytest.param(None, marks=pytest.mark.slow), 0.9])
def test_a_run_does_not_grow(tmp_path: Path, ema: float | None) -> None:
    loader = Watched(1)
    loader.model, loader.curve = slim().to("gpu"), Curve()
    settings = TrainerSettings(steps=STEPS, lr=0.01, ema=ema, save_every=1000)
    loader.trainer = Trainer(
        loader.model, loader, out=tmp_path / "run", settings=settings, progress=False, tensorboard=False
    )
    loader.trainer.run()
    loader.curve.assert_flat()
    assert loader.curve.pending[-1] == 0
