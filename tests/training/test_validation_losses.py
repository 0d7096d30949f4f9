"""Losses on images that are not trained on: what they are, and that they change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lucid
import numpy as np
import pytest
from tiny_runs import Squares, same_arrays, slim, toy_trainer

from lucid_maskrcnn import ops
from lucid_maskrcnn.training import TrainerSettings, draw_curves, read_log, validation_losses


def pairs(count: int = 2) -> list[Any]:
    batches = [Squares(1, seed=9).batch(i) for i in range(count)]
    return [(batch.images[0], batch.targets[0]) for batch in batches]


def test_they_are_the_mean_of_the_losses_of_each_image() -> None:
    model = slim().eval()
    expected = []
    for i, (image, target) in enumerate(pairs()):
        lucid.random.seed(i)
        losses = model.get_loss([image], [target])
        expected.append(ops.numbers(list(losses.values())))
    found = validation_losses(model, pairs())
    assert list(found) == [f"val/{name}" for name in losses]
    np.testing.assert_allclose(list(found.values()), np.mean(expected, axis=0), rtol=1e-5)


def test_labels_are_those_of_the_model() -> None:
    model = slim()
    swapped = [(image, {**target, "labels": target["labels"][::-1].copy()}) for image, target in pairs()]
    assert validation_losses(model, swapped, labels={1: 2, 2: 1}) == validation_losses(model, pairs())
    with pytest.raises(ValueError, match="labels must have every label of the data set, got none for 2"):
        validation_losses(model, pairs(), labels={1: 1})
    with pytest.raises(ValueError, match="dataset must have at least one image"):
        validation_losses(model, [])


def test_a_run_is_the_same_with_them(tmp_path: Path) -> None:
    settings = TrainerSettings(steps=3, lr=0.01, eval_every=1, keep_best="val/total_loss")
    seen: list[dict[str, float]] = []

    def evaluate(model: Any) -> dict[str, float]:
        seen.append(validation_losses(model, pairs()))
        return {"AP": 0.1, **seen[-1]}

    runs = {"with": (settings, evaluate), "without": (TrainerSettings(steps=3, lr=0.01), None)}
    for name, (chosen, function) in runs.items():
        toy_trainer(tmp_path / name, chosen, model=slim(norm="batch"), loader=Squares(1), evaluate=function).run()
    assert same_arrays(*(tmp_path / name / "weights.safetensors" for name in runs))
    logged = [r["evaluation"] for r in read_log(tmp_path / "with" / "log.jsonl") if "evaluation" in r]
    assert [r["val/total_loss"] for r in logged] == [r["val/total_loss"] for r in seen]
    pytest.importorskip("matplotlib")
    draw_curves(tmp_path / "with" / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
