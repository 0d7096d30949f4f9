"""Several processes for the batches of a step."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_processes import child_pids, finish, is_alive, num_logged, run_in_process, wait_for
from tiny_runs import (
    Squares,
    Toy,
    close_arrays,
    same_arrays,
    slim,
    steps_of,
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn.training import (
    DivergenceError,
    Trainer,
    TrainerSettings,
    read_log,
)
from lucid_maskrcnn.training.checkpoints import find_checkpoints

forks = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


@forks
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_give_the_weights_of_one(tmp_path: Path, processes: int) -> None:
    for name, number in (("one", 1), ("several", processes)):
        settings = toy_settings(12, accumulate=5, processes=number)
        toy_trainer(tmp_path / name, settings, model=Toy(norm=False)).run()  # each process has its own statistics
    close_arrays(tmp_path / "several" / "weights.safetensors", tmp_path / "one" / "weights.safetensors")
    close_arrays(*(find_checkpoints(tmp_path / name)[0] for name in ("several", "one")))  # momenta and averages too
    for some, other in zip(*(read_log(tmp_path / n / "log.jsonl") for n in ("several", "one")), strict=True):
        for name in ("first_loss", "second_loss", "total_loss", "norm", "lr"):
            assert some[name] == pytest.approx(other[name], rel=1e-4)


@forks
def test_processes_train_a_mask_rcnn_as_one_does(tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        settings = TrainerSettings(steps=3, lr=0.02, warmup=0, accumulate=2, processes=processes)
        model = slim(norm="frozen")
        Trainer(model, Squares(1), out=tmp_path / name, settings=settings, progress=False, tensorboard=False).run()
    close_arrays(*(tmp_path / name / "weights.safetensors" for name in ("two", "one")))


@forks
def test_several_processes_give_the_same_weights_each_time(tmp_path: Path) -> None:
    for name in "ab":
        toy_trainer(tmp_path / name, toy_settings(10, accumulate=3, processes=2)).run()
    assert same_arrays(*(tmp_path / name / "weights.safetensors" for name in "ab"))


@forks
def test_frozen_parameters_do_not_move_in_several_processes(tmp_path: Path) -> None:
    model = Toy()
    model.hidden.weight.requires_grad = False
    before = np.array(model.hidden.weight.data)
    trainer = toy_trainer(tmp_path, toy_settings(3, processes=2), model=model)
    trainer.run()
    np.testing.assert_array_equal(model.hidden.weight.data, before)


@forks
@pytest.mark.parametrize("processes", [2, 4])
def test_live_statistics_alone_depend_on_the_number_of_processes(tmp_path: Path, processes: int) -> None:
    models = {}
    for number in (1, processes):
        settings = toy_settings(8, freeze_bn_after=None, ema=None, accumulate=4, processes=number)
        models[number] = Toy()
        toy_trainer(tmp_path / str(number), settings, model=models[number]).run()
    one, several = (models[number].state_dict(keep_vars=True) for number in (1, processes))
    for name, variable in one.items():
        assert np.array_equal(variable.data, several[name].data) == (name != "norm.running_mean")


@forks
def test_live_statistics_are_the_mean_of_the_processes(tmp_path: Path) -> None:
    settings = toy_settings(1, warmup=0, freeze_bn_after=None, accumulate=2, processes=2, ema=None)
    model = Toy()
    toy_trainer(tmp_path, settings, model=model).run()
    pixels = [np.stack(Squares(2, side=8).batch(i).images).reshape(2, -1) / 255 for i in range(2)]
    np.testing.assert_allclose(model.norm.running_mean.data, 0.1 * np.mean(pixels, axis=(0, 1)), rtol=1e-4)


@forks
def test_several_processes_killed_and_resumed_with_another_number(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "whole").run()
    out = tmp_path / "killed"
    run = run_in_process(out, "--wait", 0.02, "--processes", 2)
    wait_for(lambda: num_logged(out) >= 30 or run.poll() is not None)  # batch norm is frozen
    workers = child_pids(run.pid)
    assert len(workers) == 1
    run.kill()
    assert finish(run)[0] == -signal.SIGKILL
    wait_for(lambda: not any(is_alive(pid) for pid in workers))
    assert finish(run_in_process(out)) == (0, "ready\n")
    assert steps_of(out) == list(range(1, 41))


@forks
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_all_processes_stops_the_run_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    run = run_in_process(tmp_path, "--wait", 0.02, "--processes", 2, own_group=True)
    wait_for(lambda: num_logged(tmp_path) >= 5 or run.poll() is not None)
    workers = child_pids(run.pid)
    os.killpg(run.pid, number)
    code, output = finish(run)
    assert (code, len(workers)) == (130, 1)
    assert "Stopped after step" in output
    assert "Traceback" not in output
    assert not any(is_alive(pid) for pid in workers)


@forks
def test_process_that_was_killed_is_an_error(tmp_path: Path) -> None:
    class Fatal(Toy):
        def get_loss(self, images: Any, targets: Any) -> Any:
            if np.array_equal(images, sixth.images):  # the second process's in the third step
                os.kill(os.getpid(), signal.SIGKILL)
            return super().get_loss(images, targets)

    loader = Squares(2, side=8)
    sixth = loader.batch(5)
    settings = toy_settings(9, processes=2)
    with pytest.raises(ChildProcessError, match=r"Step 3: one of the processes .* has ended, with code -9"):
        toy_trainer(tmp_path, settings, loader=loader, model=Fatal()).run()
    assert steps_of(tmp_path) == [1, 2]


@forks
def test_several_processes_load_during_the_step_before(tmp_path: Path) -> None:
    class Counting(Squares):
        def batch(self, step: int) -> Any:
            begun.release()
            return super().batch(step)

    class Waiting(Toy):
        calls = 0

        def get_loss(self, images: Any, targets: Any) -> Any:
            self.calls += 1
            for _ in range({1: 2, steps: 0}.get(self.calls, 1)):  # the first batch, and at each step the next one
                assert begun.acquire(timeout=60)
            return super().get_loss(images, targets)

    begun, steps = threading.Semaphore(0), 4
    toy_trainer(tmp_path, toy_settings(steps, processes=2), loader=Counting(2, side=8), model=Waiting()).run()
    assert not begun.acquire(blocking=False)  # none beyond the last step


@forks
def test_exception_of_a_process_is_raised_by_the_run(tmp_path: Path) -> None:
    class Faulty(Squares):
        def batch(self, step: int) -> Any:
            batch = super().batch(step)
            if step == 3:
                batch.targets[1]["boxes"][0] = [9, 9, 3, 3]
            return batch

    settings = TrainerSettings(steps=3, lr=0.01, accumulate=2, processes=2)
    trainer = Trainer(slim(), Faulty(2), out=tmp_path, settings=settings, progress=False, tensorboard=False)
    with pytest.raises(ValueError, match=r"Step 2, images \[106, 107\]: targets\[1\].*boxes") as caught:
        trainer.run()
    assert "get_loss" in caught.value.__notes__[0]  # where it was


@forks
def test_nan_in_another_process_stops_with_its_batch(tmp_path: Path) -> None:
    class Spoiled(Toy):
        def get_loss(self, images: Any, targets: Any) -> Any:
            if np.array_equal(images, fourth.images):
                self.second.bias.data[:] = np.nan
            return super().get_loss(images, targets)

    loader = Squares(2, side=8)
    fourth = loader.batch(3)
    settings = toy_settings(9, processes=2)
    with pytest.raises(
        DivergenceError, match=r"Step 2: second_loss is nan for the images \[106, 107\], written to"
    ) as e:
        toy_trainer(tmp_path, settings, loader=loader, model=Spoiled()).run()
    assert (e.value.step, e.value.term, e.value.image_ids) == (2, "second_loss", [106, 107])
    with np.load(tmp_path / "diverged-00000002.npz") as batch:
        assert batch["image_ids"].tolist() == ["106", "107"]


@forks
def test_infinite_gradients_name_the_images_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucid_maskrcnn.training.trainer.clip_gradients", lambda *_: math.inf)
    with pytest.raises(DivergenceError) as caught:
        toy_trainer(tmp_path, toy_settings(2, processes=2)).run()
    assert caught.value.image_ids == [100, 101, 102, 103]


@pytest.mark.parametrize("processes", [1, 2])
def test_statistics_of_an_unfinished_step_are_not_kept(tmp_path: Path, processes: int) -> None:
    if processes > 1 and sys.platform != "linux":
        pytest.skip("only Linux forks safely")

    class Failing(Squares):
        def batch(self, step: int) -> Any:
            if step == 14 and failing:
                raise ValueError("bad data")
            return super().batch(step)

    failing = True
    settings = toy_settings(8, accumulate=4, processes=processes, save_every=100)
    with pytest.raises(ValueError, match="bad data"):
        toy_trainer(tmp_path / "parts", settings, loader=Failing(2, side=8)).run()
    failing = False
    toy_trainer(tmp_path / "parts", settings, loader=Failing(2, side=8), resume=True).run()
    toy_trainer(tmp_path / "whole", settings).run()
    assert same_arrays(*(tmp_path / name / "weights.safetensors" for name in ("parts", "whole")))


@forks
def test_loader_that_ends_too_early_for_another_process(tmp_path: Path) -> None:
    class Short(Squares):
        def iterate(self, start: int, stop: int) -> Any:
            return super().iterate(start, min(stop, 3))

    with pytest.raises(ValueError, match=r"no batches for step 2: iterate\(start, stop\) must yield stop - start"):
        toy_trainer(tmp_path, toy_settings(9, processes=2), loader=Short(2, side=8)).run()


def test_processes_are_for_linux_and_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"processes must be at most accumulate, 2, got 3"):
        toy_settings(2, processes=3)
    settings = toy_settings(2, processes=2)
    with pytest.raises(ValueError, match=r"processes must be 1 for a model on the gpu, got 2"):
        toy_trainer(tmp_path, settings, model=Toy().to("gpu"))
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match=r"processes must be 1 on darwin, got 2"):
        toy_trainer(tmp_path, settings)
