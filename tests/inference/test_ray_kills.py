"""Jobs of Ray's workers as processes that are killed: what is in the folder, and what is left of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from run_processes import wait_for
from small_jobs import content, make_images, rows
from tiny_runs import slim

from lucid_maskrcnn import save_weights

pytest.importorskip("ray")
import psutil

COMMAND = [sys.executable, "-m", "lucid_maskrcnn.cli", "predict"]
FOLDERS = Path("/tmp" if Path("/tmp").is_dir() else os.environ["TEMP"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that finds something everywhere."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(slim(), path)
    return path


def arguments(images: Path, weights: Path, out: Path, shard_size: int) -> list[str]:
    options = ["--score-thresh", "0.3", "--top-k", "5", "--shard-size", str(shard_size)]
    return [str(images), "--weights", str(weights), "--out", str(out), "--quiet", *options]


def start(*given: str, stderr: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *given, "--engine", "ray", "--workers", "2"],
        text=True,
        stderr=stderr,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a background job ignores
    )


def families_of(run: subprocess.Popen[str]) -> set[psutil.Process]:
    """The processes that a run has started, and theirs."""
    try:
        return set(psutil.Process(run.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def is_left(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def tidy() -> Iterator[set[psutil.Process]]:
    """Assert at the end that the processes that were put in are gone, and nothing lies about that was not before."""

    def files() -> set[Path]:
        return {*FOLDERS.glob("lucid_maskrcnn_ray_*"), *Path.home().glob(".ray/*")}

    before, processes = files(), set[psutil.Process]()
    yield processes
    wait_for(lambda: not any(map(is_left, processes)))  # of a killed run its keeper takes a moment
    assert processes
    wait_for(lambda: files() <= before)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow)]
)
def test_run_that_is_ended_leaves_whole_parts_and_nothing_else(
    tmp_path: Path, weights: Path, tidy: set[psutil.Process], number: int, code: int
) -> None:
    make_images(tmp_path / "images", 40, side=64)
    out = tmp_path / "out"
    run = start(*arguments(tmp_path / "images", weights, out, 2))
    wait_for(lambda: run.poll() is not None or len(list((out / "results").glob("part-*"))) > 2)
    tidy |= families_of(run)
    run.send_signal(number)
    said = run.communicate()[1]
    assert (run.returncode, "--resume goes on from there" in said) == (code, number == signal.SIGINT)
    assert "Traceback" not in said
    found = [row["id"] for row in rows(out)]
    assert 6 <= len(found) == len(set(found)) < 40
    assert {part.read_bytes().count(b"\n") for part in (out / "results").glob("part-*")} == {2}


def kill_workers(run: subprocess.Popen[str], out: Path, rng: random.Random, most: int) -> int:
    """Kill a worker now and then, at most that many; return how many were."""

    def parts() -> int:
        return len(list((out / "results").glob("part-*")))

    def gets_on(before: int) -> bool:
        return run.poll() is not None or parts() > before

    killed = 0
    while run.poll() is None and killed < most:
        wait_for(partial(gets_on, parts()))  # or a slow machine would get nowhere
        time.sleep(rng.uniform(0, 6))
        workers = [p for p in families_of(run) if is_left(p) and p.name().startswith("ray::Worker")]
        if workers and run.poll() is None:
            rng.choice(workers).kill()
            killed += 1
    return killed


@pytest.mark.slow
def test_each_of_a_thousand_images_has_one_row_however_often_workers_and_drivers_are_killed(
    tmp_path: Path, weights: Path, tidy: set[psutil.Process]
) -> None:
    make_images(tmp_path / "images", 1000)
    out, rng, killed = tmp_path / "out", random.Random(0), [0, 0]
    given: Any = [tmp_path / "images", weights]
    serial = [*COMMAND, *arguments(*given, tmp_path / "serial", 10)]
    subprocess.run(serial, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = tmp_path / "said"  # a pipe would fill up
    for last in (False,) * 5 + (True,):
        with open(said, "w") as file:
            run = start(*arguments(*given, out, 10), "--resume", stderr=file)
        killed[0] += kill_workers(run, out, rng, 15 if last else rng.randint(1, 4))
        tidy |= families_of(run)
        if not last:
            run.kill()  # the next one begins while workers of this one may be at work
            killed[1] += run.wait() == -signal.SIGKILL
    assert run.wait() == 0, said.read_text()
    print(f"{killed[0]} workers and {killed[1]} drivers killed")
    assert killed[0] > 10
    assert killed[1] == 5
    assert [row["id"] for row in rows(out)] == list(range(1, 1001))
    assert content(out) == content(tmp_path / "serial")
