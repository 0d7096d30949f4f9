"""The reports of a run: to the log, the terminal and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .console import Console
from .log import RunLog, headline
from .tensorboard import EventLog

__all__ = ["NoReport", "Report", "early_stop_line"]


def early_stop_line(step: int, why: Mapping[str, Any]) -> str:
    """Return in words why a run ended early; ``why`` is what its log says."""
    length = "" if why["steps"] is None else f" of {why['steps']}"
    count = "the last evaluation was" if why["patience"] == 1 else f"the last {why['patience']} evaluations were"
    best = "none had a value" if why["best"] is None else f"{why['best']:.3f} at step {why['best_step']}"
    return f"stopped early after step {step}{length}: {count} not better in {why['keep_best']} than the best, {best}"


class Report:
    """Reports to all of them; the caller closes them.

    Parameters
    ----------
    log : RunLog
    console : Console
    events : EventLog, optional
        For TensorBoard.
    """

    def __init__(self, log: RunLog, console: Console, events: EventLog | None) -> None:
        self._log, self._console, self._events = log, console, events

    def step(self, step: int, seconds: float, metrics: Mapping[str, float], done: float) -> None:
        """Report a step; ``done`` is the position of the progress bar."""
        self._log.write({"step": step, "seconds": round(seconds, 3), **metrics})
        self._console.step(metrics, done)
        if self._events:
            self._events.write(step, metrics)

    def evaluation(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Report an evaluation."""
        self._log.write({"step": step, "seconds": round(seconds, 3), "evaluation": metrics})
        shown = "  ".join(f"{name} {value:.3f}" for name, value in headline(metrics).items())
        self._console.say(f"step {step}: {shown}")
        if self._events:
            self._events.write(step, metrics)

    def early_stop(self, step: int, seconds: float, why: Mapping[str, Any]) -> None:
        """Report that ``patience`` ended a run."""
        self._log.write({"step": step, "seconds": round(seconds, 3), "stopped_early": why})
        self.say(early_stop_line(step, why))

    def say(self, line: str) -> None:
        """Show a line."""
        self._console.say(line)

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        self._log.sync()
        if self._events:
            self._events.sync()


class NoReport:
    """The report of a rank other than 0."""

    def step(self, step: int, seconds: float, metrics: Mapping[str, float], done: float) -> None:
        """Do nothing."""

    def evaluation(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def early_stop(self, step: int, seconds: float, why: Mapping[str, Any]) -> None:
        """Do nothing."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""
