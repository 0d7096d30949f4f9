"""The installed command line in processes of their own, also on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

COMMAND = str(Path(sys.executable).parent / "lucid-maskrcnn")


def run_command(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``lucid-maskrcnn`` as a shell does, with pipes behind its streams."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env=os.environ | (env or {}),
        cwd=cwd,
    )


def run_on_terminal(columns: int, *arguments: object, cwd: Path | None = None) -> list[str]:
    """Run ``lucid-maskrcnn`` on a terminal of so many columns, and return the lines that it prints."""
    import fcntl
    import pty
    import struct
    import termios

    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}} | {"PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen([COMMAND, *map(str, arguments)], stdin=its, stdout=its, stderr=its, env=env, cwd=cwd)
    os.close(its)
    printed = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # of Linux, once the process has ended
            break
        if not part:
            break
        printed += part
    os.close(ours)
    assert process.wait() == 0
    return printed.decode().replace("\r", "").splitlines()
