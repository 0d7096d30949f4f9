"""The output of a run on the terminal, or below the cell of a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from lucid_maskrcnn.streams import in_notebook, progress_bar, shows_progress, write_text
from lucid_maskrcnn.text_tables import printable

__all__ = ["Console"]

_SECONDS_BETWEEN_LINES = 30.0  # in a file
_DECAY = 0.9  # of the moving averages that are shown: about ten steps


class Console:
    """A progress bar on stderr or in a notebook, or a line every half minute if stderr is a file.

    Parameters
    ----------
    total : float
        Length of the run, in steps or seconds.
    unit : str
        Name of the unit.
    done : float
        How much is done at the start.
    shown : bool
        Whether there is any output.
    """

    def __init__(self, total: float, unit: str, done: float = 0, *, shown: bool = True) -> None:
        self.shown, self._total, self._unit = shown, total, unit
        self._start = self._last_line = time.perf_counter()
        self._done_at_start = done
        self._means: dict[str, float] = {}
        self._bar: Any = None
        if shows_progress(shown):
            bar = "{bar}" if in_notebook() else "{bar:12}"  # a widget has its own width
            form = "{percentage:3.0f}%|" + bar + "| {n:.0f}/{total:.0f} {unit} [{elapsed}, {remaining} left]{postfix}"
            self._bar = progress_bar(total=total, initial=done, unit=unit, bar_format=form, leave=True)

    def step(self, record: Mapping[str, float], done: float) -> None:
        """Show the losses and the speed of a step."""
        for name, value in record.items():
            mean = self._means.get(name, value)
            self._means[name] = _DECAY * mean + (1 - _DECAY) * value
        if self._bar is not None:
            self._bar.n = min(done, self._total)
            self._bar.set_postfix_str(self._summary(), refresh=False)
            self._bar.update(0)
        elif time.perf_counter() - self._last_line > _SECONDS_BETWEEN_LINES:
            left = self._seconds_left(done)
            self.say(f"{done:.0f}/{self._total:.0f} {self._unit}  {self._summary()}  {left / 60:.0f} min left")

    def say(self, line: str) -> None:
        """Show a line."""
        self._last_line = time.perf_counter()
        line = printable(line)
        if self._bar is not None:
            # Notebooks show stderr like an error.
            self._bar.write(line, file=sys.stdout if in_notebook() else sys.stderr)
        elif self.shown:
            write_text(f"{line}\n", sys.stderr)

    def close(self) -> None:
        """End the bar; it stays visible."""
        if self._bar is not None:
            self._bar.close()

    def _summary(self) -> str:
        """Return the averages as text, the total first: a narrow terminal cuts off the end."""
        losses = {n.removesuffix("_loss"): mean for n, mean in self._means.items() if n.endswith("_loss")}
        total = losses.pop("total", 0.0)
        terms = "".join(f"  {name} {mean:.3f}" for name, mean in losses.items())
        return f"loss {total:.3f}  {self._means['images_per_s']:.2f} images/s {terms}"

    def _seconds_left(self, done: float) -> float:
        rate = (done - self._done_at_start) / (time.perf_counter() - self._start)
        return (self._total - done) / rate if rate > 0 else 0.0
