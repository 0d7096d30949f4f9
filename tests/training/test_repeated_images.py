"""Repeat-factor sampling in a run: a resumed one is one run, and another threshold is another run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import Squares, same_arrays, toy_settings, toy_trainer

from lucid_maskrcnn.data import Loader


def loader(threshold: float | None = 0.5) -> Loader:
    images = [Squares(1, side=8, seed=i).batch(0) for i in range(5)]
    pairs: list[Any] = [(batch.images[0], batch.targets[0]) for batch in images]
    for _, target in pairs[1:]:  # class 2 is in the first image only
        target["labels"] = np.ones(2, np.int32)
    return Loader(pairs, 2, repeat_thresh=threshold)


def test_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    settings = {"schedule": "constant", "freeze_bn_after": None}
    toy_trainer(tmp_path / "one", toy_settings(9, **settings), loader=loader()).run()
    toy_trainer(tmp_path / "two", toy_settings(4, **settings), loader=loader()).run()
    toy_trainer(tmp_path / "two", toy_settings(9, **settings), loader=loader(), resume=True).run()
    assert same_arrays(*(tmp_path / name / "weights.safetensors" for name in ("one", "two")))


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_another_threshold_is_another_run(tmp_path: Path, threshold: float | None) -> None:
    toy_trainer(tmp_path, toy_settings(2), loader=loader()).run()
    with pytest.raises(ValueError, match="the repeat factors of the data have changed"):
        toy_trainer(tmp_path, toy_settings(2), loader=loader(threshold), resume=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
def test_processes_see_the_same_images(tmp_path: Path) -> None:
    for name in "ab":
        toy_trainer(tmp_path / name, toy_settings(6, processes=2), loader=loader()).run()
    assert same_arrays(*(tmp_path / name / "weights.safetensors" for name in "ab"))
