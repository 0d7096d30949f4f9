"""``benchmarks/gpu.py`` refuses a machine without a GPU, and its small form runs all sections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lucid_maskrcnn import ops

COMMAND = [sys.executable, str(Path(__file__).resolve().parent.parent / "benchmarks" / "gpu.py")]
SECTIONS = ["parity", "predict", "train", "batches", "sizes", "memory", "stages", "micro", "waits"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(ops.gpu_backend().kind != "cpu", reason="there is a GPU to measure")
def test_without_a_gpu_it_says_so_in_one_sentence(tmp_path) -> None:
    found = run("--out", str(tmp_path / "out"))
    assert (found.returncode, found.stderr) == (2, "")
    assert found.stdout.count("\n") == 1
    assert "There is no GPU to measure" in found.stdout
    assert "--small" in found.stdout
    assert not (tmp_path / "out").exists()


def test_sections_that_do_not_fit_are_named(tmp_path) -> None:
    found = run("--small", "--minutes", "0", "--only", "waits", "--out", str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert "waits: skipped, no time left" in found.stdout
    assert json.loads((tmp_path / "results.json").read_text())["sections"]["waits"]["state"] == "skipped, no time left"


@pytest.mark.slow
def test_the_small_form_runs_all_sections(tmp_path) -> None:
    found = run("--small", "--out", str(tmp_path))
    assert found.returncode == 0, found.stdout + found.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["sections"]) == SECTIONS
    assert {s["state"] for s in results["sections"].values()} == {"done"}
    assert {"header", *SECTIONS} <= results.keys()
    assert {"card", "backend", "tf32", "mlx", "lucid-dl", "python", "torchvision"} <= results["header"].keys()
    timing = results["predict"]["float32, with masks, compiled"]["ours"]
    assert 0 < timing["min"] <= timing["median"] <= timing["max"]
    (memory,) = results["memory"].values()
    assert len(memory["steps"]) == len(memory["active"]) > 1
    assert results["waits"]["predict, one image"]["waits"] <= 2
    assert (tmp_path / "gpu.png").stat().st_size > 0
