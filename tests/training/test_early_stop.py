"""Patience: a run that ends early says so, everywhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import steps_of, toy_settings, toy_trainer

from lucid_maskrcnn.training import read_log


def run(out: Path, scores: list[float], *, name: str = "score", steps: int = 40, patience: int = 2, **more: Any) -> Any:
    left = iter(scores)
    settings = toy_settings(steps, eval_every=2, keep_best=name, patience=patience, ema=None)
    return toy_trainer(out, settings, evaluate=lambda model: {name: next(left)}, **more).run()


def test_an_early_stop_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path, [0.1, 0.5, 0.4, 0.5], progress=True)
    assert (result.stopped_early, result.step, result.best, result.best_step) == (True, 8, 0.5, 4)
    line = (
        "stopped early after step 8 of 40: the last 2 evaluations were not better in score than the best, "
        "0.500 at step 4"
    )
    assert line in capsys.readouterr().err.splitlines()
    last = read_log(tmp_path / "log.jsonl")[-1]
    told = {"keep_best": "score", "patience": 2, "best": 0.5, "best_step": 4, "steps": 40}
    assert last == {"step": 8, "seconds": last["seconds"], "stopped_early": told}


def test_a_longer_patience_goes_on_and_the_log_forgets_the_stop(tmp_path: Path) -> None:
    run(tmp_path, [0.5, 0.4, 0.4])
    again = run(tmp_path, [], resume=True)  # the same settings: nothing is left to do
    assert again.stopped_early
    assert [r["step"] for r in read_log(tmp_path / "log.jsonl") if "stopped_early" in r] == [6]
    result = run(tmp_path, [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2], steps=20, patience=3, resume=True, allow_changes=True)
    assert not result.stopped_early
    assert steps_of(tmp_path) == list(range(1, 21))
    assert not [r for r in read_log(tmp_path / "log.jsonl") if "stopped_early" in r]


def test_a_run_of_full_length_did_not_stop_early(tmp_path: Path) -> None:
    result = run(tmp_path, [0.5, 0.4, 0.4], steps=6)
    assert not result.stopped_early
    assert not [r for r in read_log(tmp_path / "log.jsonl") if "stopped_early" in r]


def test_a_metric_that_never_has_a_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path, [math.nan], patience=1, progress=True)
    assert result.stopped_early
    assert "the last evaluation was not better in score than the best, none had a value" in capsys.readouterr().err


def test_a_loss_is_better_when_it_is_lower(tmp_path: Path) -> None:
    result = run(tmp_path, [3.0, 2.0, 2.5, 2.0], name="val/total_loss")
    assert (result.stopped_early, result.best, result.best_step) == (True, 2.0, 4)
