"""Resuming: the same weights as an uninterrupted run, and which settings may change."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import (
    ARGUMENTS,
    Interrupting,
    Squares,
    Toy,
    close_arrays,
    same_arrays,
    slim,
    steps_of,
    timeless,
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.data import Augmentation
from lucid_maskrcnn.training import (
    Interrupted,
    Trainer,
    TrainerSettings,
)
from lucid_maskrcnn.training.checkpoints import find_checkpoints, read_arrays, read_header, write_checkpoint

OLD_CHECKPOINT = Path(__file__).parent / "files" / "checkpoint_with_old_names.safetensors"


def test_resumed_mask_rcnn_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    settings = TrainerSettings(steps=4, lr=0.02, warmup=1, schedule="constant", ema=0.5, freeze_bn_after=0.5)
    shown: dict[str, Any] = {"settings": settings, "progress": False, "tensorboard": False}
    Trainer(slim(), Squares(1), out=tmp_path / "whole", **shown).run()
    with pytest.raises(
        Interrupted, match=r"Stopped after step 2, with a checkpoint in '.*parts'; resume=True continues"
    ):
        Trainer(slim(), Interrupting(1, at=1), out=tmp_path / "parts", **shown).run()
    Trainer(slim(seed=5), Squares(1), out=tmp_path / "parts", resume=True, **shown).run()
    last = "checkpoint-00000004.safetensors"
    assert same_arrays(tmp_path / "whole" / last, tmp_path / "parts" / last)
    assert same_arrays(tmp_path / "whole" / "weights.safetensors", tmp_path / "parts" / "weights.safetensors")


@pytest.mark.parametrize(
    ("at", "number"),  # before, and after averages started anew; a batch is half a step
    [(0, signal.SIGINT), (9, signal.SIGTERM), (50, signal.SIGINT), (78, signal.SIGTERM)],
)
def test_resumed_run_is_the_same_in_weights_momenta_averages_and_log(tmp_path: Path, at: int, number: int) -> None:
    settings = toy_settings(save_every=7)
    toy_trainer(tmp_path / "whole", settings).run()
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted):
        toy_trainer(tmp_path / "parts", settings, loader=Interrupting(2, side=8, at=at, number=number)).run()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    result = toy_trainer(tmp_path / "parts", settings, model=Toy(3), resume=True).run()
    assert result.step == 40
    last = "checkpoint-00000040.safetensors"
    assert same_arrays(tmp_path / "whole" / last, tmp_path / "parts" / last)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


@pytest.mark.parametrize(
    ("settings", "options", "named"),
    [
        ({"seed": 1}, {}, "seed was 0 and is 1"),
        ({"lr": 0.1}, {}, "lr was 0.05 and is 0.1"),
        ({"steps": 3}, {}, "steps was 4 and is 3"),
        ({"steps": None, "minutes": 0.001}, {}, "steps was 4 and is None; minutes was None and is 0.001"),
        ({"ema": None, "max_grad_norm": 1.0}, {}, "max_grad_norm was 10.0 and is 1.0; ema was 0.9 and is None"),
        ({}, {"loader": Squares(3, side=8)}, "batch_size was 2 and is 3"),
        ({}, {"loader": Squares(2, seed=9, side=8)}, "seed was 0 and is 9"),
    ],
)
def test_run_with_other_settings_is_not_resumed_unless_allowed(
    tmp_path: Path, settings: dict[str, Any], options: dict[str, Any], named: str
) -> None:
    toy_trainer(tmp_path / "run", toy_settings(4)).run()
    other = dataclasses.replace(toy_settings(4), **settings)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is compared below
        toy_trainer(tmp_path / "run", other, resume=True, **options)
    assert f"cannot continue with other settings: {named}. Restore them, start" in str(caught.value)
    toy_trainer(tmp_path / "run", other, resume=True, allow_changes=True, **options).run()


def test_run_at_another_size_is_not_resumed(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "run", toy_settings(2), image_config=ImageConfig()).run()
    with pytest.raises(ValueError, match=r"other settings: image_config\.min_size was 800 and is 64"):
        toy_trainer(tmp_path / "run", toy_settings(2), image_config=ImageConfig(min_size=64), resume=True)


def test_checkpoint_with_old_names_of_settings_is_resumed(tmp_path: Path) -> None:
    """The file is of step 5 of 6, written when the settings were clip, settle and settle_lr, the metrics figures."""
    options: dict[str, Any] = {"evaluate": lambda model: {"AP": 0.5}}
    settings = toy_settings(6, keep_last=9, eval_every=2, keep_best="AP")
    for name in ("whole", "old"):
        options |= {"model": Toy(side=4), "loader": Squares(2, side=4)}
        if name == "old":
            (tmp_path / name).mkdir()
            shutil.copy(OLD_CHECKPOINT, tmp_path / name / "checkpoint-00000005.safetensors")
        trainer = toy_trainer(tmp_path / name, settings, resume="auto", **options)
        result = trainer.run()
        assert (result.step, result.best, trainer.state.best_step, trainer.state.stale) == (6, 0.5, 2, 2)
    close_arrays(*(tmp_path / name / "weights.safetensors" for name in ("old", "whole")))
    close_arrays(*(find_checkpoints(tmp_path / name)[0] for name in ("old", "whole")))


def rewrite_as_version_0(checkpoint: Path, arguments: dict[str, Any]) -> None:
    """Give a checkpoint the header that was written before there was a configuration."""
    header, _ = read_header(checkpoint)
    del header["config"], header["image_config"]
    augment = header["data"]["augment"].replace("ImageConfig(", "ImageSettings(").replace("crop=(48, 48)", "crop=48")
    header |= {"arguments": arguments, "data": {**header["data"], "augment": augment}}
    write_checkpoint(checkpoint, dict(read_arrays(checkpoint)), header, lambda name, array: None)


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ({"depth": 18, **ARGUMENTS}, None),
        ({"depth": 18, **ARGUMENTS, "proposals": {"post_nms_top_n_train": 60}, "heads": {"batch_size": 32}}, None),
        ({}, None),  # of a model on a backbone of one's own
        ({"depth": 18, **ARGUMENTS, "heads": {"batch_size": 64}}, "heads.batch_size was 64 and is 32"),
        ({"depth": 18, **ARGUMENTS, "hidden_dim": 32}, "hidden_dim was 32 and is 16"),
    ],
)
def test_checkpoint_of_a_factory_s_arguments_is_resumed(
    tmp_path: Path, arguments: dict[str, Any], changed: str | None
) -> None:
    model, out = slim(), tmp_path / "run"
    loader = Squares(1)
    loader.augment = Augmentation(crop=48, image=model.config.image)  # type: ignore[attr-defined]
    options: dict[str, Any] = {"loader": loader, "settings": TrainerSettings(steps=1, lr=0.01)}
    toy_trainer(out, model=model, **options).run()
    rewrite_as_version_0(find_checkpoints(out)[0], arguments)
    refused = contextlib.nullcontext() if changed is None else pytest.raises(ValueError, match=changed)
    with refused:
        assert toy_trainer(out, model=slim(), resume=True, **options).run().step == 1


def test_run_may_be_prolonged_and_keeps_its_default_learning_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = TrainerSettings(steps=20, save_every=5)
    toy_trainer(tmp_path / "run", settings).run()
    longer = dataclasses.replace(settings, steps=40, save_every=10, keep_last=2)
    trainer = toy_trainer(tmp_path / "run", longer, resume=True, progress=True)
    assert (trainer.settings.warmup, trainer.settings.lr) == (2, 0.0025)
    assert trainer.run().step == 40
    assert steps_of(tmp_path / "run") == list(range(1, 41))
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["resumed from checkpoint-00000020.safetensors", "steps was 20 and is 40"]


def test_finished_run_resumed_does_nothing_twice(tmp_path: Path) -> None:
    evaluations = []

    def evaluate(model: Any) -> dict[str, float]:
        evaluations.append(1)
        return {"score": 0.5}

    for resume in (False, True):
        result = toy_trainer(tmp_path / "run", toy_settings(4), evaluate=evaluate, resume=resume).run()
        assert result.metrics == {"score": 0.5}
    assert len(evaluations) == 1
    assert steps_of(tmp_path / "run") == [1, 2, 3, 4]
