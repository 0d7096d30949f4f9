"""The log of a run: ``log.jsonl``, one JSON object per line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .. import validators
from ..call_answers import answers_wrong_calls
from ..json_text import parse_json

__all__ = ["RunLog", "headline", "is_better", "read_log"]

_MAIN_METRICS = ("AP", "AP50", "AP_0.5", "AP_0.5:0.95")
_FIRST_KEY = b'{"step":'  # of each line


class RunLog:
    """Appends lines, and locks the folder against other runs while it is open.

    Parameters
    ----------
    path : Path
        Created if it does not exist.

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
        """Remove the lines after ``step``, and an unfinished one: a resumed run writes them again.

        Raises
        ------
        ValueError
            If the file is not the log of a run; it is left unchanged.
        """
        self._file.seek(0)
        end = 0
        for line in self._file:
            try:
                record = _parse(line)
            except ValueError:
                raise ValueError(f"{str(self.path)!r} is not the log of a run: move it away.") from None
            if record is None or record["step"] > step or "stopped_early" in record:  # a longer patience continues
                break
            end += len(line)
        self._file.truncate(end)
        self._file.seek(end)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line; NaN and infinity, which JSON does not have, become null."""
        self._file.write(json.dumps(_finite(record)).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and unlock the folder."""
        self._file.close()


@answers_wrong_calls
def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a log; an unfinished last one, as after a crash, is left out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not the log of a run.
    """
    path = validators.path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no log {str(path)!r}: a run writes it as log.jsonl into its folder.")
    with open(path, "rb") as file:
        try:
            return [record for line in file if (record := _parse(line)) is not None]
        except ValueError:
            raise ValueError(f"{str(path)!r} is not the log of a run, such as log.jsonl of a run's folder.") from None


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the main metrics of an evaluation, or the first six if none of their names is known."""
    known = [name for kind in ("segm/", "bbox/", "") for name in (kind + end for end in _MAIN_METRICS)]
    found = {name: metrics[name] for name in known if name in metrics} or dict(list(metrics.items())[:6])
    return found | {name: metrics[name] for name in ("val/total_loss",) if name in metrics}


def is_better(name: str, value: float, other: float) -> bool:
    """Return whether a value of a metric is better than another: lower, if the metric is a loss, else higher."""
    return value < other if name.endswith("loss") else value > other


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, None if it is unfinished; raise ValueError if it is not of a run's log."""
    if not line.endswith(b"\n") and (line.startswith(_FIRST_KEY) or _FIRST_KEY.startswith(line)):
        return None
    record = parse_json("a line", line)
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise ValueError
    return record


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
