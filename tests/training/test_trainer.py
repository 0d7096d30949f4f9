"""The trainer: what it computes, what it leaves on the disk, and that nothing gets lost on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lucid
import lucid.nn as nn
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from tiny_runs import Squares, Toy, slim, toy_settings

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.config import ImageConfig
from lucid_maskrcnn.evaluation import Evaluation
from lucid_maskrcnn.training import (
    DivergenceError,
    GradientMean,
    Interrupted,
    Schedule,
    Trainer,
    TrainerSettings,
    TrainResult,
    clip_gradients,
    draw_curves,
    read_log,
)
from lucid_maskrcnn.training.checkpoints import find_checkpoints, read_header
from lucid_maskrcnn.training.tensorboard import is_installed
from lucid_maskrcnn.weights import save_weights

SCRIPT = Path(__file__).parents[1] / "tiny_runs.py"
OLD_CHECKPOINT = Path(__file__).parent / "files" / "checkpoint_with_old_names.safetensors"
LOSSES = ["rpn_cls_loss", "rpn_reg_loss", "roi_cls_loss", "roi_reg_loss", "mask_loss", "total_loss"]


@pytest.fixture(autouse=True)
def no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a toy's run."""
    if "curves" not in request.node.name and "matplotlib" not in request.node.name:
        monkeypatch.setattr("lucid_maskrcnn.training.trainer.draw_curves", lambda *_: None)


def toy_trainer(out: Path, settings: TrainerSettings | None = None, **options: Any) -> Trainer:
    usual: dict[str, Any] = {"model": Toy(), "loader": Squares(2, side=8), "progress": False, "tensorboard": False}
    return Trainer(**{**usual, **options}, out=out, settings=settings or toy_settings())


def same_arrays(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def steps_of(out: Path) -> list[int]:
    return [record["step"] for record in read_log(out / "log.jsonl") if "evaluation" not in record]


def timeless(out: Path) -> list[dict[str, Any]]:
    """The log without what the clock says."""
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "images_per_s")}
        for record in read_log(out / "log.jsonl")
    ]


# ------------------------------------------------------------------ a Mask R-CNN learns


class Watched(Squares):
    """Notes the memory in use at each batch."""

    def iterate(self, start: int, stop: int) -> Any:
        self.resident: list[int] = []
        for batch in super().iterate(start, stop):
            statm = Path("/proc/self/statm")
            self.resident.append(int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0)
            yield batch


@dataclasses.dataclass
class Run:
    out: Path
    result: TrainResult
    loader: Watched
    model: Any


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out, loader, model = (
        tmp_path_factory.mktemp("learned") / "run",
        Watched(1),
        slim(categories={1: "dim", 2: "bright"}),
    )
    settings = TrainerSettings(steps=30, lr=0.02, warmup=4, schedule="cosine", ema=0.8, save_every=15)
    trainer = Trainer(
        model,
        loader,
        out=out,
        settings=settings,
        evaluate=lambda model: {"segm/AP": 0.5},
        progress=False,
        tensorboard=False,
    )
    return Run(out, trainer.run(), loader, model)


def test_losses_go_down(learned: Run) -> None:
    losses = [record["total_loss"] for record in read_log(learned.out / "log.jsonl") if "total_loss" in record]
    assert np.mean(losses[-8:]) < 0.75 * np.mean(losses[:8])


def test_a_line_of_the_log_has_everything(learned: Run) -> None:
    *steps, last = read_log(learned.out / "log.jsonl")
    assert [r["step"] for r in steps] == list(range(1, 31))
    assert list(steps[0]) == ["step", "seconds", "lr", *LOSSES, "norm", "images_per_s"]
    assert steps[-1]["seconds"] > steps[0]["seconds"] > 0
    assert last == {"step": 30, "seconds": last["seconds"], "evaluation": {"segm/AP": 0.5}}


def test_the_file_of_weights_builds_its_model(learned: Run) -> None:
    assert learned.result.weights == learned.out / "weights.safetensors"
    model = MaskRCNN.from_file(learned.result.weights)
    assert model.categories == {1: "dim", 2: "bright"}
    image = Squares(1).batch(0).images[0]
    (found,), (own,) = (m.predict(image, score_thresh=0.0) for m in (model, learned.model))
    np.testing.assert_array_equal(found.scores.numpy(), own.scores.numpy())
    assert learned.result.metrics == {"segm/AP": 0.5}


def test_only_the_last_checkpoint_is_kept(learned: Run) -> None:
    left = {p.name for p in learned.out.iterdir()} - {"curves.png"}
    assert left == {"log.jsonl", "checkpoint-00000030.safetensors", "weights.safetensors"}
    numbers, shapes = read_header(learned.out / "checkpoint-00000030.safetensors")
    assert {name.partition(".")[0] for name in shapes} == {"model", "momentum", "ema"}
    assert numbers["state"]["metrics"] == {"segm/AP": 0.5}
    assert numbers["settings"]["lr"] == 0.02


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of memory")
def test_memory_stays_level(learned: Run) -> None:
    resident = learned.loader.resident
    assert max(resident[-5:]) - max(resident[8:13]) < 48e6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be a module with get_loss, such as a MaskRCNN, got None"),
        ({"model": nn.Identity()}, TypeError, r"model must have get_loss\(images, targets\), as MaskRCNN has"),
        ({"loader": [1, 2]}, TypeError, "got list: wrap the data set in lucid_maskrcnn.data.Loader"),
        ({"loader": None}, TypeError, r"loader must have batch_size and iterate\(start, stop\)"),
        ({"settings": {"steps": 1}}, TypeError, "settings must be TrainerSettings"),
        ({"out": None}, TypeError, "out must be a path as str or Path, got None"),
        ({"out": ""}, ValueError, "out must not be an empty string"),
        (
            {"evaluate": "ap"},
            TypeError,
            "evaluate must be a function of the model that returns metrics by name, got 'ap'",
        ),
        ({"resume": "yes"}, ValueError, "resume must be True, False or 'auto', got 'yes'"),
        ({"resume": None}, TypeError, "resume must be True, False or 'auto', got None"),
        ({"resume": 1}, TypeError, "resume must be True, False or 'auto', got 1"),
        ({"allow_changes": "no"}, TypeError, "allow_changes must be True or False, got 'no'"),
        ({"progress": None}, TypeError, "progress must be True or False, got None"),
        ({"tensorboard": "auto"}, TypeError, "tensorboard must be True or False, got 'auto'"),
    ],
)
def test_bad_arguments_of_the_trainer(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    out = tmp_path / "run"
    usual = {"model": Toy(), "loader": Squares(2, side=8), "out": out, "settings": toy_settings(2)}
    with pytest.raises(error, match=message):
        Trainer(**{**usual, **arguments})
    assert not out.exists()


def test_model_without_trained_parameters_is_refused(tmp_path: Path) -> None:
    model = Toy()
    for p in model.parameters():
        p.requires_grad = False
    with pytest.raises(ValueError, match="at least one parameter with requires_grad=True, got none: nothing to train"):
        toy_trainer(tmp_path, model=model)


# ------------------------------------------------------------------ interrupted and resumed


class Interrupting(Squares):
    """Sends a signal to this process as it hands out a batch."""

    def __init__(self, *args: Any, at: int, number: int = signal.SIGINT, **options: Any) -> None:
        super().__init__(*args, **options)
        self.at, self.number = at, number

    def iterate(self, start: int, stop: int) -> Any:
        for index, batch in enumerate(super().iterate(start, stop), start):
            if index == self.at:
                os.kill(os.getpid(), self.number)
            yield batch


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


def test_same_seed_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        toy_trainer(tmp_path / name, toy_settings(10, seed=seed)).run()
    a, b, c = (tmp_path / name / "weights.safetensors" for name in "abc")
    assert same_arrays(a, b)
    assert not same_arrays(a, c)


def process(out: Path, *arguments: object, own_group: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(out), *map(str, arguments)]
    # A shell's background jobs ignore SIGINT, and their children too.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=own_group,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(run: subprocess.Popen[str]) -> tuple[int, str]:
    output = run.communicate()[0]
    return run.returncode, output


def wait_for(what: Any) -> None:
    while not what():
        time.sleep(0.005)


def logged(out: Path) -> int:
    log = out / "log.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def check_resumed(out: Path, whole: Path) -> None:
    """Check that what was killed and resumed is what was not."""
    (last,), (wanted,) = find_checkpoints(out), find_checkpoints(whole)
    assert same_arrays(last, wanted)
    assert same_arrays(out / "weights.safetensors", whole / "weights.safetensors")
    assert timeless(out) == timeless(whole)
    assert [p.name for p in out.iterdir() if p.name.endswith(".tmp")] == []


def test_killed_at_any_moment_and_resumed(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "whole").run()
    rng, out = random.Random(0), tmp_path / "killed"
    for lines in (7, 22):
        run = process(out, "--wait", 0.004)
        wait_for(lambda lines=lines, run=run: logged(out) >= lines or run.poll() is not None)
        time.sleep(rng.uniform(0, 0.05))
        run.kill()
        assert finish(run)[0] == -signal.SIGKILL
    assert finish(process(out)) == (0, "ready\n")
    check_resumed(out, tmp_path / "whole")


@pytest.mark.parametrize("tensors", [0, 9, 1000])
def test_killed_while_it_writes_a_checkpoint(tmp_path: Path, tensors: int) -> None:
    """Before the first array, in the middle, and when the new file is there and the old one still too."""
    out = tmp_path / "killed"
    toy_trainer(tmp_path / "whole").run()
    written = len(load_file(tmp_path / "whole" / "checkpoint-00000040.safetensors"))
    code, output = finish(process(out, "--kill", 9, min(tensors, written)))
    assert (code, output) == (-signal.SIGKILL, "ready\n")
    steps = [int(p.stem[-8:]) for p in find_checkpoints(out)]
    assert steps == ([9, 8] if tensors > written else [8])
    assert len([p for p in out.iterdir() if p.name.endswith(".tmp")]) == (0 if tensors > written else 1)
    toy_trainer(out, model=Toy(1), resume=True).run()
    check_resumed(out, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("model", "steps"), [("toy", 300), ("slim", 30)])
def test_killed_many_times_at_random_moments(tmp_path: Path, model: str, steps: int) -> None:
    out, rng, kills = tmp_path / "killed", random.Random(1), 0
    options = ["--model", model, "--steps", steps]
    whole = process(tmp_path / "whole", *options)
    assert whole.stdout is not None
    assert whole.stdout.readline() == "ready\n"
    begun = time.perf_counter()
    assert finish(whole)[0] == 0
    longest = (time.perf_counter() - begun) / 6  # no attempt gets far, however fast the machine is
    while not (out / "weights.safetensors").exists():
        run = process(out, *options)
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(timeout=rng.uniform(0, longest))
        run.kill()
        kills += finish(run)[0] == -signal.SIGKILL
    assert kills >= 5
    assert finish(process(out, *options)) == (0, "ready\n")
    check_resumed(out, tmp_path / "whole")


def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = process(tmp_path / "run", "--wait", 0.01)
    wait_for(lambda: logged(tmp_path / "run") >= 3)
    run.send_signal(signal.SIGINT)
    code, output = finish(run)
    (checkpoint,) = find_checkpoints(tmp_path / "run")
    step = int(checkpoint.stem[-8:])
    assert (code, output.splitlines()[1:]) == (
        130,
        [f"Stopped after step {step}, with a checkpoint in {str(tmp_path / 'run')!r}; resume=True continues from it."],
    )
    assert steps_of(tmp_path / "run") == list(range(1, step + 1))


def test_ctrl_c_ends_an_evaluation_at_once_and_it_is_made_up_for(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = process(out, "--evaluate", 600)
    assert run.stdout is not None
    assert [run.stdout.readline() for _ in range(2)] == ["ready\n", "evaluating\n"]
    run.send_signal(signal.SIGINT)
    assert finish(run)[0] == 130
    seen = []
    settings = toy_settings(eval_every=5)

    def evaluate(model: Any) -> dict[str, float]:
        seen.append(model.training)
        return {"score": 1.0}

    toy_trainer(out, settings, evaluate=evaluate, resume=True).run()
    assert seen == [False] * 8
    assert [r["step"] for r in read_log(out / "log.jsonl") if "evaluation" in r] == list(range(5, 41, 5))


def test_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    run = process(tmp_path / "run", "--wait", 600)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    wait_for(lambda: (tmp_path / "run" / "log.jsonl").exists())
    time.sleep(0.3)  # by now it waits for the first batch
    run.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    code, output = finish(run)
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in output


def test_trains_outside_of_the_main_thread(tmp_path: Path) -> None:
    result: list[TrainResult] = []
    thread = threading.Thread(target=lambda: result.append(toy_trainer(tmp_path / "run", toy_settings(3)).run()))
    thread.start()
    thread.join()
    assert result[0].step == 3


def test_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert toy_trainer(tmp_path / "run", toy_settings(5), loader=Interrupting(2, side=8, at=3)).run().step == 5
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------ the folder of a run


def test_several_checkpoints_are_kept_and_the_newest_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    toy_trainer(out, toy_settings(10, save_every=2, keep_last=3)).run()
    assert [p.name[-14:-12] for p in find_checkpoints(out)] == ["10", "08", "06"]
    find_checkpoints(out)[0].unlink()
    assert toy_trainer(out, toy_settings(10), resume=True).run().step == 10
    assert steps_of(out) == list(range(1, 11))


def test_older_checkpoints_go_only_when_the_newer_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        toy_trainer(out, loader=Interrupting(2, side=8, at=4)).run()
    before = find_checkpoints(out)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lucid_maskrcnn.atomic.os.replace", full)
    with pytest.raises(OSError, match=r"Cannot write into '.*run': No space left on device\. The files"):
        toy_trainer(out, resume=True).run()
    assert find_checkpoints(out) == before
    assert load_file(before[0])


def test_full_disk_gets_a_sentence(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    toy_trainer(tmp_path / "run", toy_settings(2)).run()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"Cannot write into .* The files there are complete; resume once there is room"
        ):
            toy_trainer(tmp_path / "run", toy_settings(3), resume=True).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in find_checkpoints(tmp_path / "run")] == ["checkpoint-00000002.safetensors"]
    assert toy_trainer(tmp_path / "run", toy_settings(3), resume=True).run().step == 3


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "run", toy_settings(2)).run()
    with pytest.raises(ValueError, match=r"run' holds a run already, checkpoint-00000002.safetensors: resume it, or"):
        toy_trainer(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-00000002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"run' holds weights.safetensors of another run: choose another folder"):
        toy_trainer(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no checkpoint in '.*nothing' to resume from"):
        toy_trainer(tmp_path / "nothing", resume=True)
    with pytest.raises(ValueError, match="resume must be True, False or 'auto', got 'maybe'"):
        toy_trainer(tmp_path / "nothing", resume="maybe")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file' is a file: a run needs a folder"):
        toy_trainer(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        toy_trainer(tmp_path / "file" / "below").run()
    assert not (tmp_path / "nothing").exists()


def test_two_runs_in_a_folder_are_one_too_many(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    first = process(tmp_path / "run", "--wait", 0.2)
    wait_for(lambda: logged(tmp_path / "run") >= 1)
    with pytest.raises(ValueError, match="run' is in use: another run is writing there"):
        toy_trainer(tmp_path / "run", resume="auto").run()
    first.kill()
    finish(first)
    assert toy_trainer(tmp_path / "run", resume="auto").run().step == 40


def test_damaged_and_foreign_checkpoints_get_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "run"
    toy_trainer(out, toy_settings(2)).run()
    (path,) = find_checkpoints(out)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"checkpoint-00000002.safetensors' is damaged"):
        toy_trainer(out, toy_settings(2), resume=True)
    save_weights(Toy(), path)
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        toy_trainer(out, toy_settings(2), resume=True)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"another model: hidden.weight has shape \(16, 192\) there, \(16, 48\) here"):
        toy_trainer(out, toy_settings(2), model=Toy(side=4), resume=True).run()


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
def test_another_run_is_not_resumed_unless_told_to(
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


def test_run_may_be_prolonged_and_keeps_the_rates_it_chose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        toy_trainer(out, loader=Interrupting(2, side=8, at=9)).run()
    with open(out / "log.jsonl", "a") as file:
        file.write('{"step": 6, "of": "steps that no checkpoint has"}\n{"step": 7, "cut of')
    (out / f".{'0' * 32}.tmp").write_text("half a file")
    (out / ".mine.tmp").write_text("not of a killed run")
    toy_trainer(out, resume=True).run()
    assert steps_of(out) == list(range(1, 41))
    assert [p.name for p in out.glob(".*")] == [".mine.tmp"]


@pytest.mark.parametrize("content", ["mine\n", '{"mine": 1}\n', '{"step": "one"}\n', "[]\n"])
def test_a_log_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"log.jsonl' is not the log of a run: move it away"):
        toy_trainer(tmp_path).run()
    assert (tmp_path / "log.jsonl").read_text() == content


@pytest.mark.parametrize(
    "content",
    ["mine\n", '{"images": []}', '{\n "step": 1\n}', "[]\n", '{"step": "one"}\n', '{"step": true}\n', "\n", "PK"],
)
def test_read_log_refuses_other_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other.json' is not the log of a run, such as log.jsonl of a run's folder"):
        read_log(path)
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path / "nothing.jsonl")
    with pytest.raises(TypeError, match="path must be a path as str or Path, got None"):
        read_log(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("unfinished", ["", "{", '{"st', '{"step": 2, "sec', '{"step": 2}'])
def test_read_log_leaves_out_an_unfinished_line(tmp_path: Path, unfinished: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n' + unfinished)
    assert read_log(path) == [{"step": 1}]


def test_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    toy_trainer(tmp_path, toy_settings(3)).run()
    assert steps_of(tmp_path) == [1, 2, 3]


# ------------------------------------------------------------------ batches that are not as they must be


def test_bad_target_is_named_with_its_image(tmp_path: Path) -> None:
    class Negative(Squares):
        def batch(self, step: int) -> Any:
            batch = super().batch(step)
            batch.targets[1]["boxes"][0] = [9, 9, 3, 3]
            return batch

    settings = TrainerSettings(steps=1)
    trainer = Trainer(slim(), Negative(2), out=tmp_path, settings=settings, progress=False, tensorboard=False)
    with pytest.raises(ValueError, match=r"Step 1, images \[100, 101\]: targets\[1\].*boxes"):
        trainer.run()


def test_loader_that_ends_too_early(tmp_path: Path) -> None:
    class Short(Squares):
        def iterate(self, start: int, stop: int) -> Any:
            return itertools.islice(super().iterate(start, stop), 5)

    with pytest.raises(ValueError, match=r"no batches for step 3: iterate\(start, stop\) must yield stop - start"):
        toy_trainer(tmp_path, loader=Short(2, side=8)).run()


def test_no_time_for_a_step_and_so_no_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = toy_trainer(tmp_path / "curves", TrainerSettings(minutes=1e-9), progress=True).run()
    assert result.step == 0
    assert "no curves.png:" in capsys.readouterr().err


# ------------------------------------------------------------------ NaN and infinity


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
def test_weights_that_left_the_numbers_are_not_saved(tmp_path: Path) -> None:
    settings = toy_settings(4, lr=3e38, weight_decay=1e20, max_grad_norm=None, warmup=0, ema=None)
    with pytest.raises(DivergenceError, match="there is no checkpoint yet"):
        toy_trainer(tmp_path / "run", settings).run()
    assert [p.name for p in (tmp_path / "run").iterdir() if "checkpoint" in p.name or "tmp" in p.name] == []


# ------------------------------------------------------------------ several processes


forks = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def close_arrays(a: Path, b: Path) -> None:
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_allclose(array, second[name], rtol=1e-5, atol=1e-6, err_msg=name)


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
    run = process(out, "--wait", 0.02, "--processes", 2)
    wait_for(lambda: logged(out) >= 30 or run.poll() is not None)  # batch norm is frozen
    workers = children_of(run.pid)
    assert len(workers) == 1
    run.kill()
    assert finish(run)[0] == -signal.SIGKILL
    wait_for(lambda: not any(alive(pid) for pid in workers))
    assert finish(process(out)) == (0, "ready\n")
    assert steps_of(out) == list(range(1, 41))


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@forks
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_all_processes_ends_the_run_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    run = process(tmp_path, "--wait", 0.02, "--processes", 2, own_group=True)
    wait_for(lambda: logged(tmp_path) >= 5 or run.poll() is not None)
    workers = children_of(run.pid)
    os.killpg(run.pid, number)
    code, output = finish(run)
    assert (code, len(workers)) == (130, 1)
    assert "Stopped after step" in output
    assert "Traceback" not in output
    assert not any(alive(pid) for pid in workers)


@forks
def test_process_that_is_lost_gets_a_sentence(tmp_path: Path) -> None:
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
def test_what_a_process_raises_is_what_the_run_raises(tmp_path: Path) -> None:
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


# ------------------------------------------------------------------ what a step computes


def gradients(model: Toy, batches: list[Any], seed: int) -> list[np.ndarray]:
    params = list(model.parameters())
    mean = GradientMean(params)
    for p in params:
        p.grad = None
    for i, batch in enumerate(batches):
        lucid.random.seed(seed + i)
        model.get_loss(batch.images, batch.targets)["total_loss"].backward()
        mean.accumulate()
    mean.assign_mean()
    return [np.array(p.grad) for p in params]


def test_accumulated_gradient_is_the_mean(tmp_path: Path) -> None:
    batches = [Squares(2, side=8).batch(step) for step in range(3)]
    model = Toy().eval()  # no dropout: each batch's gradient stands for itself
    single = [gradients(model, [batch], 0) for batch in batches]
    together = gradients(model, batches, 0)
    for i, grad in enumerate(together):
        np.testing.assert_allclose(grad, np.mean([g[i] for g in single], axis=0), rtol=1e-5, atol=1e-7)


def test_step_follows_the_mean_of_its_batches(tmp_path: Path) -> None:
    settings = TrainerSettings(
        steps=1, lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant", accumulate=3, max_grad_norm=None
    )
    wanted = Toy()
    grads = gradients(wanted, [Squares(2, side=8).batch(step) for step in range(3)], settings.seed)
    trainer = toy_trainer(tmp_path / "run", settings)
    trainer.run()
    for p, q, grad in zip(trainer.model.parameters(), wanted.parameters(), grads, strict=True):
        np.testing.assert_allclose(p.data, q.data - 0.5 * grad, rtol=1e-6, atol=1e-7)
    (record,) = read_log(tmp_path / "run" / "log.jsonl")
    assert record["norm"] == pytest.approx(math.sqrt(sum(float((g**2).sum()) for g in grads)), rel=1e-5)


def test_parameter_of_two_modules_counts_once() -> None:
    model = Toy()
    params = list(model.parameters())
    mean = GradientMean(params)
    params[0].grad = np.ones(params[0].shape, np.float32)
    mean.accumulate()
    params[0].grad = np.full(params[0].shape, 3, np.float32)
    params[1].grad = np.full(params[1].shape, 5, np.float32)
    mean.accumulate()
    mean.assign_mean()
    assert (params[0].grad == 2).all()
    assert (params[1].grad == 2.5).all()  # the other pass counts as 0
    assert params[2].grad is None


def test_frozen_parameters_do_not_move(tmp_path: Path) -> None:
    model = Toy()
    model.hidden.weight.requires_grad = False
    before = {name: array.copy() for name, array in model.state_dict().items()}
    toy_trainer(tmp_path / "run", toy_settings(5, ema=None), model=model).run()
    moved = {name for name, array in model.state_dict().items() if not np.array_equal(array, before[name])}
    assert moved == set(before) - {"hidden.weight"}
    assert "momentum.hidden.weight" not in load_file(find_checkpoints(tmp_path / "run")[0])


def test_frozen_stages_of_a_mask_rcnn_do_not_move(tmp_path: Path) -> None:
    model = slim(norm="frozen", trainable_layers=1)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    settings = TrainerSettings(steps=1, lr=0.01, schedule="constant")
    Trainer(model, Squares(1), out=tmp_path, settings=settings, progress=False, tensorboard=False).run()
    still = {name for name, array in model.state_dict().items() if np.array_equal(array, before[name])}
    for name in before:
        frozen = name.startswith("backbone.body") and ".layer4." not in name
        frozen |= name.startswith("backbone.body") and (".bn" in name or ".downsample.1." in name)
        assert (name in still) or not frozen, name
    assert "backbone.body.layer4.0.conv1.weight" not in still


def test_norms_and_biases_need_not_decay(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path / "a", toy_settings(1, warmup=0, decay_norms=False, weight_decay=0.5))
    assert [g["weight_decay"] for g in trainer.optimizer.groups] == [0.5, 0.0]
    assert all(p.ndim == 1 for p in trainer.optimizer.groups[1]["params"])
    assert [g["weight_decay"] for g in toy_trainer(tmp_path / "b").optimizer.groups] == [1e-4]


def test_batch_norm_is_frozen_after_its_fraction_of_the_run(tmp_path: Path) -> None:
    modes = []

    class Moded(Toy):
        def get_loss(self, images: Any, targets: Any) -> Any:
            modes.append((self.training, self.norm.training))
            return super().get_loss(images, targets)

    model = Moded()
    trainer = toy_trainer(tmp_path / "run", toy_settings(5, warmup=0, freeze_bn_after=0.6, accumulate=1), model=model)
    trainer.run()
    assert modes == [(True, True)] * 3 + [(True, False)] * 2
    assert trainer.ema is not None
    assert trainer.ema.updates == 2
    assert not model.training


def test_averages_are_what_is_evaluated_and_kept(tmp_path: Path) -> None:
    seen = []

    def evaluate(model: Any) -> dict[str, float]:
        seen.append(model.first.weight.data.copy())
        return {"score": 0.0}

    settings = toy_settings(4, ema=0.9, freeze_bn_after=None, eval_every=4)
    trainer = toy_trainer(tmp_path / "run", settings, evaluate=evaluate)
    trainer.run()
    checkpoint = load_file(find_checkpoints(tmp_path / "run")[0])
    np.testing.assert_array_equal(seen[0], checkpoint["ema.first.weight"])
    assert not np.array_equal(seen[0], checkpoint["model.first.weight"])
    kept = load_file(tmp_path / "run" / "weights.safetensors")
    np.testing.assert_array_equal(seen[0], kept["first.weight"])
    np.testing.assert_array_equal(seen[0], trainer.model.first.weight.data)


def test_run_limited_by_time_ends(tmp_path: Path) -> None:
    settings = TrainerSettings(minutes=0.005, lr=0.01, schedule="cosine", warmup=2, save_every=1000)
    result = toy_trainer(tmp_path / "run", settings).run()
    assert result.step > 3
    assert result.seconds >= 0.3
    rates = [r["lr"] for r in read_log(tmp_path / "run" / "log.jsonl")]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.005
    assert toy_trainer(tmp_path / "run", settings, resume=True).run().step == result.step


def test_two_steps_on_gpu_and_on_after_resuming(tmp_path: Path) -> None:
    settings = TrainerSettings(steps=2, lr=0.01, warmup=0, ema=0.5, accumulate=1, max_grad_norm=0.1, save_every=1)
    tiny = {"anchor_sizes": [8, 12, 16, 16, 16], "min_size": 32, "max_size": 32}
    options: dict[str, Any] = {"out": tmp_path, "settings": settings, "progress": False, "tensorboard": False}
    with pytest.raises(Interrupted):
        Trainer(slim(**tiny).to("gpu"), Interrupting(2, side=32, at=0), **options).run()
    model = slim(1, **tiny).to("gpu")
    Trainer(model, Squares(2, side=32), **options, resume=True).run()
    assert model.fc1.weight.is_gpu()
    assert steps_of(tmp_path) == [1, 2]
    assert all(a.dtype == np.float32 for a in load_file(tmp_path / "checkpoint-00000002.safetensors").values())


# ------------------------------------------------------------------ schedules


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


# ------------------------------------------------------------------ evaluation


def test_best_weights_are_kept_and_patience_ends(tmp_path: Path) -> None:
    metrics = itertools.chain([0.1, 0.4, 0.3, 0.4, 0.9], itertools.repeat(0.0))
    weights = []

    def evaluate(model: Any) -> dict[str, float]:
        weights.append(model.first.weight.data.copy())
        return {"segm/AP": next(metrics), "bbox/AP": 0.0}

    settings = toy_settings(40, eval_every=3, keep_best="segm/AP", patience=2)
    result = toy_trainer(tmp_path / "run", settings, evaluate=evaluate).run()
    assert (result.step, result.best, result.best_weights) == (12, 0.4, tmp_path / "run" / "best.safetensors")
    np.testing.assert_array_equal(load_file(result.best_weights)["first.weight"], weights[1])
    assert [r["evaluation"]["segm/AP"] for r in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" in r] == [
        0.1,
        0.4,
        0.3,
        0.4,
    ]
    more = dataclasses.replace(settings, patience=3)
    assert toy_trainer(tmp_path / "run", more, evaluate=evaluate, resume=True).run().best == 0.9


def test_evaluation_that_fails_loses_nothing(tmp_path: Path) -> None:
    def evaluate(model: Any) -> dict[str, float]:
        raise RuntimeError("no pycocotools")

    settings = toy_settings(9, eval_every=4, save_every=1000)
    with pytest.raises(RuntimeError):
        toy_trainer(tmp_path / "run", settings, evaluate=evaluate).run()
    toy_trainer(tmp_path / "run", settings, evaluate=lambda model: {"score": math.nan}, resume=True).run()
    assert [r["step"] for r in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" in r] == [4, 8, 9]
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["evaluation"] == {"score": None}


def test_nan_is_never_the_best_metric(tmp_path: Path) -> None:
    metrics = iter([math.nan, 0.1, math.nan])
    settings = toy_settings(6, eval_every=2, keep_best="AP")
    result = toy_trainer(tmp_path / "run", settings, evaluate=lambda model: {"AP": next(metrics), "AR": 1.0}).run()
    assert (result.best, result.step) == (0.1, 6)
    assert math.isnan(result.metrics["AP"])
    with safe_open(tmp_path / "run" / "weights.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["metrics"]) == {"AR": 1.0}


def test_unknown_metric_to_keep_is_refused_with_the_nearest(tmp_path: Path) -> None:
    settings = toy_settings(4, keep_best="segm/mAP")
    metrics = {"segm/AP": 1.0, "bbox/AP": 1.0}
    message = "keep_best must be a metric of the evaluation, got 'segm/mAP'; did you mean 'segm/AP'"
    with pytest.raises(ValueError, match=message):
        toy_trainer(tmp_path / "run", settings, evaluate=lambda model: metrics).run()

    class Evaluate:
        metric_names = tuple(metrics)

        def __call__(self, model: Any) -> dict[str, float]:
            return metrics

    with pytest.raises(ValueError, match=message):  # before the run, where the names are known
        toy_trainer(tmp_path / "other", settings, evaluate=Evaluate())
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="keep_best and eval_every need evaluate"):
        toy_trainer(tmp_path / "other", settings)


@pytest.mark.parametrize("metrics", [0.5, None, {"AP": "0.5 %"}, {"AP": None}, [("AP", 0.5)]])
def test_evaluation_must_return_numbers_by_name(tmp_path: Path, metrics: Any) -> None:
    with pytest.raises(TypeError, match="evaluate must return a mapping of names to numbers, got"):
        toy_trainer(tmp_path, toy_settings(2), evaluate=lambda model: metrics).run()


def test_whole_evaluation_in_place_of_its_metrics_is_refused(tmp_path: Path) -> None:
    evaluation = Evaluation({}, None, {}, (), (), {}, (), {}, ())
    with pytest.raises(TypeError, match="names to numbers, got Evaluation: return its metrics"):
        toy_trainer(tmp_path, toy_settings(2), evaluate=lambda model: evaluation).run()


# ------------------------------------------------------------------ what is shown


def test_lines_on_stderr_and_a_bar_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lucid_maskrcnn.training.console._SECONDS_BETWEEN_LINES", 0.0)
    settings = TrainerSettings(steps=3)
    toy_trainer(tmp_path / "lines", settings, progress=True, evaluate=lambda model: {"AP": 0.25}).run()
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "learning rate 0.0025: 0.00125 × 2"
    number = r"\d+\.\d+"
    wanted = rf"1/3 steps  loss {number}  {number} images/s   first {number}  second {number}  0 min left"
    assert re.fullmatch(wanted, lines[1])
    assert lines[4] == "step 3: AP 0.250"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    toy_trainer(tmp_path / "bar", settings, progress=True, evaluate=lambda model: {"AP": 0.25}).run()
    shown = capsys.readouterr().err
    assert "100%|" in shown
    assert "3/3 steps" in shown
    assert "step 3: AP 0.250" in shown


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    toy_trainer(tmp_path / "run", toy_settings(6, eval_every=2), evaluate=lambda model: {"segm/AP": 0.5}).run()
    with Image.open(tmp_path / "run" / "curves.png") as image:
        assert image.size == (1200, 480)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"path must end in '\.png', got '.*curves.jpg'"):
        draw_curves(tmp_path / "run" / "log.jsonl", tmp_path / "curves.jpg")
    with pytest.raises(TypeError, match="log must be a path as str or Path, got None"):
        draw_curves(None, tmp_path / "never.png")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no steps to draw"):
        draw_curves(tmp_path / "empty.jsonl", tmp_path / "never.png")
    assert not (tmp_path / "never.png").exists()


def test_without_matplotlib_there_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    toy_trainer(tmp_path / "run", toy_settings(2, warmup=0), progress=True).run()
    wanted = "no curves.png: Curves need matplotlib: pip install 'lucid-maskrcnn[plot]'."
    assert capsys.readouterr().err.splitlines()[-1] == wanted
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_tensorboard_is_asked_for_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucid_maskrcnn.training.trainer.is_installed", lambda: False)
    with pytest.raises(ValueError, match="tensorboard=True needs TensorBoard: pip install tensorboard"):
        toy_trainer(tmp_path / "run", tensorboard=True)


@pytest.mark.skipif(not is_installed(), reason="needs TensorBoard")
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_the_events_of_a_resumed_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings, options = toy_settings(6), {"tensorboard": True, "evaluate": lambda model: {"segm/AP": 0.5}}
    with pytest.raises(Interrupted):
        toy_trainer(tmp_path, settings, loader=Interrupting(2, side=8, at=4), **options).run()
    toy_trainer(tmp_path, settings, resume=True, **options).run()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("total_loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in events.Scalars("segm/AP")] == [0.5]


def test_log_holds_json_only(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "run", toy_settings(4)).run()
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_gradient_clipping_reaches_the_step(tmp_path: Path) -> None:
    settings = toy_settings(
        1, warmup=0, max_grad_norm=1e-3, momentum=0.0, weight_decay=0.0, lr=1.0, schedule="constant"
    )
    before = Toy()
    trainer = toy_trainer(tmp_path / "run", dataclasses.replace(settings, ema=None))
    trainer.run()
    moved = [p.data - q.data for p, q in zip(trainer.model.parameters(), before.parameters(), strict=True)]
    assert math.sqrt(sum(float((m**2).sum()) for m in moved)) == pytest.approx(1e-3, rel=1e-2)
    assert clip_gradients(list(trainer.optimizer.params), math.inf) == pytest.approx(1e-3, rel=1e-2)
