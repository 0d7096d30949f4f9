"""Event files for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import (
    Interrupting,
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn.training import (
    Interrupted,
)
from lucid_maskrcnn.training.tensorboard import is_installed


def test_tensorboard_true_needs_tensorboard_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucid_maskrcnn.training.trainer.is_installed", lambda: False)
    with pytest.raises(ValueError, match="tensorboard=True needs TensorBoard: pip install tensorboard"):
        toy_trainer(tmp_path / "run", tensorboard=True)


@pytest.mark.skipif(not is_installed(), reason="needs TensorBoard")
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_the_events_of_a_resumed_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings, options = toy_settings(6), {"tensorboard": True, "evaluate": lambda model: {"segm/AP": 0.5}}
    with pytest.raises(Interrupted):
        toy_trainer(tmp_path, settings, loader=Interrupting(2, side=8, at=4), **options).run()
    toy_trainer(tmp_path, settings, resume=True, **options).run()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("total_loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in events.Scalars("segm/AP")] == [0.5]
