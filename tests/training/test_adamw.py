"""AdamW against PyTorch's rule in float64, and as the optimizer of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_runs import Interrupting, Squares, Toy, parameter, same_arrays, set_grad, slim, toy_settings, toy_trainer

from lucid_maskrcnn.ops import host
from lucid_maskrcnn.training import SGD, AdamW, Interrupted, TrainerSettings, decay_groups, read_log
from lucid_maskrcnn.training.checkpoints import find_checkpoints, read_header


def test_first_step_by_hand(device: str) -> None:
    p = parameter([1.0, -2.0], device)
    set_grad(p, [0.5, -8.0])
    AdamW([p], lr=0.1, weight_decay=0.5).step()  # m̂ / √v̂ is the gradient's sign: p · 0.95 ∓ 0.1
    np.testing.assert_allclose(host(p), [0.85, -1.8], rtol=1e-6)
    assert host(p).dtype == np.float32


@pytest.mark.parametrize(("betas", "weight_decay"), [((0.9, 0.999), 0.05), ((0.8, 0.95), 0.0), ((0.0, 0.0), 0.3)])
def test_many_steps_follow_the_rule(betas: tuple[float, float], weight_decay: float, device: str) -> None:
    rng = np.random.default_rng(0)
    p = parameter(rng.normal(size=(3, 4)), device)
    weight, m, v = host(p).astype(np.float64), 0.0, 0.0
    optimizer = AdamW([p], lr=0.05, betas=betas, weight_decay=weight_decay)
    for t in range(1, 9):
        grad = rng.normal(size=(3, 4)) * 10.0 ** rng.integers(-4, 4, (3, 4))
        set_grad(p, grad)
        optimizer.step()
        m, v = betas[0] * m + (1 - betas[0]) * grad, betas[1] * v + (1 - betas[1]) * grad**2
        weight = weight - 0.05 * weight_decay * weight
        weight = weight - 0.05 * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + 1e-8)
    np.testing.assert_allclose(host(p), weight, rtol=1e-5, atol=1e-6)


def test_each_parameter_counts_its_own_steps(device: str) -> None:
    p, q = parameter([1.0], device), parameter([1.0], device)
    optimizer = AdamW([p, q], lr=0.1, weight_decay=0.0)
    set_grad(p, [1.0])
    optimizer.step()
    assert host(q) == [1.0]
    optimizer.zero_grad()
    set_grad(q, [1.0])
    optimizer.step()
    np.testing.assert_array_equal(host(q), host(p))
    assert optimizer.counts == [1, 1]


def test_arrays_of_the_caller_are_not_written_to() -> None:
    loaded, grad = np.ones(3, np.float32), np.full(3, 2, np.float32)
    p = parameter(loaded)
    optimizer = AdamW([p])
    for _ in range(3):
        p.grad = grad
        optimizer.step()
    assert (loaded == 1).all()
    assert (grad == 2).all()


def test_groups_have_their_own_settings() -> None:
    weight, bias = parameter(np.ones((2, 2))), parameter(np.ones(2))
    optimizer = AdamW(decay_groups([weight, bias], 0.5), lr=0.1)
    for p in (weight, bias):
        set_grad(p, np.zeros(p.shape))
    optimizer.step()
    np.testing.assert_allclose(host(weight), 0.95)
    np.testing.assert_array_equal(host(bias), 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"params": []}, ValueError, "params must have at least one parameter, got none"),
        ({"params": [{"params": [], "momentum": 0.9}]}, TypeError, "has no argument 'momentum'"),
        ({"lr": math.nan}, ValueError, "lr must be a number of at least 0, got nan"),
        ({"betas": (0.9,)}, ValueError, "betas must be"),
        ({"betas": (0.9, 1)}, ValueError, r"betas\[1\] must be a number of at least 0 and below 1, got 1"),
        ({"eps": 0}, ValueError, "eps must be"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be"),
    ],
)
def test_bad_arguments_of_adamw(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        AdamW(**{"params": [parameter([1.0])], **options})


# ------------------------------------------------------------------ in a run


def adamw(steps: int = 40, **more: Any) -> TrainerSettings:
    return toy_settings(steps, optimizer="adamw", lr=0.01, **more)


def test_resumed_run_is_one_run_bit_for_bit(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "whole", adamw()).run()
    with pytest.raises(Interrupted):
        toy_trainer(tmp_path / "parts", adamw(), loader=Interrupting(2, side=8, at=33)).run()
    toy_trainer(tmp_path / "parts", adamw(), resume=True).run()
    for name in ("weights.safetensors", find_checkpoints(tmp_path / "whole")[0].name):
        assert same_arrays(tmp_path / "whole" / name, tmp_path / "parts" / name)
    header, arrays = read_header(find_checkpoints(tmp_path / "parts")[0])
    assert {name.partition(".")[0] for name in arrays} == {"model", "momentum", "squares", "ema"}
    assert set(header["optimizer_steps"].values()) == {40}


def test_several_processes_train_as_one(tmp_path: Path) -> None:
    for processes in (1, 2):
        toy_trainer(tmp_path / str(processes), adamw(10, processes=processes), model=Toy(norm=False)).run()
    one, two = (load_file(tmp_path / str(n) / "weights.safetensors") for n in (1, 2))
    for name, array in one.items():  # a tiny gradient's step is as large as a great one's, so rounding counts more
        np.testing.assert_allclose(array, two[name], rtol=1e-3, atol=1e-4, err_msg=name)


class OneBatch(Squares):
    def batch(self, step: int) -> Any:
        return super().batch(0)


def test_a_detector_learns_with_it(tmp_path: Path) -> None:
    settings = TrainerSettings(steps=20, lr=4e-3, optimizer="adamw", warmup=3, schedule="constant")
    toy_trainer(tmp_path, settings, model=slim(), loader=OneBatch(1)).run()
    losses = [record["total_loss"] for record in read_log(tmp_path / "log.jsonl")]
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:4])


def test_defaults_depend_on_the_optimizer() -> None:
    sgd = TrainerSettings(steps=100).completed(16)
    assert (sgd.lr, sgd.weight_decay, sgd.decay_norms) == (0.02, 1e-4, True)
    own = TrainerSettings(steps=100, optimizer="adamw").completed(16)
    assert (own.lr, own.weight_decay, own.decay_norms) == (1e-4, 0.05, False)
    assert TrainerSettings(steps=100, optimizer="adamw").completed(4).lr == pytest.approx(5e-5)
    tuned = TrainerSettings(steps=10, optimizer="adamw").completed(4, fine_tuning=True)
    assert tuned.lr == pytest.approx(1e-5)


def test_norms_and_biases_do_not_decay(tmp_path: Path) -> None:
    optimizer = toy_trainer(tmp_path, adamw()).optimizer
    assert isinstance(optimizer, AdamW)
    assert [group["weight_decay"] for group in optimizer.groups] == [0.05, 0.0]
    assert all(p.ndim == 1 for p in optimizer.groups[1]["params"])


def test_another_optimizer_is_another_run(tmp_path: Path) -> None:
    toy_trainer(tmp_path, toy_settings(4)).run()
    with pytest.raises(ValueError, match="optimizer was sgd and is adamw"):
        toy_trainer(tmp_path, adamw(8), resume=True)
    trainer = toy_trainer(tmp_path, adamw(8), resume=True, allow_changes=True)
    trainer.run()
    assert trainer.optimizer.counts == [4] * 6, "it begins anew"
    back = toy_trainer(tmp_path, toy_settings(12), resume=True, allow_changes=True)
    assert isinstance(back.optimizer, SGD)
    back.run()


def test_settings_of_the_other_optimizer_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum is of optimizer='sgd'"):
        TrainerSettings(steps=1, optimizer="adamw", momentum=0.8)
    with pytest.raises(ValueError, match="betas is of optimizer='adamw'"):
        TrainerSettings(steps=1, betas=(0.8, 0.9))
    with pytest.raises(ValueError, match="optimizer must be"):
        TrainerSettings(steps=1, optimizer="adam")
