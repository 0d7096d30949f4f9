"""The picture of the first batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import Interrupting, Squares, same_arrays, toy_settings, toy_trainer, without_objects

from lucid_maskrcnn.training import Interrupted
from lucid_maskrcnn.training.batch_sheet import draw_batches


def tiles(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_images_and_masks_are_drawn(tmp_path: Path) -> None:
    batch = Squares(2).batch(0)
    draw_batches([batch], tmp_path / "a.png", categories={1: "dark", 2: "bright"})
    draw_batches([without_objects(batch)], tmp_path / "b.png")
    with_targets, without = tiles(tmp_path / "a.png"), tiles(tmp_path / "b.png")
    assert with_targets.shape == without.shape == (12 + 480 + 20 + 12, 2 * 492 + 12, 3)
    x, y = (batch.targets[0]["boxes"][1].reshape(2, 2).mean(axis=0) * 480 / 64).astype(int)
    assert np.abs(with_targets[32 + y, 12 + x] - without[32 + y, 12 + x]).max() > 20, (
        "the mask of the bright square is not tinted"
    )


def test_at_most_twelve_in_rows_of_four(tmp_path: Path) -> None:
    draw_batches([Squares(5, side=8).batch(k) for k in range(3)], tmp_path / "a.png")
    assert tiles(tmp_path / "a.png").shape == (3 * 512 + 12, 4 * 492 + 12, 3)


def test_a_large_image_is_drawn_small(tmp_path: Path) -> None:
    batch = Squares(1, side=1500).batch(0)
    batch.images[0] = batch.images[0][:500]
    batch.targets[0] = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "masks": np.zeros((0, 500, 1500), bool)}
    draw_batches([batch], tmp_path / "a.png")
    assert tiles(tmp_path / "a.png").shape == (12 + 160 + 20 + 12, 492 + 12, 3)


def test_a_new_run_draws_them_and_a_resumed_one_does_not(tmp_path: Path) -> None:
    picture = tmp_path / "batches.png"
    with pytest.raises(Interrupted):
        toy_trainer(tmp_path, toy_settings(4, accumulate=1), loader=Interrupting(2, side=8, at=2)).run()
    picture.unlink()
    toy_trainer(tmp_path, toy_settings(4, accumulate=1), resume=True).run()
    assert not picture.exists()


def test_the_picture_changes_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_trainer(tmp_path / "a", toy_settings(3)).run()
    assert (tmp_path / "a" / "batches.png").is_file()
    monkeypatch.setattr("lucid_maskrcnn.training.trainer.Trainer._draw_batches", lambda _: None)
    toy_trainer(tmp_path / "b", toy_settings(3)).run()
    assert same_arrays(tmp_path / "a" / "weights.safetensors", tmp_path / "b" / "weights.safetensors")


class Unmasked(Squares):
    def batch(self, step: int) -> Any:
        batch = super().batch(step)
        for target in batch.targets:
            del target["masks"]
        return batch


def test_what_cannot_be_drawn_is_said_and_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_trainer(tmp_path, toy_settings(2), loader=Unmasked(2, side=8), progress=True).run()
    assert "no batches.png: a target has no 'masks'" in capsys.readouterr().err
    assert not (tmp_path / "batches.png").exists()


@pytest.mark.parametrize(("batches", "path", "message"), [([], "a.png", "at least one image"), ([], "a.jpg", "'.png'")])
def test_wrong_arguments_are_named(tmp_path: Path, batches: Any, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_batches(batches, tmp_path / path)
