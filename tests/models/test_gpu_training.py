"""Losses, gradients and training on gpu: the same as on cpu, with few waits and few shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lucid
import numpy as np
import pytest
from device_waits import DeviceWaits, device_waits
from tiny_runs import Squares, slim, without_objects

from lucid_maskrcnn import MaskRCNN, ops
from lucid_maskrcnn.models.heads import ConvStack
from lucid_maskrcnn.training import Trainer, TrainerSettings

VARIANTS: list[dict[str, Any]] = [
    {"norm": "batch"},
    {"norm": "frozen"},
    {"norm": "frozen", "box_convs": True, "rpn_convs": 2},
    {"norm": "batch", "box_convs": True, "head_norm": "batch", "fpn_norm": "batch"},
    {"norm": "frozen", "box_convs": True, "head_norm": "frozen"},
]


def losses_and_gradients(model: MaskRCNN, batch: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    lucid.random.seed(3)
    losses = model.get_loss(batch.images, batch.targets)
    losses["total_loss"].backward()
    names = list(model.state_dict())
    of_all = zip(names, model.state_dict(keep_vars=True).values(), strict=True)
    gradients = {name: np.asarray(p.grad) for name, p in of_all if p.grad is not None}
    return {name: float(value) for name, value in losses.items()}, gradients


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_losses_gradients_and_statistics_are_those_of_the_cpu(variant: dict[str, Any]) -> None:
    batch = Squares(2).batch(0)
    models = [slim(**variant).to(device).train() for device in ("cpu", "gpu")]
    (losses, gradients), (on_gpu, gradients_on_gpu) = (losses_and_gradients(model, batch) for model in models)
    assert on_gpu == pytest.approx(losses, rel=1e-4)
    assert losses["mask_loss"] > 0
    assert gradients_on_gpu.keys() == gradients.keys()
    assert len(gradients) > 30
    for name, grad in gradients.items():
        tolerance = 1e-3 * abs(grad).max() + 1e-6
        np.testing.assert_allclose(gradients_on_gpu[name], grad, rtol=0, atol=tolerance, err_msg=name)
    before, after, after_on_gpu = (model.state_dict() for model in (slim(**variant), *models))
    moved = [name for name, values in after.items() if not np.array_equal(values, before[name])]
    assert bool(moved) == (variant["norm"] == "batch")  # running statistics
    for name, values in after.items():
        np.testing.assert_allclose(np.asarray(after_on_gpu[name]), values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_losses_wait_once_and_a_backward_pass_does_not(variant: dict[str, Any], objects: bool) -> None:
    model, data = slim(**variant).to("gpu").train(), Squares(2)
    batches = [data.batch(step) if objects else without_objects(data.batch(step)) for step in range(2)]
    losses_and_gradients(model, batches[0])
    with device_waits() as waits:
        losses = model.get_loss(batches[1].images, batches[1].targets)
    assert len(waits) == 1, waits
    with device_waits() as waits:
        losses["total_loss"].backward()
    assert len(waits) == 0, waits
    with device_waits() as waits:
        assert np.isfinite(ops.numbers(list(losses.values()))).all()
    assert len(waits) == 1, waits


class Counted(Squares):
    """Counts the waits between one batch and the next: those of a step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.steps: list[DeviceWaits] = []

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        for batch in super().iterate(start, stop):
            with device_waits() as waits:
                self.steps.append(waits)
                yield batch


@pytest.mark.parametrize("more", [{"ema": 0.9, "max_grad_norm": 1e-3}, {"max_grad_norm": None}], ids=str)
def test_a_step_of_a_run_waits_three_times(tmp_path: Path, more: dict[str, Any]) -> None:
    """For the proposals, the losses, and the norm of the gradients; with several batches once more for each."""
    for accumulate in (1, 2):
        loader = Counted(1)
        settings = TrainerSettings(steps=3, lr=0.01, save_every=100, accumulate=accumulate, **more)
        model = slim(norm="batch").to("gpu")
        run = Trainer(model, loader, out=tmp_path / f"{accumulate}", settings=settings, progress=False)
        run.run()
        drawn = len(loader.steps) - 3 * accumulate  # batches for the picture at the start
        steps = loader.steps[drawn:-1]  # the last one includes the files at the end
        per_step = [len(waits) for waits in steps]
        if accumulate == 1:
            assert per_step == [3] * 2, steps[0]
        else:
            assert sum(per_step[:2]) <= 4, steps[:2]


@pytest.mark.parametrize(("head_norm", "few"), [(None, True), ("frozen", True), ("batch", False)])
def test_heads_see_few_numbers_of_regions(monkeypatch: pytest.MonkeyPatch, head_norm: str | None, few: bool) -> None:
    """A gpu plans convolutions for each; batch norm with statistics of the batch must not see padding."""
    model, data = slim(box_convs=True, head_norm=head_norm).to("gpu").train(), Squares(1)
    rows: dict[Any, set[int]] = {model.box_convs: set(), model.mask_head: set()}
    drawn: set[tuple[int, int]] = set()
    forward, select = ConvStack.forward, model.roi_sampler.select_training_samples

    def watched(head: ConvStack, pooled: Any) -> Any:
        rows[head].add(pooled.shape[0])
        return forward(head, pooled)

    def watched_select(*args: Any) -> Any:
        samples = select(*args)
        drawn.add((samples.rois.shape[0], samples.positive.shape[0]))
        return samples

    monkeypatch.setattr(ConvStack, "forward", watched)
    monkeypatch.setattr(model.roi_sampler, "select_training_samples", watched_select)
    for step in range(12):
        batch = data.batch(step)
        lucid.random.seed(step)
        model.get_loss(batch.images, batch.targets)
    regions, positives = ({numbers[i] for numbers in drawn} for i in (0, 1))
    assert len(positives) > 1
    if few:
        assert rows[model.box_convs] == {32}
        assert rows[model.mask_head] <= {0, 8}
    else:
        assert (rows[model.box_convs], rows[model.mask_head]) == (regions, positives)
