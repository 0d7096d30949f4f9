"""NaN and infinity stop a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_runs import (
    Squares,
    Toy,
    slim,
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn.training import (
    DivergenceError,
    Trainer,
    TrainerSettings,
)
from lucid_maskrcnn.training.checkpoints import find_checkpoints


def test_nan_stops_with_term_step_and_images(tmp_path: Path) -> None:
    out, model = tmp_path / "run", slim()

    class Spoiling(Squares):
        def iterate(self, start: int, stop: int) -> Any:
            for step, batch in enumerate(super().iterate(start, stop)):
                if step == 2:
                    model.mask_head.mask_predictor.bias.data[:] = np.nan
                yield batch

    settings = TrainerSettings(steps=9, lr=0.01, save_every=1)
    trainer = Trainer(model, Spoiling(2), out=out, settings=settings, progress=False, tensorboard=False)
    with pytest.raises(DivergenceError) as caught:
        trainer.run()
    assert str(caught.value) == (
        "Step 3: mask_loss is nan for the images [104, 105], written to diverged-00000003.npz; the last checkpoint is "
        "checkpoint-00000002.safetensors; try a lower learning rate than 0.01."
    )
    assert isinstance(caught.value, FloatingPointError)
    assert (caught.value.step, caught.value.term, caught.value.image_ids) == (3, "mask_loss", [104, 105])
    assert all(np.isfinite(array).all() for array in load_file(find_checkpoints(out)[0]).values())
    with np.load(out / "diverged-00000003.npz") as batch:
        wanted = Squares(2).batch(2)
        np.testing.assert_array_equal(batch["image_1"], wanted.images[1])
        np.testing.assert_array_equal(batch["masks_0"], wanted.targets[0]["masks"])
        assert batch["image_ids"].tolist() == ["104", "105"]


def test_full_disk_does_not_hide_a_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lucid_maskrcnn.training.divergence._save_batches", full)
    model = Toy()
    model.second.bias.data[:] = np.nan
    with pytest.raises(DivergenceError, match=r"Step 1: second_loss is nan for the images \[100, 101\]; there is no"):
        toy_trainer(tmp_path, model=model).run()


def test_infinite_gradients_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucid_maskrcnn.training.trainer.clip_gradients", lambda *_: math.inf)
    with pytest.raises(DivergenceError, match=r"Step 1: the norm of the gradients is inf for the images \[100, 101"):
        toy_trainer(tmp_path / "run").run()
    assert find_checkpoints(tmp_path / "run") == []


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    settings = toy_settings(4, lr=3e38, weight_decay=1e20, max_grad_norm=None, warmup=0, ema=None)
    with pytest.raises(DivergenceError, match="there is no checkpoint yet"):
        toy_trainer(tmp_path / "run", settings).run()
    assert [p.name for p in (tmp_path / "run").iterdir() if "checkpoint" in p.name or "tmp" in p.name] == []
