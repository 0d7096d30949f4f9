"""Groups of processes that launchers start: MLX's ring and MPI, on this machine."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_runs import ENVIRONMENT, alone, free_ports, has_launcher, run, start
from run_processes import check_resumed
from thread_groups import in_threads
from tiny_runs import Toy, close_arrays, same_arrays, steps_of, toy_settings, toy_trainer

from lucid_maskrcnn.training import GroupError, init_group
from lucid_maskrcnn.training.checkpoints import find_checkpoints

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(not has_launcher(name), reason=f"there is no launcher of {name}"))
    for name in ("ring", "mpi")
]
needs_mpi = pytest.mark.skipif(not has_launcher("mpi"), reason="there is no launcher of mpi")


@pytest.mark.parametrize(
    ("backend", "model", "steps"),
    [
        pytest.param("ring", "toy", 2, marks=BACKENDS[0].marks),
        pytest.param("mpi", "slim", 2, marks=BACKENDS[1].marks),
    ],
)
def test_ranks_give_the_weights_of_one_process(tmp_path: Path, backend: str, model: str, steps: int) -> None:
    options = ("--model", model, "--steps", steps)
    wanted = alone(tmp_path / "one", *options)
    reports, output = run(backend, 2, tmp_path / "two", *options)
    assert {rank: report.get("digest") for rank, report in reports.items()} == {0: wanted, 1: wanted}, output
    check_resumed(tmp_path / "two", tmp_path / "one")  # checkpoints, weights and log


@needs_mpi
@pytest.mark.slow  # the run that a signal stops goes on with another number
def test_any_number_of_ranks_gives_the_same_weights(tmp_path: Path) -> None:
    wanted = alone(tmp_path / "one", "--accumulate", 5)
    reports, output = run("mpi", 3, tmp_path / "several", "--accumulate", 5)
    assert [reports[rank]["digest"] for rank in range(3)] == [wanted] * 3, output


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", ["toy", "slim", "r50"])
@pytest.mark.parametrize("size", [2, 4])
def test_whole_models_in_groups(tmp_path: Path, backend: str, model: str, size: int) -> None:
    wanted = alone(tmp_path / "one", "--model", model, "--steps", 4)
    reports, output = run(backend, size, tmp_path / "several", "--model", model, "--steps", 4)
    assert [reports[rank]["digest"] for rank in range(size)] == [wanted] * size, output


@needs_mpi
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
def test_live_statistics_are_those_of_as_many_processes(tmp_path: Path) -> None:
    reports, output = run("mpi", 2, tmp_path / "ranks", "--norm", "batch")
    assert reports[0]["digest"] == reports[1]["digest"], output
    settings = toy_settings(6, accumulate=4, processes=2)
    toy_trainer(tmp_path / "processes", settings, model=Toy()).run()
    assert same_arrays(*(tmp_path / name / "weights.safetensors" for name in ("ranks", "processes")))


@pytest.mark.parametrize("backend", [pytest.param("ring", marks=[*BACKENDS[0].marks, pytest.mark.slow]), BACKENDS[1]])
def test_ranks_on_gpu_agree(tmp_path: Path, backend: str) -> None:
    reports, output = run(backend, 2, tmp_path / "two", "--device", "gpu", "--steps", 3)
    alone(tmp_path / "one", "--device", "gpu", "--steps", 3)
    assert reports[0]["digest"] == reports[1]["digest"], output
    close_arrays(*(tmp_path / name / "weights.safetensors" for name in ("one", "two")))


@needs_mpi
def test_rank_0_alone_evaluates(tmp_path: Path) -> None:
    reports, output = run("mpi", 2, tmp_path, "--evaluate")
    assert [reports[rank]["metrics"] for rank in (0, 1)] == [{"score": 0.0}] * 2, output


# ------------------------------------------------------------------ what goes wrong


@needs_mpi
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_error_of_a_rank_stops_all_with_a_checkpoint(tmp_path: Path, rank: int) -> None:
    at = 4 * 3 + 2 * rank  # in the fourth step
    reports, output = run("mpi", 2, tmp_path, "--what", "raise", "--at", at, "--rank", rank)
    assert reports[0]["message"] == "bad data", output
    assert reports[0]["error"] == reports[1]["error"] == "ValueError"
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-00000003.safetensors"]
    alone(tmp_path)
    alone(tmp_path / "whole")
    check_resumed(tmp_path, tmp_path / "whole")


@needs_mpi
def test_nan_on_another_rank_stops_all_with_its_batch(tmp_path: Path) -> None:
    reports, output = run("mpi", 2, tmp_path, "--what", "nan", "--at", 11, "--rank", 1)
    assert reports[0]["error"] == reports[1]["error"] == "DivergenceError", output
    assert "Step 3" in reports[0]["message"]
    assert "written to diverged-00000003.npz; the last checkpoint is checkpoint-00000002" in reports[0]["message"]
    with np.load(tmp_path / "diverged-00000003.npz") as batch:
        assert batch["image_ids"].tolist() == ["122", "123"]


@needs_mpi
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path: Path) -> None:
    reports, output = run("mpi", 2, tmp_path, "--what", "interrupt", "--at", 10, "--rank", 1)
    assert [reports[rank]["error"] for rank in (0, 1)] == ["Interrupted"] * 2, output
    assert len(find_checkpoints(tmp_path)) == 1
    run("mpi", 3, tmp_path)  # and on another number of ranks
    alone(tmp_path / "whole")
    check_resumed(tmp_path, tmp_path / "whole")


@pytest.mark.parametrize(
    ("backend", "what"),
    [
        pytest.param("ring", "kill", marks=[*BACKENDS[0].marks, pytest.mark.slow]),
        pytest.param("mpi", "stop", marks=BACKENDS[1].marks),
        pytest.param("ring", "stop", marks=[*BACKENDS[0].marks, pytest.mark.slow]),
        pytest.param("mpi", "kill", marks=[*BACKENDS[1].marks, pytest.mark.slow]),
    ],
)
def test_a_rank_that_is_lost_ends_all(tmp_path: Path, backend: str, what: str) -> None:
    reports, output = run(backend, 2, tmp_path, "--what", what, "--at", 11, "--rank", 1)
    told = output + reports.get(0, {}).get("message", "")
    if backend == "ring" or what == "stop":  # MPI's launcher ends the others of one that was killed without a word
        assert "Rank 1 on " in told
        assert ("has ended." if what == "kill" else "has not answered for 3 seconds.") in told
    assert steps_of(tmp_path) in ([1], [1, 2])  # a batch is loaded during the step before
    alone(tmp_path)
    alone(tmp_path / "whole")
    check_resumed(tmp_path, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "how"),
    [
        pytest.param("ring", "exit", marks=BACKENDS[0].marks),
        pytest.param("ring", "return", marks=BACKENDS[0].marks),
        pytest.param("mpi", "exit", marks=BACKENDS[1].marks),  # MPI itself ends what does not fit together
    ],
)
def test_a_rank_that_leaves_before_training_is_named(backend: str, how: str, tmp_path: Path) -> None:
    leaving = {"exit": "sys.exit(0)", "return": "pass"}[how]
    program = f"""
import sys
from pathlib import Path
from tiny_runs import toy_settings, toy_trainer
from lucid_maskrcnn.training import init_group
with init_group({backend!r}, timeout=5) as group:
    if group.rank == 1:
        {leaving}
    else:
        toy_trainer(Path({str(tmp_path / "run")!r}), toy_settings(4), group=group).run()
"""
    script = tmp_path / "script.py"
    script.write_text(program)
    output = start(backend, 2, script).communicate()[0]
    assert "Rank 1 on " in output
    assert "has left the group." in output or "SystemExit" in output


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_killed_at_random_steps_and_resumed(tmp_path: Path, backend: str, rank: int) -> None:
    alone(tmp_path / "whole", "--model", "slim", "--steps", 60)
    out, rng, resumed = tmp_path / "killed", random.Random(rank), 0
    at = 0
    while not (out / "weights.safetensors").exists():
        at += 4 * rng.randrange(1, 5)
        what = "stop" if resumed == 3 else "kill"
        options = ("--what", what, "--at", at + 2 * rank, "--rank", rank) if resumed < 20 else ()
        run(backend, 2, out, "--model", "slim", "--steps", 60, *options)
        resumed += 1
    assert resumed >= 20
    check_resumed(out, tmp_path / "whole")


@needs_mpi
def test_ranks_that_differ_are_refused(tmp_path: Path) -> None:
    reports, output = run("mpi", 2, tmp_path, "--what", "seed", "--rank", 1)
    assert reports[0]["message"] == reports[1]["message"], output
    assert re.match(r"Rank 1 on \S+ differs from rank 0 on \S+: settings.seed is 1 and 0 there", reports[0]["message"])
    assert not list(tmp_path.iterdir())


def test_more_ranks_than_batches_are_refused(tmp_path: Path) -> None:
    models = [Toy() for _ in range(3)]
    found = in_threads(3, lambda group: toy_trainer(tmp_path, toy_settings(2), model=models[group.rank], group=group))
    wanted = "accumulate must be at least 3, the number of ranks, got 2: each of them computes at least one batch"
    assert all(isinstance(error, ValueError) and str(error).startswith(wanted) for error in found)


@pytest.mark.parametrize(
    ("group", "error"),
    [
        ("ring", r"group must be a group, as init_group returns it, got 'ring'"),
        (2, r"group must be a group, as init_group returns it, got 2"),
    ],
)
def test_what_is_no_group(tmp_path: Path, group: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        toy_trainer(tmp_path, group=group)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("gloo",), ValueError, r"backend must be one of 'ring', 'mpi', 'nccl', 'jaccl', got 'gloo'"),
        ((2,), TypeError, r"backend must be .*, got 2"),
        (("ring", 0), ValueError, r"timeout must be .* above 0, got 0"),
        (("ring", 2), ValueError, r"timeout must be at least 3 seconds, got 2"),
        (("ring", 5, "soon"), TypeError, r"start_timeout must be a number.*, got 'soon'"),
    ],
)
def test_wrong_arguments_of_a_group(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    backend, *seconds = arguments
    with pytest.raises(error, match=message):
        init_group(backend, **dict(zip(("timeout", "start_timeout"), seconds, strict=False)))


def test_a_ring_without_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLX_RANK", "MLX_HOSTFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(GroupError, match=r"Cannot join a group 'ring': start the processes with mlx.launch -n N"):
        init_group("ring")


def test_a_lone_rank_does_not_wait_for_ever(tmp_path: Path) -> None:
    first = free_ports()
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{first}"], [f"127.0.0.1:{first + 1}"]]))
    program = "from lucid_maskrcnn.training import init_group; init_group('ring', start_timeout=1)"
    environment = {**ENVIRONMENT, "MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == -9
    assert "The other ranks of the group have not started within 1 seconds." in done.stderr
