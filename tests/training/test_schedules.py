"""Learning rates over a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import (
    toy_trainer,
)

from lucid_maskrcnn.training import (
    Schedule,
    TrainerSettings,
    read_log,
)


def rates(schedule: Schedule, steps: int) -> list[float]:
    return [schedule.factor(step, step / steps) for step in range(steps)]


def test_schedules_by_hand() -> None:
    drops = Schedule("multistep", warmup=2, warmup_factor=0.5, milestones=(2 / 3, 8 / 9), gamma=0.1)
    np.testing.assert_allclose(rates(drops, 9), [0.5, 0.75, 1, 1, 1, 1, 0.1, 0.1, 0.01])
    np.testing.assert_allclose(
        rates(Schedule("cosine"), 4), [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    np.testing.assert_allclose(rates(Schedule("constant", warmup=2, warmup_factor=0.0), 4), [0, 0.5, 1, 1])


def test_schedule_runs_twice_when_batch_norm_is_frozen() -> None:
    cosine = Schedule("cosine", freeze_bn_after=0.5, freeze_bn_lr_factor=0.3)
    np.testing.assert_allclose(rates(cosine, 4), [1, 0.5, 0.3, 0.15])
    drops = Schedule("multistep", milestones=(0.5,), gamma=0.1, freeze_bn_after=0.5, freeze_bn_lr_factor=0.5)
    np.testing.assert_allclose(rates(drops, 8), [1, 1, 0.1, 0.1, 0.5, 0.5, 0.05, 0.05])


def test_rates_of_a_run_are_the_schedules(tmp_path: Path) -> None:
    settings = TrainerSettings(steps=9, lr=0.1, warmup=2, warmup_factor=0.5)
    toy_trainer(tmp_path / "run", settings).run()
    found = [r["lr"] for r in read_log(tmp_path / "run" / "log.jsonl")]
    np.testing.assert_allclose(found, np.multiply(0.1, [0.5, 0.75, 1, 1, 1, 1, 0.1, 0.1, 0.01]))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"kind": "linear"}, ValueError, "kind must be one of 'multistep', 'cosine', 'constant', got 'linear'"),
        ({"warmup": -1}, ValueError, "warmup must be a non-negative integer, got -1"),
        ({"milestones": (0.8, 0.6)}, ValueError, "milestones must be fractions of the run in ascending order"),
        ({"milestones": (8, 9)}, ValueError, r"milestones\[0\] must be a number above 0 and below 1, got 8"),
        ({"freeze_bn_after": "half"}, TypeError, "freeze_bn_after must be a number above 0 and below 1, got 'half'"),
    ],
)
def test_bad_schedules(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Schedule(**fields)


@pytest.mark.parametrize(("step", "progress"), [(-1, 0.0), (0, -0.1), (0, 1.5), (0, math.nan)])
def test_no_factor_outside_of_the_run(step: int, progress: float) -> None:
    with pytest.raises(ValueError, match=r"(step|progress) must be"):
        Schedule().factor(step, progress)
