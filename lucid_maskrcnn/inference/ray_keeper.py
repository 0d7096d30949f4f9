"""Clean up after a local Ray cluster, also when the process that started it was killed.

Run as a program of its own, with the folder of the cluster. It waits until its standard input is closed, which the
system does however the other process ends; then it ends the processes that have files open in the folder, Ray's agents
above all, which outlive a killed cluster by a minute, and deletes the folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import time

__all__ = ["main"]

_LONGEST = 10.0  # seconds until processes that have been killed must be gone


def main(folder: str) -> None:
    """Wait for the end of standard input, then end the processes of a folder and delete it."""
    sys.stdin.buffer.read()
    end = time.monotonic() + _LONGEST
    while _end_processes(folder) and time.monotonic() < end:
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _end_processes(folder: str) -> int:
    """Kill the processes that have files open in a folder; return how many there were."""
    import psutil  # Ray has a copy of its own, to which sys.path was extended

    inside, found = os.path.join(folder, ""), 0
    spared = (os.getpid(), os.getppid())  # Ray logs in the process that started it too
    for process in psutil.process_iter():
        try:
            if process.pid not in spared and any(file.path.startswith(inside) for file in process.open_files()):
                found += 1
                process.kill()
        except (psutil.Error, OSError):
            continue  # another user's, or gone by now
    return found


if __name__ == "__main__":
    main(sys.argv[1])
