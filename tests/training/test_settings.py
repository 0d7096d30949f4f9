"""Settings of a run: checks and defaults."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from lucid_maskrcnn.training import (
    TrainerSettings,
)


@pytest.mark.parametrize(
    ("settings", "images", "lr", "warmup"),
    [
        (TrainerSettings(steps=20_000), 16, 0.02, 1000),
        (TrainerSettings(steps=500), 2, 0.0025, 50),
        (TrainerSettings(minutes=5), 4, 0.005, 200),
        (TrainerSettings(steps=500, lr=0.1, warmup=7), 4, 0.1, 7),
    ],
)
def test_learning_rate_scales_with_the_images_of_a_step(
    settings: TrainerSettings, images: int, lr: float, warmup: int
) -> None:
    completed = settings.completed(images)
    assert (completed.lr, completed.warmup) == (pytest.approx(lr), warmup)


@pytest.mark.parametrize(
    ("settings", "images", "lr", "warmup"),
    [
        (TrainerSettings(steps=60), 2, 0.00125 / 5 * 2, 12),
        (TrainerSettings(steps=1), 1, 0.00125 / 5, 0),
        (TrainerSettings(steps=120), 4, 0.00125 / 10 * 4, 24),
        (TrainerSettings(steps=20_000), 16, 0.00125 / 20 * 16, 1000),
        (TrainerSettings(minutes=5), 4, 0.00125 / 20 * 4, 200),
        (TrainerSettings(steps=500, lr=0.1, warmup=7), 4, 0.1, 7),
    ],
)
def test_fine_tuning_has_a_lower_learning_rate_unless_it_is_given(
    settings: TrainerSettings, images: int, lr: float, warmup: int
) -> None:
    completed = settings.completed(images, fine_tuning=True)
    assert (completed.lr, completed.warmup) == (pytest.approx(lr), warmup)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ValueError, "Give steps or minutes, one of them, got steps=None, minutes=None"),
        ({"steps": 5, "minutes": 1.0}, ValueError, "Give steps or minutes, one of them, got steps=5, minutes=1.0"),
        ({"steps": 0}, ValueError, "steps must be a positive integer, got 0"),
        ({"steps": 5.5}, TypeError, "steps must be a positive integer, got 5.5"),
        ({"steps": "5"}, TypeError, "steps must be a positive integer, got '5'"),
        ({"steps": True}, TypeError, "steps must be a positive integer, got True"),
        ({"minutes": -1}, ValueError, "minutes must be a number above 0, got -1"),
        ({"minutes": math.inf}, ValueError, "minutes must be a number above 0, got inf"),
        ({"steps": 5, "accumulate": None}, TypeError, "accumulate must be a positive integer, got None"),
        ({"steps": 5, "processes": 0}, ValueError, "processes must be a positive integer, got 0"),
        ({"steps": 5, "processes": 2}, ValueError, "processes must be at most accumulate, 1, got 2"),
        ({"steps": 5, "lr": math.nan}, ValueError, "lr must be a number above 0, got nan"),
        ({"steps": 5, "lr": "0.1"}, TypeError, "lr must be a number above 0, got '0.1'"),
        ({"steps": 5, "momentum": 1.0}, ValueError, "momentum must be a number of at least 0 and below 1, got 1.0"),
        ({"steps": 5, "momentum": None}, TypeError, "momentum must be a number of at least 0 and below 1, got None"),
        ({"steps": 5, "weight_decay": -1}, ValueError, "weight_decay must be a number of at least 0, got -1"),
        ({"steps": 5, "decay_norms": "no"}, TypeError, "decay_norms must be True or False, got 'no'"),
        ({"steps": 5, "seed": -1}, ValueError, "seed must be an integer from 0 to 2147483647, got -1"),
        ({"steps": 5, "seed": None}, TypeError, "seed must be an integer from 0 to 2147483647, got None"),
        (
            {"steps": 5, "schedule": "step"},
            ValueError,
            "schedule must be one of 'multistep', 'cosine', 'constant', got",
        ),
        ({"steps": 5, "schedule": "cosin"}, ValueError, "Did you mean 'cosine'"),
        ({"steps": 5, "schedule": None}, TypeError, "schedule must be one of 'multistep', 'cosine', 'constant', got"),
        ({"steps": 5, "milestones": (0.9, 0.5)}, ValueError, "milestones must be fractions of the run in ascending"),
        ({"steps": 5, "milestones": (0.5, 0.5)}, ValueError, "milestones must be fractions of the run in ascending"),
        (
            {"steps": 5, "milestones": (3, 4)},
            ValueError,
            r"milestones\[0\] must be a number above 0 and below 1, got 3",
        ),
        ({"steps": 5, "milestones": 0.5}, TypeError, "milestones must be a sequence, got 0.5"),
        ({"steps": 5, "milestones": "0.5"}, TypeError, "milestones must be a sequence, got '0.5'"),
        ({"steps": 5, "gamma": math.nan}, ValueError, "gamma must be a number of at least 0, got nan"),
        ({"steps": 5, "warmup": 5}, ValueError, "warmup must be less than the 5 steps of the run, got 5"),
        ({"steps": 5, "warmup": 0.1}, TypeError, "warmup must be a non-negative integer, got 0.1"),
        ({"steps": 5, "warmup_factor": "1"}, TypeError, "warmup_factor must be a number of at least 0, got '1'"),
        ({"steps": 5, "max_grad_norm": 0}, ValueError, "max_grad_norm must be a number above 0, got 0"),
        ({"steps": 5, "ema": 1}, ValueError, "ema must be a number of at least 0 and below 1, got 1"),
        ({"steps": 5, "ema": True}, TypeError, "ema must be a number of at least 0 and below 1, got True"),
        ({"steps": 5, "freeze_bn_after": 1}, ValueError, "freeze_bn_after must be a number above 0 and below 1, got 1"),
        (
            {"steps": 5, "freeze_bn_lr_factor": -1},
            ValueError,
            "freeze_bn_lr_factor must be a number of at least 0, got",
        ),
        ({"steps": 5, "save_every": 0}, ValueError, "save_every must be a positive integer, got 0"),
        ({"steps": 5, "keep_last": 1.5}, TypeError, "keep_last must be a positive integer, got 1.5"),
        ({"steps": 5, "eval_every": 0}, ValueError, "eval_every must be a positive integer, got 0"),
        ({"steps": 5, "keep_best": ""}, ValueError, "keep_best must not be an empty string"),
        ({"steps": 5, "keep_best": 3}, TypeError, "keep_best must be a string, got 3"),
        ({"steps": 5, "patience": 0, "keep_best": "AP"}, ValueError, "patience must be a positive integer, got 0"),
        ({"steps": 5, "patience": 2}, ValueError, "patience needs keep_best"),
    ],
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TrainerSettings(**settings)


def test_settings_take_numpy_scalars_and_lists_and_hold_plain_values() -> None:
    settings = TrainerSettings(steps=np.int64(10), lr=np.float32(0.5), milestones=[0.25, np.float64(0.5)])
    assert settings == TrainerSettings(steps=10, lr=0.5, milestones=(0.25, 0.5))
    assert json.loads(json.dumps(dataclasses.asdict(settings)))["milestones"] == [0.25, 0.5]
