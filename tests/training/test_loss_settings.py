"""Weights of losses and classes as settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Interrupting, Squares, same_arrays, slim, toy_trainer

from lucid_maskrcnn.training import Interrupted, TrainerSettings, read_log

WEIGHTS: dict[str, Any] = {"loss_weights": {"mask_loss": 2.0}, "class_weights": {"bright": 3.0}}


def trainer(out: Path, loader: Any = None, **options: Any) -> Any:
    changes = {"steps": 3, "lr": 0.01, "save_every": 1, **options.pop("settings", WEIGHTS)}
    model = slim(categories={1: "dim", 2: "bright"})
    return toy_trainer(out, TrainerSettings(**changes), model=model, loader=loader or Squares(1), **options)


def test_they_are_in_the_checkpoint_and_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    trainer(tmp_path / "whole").run()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "parts", Interrupting(1, at=1)).run()
    trainer(tmp_path / "parts", resume=True).run()
    assert same_arrays(tmp_path / "whole" / "weights.safetensors", tmp_path / "parts" / "weights.safetensors")
    trainer(tmp_path / "usual", settings={}).run()
    weighted, usual = (read_log(tmp_path / name / "log.jsonl")[0] for name in ("whole", "usual"))
    assert weighted["mask_loss"] == pytest.approx(2 * usual["mask_loss"])
    assert weighted["roi_cls_loss"] != usual["roi_cls_loss"]


def test_other_weights_are_another_run(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    for name in WEIGHTS:
        with pytest.raises(ValueError, match=f"{name} was .* and is None"):
            trainer(tmp_path, settings={**WEIGHTS, name: None}, resume=True)
    trainer(
        tmp_path, settings={**WEIGHTS, "class_weights": {2: 1.0}, "steps": 4}, resume=True, allow_changes=True
    ).run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_weights": {"mask": 2.0}}, "loss_weights has an unknown loss 'mask'"),
        ({"class_weights": {"brigth": 2.0}}, "there is no class 'brigth'; did you mean 'bright'"),
    ],
)
def test_a_typing_error_is_found_before_the_run(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, settings=settings)


@pytest.mark.parametrize("weights", [{3.5: 1.0}, {True: 1.0}, [1.0], {"mask_loss": "2"}])
def test_settings_want_a_mapping(weights: Any) -> None:
    with pytest.raises(TypeError, match="loss_weights"):
        TrainerSettings(steps=1, loss_weights=weights)


def test_a_model_without_such_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="loss_weights needs a model whose get_loss takes it, as MaskRCNN's, got Toy"):
        toy_trainer(tmp_path, TrainerSettings(steps=1, loss_weights={"first_loss": 2.0}))
