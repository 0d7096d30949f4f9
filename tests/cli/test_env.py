"""``env``: what it says of this machine, beside what Python itself says."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import requires, version
from pathlib import Path

from command_line import run_command

from lucid_maskrcnn import __version__


def test_versions_and_machine(tmp_path: Path) -> None:
    run = run_command("env", env={"LUCID_HOME": str(tmp_path), "LUCID_WEIGHTS_BASE": "https://me:secret@mirror.org/x"})
    assert (run.returncode, run.stderr) == (0, "")
    table = {line[:16].strip(): line[16:] for line in run.stdout.splitlines()}
    assert table["lucid-maskrcnn"].startswith(f"{__version__}, ")
    assert table["Python"].startswith(platform.python_version())
    assert table["cores"].startswith(f"{os.cpu_count()}, of which ")
    assert re.match(r"\d+\.\d GiB", table["memory"])
    assert table["weights folder"].startswith(str(tmp_path / "weights"))
    for name in ("lucid-dl", "mlx", "numpy", "pillow"):
        assert table[name] == version(name)
    names = {re.split(r"[^\w-]", line)[0] for line in requires("lucid-maskrcnn") or []}
    assert names <= set(table)
    assert "threads" in table["BLAS"]
    assert "//…@mirror.org/x" in table["environment"]
    assert "secret" not in run.stdout


def test_weights_in_the_folder_are_counted(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.pth").write_bytes(bytes(3_000_000))
    assert "1 file, 3 MB" in run_command("env", env={"LUCID_HOME": str(tmp_path)}).stdout
