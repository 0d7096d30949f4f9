"""Plots of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_runs import (
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn.training import (
    TrainerSettings,
    draw_curves,
)


def test_no_time_for_a_step_and_so_no_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = toy_trainer(tmp_path / "curves", TrainerSettings(minutes=1e-9), progress=True).run()
    assert result.step == 0
    assert "no curves.png:" in capsys.readouterr().err


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    toy_trainer(tmp_path / "run", toy_settings(6, eval_every=2), evaluate=lambda model: {"segm/AP": 0.5}).run()
    with Image.open(tmp_path / "run" / "curves.png") as image:
        assert image.size == (1200, 480)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"path must end in '\.png', .* got '.*curves.jpg'"):
        draw_curves(tmp_path / "run" / "log.jsonl", tmp_path / "curves.jpg")
    with pytest.raises(TypeError, match="log must be a path as str or Path, got None"):
        draw_curves(None, tmp_path / "never.png")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no steps to draw"):
        draw_curves(tmp_path / "empty.jsonl", tmp_path / "never.png")
    assert not (tmp_path / "never.png").exists()


def test_run_without_matplotlib_says_why_there_are_no_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    toy_trainer(tmp_path / "run", toy_settings(2, warmup=0), progress=True).run()
    wanted = "no curves.png: Plots need matplotlib: pip install 'lucid-maskrcnn[plot]'."
    assert capsys.readouterr().err.splitlines()[-1] == wanted
    assert (tmp_path / "run" / "weights.safetensors").exists()
