"""The log of a run: ``log.jsonl``, one JSON object a line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["RunLog", "headline", "read_log"]

_MAIN_METRICS = ("AP", "AP50", "AP_0.5", "AP_0.5:0.95")


class RunLog:
    """Appends lines; and as long as it is open no other run uses the folder.

    Parameters
    ----------
    path : Path
        Created if need be.

    Raises
    ------
    ValueError
        If another run has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "a+b")  # noqa: SIM115 - closed by close()
        try:
            _lock(self._file, path)
        except BaseException:
            self._file.close()
            raise

    def truncate(self, step: int) -> None:
        """Drop what was logged after ``step``, and a line cut off: a resumed run writes them again.

        Raises
        ------
        ValueError
            If it is no such log; it stays as it is.
        """
        self._file.seek(0)
        end = 0
        for line in self._file:
            record = _parse(line)
            if line.endswith(b"\n") and not (record and isinstance(record.get("step"), int)):
                raise ValueError(f"{str(self.path)!r} is not the log of a run: move it away.")
            if record is None or record["step"] > step:
                break
            end += len(line)
        self._file.truncate(end)
        self._file.seek(end)

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line; numbers that JSON does not have become null."""
        self._file.write(json.dumps(_finite(record)).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and let others use the folder."""
        self._file.close()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a log; one that is cut off, as by a crash, is left out."""
    with open(path, "rb") as file:
        return [record for record in map(_parse, file) if record is not None]


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of an evaluation that matter most, or the first ones if their names say nothing."""
    known = [name for kind in ("segm/", "bbox/", "") for name in (kind + end for end in _MAIN_METRICS)]
    return {name: metrics[name] for name in known if name in metrics} or dict(list(metrics.items())[:6])


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"{str(path.parent)!r} is in use: another run is writing there.") from error
    except OSError:  # a file system without locks
        return
