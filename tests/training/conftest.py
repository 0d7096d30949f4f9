"""Shared by the tests of training."""

import pytest


@pytest.fixture(autouse=True)
def no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a toy's run."""
    if request.path.name != "test_curves.py":
        monkeypatch.setattr("lucid_maskrcnn.training.trainer.draw_curves", lambda *_: None)
    if request.path.name != "test_batch_sheet.py":
        monkeypatch.setattr("lucid_maskrcnn.training.trainer.Trainer._draw_batches", lambda _: None)
