"""Runs on gpu and on cpu learn alike, and what one has written the other continues."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_runs import Squares, Toy, slim, toy_settings, toy_trainer

from lucid_maskrcnn import MaskRCNN, load_weights, save_weights
from lucid_maskrcnn.training import DivergenceError, Trainer, TrainerSettings, read_log


def run(out: Path, device: str, steps: int, *, batch_size: int = 1, **more: Any) -> MaskRCNN:
    """Train, or continue to train, a model that starts with the same weights on either device."""
    model = slim().to(device)
    settings = TrainerSettings(**{"steps": steps, "lr": 0.02, "schedule": "constant", "warmup": 0, "ema": 0.9, **more})
    loader = Squares(batch_size)
    Trainer(model, loader, out=out, settings=settings, resume="auto", progress=False, tensorboard=False).run()
    return model


def test_thirty_steps_learn_alike(tmp_path: Path) -> None:
    """At first the losses are the same; later rounding decides which regions are sampled, and the curves are alike."""
    curves = {}
    for device in ("cpu", "gpu"):
        run(tmp_path / device, device, 30, batch_size=2, warmup=5)
        log = read_log(tmp_path / device / "log.jsonl")
        curves[device] = np.array([record["total_loss"] for record in log])
    assert all(len(curve) == 30 for curve in curves.values())
    np.testing.assert_allclose(curves["gpu"][:6], curves["cpu"][:6], rtol=1e-3)
    (start, end), (start_on_gpu, end_on_gpu) = ((c[:6].mean(), c[-10:].mean()) for c in curves.values())
    assert end < 0.7 * start
    assert end_on_gpu < 0.7 * start_on_gpu
    assert end_on_gpu == pytest.approx(end, rel=0.15)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_run_continues_on_the_other_device(tmp_path: Path, device: str) -> None:
    """With momenta, averages and running statistics."""
    other = "gpu" if device == "cpu" else "cpu"
    whole = run(tmp_path / "whole", "cpu", 4)
    run(tmp_path / "moved", device, 2)
    moved = run(tmp_path / "moved", other, 4)
    assert [r["step"] for r in read_log(tmp_path / "moved" / "log.jsonl")] == [1, 2, 3, 4]
    for name, values in whole.state_dict().items():
        found = np.asarray(moved.state_dict()[name])
        np.testing.assert_allclose(found, values, rtol=1e-3, atol=1e-4 * max(abs(values).max(), 1), err_msg=name)


def test_a_toy_run_continues_on_the_other_device_each_step(tmp_path: Path) -> None:
    """Dropout draws the same numbers on both, so that weights agree but for rounding."""
    options: dict[str, Any] = {"schedule": "constant", "warmup": 0, "freeze_bn_after": None}
    toy_trainer(tmp_path / "whole", toy_settings(6, **options)).run()
    for step in range(1, 7):
        model = Toy().to("gpu" if step % 2 else "cpu")
        toy_trainer(tmp_path / "moved", toy_settings(step, **options), model=model, resume="auto").run()
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "moved"))
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_weights_trained_on_gpu_are_loaded_on_cpu(tmp_path: Path) -> None:
    model = run(tmp_path / "run", "gpu", 2)
    written = MaskRCNN.from_file(tmp_path / "run" / "weights.safetensors")
    save_weights(model, tmp_path / "again.safetensors")
    loaded = slim(seed=1)
    load_weights(loaded, tmp_path / "again.safetensors")
    opened = pickle.loads(pickle.dumps(model)).to("cpu")
    image = Squares(1).batch(0).images[0]
    wanted = model.predict(image, score_thresh=0, top_k=3)[0].numpy()
    for other in (written, loaded, opened):
        for name, values in model.state_dict().items():
            np.testing.assert_array_equal(other.state_dict()[name], np.asarray(values), err_msg=name)
        found = other.predict(image, score_thresh=0, top_k=3)[0].numpy()
        np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-4)


def test_several_processes_on_gpu_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="processes must be 1 for a model on the gpu, got 2"):
        Trainer(
            slim().to("gpu"), Squares(1), out=tmp_path, settings=TrainerSettings(steps=1, accumulate=2, processes=2)
        )


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_run_that_diverges_keeps_its_weights(tmp_path: Path, device: str) -> None:
    """The norm is read before anything of the step is kept."""
    model = slim().to(device)
    model.fc1.weight.data = model.fc1.weight.data * np.float32(1e30)
    before = {name: np.array(values) for name, values in model.state_dict().items()}
    settings = TrainerSettings(steps=2, lr=0.02, ema=0.9)
    trainer = Trainer(model, Squares(1), out=tmp_path, settings=settings, progress=False, tensorboard=False)
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match="Step 1: "):
        trainer.run()
    assert (tmp_path / "diverged-00000001.npz").exists()
    names = [name for name in before if "running" not in name]
    for name in names:
        np.testing.assert_array_equal(np.asarray(model.state_dict()[name]), before[name], err_msg=name)
    assert all(v is None for v in trainer.optimizer.momenta)
