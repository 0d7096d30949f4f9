"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

from run_processes import finish, num_logged, run_in_process, wait_for
from tiny_runs import (
    Interrupting,
    steps_of,
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn.training import (
    TrainResult,
    read_log,
)
from lucid_maskrcnn.training.checkpoints import find_checkpoints


def test_ctrl_c_finishes_the_step_and_says_how_to_resume(tmp_path: Path) -> None:
    run = run_in_process(tmp_path / "run", "--wait", 0.01)
    wait_for(lambda: num_logged(tmp_path / "run") >= 3)
    run.send_signal(signal.SIGINT)
    code, output = finish(run)
    (checkpoint,) = find_checkpoints(tmp_path / "run")
    step = int(checkpoint.stem[-8:])
    assert (code, output.splitlines()[1:]) == (
        130,
        [f"Stopped after step {step}, with a checkpoint in {str(tmp_path / 'run')!r}; resume=True continues from it."],
    )
    assert steps_of(tmp_path / "run") == list(range(1, step + 1))


def test_ctrl_c_ends_an_evaluation_at_once_and_a_resumed_run_repeats_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = run_in_process(out, "--evaluate", 600)
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
    run = run_in_process(tmp_path / "run", "--wait", 600)
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
