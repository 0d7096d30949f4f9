"""``lucid-maskrcnn train --distributed``, started by the launchers."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rank_runs import BIN, ENVIRONMENT, free_ports, has_launcher
from run_processes import check_resumed, num_logged, wait_for
from training_data import make_training_data

needs = {
    name: pytest.mark.skipif(not has_launcher(name), reason=f"there is no launcher of {name}")
    for name in ("ring", "mpi")
}
STEPS = 12  # of a run that is stopped after two of them


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_training_data(tmp_path_factory.mktemp("data"))


def train(data: Path, out: Path, *options: object) -> list[str]:
    usual = [data / "images", data / "instances.json", "--weights", data / "slim.safetensors", "--out", out]
    length = [] if "--steps" in options else ["--steps", 3]
    return ["train", *map(str, [*usual, *length, "--accumulate", 2, "--batch-size", 1, "--no-tensorboard", *options])]


def start(command: list[str]) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(
        command,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **pipes,  # type: ignore[call-overload]
    )


def mpi(arguments: list[str], size: int = 2) -> list[str]:
    return [str(BIN / "mpiexec"), "-n", str(size), sys.executable, "-m", "mpi4py", "-m", "lucid_maskrcnn", *arguments]


def ring(arguments: list[str], size: int = 2) -> list[str]:
    launcher = [str(BIN / "mlx.launch"), "-n", str(size), "--starting-port", str(free_ports()), "--"]
    return [*launcher, str(BIN / "lucid-maskrcnn"), *arguments]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        pytest.param("mpi", mpi, marks=needs["mpi"]),
        pytest.param("ring", ring, marks=[needs["ring"], pytest.mark.slow]),
    ],
)
def test_groups_train_as_one_process_and_speak_once(data: Path, tmp_path: Path, name: str, command: Any) -> None:
    alone = start([str(BIN / "lucid-maskrcnn"), *train(data, tmp_path / "alone")]).communicate()[0]
    options = train(data, tmp_path / name, "--distributed", name)
    output = start(command(options)).communicate()[0]
    said = [re.sub(r"[\d.]+ min", "", line.replace(str(tmp_path / name), "")) for line in output.splitlines()]
    wanted = [re.sub(r"[\d.]+ min", "", line.replace(str(tmp_path / "alone"), "")) for line in alone.splitlines()]
    assert [line for line in said if "step" not in line or "/3" not in line] == [
        line for line in wanted if "step" not in line or "/3" not in line
    ]
    check_resumed(tmp_path / name, tmp_path / "alone")


@needs["mpi"]
def test_errors_of_a_group_are_told_once(data: Path, tmp_path: Path) -> None:
    run = start(mpi(train(data, tmp_path / "run", "--distributed", "mpi"), 3))
    output = run.communicate()[0]
    problem = (
        "lucid-maskrcnn: accumulate must be at least 3, the number of ranks, got 2: each of them computes at least"
    )
    assert output.count(problem) == 1
    assert "Traceback" not in output
    assert run.returncode != 0
    assert not (tmp_path / "run").exists()


@needs["mpi"]
def test_ctrl_c_stops_a_group_with_a_checkpoint(data: Path, tmp_path: Path) -> None:
    options = ("--steps", STEPS, "--distributed", "mpi", "--quiet")
    run = start(mpi(train(data, tmp_path / "parts", *options)))
    wait_for(lambda: num_logged(tmp_path / "parts") >= 2 or run.poll() is not None)
    run.send_signal(signal.SIGINT)
    output = run.communicate()[0]
    assert output.count("the same command with --resume continues.") == 1
    again = start(mpi(train(data, tmp_path / "parts", *options, "--resume")))
    assert "resumed" not in again.communicate()[0]  # it is quiet
    start([str(BIN / "lucid-maskrcnn"), *train(data, tmp_path / "whole", "--steps", STEPS)]).communicate()
    check_resumed(tmp_path / "parts", tmp_path / "whole")


def test_a_group_without_its_launcher(data: Path, tmp_path: Path) -> None:
    command = [str(BIN / "lucid-maskrcnn"), *train(data, tmp_path / "run", "--distributed", "ring")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "lucid-maskrcnn: Cannot join a group 'ring': start the processes with mlx.launch -n N -- COMMAND. MLX"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "backend"), [("MLX_RANK", "1", "ring"), ("PMI_SIZE", "2", "mpi"), ("PMI_SIZE", "1", None)]
)
def test_a_launcher_without_distributed(
    data: Path, tmp_path: Path, variable: str, value: str, backend: str | None
) -> None:
    command = [str(BIN / "lucid-maskrcnn"), *train(data, tmp_path / "run", "--quiet", "--steps", 1)]
    done = subprocess.run(command, env={**ENVIRONMENT, variable: value}, capture_output=True, text=True)
    if backend is None:
        assert done.returncode == 0, done.stderr
    else:
        problem = f"A launcher has started this process as one of several: say --distributed {backend}."
        assert (done.returncode, done.stderr) == (2, f"lucid-maskrcnn: {problem}\n")
        assert not (tmp_path / "run").exists()
