"""The log of a run as TensorBoard's event files, which need neither TensorFlow nor PyTorch."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = ["EventLog", "is_installed"]


def is_installed() -> bool:
    """Return whether TensorBoard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class EventLog:
    """Writes scalars to an event file.

    Parameters
    ----------
    folder : Path
        Of the event files; a new one is added.
    step : int
        Step from which the run continues: TensorBoard drops later steps of older files.

    Raises
    ------
    ImportError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))
        started = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=step + 1, session_log=started))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add values by their names."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def sync(self) -> None:
        """Flush the file."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file, and end the writer's thread."""
        self._writer.close()
