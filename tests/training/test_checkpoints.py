"""Checkpoints: killed and resumed runs, full disks, and folders that hold other files."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_processes import check_resumed, finish, num_logged, run_in_process, wait_for
from safetensors.numpy import load_file
from tiny_runs import (
    Interrupting,
    Squares,
    Toy,
    slim,
    steps_of,
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.training import Interrupted, TrainerSettings
from lucid_maskrcnn.training.checkpoints import find_checkpoints
from lucid_maskrcnn.weights import save_weights


def test_killed_at_any_moment_and_resumed(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "whole").run()
    rng, out = random.Random(0), tmp_path / "killed"
    for lines in (7, 22):
        run = run_in_process(out, "--wait", 0.004)
        wait_for(lambda lines=lines, run=run: num_logged(out) >= lines or run.poll() is not None)
        time.sleep(rng.uniform(0, 0.05))
        run.kill()
        assert finish(run)[0] == -signal.SIGKILL
    assert finish(run_in_process(out)) == (0, "ready\n")
    check_resumed(out, tmp_path / "whole")


@pytest.mark.parametrize("tensors", [0, 9, 1000])
def test_killed_while_it_writes_a_checkpoint(tmp_path: Path, tensors: int) -> None:
    """Before the first array, in the middle, and when the new file is there and the old one still too."""
    out = tmp_path / "killed"
    toy_trainer(tmp_path / "whole").run()
    written = len(load_file(tmp_path / "whole" / "checkpoint-00000040.safetensors"))
    code, output = finish(run_in_process(out, "--kill", 9, min(tensors, written)))
    assert (code, output) == (-signal.SIGKILL, "ready\n")
    steps = [int(p.stem[-8:]) for p in find_checkpoints(out)]
    assert steps == ([9, 8] if tensors > written else [8])
    unnamed = hasattr(os, "O_TMPFILE")  # until they are whole
    assert len([p for p in out.iterdir() if p.name.endswith(".tmp")]) == (0 if unnamed or tensors > written else 1)
    toy_trainer(out, model=Toy(1), resume=True).run()
    check_resumed(out, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("model", "steps"), [("toy", 300), ("slim", 30)])
def test_killed_many_times_at_random_moments(tmp_path: Path, model: str, steps: int) -> None:
    out, rng, kills = tmp_path / "killed", random.Random(1), 0
    options = ["--model", model, "--steps", steps]
    whole = run_in_process(tmp_path / "whole", *options)
    assert whole.stdout is not None
    assert whole.stdout.readline() == "ready\n"
    begun = time.perf_counter()
    assert finish(whole)[0] == 0
    longest = (time.perf_counter() - begun) / 6  # no attempt gets far, however fast the machine is
    while not (out / "weights.safetensors").exists():
        run = run_in_process(out, *options)
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(timeout=rng.uniform(0, longest))
        run.kill()
        kills += finish(run)[0] == -signal.SIGKILL
    assert kills >= 5
    assert finish(run_in_process(out, *options)) == (0, "ready\n")
    check_resumed(out, tmp_path / "whole")


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


def test_full_disk_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
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
    with pytest.raises(
        ValueError, match=r"run' holds a run already, checkpoint-00000002.safetensors: resume it \(resume=True"
    ):
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


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("ema", [None, 0.5])
def test_checkpoint_of_a_stopped_run_predicts_as_the_model_did(tmp_path: Path, ema: float | None) -> None:
    """With the averages if the run has them, which a warning says; a damaged one is refused."""
    out, model = tmp_path / "run", slim(categories={1: "dark", 2: "bright"})
    settings = TrainerSettings(steps=9, lr=0.01, ema=ema, save_every=1)
    trainer = toy_trainer(out, settings, model=model, loader=Interrupting(1, at=2))
    with pytest.raises(Interrupted):
        trainer.run()
    (path,) = find_checkpoints(out)
    if trainer.ema:
        trainer.ema.apply(model)
    model.eval()
    image = Squares(1).batch(5).images[0]
    warned = pytest.warns(UserWarning, match=r"ema.* is used, not .*model") if ema else contextlib.nullcontext()
    with warned:
        opened = MaskRCNN.from_file(path)
    assert opened.config.categories == model.config.categories
    expected, found = (m.predict(image, score_thresh=0.0) for m in (model, opened))
    assert len(expected[0])
    for name in ("boxes", "scores", "labels", "mask_probs"):
        np.testing.assert_array_equal(host(getattr(found[0], name)), host(getattr(expected[0], name)))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # of a momentum or an average
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is a damaged checkpoint of a training run: its content is not what was"):
        MaskRCNN.from_file(path)
