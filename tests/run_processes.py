"""Training runs in processes of their own, to be interrupted or killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tiny_runs import same_arrays, timeless

from lucid_maskrcnn.training.checkpoints import find_checkpoints

SCRIPT = Path(__file__).parent / "tiny_runs.py"


def run_in_process(out: Path, *arguments: object, own_group: bool = False) -> subprocess.Popen[str]:
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


def num_logged(out: Path) -> int:
    log = out / "log.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def check_resumed(out: Path, whole: Path) -> None:
    """Check that what was killed and resumed is what was not."""
    (last,), (wanted,) = find_checkpoints(out), find_checkpoints(whole)
    assert same_arrays(last, wanted)
    assert same_arrays(out / "weights.safetensors", whole / "weights.safetensors")
    assert timeless(out) == timeless(whole)
    assert [p.name for p in out.iterdir() if p.name.endswith(".tmp")] == []


def child_pids(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
