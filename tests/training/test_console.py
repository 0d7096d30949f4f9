"""The output of a run on the terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_runs import (
    toy_trainer,
)

from lucid_maskrcnn.training import (
    TrainerSettings,
)


def test_lines_on_stderr_and_a_bar_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lucid_maskrcnn.training.console._SECONDS_BETWEEN_LINES", 0.0)
    settings = TrainerSettings(steps=3)
    toy_trainer(tmp_path / "lines", settings, progress=True, evaluate=lambda model: {"AP": 0.25}).run()
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "learning rate 0.0025: 0.00125 × 2"
    number = r"\d+\.\d+"
    wanted = rf"1/3 steps  loss {number}  {number} images/s   first {number}  second {number}  0 min left"
    assert re.fullmatch(wanted, lines[1])
    assert lines[4] == "step 3: AP 0.250"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    toy_trainer(tmp_path / "bar", settings, progress=True, evaluate=lambda model: {"AP": 0.25}).run()
    shown = capsys.readouterr().err
    assert "100%|" in shown
    assert "3/3 steps" in shown
    assert "step 3: AP 0.250" in shown
