"""Ray Train as the launcher of a ring: ``examples/train_ray.py``."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from rank_runs import ENVIRONMENT
from run_processes import num_logged
from tiny_runs import same_arrays, slim
from training_data import NAMES, make_training_data

from lucid_maskrcnn.weights import save_weights

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_ray.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc"),
]


def workers(session: str) -> list[int]:
    """Return the process numbers of the workers whose Ray has its files in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                b"RayTrainWorker" in (entry / "cmdline").read_bytes()
                and session.encode() in (entry / "environ").read_bytes()
            ):
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def train(data: Path, out: Path, session: str, *, kill_at: int | None) -> None:
    command = [sys.executable, str(EXAMPLE), str(data / "images"), str(data / "instances.json"), "--out", str(out)]
    options = ["--weights", str(data / "slim.safetensors"), "--steps", "12", "--save-every", "2", "--timeout", "10"]
    environment = {
        **ENVIRONMENT,
        "HOME": session,  # Ray keeps a token there
        "RAY_TMPDIR": session,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    log = Path(session) / "log"
    with open(log, "wb") as file:
        run = subprocess.Popen([*command, *options], env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        while kill_at is not None and num_logged(out) < kill_at and run.poll() is None:
            time.sleep(0.05)
        if kill_at is not None:
            killed = workers(session)
            assert len(killed) == 2, log.read_text()
            os.kill(killed[-1], signal.SIGKILL)
        assert run.wait() == 0, log.read_text()
    finally:
        run.kill()


def test_workers_that_are_killed_start_again_and_end_with_the_same_weights(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    make_training_data(data)
    save_weights(slim(categories=NAMES), data / "slim.safetensors")
    for name, kill_at in (("whole", None), ("killed", 5)):
        with tempfile.TemporaryDirectory(dir="/tmp") as session:  # a short path: Ray's sockets have room for 107 bytes
            train(data, tmp_path / name, session, kill_at=kill_at)
    assert same_arrays(*(tmp_path / name / "weights.safetensors" for name in ("whole", "killed")))
